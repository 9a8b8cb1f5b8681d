"""report.html of a sweep: which policy and rate is best, by how much, and what became of each run.

Built from the files of the sweep's folder alone.
"""

from __future__ import annotations

import math
import os
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from lrexp import __version__
from lrexp.folder import shown_path
from lrexp.record.files import write_atomically
from lrexp.report.charts import Series, heat_map, xy_chart
from lrexp.report.page import (
    Cell,
    Column,
    Html,
    Section,
    badge,
    code_block,
    definitions,
    element,
    facts,
    grid,
    join,
    link,
    notes,
    number,
    page,
    percent,
    plus_minus,
    table,
)
from lrexp.report.ranking import (
    Configuration,
    Difference,
    Group,
    HeatMap,
    Line,
    Spread,
    compared_by,
    configurations,
    difference,
    finished,
    groups,
    has_rate_axis,
    heat_maps,
    is_share,
    limits,
    lines,
)
from lrexp.report.sweep import (
    DAMAGED,
    DIVERGED,
    EQUAL,
    FINISHED,
    GAP,
    MISSING,
    RATE,
    STATUSES,
    Sweep,
    SweepPoint,
    in_short,
    read_sweep,
    swept_keys,
)

REPORT = "report.html"
MOST_SHOWN = 8  # groups drawn from the start; the others wait in the legend
MOST_CURVES = 36  # of one small chart
ARROWS = "Arrows point at dots beyond the axis."
ALL_CURVES = 480  # of all of them
MOST_CHARTS = 24  # small ones
MOST_EPOCHS = 60  # of one curve in a small chart
MOST_ROWS = 60  # configurations of a dot chart
STYLES = 8  # colours of the charts
T = TypeVar("T")


def write_sweep_report(folder: Path) -> Path:
    """Write report.html into a sweep's folder.

    Returns:
        The file. Whatever is missing or damaged in the folder is listed in it.
    """
    file = folder / REPORT
    write_atomically(file, sweep_page(read_sweep(folder)))
    return file


def sweep_page(sweep: Sweep) -> str:
    """The report as a whole HTML file."""
    ranked = configurations(sweep)
    word, _ = compared_by(sweep)
    found = groups(ranked)
    title, sentences = headline(sweep, ranked)
    head = join(
        element(
            "p", element("span", f"sweep {sweep.folder.name}"), _status_badges(sweep), class_="over"
        ),
        element("h1", title.replace(" ± ", "\u00a0±\u00a0")),
        element("p", " ".join(sentences), class_="headline"),
        _figures(sweep, ranked, found, word),
        notes([*sweep.notes, *_warnings(sweep)], "warning"),
    )
    with_rates = has_rate_axis(ranked)
    sections = [
        Section("Rates", _rate_figures(sweep, ranked), _rates_lead(sweep, ranked))
        if with_rates
        else Section("Results", _dot_rows(sweep, ranked), _dots_lead(sweep, ranked)),
        Section(_title(word), _group_table(sweep, found, word), _groups_lead(sweep, found, word)),
        Section("Leaderboard", _leaderboard(sweep, ranked), _board_lead(sweep, ranked)),
        Section("Two settings", _heat_figures(sweep, ranked), _heat_lead(sweep)),
        Section("Curves", _curves(sweep, ranked), _curves_lead(sweep, ranked)),
        Section("Not finished" if sweep.unfinished else "Equal points", _unfinished(sweep)),
        Section("How it was made", _origin(sweep)),
    ]
    again = element("code", "python -m lrexp.report FOLDER")
    footer = join(
        f"lrexp {__version__} · made from the files of this sweep folder alone · ", again,
        " makes it anew, with plots/.",
    )  # fmt: skip
    return _without_home(page(f"{title} · {sweep.folder.name}", head, sections, footer))


# ---- words


def headline(sweep: Sweep, ranked: Sequence[Configuration]) -> tuple[str, list[str]]:
    """What came out, as a title and sentences under it.

    The best configuration, how far it is ahead of the next policy (or, with one policy, of the
    next configuration), whether the seeds alone could explain that, and how the points ended.
    """
    counts = Counter(point.status for point in sweep.tried)
    ends = _endings(counts, len(sweep.tried))
    if not sweep.points:
        return "No point has been run", ["The folder holds no run that can be read."]
    best = ranked[0]
    if not best.worth.n:
        return "No point has finished", [ends]
    word, _ = compared_by(sweep)
    value = _value(sweep, best.worth)
    found = groups(ranked)
    others = [group.best for group in found[1:] if group.best.worth.n]
    rivals = others or [one for one in ranked[1:] if one.worth.n]
    rates = len({one.rate for one in ranked}) > 1  # otherwise it goes without saying
    over = f" over {best.worth.n} seeds" if best.worth.n > 1 else ", one seed"
    if not rivals:
        only = len(ranked) == 1
        title = f"{_named(best, rates)}: {sweep.monitor} {value}"
        said = "The only configuration" if only else "The only configuration that finished"
        return title, [f"{said}: {sweep.monitor} {value}{over}.", ends]
    lowest = "lowest" if sweep.sign == 1 else "highest"
    title = f"{_named(best, rates)} has the {lowest} {sweep.monitor}: {value}"
    rival = rivals[0]
    ahead = difference(best, rival, sweep.sign)
    next_one = f"the next {word}" if others else "the next configuration"
    return title, [_comparison(sweep, ahead, f"{next_one}, {_named(rival, rates)}", rival), ends]


