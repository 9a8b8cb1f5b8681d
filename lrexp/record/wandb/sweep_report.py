"""A sweep's report on W&B, as code: conclusions, leaderboard, panels."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import wandb_workspaces.reports.v2 as wr
from wandb_workspaces import expr
from wandb_workspaces.reports.v2.interface import Report, Runset, RunSettings

from lrexp.config.errors import UserError
from lrexp.folder.layout import CONFIG, LEADERBOARD, WANDB_REPORT
from lrexp.judge.ranking import configurations
from lrexp.judge.words import in_short
from lrexp.record.wandb.dashboard import sections
from lrexp.report.sweep.words import headline
from lrexp.runs.run import flat, read_yaml
from lrexp.runs.sweep import (
    DIVERGED,
    FAILED,
    INTERRUPTED,
    read_leaderboard,
    read_sweep,
    swept_keys,
)

# Paul Tol's bright scheme: safe for the colour-blind.
COLORS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB")


def report(entity: str, project: str, sweep: Path) -> Any:
    """A sweep's report as a `wandb_workspaces.reports.v2.Report`: conclusions, leaderboard, panels.

    Every policy is a set of runs of its own, in a colour of its own.

    Raises:
        UserError: when the folder's leaderboard cannot be read.
    """
    board = read_leaderboard(sweep)
    if board is None:
        raise UserError(f"there is no {sweep / LEADERBOARD}")
    monitor = board["monitor"]
    by_policy, group = _runs_by_policy(sweep), _group_of(sweep)
    runsets = []
    for i, (policy, runs) in enumerate(by_policy.items()):
        color = COLORS[i % len(COLORS)]
        runsets.append(
            Runset(  # of the report's own project: naming it again would need a login
                name=policy,
                filters=expr.And(
                    expr.Metric("Group") == group,
                    expr.Config("lr_policy.name") == policy,
                ),
                run_settings={run: RunSettings(color=color) for run in runs},
            )
        )
    policy_key = wr.Config("lr_policy.name")
    blocks: list[Any] = [
        wr.H1(text="Conclusions"),
        wr.UnorderedList(items=list[Any](conclusions(sweep))),
        wr.H1(text="Leaderboard"),
        wr.MarkdownBlock(text="\n".join(leaderboard_table(board))),
    ]
    for name, panels in sections(policy_key, monitor)[:4]:
        blocks += [wr.H1(text=name), wr.PanelGrid(runsets=runsets, panels=panels)]
    return Report(
        project=project,
        entity=entity,
        title=f"lrexp sweep {sweep.name}"[:128],
        description=f"{len(board['configurations'])} configurations by {monitor}",
        blocks=blocks,
        width="fluid",
    )


def conclusions(sweep: Path) -> list[str]:
    """What a sweep says: the sentences of its own report.html, and which points went wrong."""
    read = read_sweep(sweep)
    title, sentences = headline(read, configurations(read))
    said, keys = [f"{title}.", *sentences], swept_keys(read.points)
    for status in (DIVERGED, FAILED, INTERRUPTED):
        bad = [point for point in read.tried if point.status == status]
        names = [in_short({key: p.chosen.get(key) for key in keys}) or p.folder for p in bad[:5]]
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        said += [f"{status.capitalize()}: {'; '.join(names)}{more}."] if bad else []
    return said


def leaderboard_table(board: dict[str, Any], at_most: int = 50) -> list[str]:
    """The leaderboard as lines of a Markdown table."""
    monitor = board["monitor"]
    names = list(dict.fromkeys([monitor, "test/accuracy", "gap/loss"]))
    lines = [
        f"| rank | configuration | {' | '.join(names)} | finished |",
        f"|{'---|' * (len(names) + 3)}",
    ]
    for row in board["configurations"][:at_most]:
        cells = " | ".join(_mean(row[name]) for name in names)
        named = in_short(row["settings"]) or "the only configuration"
        finished = f"{row['status']['finished']} of {len(row['points'])}"
        lines.append(f"| {row['rank']} | {named} | {cells} | {finished} |")
    return lines


def _group_of(sweep: Path) -> str:
    """What W&B groups the sweep's runs by: `logger.group`, else the sweep's name."""
    groups = (config.get("logger.group") for config in _configs(sweep))
    return next((str(group) for group in groups if group), sweep.name)


def _runs_by_policy(sweep: Path) -> dict[str, list[str]]:
    """Ids of a sweep's runs by the name of their policy."""
    found: dict[str, list[str]] = {}
    for config in _configs(sweep):
        policy, run_id = config.get("lr_policy.name"), config.get("run_id")
        if policy and run_id:
            found.setdefault(str(policy), []).append(str(run_id))
    return found


def _configs(sweep: Path) -> list[dict[str, Any]]:
    """The settings of every point that can be read: a damaged one is not in the picture."""
    return [flat(read_yaml(file)) for file in sorted(sweep.glob(f"*/{CONFIG}"))]


def _mean(values: dict[str, Any]) -> str:
    mean, std = float(values["mean"]), float(values["std"])
    if not math.isfinite(mean):
        return "–"
    return f"{mean:.4g} ± {std:.2g}" if math.isfinite(std) else f"{mean:.4g}"


def save_report(built: Any, sweep: Path) -> str:
    """Save a sweep's report over its earlier version, which a file in the sweep's folder names."""
    file = sweep / WANDB_REPORT
    if file.is_file():
        known = json.loads(file.read_text(encoding="utf-8"))
        if (known["entity"], known["project"]) == (built.entity, built.project):
            built.id = known["id"]
    built.save()
    known = {"entity": built.entity, "project": built.project, "id": built.id, "url": built.url}
    file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return built.url
