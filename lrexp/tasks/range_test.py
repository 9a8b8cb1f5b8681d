"""`task=range_test`: at which rates would this run learn? A ramp, what it suggests, a report."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from lrexp.config.errors import for_terminal, out_of_memory
from lrexp.config.parts import targets_in
from lrexp.config.schema import Config, option_in_words
from lrexp.folder.claim import link_latest
from lrexp.folder.environment import environment, write_environment
from lrexp.folder.files import csv_text, write_atomically
from lrexp.folder.layout import CONFIG, PLAN, RANGE_TEST, REPORT
from lrexp.judge.range_test import Ramp, ramp_rates
from lrexp.plan.preview import parameter_counts
from lrexp.report.range_test.found import read_range_test
from lrexp.report.range_test.page import write_range_picture, write_range_report
from lrexp.report.range_test.words import curve_plot, opening_lines, result_lines
from lrexp.tasks.opening import Launch, with_normalization
from lrexp.tasks.summary import blank_summary, failure, write

if TYPE_CHECKING:
    from rich.console import Console

    from lrexp.build.ramp import Built
    from lrexp.train.loop import Trainer

log = logging.getLogger(__name__)


def range_test(resolved: DictConfig, config: Config, launch: Launch) -> float:
    """Train along a ramp of rates, seed by seed, and say what that suggests.

    Returns:
        NaN: a range test has no value that a sweeper could compare.

    Raises:
        UserError: when the experiment cannot be built, or the test does not fit it; nothing has
            been written then.
    """
    started = time.perf_counter()
    folder = launch.folder
    try:
        done = climbed(config, launch)
    except Exception as error:
        if launch.sweep:  # a point keeps its folder, and says why it has no result
            write(folder, blank_summary(resolved, config, launch) | failure(error))
        raise
    experiment = done.built.experiment
    resolved = with_normalization(resolved, experiment.dataset)
    write_atomically(folder / CONFIG, OmegaConf.to_yaml(resolved))
    write_atomically(folder / PLAN, done.built.plan.to_csv())
    write_atomically(folder / RANGE_TEST, range_csv(done.ramps))
    write_environment(folder, done.environment)
    total_s = time.perf_counter() - started
    outcome = {
        "status": "finished",
        "plan_hash": done.built.plan.hash,
        "parameters": parameter_counts(done.built.plan),
        "device": str(experiment.device),
        "remarks": [*experiment.dataset.notes, *experiment.remarks, *done.notes],
        "data": {"images": experiment.dataset.sizes},
        "executor": "stacked" if done.stacked else "serial",
        "members": len(done.ramps) if done.stacked else 1,
        "timings": {"train_s": done.train_s, "total_s": total_s},
    }
    write(folder, blank_summary(resolved, config, launch) | outcome)
    test = read_range_test(folder)  # what a report made anew would say
    write(folder, blank_summary(resolved, config, launch) | outcome | test.as_summary())
    write_range_picture(folder, test)
    write_range_report(folder)
    groups = ("lr_policy", "scheduler", "optimizer")
    title = ", ".join(
        f"{group}={option_in_words(vars(getattr(config, group)))}" for group in groups
    )
    lines = [f"model  {config.model.name} on {config.data.name}, {title}", *opening_lines(test)]
    width = _width()
    lines += ["", *curve_plot(test, min(72, max(24, width - 14))), "", *result_lines(test)]
    lines.append(f"run    {os.path.relpath(folder)}: {REPORT}, {RANGE_TEST}")
    _show(lines)
    if not launch.sweep:
        link_latest(folder)
    return math.nan


@dataclass(frozen=True)
class Climbed:
    """What the ramps came to."""

    built: Built  # of the first seed
    ramps: list[Ramp]
    notes: list[str]
    stacked: bool
    train_s: float
    environment: dict[str, object]


def climbed(config: Config, launch: Launch) -> Climbed:
    """Build the run of every seed, and train each along the ramp; stacked where that can be."""
    import torch

    from lrexp.build.data import Datasets
    from lrexp.build.ramp import build_ramp
    from lrexp.train.loop import Trainer
    from lrexp.train.ramp import climb
    from lrexp.train.state import fingerprints

    task, datasets = config.task, launch.datasets or Datasets()
    settings = replace(config.trainer, stats_every=0, ema=None)  # nothing is evaluated
    rates = ramp_rates(task.lr_from, task.lr_to, task.steps)
    seeds = range(config.seed, config.seed + task.repeats)

    def blank() -> list[Ramp]:
        return [Ramp(seed, rates, task.smoothing, task.stop_factor) for seed in seeds]

    def made(seed: int) -> tuple[Built, Trainer]:
        built = build_ramp(replace(config, seed=seed), datasets)
        size = config.data.batch_size
        return built, Trainer(built.experiment, settings, size, seed, datasets.features)

    built, first = made(config.seed)
    prints = fingerprints(first.experiment)
    threads, parts = torch.get_num_threads(), targets_in(config)
    facts = environment(first.experiment.device, threads, prints, parts)
    started = time.perf_counter()
    together, trainers, ramps = None, [first], blank()
    with datasets.features if launch.datasets is None else nullcontext():
        if launch.together is not None and len(ramps) > 1:
            trainers += [made(seed)[1] for seed in seeds[1:]]
            together = launch.together(trainers)
        if together is not None:
            try:
                climb(trainers, ramps, together)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                log.info("ramps do not fit into memory together", exc_info=error)
                together, trainers, ramps = None, [], blank()
        if together is None:
            for k, ramp in enumerate(ramps):
                trainer = trainers[k] if k < len(trainers) else made(ramp.seed)[1]
                climb([trainer], [ramp])
    train_s = time.perf_counter() - started
    return Climbed(built, ramps, _notes(built, config), together is not None, train_s, facts)


def _notes(built: Built, config: Config) -> list[str]:
    """What of the run the test leaves out, a sentence each."""
    plan, found = built.plan, []
    later = {row.name for row in plan.rows if not row.frozen} - {
        row.name for row in plan.rows if row.trains_after(0)
    }
    if later:
        found.append(
            f"lr_policy={config.lr_policy.name} is tested in its first phase: {built.training} of"
            f" {built.training + len(later)} tensors train then"
        )
    elif any(row.g or row.trainable_until for row in plan.rows if not row.frozen):
        found.append(
            f"lr_policy={config.lr_policy.name} moves rates over time: tested as it begins"
        )
    if plan.measured:
        found.append("scales are measured once, before the ramp, and held")
    if built.absolute and not config.task.group:
        found.append(
            f"{built.absolute} tensors have rates of their own, which hold: they do not follow"
            " optimizer.lr"
        )
    return found


def range_csv(ramps: Sequence[Ramp]) -> str:
    """range_test.csv: a line per seed and step with rate, loss and smoothed loss."""
    lines: list[Sequence[object]] = [["seed", "step", "lr", "loss", "smoothed"]]
    for ramp in ramps:
        for step, (loss, mean) in enumerate(zip(ramp.losses, ramp.smoothed, strict=True)):
            lines.append([ramp.seed, step, ramp.rates[step], loss, mean])
    return csv_text(lines)


def _width() -> int:
    console = _terminal()
    return console.width if console.is_terminal else 100


def _show(lines: Sequence[str]) -> None:
    console = _terminal()
    for line in lines:
        console.print(for_terminal(line), markup=False)
        log.info(line)


def _terminal() -> Console:
    from rich import console

    from lrexp.record.console import terminal

    return terminal(console.Console)