def _comparison(sweep: Sweep, ahead: Difference, who: str, rival: Configuration) -> str:
    lower = "lower" if sweep.sign == 1 else "higher"
    theirs = f"{who} ({_value(sweep, rival.worth)})"
    if ahead.mean == 0:
        return f"Exactly as good as {theirs}."
    if ahead.mean < 0:  # a rival that is ranked below for a point that diverged or failed
        said = f"{theirs} is ahead by {_plain(sweep, -ahead.mean)}, but has points that went wrong."
        return said[0].upper() + said[1:]
    said = f"{_plain(sweep, ahead.mean)} {lower} than {theirs}"
    if math.isnan(ahead.margin):
        return f"{said}; with one seed nothing tells how much of that is chance."
    low, high = ahead.mean - ahead.margin, ahead.mean + ahead.margin
    interval = (
        f"95 % interval {_plain(sweep, low).removesuffix(' points')} to {_plain(sweep, high)}"
    )
    pairs = f"{ahead.pairs} seeds in pairs" if ahead.pairs else "seeds unpaired"
    if ahead.clear:
        return f"{said}: more than the seeds explain ({interval}, {pairs})."
    return f"{said}: the seeds alone could make that difference ({interval}, {pairs})."


def _endings(counts: Counter[str], total: int) -> str:
    if counts[FINISHED] == total:
        return "The point finished." if total == 1 else f"All {total} points finished."
    parts = [f"{counts[s]} {_status_words(s)}" for s in STATUSES[1:] if counts[s]]
    return f"{counts[FINISHED]} of {total} points finished, {_listed(parts)}."


def _status_words(status: str) -> str:
    return {
        MISSING: "never started",
        "running": "running or killed",
        DAMAGED: "with damaged files",
    }.get(status, status)


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _named(one: Configuration, with_rate: bool) -> str:
    """A configuration in running text: `layerwise_decay decay=0.5 at lr 0.1`."""
    name = " ".join(filter(None, (one.group, one.variant)))
    if one.rate is None or not with_rate:
        return name
    rate = f"lr {one.rate:.4g}"
    return f"{name} (its own rates, up to {one.rate:.4g})" if one.own_rate else f"{name} at {rate}"


def _value(sweep: Sweep, worth: Spread) -> str:
    """A mean with its standard deviation."""
    if not is_share(sweep.monitor):
        return plus_minus(worth.mean, worth.std) if worth.n > 1 else number(worth.mean, 4)
    if worth.n > 1:
        return f"{100 * worth.mean:.1f} ± {100 * worth.std:.1f} %"
    return percent(worth.mean)


def _plain(sweep: Sweep, value: float) -> str:
    if not is_share(sweep.monitor):
        return number(value, 2)
    return f"{100 * value:.1f} points".replace("-", "−")


def _title(word: str) -> str:
    return {"policy": "Policies"}.get(word, f"By {word}")


# ---- the head


def _status_badges(sweep: Sweep) -> Html:
    counts = Counter(point.status for point in sweep.tried)
    shown = [badge(f"{status}") for status in STATUSES if counts[status] == len(sweep.tried)]
    return join(*shown)


def _figures(
    sweep: Sweep, ranked: Sequence[Configuration], found: Sequence[Group], word: str
) -> Html | None:
    if not ranked:
        return None
    counts = Counter(point.status for point in sweep.tried)
    others = [f"{counts[s]} {_status_words(s)}" for s in STATUSES[1:] if counts[s]]
    equal = len(sweep.points) - len(sweep.tried)
    if equal:
        others.append(f"{equal} equal to others")
    seeds = {point.seed for point in sweep.tried} - {None}
    lowest = "lowest" if sweep.sign == 1 else "highest"
    took = sum(p.total_s for p in sweep.tried if math.isfinite(p.total_s))
    items = [
        ("points", f"{counts[FINISHED]} / {len(sweep.tried)}", ", ".join(others) or "all finished"),
        ("configurations", str(len(ranked)), _plural(len(found), word)),
        ("seeds", str(len(seeds) or "–"), "tries of one configuration" if len(seeds) > 1 else ""),
        ("decided by", sweep.monitor, f"{lowest} is best"),
        ("trained for", _duration(took), "all points together"),
    ]
    return facts(items)


