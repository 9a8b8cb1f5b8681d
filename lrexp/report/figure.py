"""A figure as a value: what is drawn, not how. Pages draw it as SVG, papers with matplotlib."""

from __future__ import annotations

import math
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


@dataclass(frozen=True)
class Interval:
    """A row of `Intervals`: a value, what it may be as well, and what that comes to."""

    name: str
    value: float = math.nan  # NaN: nothing is drawn, the words stand alone
    low: float = math.nan
    high: float = math.nan
    text: str = ""  # the numbers in words
    verdict: str = ""
    advice: str = ""  # behind the verdict
    detail: str = ""  # under the name
    colour: int = 0
    aside: bool = False  # the axis is made for others
    shape: Literal["dot", "diamond", "open"] = "dot"  # so that colour alone says nothing

    @property
    def known(self) -> bool:
        return all(map(math.isfinite, (self.value, self.low, self.high)))


@dataclass(frozen=True)
class Intervals:
    """Intervals in rows over one axis with a line at zero: a forest plot."""

    title: str
    rows: Sequence[Interval]  # from the top
    label: str = ""  # what the axis shows, with its unit
    band: float = 0.0  # from −band to band is shaded; 0 for none
    sides: tuple[str, str] = ("", "")  # what lies left and right of zero
    note: str = ""  # under the figure

    def ends(self) -> tuple[float, float]:
        """Of the axis: zero, the band and the rows, but for those aside or far beyond most.

        Far is more than six times as far as the middle one; such rows point over the edge.
        """
        known = [row for row in self.rows if row.known]
        known = [row for row in known if not row.aside] or known
        sizes = sorted(max(abs(row.low), abs(row.high)) for row in known)
        far = max(6 * sizes[(len(sizes) - 1) // 2], self.band) if sizes else self.band
        inside = [one for one in known if -far <= one.low <= one.high <= far]
        low = min([-self.band, *(one.low for one in inside)])
        high = max([self.band, *(one.high for one in inside)])
        room = 0.06 * (high - low) or 1.0
        return low - room, high + room


Figure = Chart | HeatMap | Intervals


def round_steps(low: float, high: float, most: int = 6) -> list[float]:
    """At most so many multiples of 1, 2 or 5 times a power of ten between two numbers.

    >>> round_steps(-0.9, 4.2)
    [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(k * power for k in (1, 2, 5, 10, 20) if (high - low) / (k * power) < most)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(i * step, 12) for i in range(first, last + 1)]


def evenly(items: Sequence[T], most: int) -> Sequence[T]:
    """All items, or of too many evenly spaced ones with the first and the last."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
