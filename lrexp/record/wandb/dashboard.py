"""What W&B shows a team, as code: the saved view, a sweep's report, and both in words."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
import wandb_workspaces.workspaces.internal as saved
from wandb_workspaces import expr
from wandb_workspaces.reports.v2.interface import (
    ParallelCoordinatesPlotColumn,
    Report,
    Runset,
    RunSettings,
)

from lrexp.config.errors import UserError
from lrexp.config.schema import direction
from lrexp.folder.layout import CONFIG, LEADERBOARD, WANDB_REPORT
from lrexp.judge.verdicts import counted_kinds
from lrexp.judge.words import in_short
from lrexp.record.wandb.file import run_record, runs_below
from lrexp.report.figure import policy_colour
from lrexp.report.sweep.exploration import explore
from lrexp.report.sweep.headline import headline
from lrexp.runs.reading import json_of, text_of
from lrexp.runs.run import flat, named_folder, named_path, read_summary, read_yaml
from lrexp.runs.sweep import (
    DIVERGED,
    FAILED,
    INTERRUPTED,
    read_grid,
    read_leaderboard,
    read_sweep,
    swept_keys,
)

NAME = "lrexp: rates, gaps, drift"
TABLE = (
    "run:state",
    "summary:status",
    "summary:verdicts",
    "summary:best/val/loss",
    "summary:best/val/accuracy",
    "summary:gap/best/loss",
    "summary:gap/best/loss_se",
    "summary:gap/last/loss",
    "summary:test/accuracy",
    "summary:best/epoch",
    "summary:error",
    # W&B keeps {"optimizer": {"value": {"lr": ...}}}
    "config:lr_policy.value.name",
    "config:optimizer.value.lr",
    "config:seed.value",
)


def workspace(
    entity: str, project: str, monitor: str = "val/loss", baseline: str | None = None
) -> Any:
    """The saved view a team looks at, as a `wandb_workspaces.workspaces.Workspace`.

    Args:
        entity: team or user.
        project: of the runs.
        monitor: metric to rank by.
        baseline: id of the run that others are compared with.
    """
    best_first = expr.Ordering(
        expr.Summary(f"best/{monitor}"), ascending=direction(monitor) == "min"
    )
    shown = [
        ws.Section(
            name=name,
            panels=panels,
            is_open=True,
            panel_settings=ws.SectionPanelSettings(x_axis="epoch"),
        )
        for name, panels in sections(monitor)
    ]
    view = ws.Workspace(
        name=NAME,
        entity=entity,
        project=project,
        sections=shown,
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=100, smoothing_type="none"),
        runset_settings=ws.RunsetSettings(
            order=[best_first], pinned_columns=list(TABLE), baseline_run=baseline
        ),
    )
    # The same name every time: saving it again finds the view there is.
    key = hashlib.sha256(f"{entity}/{project}/{NAME}".encode()).hexdigest()[:11]
    view._internal_name = f"nw-{key}-v"
    return view


def sections(monitor: str) -> list[tuple[str, list[Any]]]:
    """Every panel, section by section."""
    policy, configuration = wr.Config("lr_policy.name"), wr.Config("config_id")
    legend = "${config:lr_policy.name} ${run:displayName}"
    over_runs = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    se = {"groupby": policy, "groupby_aggfunc": "mean", "groupby_rangefunc": "stderr"}

    def line(title: str, *metrics: str, **settings: Any) -> Any:
        shown = {"y": list(metrics)} if metrics else {}
        return wr.LinePlot(title=title, x="epoch", title_x="epoch", **shown, **settings)

    def over_rate(title: str, metric: str) -> Any:
        x, y = wr.Config("optimizer.lr"), wr.SummaryMetric(metric)
        return wr.ScatterPlot(title=title, x=x, y=y, log_x=True, legend_template=legend)

    def axis(metric: Any, name: str, log_scale: bool = False) -> Any:
        return ParallelCoordinatesPlotColumn(metric=metric, display_name=name, log=log_scale)

    def bars(title: str, *metrics: str, **settings: Any) -> Any:
        return wr.BarPlot(title=title, metrics=list(metrics), **settings)

    by_policy = {"groupby": policy, **over_runs}
    own_se = ["${gap/loss} - ${gap/loss_se}", "${gap/loss} + ${gap/loss_se}"]
    failed = (
        "Failed runs have the state and the tag `failed`, and their `error` in the table on the"
        " left; diverged ones have the tag and the `status` *diverged*."
    )
    memory = "system/proc.memory.rssMB"  # the client itself measures it every 15 s, of single runs
    return [
        (
            "Which rate, which policy",
            [
                over_rate(f"best {monitor} against optimizer.lr", f"best/{monitor}"),
                bars(f"best {monitor} by policy", f"best/{monitor}", **se),
                over_rate("gap at the best epoch against optimizer.lr", "gap/best/loss"),
                bars("test accuracy by policy", "test/accuracy", **se),
                wr.ParallelCoordinatesPlot(
                    title="settings and what they come to",
                    columns=[
                        axis(policy, "policy"),
                        axis(wr.Config("optimizer.name"), "optimizer"),
                        axis(wr.Config("optimizer.lr"), "rate", log_scale=True),
                        axis(wr.Config("optimizer.weight_decay"), "weight decay"),
                        axis(wr.Config("scheduler.name"), "scheduler"),
                        axis(wr.SummaryMetric("gap/best/loss"), "gap"),
                        axis(wr.SummaryMetric(f"best/{monitor}"), f"best {monitor}"),
                    ],
                ),
            ],
        ),
        (
            "Curves",
            [
                line("val/loss by configuration", "val/loss", groupby=configuration, **over_runs),
                line("val/loss by policy", "val/loss", **by_policy),
                line("val/accuracy by policy", "val/accuracy", **by_policy),
                line("train_eval/loss and val/loss", "train_eval/loss", "val/loss"),
            ],
        ),
        (
            "Overfitting",
            [
                line("gap/loss by policy, ± se over runs", "gap/loss", **se),
                line("gap/loss ± its own standard error", "gap/loss", custom_expressions=own_se),
                line("overfit/loss by policy", "overfit/loss", **se),
                bars(
                    "gap at the best and the last epoch, by policy",
                    *("gap/best/loss", "gap/last/loss"),
                    **se,
                ),
            ],
        ),
        (
            "Layer by layer",
            [
                line("drift per group", metric_regex="^drift/"),
                line("rate per group", metric_regex="^lr/", log_y=True),
                line("update ratio per group", metric_regex="^update_ratio/", log_y=True),
                wr.WeavePanelSummaryTable(table_name="plan"),
            ],
        ),
        (
            "What single runs get wrong",
            [
                wr.WeavePanelSummaryTable(table_name="confusion"),
                wr.WeavePanelSummaryTable(table_name="wrong_images"),
            ],
        ),
        (
            "Runs that failed, speed, memory",
            [
                wr.MarkdownPanel(failed),
                wr.RunComparer(diff_only=True),
                bars("images per second", "perf/examples_per_s", groupby=policy),
                line("seconds per epoch", "perf/epoch_s", **by_policy),
                wr.LinePlot(title="memory (MB)", x="_runtime", y=[memory]),
            ],
        ),
    ]


def outline(spec: dict[str, Any]) -> list[str]:
    """Headings, conclusions and panels of a view or a report, to look at on a terminal."""
    inner = spec["spec"]
    if "blocks" not in inner:
        shown = [one for one in inner["section"]["panelBankConfig"]["sections"] if one["panels"]]
        return [line for one in shown for line in (one["name"], *_in_words(one["panels"]))]
    lines: list[str] = []
    for block in inner["blocks"]:
        match block["type"]:
            case "heading":
                lines.append(_text_of(block))
            case "list":
                lines += [f"  {_text_of(item)}" for item in block["children"]]
            case "markdown-block":
                lines += [f"  {line}" for line in block["content"].splitlines()]
            case "panel-grid":
                lines += _in_words(block["metadata"]["panelBankSectionConfig"]["panels"])
    return lines


def _in_words(panels: list[dict[str, Any]]) -> list[str]:
    titles = [(panel.get("config") or {}).get("chartTitle") for panel in panels]
    kinds = [panel["viewType"] for panel in panels]
    return [f"  {k}: {t}" if t else f"  {k}" for k, t in zip(kinds, titles, strict=True)]


def _text_of(node: dict[str, Any]) -> str:
    return node.get("text", "") + "".join(map(_text_of, node.get("children", ())))


def wandb_id(run: str) -> str:
    """The W&B id of a run that a word names: by its folder, or as it is."""
    if not named_path(run).is_dir():
        return run
    folder = named_folder(run)
    files = runs_below(folder)
    known = run_record(files[-1]).run_id if files else read_summary(folder, []).get("run_id")
    if not known:
        raise UserError(f"--baseline {run}: it holds no run\n  give a run's folder, or its W&B id")
    return str(known)


def save_view(view: Any) -> str:
    """Save the team's view over the one there is, if there is one."""
    try:
        there = saved.get_view_dict(view.entity, view.project, view._internal_name[3:-2])
        view._internal_id = there["id"]
    except ValueError:  # none yet
        pass
    view.save()
    return view.url