def _plural(count: int, word: str) -> str:
    if count == 1:
        return f"1 {word}"
    return f"{count} {word[:-1]}ies" if word.endswith("y") else f"{count} × {word}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


def _warnings(sweep: Sweep) -> list[str]:
    damaged = [p for p in sweep.tried if p.status == DAMAGED]
    if not damaged:
        return []
    return [f"{len(damaged)} points have damaged files and are left out: see Not finished"]


# ---- the figures over the rate


def _rates_lead(sweep: Sweep, ranked: Sequence[Configuration]) -> str:
    edge = "top" if sweep.sign == 1 else "bottom"
    parts = ["Dots are seeds, lines their means, rings the best of each."]
    if any(point.status == DIVERGED for point in sweep.tried):
        parts.append(f"A cross at the {edge} edge is a seed that diverged, which no mean contains.")
    if any(one.worth.n and not _whole(one) for one in ranked):
        parts.append("Lines to means of fewer seeds are dashed.")
    if any(one.variant for one in ranked):
        parts.append(f"Pale: other settings of the same {compared_by(sweep)[0]}.")
    if any(one.own_rate for one in ranked):
        parts.append("Whoever sets rates of its own stands at its highest.")
    return " ".join(parts)


def _rate_figures(sweep: Sweep, ranked: Sequence[Configuration]) -> Html:
    drawn = lines(ranked)
    shown = list(dict.fromkeys(line.group for line in drawn))
    late = set(shown[MOST_SHOWN:])
    rates = sorted({one.rate for one in ranked if one.rate is not None})
    note = ""
    if late:
        note = f"The best {MOST_SHOWN} are drawn; a click on another name draws that one too."
    unplaced = sum(one.rate is None for one in ranked)
    if unplaced:
        note = f"{note} {unplaced} configurations have no rate to stand at.".strip()
    made = []
    for key, name in ((sweep.monitor, f"best {sweep.monitor}"), (GAP, "gap at the best epoch")):
        if key == GAP and sweep.monitor == GAP:
            continue
        values = [p.best[key] for one in ranked for p in finished(one, key)]
        if not values:
            continue
        low, high, log = limits(key, values)
        clipped = low > min(values) or high < max(values)
        room = 0.06 * (high - low)
        if not clipped:
            between = None
        elif log:
            between = (low * (low / high) ** 0.06, high * (high / low) ** 0.06)
        else:
            between = (max(low - room, 0.9 * low) if low > 0 else low - room, high + room)
        is_monitor = key == sweep.monitor
        said = note if is_monitor else _gap_note(sweep)
        made.append(
            xy_chart(
                f"Learning rate against {name}",
                _rate_series(sweep, drawn, shown, late, key, (low, high)),
                x_label="learning rate",
                y_label=key,
                x_log=True,
                x_ticks=rates if len(rates) <= 14 else (),
                y_log=log,
                y_percent=is_share(key),
                y_zero=key == GAP,
                log_button=min(values) > 0 and is_monitor and not is_share(sweep.monitor),
                y_range=between,
                hover="nearest",
                height=420 if is_monitor else 280,
                note=" ".join([said, *[ARROWS] * clipped]).strip(),
            )
        )
    return grid(*made, narrowest=900)


def _gap_note(sweep: Sweep) -> str:
    return (
        "gap = val/loss − train_eval/loss on the same weights: what does not carry over to new"
        f" images. Rings are the best by {sweep.monitor}."
    )


def _rate_series(
    sweep: Sweep,
    drawn: Sequence[Line],
    shown: Sequence[str],
    late: set[str],
    key: str,
    between: tuple[float, float],
) -> list[Series]:
    """Mean lines, seeds as dots, what went over the edge, and a ring at the best of each group."""
    share = is_share(key)
    worst = "bottom" if sweep.sign == -1 and key == sweep.monitor else "top"
    visible = [name for name in shown if name not in late]
    made: list[Series] = []
    rings: list[Series] = []
    for place, line in enumerate(drawn):
        leads = all(line.group != other.group for other in drawn[:place])
        style = {
            "name": line.group,
            "colour": shown.index(line.group),
            "marker": shown.index(line.group),
            "hidden": line.group in late,
            "faint": not leads,  # other settings of the same group
            "shift": visible.index(line.group) - (len(visible) - 1) / 2
            if line.group in visible
            else 0.0,
        }
        placed = [(c.rate, c) for c in line.configurations if c.rate is not None]
        known = [(rate, c) for rate, c in placed if _spread_of(c, key).n]
        made += _mean_lines(known, key, share, style)
        made += _seed_dots(placed, key, between, worst, style)
        if leads and known and line.group not in late:
            rate, best = min(known, key=lambda pair: pair[1].rank)
            mean = _spread_of(best, key).mean
            texts = [f"{best.group} {_shown(mean, share)}"] if best.rank == 1 and key != GAP else []
            ring: dict[str, Any] = {"kind": "dots", "shape": "ring", "quiet": True, "texts": texts}
            rings.append(Series(x=[rate], y=[mean], **ring, **style))
    return [*made, *rings]


