"""Settings of the loss, of training, of loggers and tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lrexp.config.schema.meaning import choice, number, setting
from lrexp.config.schema.metrics import MONITORS


@dataclass
class CrossEntropy:
    name: str = setting()
    label_smoothing: float = number(at_least=0, below=1)
    class_weights: Any = setting()  # None, "balanced" or one number per class


@dataclass
class BinaryCrossEntropy:
    name: str = setting()
    pos_weight: str | None = choice("balanced")


_COUNTS: Any = {"identity": True, "resume": "may", "stack": "shared"}
_STAYS: Any = {"resume": "stays"}
_OWN: Any = {"stack": "member"}


@dataclass
class Trainer:
    """Each setting says whether it is part of config_id, may change on resume, and is stacked."""

    epochs: int = number(at_least=0, **_COUNTS)
    max_steps: int | None = number(at_least=1, **_COUNTS)
    limit_train_batches: int | None = number(at_least=1, **_COUNTS | _STAYS)
    device: str = setting(decides=False, reads=True, **_COUNTS)
    threads: int | None = number(at_least=1, at_most=1024, decides=False, **_COUNTS)
    deterministic: bool = setting(**_COUNTS)
    monitor: str = choice(*MONITORS, **_COUNTS | _OWN | _STAYS)
    patience: int | None = number(at_least=1, **_COUNTS | _OWN)
    clip_grad_norm: float | None = number(above=0, **_COUNTS | _OWN)
    train_eval_limit: int = number(at_least=2, reads=True, **_COUNTS | _STAYS)
    eval_batch_size: int = number(at_least=1, **_COUNTS)
    stats_every: int = number(at_least=0, **_COUNTS)
    checkpoint_every_steps: int | None = number(
        at_least=1,
        identity=False,
        resume="may",
        stack="trainer.checkpoint_every_steps saves the state of a single run",
        decides=False,
    )
    resume: str = choice(
        "never", "auto", identity=False, resume="ignored", stack="ignored", decides=False
    )


@dataclass
class NoLogger:
    name: str = setting()


@dataclass
class Wandb:
    name: str = setting()
    project: str = setting()
    entity: str | None = setting()
    group: str | None = setting()
    tags: list[str] = setting()
    notes: str | None = setting()
    mode: str = choice("auto", "online", "offline", "disabled")
    artifacts: str = choice("auto", "best", "last", "none")


@dataclass
class Task:
    name: str = setting()


@dataclass
class PlanTask(Task):
    against: str | None = setting(path="plan")
