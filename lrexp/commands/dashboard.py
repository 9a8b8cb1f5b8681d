"""Team dashboards of W&B as code: `lrexp dashboard --entity TEAM --project P`."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

from lrexp.config.errors import UserError, misused
from lrexp.folder.layout import CONFIG, LEADERBOARD, WANDB_REPORT
from lrexp.record.keys import SYSTEM

NAME = "lrexp: rates, gaps, drift"
BAND = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
SE_BAND = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stderr"}
# Paul Tol's bright scheme: safe for the colour-blind.
COLORS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB")
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
    "config:lr_policy.name.value",
    "config:optimizer.lr.value",
    "config:seed.value",
)
SYSTEM_PLOTS = tuple(f"system/{name}" for name in SYSTEM)
REPORT_ID = WANDB_REPORT  # in a sweep's folder: which report is its own


def main(argv: list[str] | None = None) -> int:
    """Build the dashboard or a sweep's report, then print, write or save it.

    Returns:
        0 when done, 2 for a mistake in the request.
    """
    parser = argparse.ArgumentParser(prog="lrexp dashboard", description=__doc__)
    parser.add_argument("--entity", required=True, help="team or user")
    parser.add_argument("--project", required=True)
    parser.add_argument("--monitor", default="val/loss", help="metric to rank by: val/loss")
    parser.add_argument("--report", metavar="SWEEP", help="a report of a sweep's folder instead")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--save", action="store_true", help="save it on W&B; twice is the same view")
    what.add_argument("--json", metavar="FILE", help="write its specification, no login needed")
    parser.error = partial(misused, parser.prog)  # type: ignore[method-assign]
    try:
        return _run(parser.parse_args(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    from lrexp.config.errors import did_you_mean
    from lrexp.config.schema import MONITORS

    if args.monitor not in MONITORS:
        raise UserError(f"--monitor {args.monitor}: {did_you_mean(args.monitor, MONITORS)}")
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"dashboards need wandb-workspaces: {error}\n  pip install 'lrexp[dashboards]'"
        ) from None
    if args.save:
        from lrexp.record.wandb.client import why_offline

        if why := why_offline():
            raise UserError(f"nothing was saved: {why}\n  --json FILE needs no login")
    sweep = _sweep_folder(args.report) if args.report else None
    if sweep:
        built: Any = report(args.entity, args.project, sweep)
    else:
        built = workspace(args.entity, args.project, args.monitor)
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
            url = _save_report(built, sweep) if sweep else _save_view(built)
        except Exception as error:
            raise UserError(f"W&B did not take it: {error}") from error
        print(f"saved: {url}")
    else:
        for line in outline(spec):
            print(line)
    return 0


def workspace(entity: str, project: str, monitor: str = "val/loss") -> Any:
    """The saved view a team looks at, as a `wandb_workspaces.workspaces.Workspace`."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    policy, order = wr.Config("lr_policy.name"), _order(monitor)
    sections = [
        ws.Section(
            name=name,
            panels=panels,
            is_open=True,
            panel_settings=ws.SectionPanelSettings(x_axis="epoch"),
        )
        for name, panels in _sections(policy, monitor)
    ]
    view = ws.Workspace(
        name=NAME,
        entity=entity,
        project=project,
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=100, smoothing_type="none"),
        runset_settings=ws.RunsetSettings(order=[order], pinned_columns=list(TABLE)),
    )
    # The same name every time: saving it again finds the view there is.
    key = hashlib.sha256(f"{entity}/{project}/{NAME}".encode()).hexdigest()[:11]
    view._internal_name = f"nw-{key}-v"
    return view


def _order(monitor: str) -> Any:
    from wandb_workspaces import expr

    from lrexp.config.schema import MONITORS

    return expr.Ordering(expr.Summary(f"best/{monitor}"), ascending=MONITORS[monitor] == "min")


