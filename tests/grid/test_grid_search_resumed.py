"""Trials of a search that was stopped: each of them ends, once, with what its runs came to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from lrexp.config.errors import ConfigError, UserError
from lrexp.folder.claim import Claim
from lrexp.folder.layout import POINTS, SUMMARY
from lrexp.grid.leaderboard import Leaderboard
from lrexp.grid.points.point import Started, read_points
from lrexp.grid.search import study as studies
from lrexp.grid.search.search import Search, asked_of, prepare_search
from lrexp.grid.search.settings import OptunaSettings
from lrexp.grid.search.space import read_space
from lrexp.session.sweep import prepared

SETTINGS = OptunaSettings(
    direction="minimize",
    n_trials=4,
    n_jobs=2,
    sampler={"name": "grid", "seed": 0},
    storage="kept.journal",
)
SAID: list[str] = []


@pytest.fixture(autouse=True)
def optuna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    found = pytest.importorskip("optuna", reason="needs Optuna")
    if int(found.__version__.partition(".")[0]) < 5:
        pytest.skip("needs Optuna 5")
    monkeypatch.chdir(tmp_path)
    return found


class Loader:
    """Composes points that have nothing but their rate."""

    def load_sweep_config(self, config: Any, overrides: Sequence[str]) -> Any:
        rate = float(overrides[-1].partition("=")[2])
        hydra = {"job": {"num": 0, "id": 0}, "sweep": {"subdir": "${hydra.job.num}"}}
        plain = {"run_id": "", "optimizer": {"lr": rate}, "hydra": hydra}
        return OmegaConf.create(plain)


class Launcher:
    """Of somebody else: it writes what came of points, and is killed where it is told to be."""

    settings: Any = None

    def __init__(self, folder: Path, die_at: int = -1):
        self.folder, self.die_at, self.ran = folder, die_at, list[int]()

    def launch(self, overrides: Sequence[Sequence[str]], initial_job_idx: int) -> None:
        for num, given in enumerate(overrides, initial_job_idx):
            place = self.folder / str(num)
            place.mkdir()
            killed = num == self.die_at
            ended = {"status": "running" if killed else "finished"}
            best = {"val/loss": float(given[-1].partition("=")[2])}
            (place / SUMMARY).write_text(json.dumps(ended | {"best": best}))
            self.ran.append(num)
            if killed:
                raise KeyboardInterrupt


def search_in(folder: Path, axis: str = "optimizer.lr=1,2,3,4", **settings: Any) -> Search:
    folder.mkdir(exist_ok=True)
    started = read_points(folder) if (folder / POINTS).exists() else None
    if started is None and (folder / "study.db").exists():
        started = Started(folder, [], [])
    config = OmegaConf.create({"trainer": {"monitor": "val/loss"}})
    found = Search(
        *(replace(SETTINGS, **settings), read_space([axis], None), config, Loader(), [], {}),
        *(SAID.append, started),
    )
    found.board = Leaderboard(folder)
    return found


def trials_in(folder: Path, **settings: Any) -> list[tuple[str, Any, Any]]:
    with studies.quiet():
        study = studies.open_study(replace(SETTINGS, **settings), folder)
    return [(t.state.name, t.params.get("optimizer.lr"), t.value) for t in study.get_trials()]


def killed_in(folder: Path, at: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        search_in(folder).run(Launcher(folder, at))


def test_what_others_still_run_is_not_pulled_away(tmp_path: Path) -> None:
    killed_in(tmp_path / "s", 1)
    held, launcher = Claim(tmp_path / "s" / "1", resumed=True), Launcher(tmp_path / "s")
    try:
        with pytest.raises(UserError, match="are being run by other programs"):
            search_in(tmp_path / "s").run(launcher)
        launcher.settings = SimpleNamespace(engine="slurm", executor="auto")
        with pytest.raises(FileExistsError):  # an engine waits; this finds the folder as it was
            search_in(tmp_path / "s").run(launcher)
    finally:
        held.release()
    assert not (tmp_path / "s" / "earlier").exists()


def test_runs_of_any_launcher_are_told_as_they_ended(tmp_path: Path) -> None:
    killed_in(tmp_path / "s", 1)
    launcher = Launcher(tmp_path / "s")
    search_in(tmp_path / "s").run(launcher)
    assert launcher.ran == [1, 2, 3]
    trials = trials_in(tmp_path / "s")
    assert sorted(value for _, _, value in trials) == [1.0, 2.0, 3.0, 4.0]
    assert {state for state, _, _ in trials} == {"COMPLETE"}


def test_a_changed_file_of_any_choice_makes_another_search(tmp_path: Path) -> None:
    options = {"first": {"groups": 3}, "second": {"groups": 3, "decay": 0.5}}

    def composed(config: Any, overrides: Sequence[str]) -> Any:
        name = overrides[0].partition("=")[2]
        hydra = {"job": {"num": 0, "id": 0}, "sweep": {"subdir": "0"}}
        policy = {"name": name, **options[name]}
        return OmegaConf.create({"run_id": "", "lr_policy": policy, "hydra": hydra})

    space = read_space(["lr_policy=first,second", "optimizer.lr=interval(0,1)"], None)
    loader, config = SimpleNamespace(load_sweep_config=composed), OmegaConf.create()
    before = asked_of(config, loader, space)
    with studies.quiet():
        study = studies.open_study(SETTINGS, tmp_path)
        studies.note_asked(study, before)
        studies.refuse_other_search(study, asked_of(config, loader, space), SETTINGS, tmp_path)
        options["second"]["decay"] = 0.9
        with pytest.raises(UserError, match=r"decay with lr_policy=second was 0\.5 and is 0\.9"):
            studies.refuse_other_search(study, asked_of(config, loader, space), SETTINGS, tmp_path)
        options["second"]["decay"], options["first"]["groups"] = 0.5, 4
        with pytest.raises(UserError, match=r"lr_policy\.groups was 3 and is 4"):
            studies.refuse_other_search(study, asked_of(config, loader, space), SETTINGS, tmp_path)


def test_the_points_of_a_folder_are_trials_of_one_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, elsewhere = tmp_path / "s", tmp_path / "t"
    killed_in(folder, 1)
    search_in(elsewhere, study_name="two").run(Launcher(elsewhere))
    space = read_space(["optimizer.lr=1,2,3,4"], None)
    monkeypatch.setattr("lrexp.grid.search.search.asked_of", lambda *parts: {})
    monkeypatch.setattr("lrexp.grid.search.search.read_space", lambda *parts: space)

    def prepare(name: str | None, folder: Path = folder) -> object:
        settings = replace(SETTINGS, study_name=name)
        monkeypatch.setattr("lrexp.grid.search.search.read_search_settings", lambda one: settings)
        started = read_points(folder)
        return prepare_search(OmegaConf.create(), None, [], [], started, folder, SAID.append)

    assert prepare(None)
    for name in ("two", "three"):
        with pytest.raises(ConfigError, match="is not the study of this folder's points"):
            prepare(name)
    assert prepare(None, folder.rename(tmp_path / "moved"))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["grid", "qmc", "tpe"])
@pytest.mark.parametrize("lost", ["set_user_attr", "_points", "_write_points"])
def test_trials_that_were_asked_for_and_not_written_down_are_run(
    sampler: str, lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optuna: Any
) -> None:
    axis = "optimizer.lr=1,2,3,4" if sampler == "grid" else "optimizer.lr=interval(1,4)"
    asked = {"sampler": {"name": sampler, "seed": 0}, "storage": None, "axis": axis}
    search_in(tmp_path / "whole", **asked).run(Launcher(tmp_path / "whole"))
    kind, calls = optuna.trial.Trial if lost == "set_user_attr" else Search, list[object]()
    whole = getattr(kind, lost)

    def killed(self: Any, *given: Any) -> Any:
        calls.append(self)
        if len(calls) == 2:  # within the first batch or after it, once for each
            raise KeyboardInterrupt
        return whole(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(kind, lost, killed)
        with pytest.raises(KeyboardInterrupt):
            search_in(tmp_path / "s", **asked).run(Launcher(tmp_path / "s"))
    search_in(tmp_path / "s", **asked).run(Launcher(tmp_path / "s"))
    del asked["axis"]
    assert trials_in(tmp_path / "s", **asked) == trials_in(tmp_path / "whole", **asked)
    found = [[(p.num, p.trial, p.overrides) for p in read_points(tmp_path / one).points]
             for one in ("s", "whole")]  # fmt: skip
    assert found[0] == found[1]


def test_a_trial_of_another_folder_is_worth_what_its_twin_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = {"sampler": {"name": "random", "seed": 0}, "n_jobs": 4}
    one, two = (search_in(tmp_path / name, "optimizer.lr=1,2", **shared) for name in ("one", "two"))
    monkeypatch.setattr(one, "_tell", lambda *batch: 1 / 0)  # killed once its runs had ended
    with pytest.raises(ZeroDivisionError):
        one.run(Launcher(tmp_path / "one"))
    launcher = Launcher(tmp_path / "two")
    two.run(launcher)
    assert not launcher.ran
    assert any(point.same_as is not None for point in read_points(tmp_path / "one").points)
    assert all(value == float(rate) for _, rate, value in trials_in(tmp_path / "two", **shared))


@pytest.mark.parametrize("name", ["study.db", "study.db-journal", "study.db-wal"])
def test_a_study_that_is_a_link_out_of_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / name).symlink_to(tmp_path / "another.db")
    request: Any = SimpleNamespace(cases=None, ours=False, started=None)
    with pytest.raises(UserError, match="is a link that leads out of the sweep's folder"):
        prepared(request, folder, SAID.append)
