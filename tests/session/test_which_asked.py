"""What is going to be done for the words behind `lrexp which`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lrexp.config.compose import CheckedLoader
from lrexp.config.errors import UserError
from lrexp.config.schema import OPTIONS, Option, schemas_of
from lrexp.session.hydra import hydra_of
from lrexp.session.procedure import Procedure, _procedure_of
from lrexp.session.which_asked import Asked, plan_which

LOADED = ("experiment=finetune_digits",)


@pytest.fixture(scope="module")
def loader() -> CheckedLoader:
    return CheckedLoader()


@pytest.fixture(autouse=True)
def _hydra(
    loader: CheckedLoader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with hydra_of(loader):
        yield


def planned(loader: CheckedLoader, asked: Asked, pace_s: float = 1.0) -> Procedure:
    return plan_which(loader, asked, lambda plan: pace_s).procedure


def test_the_usual_policies_are_compared_and_settings_of_their_own_tried(
    loader: CheckedLoader, tmp_path: Path
) -> None:
    found = plan_which(loader, Asked(LOADED), lambda plan: 1.0)
    plan, ladders = found.procedure, {one.policy: one for one in found.procedure.ladders}
    usual = [name for name, option in OPTIONS["lr_policy"].items() if option.usual]
    assert list(ladders) == usual
    assert ladders["uniform"].rates == (0.005, 0.016, 0.05, 0.16, 0.5), "around optimizer.lr"
    assert ladders["layerwise_decay"].values == (0.5, 0.75)
    assert (plan.seeds, plan.fresh[0], len(plan.fresh)) == ((0, 1, 2), 1000, 20)
    assert (plan.baseline, plan.monitor, plan.notes) == ("uniform", "val/loss", ())
    assert found.folder.parent == tmp_path / "outputs" / "finetune_digits"
    assert not list(tmp_path.iterdir()), "nothing is written yet"


def test_without_loaded_weights_nobody_freezes_what_was_drawn(loader: CheckedLoader) -> None:
    plan = planned(loader, Asked())
    names = {one.policy for one in plan.ladders}
    assert not {name for name in names if OPTIONS["lr_policy"][name].loaded}
    assert "Left out, as no weights are loaded" in plan.notes[0]
    assert "freeze_backbone" in plan.notes[0]
    plan = planned(loader, Asked(policies=("uniform", "freeze_backbone")))
    assert len(plan.ladders) == 2, "who asks for it gets it"
    assert plan.notes[0].startswith("No weights are loaded: freeze_backbone")


def test_rate_and_seed_of_the_command_line_are_where_it_begins(loader: CheckedLoader) -> None:
    asked = Asked((*LOADED, "optimizer.lr=0.01", "seed=100"), ("uniform", "lp_ft"))
    plan = planned(loader, asked)
    assert plan.ladders[0].rates[2] == 0.01
    assert (plan.seeds, plan.fresh[0]) == ((100, 101, 102), 1100)
    assert plan.overrides == (*LOADED, "trainer.threads=1"), "many small runs, a thread each"
    own = planned(loader, Asked((*LOADED, "trainer.threads=2"), ("uniform", "lp_ft")))
    assert own.overrides == (*LOADED, "trainer.threads=2")


def test_the_baseline_is_compared_though_it_was_not_named(loader: CheckedLoader) -> None:
    plan = planned(loader, Asked(LOADED, ("lp_ft",)))
    assert [one.policy for one in plan.ladders] == ["uniform", "lp_ft"]
    plan = planned(loader, Asked(LOADED, ("lp_ft", "surgical"), baseline="surgical"))
    assert [one.policy for one in plan.ladders] == ["lp_ft", "surgical"]


def test_a_time_is_a_budget_of_runs_at_the_pace_of_a_probe(loader: CheckedLoader) -> None:
    asked = Asked(LOADED, ("uniform", "lp_ft"), minutes=1)
    plan = planned(loader, asked, pace_s=1.0)
    assert (plan.budget, plan.looks, len(plan.seeds)) == (60.0, (5, 10), 2)
    assert "at most 10 seeds are compared" in plan.notes[0]
    with pytest.raises(UserError, match="at least 16"):
        planned(loader, asked, pace_s=5.0)


def test_a_policy_that_gives_every_rate_itself_has_its_own_key_or_none(
    loader: CheckedLoader, tmp_path: Path
) -> None:
    folder = tmp_path / "mine" / "lr_policy"
    folder.mkdir(parents=True)
    (folder / "ends.yaml").write_text(
        "defaults: [/lr_policy/discriminative@_here_, _self_]\nlr_low: 0.002\nlr_high: 0.02\n"
    )
    (folder / "rules.yaml").write_text(
        "defaults: [/lr_policy/per_layer@_here_, _self_]\nrules:\n  - {match: '*', lr: 0.01}\n"
    )
    (folder / "stem.yaml").write_text(
        "defaults: [/lr_policy/layerwise_decay@_here_, _self_]\ndecay: null\nstem_scale: 0.1\n"
    )
    own = CheckedLoader(str(tmp_path / "mine"))
    with hydra_of(own):
        plan = planned(own, Asked(LOADED, ("uniform", "ends", "rules", "stem")))
    _, ends, rules, stem = plan.ladders
    assert (stem.tries, stem.values) == (5, ()), "decay and stem_scale exclude each other"
    assert ends.key == "lr_policy.lr_high"
    assert ends.rates == (0.002, 0.0063, 0.02, 0.063, 0.2)
    assert (ends.tries, ends.values) == (5, ()), "its stem_scale plays no part"
    assert (rules.rates, rules.tries) == ((), 1)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Asked(policies=("unifrom",)), "did you mean 'uniform'?"),
        (Asked(policies=("uniform",)), "nothing to compare it with"),
        (Asked(policies=("lp_ft",), baseline="surgica"), "--baseline surgica"),
        (Asked(("lr_policy=lp_ft",)), "named with --policies"),
        (Asked(("lr_policy.decay=0.5",)), "named with --policies"),
        (Asked(("optimizer.lr=0.1,0.2",)), "give one value"),
        (Asked(("cases=policies",)), "cases of its own"),
        (Asked(("hydra/sweeper=optuna",)), "runs its grids itself"),
        (Asked(("hydra.job.env_set.OMP_NUM_THREADS=2",)), "set the variable in the shell"),
        (Asked(("hydra.sweep.dir=here",)), "hydra.run.dir is its folder"),
        (Asked(("task=plan",)), "is not for lrexp which"),
        (Asked(("trainer.epoch=3",)), "trainer.epochs"),
    ],
)
def test_mistakes_are_found_before_anything_runs(
    loader: CheckedLoader, asked: Asked, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        planned(loader, asked)
    assert said in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_options_say_is_tried_of_them_are_settings_that_they_have() -> None:
    for group, options in OPTIONS.items():
        for name, option in options.items():
            if group != "lr_policy":
                assert (option.usual, option.loaded, option.tried) == (False, False, None)
            elif option.tried:
                setting, values = option.tried
                assert setting in option.schema.__dataclass_fields__, name
                assert len(set(values)) > 1, name
    assert schemas_of("lr_policy")
    assert Option(dict).tried is None


def test_a_search_draws_as_many_of_every_policy(loader: CheckedLoader) -> None:
    plan = planned(loader, Asked(policies=("uniform", "layerwise_decay"), tries=8))
    assert [(one.drawn, one.decay) for one in plan.ladders] == [(8, 0.0)] * 2
    assert (plan.drawn, plan.size.climbing) == (0, 2 * (8 + 4 + 2))
    assert "the better half went on to each further seed" in plan.notes[-1]
    assert _procedure_of(plan.text()) == plan
    small = planned(loader, Asked(policies=("uniform", "layerwise_decay"), tries=8, budget=26))
    assert (small.seeds, small.size.climbing) == ((0,), 16)
    with pytest.raises(UserError, match="and so do fewer --tries"):
        planned(loader, Asked(policies=("uniform", "layerwise_decay"), tries=8, budget=20))
