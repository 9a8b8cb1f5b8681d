"""Every setting of the trainer is one for a member of a stack, or a reason not to stack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import pytest
from trainers import Silent

from lrexp.config.schema import Trainer as Settings
from lrexp.config.schema.meaning import number
from lrexp.grid.stack.probe import probe, refused_setting
from lrexp.grid.stack.trainer import StackedTrainer, shared
from lrexp.train.loop import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = ("data.limit=80", "data.leak_check=skip", "trainer.epochs=2", "optimizer.lr=0.2")
# Of every setting one value for all members, or one for each.
SHARED = {
    "epochs": "3",
    "max_steps": "7",
    "limit_train_batches": "3",
    "device": "cpu",
    "threads": "1",
    "deterministic": "true",
    "train_eval_limit": "20",
    "eval_batch_size": "7",
    "stats_every": "2",
    "metrics": "{right: own_parts.right}",
}
MEMBER = {
    "monitor": ("val/loss", "gap/loss"),
    "patience": ("null", "1"),
    "stop_on": ("[]", "[collapsed]"),
    "clip_grad_norm": ("null", "0.3"),
    "resume": ("never", "auto"),  # has no effect
    "cache_features": ("auto", "never"),
    "predictions": ("auto", "none"),
}
REFUSED = {
    "checkpoint_every_steps": "2",
    "precision": "bf16",
    "channels_last": "true",
    "compile": "aot_eager",
    "cuda_graph": "true",
    "accumulate": "2",
    "ema": "0.9",
    "sync_batchnorm": "true",
}
WITH = {"patience": ("trainer.monitor=gap/loss", "trainer.epochs=4")}  # where it stops a run
MAKES_NO_DIFFERENCE = ("device", "threads", "deterministic", "eval_batch_size", "resume", "stop_on")
MAKES_NO_DIFFERENCE += ("cache_features", "predictions")


def untested(schema: type) -> set[str]:
    """Settings of which nothing here says how members of a stack have them."""
    return {f.name for f in fields(schema)} - {*SHARED, *MEMBER, *REFUSED}


def declared(schema: type, *how: str) -> set[str]:
    return {f.name for f in fields(schema) if f.metadata.get("stack") in how}


def test_every_setting_is_tested_as_it_is_declared() -> None:
    assert untested(Settings) == set()
    assert declared(Settings, "shared") == set(SHARED)
    assert declared(Settings, "member", "ignored") == set(MEMBER)


@dataclass
class More(Settings):
    """Has a setting that says nothing of members."""

    lookahead: int = number(at_least=1)


def test_a_setting_that_does_not_say_how_it_is_stacked_is_refused_and_seen(
    prepare: Callable[..., Trainer],
) -> None:
    trainer = prepare(*SHORT)
    assert probe(trainer) is None
    more = More(**vars(trainer.settings))
    more.lookahead = 2
    trainer.settings = more
    assert (probe(trainer) or "").startswith("trainer.lookahead does not say")
    assert untested(More) == {"lookahead"}


@pytest.mark.parametrize("name", REFUSED)
def test_a_setting_of_single_runs_is_refused_with_its_reason(
    prepare: Callable[..., Trainer], name: str
) -> None:
    settings = prepare(*SHORT).settings
    assert refused_setting(settings) is None
    setattr(settings, name, REFUSED[name])
    assert f"trainer.{name} " in (refused_setting(settings) or "")


@pytest.fixture(autouse=True)
def _allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LREXP_ALLOW_TARGETS", "own_parts")


def timeless(trainer: Trainer) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if not k.startswith("perf/")} for r in trainer.rows]


def outcome(trainer: Trainer) -> tuple[Any, ...]:
    return trainer.best.epoch, len(trainer.rows), [set(row) for row in timeless(trainer)]


@pytest.mark.parametrize("name", [*SHARED, *MEMBER])
def test_members_have_a_setting_as_runs_of_their_own_have_it(
    prepare: Callable[..., Trainer], name: str
) -> None:
    short = (*SHORT, *WITH.get(name, ()))
    values = MEMBER.get(name) or (SHARED[name],) * 2
    settings = [
        (*short, f"trainer.{name}={value}", f"optimizer.lr={lr}")
        for value, lr in zip(values, (0.05, 0.4), strict=True)
    ]
    together, alone = ([prepare(*own) for own in settings] for _ in range(2))
    assert [probe(trainer) for trainer in together] == [None, None]
    StackedTrainer(together).run([Silent()] * 2, [None] * 2, [None] * 2)
    for one, other in zip(together, alone, strict=True):
        other.run(Silent())
        assert outcome(one) == outcome(other)
        for ours, theirs in zip(timeless(one), timeless(other), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    # The comparison sees the setting: without it the second run is another.
    plain = prepare(*short, "optimizer.lr=0.4")
    plain.run(Silent())
    same = outcome(plain) == outcome(alone[1]) and all(
        ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
        for ours, theirs in zip(timeless(plain), timeless(alone[1]), strict=True)
    )
    assert same == (name in MAKES_NO_DIFFERENCE)


@pytest.mark.parametrize("name", [*SHARED, *MEMBER])
def test_settings_keep_members_apart_where_they_are_shared(
    prepare: Callable[..., Trainer], name: str
) -> None:
    one, other = prepare(*SHORT), prepare(*SHORT)
    setattr(other.settings, name, "another")
    assert (shared(one) == shared(other)) == (name in MEMBER)


def test_a_member_that_collapsed_ends_and_the_others_go_on(
    prepare: Callable[..., Trainer],
) -> None:
    thrown = ("model=mlp", "optimizer.lr=0.3", "trainer.epochs=6", "seed=1")
    asked = ("[collapsed]", "[]")
    members = [prepare(*thrown, f"trainer.stop_on={kinds}") for kinds in asked]
    assert [probe(trainer) for trainer in members] == [None, None]
    StackedTrainer(members).run([Silent()] * 2, [None] * 2, [None] * 2)
    assert [trainer.stopped_by for trainer in members] == ["collapsed", ""]
    lengths = [len(trainer.rows) for trainer in members]
    assert lengths[0] < lengths[1] == 6
    guessing = [row["guessing"] for row in members[0].rows]
    assert guessing[-2:] == [1, 1]
    assert 0 in guessing
