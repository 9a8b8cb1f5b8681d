"""The main figures of a run as PNG and SVG in its plots/ folder, sized for a paper's column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrexp.report.run.curves import column, epochs_of, groups_of, less, more, rate_series
from lrexp.report.run.words import is_finite
from lrexp.runs.run import Run, read_run, read_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 3.5, 2.5  # inches: a column of a two-column paper
DPI = 300
# the light colours of report.css, in its order
COLOURS = (
    "#0072b2", "#d55e00", "#00875f", "#b8528f", "#9a6a00", "#2b8fc7", "#4a525e", "#7a4fb5",
)  # fmt: skip
LINES = ("-", "--", ":", "-.")
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "lrexp",  # the same figure, the same file
}
MOST_LINES = 8
MOST_CLASSES = 60


def write_run_figures(folder: Path) -> list[Path]:
    """Draw what a run folder has rows and tables for; what cannot be drawn is left out.

    Returns:
        The files: `plots/NAME.png` and `.svg`.

    Raises:
        OSError: when they cannot be written.
    """
    from matplotlib import rc_context

    run = read_run(folder)
    figures: dict[str, Callable[[Run], Figure | None]] = {
        "loss": _loss,
        "gap": _gap,
        "accuracy": _accuracy,
        "rates": _rates,
        "update_ratio": lambda run: _moves(run, "update_ratio", "‖Δw‖ / ‖w‖ of a step"),
        "drift": lambda run: _moves(run, "drift", "‖w − w₀‖ / ‖w₀‖"),
        "confusion": _confusion,
    }
    written = []
    with rc_context(STYLE):
        for name, draw in figures.items():
            try:
                figure = draw(run)
            except (ValueError, TypeError, KeyError):  # a damaged file
                figure = None
            if figure is not None:
                written += save(figure, folder / "plots" / name)
    return written


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as STEM.png and STEM.svg."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    figure.savefig(files[0], dpi=DPI)
    figure.savefig(files[1], metadata={"Date": None})
    return files


def blank(width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(axis="y", alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    return figure, axes


def _loss(run: Run) -> Figure | None:
    if not run.rows:
        return None
    figure, axes = blank()
    x = epochs_of(run.rows)
    train, train_eval, val = (
        column(run.rows, f"{split}/loss") for split in ("train", "train_eval", "val")
    )
    se = column(run.rows, "gap/loss_se")
    _fill(axes, x, train_eval, val, COLOURS[1], 0.1, "gap")
    _fill(axes, x, less(val, se), more(val, se), COLOURS[1], 0.2, None)
    _line(axes, x, train, COLOURS[6], ":", "train, running")
    _line(axes, x, train_eval, COLOURS[0], "--", "train-eval")
    _line(axes, x, val, COLOURS[1], "-", "val")
    positive = [v for v in (*train, *train_eval, *val) if v is not None and v > 0]
    if positive and max(positive) > 100 * min(positive):
        axes.set_yscale("log")
    _best(axes, run)
    axes.set(xlabel="epoch", ylabel="loss")
    axes.legend()
    return figure


def _gap(run: Run) -> Figure | None:
    gap, se = column(run.rows, "gap/loss"), column(run.rows, "gap/loss_se")
    if not any(v is not None for v in gap):
        return None
    figure, axes = blank()
    x = epochs_of(run.rows)
    axes.axhline(0, color="0.4", linewidth=0.6)
    _fill(axes, x, less(gap, se), more(gap, se), COLOURS[1], 0.2, "± 1 standard error")
    _line(axes, x, gap, COLOURS[1], "-", "val − train-eval")
    _best(axes, run)
    axes.set(xlabel="epoch", ylabel="gap of the loss")
    axes.legend()
    return figure


def _accuracy(run: Run) -> Figure | None:
    lines = [
        ("train, running", "train/accuracy", COLOURS[6], ":"),
        ("train-eval", "train_eval/accuracy", COLOURS[0], "--"),
        ("val", "val/accuracy", COLOURS[1], "-"),
    ]
    if not any(v is not None for v in column(run.rows, "val/accuracy")):
        return None
    figure, axes = blank()
    for name, key, colour, style in lines:
        values = [None if v is None else 100 * v for v in column(run.rows, key)]
        _line(axes, epochs_of(run.rows), values, colour, style, name)
    _best(axes, run)
    axes.set(xlabel="epoch", ylabel="accuracy (%)")
    axes.legend()
    return figure


def _rates(run: Run) -> Figure | None:
    series, _ = rate_series(run, groups_of(run))
    series = [one for one in series if any(one.y)]
    if not series:
        return None
    from matplotlib import colormaps

    many = len(series) > MOST_LINES
    figure, axes = blank()
    for i, one in enumerate(series):
        shade = colormaps["viridis"](0.9 * i / max(1, len(series) - 1))
        named = not many or i in (0, len(series) // 2, len(series) - 1)
        style = "-" if many else LINES[i % len(LINES)]
        _line(axes, one.x, one.y, shade if many else COLOURS[i], style, one.name if named else None)
    peaks = [max(v for v in one.y if v is not None) for one in series]
    if max(peaks) > 50 * min(peaks):
        axes.set_yscale("log", nonpositive="mask")
    else:
        axes.set_ylim(bottom=0)
    axes.set(xlabel="epoch", ylabel="learning rate")
    axes.legend()
    return figure


def _moves(run: Run, prefix: str, label: str) -> Figure | None:
    """Update ratios or drifts: a heat map of groups over epochs; of a single group a line."""
    groups = [g for g in groups_of(run) if any(f"{prefix}/{g}" in row for row in run.rows)]
    values = [column(run.rows, f"{prefix}/{group}") for group in groups]
    positive = [v for row in values for v in row if v is not None and v > 0]
    if not positive:
        return None
    x = epochs_of(run.rows)
    if len(groups) == 1:
        figure, axes = blank()
        _line(axes, x, values[0], COLOURS[0], "-", None)
        if prefix == "update_ratio":
            axes.set_yscale("log", nonpositive="mask")
        axes.set(xlabel="epoch", ylabel=label)
        return figure
    import numpy as np
    from matplotlib.colors import LogNorm

    cells = np.ma.masked_less_equal(
        [[np.nan if v is None else v for v in row] for row in values], 0
    )
    cells = np.ma.masked_invalid(cells)
    figure, axes = blank(height=min(8.0, max(2.0, 0.9 + 0.16 * len(groups))))
    axes.grid(visible=False)
    shown = axes.imshow(
        cells, aspect="auto", cmap="cividis", origin="lower", interpolation="nearest",
        norm=LogNorm(min(positive), max(positive)) if min(positive) < max(positive) else None,
        extent=(x[0] - 0.5, x[-1] + 0.5, -0.5, len(groups) - 0.5),
    )  # fmt: skip
    every = max(1, len(groups) // 40)
    axes.set_yticks(range(0, len(groups), every), groups[::every], fontsize=6)
    axes.set(xlabel="epoch")
    figure.colorbar(shown, ax=axes, label=label).ax.tick_params(which="both", labelsize=6)
    return figure


def _confusion(run: Run) -> Figure | None:
    lines = read_table(run.folder / "confusion.csv", run.notes)
    splits = list(dict.fromkeys(line["split"] for line in lines))
    if not splits:
        return None
    split = "test" if "test" in splits else splits[0]
    part = [line for line in lines if line["split"] == split]
    names = [name for name in part[0] if name not in ("split", "true")]
    if len(names) > MOST_CLASSES:
        return None
    counts = [[int(line[name]) for name in names] for line in part]
    top = max(max(row) for row in counts) or 1
    figure, axes = blank(WIDTH, WIDTH)
    axes.grid(visible=False)
    axes.imshow(counts, cmap="Blues", vmin=0, vmax=top)
    if len(names) <= 15:
        for i, row in enumerate(counts):
            for j, n in enumerate(row):
                ink = "white" if n > 0.6 * top else "0.15"
                if n:
                    axes.text(j, i, str(n), ha="center", va="center", fontsize=6, color=ink)
    every = max(1, len(names) // 20)
    turned = 90 if max(map(len, names)) > 3 else 0
    axes.set_xticks(range(0, len(names), every), names[::every], rotation=turned, fontsize=6)
    axes.set_yticks(range(0, len(names), every), names[::every], fontsize=6)
    axes.set(xlabel="predicted", ylabel="true", title=f"images of {split}")
    return figure


def _line(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float | None],
    colour: Any,
    style: str,
    name: str | None,
) -> None:
    if not any(v is not None for v in y):
        return
    alone = "." if len(x) < 3 else None
    axes.plot(
        x,
        [float("nan") if v is None else v for v in y],
        color=colour,
        linestyle=style,
        label=name,
        marker=alone,
    )


def _fill(
    axes: Axes,
    x: Sequence[float],
    low: Sequence[float | None],
    high: Sequence[float | None],
    colour: str,
    alpha: float,
    name: str | None,
) -> None:
    lower, upper = ([float("nan") if v is None else v for v in side] for side in (low, high))
    axes.fill_between(x, lower, upper, color=colour, alpha=alpha, linewidth=0, label=name)


def _best(axes: Axes, run: Run) -> None:
    """A thin line at the best epoch."""
    epoch = run.summary["best"].get("epoch")
    if is_finite(epoch) and len(run.rows) > 1:
        axes.axvline(epoch, color="0.5", linewidth=0.7, linestyle=(0, (1, 2)))
