"""A figure as a value: what is drawn, not how. Pages draw it as SVG, papers with matplotlib."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from lrexp.config.schema import OPTIONS

# --c0 … --c7 and --heat0 … --heat2 of report.css, on white
COLOURS = (
    "#0072b2", "#d55e00", "#00875f", "#b8528f", "#9a6a00", "#2b8fc7", "#4a525e", "#7a4fb5",
)  # fmt: skip
HEAT = ("#eef3f8", "#5fa4cf", "#08386b")
DASHES = 4  # kinds of lines
MARKERS = 6  # and of dots

Values = Sequence[float | None]
T = TypeVar("T")


def policy_place(name: str) -> int:
    """The number that says a policy's colour and marker, the same in every report and plot.

    It is its place among lrexp's own policies, which new ones only ever join at the end; of any
    other name it is worked out from its letters.

    >>> policy_place("uniform"), policy_place("mine") == policy_place("mine")
    (0, True)
    """
    known = list(OPTIONS["lr_policy"])
    return known.index(name) if name in known else zlib.crc32(name.encode()) % 1000


def policy_colour(name: str) -> str:
    """The colour of a policy on white, as `#rrggbb`."""
    return COLOURS[policy_place(name) % len(COLOURS)]


@dataclass(frozen=True)
class Series:
    """What belongs to one entry of a legend: a line, steps, dots, or an area between two lines.

    Colour, dash and marker are numbers of a style; those left out follow the place of its `name`
    among the chart's names. Series of one name share a legend entry and a style.
    """

    name: str
    x: Sequence[float]
    y: Values = ()  # None, NaN and infinities are gaps; of an area nothing
    kind: Literal["line", "step", "dots", "area"] = "line"
    low: Values = ()  # a band of ± 1 standard error around the line, or the area's lower edge
    high: Values = ()
    labels: Sequence[str] = ()  # per point: what it is, when the pointer is near
    links: Sequence[str] = ()  # per point: relative path that a click opens
    colour: int | None = None
    dash: int | None = None
    marker: int | None = None
    faint: bool = False  # one of many: thin and pale
    hidden: bool = False  # shown only when its legend entry is switched on, and not on paper
    quiet: bool = False  # drawn, but not listed at the cursor
    # dots pile up beyond that end of the y axis, whatever their y
    edge: Literal["", "top", "bottom"] = ""
    shape: Literal["", "ring", "cross", "arrow"] = ""  # of dots; arrows are for an edge
    texts: Sequence[str] = ()  # per dot: what is written beside it


@dataclass(frozen=True)
class Mark:
    """A vertical line with a label: an event at a place of the x axis."""

    x: float
    label: str
    kind: Literal["note", "bad"] = "note"


@dataclass(frozen=True)
class Rule:
    """A horizontal line with a label: a level to compare with."""

    y: float
    label: str = ""


@dataclass(frozen=True)
class Axis:
    """One of the two numeric axes of a chart."""

    label: str = ""  # what it shows, with its unit
    log: bool = False  # from the start; points that are not positive are left out
    zero: bool = False  # it holds 0
    percent: bool = False  # shares as percentages
    ticks: Sequence[float] = ()  # where it has labels; round numbers otherwise
    range: tuple[float, float] | None = None  # where the data should not decide: charts in a row
    button: bool = False  # offer to switch between linear and logarithmic


@dataclass(frozen=True)
class Chart:
    """Lines, steps, dots and areas over two numeric axes."""

    title: str
    series: Sequence[Series]  # in order: later ones lie on top
    x: Axis = field(default_factory=Axis)
    y: Axis = field(default_factory=Axis)
    # `x` lists every series at one x; `nearest` names the one point next to the pointer
    hover: Literal["x", "nearest"] = "x"
    cursor: str = ""  # charts with the same word share theirs; only with hover="x"
    marks: Sequence[Mark] = ()
    rules: Sequence[Rule] = ()
    shapes: Mapping[str, str] = field(default_factory=dict)  # what a cross or an arrow stands for
    note: str = ""  # under the figure
    height: int = 260  # of the plot, in pixels of a page
    legend: bool = True  # with buttons that switch series off and on
    compact: bool = False  # a small multiple

    def styles(self) -> list[tuple[int, int, int]]:
        """Colour, dash and marker of each series."""
        names = list(dict.fromkeys(one.name for one in self.series))
        found = []
        for one in self.series:
            place = names.index(one.name)
            turned = place + place // len(COLOURS)  # the same colour again, drawn otherwise
            found.append(
                (
                    (place if one.colour is None else one.colour) % len(COLOURS),
                    (turned if one.dash is None else one.dash) % DASHES,
                    (turned if one.marker is None else one.marker) % MARKERS,
                )
            )
        return found


@dataclass(frozen=True)
class HeatMap:
    """Values as colours, light to strong."""

    title: str
    rows: Sequence[str]  # their names, from the top
    columns: Sequence[str | float]  # their names, or numbers such as epochs
    values: Sequence[Values]  # (rows, columns); what is missing or not finite is hatched
    x_label: str = ""  # what the columns are
    y_label: str = ""
    value_label: str = ""  # what the colour says
    log: bool = False  # colours by the logarithm; what is not positive counts as missing
    percent: bool = False  # values are shares
    numbers: bool = False  # written into the cells where they fit
    reverse: bool = False  # the lowest value gets the strongest colour, where less is better
    square: bool = False  # cells as high as wide, for a confusion matrix
    cursor: str = ""  # charts with the same word share theirs; columns are then numbers
    between: tuple[float, float] | None = None  # lightest and strongest, for maps side by side
    labels: Sequence[Sequence[str]] = ()  # (rows, columns) in the value's stead at the pointer
    note: str = ""  # under the figure


Figure = Chart | HeatMap  # that are drawn on paper, too


@dataclass(frozen=True)
class Upright:
    """One of the axes of `Parallel`."""

    label: str
    ticks: Sequence[tuple[float, str]]  # place, from 0 at the bottom to 1 at the top, and label


@dataclass(frozen=True)
class Strand:
    """A line of `Parallel`; those of one name share a legend entry and a style."""

    name: str
    places: Sequence[float]  # per axis, 0 to 1
    texts: Sequence[str]  # per axis: the value
    label: str  # what it is, when the pointer is near
    link: str = ""  # relative path that a click opens
    colour: int = 0
    dash: int = 0
    best: bool = False  # stands out


@dataclass(frozen=True)
class Parallel:
    """Parallel coordinates: an upright axis per quantity, and lines from one to the next."""

    title: str
    axes: Sequence[Upright]
    lines: Sequence[Strand]  # in the order that the arrow keys take; the first one lies on top
    note: str = ""  # under the figure
    height: int = 320  # of the axes, in pixels of a page
    compact: bool = False


def evenly(items: Sequence[T], most: int) -> Sequence[T]:
    """All items, or of too many evenly spaced ones with the first and the last."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
