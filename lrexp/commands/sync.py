"""`lrexp sync [FOLDER]`: uploads W&B runs that were recorded without the server."""

from __future__ import annotations

import argparse

from lrexp.commands.answer import parser_of
from lrexp.config.names import shown_path
from lrexp.record.wandb.upload import send, uploads_below
from lrexp.runs.run import named_folder

DESCRIPTION = """\
Upload to W&B the runs below a folder that were recorded without its server, or that it did not
take as a whole. Of a run that W&B has in part it is sent the rest: every epoch is there once.
"""
EXAMPLES = """\
  lrexp sync                     everything below outputs/
  lrexp sync latest --dry-run    what would be sent of the newest run or sweep
"""
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
    return words


def main(argv: list[str]) -> int:
    """Answer the words behind the verb; see `lrexp.commands.answer.answer`."""
    args = parser().parse_args(argv)
    folder, dry_run = named_folder(args.folder), args.dry_run
    uploads = uploads_below(folder)
    good = [upload for upload in uploads if not upload.problem]
    bad = [upload for upload in uploads if upload.problem]
    if not uploads:
        print(f"nothing to upload below {shown_path(folder)}")
        return 0
    for upload in good if dry_run else []:
        print(f"would upload {shown_path(upload.file.parent)}")
    left = [] if dry_run or not good else send(good)
    for upload in [*bad, *left]:
        print(f"left   {shown_path(upload.file.parent)}: {upload.problem}")
    if dry_run:
        print(f"{len(good)} to upload, {len(bad)} would be left; nothing was sent")
    else:
        done = len(good) - len(left)
        print(f"{done} uploaded, {len(uploads) - done} left")
    return 1 if bad or left else 0