def _mean_lines(
    known: Sequence[tuple[float, Configuration]], key: str, share: bool, style: dict[str, Any]
) -> list[Series]:
    """Means by rate: a solid line through those of all seeds, dashed to those of some."""
    rates = [rate for rate, _ in known]
    means = [_spread_of(c, key).mean for _, c in known]
    labels = [_mean_label(c, _spread_of(c, key), share) for _, c in known]
    if all(_spread_of(c, key).n == 1 for _, c in known):  # the dots say it all
        labels, style = [], style | {"quiet": True}
    whole = [_whole(c) for _, c in known]
    solid = [mean if all_of_it else None for mean, all_of_it in zip(means, whole, strict=True)]
    beside = [not all(whole[max(0, i - 1) : i + 2]) for i in range(len(known))]
    dashed = [mean if partly else None for mean, partly in zip(means, beside, strict=True)]
    made = []
    if any(whole):
        made.append(Series(x=rates, y=solid, labels=labels, dash=0, **style))
    if any(beside):
        made.append(Series(x=rates, y=dashed, labels=labels, dash=1, **style))
    return made


def _seed_dots(
    placed: Sequence[tuple[float, Configuration]],
    key: str,
    between: tuple[float, float],
    worst: str,
    style: dict[str, Any],
) -> list[Series]:
    """Every seed: in its place, as an arrow beyond the axis, or as a cross where it diverged."""
    low, high = between
    found = [(rate, c, p) for rate, c in placed for p in finished(c, key)]
    diverged = [(rate, c, p) for rate, c in placed for p in c.points if p.status == DIVERGED]
    sets: list[tuple[list[Any], dict[str, Any]]] = [
        ([one for one in found if low <= one[2].best[key] <= high], {}),
        ([one for one in found if one[2].best[key] > high], {"edge": "top", "shape": "arrow"}),
        ([one for one in found if one[2].best[key] < low], {"edge": "bottom", "shape": "arrow"}),
        (diverged, {"edge": worst, "shape": "cross"}),
    ]
    return [
        Series(
            x=[rate for rate, _, _ in some],
            y=[p.best.get(key) if p.status == FINISHED else None for _, _, p in some],
            kind="dots",
            labels=[_point_label(c, p) for _, c, p in some],
            links=[_target(p) for _, _, p in some],
            **how,
            **style,
        )
        for some, how in sets
        if some
    ]


def _spread_of(one: Configuration, key: str) -> Spread:
    return one.gap if key == GAP else one.worth


def _whole(one: Configuration) -> bool:
    """Whether every one of its points finished."""
    return one.counts[FINISHED] == len(one.points)


def _shown(value: float, share: bool, digits: int = 3) -> str:
    return percent(value) if share else number(value, digits)


def _mean_label(one: Configuration, known: Spread, share: bool) -> str:
    spread = f" ± {_shown(known.std, share, 2)}" if known.n > 1 else ""
    bad = "" if _whole(one) else f", {_counted(one.counts)}"
    seeds = "1 seed" if known.n == 1 else f"{known.n} seeds"
    return f"{one.name}: {_shown(known.mean, share)}{spread} ({seeds}{bad})"


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[s]} {_status_words(s)}" for s in STATUSES[1:] if counts[s])


def _point_label(one: Configuration, point: SweepPoint) -> str:
    seed = f", seed {point.seed}" if len(one.points) > 1 else ""
    said = point.why if point.status != FINISHED else f"epoch {point.best.get('epoch', 0):.0f}"
    status = "" if point.status == FINISHED else f"{point.status}: "
    return f"{one.name}{seed}: {status}{said}"


def _target(point: SweepPoint) -> str:
    """Where a point's own report or folder is, seen from the sweep's folder."""
    return f"{point.folder}/{REPORT}" if point.report else f"{point.folder}/"


# ---- the figure where no rate was swept


def _dots_lead(sweep: Sweep, ranked: Sequence[Configuration]) -> str:
    if len(ranked) == 1:
        return f"The best {sweep.monitor} of every seed; the bar is their mean."
    left = len(ranked) - MOST_ROWS
    more = (
        f" The best {MOST_ROWS} are drawn, {left} more stand in the leaderboard."
        if left > 0
        else ""
    )
    return f"The best {sweep.monitor} of every configuration: dots are seeds, bars means.{more}"


