"""The lessons: the runs that each is made of, and who judges them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lesson import finetuning, scratch
from lesson.finetuning import FROZEN
from lesson.judging import Finding
from lesson.runs import Grid, train
from lesson.scratch import RATES

from lrexp.config.names import conf_folder


@dataclass(frozen=True)
class Lesson:
    """`conf/experiment/lessons/NAME.yaml`, the grid that its head names, and the judge of it."""

    cases: Mapping[str, str]  # name → overrides beside experiment=lessons/NAME
    seeds: int
    judge: Callable[[Grid], list[Finding]]


FAST = "'lr_policy.rules=[{{layers: {}, scale: 4}}]'"
ONE_RATE = "'lr_policy.rules=[]'"
SCHEDULES = {
    "constant": "scheduler=constant",
    "step": "scheduler=step scheduler.step_size=10",
    "plateau": "scheduler=plateau",
}
LESSONS = {
    "param_groups": Lesson(
        {"both": "", "rest": "'lr_policy.rules=[{layers: head, lr: 0.01}]'"},
        1,
        scratch.param_groups,
    ),
    "too_high": Lesson(
        {
            **{rate: f"optimizer.lr={rate}" for rate in ("0.5", "0.01", "1e-5")},
            "0.5 without momentum": "optimizer.lr=0.5 optimizer.momentum=0",
        },
        5,
        scratch.too_high,
    ),
    "lower_rate": Lesson(
        {
            f"{rate} {how}": f"optimizer.lr={rate} scheduler.gamma={gamma}"
            for rate in ("0.1", "1e-5")
            for how, gamma in (("stays", "1"), ("falls", "0.1"))
        },
        5,
        scratch.lower_rate,
    ),
    "one_batch": Lesson(
        {rate: f"optimizer.lr={rate}" for rate in ("0.001", "10")}, 5, scratch.one_batch
    ),
    "schedules": Lesson(
        {**SCHEDULES, **{f"{case} 16": f"data.batch_size=16 {o}" for case, o in SCHEDULES.items()}},
        10,
        scratch.schedules,
    ),
    "scheduler_order": Lesson({"run": ""}, 1, scratch.scheduler_order),
    "frozen_backbone": Lesson(
        {"frozen": "lr_policy=freeze_backbone", "all": "lr_policy=uniform"},
        5,
        finetuning.frozen_backbone,
    ),
    "lr_zero": Lesson({"zero": "", "frozen": f"'{FROZEN}'"}, 1, finetuning.lr_zero),
    "last_layers": Lesson(
        {
            "all": ONE_RATE,
            "head": f"'{FROZEN}'",
            "last": "'lr_policy.rules=[{layers: 0, frozen: true}, {layers: 1, scale: 0.1}]'",
        },
        10,
        finetuning.last_layers,
    ),
    "differential": Lesson(
        {name: f"lr_policy={name}" for name in ("uniform", "per_layer", "layerwise_decay")},
        10,
        finetuning.differential,
    ),
    "fast_part": Lesson(
        {
            "one rate": ONE_RATE,
            "convolution": FAST.format(0),
            "hidden layer": FAST.format(1),
            "head": FAST.format(2),
        },
        10,
        finetuning.fast_part,
    ),
    "slow_head": Lesson(
        {"one rate": "lr_policy.default.scale=1", "slow": "lr_policy.default.scale=0.01"},
        5,
        scratch.slow_head,
    ),
    "leakage": Lesson({"random": "", "track": "data.group_by=track"}, 5, finetuning.leakage),
    "relu_rule": Lesson({}, 0, scratch.relu_rule),
    "small_set": Lesson(
        {"50": "", "all": "data.limit=null optimizer.lr=0.01 trainer.epochs=1"},
        5,
        scratch.small_set,
    ),
    "optimizers": Lesson(
        {
            f"{name} {rate}": f"optimizer={name} optimizer.lr={rate}"
            for name in ("sgd", "adam", "rmsprop")
            for rate in RATES
        },
        8,
        scratch.optimizers,
    ),
    "step_order": Lesson(
        {"start": "trainer.epochs=0", "one": "", "two": "trainer.max_steps=2"},
        1,
        scratch.step_order,
    ),
}


def question(name: str) -> str:
    """What a lesson asks: the first line of its file that is a comment."""
    lines = (conf_folder() / f"experiment/lessons/{name}.yaml").read_text().splitlines()
    return lines[1].removeprefix("# ")


def run(name: str, out: Path, data: Path | None) -> list[Finding]:
    """Train what a lesson needs below `out`, as far as it is not there, and judge it."""
    lesson, folder, images, more = LESSONS[name], out / name, None, []
    if name == "leakage":
        from make_leaky import make

        images = out / f"leakage_{'signs' if data else 'digits'}"
        folder = out / f"{images.name}_runs"
        make(images, data)
        more = [f"data.path='{images}'"]
    if lesson.cases:
        train(folder, name, lesson.cases, range(lesson.seeds), *more)
    return lesson.judge(Grid(folder, range(lesson.seeds), images))
