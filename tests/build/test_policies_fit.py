"""Every policy as shipped fits any length of training, any rate and any depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from lrexp.build.data import stated_data
from lrexp.build.experiment import build_preview
from lrexp.build.model import build_model
from lrexp.build.rates import build_plan, build_rates, refuse_moved_lengths
from lrexp.build.schedule import Steps, count_steps
from lrexp.config.errors import ConfigError
from lrexp.config.schema import OPTIONS
from lrexp.models.layers import LayerMap
from lrexp.plan.plan import Plan

Compose = Callable[..., Any]
POLICIES = tuple(name for name in OPTIONS["lr_policy"] if name != "custom")  # see test_own_parts
PER_EPOCH = 7
# Under these some of the network never trains, whatever the length of training; under freezeout
# and all others every layer does.
HOLD_BACK = {"freeze_backbone", "surgical", "bias_norm_only", "auto_rgn"}


@pytest.fixture(scope="module")
def layers_of(_composer: Compose) -> Callable[[str], LayerMap]:
    @cache
    def layers(model: str) -> LayerMap:
        config = _composer(*model.split())
        return build_model(config, stated_data(config), meta=True)[1]

    return layers


def trained_in_time(plan: Plan, epochs: int) -> set[str]:
    return {r.name for r in plan.rows if any(r.trains_after(done) for done in range(epochs))}


@pytest.mark.parametrize("policy", POLICIES)
def test_as_shipped_a_policy_fits_any_length_rate_and_depth(
    policy: str, compose: Compose, layers_of: Callable[[str], LayerMap]
) -> None:
    models = ("model=simple_cnn", "model=mlp", "model=mlp model.widths=[8]", "model=resnet18")
    for epochs in (1, 2, 3, 4, 10):
        config = compose(f"lr_policy={policy}", f"trainer.epochs={epochs}")
        for model in models:
            layers, plans = layers_of(model), []
            for lr in (1e-6, 1e-3, 1.0):
                config.optimizer.lr = lr
                plan = build_plan(config, layers, Steps(PER_EPOCH, epochs * PER_EPOCH))
                assert {r.name for r in plan.rows} == {p.name for p in layers.parameters}
                assert len(plan.rows) == len(layers.parameters)
                assert all(r.frozen or r.lr_scale > 0 for r in plan.rows)
                assert not plan.never_reached(epochs), (epochs, model)
                assert (plan.schedule_restart or 0) < epochs
                plans.append(plan)
            assert plans[0] == plans[1] == plans[2]  # relative to the rate
            if policy not in HOLD_BACK:
                everything = {p.name for p in layers.parameters}
                assert trained_in_time(plans[0], epochs) == everything, (epochs, model)
    build_preview(compose(f"lr_policy={policy}", "trainer.epochs=1", "optimizer.lr=1e-6"))


@pytest.mark.parametrize("policy", POLICIES)
def test_as_shipped_a_policy_fits_what_max_steps_leaves(policy: str, compose: Compose) -> None:
    shown = build_preview(compose(f"lr_policy={policy}", "trainer.max_steps=120"))
    assert shown.total_steps == 120  # 68 in an epoch
    assert not shown.plan.never_reached(2)


def starts(plan: Plan) -> list[int]:
    return list({r.layer: r.trainable_from for r in plan.rows}.values())


def test_gradual_unfreezing_spreads_over_the_first_half_of_training(
    compose: Compose, layers_of: Callable[[str], LayerMap]
) -> None:
    cnn, resnet = layers_of("model=simple_cnn"), layers_of("model=resnet18")
    config = compose("lr_policy=gradual_unfreeze")

    def spread(layers: LayerMap, epochs: int, **settings: Any) -> list[int]:
        policy = replace(config.lr_policy, **settings)
        steps = Steps(PER_EPOCH, epochs * PER_EPOCH)
        return starts(build_plan(replace(config, lr_policy=policy), layers, steps))

    assert [spread(cnn, epochs) for epochs in (1, 2, 3, 4, 10, 15)] == [
        [0, 0, 0], [1, 1, 0], [1, 1, 0], [2, 1, 0], [5, 3, 0], [7, 4, 0],
    ]  # fmt: skip
    assert resnet.depth == 10
    assert spread(resnet, 4) == [2, 2, 2, 2, 2, 1, 1, 1, 1, 0]  # more layers than epochs: together
    assert spread(resnet, 4, groups=3) == [2, 2, 2, 2, 2, 1, 1, 1, 1, 0]
    assert spread(cnn, 10, every=2) == [4, 2, 0]
    assert spread(cnn, 10, every="2 epochs") == spread(cnn, 10, every=0.2) == [4, 2, 0]
    assert spread(cnn, 10, every="1.5 epochs") == [3, 2, 0]


def test_linear_probing_takes_a_third_of_the_epochs(
    compose: Compose, layers_of: Callable[[str], LayerMap]
) -> None:
    cnn, config = layers_of("model=simple_cnn"), compose("lr_policy=lp_ft")
    found = [
        build_plan(config, cnn, Steps(PER_EPOCH, epochs * PER_EPOCH)) for epochs in range(2, 17)
    ]
    restarts = [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5]
    assert [plan.schedule_restart for plan in found] == restarts
    single = build_plan(config, cnn, Steps(PER_EPOCH, PER_EPOCH))  # no room for two phases
    assert {(r.lr_scale, r.trainable_from, r.g) for r in single.rows} == {(0.1, 0, "")}
    assert single.schedule_restart is None


def test_freezeout_ends_where_max_steps_does(compose: Compose) -> None:
    config = compose("lr_policy=freezeout", "trainer.max_steps=100")  # 68 in an epoch
    steps = count_steps(config, 1079)
    assert (steps.per_epoch, steps.total) == (68, 100)
    plan = build_preview(config).plan
    head = next(r for r in plan.rows if r.head)
    tables = plan.factors(steps.total, steps.per_epoch)
    assert head.trainable_until == 2
    assert tables[head.group][-1] == pytest.approx(0, abs=1e-3)
    assert tables[head.group][50] == pytest.approx(0.5)


def remarks(compose: Compose, *overrides: str) -> list[str]:
    config = compose(*overrides)
    stated = stated_data(config)
    model, layers = build_model(config, stated, meta=True)
    return build_rates(config, model, layers, count_steps(config, stated.train_size)).remarks


def test_what_a_length_comes_to_is_remarked_where_nobody_would_expect_it(compose: Compose) -> None:
    for policy, setting in (("lp_ft", "head_epochs"), ("gradual_unfreeze", "every")):
        assert remarks(compose, f"lr_policy={policy}", "trainer.epochs=2") == []
        (said,) = remarks(compose, f"lr_policy={policy}", "trainer.epochs=1")
        assert "one epoch leaves nothing to wait for" in said
        assert f"lr_policy.{setting} comes to no epoch" in said
    (said,) = remarks(
        compose, "lr_policy=gradual_unfreeze", "lr_policy.every=2", "trainer.epochs=4"
    )
    assert "2 tensors would first train after the last epoch" in said
    assert "lr_policy.every=null reaches all of them" in said
    (said,) = remarks(compose, "scheduler=multistep", "trainer.epochs=8")
    assert said == (
        "scheduler.milestones: training ends after 8 epochs, so the rate does not drop at 8, 12"
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["lr_policy=lp_ft", "lr_policy.head_epochs=4", "trainer.epochs=4"],
            r"head_epochs=4: leaves nothing of 4 epochs[^\n]*\n  write .*head_epochs=0.33.*most 3",
        ),
        (
            ["lr_policy=lp_ft", "lr_policy.head_epochs=1", "trainer.max_steps=7"],
            r"head_epochs=1: leaves nothing of 1 epoch for[^\n]*\n  write .*head_epochs=0.33",
        ),
        (["lr_policy=lp_ft", "lr_policy.head_epochs='1.5 epochs'"], r"must be whole epochs\n.*=2"),
        (["lr_policy=lp_ft", "lr_policy.head_epochs='9 steps'"], r"no length\n.*or '2 epochs'"),
        (["lr_policy=lp_ft", "lr_policy.head_epochs=null"], r"head_epochs=null: is no length"),
        (["lr_policy=gradual_unfreeze", "lr_policy.every=0"], r"must be longer than 0"),
        (["lr_policy=gradual_unfreeze", "lr_policy.every=true"], r"is no length"),
        (
            ["lr_policy=discriminative", "lr_policy.lr_low=0.1", "optimizer.lr=0.01"],
            r"lr_low=0.1: is above optimizer.lr=0.01\n  write .*stem_scale=0.01",
        ),
        (
            ["lr_policy=freeze_backbone", "lr_policy.unfreeze_last=2"],
            r"none of the 3 layers frozen\n  write at most 1",
        ),
    ],
)
def test_what_was_given_and_does_not_fit_names_what_to_write(
    compose: Compose, overrides: list[str], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        remarks(compose, *overrides)
    caught.match(said)


def test_discriminative_is_relative_unless_a_rate_or_ratio_is_given(
    compose: Compose, layers_of: Callable[[str], LayerMap]
) -> None:
    def scales(*overrides: str) -> list[float]:
        config = compose("lr_policy=discriminative", *overrides)
        plan = build_plan(config, layers_of("model=simple_cnn"), Steps(1, 1))
        return list({r.layer: r.lr_scale for r in plan.rows}.values())

    assert scales() == pytest.approx([0.01, 0.1, 1])
    assert scales("lr_policy.stem_scale=0.25", "optimizer.lr=1e-6") == pytest.approx([0.25, 0.5, 1])
    assert scales("lr_policy.ratio=2") == pytest.approx([0.25, 0.5, 1])
    assert scales("lr_policy.lr_low=0.0005") == pytest.approx([0.01, 0.1, 1])
    assert scales("lr_policy.lr_high=0.1") == pytest.approx([0.02, 0.2, 2])
    for other in ("ratio=2", "lr_low=0.001"):
        with pytest.raises(ConfigError, match="stem_scale are both given"):
            scales("lr_policy.stem_scale=0.1", f"lr_policy.{other}")


@pytest.mark.parametrize(
    ("policy", "setting", "kept", "new"),
    [
        ("lp_ft", "head_epochs", "5", "10"),
        ("gradual_unfreeze", "every", "'3.5 epochs'", "'7.5 epochs'"),
    ],
)
def test_a_plan_that_longer_training_would_change_is_kept_by_the_value_that_the_error_names(
    policy: str,
    setting: str,
    kept: str,
    new: str,
    compose: Compose,
    layers_of: Callable[[str], LayerMap],
) -> None:
    cnn, key = layers_of("model=simple_cnn"), f"lr_policy.{setting}"
    then = compose(f"lr_policy={policy}")
    saved = {"lr_policy": vars(then.lr_policy), "trainer": vars(then.trainer)}
    longer = compose(f"lr_policy={policy}", "trainer.epochs=30")
    with pytest.raises(ConfigError) as caught:
        refuse_moved_lengths(saved, longer, cnn.depth, 1079)
    assert f"write {key}={kept} to keep the plan as it was" in caught.value.hint
    assert f"or {key}={new} to go on under the new one" in caught.value.hint
    plans = {}
    for value in (kept, new):
        explicit = compose(f"lr_policy={policy}", "trainer.epochs=30", f"{key}={value}")
        refuse_moved_lengths(saved, explicit, cnn.depth, 1079)  # chosen, not moved
        plans[value] = build_plan(explicit, cnn, count_steps(explicit, 1079))
    assert plans[kept] == build_plan(then, cnn, count_steps(then, 1079))
    assert plans[new] == build_plan(longer, cnn, count_steps(longer, 1079))
    same = compose(f"lr_policy={policy}", "optimizer.lr=0.01")
    refuse_moved_lengths(saved, same, cnn.depth, 1079)
    refuse_moved_lengths({}, longer, cnn.depth, 1079)  # nothing is known


def test_a_policy_over_all_of_training_does_not_go_on_over_another_length(compose: Compose) -> None:
    then = compose("lr_policy=freezeout", "trainer.max_steps=100")
    saved = {"lr_policy": vars(then.lr_policy), "trainer": vars(then.trainer)}
    refuse_moved_lengths(saved, then, 3, 1079)
    shorter = compose("lr_policy=freezeout", "trainer.max_steps=120")
    with pytest.raises(ConfigError, match=r"freezeout: spreads .* 100 steps when .* 120 now"):
        refuse_moved_lengths(saved, shorter, 3, 1079)
    asked = compose("lr_policy=freezeout", "trainer.epochs=20")  # and with it lr_policy.epochs
    refuse_moved_lengths(saved, asked, 3, 1079)


@pytest.mark.parametrize(
    "override",
    [
        f"lr_policy.head_epochs={'9' * 400}",
        f"lr_policy.head_epochs='{'9' * 400} epochs'",
        f"scheduler.warmup='{'9' * 400} steps'",
    ],
)
def test_a_length_beyond_any_float_is_no_length(compose: Compose, override: str) -> None:
    with pytest.raises(ConfigError, match=r"is no (length|warmup)"):
        compose("lr_policy=lp_ft", override)