def _sections(policy: Any, monitor: str) -> list[tuple[str, list[Any]]]:
    """Every panel, section by section."""
    import wandb_workspaces.reports.v2 as wr

    configuration = wr.Config("config_id")
    legend = "${config:lr_policy.name} ${run:displayName}"

    def line(title: str, **settings: Any) -> Any:
        return wr.LinePlot(title=title, x="epoch", title_x="epoch", **settings)

    def scatter(title: str, y: str, **settings: Any) -> Any:
        x = wr.Config("optimizer.lr")
        return wr.ScatterPlot(
            title=title, x=x, y=wr.SummaryMetric(y), log_x=True, legend_template=legend, **settings
        )

    bars = {"groupby": policy, "groupby_aggfunc": "mean", "groupby_rangefunc": "stderr"}
    return [
        (
            "Which rate, which policy",
            [
                scatter(f"best {monitor} against optimizer.lr", f"best/{monitor}"),
                wr.BarPlot(title=f"best {monitor} by policy", metrics=[f"best/{monitor}"], **bars),
                scatter("gap at the best epoch against optimizer.lr", "gap/best/loss"),
                wr.BarPlot(title="test accuracy by policy", metrics=["test/accuracy"], **bars),
            ],
        ),
        (
            "Curves",
            [
                line("val/loss by configuration", y=["val/loss"], groupby=configuration, **BAND),
                line("val/loss by policy", y=["val/loss"], groupby=policy, **BAND),
                line("val/accuracy by policy", y=["val/accuracy"], groupby=policy, **BAND),
                line("train_eval/loss and val/loss", y=["train_eval/loss", "val/loss"]),
            ],
        ),
        (
            "Overfitting",
            [
                line(
                    "gap/loss by policy, ± se over runs", y=["gap/loss"], groupby=policy, **SE_BAND
                ),
                line(
                    "gap/loss ± its own standard error",
                    y=["gap/loss"],
                    custom_expressions=[
                        "${gap/loss} - ${gap/loss_se}",
                        "${gap/loss} + ${gap/loss_se}",
                    ],
                ),
                line("overfit/loss by policy", y=["overfit/loss"], groupby=policy, **SE_BAND),
                wr.BarPlot(
                    title="gap at the best and the last epoch, by policy",
                    metrics=["gap/best/loss", "gap/last/loss"],
                    **bars,
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
            "Runs that failed, speed, memory",
            [
                wr.MarkdownPanel(
                    "Failed runs have the state `failed`, diverged ones the tag `diverged` and"
                    " `status` *diverged* in the table on the left; both also show in its columns."
                ),
                wr.RunComparer(diff_only=True),
                wr.BarPlot(
                    title="images per second", metrics=["perf/examples_per_s"], groupby=policy
                ),
                line("seconds per epoch", y=["perf/epoch_s"], groupby=policy, **BAND),
                wr.LinePlot(title="memory (MB)", x="_runtime", y=list(SYSTEM_PLOTS)),
            ],
        ),
    ]


def report(entity: str, project: str, sweep: Path) -> Any:
    """A sweep's report as a `wandb_workspaces.reports.v2.Report`: conclusions, leaderboard, panels.

    Every policy is a set of runs of its own, in a colour of its own.

    Raises:
        UserError: when the folder's leaderboard cannot be read.
    """
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr
    from wandb_workspaces.reports.v2.interface import Report, Runset, RunSettings

    board = _read_board(sweep)
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
    for name, panels in _sections(policy_key, monitor)[:4]:
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
    from lrexp.judge.ranking import configurations
    from lrexp.judge.words import in_short
    from lrexp.report.sweep.words import headline
    from lrexp.runs.sweep import DIVERGED, FAILED, INTERRUPTED, read_sweep, swept_keys

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
        finished = f"{row['status']['finished']} of {len(row['points'])}"
        lines.append(f"| {row['rank']} | {_named(row)} | {cells} | {finished} |")
    return lines


def names_in(spec: Any) -> dict[str, set[str]]:
    """Every name of logged data in a specification, by kind."""
    found: dict[str, set[str]] = {
        kind: set() for kind in ("metric", "pattern", "summary", "config", "system", "run")
    }

    def add(name: str) -> None:
        name = (
            name.split("::", 1)[-1] if name.startswith(("c::", "config::", "summary::")) else name
        )
        kind, colon, rest = name.partition(":")
        if colon and kind in ("config", "summary", "run"):
            found[kind].add(rest.removesuffix(".value").replace(".value.", "."))
        elif name.startswith("config."):
            found["config"].add(
                name.removeprefix("config.").removesuffix(".value").replace(".value.", ".")
            )
        elif name.startswith("system/"):
            found["system"].add(name.removeprefix("system/"))
        elif not name.startswith("_"):
            found["metric"].add(name)

    def walk(node: Any) -> None:
        if isinstance(node, list):
            for item in node:
                walk(item)
        if not isinstance(node, dict):
            return
        for key, value in node.items():
            if key in ("metrics", "xAxis", "yAxis", "zAxis", "groupBy") and value:
                for name in value if isinstance(value, list) else [value]:
                    if isinstance(name, str):
                        found["config"].add(_plain(name)) if key == "groupBy" else add(name)
            elif key == "metricRegex" and value:
                found["pattern"].add(value)
            elif key in ("columnPinned", "columnVisible"):
                for name in value:
                    add(name)
            elif key == "expressions":
                for text in value or []:
                    for name in text.replace("${", "\0{").split("\0{")[1:]:
                        add(name.partition("}")[0])
            elif key == "key" and isinstance(value, dict) and "section" in value:
                add(f"{value['section']}:{value['name']}")
            walk(value)

    walk(spec)
    return found


def _plain(name: str) -> str:
    return name.removeprefix("config:").removeprefix("config.").replace(".value", "")


def outline(spec: dict[str, Any]) -> list[str]:
    """Headings, conclusions and panels of a view or a report, to look at on a terminal."""
    inner = spec["spec"]
    if "blocks" not in inner:
        sections = inner["section"]["panelBankConfig"]["sections"]
        return [
            line
            for section in sections
            if section["panels"]
            for line in (section["name"], *map(_panel_in_words, section["panels"]))
        ]
    lines: list[str] = []
    for block in inner["blocks"]:
        if block["type"] == "heading":
            lines.append(_text_of(block))
        elif block["type"] == "list":
            lines += [f"  {_text_of(item)}" for item in block["children"]]
        elif block["type"] == "markdown-block":
            lines += [f"  {line}" for line in block["content"].splitlines()]
        elif block["type"] == "panel-grid":
            panels = block["metadata"]["panelBankSectionConfig"]["panels"]
            lines += map(_panel_in_words, panels)
    return lines


def _panel_in_words(panel: dict[str, Any]) -> str:
    title = (panel.get("config") or {}).get("chartTitle")
    return f"  {panel['viewType']}{f': {title}' if title else ''}"


def _text_of(node: dict[str, Any]) -> str:
    return node.get("text", "") + "".join(map(_text_of, node.get("children", ())))


def _save_view(view: Any) -> str:
    """Save the team's view over the one there is, if there is one."""
    import wandb_workspaces.workspaces.internal as saved

    try:
        there = saved.get_view_dict(view.entity, view.project, view._internal_name[3:-2])
        view._internal_id = there["id"]
    except ValueError:  # none yet
        pass
    view.save()
    return view.url


def _save_report(built: Any, sweep: Path) -> str:
    """Save a sweep's report over its earlier version, which a file in the sweep's folder names."""
    file = sweep / REPORT_ID
    if file.is_file():
        known = json.loads(file.read_text(encoding="utf-8"))
        if (known["entity"], known["project"]) == (built.entity, built.project):
            built.id = known["id"]
    built.save()
    known = {"entity": built.entity, "project": built.project, "id": built.id, "url": built.url}
    file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return built.url


def _sweep_folder(name: str) -> Path:
    folder = Path("outputs/latest" if name == "latest" else name).expanduser().resolve()
    if not (folder / LEADERBOARD).is_file():
        raise UserError(f"--report {name}: there is no leaderboard.json\n  give a sweep's folder")
    return folder


def _read_board(sweep: Path) -> dict[str, Any]:
    from lrexp.runs.sweep import read_leaderboard

    board = read_leaderboard(sweep)
    if board is None:  # removed since it was looked for
        raise UserError(f"{sweep} has no leaderboard.json")
    return board


def _group_of(sweep: Path) -> str:
    """What W&B groups the sweep's runs by: `logger.group`, else the sweep's name."""
    from omegaconf import OmegaConf

    for file in sorted(sweep.glob(f"*/{CONFIG}")):
        try:
            return OmegaConf.load(file).logger.group or sweep.name
        except Exception:  # a damaged point, or one without W&B
            continue
    return sweep.name


def _runs_by_policy(sweep: Path) -> dict[str, list[str]]:
    """Ids of a sweep's runs by the name of their policy."""
    from omegaconf import OmegaConf

    found: dict[str, list[str]] = {}
    for file in sorted(sweep.glob(f"*/{CONFIG}")):
        try:
            config = OmegaConf.load(file)
            found.setdefault(str(config.lr_policy.name), []).append(str(config.run_id))
        except Exception:  # a damaged point is not in the picture
            continue
    return found


def _named(row: dict[str, Any]) -> str:
    from lrexp.judge.words import in_short

    return in_short(row["settings"]) or "the only configuration"


def _mean(values: dict[str, Any]) -> str:
    mean, std = _number(values["mean"]), _number(values["std"])
    if mean is None:
        return "–"
    return f"{mean:.4g}" if std is None else f"{mean:.4g} ± {std:.2g}"


def _number(value: Any) -> float | None:
    """A finite number, or nothing."""
    number = float(value)
    return number if math.isfinite(number) else None


if __name__ == "__main__":
    sys.exit(main())
