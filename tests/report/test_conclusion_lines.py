"""A conclusion in a terminal: what a line says, how long it is, and what is left out first."""

from __future__ import annotations

import re
import shlex

import pytest
from conclusions import ALL, collapsed, conclusion, exploratory, no_difference, one_policy, twelve

from lrexp.report.comparison.lines import conclusion_lines


def headings(lines: list[str]) -> list[str]:
    (found,) = [line for line in lines if line.startswith("policy ")]
    return found.split()


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_lines_are_as_wide_as_asked(name: str, width: int) -> None:
    for line in conclusion_lines(ALL[name](), width):
        one_word = len(line.removesuffix(" \\").split()) == 1  # that a shell must get whole
        unquoted = name == "evil" and line.startswith("  lrexp")
        assert len(line) <= width or one_word or unquoted, line
        assert line == line.rstrip()
        assert line.isprintable()


def test_columns_are_left_out_in_turn() -> None:
    assert headings(conclusion_lines(conclusion(), 100)) == [
        "policy", "tries", "rate", "test", "difference", "verdict", "overfit",
    ]  # fmt: skip
    narrow = [headings(conclusion_lines(conclusion(), width)) for width in (80, 60, 40)]
    assert "tries" not in narrow[0]
    assert [len(some) for some in narrow] == sorted((len(s) for s in narrow), reverse=True)
    assert narrow[2] == ["policy", "difference", "verdict"]


def test_the_interval_goes_last_and_the_difference_stays() -> None:
    rows = {
        width: next(line for line in conclusion_lines(conclusion(), width) if line[:5] == "lp_ft")
        for width in (60, 40)
    }
    assert "+1.1 [-0.2, +2.4]" in rows[60]
    assert rows[40].split() == ["lp_ft", "+1.1", "undecided"]


def test_everything_is_said() -> None:
    text = " ".join(" ".join(conclusion_lines(conclusion())).split())
    for said in (
        "freeze_backbone at lr 0.316 is better than uniform at lr 0.1 by 2.4 points",
        "95.1 ± 0.4 % +1.1 [-0.2, +2.4] undecided yes ",
        "lp_ft (about 9 more seeds)",
        "- Configurations were compared, not policies in general.",
        "cost: runs 145, single-run equivalents 31.4, time 4 min 12 s",
        "Differences are from uniform, in points of accuracy on test",
    ):
        assert said in text, said


def test_what_is_on_validation_is_exploratory() -> None:
    assert headings(conclusion_lines(exploratory(), 100))[-2] == "exploratory"
    assert headings(conclusion_lines(conclusion(), 100))[-2] == "verdict"


def test_what_did_not_finish_is_named() -> None:
    text = " ".join(conclusion_lines(collapsed(), 100))
    assert "discriminative (1 collapsed), surgical (10 diverged)" in text
    assert "guesser" in text
    assert "guesser" not in " ".join(conclusion_lines(no_difference()))


def test_many_undecided_ones_are_counted() -> None:
    text = " ".join(conclusion_lines(twelve(), 100))
    assert text.count("more seeds)") == 4
    assert "and 7 more." in text


def test_one_alone_has_nothing_to_differ_from() -> None:
    text = " ".join(conclusion_lines(one_policy()))
    assert "Differences" not in text
    assert "standard error" in text


def test_the_line_to_paste_is_one_command_for_a_shell() -> None:
    for name in ("decided", "long_names"):
        for width in (40, 80):
            made = ALL[name]()
            lines = conclusion_lines(made, width)
            first = next(i for i, line in enumerate(lines) if line.startswith("  lrexp"))
            command = re.sub(r"\\\n", "", "\n".join(lines[first:]))
            assert shlex.split(command) == shlex.split(made.paste)