def report(entity: str, project: str, sweep: Path) -> Any:
    """A sweep's report as a `wandb_workspaces.reports.v2.Report`: conclusions, leaderboard, panels.

    Every policy is a set of runs of its own, in its colour of all reports.

    Raises:
        UserError: when the folder's leaderboard cannot be read.
    """
    board = read_leaderboard(sweep)
    if board is None:
        raise UserError(f"there is no {sweep / LEADERBOARD}")
    monitor = board["monitor"]
    groups = _groups_of(sweep)
    runsets = [
        Runset(  # of the report's own project: naming it again would need a login
            name=policy,
            filters=expr.And(
                expr.Metric("Group").isin(groups),
                expr.Config("lr_policy.value.name") == policy,  # filters take a path as it is
            ),
            run_settings={run: RunSettings(color=policy_colour(policy)) for run in runs},
        )
        for policy, runs in _runs_by_policy(sweep).items()
    ]
    blocks: list[Any] = [
        wr.H1(text="Conclusions"),
        wr.UnorderedList(items=list[Any](conclusions(sweep))),
        wr.H1(text="Leaderboard"),
        wr.MarkdownBlock(text="\n".join(leaderboard_table(board))),
    ]
    for name, panels in sections(monitor)[:4]:
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
    found = headline(explore(read))
    said = [f"{found.title}.", *found.sentences, *found.advice]
    keys = swept_keys(read.points)
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
        f"| rank | configuration | {' | '.join(f'{n} ± se' for n in names)} | finished | found |",
        f"|{'---|' * (len(names) + 4)}",
    ]
    for row in board["configurations"][:at_most]:
        cells = " | ".join(_mean(row[name]) for name in names)
        named = in_short(row["settings"]) or "the only configuration"
        finished = f"{row['status']['finished']} of {len(row['points'])}"
        came_to = counted_kinds(row.get("verdicts") or {}) or "–"  # an older board has none
        lines.append(f"| {row['rank']} | {named} | {cells} | {finished} | {came_to} |")
    return lines


