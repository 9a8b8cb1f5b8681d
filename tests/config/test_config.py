"""Schemas, checks, identity of configs, and paths."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from lrexp.config.check import check, config_id, portable_path
from lrexp.config.checks import duration
from lrexp.config.errors import ConfigError, settings_of, unknown_setting, wrong_type
from lrexp.config.schema import GROUPS, OPTIONS, Config, Rule
from lrexp.config.schema.rates import Sgd

Compose = Callable[..., Any]


def resolved(config: Any) -> DictConfig:
    """A checked config as check() resolves it."""
    return check(OmegaConf.structured(config))[0]


def identity(config: Any) -> str:
    return config_id(resolved(config))


@pytest.mark.parametrize(
    "override", ["seed=7", "name=other", "logger=none", "logger.tags=[a]", "run_id=abcdefgh"]
)
def test_config_id_ignores_what_changes_no_experiment(compose: Compose, override: str) -> None:
    assert identity(compose(override)) == identity(compose())


@pytest.mark.parametrize(
    "override",
    [
        *("optimizer.lr=0.06", "optimizer=adam", "model=mlp", "lr_policy=freeze_backbone"),
        *("data.seed=1", "data.limit=100", "trainer.epochs=3", "scheduler=cosine"),
        *("loss.label_smoothing=0.1", "trainer.monitor=val/accuracy"),
    ],
)
def test_config_id_changes_with_the_experiment(compose: Compose, override: str) -> None:
    assert identity(compose(override)) != identity(compose())


def test_config_id_is_the_same_for_equal_values_written_differently(compose: Compose) -> None:
    assert identity(compose("optimizer.lr=5e-2")) == identity(compose("optimizer.lr=0.05"))
    assert identity(compose("optimizer.lr=1")) == identity(compose("optimizer.lr=1.0"))
    assert len(identity(compose())) == 12


def test_portable_path_writes_the_home_folder_as_tilde(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.chdir(tmp_path)
    assert portable_path("~/data") == "~/data"
    assert portable_path(str(tmp_path / "me" / "data")) == "~/data"
    assert portable_path("me/../me/data") == "~/data"
    assert portable_path("mean/data") == str(tmp_path / "mean" / "data")
    assert portable_path("~") in ("~", "~/.")


def test_paths_are_absolute_after_the_check(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.safetensors").write_bytes(b"")
    config = compose("data=mnist", "data.root=mnist", "model.weights=w.safetensors")
    assert config.data.root == str(tmp_path / "mnist")
    assert config.model.weights == str(tmp_path / "w.safetensors")


def test_check_returns_plain_values_of_the_declared_types(compose: Compose) -> None:
    config = compose("optimizer=adam", "optimizer.lr=1", "lr_policy=per_layer")
    assert type(config.optimizer).__name__ == "Adam"
    assert type(config.optimizer.lr) is float
    assert type(config.optimizer.betas) is list
    assert type(config.lr_policy.rules[0]) is Rule
    assert os.fspath(config.name) == "simple_cnn_digits"


def test_check_resolves_every_interpolation(compose: Compose) -> None:
    config = compose("optimizer.lr=${optimizer.weight_decay}", "optimizer.weight_decay=0.5")
    assert config.optimizer.lr == 0.5


@pytest.mark.parametrize(
    ("warmup", "share"),
    [
        (0, (0.0, "share")),
        (0.1, (0.1, "share")),
        ("2 epochs", (2.0, "epochs")),
        ("1 epoch", (1.0, "epochs")),
        ("0.5 epochs", (0.5, "epochs")),
        (" 100 steps ", (100.0, "steps")),
    ],
)
def test_warmup_is_a_share_epochs_or_steps(warmup: object, share: tuple[float, str]) -> None:
    assert duration("scheduler.warmup", warmup) == share


@pytest.mark.parametrize("warmup", [1, 1.5, -0.1, True, None, "half", "2", "2 weeks", [1]])
def test_other_warmups_are_refused(warmup: object) -> None:
    with pytest.raises(ConfigError, match="is no warmup"):
        duration("scheduler.warmup", warmup)


def test_settings_of_a_group_are_those_of_all_its_options() -> None:
    assert {"lr", "momentum", "betas", "alpha", "nesterov"} <= set(settings_of("optimizer"))
    assert settings_of("lr_policy.rules[12]") == sorted(f.name for f in fields(Rule))
    assert settings_of("nothing") == []


@pytest.mark.parametrize("group", GROUPS)
def test_every_typed_setting_can_be_named_in_words(group: str) -> None:
    """A value of the wrong type is explained for any setting there is, never a crash."""
    for name in settings_of(group):
        assert "must be" in str(wrong_type(f"{group}.{name}", "wrong")), name


@pytest.mark.parametrize("name", [f.name for f in fields(Rule)])
def test_every_setting_of_a_rule_can_be_named_in_words(name: str) -> None:
    assert "must be" in str(wrong_type(f"lr_policy.rules[0].{name}", "wrong"))


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("data.classes[0]", "a list of labels or names"),
        ("data.mean[0]", "a number"),
        ("model.widths[1]", "a whole number"),
        ("logger.tags[0]", "text"),
        ("trainer.patience", "a whole number"),
        ("model.weights", "text"),
        ("optimizer.nesterov", "true or false"),
        ("lr_policy.rules", "a list of rules"),
        ("lr_policy.rules[0].lr", "a number"),
    ],
)
def test_a_wrong_type_is_explained_by_the_right_one(key: str, words: str) -> None:
    assert f"must be {words}" in str(wrong_type(key, "wrong"))


def test_only_a_list_of_rates_leads_to_per_layer() -> None:
    assert "per_layer" in str(wrong_type("optimizer.lr", [0.1, 0.01]))
    assert "per_layer" not in str(wrong_type("optimizer.lr", "fast"))
    assert "per_layer" not in str(wrong_type("optimizer.momentum", [0.1]))


def test_an_unknown_setting_says_which_option_has_it() -> None:
    assert "lr_policy=layerwise_decay" in str(unknown_setting("lr_policy.decay"))
    assert "mean optimizer.weight_decay?" in str(unknown_setting("optimizer.wd", 1, Sgd))


def test_every_group_has_a_setting_in_the_config() -> None:
    names = {f.name for f in fields(Config)}
    assert set(OPTIONS) | {"trainer"} <= names
    assert set(GROUPS) - names == {"experiment"}


def test_kinds_that_end_a_run_are_checked_one_by_one(compose: Compose) -> None:
    with pytest.raises(ConfigError, match=r"trainer.stop_on\[1\]=colapsed: is not one of the"):
        check(compose("trainer.stop_on=[diverged,colapsed]"))
    assert identity(compose("trainer.stop_on=[]")) == identity(compose())
    assert identity(compose("trainer.stop_on=[collapsed]")) != identity(compose())
