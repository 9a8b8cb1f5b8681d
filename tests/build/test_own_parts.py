"""lr_policy, scheduler, loss and metrics of the user's own: what they may be, and what is said."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np
import own_parts
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from trainers import Silent, trainer_of

from lrexp.build.experiment import build
from lrexp.config.check import check, config_id
from lrexp.config.errors import ConfigError
from lrexp.config.parts import given, source_hashes, target_of
from lrexp.config.schema import direction
from lrexp.grid.stack.probe import probe
from lrexp.grid.stack.trainer import StackedTrainer
from lrexp.train.experiment import Experiment
from lrexp.train.own_metrics import scores_of

Compose = Callable[..., Any]
SHORT = ("data.limit=80", "data.leak_check=skip", "trainer.epochs=2", "optimizer.lr=0.2")


@pytest.fixture(autouse=True)
def _allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LREXP_ALLOW_TARGETS", "own_parts,torch")


def policy(compose: Compose, target: str, *more: str) -> Experiment:
    chosen = ("lr_policy=custom", f"lr_policy.target=own_parts.{target}")
    return build(compose(*SHORT, *chosen, *more))


def scales(experiment: Experiment) -> list[float]:
    """By layer."""
    return list(dict.fromkeys((row.layer, row.lr_scale) for row in experiment.plan.rows))  # type: ignore[return-value]


# --- Policies and schedules -----------------------------------------------------------------------


def test_a_policy_gives_a_scale_per_layer(compose: Compose) -> None:
    experiment = policy(compose, "slower", "lr_policy.args.factor=0.3", "optimizer.weight_decay=1")
    assert scales(experiment) == [(0, pytest.approx(0.09)), (1, 0.3), (2, 1.0)]
    decayed = {row.name: row.weight_decay for row in experiment.plan.rows}
    assert (decayed["conv.weight"], decayed["conv.bias"]) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("names", [0.1, 0.5, 1.0]),
        ("frozen", [0.0, 1.0, 1.0]),
        ("rules", [0.25, 0.25, 1.0]),
        ("plan", [0.5, 0.5, 0.5]),
    ],
)
def test_a_policy_may_say_it_in_other_forms(
    compose: Compose, what: str, expected: list[float]
) -> None:
    experiment = policy(compose, "says", f"lr_policy.args.what={what}")
    assert [scale for _, scale in scales(experiment)] == expected
    assert {row.frozen for row in experiment.plan.rows if row.layer == 0} == {expected[0] == 0}


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("part", r"not one of every parameter once \(head\.bias, head\.weight\)"),
        ("few", r"gave 1 scales for 3 layers\n  the layers are 0 to 2: conv, hidden, head"),
        ("unknown", r"names a layer 'convolution' that is not there\n  allowed: backbone, conv"),
        ("negative", "gave a scale of -1"),
        ("text", "gave a str where a number is wanted"),
        ("nothing", r"gave a NoneType\n  it returns a scale per layer"),
        ("rule", r"lr_policy\.rules\[0\]\.layer.*no such setting"),
        ("empty rule", r"lr_policy\.rules\[0\]: gives nothing"),
        ("other", r"raised KeyError: 'other'\n.*called with layers, base_lr, what"),
    ],
)
def test_what_a_policy_may_not_return_is_said(compose: Compose, what: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        policy(compose, "says", f"lr_policy.args.what={what}")


def test_an_argument_that_lrexp_gives_is_refused(compose: Compose) -> None:
    with pytest.raises(ConfigError, match=r"lr_policy\.args\.layers=3: is given by lrexp"):
        policy(compose, "slower", "lr_policy.args.layers=3")
    with pytest.raises(ConfigError, match=r"own_parts has no slowr\n  did you mean 'slower'\?"):
        policy(compose, "slowr")


def test_a_schedule_is_called_for_every_step_after_the_warmup(compose: Compose) -> None:
    own = ("scheduler=custom", "scheduler.target=own_parts.halves", "scheduler.args.times=4")
    schedule = build(compose(*SHORT, *own, "scheduler.floor=0.2")).schedule
    steps = len(schedule)
    assert schedule == [max(0.2, 0.5 ** (4 * t // steps)) for t in range(steps)]
    warm = build(compose(*SHORT, *own, "scheduler.warmup='1 steps'")).schedule
    assert warm == [0.5, *(0.5 ** (4 * t // (steps - 1)) for t in range(steps - 1))]
    with pytest.raises(ConfigError, match=r"own_parts\.falls_below: gave -1 at step 2 of"):
        build(compose(*SHORT, *own[:1], "scheduler.target=own_parts.falls_below"))


# --- Losses ---------------------------------------------------------------------------------------


def loss(compose: Compose, target: str, *more: str) -> Experiment:
    return build(compose(*SHORT, "loss=custom", f"loss.target={target}", *more))


def test_a_loss_per_image_divides_by_the_images_of_the_whole_step(compose: Compose) -> None:
    found = loss(compose, "own_parts.focal", "loss.args.gamma=1").loss
    logits = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6)
    whole = own_parts.focal(logits, labels, gamma=1.0).mean()
    assert found(logits, labels) == whole
    share = found.over(found.normaliser(labels))
    parts = share(logits[:4], labels[:4]) + share(logits[4:], labels[4:])
    assert parts.item() == pytest.approx(whole.item(), rel=1e-6)
    mean = loss(compose, "own_parts.mean_of_focal").loss
    parts = mean.over(6)(logits[:4], labels[:4]) + mean.over(6)(logits[4:], labels[4:])
    assert parts.item() == pytest.approx(own_parts.focal(logits, labels).mean().item(), rel=1e-6)


def test_a_class_of_losses_is_made_with_its_arguments(compose: Compose) -> None:
    logits, labels = torch.randn(4, 10), torch.arange(4)
    expected = torch.nn.MultiMarginLoss(margin=0.5)(logits, labels)
    for target in ("own_parts.Margin", "torch.nn.MultiMarginLoss"):
        found = loss(compose, target, "loss.args.margin=0.5").loss
        assert found(logits, labels) == expected


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("own_parts.Weighed", "has parameters of its own"),
        ("own_parts.detached", "does not depend on the logits"),
        ("own_parts.NUMBER", "is a int, no function and no class"),
        ("own_parts.brier", r"raised .*\n.*called with logits 8×10 and labels 8 of int64"),
        ("torch.nn.MSELoss", r"raised RuntimeError: The size of tensor"),
        ("own_parts.sum_of_focal", "gives the sum over images"),
        ("own_parts.by_class", r"gave a tensor \(8, 10\) for 8 images"),
    ],
)
def test_what_is_no_loss_is_said_before_training(compose: Compose, target: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        loss(compose, target)


def test_a_loss_says_whether_it_is_for_several_labels(compose: Compose) -> None:
    with pytest.raises(ConfigError, match=r"has one\n  write loss\.several=false"):
        loss(compose, "own_parts.focal", "loss.several=true")


# --- Metrics --------------------------------------------------------------------------------------

METRICS = ("trainer.metrics.right=own_parts.right", "trainer.metrics.brier_loss=own_parts.brier")


def test_metrics_see_all_scores_and_decide_where_the_monitor_follows_them(compose: Compose) -> None:
    config = compose(*SHORT, *METRICS, "trainer.monitor=val/brier_loss")
    trainer = trainer_of(config)
    trainer.run(Silent())
    rows, val = trainer.rows, trainer.experiment.dataset.val
    with torch.no_grad():
        logits = trainer.experiment.model.eval()(val.images)
    scores = scores_of(logits, val.labels)
    assert np.allclose(scores.sum(1), 1.0, atol=1e-12)
    assert rows[-1]["val/brier_loss"] == pytest.approx(own_parts.brier(scores, val.labels.numpy()))
    assert [row["val/right"] for row in rows] == [row["val/accuracy"] for row in rows]
    assert [r["train_eval/right"] for r in rows] == [r["train_eval/accuracy"] for r in rows]
    lowest = min(rows, key=lambda row: row["val/brier_loss"])
    assert trainer.best.epoch == lowest["epoch"]


def test_the_name_of_a_metric_says_which_way_is_better() -> None:
    ways = {name: direction(f"val/{name}") for name in ("kappa", "brier_loss", "top_error", "loss")}
    assert ways == {"kappa": "max", "brier_loss": "min", "top_error": "min", "loss": "min"}


def test_arguments_of_metrics_are_kept_and_count(compose: Compose) -> None:
    metric = "trainer.metrics.sure={target: own_parts.right, args: {at_least: 0.99}}"
    experiment = build(compose(*SHORT, metric))
    scores = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    assert experiment.metrics["sure"](scores, np.array([0, 0, 0])) == pytest.approx(1 / 3)
    # no metric, no other id than before there were any
    configs = [compose(*more) for more in ([], [metric], METRICS[:1])]
    ids = {config_id(check(OmegaConf.structured(config))[0]) for config in configs}
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("accuracy=own_parts.right", "is measured anyway"),
        ("Right=own_parts.right", "must be named with small letters"),
        ("right_se=own_parts.right", "not ending with _se"),
        ("right=3", r"right=3: names no function\n  write trainer\.metrics\.right=package"),
        ("right={target: own_parts.right, arg: 3}", r"metrics\.right\.arg: is no setting"),
        ("right={target: own_parts.right, args: {_target_: x}}", "arguments are plain values"),
        ("right=os.getcwd", "is in a package that is not allowed"),
    ],
)
def test_a_metric_that_cannot_be_is_refused_as_it_is_composed(
    compose: Compose, metric: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        compose(f"trainer.metrics.{metric}")


def test_a_metric_that_fails_says_so_before_training(compose: Compose) -> None:
    for name, said in (("fails", "raised RuntimeError: no such thing"), ("nested", "gave a list")):
        with pytest.raises(ConfigError, match=rf"trainer\.metrics\.own=own_parts\.{name}: {said}"):
            build(compose(*SHORT, f"trainer.metrics.own=own_parts.{name}"))
    with pytest.raises(ConfigError, match=r"did you mean 'val/right'\?.*val/right"):
        compose(METRICS[0], "trainer.monitor=val/rigt")


# --- Together -------------------------------------------------------------------------------------


def test_own_parts_train_in_a_stack_as_they_do_alone(compose: Compose, one_thread: None) -> None:
    own = (*SHORT, *METRICS, "loss=custom", "loss.target=own_parts.focal", "lr_policy=custom")
    own += ("lr_policy.target=own_parts.slower", "scheduler=custom")
    own += ("scheduler.target=own_parts.halves", "trainer.monitor=val/right")
    settings = [(*own, f"lr_policy.args.factor={f}") for f in (0.4, 0.8)]
    together, alone = ([trainer_of(compose(*one)) for one in settings] for _ in range(2))
    assert [probe(trainer) for trainer in together] == [None, None]
    StackedTrainer(together).run([Silent()] * 2, [None] * 2, [None] * 2)
    for stacked, single in zip(together, alone, strict=True):
        single.run(Silent())
        for key in ("val/brier_loss", "train_eval/right", "train/loss"):
            found = [row[key] for row in stacked.rows]
            assert found == pytest.approx([row[key] for row in single.rows], rel=1e-4), key


def test_what_no_stack_can_do_is_refused_with_the_reason(compose: Compose) -> None:
    trainer = trainer_of(compose(*SHORT, "loss=custom", "loss.target=own_parts.of_values"))
    assert "or of the loss, has no form for several" in (probe(trainer) or "")


# --- What parts are called ------------------------------------------------------------------------


def scaled(by: float) -> Callable[[int], float]:
    return lambda step: by


def test_functions_without_a_name_are_told_apart_by_code_and_values() -> None:
    assert target_of(own_parts.slower) == "own_parts.slower"
    made = [scaled(1.0), scaled(2.0), scaled(1.0), lambda step: 3.0, lambda step: 4.0]
    made += [partial(own_parts.right, at_least=0.1), partial(own_parts.right, at_least=0.2)]
    made += [torch.nn.MultiMarginLoss(margin=0.1), torch.nn.MultiMarginLoss(margin=0.2)]
    targets = list(map(target_of, made))
    assert targets[0] == targets[2]
    assert len(set(targets)) == len(targets) - 1
    assert {target.partition(".")[0] for target in targets} == {"in_memory"}


def test_functions_are_told_apart_by_what_they_call_and_by_arrays_they_hold() -> None:
    ones, twos = torch.ones(2), torch.full((2,), 2.0)
    holders = [SimpleNamespace(value=1.0), SimpleNamespace(value=2.0)]
    made: list[Any] = [lambda scores, labels: math.sin(1), lambda scores, labels: math.cos(1)]
    made += [lambda step: 1.0, lambda total_steps: 1.0, partial(max, ones), partial(max, twos)]
    made += [partial(max, np.ones(2)), partial(max, np.zeros(2))]
    made += [nn.CrossEntropyLoss(weight=ones), nn.CrossEntropyLoss(weight=twos)]
    made += [MethodType(lambda self: self.value, holder) for holder in holders]
    made += [(lambda within: lambda step: within(step))(one) for one in (math.sin, math.cos)]
    assert len(set(map(target_of, made))) == len(made)


def test_what_a_function_is_called_does_not_depend_on_the_program() -> None:
    made = [eval("lambda x: [i for i in x if i in {'a', 'b', 'c'}]") for _ in range(2)]
    assert target_of(made[0]) == target_of(made[1])


def test_a_metric_that_writes_to_its_scores_changes_no_other(compose: Compose) -> None:
    words = [f"trainer.metrics.{name}=__main__.{name}" for name in ("first", "second")]

    def first(scores: np.ndarray, labels: np.ndarray) -> float:
        scores.fill(0)
        labels.fill(0)
        return 0.0

    def second(scores: np.ndarray, labels: np.ndarray) -> float:
        return scores.sum() + labels.max()

    with given({"__main__.first": first, "__main__.second": second}):
        metrics = build(compose(*SHORT, *words)).metrics
    scores, labels = np.ones((3, 2)), np.array([0, 1, 1])
    assert [measure(scores, labels) for measure in metrics.values()] == [0.0, 7.0]


def test_a_part_that_was_handed_over_is_known_to_that_call_alone(compose: Compose) -> None:
    words = ("scheduler=custom", "scheduler.target=__main__.halving")
    with pytest.raises(ConfigError, match=r"nobody else .*\n.*lrexp\.run.*scheduler=\.\.\."):
        compose(*words)
    with given({"__main__.halving": lambda step: 0.5**step}):
        assert build(compose(*SHORT, *words)).schedule[:3] == [1.0, 0.5, 0.25]
    with pytest.raises(ConfigError, match="nobody else can find it"):
        compose(*words)


def test_sources_are_known_by_module(compose: Compose) -> None:
    one = source_hashes(["own_parts.slower"])
    assert one == source_hashes(["own_parts.right", "own_parts.slower", "not_imported.at_all"])
    assert set(one) == {"own_parts"}
    assert math.prod(map(len, one.values())) == 16
