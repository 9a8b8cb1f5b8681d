"""What a search leaves open, and a study that chooses: the same whether it was stopped or not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lrexp.config.errors import ConfigError, UserError
from lrexp.grid.points.point import POINTS, read_points
from lrexp.grid.search import study as studies
from lrexp.grid.search.settings import OF_SEARCH, OptunaSettings
from lrexp.grid.search.space import Open, read_space

RATE = "optimizer.lr=tag(log, interval(1e-4, 1))"
SETTINGS = OptunaSettings(
    direction="minimize",
    storage="kept.journal",
    n_trials=8,
    sampler={"name": "tpe", "seed": 0, "n_startup_trials": 4, "constant_liar": True},
)


def opened(text: str) -> Open:
    return read_space([text], None).searched[0]


def test_what_is_open_is_read_as_hydra_writes_it() -> None:
    rate = opened(RATE)
    assert (rate.low, rate.high, rate.log, rate.whole, rate.step) == (1e-4, 1.0, True, False, None)
    whole = opened("lr_policy.groups=int(interval(1,4))")
    assert (whole.values, whole.ends) == (
        [1, 2, 3, 4],
        ["lr_policy.groups=1", "lr_policy.groups=4"],
    )
    assert opened("trainer.epochs=range(1,8,3)").values == [
        1,
        4,
        7,
    ]  # without its stop, as in grids
    assert opened("optimizer.lr=range(0.1,0.5,0.1)").values == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert opened("lr_policy=uniform,ulmfit").choices == ("uniform", "ulmfit")
    assert opened("+optimizer.args.eps=choice(1e-8,1e-6)").ends == [
        "+optimizer.args.eps=1e-08",
        "+optimizer.args.eps=1e-06",
    ]


def test_lists_of_seeds_are_repetitions_of_every_trial() -> None:
    space = read_space(["trainer.epochs=2", RATE, "seed=0,1", "data.seed=0,5"], None)
    assert [one.key for one in space.searched] == ["optimizer.lr"]
    assert space.overrides({"optimizer.lr": 0.012345678})[1] == [
        *("trainer.epochs=2", "optimizer.lr=0.012346", "seed=0", "data.seed=5")
    ]
    assert len(space.repeated) == 4
    assert read_space([RATE], None).overrides({"optimizer.lr": 1.0}) == [["optimizer.lr=1.0"]]


def test_a_number_keeps_within_its_interval_when_it_is_written_short() -> None:
    third = Open("a", "", low=1 / 3, high=2 / 3)
    assert third.override(1 / 3) == f"a={1 / 3!r}"
    assert third.override(0.5) == "a=0.5"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optimizer.lr=interval(1,0.1)", "ends where it begins"),
        ("optimizer.lr=tag(log, interval(0,1))", "begin above 0"),
        ("optimizer.lr=tag(logs, interval(0.1,1))", "did you mean 'log'"),
        ("optimizer.lr=tag(log, choice(0.1,1))", "is no interval"),
        ("seed=interval(0,3)", "an interval has no end"),
        ("trainer.epochs=2", "nothing is left for it to choose"),
        ("optimizer.lr=range(1,1)", "holds no value"),
    ],
)
def test_what_cannot_be_searched_is_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_space([override], None)
    assert said in str(refused.value)


def test_an_interval_over_decades_is_remarked_on() -> None:
    wide = read_space(["optimizer.lr=interval(1e-4, 1)"], None)
    assert "tag(log, interval(1e-4, 1))" in wide.notes()[0]
    assert not read_space([RATE, "optimizer.momentum=interval(0.1,0.9)"], None).notes()


def test_a_folder_goes_on_with_plain_settings_of_its_sweeper_alone(tmp_path: Path) -> None:
    for kept in ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=30", "hydra/sweeper/sampler=qmc"):
        assert OF_SEARCH.fullmatch(kept)
    for place in ("hydra.sweeper.storage=/home/you/x.db", "hydra/sweeper=other"):
        assert not OF_SEARCH.fullmatch(place)
        text = '{"command": ["%s"], "first": {}, "points": [{"num": 0, "folder": "0", "case": "",'
        text += ' "same_as": null, "overrides": [], "differs": {}, "lacks": [], "trial": 3}]}'
        (tmp_path / POINTS).write_text(text % place)
        with pytest.raises(UserError, match="is no setting of an experiment"):
            read_points(tmp_path)
    (tmp_path / POINTS).write_text(text % "hydra/sweeper=optuna")
    assert read_points(tmp_path).points[0].trial == 3


@pytest.fixture
def optuna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    found = pytest.importorskip("optuna", reason="needs Optuna")
    if int(found.__version__.partition(".")[0]) < 5:
        pytest.skip("needs Optuna 5")
    monkeypatch.chdir(tmp_path)
    return found


def searched(folder: Path, stop_after: int = 100) -> list[tuple[int, dict[str, Any]]]:
    """Trials that a study asks for, two at a time, each worth its distance to a rate of 0.01."""
    space = read_space([RATE, "optimizer.weight_decay=interval(0,0.1)"], None)
    settings = replace(SETTINGS, storage=str(folder / "kept.journal"))
    folder.mkdir(exist_ok=True)
    found = []
    with studies.quiet():
        study = studies.open_study(settings, folder)
        while studies.counted(study) < settings.n_trials and stop_after > 0:
            for trial in studies.ask(study, 2, settings, space, folder):
                value = abs(math.log(trial.params["optimizer.lr"] / 0.01))
                studies.tell(study, trial.number, value)
                found.append((trial.number, dict(trial.params)))
            stop_after -= 1
    return found


def test_a_study_that_was_stopped_asks_for_the_same(optuna: Any, tmp_path: Path) -> None:
    whole = searched(tmp_path / "whole")
    assert [number for number, _ in whole] == list(range(8))
    parts = [searched(tmp_path / "parts", stop_after=n) for n in (1, 2, 9)]
    assert [one for part in parts for one in part] == whole
    rates = [params["optimizer.lr"] for _, params in whole]
    assert len(set(rates)) == 8  # no sampler begins anew with its seed


def test_trials_without_a_run_are_given_up_and_asked_for_again(optuna: Any, tmp_path: Path) -> None:
    space, settings = read_space([RATE], None), replace(SETTINGS, storage="kept.journal")
    with studies.quiet():
        study = studies.open_study(settings, tmp_path)
        (first,) = studies.ask(study, 1, settings, space, tmp_path)
        assert [one.number for one in studies.running(study)] == [0]
        studies.give_up(study, 0)
        assert (studies.running(study), studies.counted(study)) == ([], 0)
        (again,) = studies.ask(study, 1, settings, space, tmp_path)
        assert (again.number, again.params) == (1, first.params)
        studies.tell(study, 1, math.inf)  # it diverged: the worst there is
        assert studies.counted(study) == 1


def test_a_study_goes_on_only_as_it_was_begun(optuna: Any, tmp_path: Path) -> None:
    with studies.quiet():
        study = studies.open_study(SETTINGS, tmp_path)
        asked = {"optimizer.lr": "interval(0,1)"}
        studies.refuse_other_search(study, asked, SETTINGS, tmp_path)
        studies.note_asked(study, asked)
        studies.refuse_other_search(study, asked, SETTINGS, tmp_path)
        with pytest.raises(UserError, match=r"optimizer\.lr was interval\(0,1\) and is 0\.1"):
            studies.refuse_other_search(study, {"optimizer.lr": "0.1"}, SETTINGS, tmp_path)
        foreign = replace(SETTINGS, study_name="foreign")
        study = studies.open_study(foreign, tmp_path)
        study.ask()
        with pytest.raises(ConfigError, match="holds trials that are not of lrexp"):
            studies.refuse_other_search(study, asked, foreign, tmp_path)
        assert not study.user_attrs
        upwards = replace(SETTINGS, direction="maximize")
        with pytest.raises(ConfigError, match="holds a study that is to minimize"):
            studies.open_study(upwards, tmp_path)


@pytest.mark.parametrize("name", ["lr?x=1", "50%25 #1 ü"])
def test_a_study_is_kept_in_its_folder_whatever_that_is_called(
    optuna: Any, tmp_path: Path, name: str
) -> None:
    folder, settings = tmp_path / name, replace(SETTINGS, storage=None)
    folder.mkdir()
    with studies.quiet():
        studies.open_study(settings, folder).ask()
        assert studies.is_begun(settings, folder)
    assert [file.name for file in tmp_path.rglob("*")] == [name, "study.db"]


def test_arguments_of_a_sampler_are_its_own(optuna: Any) -> None:
    space = read_space([RATE], None)
    wrong = replace(SETTINGS, sampler={"name": "tpe", "n_startup": 3})
    with pytest.raises(ConfigError, match="did you mean 'n_startup_trials'"):
        studies.check_sampler(wrong, space)
    with pytest.raises(ConfigError, match="has no end of values"):
        studies.check_sampler(replace(SETTINGS, sampler={"name": "grid"}), space)


@pytest.mark.parametrize("text", ["range(1,0.05,-0.3)", "range(0,1,0.07)"])
def test_a_range_is_of_whole_steps(optuna: Any, text: str, tmp_path: Path) -> None:
    space = read_space([f"optimizer.lr={text}"], None)
    assert all(len(repr(value)) < 6 for value in space.searched[0].values)
    study = studies.fresh_study(SETTINGS)
    for name in ("random", "grid"):  # warnings are errors
        settings = replace(SETTINGS, sampler={"name": name, "seed": 0})
        assert all(space.holds(t.params) for t in studies.ask(study, 4, settings, space, tmp_path))


def test_what_matters_is_told_apart(optuna: Any, tmp_path: Path) -> None:
    space = read_space([RATE, "optimizer.weight_decay=interval(0,0.1)"], None)
    settings = replace(SETTINGS, sampler={"name": "qmc", "seed": 0})
    with studies.quiet():
        study = studies.open_study(settings, tmp_path)
        for trial in studies.ask(study, 30, settings, space, tmp_path):
            studies.tell(study, trial.number, abs(math.log10(trial.params["optimizer.lr"]) + 2))
            if trial.number == 5:
                assert studies.importance(study) is None  # too few
    found = studies.importance(study)
    assert found
    assert found.shares["optimizer.lr"] > 0.8
    assert sum(found.shares.values()) == pytest.approx(1)
    assert (found.trials, found.best) == (30, 5)
