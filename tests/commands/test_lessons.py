"""The lessons: every file says its question, command and check, and the script trains that grid."""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser

from lrexp.judge.crossed import Crossed

SCRIPTS = ROOT / "scripts"
FILES = sorted((ROOT / "conf/experiment/lessons").glob("*.yaml"))
NAMES = [file.stem for file in FILES]
COMMAND = re.compile(r"^#   python -m lrexp (.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def script() -> Iterator[Callable[[str], Any]]:
    """A function that imports a module of scripts/."""
    sys.path.insert(0, str(SCRIPTS))
    yield import_module
    sys.path.remove(str(SCRIPTS))


def commands(name: str) -> list[list[str]]:
    """The words of the commands that a lesson's file begins with."""
    text = (ROOT / f"conf/experiment/lessons/{name}.yaml").read_text()
    return [shlex.split(found) for found in COMMAND.findall(re.sub(r"\\\n# +", "", text))]


def of_lesson(words: list[str]) -> list[str]:
    own = ("-m", "experiment=", "data.path=")
    return [word for word in words if not word.startswith(own)]


def points(words: list[str]) -> set[frozenset[tuple[str, str]]]:
    """What a command line asks for, settings by point."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    parse = OverridesParser.create().parse_overrides
    split = BasicSweeper.split_arguments(parse(words), None)[0]
    parsed = (parse(point) for point in split)
    return {frozenset((o.key_or_group, repr(o.value())) for o in point) for point in parsed}


def without_seed(point: frozenset[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    return frozenset((key, value) for key, value in point if key != "seed")


def test_every_lesson_has_a_file_and_a_judge(script: Any) -> None:
    assert sorted(script("lesson.table").LESSONS) == NAMES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_lesson_begins_with_its_question_its_command_and_what_is_checked(file: Path) -> None:
    package, question, *lines = file.read_text().splitlines()
    assert package == "# @package _global_"
    assert question.startswith("# ")
    assert question.endswith("?")
    assert any(f"python -m lrexp experiment=lessons/{file.stem}" in line for line in lines)
    assert any(line.startswith("# Checked: ") or ". Checked: " in line for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_a_lesson_composes_under_its_own_name(name: str, compose: Callable[..., Any]) -> None:
    somewhere = ["data.path=."] * (name == "leakage")
    assert compose(f"experiment=lessons/{name}", *somewhere).name == name


@pytest.mark.parametrize("name", NAMES)
def test_the_script_trains_the_grid_that_the_file_names(name: str, script: Any) -> None:
    lesson = script("lesson.table").LESSONS[name]
    cases = {point for case in lesson.cases.values() for point in points(shlex.split(case))}
    cases |= {frozenset()} if "" in lesson.cases.values() else set()
    shown = [(words, points(of_lesson(words)) or {frozenset()}) for words in commands(name)]
    assert cases <= {without_seed(point) for _, found in shown for point in found}
    grids = [found for words, found in shown if "-m" in words]
    for found in grids:
        assert {without_seed(point) for point in found} <= cases
        seeds = {value for point in found for key, value in point if key == "seed"}
        assert sorted(map(int, seeds)) == list(range(lesson.seeds))
    assert grids or lesson.seeds <= 1 or name == "leakage"


def crossed(mean: float, se: float = 1.0, df: float = 30) -> Crossed:
    return Crossed(mean, se, df, 5, 100, 1.0, 1.0, 1.0, 99)


@pytest.mark.parametrize(
    ("mean", "wanted", "margin", "verdict"),
    [
        (3.0, "higher", None, "holds"),
        (3.0, "lower", None, "does not hold"),
        (-3.0, "lower", None, "holds"),
        (1.0, "higher", None, "undecided here"),
        (1.0, "higher", 2.0, "undecided here"),
        (0.1, "higher", 2.0, "does not hold"),
        (0.1, "alike", 2.0, "holds"),
        (3.0, "alike", 2.0, "does not hold"),
        (1.5, "alike", 2.0, "undecided here"),
        (math.nan, "higher", None, "undecided here"),
    ],
)
def test_what_becomes_of_a_claim(
    script: Any, mean: float, wanted: Any, margin: float | None, verdict: str
) -> None:
    judging = script("lesson.judging")
    difference = crossed(mean, math.nan if math.isnan(mean) else 1.0)
    asked = judging.Question("", wanted, "holds", judging.Measured(difference, ""), margin)
    (found,) = judging.judged([asked])
    assert found.verdict == verdict
    assert found.surprising == (verdict != "holds")


def test_several_questions_of_a_lesson_need_more_each(script: Any) -> None:
    judging = script("lesson.judging")
    measured = judging.Measured(crossed(2.3), "")
    asked = judging.Question("", "higher", "holds", measured)
    assert judging.judged([asked])[0].verdict == "holds"
    assert {one.verdict for one in judging.judged([asked] * 4)} == {"undecided here"}


def test_numbers_per_seed_are_judged_by_students_t(script: Any) -> None:
    from scipy.stats import ttest_1samp

    from lrexp.judge.comparison import interval, p_value

    values = np.array([0.3, 0.1, 0.4, -0.1, 0.2])
    oracle: Any = ttest_1samp(values, 0.0)
    measured = script("lesson.judging").over_seeds(values)
    assert p_value(measured) == pytest.approx(oracle.pvalue)
    assert interval(measured) == pytest.approx(tuple(oracle.confidence_interval()))
    assert p_value(script("lesson.judging").over_seeds(np.array([1.0, np.nan, 2.0]))) == 1.0
    assert p_value(script("lesson.judging").over_seeds(values[:2])) == 1.0


def test_a_measurement_tells_its_interval(script: Any) -> None:
    judging = script("lesson.judging")
    one, other = np.array([0.5, 0.6, 0.7]), np.array([0.4, 0.5, 0.5])
    told = str(judging.pairs(one, other, "loss"))
    assert told.startswith("loss 0.600 against 0.467: +0.133 [-0.0")
    shares = judging.Measured(crossed(0.03, 0.01), "accuracy", note="; so")
    assert str(shares) == "accuracy: +3.0 [+1.0, +5.0]; so"


def test_a_plateau_and_the_first_epoch_that_is_good_enough(script: Any) -> None:
    judging = script("lesson.judging")
    assert judging.fall_at_end([9, 8, 7, 6, 5, 4, 4, 4, 2]) == pytest.approx(0.5)  # from epoch 6
    assert judging.fall_at_end([3, 3, 3]) == 0
    assert judging.epochs_to([0.1, 0.8, 0.7], 0.8) == 2
    assert judging.epochs_to([0.1, 0.2], 0.8) == 3


def test_the_table_marks_what_was_not_expected(script: Any) -> None:
    judging = script("lesson.judging")
    rows = [("a", judging.exact("x", "1", True)), ("b", judging.exact("y", "2", False))]
    assert judging.table(rows)[2:] == [
        "| a | x | 1 | *holds* |",
        "| b | y | 2 | *does not hold* (expected: holds) |",
    ]


def test_the_terminal_shows_question_verdict_and_figures(script: Any) -> None:
    judging, question = script("lesson.judging"), script("lesson.table").question("too_high")
    assert question.startswith("Does a rate that is too high bounce")
    found = [judging.exact("claim", "figures", True), judging.exact("other", "so", False)]
    assert judging.block("too_high", "Why?", found) == [
        "too_high: Why?",
        "  holds           claim",
        "                  figures",
        "  does not hold   other (expected: holds)",
        "                  so",
        "",
    ]


def test_a_scheduler_that_comes_first_drops_an_epoch_early(script: Any) -> None:
    by_hand = script("lesson.by_hand")
    assert by_hand.rates_by_epoch(False) == [0.1, 0.1, 0.05, 0.05]
    assert by_hand.rates_by_epoch(True) == [0.1, 0.05, 0.05, 0.025]
    assert not by_hand.moved_without_backward()


def test_a_ratio_of_times_is_that_of_the_work(script: Any, monkeypatch: Any) -> None:
    by_hand, now = script("lesson.by_hand"), [0.0]
    monkeypatch.setattr(by_hand.time, "perf_counter", lambda: now[0])

    def takes(seconds: float) -> Callable[[], None]:
        return lambda: now.__setitem__(0, now[0] + seconds)

    found = by_hand.log_ratios(takes(2.0), takes(1.0))
    assert found == pytest.approx([math.log(2)] * by_hand.REPEATS)


def test_planted_copies_share_a_track_and_no_track_is_in_both_files(script: Any) -> None:
    leaky = script("make_leaky")
    images = np.random.default_rng(1).integers(0, 256, (1000, 8, 8)).astype(np.uint8)
    train, test = leaky.planted(images, np.arange(1000) % 10)
    again, _ = leaky.planted(images, np.arange(1000) % 10)
    assert train == again
    of_train, of_test = ([row["track"] for row in rows] for rows in (train, test))
    assert not set(of_train) & set(of_test)
    assert {of_train.count(track) for track in set(of_train)} == {leaky.COPIES}
    labels = {row["track"]: row["label"] for row in train}
    assert all(row["label"] == labels[row["track"]] for row in train)


@pytest.mark.slow
def test_lessons_come_out_as_their_page_says(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lessons = ("param_groups", "scheduler_order", "step_order", "relu_rule")
    asked = [word for name in lessons for word in ("--only", name)]
    assert script("lessons").main([*asked, "--out", str(tmp_path), "--markdown"]) == 0
    said = capsys.readouterr().out
    page = (ROOT / "docs/lessons.md").read_text()
    claims = [line.split(" | ")[1] for line in said.splitlines()[2:]]
    assert len(claims) == 8
    assert [claim for claim in claims if claim not in page] == []


def test_runs_that_contradict_a_claim_make_it_not_hold(script: Any, tmp_path: Path) -> None:
    runs, scratch = script("lesson.runs"), script("lesson.scratch")
    grid: Any = runs.Grid(tmp_path, range(1))
    rows = [{"lr/all": rate} for rate in (0.1, 0.05, 0.05, 0.025)]
    grid._runs["run"] = [type("Run", (), {"rows": rows})()]
    assert [one.verdict for one in scratch.scheduler_order(grid)] == ["does not hold"] * 2
