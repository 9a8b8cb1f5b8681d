"""The saved view of W&B that a team looks at, as code, and what it shows in words."""

from __future__ import annotations

import hashlib
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
import wandb_workspaces.workspaces.internal as saved
from wandb_workspaces import expr

from lrexp.config.schema import MONITORS
from lrexp.record.keys import SYSTEM

NAME = "lrexp: rates, gaps, drift"
BAND = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
SE_BAND = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stderr"}
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


def workspace(entity: str, project: str, monitor: str = "val/loss") -> Any:
    """The saved view a team looks at, as a `wandb_workspaces.workspaces.Workspace`."""
    policy, order = wr.Config("lr_policy.name"), _order(monitor)
    shown = [
        ws.Section(
            name=name,
            panels=panels,
            is_open=True,
            panel_settings=ws.SectionPanelSettings(x_axis="epoch"),
        )
        for name, panels in sections(policy, monitor)
    ]
    view = ws.Workspace(
        name=NAME,
        entity=entity,
        project=project,
        sections=shown,
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=100, smoothing_type="none"),
        runset_settings=ws.RunsetSettings(order=[order], pinned_columns=list(TABLE)),
    )
    # The same name every time: saving it again finds the view there is.
    key = hashlib.sha256(f"{entity}/{project}/{NAME}".encode()).hexdigest()[:11]
    view._internal_name = f"nw-{key}-v"
    return view


def _order(monitor: str) -> Any:
    return expr.Ordering(expr.Summary(f"best/{monitor}"), ascending=MONITORS[monitor] == "min")


def sections(policy: Any, monitor: str) -> list[tuple[str, list[Any]]]:
    """Every panel, section by section."""
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


def save_view(view: Any) -> str:
    """Save the team's view over the one there is, if there is one."""
    try:
        there = saved.get_view_dict(view.entity, view.project, view._internal_name[3:-2])
        view._internal_id = there["id"]
    except ValueError:  # none yet
        pass
    view.save()
    return view.url