def _dot_rows(sweep: Sweep, ranked: Sequence[Configuration]) -> Html:
    """A row per configuration with its seeds as dots on one common axis; needs no script."""
    drawn = ranked[:MOST_ROWS]
    values = [value for one in drawn for value in one.values]
    if not values:
        return Html("")
    low, high = min(values), max(values)
    room = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    low, high = low - room, high + room
    share = is_share(sweep.monitor)
    names = list(dict.fromkeys(one.group for one in ranked))

    def at(value: float) -> str:
        return f"left:{100 * (value - low) / (high - low):.2f}%"

    rows = []
    for one in drawn:
        colour = names.index(one.group) % STYLES
        dots = [
            element(
                "a", "", class_="dot", style=at(p.best[sweep.monitor]), href=_href(p),
                title=f"{_point_label(one, p)}: "
                f"{_shown(p.best[sweep.monitor], share, 4)}",
            )
            for p in finished(one, sweep.monitor)
        ]  # fmt: skip
        mean = None
        if one.worth.n > 1:
            label = _mean_label(one, one.worth, share)
            mean = element("i", class_="mean", style=at(one.worth.mean), title=label)
        bad = element("small", _counted(one.counts)) if not _whole(one) else None
        rows.append(
            element(
                "li",
                element("span", element("span", one.name, title=one.name), bad, class_="name"),
                element("span", mean, *dots, class_=f"lane s{colour}"),
                element("span", _value(sweep, one.worth) if one.worth.n else "–", class_="value"),
            )
        )
    ends = (element("span", _shown(value, share)) for value in (low + room, high - room))
    scale = element(
        "li",
        element("span"),
        element("span", *ends, class_="ends"),
        element("span", class_="value"),
    )
    return element(
        "figure",
        element("figcaption", f"{sweep.monitor} at the best epoch"),
        element("ol", *rows, scale, class_="bars lanes"),
    )


# ---- tables


def _groups_lead(sweep: Sweep, found: Sequence[Group], word: str) -> str:
    if not found:
        return ""
    parts = [f"Every {word} at its best configuration, mean ± standard deviation over seeds."]
    if any(group.tries > 1 for group in found):
        parts.append(
            "It was picked among its tries by the same images that it is judged by, which flatters "
            "whoever had more tries."
        )
    return " ".join(parts)


def _group_table(sweep: Sweep, found: Sequence[Group], word: str) -> Html:
    if not found:
        return Html("")
    variants = any(group.best.variant for group in found)
    rates = any(len(group.rates) > 1 for group in found)
    with_rate = len({group.best.rate for group in found}) > 1 or rates
    tests = any(group.best.test.n for group in found)
    several = len(found) > 1
    unfinished = any(group.counts[FINISHED] < group.points for group in found)
    columns = [
        Column(word),
        Column(sweep.monitor, number=True, hint="mean ± standard deviation over seeds"),
        *([Column("behind", number=True, hint="the best, with its 95 % interval")] * several),
        *([Column("best rate", number=True)] * with_rate),
        *([Column("in its grid", hint="whether a better rate may lie outside")] * rates),
        *([Column("settings", hint="what else was swept, at the best")] * variants),
        Column("seeds", number=True, hint="that finished"),
        Column("gap", number=True, hint="val/loss − train_eval/loss at the best epoch"),
        *([Column("test", number=True, hint="accuracy; nothing is chosen by it")] * tests),
        Column("tries", number=True, hint="configurations tried"),
        *([Column("not finished")] * unfinished),
    ]
    rows = []
    for place, group in enumerate(found):
        best = group.best
        known = best.rate is not None and best.worth.n > 0
        rate = Cell(f"{best.rate:.4g}", best.rate) if known else Cell("–")
        if known and best.own_rate:
            rate = Cell(f"{best.rate:.4g} (own)", best.rate, "the highest of its own rates")
        worth = _value(sweep, best.worth) if best.worth.n else "–"
        missing = group.points - group.counts[FINISHED]
        rows.append(
            [
                Cell(group.name, group.name, mark="best" if place == 0 else ""),
                Cell(worth, best.worth.mean, mark="best" if place == 0 else ""),
                *([_behind(sweep, found[0].best, best, place)] * several),
                *([rate] * with_rate),
                *([_edge_cell(group)] * rates),
                *([best.variant or "–"] * variants),
                best.worth.n,
                Cell(plus_minus(best.gap.mean, best.gap.std), best.gap.mean),
                *([Cell(_accuracy(best.test), best.test.mean)] * tests),
                Cell(str(group.tries), group.tries, f"{group.points} points"),
                *([Cell(_wrapped(_counted(group.counts)), missing)] * unfinished),
            ]
        )
    return table(columns, rows, caption=f"every {word} at its best", tall=True)


