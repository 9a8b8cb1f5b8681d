"""One self-contained HTML file: numbers in words, tables, and the page around them.

The markup is in `page.html`.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, Literal, TypeGuard, TypeVar
from urllib.parse import quote

from jinja2 import Environment
from markupsafe import Markup

from lrexp import __version__


@functools.cache
def package_text(name: str) -> str:
    """A file of this folder, as text."""
    return files("lrexp.report.html").joinpath(name).read_text("utf-8")


# The macros of page.html by name. They escape whatever is not `Markup`, which is ready.
tags: Any = (
    Environment(autoescape=True).from_string(re.sub(r"\n\s*", "", package_text("page.html"))).module
)

T = TypeVar("T")

MARK = "<code>lrexp report FOLDER</code>"  # in every page: what has it may be written anew
MOST_ROWS = 500  # of a table of items: more take long to lay out, and nobody reads them here
# Of tables on paper: the width of a page and sizes of letters in points, the widths of a letter and
# of what is free beside a column in sizes of letters, and letters of a word that may be broken.
PAPER_WIDTH, PAPER_POINTS, LEAST_POINTS, LETTER, BETWEEN, LONGEST = 480, 8, 5, 0.62, 1.15, 40


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading and an entry in the page's navigation."""

    title: str
    body: Markup
    note: str = ""  # a sentence under the heading: how to read what follows


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    number: bool = False  # aligned to the right
    hint: str = ""  # shown when the pointer rests on the heading
    screen_only: bool = False  # left out in print, where a page is only so wide


@dataclass(frozen=True)
class Cell:
    """A cell whose text is not what it is sorted by, or that is more than text."""

    shown: Any  # text or Markup
    sort: float | str | None = None  # None: after all others, whichever way the table is sorted
    hint: str = ""
    mark: str = ""  # `best`, `bad` or `quiet`


def join(*parts: Any) -> Markup:
    """Parts one after the other; None is left out."""
    return Markup().join(part for part in parts if part is not None)


def element(name: str, text: Any, kind: str = "") -> Markup:
    """`<name class="kind">text</name>`."""
    opening = Markup('<{} class="{}">').format(name, kind) if kind else Markup(f"<{name}>")
    return opening + text + Markup(f"</{name}>")


def link(text: Any, path: str) -> Markup:
    """A link to a file beside the page; the path is relative, with `/` between its parts."""
    return Markup('<a href="{}">{}</a>').format(quote(path), text)


