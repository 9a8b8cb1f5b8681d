"""All that was swept in one picture: an axis per setting, a line per configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lrexp.judge.limits import limits
from lrexp.judge.ranking import Configuration, are_numbers
from lrexp.judge.winner import no_winner
from lrexp.judge.words import best_is, is_share, value_in_short
from lrexp.report.figure import Axis, Parallel, Strand, Upright
from lrexp.report.html.scales import Tick, ends, linear_ticks, log_ticks, scale, ticks
from lrexp.report.sweep.styles import line_names, line_styles
from lrexp.report.sweep.words import href_of, mean_label, value_text
from lrexp.runs.sweep import RATE, REPEATED, Sweep, finite, swept_keys

FEWEST = 3  # settings: two of them have maps
MOST_AXES = 8
MOST_LINES = 200
MOST_LABELS = 14  # of an axis
NOTHING = 0.07  # of an axis, below its values: the place of those that have none
BUNDLE = 0.05  # of an axis, what lines of one value take
NONE = "–"


@dataclass(frozen=True)
class _Values:
    """What an axis shows: per configuration a place, and the value in words."""

    axis: Upright
    places: list[float]
    texts: list[str]


def parallel_lead(sweep: Sweep) -> str:
    return (
        "A line per configuration, from setting to setting to the mean of its best"
        f" {sweep.monitor}, of which the {best_is(sweep.monitor)} is best."
    )


def parallel_figure(sweep: Sweep, ranked: Sequence[Configuration]) -> Parallel | None:
    """Parallel coordinates of all that was swept but the seed, and of what came of it.

    None where fewer than three settings were swept, or no configuration has a result.
    """
    swept = [key for key in swept_keys(sweep.points) if key not in REPEATED]
    drawn = ranked[:MOST_LINES]
    if len(swept) < FEWEST or len(drawn) < 2 or not any(one.worth.n for one in drawn):
        return None
    keys, share = swept[:MOST_AXES], is_share(sweep.monitor)
    labels = _labels(keys)
    worth = _worth(sweep, drawn)
    settings = (_setting(sweep, drawn, key, labels[key]) for key in keys)
    columns = [*(_spread(one, worth.places) for one in settings), worth]
    names, styles = line_names(sweep, ranked), line_styles(sweep, ranked)
    colours = {one.group: styles[names[one.rank]][0] for one in ranked}
    groups = list(dict.fromkeys(one.group for one in sorted(ranked, key=lambda c: c.points[0].num)))
    dashes = {
        group: sum(colours[other] == colours[group] for other in groups[:i])
        for i, group in enumerate(groups)
    }
    won = no_winner(sweep.tried) is None
    notes = [
        f"{NONE}: not set, or no value." if any(NONE in c.texts for c in columns) else "",
        f"Left out: {', '.join(swept[MOST_AXES:])}." if len(swept) > MOST_AXES else "",
        f"The best {MOST_LINES} of {len(ranked)} are drawn." if len(ranked) > MOST_LINES else "",
    ]
    return Parallel(
        f"All settings and the best {sweep.monitor}",
        [column.axis for column in columns],
        [
            Strand(
                one.group,
                [round(column.places[i], 4) for column in columns],
                [column.texts[i] for column in columns],
                mean_label(one, one.worth, share) if one.worth.n else one.name,
                href_of(one.points[0]) or "" if len(one.points) == 1 else "",
                colours[one.group],
                dashes[one.group] % 4,
                best=won and one.rank == 1,
            )
            for i, one in enumerate(drawn)
        ],
        note=" ".join(filter(None, notes)),
    )


def _labels(keys: Sequence[str]) -> dict[str, str]:
    """Names of axes: the last part of a key where that says which it is."""
    short = {
        key: "learning rate" if key == RATE else key.rpartition(".")[2].replace("_", " ")
        for key in keys
    }
    return {k: s if list(short.values()).count(s) == 1 else k for k, s in short.items()}


def _setting(sweep: Sweep, drawn: Sequence[Configuration], key: str, label: str) -> _Values:
    """Numbers in their places, by the logarithm where they span decades; options from the top."""
    typed = [one.chosen.get(key) for one in drawn]
    texts = [NONE if text is None else value_in_short(text) for text in typed]
    if are_numbers(sweep.points, key):
        chosen = [one.points[0].settings.get(key) for one in drawn]
        values = [finite(v) if t is not None else None for v, t in zip(chosen, typed, strict=True)]
        known = sorted({v for v in values if v is not None})
        log = known[0] > 0 and known[-1] >= 10 * known[0]
        between = ends(known, Axis(log=log), 0.0)
        marks: list[Tick] = [(v, f"{v:.4g}") for v in known]
        if len(known) > MOST_LABELS:
            marks = log_ticks(*between, 6) if log else linear_ticks(*between, 6)
        return _numbers(label, values, texts, marks, between, log)
    inside = (value_in_short(p.chosen[key]) for p in sweep.points if key in p.chosen)
    options = [option for option in dict.fromkeys(inside) if option in texts]
    options += [NONE] if NONE in texts else []
    last = max(1, len(options) - 1)
    at = {option: 1 - i / last if len(options) > 1 else 0.5 for i, option in enumerate(options)}
    marks = [(place, option) for option, place in at.items()]
    return _Values(Upright(label, sorted(marks)), [at[text] for text in texts], texts)


def _spread(column: _Values, order: Sequence[float]) -> _Values:
    """Lines of one value beside each other, in the order of what they come to."""
    places = list(column.places)
    for value in set(places):
        here = [i for i, place in enumerate(column.places) if place == value]
        for step, i in enumerate(sorted(here, key=lambda i: order[i])):
            places[i] += BUNDLE * ((step + 0.5) / len(here) - 0.5)
    return _Values(column.axis, places, column.texts)


def _worth(sweep: Sweep, drawn: Sequence[Configuration]) -> _Values:
    """What came of it; what is far beyond the others lies at the end of the axis."""
    share = is_share(sweep.monitor)
    values = [finite(one.worth.mean) if one.worth.n else None for one in drawn]
    low, high, log = limits(sweep.monitor, [v for v in values if v is not None])
    axis = Axis(log=log, percent=share)
    between = ends([low, high], axis, 0.0)
    texts = [NONE if v is None else value_text(v, share, 4) for v in values]
    marks = [tick for tick in ticks(between, 6, axis) if between[0] <= tick[0] <= between[1]]
    return _numbers(sweep.monitor, values, texts, marks, between, log)


def _numbers(
    label: str,
    values: Sequence[float | None],
    texts: list[str],
    marks: Sequence[Tick],
    between: tuple[float, float],
    log: bool,
) -> _Values:
    least = 2 * NOTHING if None in values else 0.0
    place = scale(between, least, 1.0, log)

    def at(value: float | None) -> float:
        if value is None:
            return 0.0
        return place(min(between[1], max(between[0], value)))

    shown = [(place(value), said) for value, said in marks]
    nothing = [(0.0, NONE)] if None in values else []
    return _Values(Upright(label, [*nothing, *shown]), [at(value) for value in values], texts)
