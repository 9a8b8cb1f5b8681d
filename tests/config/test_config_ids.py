"""The ids of configs: those of today stay, whatever settings are added."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from lrexp.config import schema
from lrexp.config.check import check, config_id
from lrexp.config.schema import OPTIONS, Option, Trainer
from lrexp.config.schema.meaning import number, setting
from lrexp.config.schema.rates import Sgd

Compose = Callable[..., Any]
# overrides → config_id, over all groups, options and presets. An id that changes makes every older
# run of that config another experiment: lines may be added, none may change.
IDS = json.loads(Path(__file__).with_name("config_ids.json").read_text())


def resolved(config: Any) -> DictConfig:
    return check(OmegaConf.structured(config))[0]


@pytest.mark.slow
def test_every_config_keeps_its_id(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LREXP_ALLOW_TARGETS", "lrexp")
    found = {line: config_id(resolved(compose(*shlex.split(line)))) for line in IDS}
    assert found == IDS
    named = " ".join(IDS)
    for group, options in OPTIONS.items():
        for option in options:
            defaults = {"loss=cross_entropy", "logger=wandb", "task=train"}
            assert f"{group}={option}" in named or f"{group}={option}" in defaults


@dataclass
class NewSgd(Sgd):
    dampening: float = number(at_least=0, neutral=0.0)
    fused: bool | None = setting(neutral=None)


@dataclass
class NewTrainer(Trainer):
    accumulate: int = number(at_least=1, neutral=1)
    log_every: int = number(at_least=1, identity=False)


def test_a_new_setting_gives_a_config_another_id_only_where_it_is_not_neutral(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = resolved(compose())
    monkeypatch.setitem(OPTIONS["optimizer"], "sgd", Option(NewSgd, "torch.optim:SGD"))
    monkeypatch.setattr(schema, "Trainer", NewTrainer)

    def identity(**new: Any) -> str:
        plain: Any = OmegaConf.to_container(before)
        plain["optimizer"] |= {"dampening": 0.0, "fused": None}
        plain["trainer"] |= {"accumulate": 1, "log_every": 5}
        for section in ("optimizer", "trainer"):
            plain[section] |= {k: v for k, v in new.items() if k in plain[section]}
        return config_id(OmegaConf.create(plain))

    assert identity() == identity(log_every=7) == config_id(before)
    others = {identity(dampening=0.1), identity(fused=False), identity(accumulate=4)}
    assert len(others | {config_id(before)}) == 4