def _edge_cell(group: Group) -> Cell:
    between = f"{group.rates[0]:.4g} … {group.rates[-1]:.4g}" if group.rates else ""
    tried = f"{len(group.rates)} rates tried, {between}"
    if group.unstable_from is not None:
        tried += f"; diverges at {group.unstable_from:.4g}"
    match group.edge if group.best.worth.n else "":
        case "lower":
            return Cell("lowest: try lower", "lower", tried, "bad")
        case "upper":
            return Cell("highest: try higher", "upper", tried, "bad")
        case "inside":
            return Cell("inside", "inside", tried)
        case _:
            return Cell("one rate" if group.best.worth.n else "–")


def _behind(sweep: Sweep, best: Configuration, other: Configuration, place: int) -> Cell:
    if place == 0 or not other.worth.n or not best.worth.n:
        return Cell("–")
    ahead = difference(best, other, sweep.sign)
    scale = 100 if is_share(sweep.monitor) else 1
    if math.isnan(ahead.margin):
        return Cell(number(scale * ahead.mean, 2), ahead.mean, "one seed: no interval")
    said = plus_minus(scale * ahead.mean, scale * ahead.margin)
    hint = "more than the seeds explain" if ahead.clear else "the seeds alone could make this"
    return Cell(said, ahead.mean, hint, "" if ahead.clear else "quiet")


def _accuracy(test: Spread) -> str:
    if not test.n:
        return "–"
    if test.n == 1:
        return percent(test.mean)
    return f"{100 * test.mean:.1f} ± {100 * test.std:.1f} %"


def _board_lead(sweep: Sweep, ranked: Sequence[Configuration]) -> str:
    lowest = "lowest" if sweep.sign == 1 else "highest"
    said = f"Configurations by {lowest} mean {sweep.monitor} over their seeds"
    bad = any(one.counts[s] for one in ranked for s in (DIVERGED, "failed"))
    after = "; those with a diverged or failed point come after all others" if bad else ""
    return f"{said}{after}. A click on a heading sorts."


def _leaderboard(sweep: Sweep, ranked: Sequence[Configuration]) -> Html:
    if not ranked:
        return Html("")
    word, _ = compared_by(sweep)
    cases = word == "case"
    swept = [key for key in swept_keys(sweep.points) if key != "seed"]
    given = Counter(key for one in ranked for key in one.points[0].chosen)
    keys = [key for key in swept if key == RATE or 2 * given[key] >= len(ranked)]
    rest = [key for key in swept if key not in keys]  # those that few have share a column
    ends = [key.rpartition(".")[2] for key in keys]
    heads = [
        Column(end if ends.count(end) == 1 else key, number=_numeric(ranked, key), hint=key)
        for key, end in zip(keys, ends, strict=True)
    ]
    tests = any(one.test.n for one in ranked)
    bad = any(not _whole(one) for one in ranked)
    share = is_share(sweep.monitor)
    spread = any(one.worth.n > 1 for one in ranked)
    columns = [
        Column("#", number=True),
        *([Column("case")] * cases),
        *heads,
        *([Column("settings")] if rest else []),
        Column(sweep.monitor, number=True),
        *([Column("± std", number=True)] * spread),
        Column("gap", number=True),
        *([Column("test", number=True, hint="accuracy; nothing is chosen by it")] * tests),
        Column("seeds", number=True, hint="that finished"),
        *([Column("not finished")] * bad),
        Column("runs", hint="number of the point; opens its report or folder"),
    ]
    rows = []
    for one in ranked:
        chosen = one.points[0].chosen
        rows.append(
            [
                one.rank,
                *([one.points[0].case] * cases),
                *(_setting(chosen.get(k), h.number) for k, h in zip(keys, heads, strict=True)),
                *([in_short({key: chosen.get(key) for key in rest}) or "–"] if rest else []),
                Cell(_shown(one.worth.mean, share, 4), one.worth.mean),
                *([Cell(_shown(one.worth.std, share, 2), one.worth.std)] * spread),
                Cell(number(one.gap.mean), one.gap.mean),
                *([Cell(percent(one.test.mean), one.test.mean)] * tests),
                one.worth.n,
                *([Cell(_wrapped(_counted(one.counts)), -one.counts[FINISHED])] * bad),
                Cell(_run_links(one.points), one.points[0].num),
            ]
        )  # fmt: skip
    return table(columns, rows, search=len(rows) > 12, caption="leaderboard")


def _numeric(ranked: Sequence[Configuration], key: str) -> bool:
    given = [one.points[0].chosen.get(key) for one in ranked]
    return all(_as_number(text) is not None for text in given if text is not None)


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _setting(text: str | None, numeric: bool) -> Cell:
    if text is None:
        return Cell("–")
    return Cell(text, _as_number(text) if numeric else text)


