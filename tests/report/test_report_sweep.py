"""A sweep's folder as values: points however they ended, configurations, which is best and why."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_sweep import outcome, went_wrong, write_sweep

from lrexp.grid.leaderboard import Leaderboard, leaderboard
from lrexp.grid.points.point import read_points, read_summary
from lrexp.judge.cross_tables import cross_tables
from lrexp.judge.limits import limits
from lrexp.judge.ranking import (
    compared_by,
    configurations,
    groups,
    has_rate_axis,
    lines,
)
from lrexp.report.sweep.exploration import explore
from lrexp.runs.sweep import rate_of, read_sweep

LOSSES = {
    ("uniform", 0.01): (0.5, 0.7),
    ("uniform", 0.1): (0.3, 0.4),
    ("uniform", 1.0): (0.9, 0.8),
    ("freeze_backbone", 0.01): (0.8, 0.8),
    ("freeze_backbone", 0.1): (0.6, 0.7),
    ("freeze_backbone", 1.0): (0.45, 0.5),
}
AXES = {
    "lr_policy": ("uniform", "freeze_backbone"),
    "optimizer.lr": (0.01, 0.1, 1.0),
    "seed": (0, 1),
}


def known(chosen: dict[str, Any]) -> dict[str, Any]:
    return outcome(LOSSES[chosen["lr_policy"], chosen["optimizer.lr"]][chosen["seed"]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "sweep", AXES, known)


def run_of(folder: Path, num: int) -> Path:
    return next(folder.glob(f"{num}_*"))


# ---- reading


def test_a_sweep_is_read_as_it_was_written(folder: Path) -> None:
    sweep = read_sweep(folder)
    assert [p.num for p in sweep.points] == list(range(12))
    assert {p.status for p in sweep.points} == {"finished"}
    third = sweep.points[2]
    assert (third.policy, third.settings["optimizer.lr"], third.seed) == ("uniform", 0.1, 0)
    assert third.best["val/loss"] == 0.3
    assert [row["epoch"] for row in third.rows] == [1, 2, 3]
    assert third.rows[0]["val/loss"] == pytest.approx(0.3 + math.exp(-1))
    assert sweep.command == (
        "lr_policy=uniform,freeze_backbone", "optimizer.lr=0.01,0.1,1", "seed=0,1",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("file", "text", "status", "why"),
    [
        ("summary.json", "{", "damaged", "summary.json is damaged"),
        ("summary.json", "[1]", "damaged", "summary.json is damaged"),
        ("summary.json", "", "damaged", "summary.json is damaged"),
        ("summary.json", None, "damaged", "summary.json is missing"),
        ("summary.json", '{"status": "odd"}', "damaged", "unknown status 'odd'"),
        ("summary.json", '{"status": "finished", "best": {"epoch": 1}}', "damaged", "val/loss"),
        (
            "summary.json",
            '{"status": "finished", "best": {"val/loss": "NaN"}}',
            "damaged",
            "val/loss",
        ),
        ("summary.json", '{"status": "running"}', "running", "killed after 3 epochs"),
        ("summary.json", '{"status": "interrupted"}', "interrupted", "stopped after 3 epochs"),
        ("summary.json", '{"status": "diverged"}', "diverged", "diverged after 3 epochs"),
        ("summary.json", '{"status": "failed", "error": "E: a\\nb"}', "failed", "E: a"),
        ("metrics.jsonl", '{"epoch": 1, "val/loss": 1.0}\n{"epo', "finished", "1 of 2 lines"),
        ("metrics.jsonl", None, "finished", ""),
    ],
)
def test_a_damaged_or_unfinished_point_has_a_status_and_a_reason(
    folder: Path, file: str, text: str | None, status: str, why: str
) -> None:
    damaged = run_of(folder, 3) / file
    damaged.unlink() if text is None else damaged.write_text(text)
    point = read_sweep(folder).points[3]
    assert point.status == status
    assert why in point.why
    assert "\n" not in point.why
    assert len(configurations(read_sweep(folder))) == 6


def test_a_point_without_a_folder_has_never_started(tmp_path: Path) -> None:
    def partly(chosen: dict[str, Any]) -> dict[str, Any] | None:
        return outcome(1.0) if chosen["seed"] == 0 else None

    sweep = read_sweep(write_sweep(tmp_path, {"seed": (0, 1)}, partly))
    assert [p.status for p in sweep.points] == ["finished", "missing"]


def test_without_points_json_the_run_folders_are_the_points(folder: Path) -> None:
    before = read_sweep(folder)
    for point in before.points:
        run = folder / point.folder
        (run / ".hydra").mkdir()
        (run / ".hydra" / "overrides.yaml").write_text(json.dumps(list(point.overrides)))
        nested = {
            "seed": point.seed,
            "lr_policy": {"name": point.policy},
            "optimizer": {"lr": point.settings["optimizer.lr"]},
            "trainer": {"monitor": "val/loss"},
        }
        (run / "config.yaml").write_text(json.dumps(nested))
    for damage in ("[", "{}", None):
        file = folder / "points.json"
        file.unlink() if damage is None else file.write_text(damage)
        after = read_sweep(folder)
        assert [p.num for p in after.points] == list(range(12))
        assert not after.resumable
        assert [c.name for c in configurations(after)] == [c.name for c in configurations(before)]
        assert [c.worth for c in configurations(after)] == [c.worth for c in configurations(before)]
        assert any("points.json" in note for note in after.notes) == (damage is not None)


def test_a_folder_that_holds_nothing_is_an_empty_sweep(tmp_path: Path) -> None:
    sweep = read_sweep(tmp_path)
    assert sweep.points == ()
    assert configurations(sweep) == groups([]) == []
    assert lines([]) == {}


RATES: list[tuple[dict[str, Any], tuple[float | None, bool]]] = [
    ({"optimizer.lr": 0.1}, (0.1, False)),
    ({"optimizer.lr": None}, (None, False)),
    ({}, (None, False)),
    ({"optimizer.lr": 0.1, "lr_policy.lr_low": 1e-3, "lr_policy.lr_high": 1e-2}, (1e-2, True)),
    ({"optimizer.lr": 0.1, "lr_policy.lr_low": None, "lr_policy.lr_high": 1e-2}, (1e-2, True)),
    ({"optimizer.lr": 0.1, "lr_policy.lr_low": 1e-3, "lr_policy.lr_high": None}, (0.1, False)),
    (
        {"optimizer.lr": 0.1, "lr_policy.rules": [{"layers": "head", "lr": 0.5},
                                                  {"layers": "backbone", "lr": 0.05}]},
        (0.5, True),
    ),
    ({"optimizer.lr": 0.1, "lr_policy.rules": [{"match": "*", "lr": 0.3}]}, (0.3, True)),
    ({"optimizer.lr": 0.1, "lr_policy.rules": [{"layers": "head", "lr": 0.5}]}, (0.1, False)),
    ({"optimizer.lr": 0.1, "lr_policy.rules": [{"match": "*", "scale": 2}]}, (0.1, False)),
]  # fmt: skip


@pytest.mark.parametrize(("given_settings", "expected"), RATES)
def test_a_policy_with_rates_of_its_own_stands_at_its_highest(
    given_settings: dict[str, Any], expected: tuple[float | None, bool]
) -> None:
    assert rate_of(given_settings) == expected


# ---- configurations and their order


def test_configurations_have_the_mean_and_deviation_over_seeds(folder: Path) -> None:
    ranked = configurations(read_sweep(folder))
    assert [(c.group, c.rate, c.rank) for c in ranked[:3]] == [
        ("uniform", 0.1, 1), ("freeze_backbone", 1.0, 2), ("uniform", 0.01, 3),
    ]  # fmt: skip
    best = ranked[0]
    assert best.worth.mean == pytest.approx(0.35)
    assert best.worth.std == pytest.approx(math.sqrt(0.005))  # (0.05² + 0.05²) / (2 − 1)
    assert best.gap.mean == pytest.approx(0.035)
    assert best.by_repetition == {(0, None): 0.3, (1, None): 0.4}
    assert (best.name, best.variant) == ("uniform lr=0.1", "")


OUTCOMES = st.one_of(
    st.none(),
    st.sampled_from(["diverged", "failed", "interrupted", "running"]).map(went_wrong),
    st.floats(0.01, 9, allow_nan=False).map(lambda loss: outcome(round(loss, 2))),
)


@given(
    results=st.lists(OUTCOMES, min_size=18, max_size=18),
    monitor=st.sampled_from(["val/loss", "val/accuracy"]),
    saved=st.booleans(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_order_and_numbers_are_those_of_the_leaderboard(
    tmp_path_factory: pytest.TempPathFactory,
    results: list[dict[str, Any] | None],
    monitor: str,
    saved: bool,
) -> None:
    folder, left = tmp_path_factory.mktemp("sweep"), iter(results)
    axes = {"lr_policy": ("a", "b"), "optimizer.lr": (0.1, 0.2, 0.3), "seed": (0, 1, 2)}
    write_sweep(folder, axes, lambda chosen: next(left), monitor=monitor, epochs=1)
    points = read_points(folder).points
    board = leaderboard(points, {p.num: read_summary(folder / p.folder) for p in points})
    if saved:
        written = Leaderboard(folder)
        written.points = points
        for p in points:
            written.take(p.num, read_summary(folder / p.folder))
        written.write()
    ranked = configurations(read_sweep(folder))
    means = [row[monitor]["mean"] for row in board["configurations"]]
    if saved or len(set(means)) == len(means):  # ties have no order of their own
        assert [[p.num for p in c.points] for c in ranked] == [
            row["points"] for row in board["configurations"]
        ]
    by_points = {tuple(row["points"]): row for row in board["configurations"]}
    for c in ranked:
        row = by_points[tuple(p.num for p in c.points)]
        assert [c.worth.n, c.gap.n] == [row[monitor]["n"], row["gap/loss"]["n"]]
        for ours, theirs in ((c.worth, row[monitor]), (c.gap, row["gap/loss"])):
            assert ours.mean == pytest.approx(theirs["mean"], nan_ok=True)
            assert ours.std == pytest.approx(theirs["std"], nan_ok=True)
        assert {k: v for k, v in row["status"].items() if v} == dict(c.counts)


def test_what_diverged_is_counted_and_never_averaged(tmp_path: Path) -> None:
    def result(chosen: dict[str, Any]) -> dict[str, Any]:
        good = outcome(0.2) if chosen["seed"] else outcome(0.1) | {"status": "diverged"}
        return outcome(0.9) if chosen["optimizer.lr"] == 0.1 else good

    sweep = read_sweep(write_sweep(tmp_path, {"optimizer.lr": (0.1, 1.0), "seed": (0, 1)}, result))
    first, second = configurations(sweep)
    assert (first.rate, second.rate) == (0.1, 1.0), "a bad seed puts its configuration last"
    assert second.worth.mean == 0.2
    assert second.counts == {"finished": 1, "diverged": 1}
    (group,) = groups([first, second])
    assert (group.best.rate, group.edge, group.unstable_from) == (0.1, "lower", 1.0)


def test_an_equal_point_counts_where_it_ran(tmp_path: Path) -> None:
    points = [{"lr_policy": "a"}, {"lr_policy": "b"}, {"lr_policy": "c", "same_as": 0}]
    sweep = read_sweep(write_sweep(tmp_path, {}, lambda chosen: outcome(1.0), points=points))
    assert sweep.points[2].status == "equal"
    assert sorted(c.group for c in configurations(sweep)) == ["a", "b"]


def test_an_equal_point_is_a_try_of_its_own_policy(tmp_path: Path) -> None:
    points = [
        {"lr_policy": policy, "optimizer.lr": rate, "seed": 0}
        for policy in ("a", "b")
        for rate in (0.01, 0.1, 1.0)
    ]
    points[3]["same_as"] = 0
    losses = {0.01: 0.5, 0.1: 0.3, 1.0: 0.9}
    folder = write_sweep(tmp_path, {}, lambda c: outcome(losses[c["optimizer.lr"]]), points=points)
    tunings = explore(read_sweep(folder)).tunings
    assert {name: one.lacks for name, one in tunings.items()} == {"a": "", "b": ""}


# ---- groups, edges, differences


@pytest.mark.parametrize(
    ("losses", "edge"),
    [((1, 2, 3), "lower"), ((3, 2, 1), "upper"), ((3, 1, 2), "inside"), ((1,), "one")],
)
def test_the_best_rate_at_the_edge_of_its_grid_is_told(
    tmp_path: Path, losses: tuple[int, ...], edge: str
) -> None:
    rates = tuple(0.1 * 2**i for i in range(len(losses)))
    by_rate = dict(zip(rates, losses, strict=True))
    axes = {"lr_policy": ("a",), "optimizer.lr": rates}
    sweep = read_sweep(write_sweep(tmp_path, axes, lambda c: outcome(by_rate[c["optimizer.lr"]])))
    (group,) = groups(configurations(sweep))
    assert (group.edge, group.rates, group.tries) == (edge, rates, len(rates))


def test_a_rate_that_never_ran_is_no_part_of_the_grid(tmp_path: Path) -> None:
    def result(chosen: dict[str, Any]) -> dict[str, Any] | None:
        return None if chosen["optimizer.lr"] == 0.4 else outcome(1 / chosen["optimizer.lr"])

    axes = {"optimizer.lr": (0.1, 0.2, 0.4)}
    (group,) = groups(configurations(read_sweep(write_sweep(tmp_path, axes, result))))
    assert (group.best.rate, group.edge, group.rates) == (0.2, "upper", (0.1, 0.2))


def test_data_seeds_are_repetitions_and_no_setting_to_be_tuned(tmp_path: Path) -> None:
    axes = {"lr_policy": ("a", "b"), "optimizer.lr": (0.1, 0.2), "data.seed": (0, 1, 2)}
    sweep = read_sweep(write_sweep(tmp_path, axes, lambda c: outcome(1 + 0.1 * c["data.seed"])))
    ranked = configurations(sweep)
    assert [one.worth.n for one in ranked] == [3] * 4
    assert list(ranked[0].by_repetition) == [(0, 0), (0, 1), (0, 2)], "paired by both"
    assert (ranked[0].name, ranked[0].variant) == ("a lr=0.1", "")
    assert [ranked[0].repetition_of(p) for p in ranked[0].points][1] == "seed 0, data.seed 1"
    assert [group.tries for group in groups(ranked)] == [2, 2]
    assert cross_tables(sweep, ranked) == []


# ---- what the sweep compares, its axes and lines


def compares(folder: Path) -> tuple[str, str]:
    return compared_by(read_sweep(folder))


def test_policies_are_compared_where_several_were_swept(folder: Path) -> None:
    assert compares(folder) == ("policy", "lr_policy")


def test_cases_are_compared_unless_each_is_a_policy(tmp_path: Path) -> None:
    def write(name: str, *pairs: tuple[str, str]) -> Path:
        points = [
            {"case": case, "lr_policy": policy, "seed": i} for i, (case, policy) in enumerate(pairs)
        ]
        return write_sweep(tmp_path / name, {}, lambda c: outcome(1.0), points=points)

    assert compares(write("same", ("a", "x"), ("b", "y"), ("a", "x"))) == ("policy", "lr_policy")
    own = write("own", ("gentle", "x"), ("rough", "x"), ("plain", "y"))
    assert compares(own) == ("case", "")
    assert {c.group for c in configurations(read_sweep(own))} == {"gentle", "rough", "plain"}


def test_an_option_is_compared_where_there_is_one_policy(tmp_path: Path) -> None:
    axes = {"optimizer.lr": (0.1, 0.2), "optimizer": ("sgd", "adam"), "seed": (0, 1)}
    folder = write_sweep(tmp_path, axes, lambda c: outcome(1.0))
    assert compares(folder) == ("optimizer", "optimizer")
    drawn = lines(configurations(read_sweep(folder)))
    assert list(drawn) == [("sgd", ""), ("adam", "")]
    assert [[c.rate for c in some] for some in drawn.values()] == [[0.1, 0.2]] * 2


def test_other_settings_of_a_policy_are_lines_of_their_own(tmp_path: Path) -> None:
    axes = {"lr_policy": ("a", "b"), "optimizer.lr": (0.1, 0.2), "lr_policy.decay": (0.5, 0.9)}
    losses = {0.5: 2.0, 0.9: 1.0}
    folder = write_sweep(
        tmp_path, axes, lambda c: outcome(losses[c["lr_policy.decay"]] + c["optimizer.lr"])
    )
    drawn = lines(configurations(read_sweep(folder)))
    assert list(drawn) == [
        ("a", "decay=0.9"), ("a", "decay=0.5"), ("b", "decay=0.9"), ("b", "decay=0.5"),
    ]  # fmt: skip
    assert has_rate_axis(configurations(read_sweep(folder)))


def test_a_sweep_over_seeds_or_policies_has_no_rate_axis(tmp_path: Path) -> None:
    for i, axes in enumerate(({"seed": (0, 1, 2)}, {"lr_policy": ("a", "b")})):
        sweep = read_sweep(write_sweep(tmp_path / str(i), axes, lambda c: outcome(1.0)))
        assert not has_rate_axis(configurations(sweep))


def test_a_heat_map_holds_the_mean_at_every_pair(tmp_path: Path) -> None:
    axes = {"optimizer.weight_decay": (0.0, 0.1), "optimizer.lr": (1.0, 0.1), "seed": (0, 1),
            "optimizer.nesterov": ("true", "false")}  # fmt: skip

    def result(c: dict[str, Any]) -> dict[str, Any]:
        worse = 5 if c["optimizer.nesterov"] == "true" else 0
        return outcome(c["optimizer.lr"] + 10 * c["optimizer.weight_decay"] + c["seed"] + worse)

    sweep = read_sweep(write_sweep(tmp_path, axes, result))
    maps = {one.group: one for one in cross_tables(sweep, configurations(sweep))}
    one = maps["false"]
    assert (one.x_key, one.y_key) == ("optimizer.lr", "optimizer.weight_decay")
    assert (one.xs, one.ys, one.several) == ((0.1, 1.0), (0.0, 0.1), False)
    means = [[cell.worth.mean for cell in row if cell] for row in one.cells]
    assert means == [[pytest.approx(0.6), 1.5], [pytest.approx(1.6), 2.5]]


def test_a_cell_of_a_heat_map_is_the_best_of_those_that_share_it(tmp_path: Path) -> None:
    axes = {"lr_policy": "ab", "optimizer.lr": (0.1, 1.0), "lr_policy.decay": (0.5, 0.9),
            "scheduler": ("constant", "cosine")}  # fmt: skip
    worse = {"constant": 0.0, "cosine": 1.0}
    sweep = read_sweep(write_sweep(tmp_path, axes, lambda c: outcome(1 + worse[c["scheduler"]])))
    maps = cross_tables(sweep, configurations(sweep))
    assert [one.group for one in maps] == ["a", "b"]
    cells = [cell for row in maps[0].cells for cell in row if cell]
    assert maps[0].several
    assert [(cell.worth.mean, cell.variant) for cell in cells] == [
        (1.0, f"decay={decay} constant") for decay in (0.5, 0.5, 0.9, 0.9)
    ]


def test_there_is_no_heat_map_without_two_numbers(folder: Path) -> None:
    sweep = read_sweep(folder)
    assert cross_tables(sweep, configurations(sweep)) == []


@given(
    st.lists(st.floats(-1e9, 1e9, allow_nan=False), min_size=1),
    st.sampled_from(["val/loss", "gap/loss", "val/accuracy"]),
)
def test_an_axis_begins_and_ends_at_values_it_shows(values: list[float], key: str) -> None:
    low, high, log = limits(key, values)
    assert low in values
    assert high in values
    assert low <= high
    middle = statistics.median_low(values)
    assert low <= middle or log
    if key == "val/accuracy":
        assert (low, high, log) == (min(values), max(values), False)
    if log:
        assert key == "val/loss"
        assert low == min(values) > 0


def test_losses_that_blew_up_do_not_flatten_the_others() -> None:
    losses = [0.1, 0.2, 0.4, 1.0, 2.0, 30.0]
    assert limits("val/loss", losses) == (0.1, 30.0, True)
    assert limits("val/loss", [*losses, 1e24]) == (0.1, 30.0, True)
    assert limits("gap/loss", [0.1, 0.12, 0.14, 0.16, 0.18, 1e15]) == (0.1, 0.18, False)