def _groups_of(sweep: Path) -> list[str]:
    """What W&B groups the sweep's runs by: as it was told, else as the config says.

    Runs of a sweep that went on may be in another group than the first ones.
    """
    told = [run_record(files[-1]).run_group for p in _points(sweep) if (files := runs_below(p))]
    named = told or [str(config.get("logger.group") or sweep.name) for config in _configs(sweep)]
    return list(dict.fromkeys(filter(None, named))) or [sweep.name]


def _runs_by_policy(sweep: Path) -> dict[str, list[str]]:
    """Ids of a sweep's runs by the name of their policy; of few that have runs, theirs alone."""
    found: dict[str, list[str]] = {}
    for config in _configs(sweep):
        policy, run_id = config.get("lr_policy.name"), config.get("run_id")
        if policy and run_id:
            found.setdefault(str(policy), []).append(str(run_id))
    return found


def _configs(sweep: Path) -> list[dict[str, Any]]:
    """The settings of the points that have runs at W&B, or of all where no folder says.

    One that is damaged is not in the picture.
    """
    points = _points(sweep)
    files = {folder: runs for folder in points if (runs := runs_below(folder))}
    settings = {point.folder: point.settings for point in read_grid(sweep, [])[1]}
    found = []
    for folder in files or points:
        if files and folder.name in settings:  # much faster than thousands of YAML files
            run_id = files[folder][-1].stem.removeprefix("run-")
            found.append({**settings[folder.name], "run_id": run_id})
        else:
            found.append(flat(read_yaml(folder / CONFIG)))
    return found


def _points(sweep: Path) -> list[Path]:
    return [file.parent for file in sorted(sweep.glob(f"*/{CONFIG}"))]


def _mean(values: dict[str, Any]) -> str:
    """Over seeds, ± its standard error."""
    mean, se = float(values["mean"]), float(values["std"]) / math.sqrt(max(1, values["n"]))
    if not math.isfinite(mean):
        return "–"
    return f"{mean:.4g} ± {se:.2g}" if math.isfinite(se) else f"{mean:.4g}"


def save_report(built: Any, sweep: Path) -> str:
    """Save a sweep's report over its earlier version, which a file in the sweep's folder names."""
    file = sweep / WANDB_REPORT
    if file.is_file():
        known = json_of(text_of(file))
        if (known["entity"], known["project"]) == (built.entity, built.project):
            built.id = known["id"]
    built.save()
    known = {"entity": built.entity, "project": built.project, "id": built.id, "url": built.url}
    file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return built.url