def embedded_json(value: Any) -> Markup:
    """JSON for the inside of a script element: nothing in it can end the element.

    Numbers that are not finite become null, others keep six significant digits.
    """
    text = json.dumps(_short(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _short(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 1e15 else float(f"{value:.6g}")


def number(value: Any, digits: int = 3) -> str:
    """A number as people read it: `digits` significant ones, powers of ten only where needed.

    What is missing or not a number is `–`; the infinities are `∞` and `−∞`.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if isinstance(value, int) or (value == round(value) and abs(value) < 1e6):
        return f"{int(value):,}".replace("-", "−")
    size = math.floor(math.log10(abs(value)))
    if size < -4 or size >= 6:
        mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa}e{int(power)}".replace("-", "−")
    return f"{value:,.{max(0, digits - 1 - size)}f}".replace("-", "−")


def percent(value: Any, digits: int = 1) -> str:
    """A share as `94.9 %`."""
    return f"{100 * value:.{digits}f} %".replace("-", "−") if is_finite(value) else number(value)


def plus_minus(value: Any, error: Any, digits: int = 3, share: bool = False) -> str:
    """`0.147 ± 0.042`: both with as many decimals as the error's two leading digits need.

    A share is `94.9 ± 1.2 %`. Without a known error it is the value alone, with `digits`.
    """
    known = is_finite(value) and is_finite(error)
    if share:
        return f"{100 * value:.1f} ± {100 * error:.1f} %" if known else percent(value)
    if not known or error <= 0:
        return number(value, digits)
    decimals = min(6, max(0, 1 - math.floor(math.log10(error))))
    if error >= 1000 or error < 1e-5:
        return f"{number(value, digits)} ± {number(error, 2)}"
    return f"{value:.{decimals}f} ± {error:.{decimals}f}".replace("-", "−")


def duration(seconds: Any) -> str:
    """`6.5 s`, `2 min 22 s`, `3 h 5 min`; what is missing is `–`."""
    if not is_finite(seconds) or seconds < 60:
        return f"{number(float(seconds), 2)} s" if is_finite(seconds) else "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def is_finite(value: Any) -> TypeGuard[float]:
    """Whether something is a number that can be drawn."""
    return isinstance(value, int | float) and math.isfinite(value)


def without_home(text: str) -> str:
    """Without the name of the home folder: reports are passed on."""
    home = os.path.expanduser("~").rstrip("/")
    return re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text) if len(home) > 1 else text


def table(columns: Sequence[Column | str], rows: Sequence[Sequence[Any]], **how: Any) -> Markup:
    """A table. A click on a heading sorts by it, a second one the other way round.

    Args:
        columns: a plain string is a column of text.
        rows: of values or `Cell`s. Plain numbers are shown by `number` and sorted by value; what
            is missing comes last either way.
        how: sortable (True): headings are buttons; search (False): a field above shows only the
            rows that contain what is typed; caption (""): above the table; tall (False): keep all
            rows in sight instead of scrolling inside a box when there are many; under (""): below.
    """
    heads = [column if isinstance(column, Column) else Column(column) for column in columns]
    cells = [list(map(_cell, row)) for row in rows]
    return tags.table(heads, cells, points=_points_on_paper(heads, cells), **how)


def _points_on_paper(heads: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> float:
    """The size of letters at which every word of a table has room on a page."""
    need = 0.0
    for i, head in enumerate(heads):
        if not head.screen_only:
            texts = (Markup(row[i].shown).striptags() for row in rows)
            words = (len(word) for text in (head.title, *texts) for word in text.split())
            need += LETTER * max(words, default=0) + BETWEEN
    return (
        round(min(PAPER_POINTS, max(LEAST_POINTS, PAPER_WIDTH / need)), 2) if need else PAPER_POINTS
    )


def table_of(
    columns: Iterable[tuple[Column, Callable[[T], Any]] | Literal[False]],
    items: Sequence[T],
    all_in: str | Markup = "",
    **how: Any,
) -> Markup:
    """A table with a row per item: of every column its heading and what makes its cells.

    A column that is False is left out. Where `all_in` names what has all items, no more than
    MOST_ROWS are shown, and a line below says so.
    """
    kept = [column for column in columns if column]
    shown = items[:MOST_ROWS] if all_in else items
    if left := len(items) - len(shown):
        said = f"The first {len(shown):,} rows; {left:,} more are left out. All are in "
        how["under"] = join(said, all_in, ".")
    rows = [[cell(one) for _, cell in kept] for one in shown]
    return table([head for head, _ in kept], rows, **how)


def _cell(value: Any) -> Cell:
    if isinstance(value, Cell):
        endless = isinstance(value.sort, float) and not math.isfinite(value.sort)
        return replace(value, sort=None) if endless else value
    if value is None:
        return Cell("–")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _cell(Cell(number(value, 4), value))
    return Cell(value, str(value))


def page(title: str, top: Markup, sections: Sequence[Section], what: str) -> str:
    """The whole file. It asks for nothing from the network, and its own policy forbids it.

    Args:
        title: of the window.
        top: what stands above the sections: `tags.head`.
        sections: in order; empty ones are left out.
        what: the folder it is made from, a run's or a sweep's.
    """
    shown = [section for section in sections if section.body]
    plain = [re.sub("[^a-z0-9]+", "-", s.title.lower()).strip("-") or "part" for s in shown]
    names = [n if n not in plain[:i] else f"{n}-{i}" for i, n in enumerate(plain)]
    style, script = package_text("report.css"), package_text("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    sources = f"img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    policy = f"default-src 'none'; {sources}"
    named = list(zip(names, shown, strict=True))
    document = tags.page(title, top, named, what, __version__, policy, style, script)
    return f"<!DOCTYPE html>\n{document}\n"
