"""What a folder that others may have written cannot ask for."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra.types import RunMode
from test_procedure import procedure

from lrexp.config.compose import CONFIG_NAME, CheckedLoader
from lrexp.config.errors import ConfigError, UserError
from lrexp.grid.points.point import Point, make_point
from lrexp.judge.ladders import Ladder
from lrexp.runs.sweep import SweepPoint
from lrexp.session import trials
from lrexp.session.confirm import Asked, confirm
from lrexp.session.hydra import hydra_of
from lrexp.session.others import (
    refuse_changed,
    refuse_downloads,
    refuse_leading_out,
    refuse_other_tries,
    refuse_others,
    refuse_unpredicted,
)
from lrexp.session.sweep import Around
from lrexp.session.trials import Trials, train_cases, train_trials
from lrexp.session.which import resume_which

SETTINGS = {"seed": 0, "optimizer.lr": 0.05, "trainer.epochs": 2}


def composed(case: str, *overrides: str, **settings: Any) -> Point:
    return Point(0, list(overrides), SETTINGS | settings, "0", b"", case)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"overrides": ("experiment=smoke", "name='x_${oc.env:PRIVATE}'")}, "PRIVATE"),
        ({"overrides": ("hydra.run.dir=/elsewhere",)}, "is no setting of an experiment"),
        ({"how": ("hydra.launcher.resume=/elsewhere",)}, "is no setting of the launcher"),
        ({"how": ("hydra.launcher.executor=pool\nx=1",)}, "is no setting of the launcher"),
        ({"config_dir": 3}, "no folder"),
        ({"ladders": (Ladder("uniform,name=x"),)}, "no name of a policy"),
        ({"ladders": (Ladder("../uniform"),)}, "no name of a policy"),
        ({"ladders": (Ladder("uniform", key="hydra.run.dir"),)}, "is no key of a rate"),
        ({"ladders": (Ladder("uniform", setting="name", values=(1,)),)}, "is no setting of a"),
        (
            {"ladders": (Ladder("ulmfit", setting="lr_policy.x", values=("${oc.env:X}",)),)},
            "are no plain values",
        ),
        ({"ladders": (Ladder("uniform", each_side=10**9),)}, "are no steps"),
        ({"ladders": (Ladder("uniform", drawn=10**9),)}, "are no tries"),
        ({"ladders": (Ladder("uniform", decay=math.nan),)}, "is no weight decay"),
    ],
)
def test_a_protocol_asks_for_policies_rates_and_an_experiment_alone(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    plan = procedure("uniform", "layerwise_decay")
    own = Ladder("my-own.2", middle=0.1, setting="lr_policy.decay", values=(0.5, 0.75))
    refuse_others(tmp_path, replace(plan, ladders=(*plan.ladders, own)))
    with pytest.raises(UserError) as caught:
        refuse_others(tmp_path, replace(plan, **changes))
    assert said in str(caught.value)


def test_a_strangers_procedure_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder, said = tmp_path / "theirs", list[str]()
    (folder / "explored").mkdir(parents=True)
    plan = procedure("uniform", "lp_ft", overrides=("name='x_${oc.env:PRIVATE}'",))
    (folder / "protocol.json").write_text(plan.text())
    there = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match="PRIVATE"):
        resume_which(str(folder), said.append, lambda where, found: where)
    assert sorted(folder.rglob("*")) == there
    assert not said


@pytest.mark.parametrize("name", ["confirmed", "explored/multirun.yaml", "which.html"])
def test_a_link_out_of_a_procedures_folder_is_refused(name: str, tmp_path: Path) -> None:
    folder, plan = tmp_path / "theirs", procedure("uniform", "lp_ft")
    (folder / "explored").mkdir(parents=True)
    (folder / "own").mkdir()
    (folder / "confirmed").symlink_to("own")
    refuse_others(folder, plan)
    (folder / "confirmed").unlink()
    (folder / name).symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="is a link that leads out"):
        refuse_others(folder, plan)


def test_the_folder_of_confirmed_runs_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "a" / "s").mkdir(parents=True)
    (tmp_path / "a" / "s" / "points.json").touch()
    (tmp_path / "victim").mkdir()
    (tmp_path / "a" / "s-confirm").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="s-confirm is a link that leads out"):
        confirm(str(tmp_path / "a" / "s"), Asked(), lambda line: None)
    refuse_leading_out(tmp_path / "a" / "s", ["points.json"])
    with pytest.raises(UserError, match="s-confirm is a link that leads out"):
        train_cases(CheckedLoader(), tmp_path / "a" / "s-confirm", {}, [], Around(print))


@pytest.mark.parametrize(
    ("ran", "said"),
    [
        (SETTINGS | {"trainer.epochs": 3}, "trainer.epochs was 3 and is 2"),
        ({"seed": 0}, "optimizer.lr was not there and is 0.05 (and 1 more settings)"),
        (SETTINGS | {"data.root": "/x"}, 'data.root was "/x" and is not there'),
    ],
)
def test_settings_are_compared_whoever_lacks_them(ran: dict[str, Any], said: str) -> None:
    point = composed("uniform", seed=7)
    refuse_changed([("uniform", point)], {"uniform": SETTINGS})
    refuse_changed([("uniform", point)], {"another": ran})
    with pytest.raises(UserError) as caught:
        refuse_changed([("uniform", point)], {"uniform": ran})
    assert said in str(caught.value)


def test_a_ladder_goes_on_with_the_settings_that_it_was_begun_with() -> None:
    overrides = ("lr_policy=uniform", "optimizer.lr=0.05", "seed=0")
    began = SweepPoint(0, "0", overrides, SETTINGS, "uniform")
    same = composed("uniform", *overrides[:2], "seed=1", seed=1)
    higher = composed("uniform", "optimizer.lr=0.5", **{"optimizer.lr": 0.5})
    refuse_other_tries([same, higher, composed("lp_ft", *overrides)], [began])
    other = composed("uniform", *overrides, **{"trainer.epochs": 4})
    refuse_other_tries([other], [replace(began, former=True)])
    with pytest.raises(UserError, match=r"uniform optimizer\.lr=0\.05 is no longer .* was 2 and"):
        refuse_other_tries([same, other], [began])


def test_no_file_chooses_where_data_are_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["data=mnist", f"data.root={tmp_path}"]
    loader = CheckedLoader()
    with hydra_of(loader):
        config = loader.load_configuration(CONFIG_NAME, asked, RunMode.RUN)
    config.run_id = "abcd1234"
    point = make_point(0, asked, config, "uniform")
    with pytest.raises(ConfigError, match="may not choose where to download it"):
        refuse_downloads([point])

    def train(loader: object, folder: object, axes: object, common: object, around: Any) -> None:
        around.check([point])

    monkeypatch.setattr(trials, "train_cases", train)
    given = Trials(tmp_path / "c", {"uniform": asked}, {"uniform": [1000]})
    with pytest.raises(ConfigError, match="may not choose where to download it"):
        train_trials(loader, given, print)
    point.settings["data.download"] = False
    train_trials(loader, given, print)


def test_what_is_compared_image_by_image_says_what_it_predicts() -> None:
    points = [composed("a", **{"trainer.predictions": form}) for form in ("auto", "labels")]
    refuse_unpredicted(points)
    points.append(composed("a", **{"trainer.predictions": "none"}))
    with pytest.raises(ConfigError, match=r"trainer\.predictions=none: .* image by image"):
        refuse_unpredicted(points)
