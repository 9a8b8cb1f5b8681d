"""How a notebook shows a run and a sweep: the beginning of their reports."""

from __future__ import annotations

from dataclasses import replace

from lrexp.judge.ranking import has_rate_axis
from lrexp.report.html.charts import drawn
from lrexp.report.html.excerpt import excerpt
from lrexp.report.html.page import tags, without_home
from lrexp.report.run.page import learning, plan_of_layers, title_of, top_of
from lrexp.report.sweep import page as sweep_page
from lrexp.report.sweep.exploration import explore
from lrexp.report.sweep.figures import dot_rows, rate_figures
from lrexp.runs.run import Run
from lrexp.runs.sweep import Sweep


def run_shown(run: Run) -> str:
    """Headline, figures and curves of a run, or what was planned, as HTML for a cell."""
    run = replace(run, notes=list(run.notes))  # showing it adds what could not be shown
    part = learning(run) if run.rows else plan_of_layers(run)
    return without_home(excerpt(title_of(run), top_of(run), part))


def sweep_shown(sweep: Sweep) -> str:
    """Headline, rates and leaderboard of a sweep, as HTML for a cell."""
    explored = explore(sweep)
    ranked = explored.ranked
    rates = tags.grid(list(map(drawn, rate_figures(sweep, ranked).values())))
    over = rates if has_rate_axis(ranked) else dot_rows(sweep, ranked)
    board = sweep_page.leaderboard_table(sweep, ranked)
    title = f"sweep {sweep.folder.name}"
    return without_home(excerpt(title, sweep_page.top_of(explored), over, board))
