"""Executors: every way of running a grid gives each point its own run, undisturbed by others."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from grid_run import Ran, running
from hydra.core.utils import JobStatus
from processes import is_alive, none_left

from lrexp.config.errors import Terminated, UserError
from lrexp.grid import auto as choice
from lrexp.grid import executors
from lrexp.grid.executors import Kind, kinds
from lrexp.grid.points.point import Point
from lrexp.grid.pool import pool
from lrexp.grid.pool.in_worker import Place
from lrexp.grid.pool.workers import start_server
from lrexp.grid.stack.trainer import StackedTrainer
from lrexp.train.loop import Trainer

Run = Callable[..., Ran]
LONGER = ("trainer.epochs=3", "trainer.limit_train_batches=8")
RATES = "optimizer.lr=0.02,0.05"


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    threads = torch.get_num_threads()
    with running(tmp_path, lambda: capsys.readouterr().out) as function:
        yield function
    torch.set_num_threads(threads)


def assert_close_runs(one: Ran, other: Ran, num: int, tolerance: float) -> None:
    """Equal rows and weights, up to rounding."""
    ours, theirs = one.rows(num), other.rows(num)
    assert [row.keys() for row in ours] == [row.keys() for row in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a == pytest.approx(b, rel=tolerance, abs=tolerance)
    for name, tensor in one.weights(num).items():
        torch.testing.assert_close(tensor, other.weights(num)[name], rtol=tolerance, atol=tolerance)


FOUR = (*LONGER, RATES, "lr_policy=uniform,layerwise_decay")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Ran]:
    """Four points that train together, and one after the other."""
    threads = torch.get_num_threads()
    with running(tmp_path_factory.mktemp("both"), str) as run:
        found = run("stacked", *FOUR), run("serial", *FOUR)
    torch.set_num_threads(threads)
    return found


def test_stacked_points_are_runs_of_their_own(both: tuple[Ran, Ran]) -> None:
    together, alone = both
    assert together.ended.keys() == alone.ended.keys() == set(range(4))
    for point in together.points:
        assert_close_runs(together, alone, point.num, 1e-3)
        summary, expected = together.summary(point.num), alone.summary(point.num)
        assert (summary["executor"], summary["members"]) == ("stacked", 4)
        assert (expected["executor"], expected["members"]) == ("serial", 1)
        for key in ("status", "run_id", "seed", "plan_hash", "config_id"):
            assert summary[key] == expected[key] or key == "run_id"
        assert summary["test"]["loss"] == pytest.approx(expected["test"]["loss"], rel=1e-3)
        ours = together.ended[point.num].return_value
        assert ours == pytest.approx(alone.ended[point.num].return_value, rel=1e-3)
        for name in ("plan.csv", ".hydra/overrides.yaml"):
            files = (together.of(point.num) / name, alone.of(point.num) / name)
            assert files[0].read_text().replace("sweep0", "sweep1") == files[1].read_text()
        assert "trains together with 3 other runs" in together.log(point.num)


def test_a_members_lines_are_in_its_own_log(both: tuple[Ran, Ran]) -> None:
    ran, _ = both
    for num in range(4):
        log = ran.log(num)
        epochs = [line for line in log.splitlines() if "lrexp.grid.live:     " in line]
        values = [f"{row['train/loss']:.4f}" for row in ran.rows(num)]
        assert len(epochs) >= 3
        assert all(value in line for value, line in zip(values, epochs, strict=False))
        assert log.count("best   epoch") == 1


def test_members_that_share_too_little_are_stacked_apart(run: Run) -> None:
    ran = run("stacked", *LONGER, RATES, "lr_policy=uniform,freeze_backbone", "model=simple_cnn")
    members = [ran.summary(num)["members"] for num in range(4)]
    assert members == [2, 2, 2, 2]
    assert {ran.summary(num)["frozen_proof"]["identical"] for num in range(4)} == {True}


def test_what_cannot_be_stacked_runs_serially_and_says_why(run: Run) -> None:
    ran = run("stacked", *LONGER, RATES, "model=mlp", "model.dropout=0.5")
    assert "points 0-1 train one by one: the network draws random numbers" in ran.said
    for num in (0, 1):
        summary = ran.summary(num)
        assert (summary["status"], summary["executor"]) == ("finished", "serial")
        assert "train one by one" in ran.log(num)


@pytest.mark.parametrize(
    ("executor", "seeds"),
    [("stacked", "seed=0,1"), ("auto", "seed=0")],  # one of a kind has nothing to be stacked with
)
def test_a_look_at_points_leaves_nothing_behind(
    run: Run, monkeypatch: pytest.MonkeyPatch, executor: str, seeds: str
) -> None:
    import lrexp.build.experiment
    from lrexp.tasks.train import Training

    start, build, seen = Training.start, lrexp.build.experiment.build, {}

    def built(config: Any, datasets: Any = None, *ranks: Any) -> Any:
        logging.getLogger("lrexp.build.experiment").warning("odd data")
        return build(config, datasets)

    def started(self: Any) -> None:
        wanted = self._config.trainer.deterministic
        seen[wanted] = torch.are_deterministic_algorithms_enabled()
        start(self)

    monkeypatch.setattr(lrexp.build.experiment, "build", built)
    monkeypatch.setattr(Training, "start", started)
    before = torch.are_deterministic_algorithms_enabled()
    ran = run(executor, "trainer.epochs=1", "trainer.deterministic=true,false", seeds)
    assert seen == {True: True, False: before}
    assert [line for line in ran.said.splitlines() if "odd data" in line] == [
        "WARNING: point 0: odd data"
    ]


def test_packs_are_no_larger_than_asked_for(run: Run) -> None:
    ran = run("stacked", "trainer.epochs=1", "seed=0,1,2", settings={"members": 2})
    assert sorted(ran.summary(num)["members"] for num in range(3)) == [1, 2, 2]


def broken_stack(
    monkeypatch: pytest.MonkeyPatch, error: Exception, largest: int, after: int = 1
) -> list[int]:
    """Stacks of more than `largest` members fail after so many epochs. Returns sizes tried."""
    tried: list[int] = []
    epoch = StackedTrainer.train_epoch
    trainers_of = StackedTrainer.__init__

    def trains(trainers: Any) -> bool:
        return len(trainers[0].experiment.schedule) > 1  # a trial before has one step

    def init(self: Any, trainers: Any) -> None:
        tried.extend([len(trainers)] * trains(trainers))
        trainers_of(self, trainers)

    def train_epoch(self: Any) -> Any:
        fails = len(self._members) > largest and self._going[0].epoch == after
        if fails and trains(self._members):
            raise error
        return epoch(self)

    monkeypatch.setattr(StackedTrainer, "__init__", init)
    monkeypatch.setattr(StackedTrainer, "train_epoch", train_epoch)
    return tried


def test_a_pack_that_does_not_fit_is_halved_and_goes_on(
    run: Run, both: tuple[Ran, Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, alone = both
    tried = broken_stack(monkeypatch, torch.OutOfMemoryError("no room"), 1)
    ran = run("stacked", *FOUR)
    assert tried == [4, 2, 2]
    for num in range(4):
        assert_close_runs(ran, alone, num, 1e-3)  # three rows, none twice
        assert ran.summary(num)["members"] == 1
    assert "could not train together: there was not enough memory" in ran.log(0)


def test_a_pack_whose_member_finds_no_memory_to_be_judged_in_is_halved(
    run: Run, both: tuple[Ran, Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, alone = both
    tried = broken_stack(monkeypatch, ValueError("odd"), 4)
    judged = Trainer._judged

    def no_room(self: Any, *arguments: Any) -> Any:
        if tried == [4] and self.epoch == 2 and self.experiment.base_lr == 0.05:
            raise torch.OutOfMemoryError("no room")
        return judged(self, *arguments)

    monkeypatch.setattr(Trainer, "_judged", no_room)
    ran = run("stacked", *FOUR)
    assert tried == [
        4,
        2,
        2,
    ]  # the first two (rate 0.02) are an epoch further
    for num in range(4):
        assert_close_runs(ran, alone, num, 1e-3)
        assert ran.summary(num)["status"] == "finished"


def test_a_diverging_member_ends_alone_and_halves_of_the_others_still_train_together(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = broken_stack(monkeypatch, torch.OutOfMemoryError("no room"), 3, after=2)
    ran = run("stacked", *LONGER, "optimizer.lr=1e6,0.01,0.02,0.03,0.04,0.05")
    assert tried == [6, 2, 3]
    assert [len(ran.rows(num)) for num in range(6)] == [1, 3, 3, 3, 3, 3]
    assert [ran.summary(num)["members"] for num in range(1, 6)] == [2, 2, 3, 3, 3]
    assert [ran.summary(num)["status"] for num in range(6)] == ["diverged", *["finished"] * 5]
    assert ran.ended[0].return_value == float("inf")
    assert "diverged" in ran.said


def test_a_member_that_failed_stays_failed_when_its_pack_does_not_fit(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lrexp.tasks.train import Training

    row = Training.row

    def disk_is_broken(self: Any, values: Any) -> None:
        if self._config.seed == 2 and values["epoch"] == 1:
            raise OSError("the disk is broken")
        row(self, values)

    monkeypatch.setattr(Training, "row", disk_is_broken)
    broken_stack(monkeypatch, torch.OutOfMemoryError("no room"), 3)
    ran = run("stacked", *LONGER, "seed=0,1,2,3")
    assert [ran.summary(num)["status"] == "finished" for num in range(4)] == [1, 1, 0, 1]
    assert ran.summary(2)["error"] == "OSError: the disk is broken"
    assert [len(ran.rows(num)) for num in (0, 1, 3)] == [3, 3, 3]


def test_a_pack_that_fails_trains_one_by_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = broken_stack(monkeypatch, ValueError("odd"), 0)
    ran = run("stacked", *LONGER, "seed=0,1")
    assert tried == [2]
    assert [ran.summary(num)["status"] for num in range(2)] == ["finished"] * 2
    assert [len(ran.rows(num)) for num in range(2)] == [3] * 2


def test_a_member_that_cannot_be_built_or_recorded_fails_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lrexp.build.experiment
    from lrexp.tasks.train import Training

    build, row = lrexp.build.experiment.build, Training.row

    def breaks(config: Any, datasets: Any = None, *ranks: Any) -> Any:
        if config.seed == 1 and datasets.built:
            raise MemoryError("no room for this one")
        return build(config, datasets)

    def disk_is_broken(self: Any, values: Any) -> None:
        if self._config.seed == 2 and values["epoch"] == 2:
            raise OSError("the disk is broken")
        row(self, values)

    monkeypatch.setattr(lrexp.build.experiment, "build", breaks)
    monkeypatch.setattr(Training, "row", disk_is_broken)
    ran = run("stacked", *LONGER, "seed=0,1,2,3")
    statuses = [ran.summary(num)["status"] for num in range(4)]
    assert statuses == ["finished", "failed", "failed", "finished"]
    assert ran.summary(1)["error"] == "MemoryError: no room for this one"
    assert ran.summary(2)["error"] == "OSError: the disk is broken"
    assert [ran.ended[num].status == JobStatus.FAILED for num in range(4)] == [
        False,
        True,
        True,
        False,
    ]
    board = json.loads((ran.folder / "leaderboard.json").read_text())
    assert board["configurations"][0]["status"]["failed"] == 2


def test_a_point_that_left_no_result_has_failed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from lrexp.folder import files
    from lrexp.tasks import summary as written

    write = files.write_summary

    def disk_is_full(folder: Path, summary: dict[str, Any]) -> None:
        if summary["seed"] == 1 and summary["status"] == "finished":
            raise OSError(28, "No space left on device")
        write(folder, summary)

    monkeypatch.setattr(written, "write_summary", disk_is_full)
    ran = run("serial", "seed=0,1")
    assert ran.summary(1)["status"] == "running"
    board = json.loads((ran.folder / "leaderboard.json").read_text())
    status = board["configurations"][0]["status"]
    assert (status["finished"], status["failed"], status["running"]) == (1, 1, 0)
    assert "failed  it ended, and its summary could not be written" in ran.said


def test_a_full_disk_stops_the_sweep_and_leaves_the_rest_undone(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lrexp.record.predictions as predictions

    def full(file: Path, *_: Any) -> None:
        raise OSError(28, os.strerror(28), str(file))

    monkeypatch.setattr(predictions, "write_predictions", full)
    with pytest.raises(UserError, match=r"the disk of .* is full, which point 0 could not do"):
        run("serial", "seed=0,1,2,3")
    board = json.loads((tmp_path / "sweep0" / "leaderboard.json").read_text())
    status = board["configurations"][0]["status"]
    assert (status["finished"], status["failed"], status["missing"]) == (0, 1, 3)
    assert len(list(tmp_path.glob("sweep0/*/plan.csv"))) == 1


def test_a_signal_whose_exception_was_lost_stops_the_sweep(run: Run, tmp_path: Path) -> None:
    with pytest.raises(Terminated):
        run("serial", "seed=0,1", asked=[Terminated])
    assert len(list(tmp_path.glob("sweep0/*/summary.json"))) == 1


def test_auto_does_not_time_what_is_short(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = broken_stack(monkeypatch, ValueError("odd"), 0)
    ran = run("auto", "seed=0,1")
    assert tried == []
    assert "auto   serial: " in ran.said
    assert "too little to time other ways" in ran.said
    assert {ran.summary(num)["executor"] for num in range(2)} == {"serial"}


@pytest.mark.slow
def test_auto_times_few_of_many_points_that_cannot_train_together(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = looked_at(monkeypatch)
    run("auto", "model.hidden=20,21,22,23,24,25,26,27")
    assert looked == [0, 2, 4, 6]


def test_auto_looks_once_at_short_points_that_differ_in_what_is_frozen(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = looked_at(monkeypatch)
    run("auto", "lr_policy=uniform,freeze_backbone,bias_norm_only", "seed=0,1")
    assert looked == [0]


def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the points that `auto` builds to time them. It trains none."""
    nums: list[int] = []
    monkeypatch.setattr(choice, "in_turn", lambda packs, session: iter(()))

    def look(points: list[Point], session: Any) -> Kind:
        nums.append(points[0].num)
        return executors.look(points, session)

    monkeypatch.setattr(choice, "look", look)
    return nums


