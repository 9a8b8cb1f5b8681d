"""`lrexp dashboard`: team dashboards of W&B as code."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lrexp.commands.answer import parser_of
from lrexp.config.errors import UserError, did_you_mean, for_terminal
from lrexp.config.schema import MONITORS
from lrexp.folder.layout import LEADERBOARD
from lrexp.record.wandb.client import why_offline
from lrexp.runs.run import named_folder

DESCRIPTION = """\
The view of W&B that a team looks at, or a sweep's report there: printed, written, or saved.
"""
EXAMPLES = """\
  lrexp dashboard --entity TEAM --project P                       what it shows, as a list
  lrexp dashboard --entity TEAM --project P --save                needs a login
  lrexp dashboard --entity TEAM --project P --report latest --json report.json
"""
CODES = "0 done, 2 a mistake in the request"


def parser() -> argparse.ArgumentParser:
    """What the words behind the verb mean."""
    words = parser_of("dashboard", DESCRIPTION, EXAMPLES, CODES)
    words.add_argument("--entity", required=True, help="team or user")
    words.add_argument("--project", required=True)
    words.add_argument("--monitor", default="val/loss", help="metric to rank by: val/loss")
    words.add_argument(
        "--baseline", metavar="RUN", help="what others are compared with: a run's folder or W&B id"
    )
    words.add_argument(
        "--report", metavar="SWEEP", help="a report of a sweep's folder, or of `latest`, instead"
    )
    what = words.add_mutually_exclusive_group()
    what.add_argument("--save", action="store_true", help="save it on W&B; twice is the same view")
    what.add_argument("--json", metavar="FILE", help="write its specification, no login needed")
    return words


def main(argv: list[str]) -> int:
    """Answer the words behind the verb; see `lrexp.commands.answer.answer`."""
    args = parser().parse_args(argv)
    if args.monitor not in MONITORS:
        raise UserError(f"--monitor {args.monitor}: {did_you_mean(args.monitor, MONITORS)}")
    try:
        from lrexp.record.wandb import dashboard
    except ImportError as error:
        raise UserError(
            f"dashboards need wandb-workspaces: {error}\n  pip install 'lrexp[dashboards]'"
        ) from None
    if args.save and (why := why_offline()):
        raise UserError(f"nothing was saved: {why}\n  --json FILE needs no login")
    sweep = named_folder(args.report) if args.report else None
    if sweep:
        if not (sweep / LEADERBOARD).is_file():
            hint = "give a sweep's folder"
            raise UserError(f"--report {args.report}: there is no leaderboard.json\n  {hint}")
        built: Any = dashboard.report(args.entity, args.project, sweep)
    else:
        baseline = dashboard.wandb_id(args.baseline) if args.baseline else None
        built = dashboard.workspace(args.entity, args.project, args.monitor, baseline)
    spec = built._to_model().model_dump(by_alias=True, exclude_none=True)
    if args.json:
        text = json.dumps(spec, indent=1, default=str)
        try:
            Path(args.json).expanduser().write_text(f"{text}\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {args.json}: {error.strerror}") from error
        print(f"written to {args.json}")
    elif args.save:
        try:
            url = dashboard.save_report(built, sweep) if sweep else dashboard.save_view(built)
        except Exception as error:
            raise UserError(f"W&B did not take it: {error}") from error
        print(f"saved: {url}")
    else:
        print(for_terminal("\n".join(dashboard.outline(spec))))
    return 0
