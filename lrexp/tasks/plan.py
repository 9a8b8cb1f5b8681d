"""`task=plan`: who would learn how fast, nothing trained."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from lrexp.config.check import config_id
from lrexp.config.saved import read_saved_config
from lrexp.config.schema import Config, option_in_words
from lrexp.folder.claim import link_latest
from lrexp.folder.files import write_atomically
from lrexp.folder.layout import CONFIG, PLAN, RATES, SCHEDULE
from lrexp.plan import preview
from lrexp.plan.plan import difference_lines, read_plan
from lrexp.report.figure import Axis, Chart, Series
from lrexp.report.plots import PAGE, STYLE, draw
from lrexp.runs.differences import change_lines, config_changes
from lrexp.runs.reading import text_of
from lrexp.tasks.opening import Launch
from lrexp.tasks.summary import blank_summary, failure, write

if TYPE_CHECKING:
    from rich.console import Console

    from lrexp.plan.preview import Preview

log = logging.getLogger(__name__)


def plan(resolved: DictConfig, config: Config, launch: Launch) -> float:
    """Say who would learn how fast: tables, a plot and files in the run folder, nothing trained.

    Returns:
        NaN: a plan has no value that a sweeper could compare.

    Raises:
        UserError: when there is no such run; nothing has been written then.
    """
    started = time.perf_counter()
    from lrexp.build.experiment import build_preview

    try:
        shown = build_preview(config)
        against = config.task.against
        other = read_plan(text_of(Path(against).expanduser().resolve())) if against else None
    except Exception as error:
        if launch.sweep:  # a point keeps its folder, and says why it has no result
            write(launch.folder, blank_summary(resolved, config, launch) | failure(error))
        raise
    folder = launch.folder
    write_atomically(folder / CONFIG, OmegaConf.to_yaml(resolved))
    write_atomically(folder / PLAN, shown.plan.to_csv())
    write_atomically(folder / SCHEDULE, preview.schedule_csv(shown))
    groups = ("lr_policy", "scheduler", "optimizer")
    title = ", ".join(
        f"{group}={option_in_words(vars(getattr(config, group)))}" for group in groups
    )
    draw_rates(shown, folder / RATES, title)
    last: list[str] = []
    if other is not None:
        differences = difference_lines(other.diff(shown.plan))
        differences += _changed_settings(Path(against).expanduser().parent, resolved)
        last = [f"against {against}: {'' if differences else 'the same plan'}".rstrip()]
        last += [f"  {line}" for line in differences]
    last.append(f"run    {os.path.relpath(folder)}: {PLAN}, {SCHEDULE}, {RATES}")
    identity = config_id(resolved)
    if launch.planned is not None and identity in launch.planned:
        _say([f"{last[-1]}; the plan shown before"])
    else:
        _show(shown, f"model  {config.model.name}, {title}", last)
    if launch.planned is not None:
        launch.planned.add(identity)
    outcome = {
        "status": "finished",
        "plan_hash": shown.plan.hash,
        "parameters": preview.parameter_counts(shown.plan),
        "timings": {"total_s": time.perf_counter() - started},
    }
    write(folder, blank_summary(resolved, config, launch) | outcome)
    if not launch.sweep:
        link_latest(folder)
    return math.nan


def _show(shown: Preview, first: str, last: list[str]) -> None:
    """On the terminal the layers, the steps and the schedule, in the log all but the table."""
    console = _terminal()
    _say([first], console)
    plain = not console.is_terminal
    console.print(preview.layer_table(shown, plain, console.width), soft_wrap=False)
    notes = [f"note   {note}" for note in shown.notes]
    plot = preview.schedule_plot(shown, min(64, max(16, console.width - 14)))
    _say([*preview.total_lines(shown), *notes, *plot, *last], console)


def _terminal() -> Console:
    from rich.console import Console

    from lrexp.record.console import terminal

    console = terminal(Console)
    if not console.is_terminal:
        console.width = preview.WIDTH
    return console


def _say(lines: Sequence[str], console: Console | None = None) -> None:
    """On the terminal and in the log."""
    console = console or _terminal()
    for line in lines:
        console.print(line, markup=False)
        log.info(line)


def draw_rates(shown: Preview, file: Path, title: str) -> None:
    """A PNG of every group's rate over the epochs, from the input (dark) to the head (light).

    The axis is logarithmic where peaks differ by more than a factor of 100.
    """
    from matplotlib import rc_context

    epochs = [step / shown.steps_per_epoch for step in shown.steps]
    series = [Series(group, epochs, rates) for group, rates in shown.rates.items()]
    peaks = [max((r for r in rates if r), default=math.nan) for rates in shown.rates.values()]
    wide = any(high > 100 * low for high in peaks for low in peaks)
    chart = Chart(title, series, Axis("epoch"), Axis("learning rate", log=wide, zero=True))
    with rc_context(STYLE):
        picture = draw([chart], PAGE)
        picture.axes[0].set_title(title)
        picture.savefig(file)


def _changed_settings(other: Path, resolved: DictConfig) -> list[str]:
    """What decides rates beside the plan and differs from the config in another run's folder."""
    if not (other / CONFIG).is_file():
        return []
    now: Any = OmegaConf.to_container(resolved)
    changes = config_changes(read_saved_config(other), now)
    deciding = ("optimizer.", "scheduler.", "trainer.epochs", "trainer.max_steps")
    return change_lines([change for change in changes if change[0].startswith(deciding)])
