"""One self-contained HTML file: escaped elements, tables, sections, and the page around them."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from lrexp import __version__

VOID = {"br", "img", "input", "meta", "link", "hr", "col"}


class Html(str):
    """Markup that is ready. Every other value is escaped before it becomes part of a page."""

    __slots__ = ()


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading and an entry in the page's navigation."""

    title: str
    body: Html
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

    shown: Any  # text or Html
    sort: float | str | None = None  # None: after all others, whichever way the table is sorted
    hint: str = ""
    mark: str = ""  # `best`, `bad` or `quiet`


def element(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An HTML element: `element("a", "text", href="x.html", class_="quiet")`.

    Args:
        name: of the tag.
        children: escaped unless they are `Html`; None is left out.
        attributes: escaped; a trailing `_` is dropped, other `_` become `-`; None and False are
            left out, True is an attribute without a value.
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        words.append(key if value is True else f'{key}="{html.escape(str(value))}"')
    opening = f"<{' '.join(words)}>"
    if name in VOID:
        return Html(opening)
    return Html(f"{opening}{join(*children)}</{name}>")


def join(*parts: Any) -> Html:
    """Parts one after the other; what is not `Html` is escaped, None is left out."""
    return Html("".join(p if isinstance(p, Html) else escaped(p) for p in parts if p is not None))


def escaped(value: Any) -> Html:
    """Any value as text of a page."""
    return Html(html.escape(str(value)))


def link(text: Any, path: str) -> Html:
    """A link to a file beside the page; the path is relative, with `/` between its parts."""
    return element("a", text, href=quote(path))


def embedded_json(value: Any) -> Html:
    """JSON for the inside of a script element: nothing in it can end the element.

    Numbers that are not finite become null, others keep six significant digits.
    """
    text = json.dumps(_short(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(text)


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
    if not isinstance(value, int | float) or not math.isfinite(value):
        return number(value)
    return f"{100 * value:.{digits}f} %".replace("-", "−")


def plus_minus(value: Any, error: Any, digits: int = 3) -> str:
    """`0.147 ± 0.042`: both with as many decimals as the error's two leading digits need."""
    known = all(isinstance(v, int | float) and math.isfinite(v) for v in (value, error))
    if not known or error <= 0:
        return number(value, digits)
    decimals = min(6, max(0, 1 - math.floor(math.log10(error))))
    if error >= 1000 or error < 1e-5:
        return f"{number(value, digits)} ± {number(error, 2)}"
    return f"{value:.{decimals}f} ± {error:.{decimals}f}".replace("-", "−")


def duration(seconds: Any) -> str:
    """`6.5 s`, `2 min 22 s`, `3 h 5 min`; what is missing is `–`."""
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{number(float(seconds), 2)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def without_home(text: str) -> str:
    """Without the name of the home folder: reports are passed on."""
    home = os.path.expanduser("~").rstrip("/")
    return re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text) if len(home) > 1 else text


def badge(status: str) -> Html:
    """A status (finished, diverged, failed, interrupted, running) as a small label."""
    kind = status if re.fullmatch("[a-z]+", status) else "other"
    return element("span", status.replace("_", " "), class_=f"badge {kind}")


def facts(items: Sequence[tuple[str, Any, Any]]) -> Html:
    """A row of figures: (what, value, detail under it)."""
    cards = (
        element(
            "div",
            element("dt", what),
            element("dd", value, element("small", detail) if detail else None),
        )
        for what, value, detail in items
    )
    return element("dl", *cards, class_="facts")


def notes(items: Sequence[Any], kind: str = "note") -> Html:
    """Remarks, one per line; `kind` is note, warning or error. Nothing for no items."""
    if not items:
        return Html("")
    lines = (element("li", item) for item in items)
    return element("ul", *lines, class_=f"notes {kind}")


def details(summary: Any, *body: Any, opened: bool = False) -> Html:
    """Something that is folded away until it is asked for; print shows it."""
    inside = element("div", *body)
    return element("details", element("summary", summary), inside, open=opened)


def code_block(text: str) -> Html:
    """Text to copy, with a button that does."""
    button = element("button", "Copy", type="button", class_="copy")
    return element("div", element("pre", element("code", text)), button, class_="code")


def grid(*children: Any, narrowest: int = 420) -> Html:
    """Parts side by side, as many as fit at `narrowest` pixels each."""
    return element("div", *children, class_="grid", style=f"--narrowest:{int(narrowest)}px")


def definitions(pairs: Sequence[tuple[Any, Any]]) -> Html:
    """Names and values in two columns."""
    rows = (join(element("dt", name), element("dd", value)) for name, value in pairs)
    return element("dl", *rows, class_="pairs")


def table(
    columns: Sequence[Column | str],
    rows: Sequence[Sequence[Any]],
    *,
    sortable: bool = True,
    search: bool = False,
    caption: str = "",
    tall: bool = False,
) -> Html:
    """A table. A click on a heading sorts by it, a second one the other way round.

    Args:
        columns: a plain string is a column of text.
        rows: of values or `Cell`s. Plain numbers are shown by `number` and sorted by value; what
            is missing comes last either way.
        sortable: headings are buttons.
        search: a field above shows only the rows that contain what is typed.
        caption: above the table.
        tall: keep all rows in sight instead of scrolling inside a box when there are many.
    """
    heads = [column if isinstance(column, Column) else Column(column) for column in columns]
    head = element("tr", *(_heading(column, sortable) for column in heads))
    body = (element("tr", *map(_cell, row, heads)) for row in rows)
    made = element(
        "table",
        element("caption", caption) if caption else None,
        element("thead", head),
        element("tbody", *body),
        class_="sortable" if sortable else None,
    )
    field = None
    if search:
        label = f"Search {caption or 'the table'}"
        field = element(
            "input", type="search", placeholder="Search …", aria_label=label, class_="search"
        )
    kind = "scroll tall" if tall else "scroll"
    inside = element("div", made, class_=kind, tabindex="0", role="region",
                     aria_label=caption or "table")  # fmt: skip
    return element("div", field, inside, class_="table")


def head(over: Sequence[Any], title: str, headline: Any, *rest: Html | None) -> Html:
    """What stands above the sections of a page.

    Args:
        over: small print over the title, part by part.
        title: the heading.
        headline: what came out, in sentences.
        rest: figures and notes under it.
    """
    return join(
        element("p", *(element("span", part) for part in over if part), class_="over"),
        element("h1", title),
        element("p", headline, class_="headline"),
        *rest,
    )


def page(title: str, top: Html, sections: Sequence[Section], what: str) -> str:
    """The whole file. It asks for nothing from the network, and its own policy forbids it.

    Args:
        title: of the window.
        top: what stands above the sections: see `head`.
        sections: in order; empty ones are left out.
        what: the folder it is made from, a run's or a sweep's.
    """
    shown = [s for s in sections if s.body]
    names = _anchors([s.title for s in shown])
    navigation = element(
        "nav",
        *(element("a", s.title, href=f"#{n}") for s, n in zip(shown, names, strict=True)),
        aria_label="Sections",
    )
    parts = (
        element(
            "section",
            element("h2", s.title, id=name),
            element("p", s.note, class_="lead") if s.note else None,
            s.body,
            aria_labelledby=name,
        )
        for s, name in zip(shown, names, strict=True)
    )
    style, script = package_text("report.css"), package_text("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    sources = f"img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    policy = f"default-src 'none'; {sources}"
    header = join(
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("link", rel="icon", href="data:,"),
        element("style", Html(style)),
    )
    made = f"lrexp {__version__} · made from the files of this {what} folder alone · "
    again = element("code", "lrexp report FOLDER")
    body = join(
        element("header", top),
        navigation,
        element("noscript", notes(["The charts need JavaScript; tables and text do not."])),
        element("main", *parts),
        element("footer", made, again, " makes it anew, with plots/."),
        element("script", Html(script)),
    )
    document = element("html", element("head", header), element("body", body), lang="en")
    return f"<!DOCTYPE html>\n{document}\n"


@functools.cache
def package_text(name: str) -> str:
    """A file of this folder, as text."""
    return files("lrexp.report.html").joinpath(name).read_text("utf-8")


def _heading(column: Column, sortable: bool) -> Html:
    shown = element("button", column.title, type="button") if sortable else column.title
    kind = " ".join(_kinds(column)) or None
    return element("th", shown, scope="col", class_=kind, title=column.hint or None)


def _kinds(column: Column) -> list[str]:
    return ["number"] * column.number + ["screen"] * column.screen_only


def _cell(value: Any, column: Column) -> Html:
    cell = value if isinstance(value, Cell) else _plain_cell(value)
    kinds = [*_kinds(column), *([cell.mark] if cell.mark else [])]
    sort = cell.sort
    if isinstance(sort, float) and not math.isfinite(sort):
        sort = None
    return element(
        "td", cell.shown, class_=" ".join(kinds) or None, title=cell.hint or None,
        data_sort=repr(sort) if isinstance(sort, float) else sort,
    )  # fmt: skip


def _plain_cell(value: Any) -> Cell:
    if value is None:
        return Cell("–")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Cell(number(value, 4), value)
    return Cell(value, re.sub("<[^>]*>", "", value) if isinstance(value, Html) else str(value))


def _anchors(titles: Sequence[str]) -> list[str]:
    plain = [re.sub("[^a-z0-9]+", "-", title.lower()).strip("-") or "part" for title in titles]
    return [n if n not in plain[:i] else f"{n}-{i}" for i, n in enumerate(plain)]


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _short(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_short(inner) for inner in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value == int(value) and abs(value) < 1e15 else float(f"{value:.6g}")
    return value