def test_auto_takes_the_way_that_it_measured_to_be_fastest(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "WORTH", 1e9)  # it measures however little there is to train
    ran = run("auto", *LONGER, "seed=0,1", settings={"workers": 1})  # no pool to measure
    rates = re.search(r"auto   points 0-1: .*serial ([\d,]+), 2 stacked ([\d,]+)\)", ran.said)
    assert rates, ran.said
    serial, stacked = (float(rate.replace(",", "")) for rate in rates.groups())
    fastest = "stacked" if serial < choice.CLEARLY * stacked else "serial"
    assert {ran.summary(num)["executor"] for num in range(2)} == {fastest}
    assert "member-steps/s" in ran.log(1)


def kind(count: int, largest: int = 64) -> Kind:
    points = [Point(num, [], {"seed": 0}, f"p{num}", b"", alike="same") for num in range(count)]
    return Kind(points, largest=largest)


@pytest.mark.parametrize(
    ("serial", "stacked", "members"), [(100, 500, 16), (100, 105, 1), (100, 80, 1), (100, None, 1)]
)
def test_stacking_is_taken_only_where_it_is_clearly_faster(
    serial: float, stacked: float | None, members: int
) -> None:
    timed = replace(kind(16), steps=50, serial=serial, stacked=stacked)
    assert timed.together == members
    assert timed.seconds == 800 / (stacked if members > 1 and stacked else serial)


