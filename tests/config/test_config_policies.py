"""What a policy's settings may be together, and sweeps that would change nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lrexp.config.errors import ConfigError

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["lr_policy=layerwise_decay", "lr_policy.stem_scale=0.1"],
            r"lr_policy.decay=0.75: and stem_scale are both given\n.*lr_policy.decay=null",
        ),
        (
            ["lr_policy=layerwise_decay", "lr_policy.decay=null"],
            r"lr_policy.decay: and stem_scale are both empty",
        ),
        (
            ["lr_policy=ulmfit", "lr_policy.lr_low=0.0005"],
            r"lr_policy.lr_low=0.0005: and ratio are both given\n.*lr_policy.ratio=null",
        ),
        (["lr_policy=ulmfit", "lr_policy.ratio=0.5"], r"lr_policy.ratio=0.5: must be at least 1"),
        (["lr_policy=ulmfit", "lr_policy.groups=1"], r"lr_policy.groups=1: must be at least 2"),
        (
            ["lr_policy=freezeout", "scheduler=cosine"],
            r"scheduler=cosine: does not go with lr_policy=freezeout[^\n]*\n.*scheduler=constant",
        ),
        (["lr_policy=freezeout", "lr_policy.how=squared"], r"lr_policy.how=squared.*\n.*cubic"),
        (["lr_policy=freezeout", "lr_policy.t_0=0"], r"lr_policy.t_0=0.*above 0"),
        (
            ["lr_policy=lp_ft", "lr_policy.head_epochs=5", "trainer.epochs=5"],
            r"lr_policy.head_epochs=5: leaves nothing of 5 epochs",
        ),
        (["lr_policy=surgical", "lr_policy.block=null"], r"lr_policy.block.*selects no layers"),
        (["lr_policy=surgical", "lr_policy.bn_stats=eval"], r"lr_policy.bn_stats=eval.*\n.*live"),
        (
            ["lr_policy=freeze_backbone", "lr_policy.bn_stats=follow"],
            r"lr_policy.bn_stats=follow: is not one of the choices",
        ),
        (["lr_policy=gradual_unfreeze", "lr_policy.every=0"], r"lr_policy.every=0: must be longer"),
        (["lr_policy=auto_rgn", "lr_policy.variant=mine"], r"lr_policy.variant=mine"),
        (
            ["lr_policy=per_layer", "lr_policy.rules=[{layers: backbone, scale: 0}]"],
            r"lr_policy.rules\[0\].scale=0.0: must be above 0\n.*frozen: true",
        ),
        (
            ["lr_policy=per_layer", "lr_policy.rules=[{type: Linear, layers: head, scale: 1}]"],
            r"lr_policy.rules\[0\].*needs one of match, type and layers",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(
    compose: Any, overrides: list[str], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(*overrides)
    caught.match(said)


def test_freezeout_lasts_as_long_as_training(compose: Any) -> None:
    assert compose("lr_policy=freezeout", "trainer.epochs=7").lr_policy.epochs == 7
    with pytest.raises(ConfigError, match=r"epochs=3: .* all of training\n  write .*epochs=15"):
        compose("lr_policy=freezeout", "lr_policy.epochs=3")


def test_a_plateau_does_not_start_anew_for_lp_ft(compose: Any) -> None:
    with pytest.raises(ConfigError, match="does not start anew"):
        compose("lr_policy=lp_ft", "scheduler=plateau")


def test_what_max_steps_cuts_off_is_said(compose: Any, caplog: pytest.LogCaptureFixture) -> None:
    from lrexp.build.experiment import build

    short = ("trainer.max_steps=7", "trainer.device=cpu")
    with pytest.raises(ConfigError, match="leaves nothing of 1 epoch for what follows"):
        build(compose("lr_policy=lp_ft", "lr_policy.head_epochs=2", *short))
    experiment = build(compose("lr_policy=gradual_unfreeze", "lr_policy.every=1", *short))
    assert "would first train after the last epoch" in caplog.text
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert experiment.remarks == warned


def test_no_epochs_and_every_policy_is_an_evaluation(compose: Any) -> None:
    from lrexp.build.experiment import build

    for policy in ("freezeout", "lp_ft", "gradual_unfreeze", "auto_rgn"):
        experiment = build(compose(f"lr_policy={policy}", "trainer.epochs=0", "trainer.device=cpu"))
        assert experiment.schedule == []


ABSOLUTE = "lr_policy.rules=[{layers: head, lr: 0.01}, {match: '*', lr: 0.001}]"
PARTLY = "lr_policy.rules=[{match: 'conv.*', lr: 0.001}]"  # the rest follows optimizer.lr
RATES = "optimizer.lr=0.1,0.01"
SMOKE = ("experiment=smoke", "trainer.max_steps=1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        (["lr_policy=per_layer", ABSOLUTE], "the policy's own rates"),
        (["lr_policy=discriminative", "lr_policy.lr_high=0.01"], "the policy's own rates"),
    ],
)
def test_a_sweep_over_the_base_rate_that_changes_nothing_is_refused(
    lrexp: Run, tmp_path: Path, overrides: list[str], hint: str
) -> None:
    done = lrexp("-m", *SMOKE, *overrides, RATES)
    assert done.returncode == 2
    assert "optimizer.lr=0.01: changes nothing: every rate of lr_policy=" in done.stderr
    assert hint in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_other_sweeps_are_none_of_its_business() -> None:
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.utils import setup_globals
    from hydra.types import RunMode

    from lrexp.config.compose import CONFIG_NAME, CheckedLoader
    from lrexp.grid.points.equal import refuse_moot_rates
    from lrexp.grid.points.point import make_point

    setup_globals()
    loader = CheckedLoader()

    def points(*each: list[str]) -> list[Any]:
        composed = [loader.load_configuration(CONFIG_NAME, list(o), RunMode.RUN) for o in each]
        return [make_point(num, o, composed[num]) for num, o in enumerate(each)]

    fixed = ["lr_policy=per_layer", ABSOLUTE]
    relative = ["lr_policy=per_layer", "lr_policy.rules=[{match: 'conv.*', scale: 0.1}]"]
    rates = (["optimizer.lr=0.1"], ["optimizer.lr=0.01"])
    refuse_moot_rates(points(*(relative + rate for rate in rates)))
    refuse_moot_rates(points(*(["lr_policy=per_layer", PARTLY, *rate] for rate in rates)))
    refuse_moot_rates(points(*(["lr_policy=discriminative", *rate] for rate in rates)))
    low = ["lr_policy=discriminative", "lr_policy.lr_low=0.001"]  # the top is optimizer.lr
    refuse_moot_rates(points(*(low + rate for rate in rates)))
    refuse_moot_rates(points([*fixed, "seed=0"], [*fixed, "seed=1"]))
    refuse_moot_rates(points([*fixed, *rates[0]], ["lr_policy=uniform", *rates[1]]))
    refuse_moot_rates(points(fixed, fixed))  # the same point twice: no rate is swept
    high = ["lr_policy=discriminative", "lr_policy.lr_high=0.2"]  # the others follow it
    for moot in (fixed, high, [*high, "lr_policy.ratio=2"], [*high, "lr_policy.lr_low=0.001"]):
        with pytest.raises(ConfigError):
            refuse_moot_rates(points(*(moot + rate for rate in rates)))
    GlobalHydra.instance().clear()
