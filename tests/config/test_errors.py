"""The nearest valid name, and how a mistake is said."""

from __future__ import annotations

import pytest

from lrexp.config.errors import ConfigError, did_you_mean, nearest, no_option, unknown_setting

SETTINGS = ["optimizer.lr", "optimizer.weight_decay", "trainer.epochs", "lr_policy", "data.seed"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("optimizer.learning_rate", "optimizer.lr"),
        ("optimizer.learningRate", "optimizer.lr"),
        ("optimizer.rate", "optimizer.lr"),
        ("learning-rate", "optimizer.lr"),
        ("lr", "optimizer.lr"),
        ("wd", "optimizer.weight_decay"),
        ("weightdecay", "optimizer.weight_decay"),
        ("trainer.epoch", "trainer.epochs"),
        ("Trainer.Epochs", "trainer.epochs"),
        ("num_epochs", "trainer.epochs"),
        ("policy", "lr_policy"),
        ("lr_polcy", "lr_policy"),
    ],
)
def test_nearest_finds_what_was_meant(typed: str, meant: str) -> None:
    assert nearest(typed, SETTINGS) == meant


def test_nearest_prefers_the_exact_name_and_knows_when_nothing_is_near() -> None:
    assert nearest("rate", ["lr", "rate"]) == "rate"
    assert nearest("xylophone", SETTINGS) is None
    assert nearest("anything", []) is None


def test_did_you_mean_lists_every_choice_once_and_sorted() -> None:
    assert did_you_mean("sdg", ["sgd", "adam", "sgd"]) == "did you mean 'sgd'? allowed: adam, sgd"
    assert did_you_mean("xylophone", ["sgd", "adam"]) == "allowed: adam, sgd"


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("smok", "did you mean 'smoke'? allowed: lessons/NAME, smoke"),
        ("nothing", "allowed: lessons/NAME, smoke"),
        ("too_high", "did you mean 'lessons/too_high'? allowed: lessons/NAME, smoke"),
        ("lesson/too_hihg", "did you mean 'lessons/too_high'? allowed: lessons/NAME, smoke"),
        (
            "lessons/to_high",
            "did you mean 'lessons/too_high'? allowed in lessons/: lr_zero, too_high",
        ),
        ("lessons/nothing", "allowed in lessons/: lr_zero, too_high"),
        ("lessons", "it is a folder: write experiment=lessons/NAME; allowed: lr_zero, too_high"),
    ],
)
def test_an_option_in_a_folder_is_found(typed: str, hint: str) -> None:
    options = ["smoke", "lessons/too_high", "lessons/lr_zero"]
    assert no_option("experiment", typed, options).hint == hint


@pytest.mark.parametrize(
    ("group", "typed", "hint"),
    [
        (
            "lr_policy",
            "freeze",
            "did you mean 'freeze_backbone'? allowed: freeze_backbone, uniform",
        ),
        ("optimizer", "ASGD", "write optimizer=torch optimizer.name=ASGD; allowed: "),
        ("model", "convnext_atto", "write model=timm model.name=convnext_atto; allowed: "),
    ],
)
def test_what_other_tools_call_an_option_is_found(group: str, typed: str, hint: str) -> None:
    assert hint in no_option(group, typed, ["uniform", "freeze_backbone"]).hint


def test_a_setting_as_other_tools_call_it_is_found() -> None:
    assert "did you mean trainer.clip_grad_norm?" in unknown_setting("gradient_clip_val").hint


def test_an_error_says_what_where_and_what_would_be_right() -> None:
    error = ConfigError("optimizer.lr", "must be above 0", "try 0.1", -1, "the command line")
    assert str(error).splitlines() == [
        "optimizer.lr=-1: must be above 0",
        "  try 0.1",
        "  from the command line",
    ]
    assert str(ConfigError("", "no such folder")) == "no such folder"


def test_a_long_value_is_cut() -> None:
    said = str(ConfigError("lr_policy.rules", "must be a list", given="x" * 5000))
    assert len(said) < 160
    assert said.endswith("...: must be a list")
