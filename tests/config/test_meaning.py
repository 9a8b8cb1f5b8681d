"""What every setting means to a run is said on its field, once."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, get_args, get_type_hints

import pytest

from lrexp.config import schema
from lrexp.config.schema import OPTIONS, Option, Trainer, meaning_of, schemas_of, settings_where
from lrexp.config.schema.meaning import Meaning, number
from lrexp.config.schema.rates import Sgd

ALLOWED = {name: set(get_args(hint)) for name, hint in get_type_hints(Meaning).items()}
OF_VALUES = {"limits", "allowed", "length"}
SECTIONS = ("", *OPTIONS, "trainer")


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_says_what_it_means_in_known_words(section: str) -> None:
    for kind in schemas_of(section):
        for f in fields(kind):
            assert set(f.metadata) <= OF_VALUES | {m.name for m in fields(Meaning)}, f.name
            meaning = meaning_of(f"{section}.{f.name}".lstrip("."))
            for name in ("resume", "path"):
                assert getattr(meaning, name) in ALLOWED[name], f.name
            for name in ("identity", "decides", "reads", "splits", "in_epochs"):
                assert isinstance(getattr(meaning, name), bool), f.name
            assert meaning.stack in ("shared", "member", "ignored") or " " in meaning.stack


@pytest.mark.parametrize("section", SECTIONS)
def test_a_setting_means_the_same_in_every_option_of_its_group(section: str) -> None:
    seen: dict[str, Any] = {}
    for kind in schemas_of(section):
        for f in fields(kind):
            said = {k: v for k, v in f.metadata.items() if k not in {*OF_VALUES, "neutral"}}
            assert seen.setdefault(f.name, said) == said, (kind, f.name)


def test_no_trainer_setting_leaves_to_a_default_what_it_is_to_id_resume_and_stack() -> None:
    for f in fields(Trainer):
        assert {"identity", "resume", "stack"} <= set(f.metadata), f.name


def test_what_changes_no_number_is_what_it_was() -> None:
    assert settings_where(identity=False, decides=False) == [
        *("name", "run_id", "logger"),
        *(f"logger.{f.name}" for f in fields(schema.training.Wandb)),
        *("task.margin", "task.like", "trainer.cache_features", "trainer.predictions"),
        *("trainer.checkpoint_every_steps", "trainer.resume"),
    ]
    assert settings_where(identity=True, decides=False) == [
        *("model.weights", "data.in_memory", "data.workers", "data.eval_sets", "data.root"),
        *("data.download", "data.path", "data.images", "trainer.device", "trainer.threads"),
    ]
    assert [key for key in settings_where(identity=False) if meaning_of(key).decides] == ["seed"]


def test_what_may_change_on_resume_is_what_it_was() -> None:
    assert settings_where(resume="ignored") == ["run_id", "trainer.resume"]
    free = ("optimizer", "lr_policy", "scheduler", "loss", "logger", "trainer")
    stays = [key for key in settings_where(resume="stays") if key.partition(".")[0] in free]
    assert set(stays) == {
        *("trainer.limit_train_batches", "trainer.monitor", "trainer.train_eval_limit"),
        *("trainer.accumulate", "trainer.ema", "trainer.metrics"),
        *("optimizer.name", "optimizer.library"),
    }
    moved = [key for key in settings_where(resume="may") if key.startswith(("data.", "model."))]
    assert set(moved) == {
        *("model.weights", "data.eval_sets", "data.root", "data.path", "data.images"),
    }


def test_members_of_a_stack_differ_in_what_they_did() -> None:
    assert [k for k in settings_where(stack="member") if "." in k and "logger" not in k] == [
        *("optimizer.lr", "optimizer.weight_decay", "optimizer.momentum", "optimizer.betas"),
        *("optimizer.eps", "optimizer.alpha"),
        *("trainer.monitor", "trainer.patience", "trainer.stop_on", "trainer.clip_grad_norm"),
    ]


def test_what_is_read_is_decided_by_data_model_and_two_of_the_trainer() -> None:
    others = [key for key in settings_where(reads=True) if not key.startswith(("data", "model"))]
    assert others == ["trainer.device", "trainer.train_eval_limit"]
    for section in ("data", "model"):
        of_section = [key for key in settings_where() if key.startswith(f"{section}.")]
        assert of_section
        assert all(meaning_of(key).reads for key in of_section)


@pytest.mark.parametrize(
    ("key", "resume", "decides"),
    [
        ("data.eval_sets.sketches", "may", False),
        ("data.normalize.mean", "stays", True),
        ("lr_policy.rules[0].lr", "may", True),
        ("logger.unknown_by_now", "may", False),
        ("trainer.unknown_by_now", "may", True),
        ("unknown_by_now", "stays", True),
    ],
)
def test_what_no_schema_has_means_what_its_section_does(
    key: str, resume: str, decides: bool
) -> None:
    assert (meaning_of(key).resume, meaning_of(key).decides) == (resume, decides)


@dataclass
class Odd(Sgd):
    momentum: float = number(stack="sometimes")


def test_a_field_that_says_nonsense_turns_the_checks_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIONS["optimizer"], "odd", Option(Odd))
    monkeypatch.setitem(OPTIONS["optimizer"], "sgd", Option(Odd))
    monkeypatch.setattr(f"{__name__}.meaning_of", meaning_of.__wrapped__)  # which remembers nothing
    with pytest.raises(AssertionError):
        test_every_field_says_what_it_means_in_known_words("optimizer")
    with pytest.raises(AssertionError):
        test_a_setting_means_the_same_in_every_option_of_its_group("optimizer")
