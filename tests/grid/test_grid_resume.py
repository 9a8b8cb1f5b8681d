"""A sweep that goes on: what is out of its way, and which points it still asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from grid_points import composing

from lrexp.config.compose import CheckedLoader
from lrexp.config.errors import ConfigError, UserError
from lrexp.folder.layout import OWNER
from lrexp.folder.owner import STALE_S, Owner, Watched
from lrexp.grid.points import resume
from lrexp.grid.points.point import POINTS, Point, points_text, read_points
from lrexp.grid.points.resume import free_to_run, numbered_as, set_aside, settled
from lrexp.session.request import read_request


@pytest.fixture
def points() -> Iterator[Callable[..., Any]]:
    with composing() as function:
        yield function


@pytest.mark.parametrize("name", ["0_seed_0", "a/b/0"])
def test_every_attempt_at_a_point_is_kept(tmp_path: Path, name: str) -> None:
    point = Point(0, [], {}, name, b"")
    for attempt in (1, 2):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "lrexp.log").write_text(str(attempt))
        set_aside(tmp_path, point)
        assert not (tmp_path / name).exists()
    for attempt in (1, 2):
        kept = tmp_path / "earlier" / f"{name}.{attempt}" / "lrexp.log"
        assert kept.read_text() == str(attempt)


def test_points_of_a_node_that_failed_are_waited_for_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(resume, "Watched", lambda: Watched(lambda: clock[0]))
    monkeypatch.setattr(resume.time, "sleep", sleep)
    points = [Point(num, [], {}, str(num), b"") for num in range(9)]
    for point in points[1:]:
        (tmp_path / point.folder).mkdir()
        (tmp_path / point.folder / OWNER).write_text(Owner("a", "node7", "other", 5).text())
    assert free_to_run(points, tmp_path, "slurm") == points[:1]
    assert free_to_run(points, tmp_path, None) == points
    assert clock[0] < 2 * STALE_S


def test_points_that_a_changed_grid_dropped_are_not_missed_again(
    points: Callable[..., Any], tmp_path: Path
) -> None:
    def saved(found: list[Point]) -> Any:
        (tmp_path / POINTS).write_text(points_text(found, []))
        return read_points(tmp_path)

    started = saved(points("seed=0,1"))
    with pytest.raises(UserError, match="no longer there: seed=0"):
        numbered_as(started, points("seed=1,2"), False)
    found = numbered_as(started, points("seed=1,2"), True)
    assert [p.former for p in started.points] == [True, False]
    started = saved([started.points[0], *found])
    again = numbered_as(started, points("seed=1,2"), False)
    assert [(p.num, p.settings["seed"]) for p in again] == [(1, 1), (2, 2)]
    back = numbered_as(started, points("seed=0,1,2"), False)  # asked for once more
    assert [(p.num, p.former) for p in back] == [(0, False), (1, False), (2, False)]
    with pytest.raises(UserError, match="no longer there: seed=2"):
        numbered_as(started, points("seed=1"), False)


def test_a_sweep_older_than_a_setting_goes_on_where_it_says_nothing(
    points: Callable[..., Any], tmp_path: Path
) -> None:
    older = points("seed=0,1")
    for point in older:
        del point.settings["trainer.stop_on"]
    (tmp_path / POINTS).write_text(points_text(older, []))
    started = read_points(tmp_path)
    assert [p.num for p in numbered_as(started, points("seed=0,1"), False)] == [0, 1]
    with pytest.raises(UserError, match=r'stop_on was null and is \["collapsed"\]'):
        numbered_as(started, points("seed=0,1", "trainer.stop_on=[collapsed]"), False)


def test_points_with_a_result_stay_as_they_are(points: Callable[..., Any], tmp_path: Path) -> None:
    found = points("lr_policy=uniform,layerwise_decay", "seed=0,1,2")
    text = points_text(found, ["seed=0,1,2"])
    (tmp_path / POINTS).write_text(text)
    started = read_points(tmp_path)
    ended = {0: "finished", 4: "diverged", 5: "failed"}
    known = settled(started, lambda num: ended.get(num, "missing"))
    assert [point.num for point in known.values()] == [0, 4]
    mixed = [known.get((p.case, tuple(p.overrides)), p) for p in found]
    again = numbered_as(started, mixed, False)
    assert [point.num for point in again if not point.composed] == [0, 4]
    assert again[4] is started.points[4]
    assert points_text(again, started.command) == text


def test_points_that_others_may_train_as_are_composed_again(
    points: Callable[..., Any], tmp_path: Path
) -> None:
    found = points("seed=0,1,2,3")
    found[1].same_as, found[2].former = 0, True
    (tmp_path / POINTS).write_text(points_text(found, []))
    known = settled(read_points(tmp_path), lambda num: "finished")
    assert [point.num for point in known.values()] == [3]


def request(*overrides: str) -> Any:
    loader = CheckedLoader()
    return read_request(loader, overrides)


def test_a_sweep_goes_on_with_its_executor_unless_another_is_asked_for(
    points: Callable[..., Any], tmp_path: Path
) -> None:
    typed = ("hydra.launcher.executor=stacked", "hydra.launcher.members=2", "seed=0,1")
    begun = request(*typed, "hydra.sweep.dir=sweep")
    (tmp_path / POINTS).write_text(points_text(points(*typed), [*begun.how, *begun.command]))
    assert read_points(tmp_path).command == list(typed)
    again = request(f"hydra.launcher.resume={tmp_path}").config.hydra.launcher
    assert (again.executor, again.members) == ("stacked", 2)
    serial = "hydra.launcher.executor=serial"
    other = request(f"hydra.launcher.resume={tmp_path}", serial).config.hydra.launcher
    assert (other.executor, other.members) == ("serial", 2)


def test_a_sweep_goes_on_with_its_engine_and_another_ones_settings_are_left_behind(
    points: Callable[..., Any], tmp_path: Path
) -> None:
    typed = ("hydra/launcher=slurm", "hydra.launcher.partition=gpu", "seed=0,1")
    command = [*typed, "hydra.launcher.setup=[module load x]"]
    begun = request(*command, "hydra.sweep.dir=sweep")
    assert begun.how == list(typed[:2])  # what starts programs is not kept
    (tmp_path / POINTS).write_text(points_text(points("seed=0,1"), [*begun.how, *begun.command]))
    resume = f"hydra.launcher.resume={tmp_path}"
    again = request(resume, "hydra.launcher.partition=cpu").settings
    assert (again.engine, again.partition, again.setup) == ("slurm", "cpu", None)
    other = request(resume, "hydra/launcher=joblib").settings
    assert (other.engine, hasattr(other, "partition")) == ("joblib", False)


@pytest.mark.parametrize(
    "override",
    [
        "hydra.sweep.dir=elsewhere",
        "hydra.launcher.resume=other",
        "hydra.launcher._target_=subprocess.Popen",
        "hydra.launcher.members=${oc.env:HOME}",
        "hydra/launcher=basic",
    ],
)
def test_a_saved_command_holds_nothing_else_of_hydra(
    override: str, points: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / POINTS).write_text(points_text(points("seed=0,1"), [override, "seed=0,1"]))
    with pytest.raises(UserError, match="no setting of an experiment"):
        read_points(tmp_path)


PARAMS = "++hydra.sweeper={params: {optimizer.lr: '0.1,0.2', seed: '0,1'}}"


def test_the_command_line_wins_over_axes_of_the_sweepers_own(points: Callable[..., Any]) -> None:
    found = points("experiment=smoke", PARAMS, "seed=5")
    assert [(p.settings["optimizer.lr"], p.settings["seed"]) for p in found] == [(0.1, 5), (0.2, 5)]


def test_axes_of_the_sweepers_own_are_part_of_the_command(
    points: Callable[..., Any], tmp_path: Path
) -> None:
    command = request("experiment=smoke", PARAMS).command
    assert command == ["optimizer.lr=0.1,0.2", "seed=0,1", "experiment=smoke"]
    (tmp_path / POINTS).write_text(points_text(points("experiment=smoke", PARAMS), command))
    assert len(points(f"hydra.launcher.resume={tmp_path}")) == 4
    with pytest.raises(UserError, match="the grid is not the one"):
        points(f"hydra.launcher.resume={tmp_path}", PARAMS)  # a grid of its own


def test_a_setting_of_another_launcher_is_named_with_that(points: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        points("seed=0,1", "hydra.launcher.partition=gpu")
    assert "it belongs to hydra/launcher=slurm" in str(caught.value)


def test_no_grid_goes_on_in_the_folder_of_a_search(
    points: Callable[..., Any], tmp_path: Path
) -> None:
    found = points("seed=0,1")
    for point in found:
        point.trial = point.num
    (tmp_path / POINTS).write_text(points_text(found, []))
    with pytest.raises(UserError, match="is a search"):
        numbered_as(read_points(tmp_path), points("seed=0,1"), True)
