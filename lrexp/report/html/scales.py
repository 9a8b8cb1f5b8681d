"""Axes of pictures: their ends, round numbers on them, and where a value lies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from lrexp.report.figure import Axis
from lrexp.report.html.page import is_finite, number

Tick = tuple[float, str]  # a value and its label
Scale = Callable[[float], float]  # a value → where it lies, in pixels


def text_width(text: str) -> float:
    """Of a text of 12 pixels, in pixels, as `report.js` reckons it."""
    return 6.7 * len(text)


def shortened(text: str, most: int) -> str:
    """At most so many characters, without some in the middle.

    >>> shortened("layer1.0.conv1.weight", 9), shortened("conv", 9)
    ('laye…ight', 'conv')
    """
    tail = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - tail]}…{text[len(text) - tail :]}"


def ends(values: Iterable[float | None], axis: Axis, room: float) -> tuple[float, float]:
    """The ends of an axis: those it asks for, or of the data and a share of `room` beside them."""
    if axis.range:
        return axis.range
    known = [v for v in values if is_finite(v) and (v > 0 or not axis.log)]
    if not known:
        return (0.1, 1.0) if axis.log else (0.0, 1.0)
    low, high = min(known), max(known)
    if axis.log:
        factor = (high / low) ** room if low < high else 2.0
        return low / factor, high * factor
    if axis.zero:
        low, high = min(0.0, low), max(0.0, high)
    pad = (high - low) * room if low < high else abs(low) * 0.1 or 1.0
    return (
        0.0 if axis.zero and low == 0 and low < high else low - pad,
        0.0 if axis.zero and high == 0 and low < high else high + pad,
    )


def scale(between: tuple[float, float], start: float, end: float, log: bool) -> Scale:
    """From values between two ends to pixels from `start` to `end`."""
    a, b = (math.log(v) if log else v for v in between)

    def place(value: float) -> float:
        at = math.log(value) if log else value
        return start + (at - a) / ((b - a) or 1.0) * (end - start)

    return place


def ticks(between: tuple[float, float], count: int, axis: Axis, whole: bool = False) -> list[Tick]:
    """Round numbers between two ends, about `count` of them, as the axis shows them.

    >>> [label for _, label in ticks((0.0, 1.0), 4, Axis(percent=True))]
    ['0 %', '25 %', '50 %', '75 %', '100 %']
    """
    low, high = between
    if axis.log:
        return log_ticks(low, high, count)
    if axis.percent:
        shares = linear_ticks(100 * low, 100 * high, count)
        return [(value / 100, f"{label} %") for value, label in shares]
    return linear_ticks(low, high, count, whole)


def linear_ticks(low: float, high: float, count: int, whole: bool = False) -> list[Tick]:
    """Round numbers, about `count` of them; their labels share their decimals.

    >>> [label for _, label in linear_ticks(0.0, 1.1, 4)]
    ['0', '0.5', '1.0']
    """
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    least = max(raw * 0.999, 1.0 if whole else 0.0)
    steps = (m * power for m in ((1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)))
    step = next((s for s in steps if s >= least), 1.0)
    size = math.floor(math.log10(step) + 1e-9)
    decimals = max(0, (abs(step / 10.0**size - 2.5) < 1e-9) - size)
    largest = max(abs(low), abs(high))

    def label(value: float) -> str:
        if abs(value) < step * 1e-6:
            return "0"
        if largest >= 1e6 or largest < 1e-3:
            mantissa, _, exponent = f"{value:.2e}".partition("e")
            return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}".replace("-", "−")
        return f"{value:,.{decimals}f}".replace("-", "−")

    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(i * step, label(i * step)) for i in range(first, last + 1)]


def log_ticks(low: float, high: float, count: int) -> list[Tick]:
    """Powers of ten, with numbers between them when they are few.

    >>> [label for _, label in log_ticks(0.001, 1.0, 4)]
    ['0.001', '0.002', '0.005', '0.01', '0.02', '0.05', '0.1', '0.2', '0.5', '1']
    """
    decades = math.log10(high / low)
    if decades < 0.7:
        return [tick for tick in linear_ticks(low, high, count) if tick[0] > 0]
    factors: Sequence[int] = (1,)
    if decades <= 1.5:
        factors = (1, 2, 3, 5, 7)
    elif decades <= 3 and count >= 4:
        factors = (1, 2, 5)
    elif decades <= 2:
        factors = (1, 3)
    every = 1 if len(factors) > 1 else max(1, math.ceil(decades / count))
    found = []
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for factor in factors if power % every == 0 else ():
            value = factor * 10.0**power
            if low * 0.999 <= value <= high * 1.001:
                plain = -3 <= power <= 4
                label = number(value, 1) if plain else f"{factor}e{power}".replace("-", "−")
                found.append((value, label))
    return found
