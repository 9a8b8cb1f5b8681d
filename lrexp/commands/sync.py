"""`lrexp sync [FOLDER]`: uploads W&B runs that were recorded without the server."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path

from lrexp.commands.answer import parser_of
from lrexp.config.errors import UserError
from lrexp.config.names import shown_path
from lrexp.record.wandb.allowed import unasked, usual_destinations
from lrexp.record.wandb.client import own_entity, prepared
from lrexp.record.wandb.upload import Upload, goes_to, send, uploads_below
from lrexp.runs.differences import printable
from lrexp.runs.run import named_folder

DESCRIPTION = """\
Upload to W&B the runs below a folder that were recorded without its server, or that it did not
take as a whole. Of a run that W&B has in part it is sent the rest: every epoch is there once.
"""
EXAMPLES = """\
  lrexp sync                     everything below outputs/
  lrexp sync latest --dry-run    what would be sent of the newest run or sweep
"""
MOST_LISTED = 100  # runs
CODES = "0 nothing is left to upload, 1 runs are left, 2 a mistake in the request"


def parser() -> argparse.ArgumentParser:
    """What the words behind the verb mean."""
    words = parser_of("sync", DESCRIPTION, EXAMPLES, CODES)
    words.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        default="outputs",
        help="of runs, or `latest`; default: outputs",
    )
    words.add_argument("--dry-run", action="store_true", help="say what would be uploaded")
    words.add_argument(
        "--to",
        metavar="PROJECT",
        action="append",
        default=[],
        help="also runs that go to this PROJECT or ENTITY/PROJECT, which neither WANDB_PROJECT and"
        " WANDB_ENTITY nor W&B's settings name; may be given again",
    )
    return words


def main(argv: list[str]) -> int:
    """Answer the words behind the verb; see `lrexp.commands.answer.answer`."""
    args = parser().parse_args(argv)
    folder, dry_run = named_folder(args.folder), args.dry_run
    uploads = uploads_below(folder)
    if uploads:
        uploads = _asked_for(uploads, folder, args.to)
    good = [upload for upload in uploads if not upload.problem]
    bad = [upload for upload in uploads if upload.problem]
    if not uploads:
        print(f"nothing to upload below {shown_path(folder)}")
        return 0
    word = "would upload" if dry_run else "upload"
    _list([f"{word} {shown_path(one.file.parent)} to {one.to}" for one in good])
    left = [] if dry_run or not good else send(good)
    shown = [(printable(shown_path(u.file.parent)), printable(u.problem)) for u in [*bad, *left]]
    _list([f"left   {name}: {problem}" for name, problem in shown])
    if dry_run:
        print(f"{len(good)} to upload, {len(bad)} would be left; nothing was sent")
    else:
        done = len(good) - len(left)
        print(f"{done} uploaded, {len(uploads) - done} left")
    return 1 if bad or left else 0


def _list(lines: list[str]) -> None:
    """Print them, of very many the first ones."""
    for line in lines[:MOST_LISTED]:
        print(line, flush=True)
    if len(lines) > MOST_LISTED:
        print(f"       and {len(lines) - MOST_LISTED:,} more")


def _asked_for(uploads: list[Upload], folder: Path, to: list[str]) -> list[Upload]:
    """The uploads with where they go; those that nobody asked to go there have that as problem.

    Raises:
        UserError: when a file in the folder would decide which server gets the login.
    """
    own = prepared()
    settings = Path(own.settings_workspace)
    if settings.exists() and settings.resolve().is_relative_to(folder):
        problem = "would decide where runs of this folder go; call lrexp sync from elsewhere"
        raise UserError(f"{shown_path(settings)} {problem}")
    usual, found = {*usual_destinations(), *to}, []
    there = {one for upload in uploads if not upload.problem for one in goes_to(upload)}
    if any("/" in one for one in unasked(there, usual)) and (entity := own_entity()):
        usual |= {f"{entity}/{project}" for project in usual if "/" not in project}
    for upload in uploads:
        if upload.problem:
            found.append(upload)
            continue
        there = goes_to(upload)
        problem = ""
        if others := unasked(there, usual):
            given = " ".join(f"--to {shlex.quote(printable(one))}" for one in others)
            problem = f"it goes to another project than yours; to send it there: {given}"
        where = f"{printable(', '.join(sorted(there)))} at {own.base_url}"
        found.append(replace(upload, problem=problem, to=where))
    return found