def _href(point: SweepPoint) -> str | None:
    """Of the point's report or folder; None where there is nothing to open."""
    return None if point.status in (MISSING, EQUAL) else quote(_target(point))


def _run_links(points: Sequence[SweepPoint]) -> Html:
    made = [
        element("a", str(p.num), href=href) if (href := _href(p)) else str(p.num) for p in points
    ]
    return join(*(part for one in made for part in (" ", one)))


# ---- maps, curves, the rest


def _heat_lead(sweep: Sweep) -> str:
    lowest = "lowest" if sweep.sign == 1 else "highest"
    return f"Mean of the best {sweep.monitor} over seeds; the strongest colour is the {lowest}."


def _heat_figures(sweep: Sweep, ranked: Sequence[Configuration]) -> Html:
    maps = heat_maps(sweep, ranked)
    values = [c.worth.mean for m in maps for row in m.cells for c in row if c and c.worth.n]
    if not values:
        return Html("")
    share = is_share(sweep.monitor)
    log = not share and min(values) > 0 and max(values) > 10 * min(values)
    bounds = (min(values), max(values))
    return grid(*(_heat_figure(sweep, one, bounds, log, share) for one in maps), narrowest=380)


def _heat_figure(
    sweep: Sweep, one: HeatMap, bounds: tuple[float, float], log: bool, share: bool
) -> Html:
    def label(cell: Configuration | None) -> str:
        if cell is None:
            return "not tried"
        return _mean_label(cell, cell.worth, share) if cell.worth.n else (
            f"{cell.name}: {_counted(cell.counts)}"
        )  # fmt: skip

    rows = list(reversed(one.cells))
    said = "Hatched: no point finished or none was tried."
    hatched = any(not (c and c.worth.n) for row in rows for c in row)
    several = "Each cell is the best of those that share its two settings." if one.several else ""
    return heat_map(
        one.group,
        [f"{y:.3g}" for y in reversed(one.ys)],
        [f"{x:.3g}" for x in one.xs],
        [[c.worth.mean if c and c.worth.n else None for c in row] for row in rows],
        x_label=_axis_name(one.x_key),
        y_label=_axis_name(one.y_key),
        value_label=sweep.monitor,
        log=log,
        percent=share,
        numbers=True,
        reverse=sweep.sign == 1,
        between=bounds,
        labels=[[label(c) for c in row] for row in rows],
        note=" ".join(filter(None, [said if hatched else "", several])),
    )


def _axis_name(key: str) -> str:
    return "learning rate" if key == RATE else key.rpartition(".")[2].replace("_", " ")


def _curves_lead(sweep: Sweep, ranked: Sequence[Configuration]) -> str:
    counts = Counter[str]()
    for one in ranked:
        counts[one.group] += sum(len(p.rows) > 1 for p in one.points)
    drawn, word = +counts, compared_by(sweep)[0]
    parts = [f"{sweep.monitor} over epochs, a line per point; the best configuration stands out."]
    if len(drawn) > MOST_CHARTS:
        parts.append(f"Drawn are the best {MOST_CHARTS} of {_plural(len(drawn), word)}.")
    most = _most_curves(len(drawn))
    if any(count > most for count in drawn.values()):
        parts.append(f"To keep this page small, at most {most} points of each are drawn, evenly")
        parts.append("from best to worst.")
    if any(len(p.rows) > MOST_EPOCHS for p in sweep.tried):
        parts.append(f"Of longer runs {MOST_EPOCHS} epochs are drawn.")
    return " ".join(parts)


