"""A conclusion in a terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from lrexp.judge.conclusion import Conclusion
from lrexp.report.comparison.words import (
    GONE,
    NUMBERS,
    cut,
    one_line,
    reading,
    sentences,
    short_table_of,
)

LESS = ("tries", "rate", "overfits", "score")  # columns left out in turn where there is no room
NAME, OVERFITS, VERDICT = 16, 7, 13  # characters that these columns want at least
WORD = r"""(?:[^\s'"\\]|\\.|'[^']*'|"(?:[^"\\]|\\.)*")+"""  # of a shell, with its quotes


def conclusion_lines(conclusion: Conclusion, width: int = 80) -> list[str]:
    """The sentence, a table, remarks, what it cost, and the line to paste.

    No line is longer than `width`, but for single words of the line to paste. In a narrow terminal
    columns of the table are left out, then long names cut.
    """
    heads, *rows = [
        {key: _plain(cell) for key, cell in line.items()} for line in short_table_of(conclusion)
    ]
    lines = _wrapped(conclusion.sentence, width)
    if not conclusion.finished:
        lines += _wrapped("This is what is known so far: the comparison has not ended.", width)
    lines += ["", *_table(heads, rows, width)] if rows else []
    told = [reading(conclusion), *sentences(conclusion)] if rows else []
    lines += ["", *_wrapped(" ".join(told), width)] if told else []
    for remark in conclusion.remarks:
        lines += _wrapped(remark, width, "- ")
    if conclusion.cost:
        cost = ", ".join(f"{what} {value}" for what, value in conclusion.cost)
        lines += ["", *_wrapped(f"cost: {cost}", width)]
    if conclusion.paste:
        lines += ["", *_pasted(conclusion.paste, width)]
    return lines


def _plain(text: str) -> str:
    """On one line, with a minus that a shell or a script takes back."""
    return one_line(text).replace("−", "-").replace(GONE, "-")


def _wrapped(text: str, width: int, mark: str = "") -> list[str]:
    return textwrap.wrap(
        _plain(text), max(20, width), initial_indent=mark, subsequent_indent=" " * len(mark)
    )


def _pasted(line: str, width: int) -> list[str]:
    """A command over several lines, whose ends a shell joins."""
    line = one_line(line)
    words = re.findall(WORD, line)
    if " ".join(words) != line:  # a quote without its other half
        return [f"  {line}"]
    lines = [f"  {words[0]}"]
    for word in words[1:]:
        if len(lines[-1]) + len(word) + 3 > width:  # with the space, and with ` \` at its end
            lines[-1] += " \\"
            lines.append(f"    {word}")
        else:
            lines[-1] += f" {word}"
    return lines


def _table(heads: dict[str, str], rows: Sequence[dict[str, str]], width: int) -> list[str]:
    """Columns as lines."""
    shown = [heads, *rows]
    if all(row["overfits"] == "-" for row in rows):
        shown = [{key: cell for key, cell in row.items() if key != "overfits"} for row in shown]
    columns = {key: [row[key] for row in shown] for key in shown[0]}
    least = {"name": NAME, "overfits": OVERFITS, "verdict": VERDICT}

    def wide(key: str, at_least: bool) -> int:
        longest = max(map(len, columns[key]))
        return min(longest, least.get(key, longest)) if at_least else longest

    def needed() -> int:
        return sum(wide(key, True) for key in columns) + 2 * (len(columns) - 1)

    for key in LESS:
        if needed() > width and key in columns:
            del columns[key]
    if needed() > width:  # the difference alone
        columns["difference"] = [cell.partition(" [")[0] for cell in columns["difference"]]
    free = width - needed()
    widths = {}
    for key in columns:  # what is left goes to those that want more, in order
        widths[key] = wide(key, True) + min(max(0, free), wide(key, False) - wide(key, True))
        free -= widths[key] - wide(key, True)
    widths["name"] = max(4, widths["name"] + min(0, free))
    return [_line(columns, widths, i).rstrip()[: max(20, width)] for i in range(len(shown))]


def _line(columns: dict[str, list[str]], widths: dict[str, int], at: int) -> str:
    def cell(key: str) -> str:
        text, wide = columns[key][at], widths[key]
        if key == "name":
            return cut(text, wide).ljust(wide)
        if len(text) > wide:
            first = re.split("[,:;(]", text)[0].rstrip()  # `yes` of `yes, in 4 of 10`
            text = first if len(first) <= wide else f"{text[: wide - 3]}..."
        return text.rjust(wide) if key in NUMBERS else text.ljust(wide)

    return "  ".join(map(cell, columns))
