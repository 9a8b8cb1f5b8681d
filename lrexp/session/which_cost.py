"""What `lrexp which` would take: nothing is trained but a probe, and nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra.types import HydraContext

from lrexp.config.compose import CheckedLoader
from lrexp.folder.layout import CASES
from lrexp.grid.cost import Cost, cost
from lrexp.grid.jobs import Session
from lrexp.grid.points.cases import made_cases
from lrexp.judge.looks import levels
from lrexp.judge.power import GUESS
from lrexp.session.budget import noise_words, seed_lines
from lrexp.session.composed import compose_points, find_equal_points
from lrexp.session.points import Points
from lrexp.session.procedure import Procedure, ladder_axes
from lrexp.session.request import read_request
from lrexp.session.which_lines import shown_time, size_lines


@dataclass(frozen=True)
class Probed:
    """What the runs of a procedure take, as far as a probe tells."""

    cost: Cost  # of the ladders

    @property
    def seconds_per_run(self) -> float:
        """On the clock, among many."""
        return self.cost.total_s / max(1, self.cost.points)


def probe(loader: CheckedLoader, plan: Procedure) -> Probed:
    """Time a short run of every kind there is. Hydra is set up with the loader.

    Raises:
        Exception: what keeps a run from being built.
    """
    request = read_request(loader, [*plan.how, *plan.overrides])
    request.cases = made_cases(Path(CASES), ladder_axes(plan))
    points = compose_points(loader, request)
    find_equal_points(loader, request, points)
    context = HydraContext(config_loader=loader, callbacks=Callbacks(request.config))
    session = Session(context, Points(), settings=request.settings)
    return Probed(cost([point for point in points if point.same_as is None], session))


def dry_lines(plan: Procedure, probed: Probed) -> list[str]:
    """How many runs, how long they take, and what could be seen then."""
    size, each = plan.size, probed.seconds_per_run
    least, most = (shown_time(each * runs) for runs in (size.least, size.most))
    found, level = probed.cost, levels(plan.looks)[-1]
    return [
        *size_lines(plan),
        f"time   about {least} to {most} ({found.way}; a run by itself {found.run_s:.2g} s)",
        *seed_lines(GUESS, plan.margin, found.images, len(plan.ladders), plan.looks[-1], level),
        f"       {noise_words(GUESS)} (a guess: nothing is known before runs of yours)",
        *(f"note   {note}" for note in plan.notes),
    ]