def _most_curves(charts: int) -> int:
    """Of each small chart, when there are so many."""
    return min(MOST_CURVES, ALL_CURVES // max(1, min(charts, MOST_CHARTS)))


def _curves(sweep: Sweep, ranked: Sequence[Configuration]) -> Html:
    """A small chart per group, all on the same axes."""
    by_group: dict[str, list[tuple[Configuration, SweepPoint]]] = {}
    for one in ranked:
        drawn = [(one, p) for p in one.points if len(p.rows) > 1]
        by_group.setdefault(one.group, []).extend(drawn)
    names = list(by_group)
    drawn = {name: pairs for name, pairs in by_group.items() if pairs}
    most = _most_curves(len(drawn))
    kept = {name: _evenly(drawn[name], most) for name in list(drawn)[:MOST_CHARTS]}
    values = [
        row[sweep.monitor]
        for pairs in kept.values()
        for _, p in pairs
        for row in p.rows
        if math.isfinite(row.get(sweep.monitor, math.nan))
    ]
    if not values:
        return Html("")
    share = is_share(sweep.monitor)
    low, high, log = limits(sweep.monitor, values)
    if log:  # what blows up before it diverges would flatten all others
        high = min(high, 100 * low)
        bounds = (low / 1.15, high * 1.15)
    else:
        room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
        bounds = (low - room, high + room)
    last = max(p.rows[-1]["epoch"] for pairs in kept.values() for _, p in pairs)
    charts = [
        xy_chart(
            name,
            [
                _curve(sweep.monitor, one, p, names.index(name), one.rank == pairs[0][0].rank)
                for one, p in reversed(pairs)
            ],
            x_label="epoch",
            y_log=log,
            y_percent=share,
            x_range=(0.5 if last < 10 else 0.0, last + (0.5 if last < 10 else 0.0)),
            y_range=bounds,
            hover="nearest",
            height=150 if len(kept) > 1 else 260,
            legend=False,
            compact=True,
        )
        for name, pairs in kept.items()
    ]
    return grid(*charts, narrowest=230)


def _curve(monitor: str, one: Configuration, point: SweepPoint, style: int, best: bool) -> Series:
    rows = _evenly(point.rows, MOST_EPOCHS)
    seed = f" seed={point.seed}" if len(one.points) > 1 else ""
    status = "" if point.status == FINISHED else f" ({point.status})"
    name = f"{one.name}{seed}{status}"
    return Series(
        name=name,
        x=[row["epoch"] for row in rows],
        y=[row.get(monitor, math.nan) for row in rows],
        colour=style,
        dash=0,
        faint=not best,
    )


def _evenly(items: Sequence[T], most: int) -> Sequence[T]:
    """All items, or of too many evenly spaced ones with the first and the last."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _unfinished(sweep: Sweep) -> Html:
    """The points without a result and why, and those that run as others."""
    keys = swept_keys(sweep.points)
    order = {status: place for place, status in enumerate(STATUSES)}
    bad = sorted(
        (p for p in sweep.unfinished if p.status != MISSING),
        key=lambda p: (order[p.status], p.num),
    )
    rows = [
        [
            Cell(element("a", str(p.num), href=_href(p)), p.num),
            Cell(badge(p.status), p.status),
            in_short({key: p.chosen.get(key) for key in keys}) or p.folder,
            Cell(_wrapped(p.why), p.why),
        ]
        for p in bad
    ]
    columns = [Column("point", number=True), "status", "configuration", "why"]
    parts = (
        [table(columns, rows, search=len(rows) > 12, caption="points that did not finish")]
        if rows
        else []
    )
    for status, said in ((MISSING, "never started"), (EQUAL, "equal to another point, not run")):
        these = [p for p in sweep.points if p.status == status]
        if these:
            shown = "; ".join(
                f"{p.num} {in_short({key: p.chosen.get(key) for key in keys})}"
                + (f" (as {p.same_as})" if p.same_as is not None else "")
                for p in these[:40]
            )
            more = f" and {len(these) - 40} more" if len(these) > 40 else ""
            parts.append(element("p", element("b", f"{len(these)} {said}: "), f"{shown}{more}."))
    return join(*parts)


def _origin(sweep: Sweep) -> Html:
    """The command, how to go on, and where everything is."""
    parts = []
    if sweep.command:
        parts.append(element("p", "The command that made it:"))
        parts.append(code_block(f"lrexp -m {shlex.join(sweep.command)}"))
    undone = [p for p in sweep.tried if p.status not in (FINISHED, DIVERGED)]
    where = shlex.quote(_without_home(shown_path(sweep.folder)))
    if undone and sweep.resumable:
        count = _plural_points(len(undone))
        parts.append(element("p", f"{count} no result. To run them:"))
        parts.append(code_block(f"lrexp -m hydra.launcher.resume={where}"))
    files = [
        (name, link(name, name))
        for name in ("leaderboard.csv", "leaderboard.json", "points.json", "multirun.yaml", "plots")
        if (sweep.folder / name).exists()
    ]
    reports = sum(point.report for point in sweep.tried)
    said = f"{reports} of {len(sweep.tried)} points have a report of their own"
    pairs: list[tuple[str, Html | str]] = [
        ("files", join(*(part for _, one in files for part in (one, " ")))),
        ("runs", said),
        ("all reports", element("code", f"python -m lrexp.report {where} --runs")),
    ]
    parts.append(definitions(pairs))
    return join(*parts)


def _wrapped(text: str) -> Html:
    """Text of a cell that may take several lines."""
    return element("span", text or "–", class_="why")


def _plural_points(count: int) -> str:
    return "1 point has" if count == 1 else f"{count} points have"


def _without_home(text: str) -> str:
    """A text without the name of the user's home folder."""
    home = os.path.expanduser("~").rstrip("/")
    return text.replace(f"{home}/", "~/") if home.startswith("/") else text