@pytest.mark.parametrize(("count", "stacked"), [(16, 95.0), (1, None)])
def test_a_disturbed_timing_does_not_speak_against_serial(
    monkeypatch: pytest.MonkeyPatch, count: int, stacked: float | None
) -> None:
    from lrexp.grid.stack import probe as timing

    rates = iter([50.0, 100.0])
    monkeypatch.setattr(timing, "clones", lambda trainer, seeds: [trainer] * len(seeds))
    monkeypatch.setattr(
        timing,
        "steps_per_s",
        lambda trainers, at_least_s: next(rates) if len(trainers) == 1 else 95.0,
    )
    monkeypatch.setattr(choice, "try_stacking", lambda kind, session: kind)
    experiment = SimpleNamespace(schedule=[1.0] * 10_000, device=torch.device("cpu"))
    timed: Any = replace(kind(count), trainer=cast("Any", SimpleNamespace(experiment=experiment)))
    found = choice._timed(timed, cast("Any", None))
    assert (found.serial, found.stacked, found.together) == (100.0, stacked, 1)


def test_a_pool_begins_with_what_takes_longest(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    @contextmanager
    def opened(*arguments: Any) -> Iterator[None]:
        yield

    def run_packs(packs: Any, workers: Any, session: Any) -> Any:
        begun.extend(point.num for part in packs for point in part)
        return iter(())

    for module in (choice, pool):
        monkeypatch.setattr(module, "opened", opened)
        monkeypatch.setattr(module, "run_packs", run_packs)
        monkeypatch.setattr(module, "places", lambda *arguments: [Place(None, 1)] * 2)
    monkeypatch.setattr(choice, "measure_pool", lambda *arguments: 1e9)
    monkeypatch.setattr(choice, "POOL_START_S", -1000)
    # No clock decides how long a point takes.
    monkeypatch.setattr("lrexp.grid.stack.probe.steps_per_s", lambda *arguments: 100.0)
    for executor in ("pool", "auto"):
        run(executor, "trainer.epochs=1,3,2", "seed=0,1")
        assert begun == [2, 3, 4, 5, 0, 1], executor
        begun.clear()


def test_packs_hold_every_point_once_and_no_more_than_fit() -> None:
    packs = kind(10, largest=4).packs()
    assert sorted(p.num for part in packs for p in part) == list(range(10))
    assert [len(part) for part in packs] == [4, 3, 3]


def test_only_points_that_are_known_to_be_alike_may_train_together() -> None:
    points = kind(4).points
    points[1].alike, points[2].alike = "other", None
    assert [[p.num for p in found] for found in kinds(points)] == [[0, 3], [1], [2]]


def test_auto_survives_points_that_cannot_be_built(run: Run, monkeypatch: Any) -> None:
    import lrexp.build.experiment

    def never(config: Any, datasets: Any = None, *ranks: Any) -> Any:
        raise RuntimeError("nothing can be built")

    monkeypatch.setattr(lrexp.build.experiment, "build", never)
    for executor in ("auto", "stacked", "serial"):
        ran = run(executor, "seed=0,1")
        assert [ran.summary(num)["error"] for num in (0, 1)] == [
            "RuntimeError: nothing can be built"
        ] * 2


def test_the_fork_server_of_a_grid_in_this_process_ends_with_the_test_that_ran_it() -> None:
    with none_left():
        start_server((), Place(None, 1))
        server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
        assert is_alive(server)
    assert not is_alive(server)
