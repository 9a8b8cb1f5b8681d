"""The strokes that still pictures of charts are made of, as text of an SVG."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from lrexp.report.figure import Series

MARKERS = (
    "a{r},{r} 0 1,0 {d},0a{r},{r} 0 1,0 -{d},0Z",
    "m0,-{r}h{d}v{d}h-{d}Z",
    "m{r},-{r}l{r},{d}h-{d}Z",
    "l{r},-{r}l{r},{r}l-{r},{r}Z",
    "m{r},{r}l{r},-{d}h-{d}Z",
    "h{r}v-{r}v{d}v-{r}h{r}h-{r}Z",
)  # from the left of a dot's middle


def svg(parts: Sequence[str], width: float, height: float, title: str) -> Markup:
    label, most = escape(title), round(1.25 * width)
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" style="max-width:{most}px" role="img"'
        f' aria-label="{label}">{"".join(parts)}</svg>'
    )


def text(x: float, y: float, said: str, anchor: str = "middle", kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    place = f'x="{x:.1f}" y="{y:.1f}"'
    return f'<text {place} text-anchor="{anchor}"{named}>{escape(said)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<path d="M{x1:.1f},{y1:.1f}L{x2:.1f},{y2:.1f}" class="{kind}"/>'


def upright_label(label: str, y: float) -> str:
    return (
        f'<text x="12" y="{y:.1f}" text-anchor="middle" transform="rotate(-90 12 {y:.1f})">'
        f"{escape(label)}</text>"
    )


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """Pairs of a mark, drawn on 22 by 12 pixels, and a name."""
    keys = [
        f'<span class="key"><svg width="22" height="12" aria-hidden="true">{mark}</svg>'
        f"<span>{escape(name)}</span></span>"
        for name, mark in entries
    ]
    return Markup(f'<div class="legend">{"".join(keys)}</div>' if keys else "")


def dot(x: float, y: float, one: Series, marker: int, r: float) -> str:
    """The outline of a dot: its marker, an arrow over an edge or a cross."""
    if one.shape == "cross":
        return f"M{x - r:.1f},{y - r:.1f}l{2 * r:g},{2 * r:g}m0,-{2 * r:g}l-{2 * r:g},{2 * r:g}"
    if one.shape == "arrow":
        up = 1 if one.edge == "top" else -1
        return f"M{x:.1f},{y - up * r:.1f}l{r:g},{up * 1.8 * r:g}h-{2 * r:g}Z"
    return f"M{x - r:.1f},{y:.1f}{MARKERS[marker].format(r=f'{r:g}', d=f'{2 * r:g}')}"
