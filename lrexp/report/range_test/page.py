"""report.html and the picture of a range test."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from markupsafe import Markup

from lrexp.config.errors import UserError
from lrexp.folder.files import refuse_foreign, write_atomically
from lrexp.folder.layout import RANGE_PICTURE, REPORT
from lrexp.judge.range_test import RULES
from lrexp.report.figure import Axis, Chart, Mark, Series
from lrexp.report.html.charts import drawn
from lrexp.report.html.page import (
    MARK,
    Cell,
    Column,
    Section,
    element,
    join,
    page,
    table_of,
    tags,
    without_home,
)
from lrexp.report.plots import MARK as DRAWN
from lrexp.report.plots import MARKED, PAGE, STYLE, draw
from lrexp.report.range_test.found import RangeTest, rate_text, read_range_test
from lrexp.report.range_test.words import OFF, cautions, held, mean_curve, opening_lines
from lrexp.report.run.origin import configuration, environment
from lrexp.report.run.words import option_of_group, setting_words
from lrexp.runs.reading import leads_out

HIGHEST = 1.3  # of the loss at the start: what the axis shows of a loss that rises


def curve(test: RangeTest) -> Chart:
    """The smoothed loss of every seed and their mean over the rate, and where rules point to."""
    series = [
        Series(
            "a seed",
            ramp.rates[: ramp.usable],
            ramp.smoothed[: ramp.usable],
            colour=6,
            faint=True,
            quiet=True,
        )
        for ramp in test.ramps
    ]
    rates, means = mean_curve(test.ramps)
    named = "mean" if len(test.ramps) > 1 else "smoothed loss"
    series.append(Series(named, rates, means, colour=0, dash=0))
    for i, one in enumerate(test.suggestions if rates else ()):
        height = float(np.interp(math.log(one.rate), np.log(rates), means))
        dot = Series(one.rule, [one.rate], [height], kind="dots", colour=i + 1, marker=i)
        series.append(replace(dot, labels=[f"{one.rule}: {rate_text(one.rate)}"]))
    marks = [Mark(test.default.rate, rate_text(test.default.rate))] if test.default else []
    shown = [loss for ramp in test.ramps for loss in ramp.smoothed[: ramp.usable]]
    start = max((ramp.smoothed[0] for ramp in test.ramps if ramp.usable), default=1.0)
    low, high = min(shown, default=0.0), min(max(shown, default=1.0), HIGHEST * start)
    room = 0.05 * (high - low) or 0.1
    return Chart(
        "Training loss along the ramp",
        series,
        Axis(test.tested, log=True),
        Axis("smoothed loss", range=(low - room, high + room)),
        marks=marks,
        note="The loss of a step is that before its update. Each ramp is one seed.",
    )


def write_range_picture(folder: Path, test: RangeTest) -> Path:
    """Draw the curve as a PNG into the folder.

    Raises:
        OSError: when it cannot be written.
        UserError: when it would be written elsewhere, or over what lrexp did not draw.
    """
    from matplotlib import rc_context

    file = folder / RANGE_PICTURE
    if leads_out(file):
        raise UserError(f"{file} is a link that leads out of the folder")
    refuse_foreign(file, DRAWN)
    chart = curve(test)
    with rc_context(STYLE):
        picture = draw([chart], PAGE)
        picture.axes[0].set_title(", ".join([chart.title, _setting(test)]), parse_math=False)
        picture.savefig(file, metadata=MARKED["png"])
    return file


def write_range_report(folder: Path) -> Path:
    """Write report.html of a range test from its files alone.

    Raises:
        OSError: when it cannot be written.
        UserError: when range_test.csv cannot be read.
    """
    file = folder / REPORT
    refuse_foreign(file, MARK)
    write_atomically(file, range_page(read_range_test(folder)))
    return file


def range_page(test: RangeTest) -> str:
    """The whole report as HTML."""
    run = test.run
    taken, title = test.default, f"Range test · {_setting(test)}"
    said = "No rate is suggested."
    if taken:
        said = f"Take {rate_text(taken.rate)} for {test.tested}: {RULES[taken.rule][1]}"
        if taken.seeds > 1:
            said += f" ({rate_text(taken.low)} to {rate_text(taken.high)} over seeds)"
        said += "."
    above = [
        tags.notes(cautions(test), "warning"),
        tags.notes([without_home(line) for line in run.summary["remarks"]]),
        tags.notes(run.notes, "warning"),
    ]
    head = tags.head([setting_words(run), run.folder.name], title, said, above)
    sections = [
        Section("Ramp", _ramp(test)),
        Section("Suggestions", _suggestions(test)),
        Section("Configuration", configuration(run)),
        Section("Environment", environment(run)),
    ]
    return page(title, head, sections, "run")


def _ramp(test: RangeTest) -> Markup:
    lead = f"{opening_lines(test)[0].removeprefix('ramp').strip()}; {OFF}, {held(test)}."
    lead = lead[0].upper() + lead[1:] if not lead.startswith("optimizer") else lead
    return join(element("p", lead, "lead"), drawn(curve(test)))


def _suggestions(test: RangeTest) -> Markup:
    if not test.suggestions:
        return Markup()
    found = table_of(
        [
            (
                Column("rule"),
                lambda one: Cell(one.rule, one.rule, mark="best" if one == test.default else ""),
            ),
            (Column("rate", number=True), lambda one: Cell(rate_text(one.rate), one.rate)),
            (Column("lowest", number=True), lambda one: Cell(rate_text(one.low), one.low)),
            (Column("highest", number=True), lambda one: Cell(rate_text(one.high), one.high)),
            (Column("seeds", number=True), lambda one: one.seeds),
            (Column("what it is"), lambda one: RULES[one.rule][1]),
        ],
        test.suggestions,
        sortable=False,
    )
    paste = test.command
    block = join(element("h3", "The run at that rate"), tags.code_block(without_home(paste)))
    under = "Rates are medians over seeds, in log rate; lowest and highest are single seeds'."
    return join(found, element("p", under, "under"), block if paste else "")


def _setting(test: RangeTest) -> str:
    options = ("model", "lr_policy", "optimizer")
    return " · ".join(filter(None, (option_of_group(test.run, name) for name in options)))
