"""A grid on the terminal: a line per point, how far the whole is, and when it will be done."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lrexp.config.errors import for_terminal
from lrexp.judge.words import brief
from lrexp.record.console import closing_lines, epoch_line, heading_line, terminal
from lrexp.record.recorders import RunInfo

log = logging.getLogger(__name__)

TITLE, SHORT = 44, 14  # characters of a point's title, where there is room and where there is not
BAR = 20  # of how far a point is
ENDLESS = 10_000  # of output that is no terminal
LINES = 16  # of running points
PART = 8  # points that are worth a line together, where single ones have none


@dataclass
class _Running:
    """A point that is under way."""

    named: str
    started: float
    monitor: str = "val/loss"
    steps: int = 0
    steps_done: Callable[[], float] | None = None  # None: as of its last row
    row: Mapping[str, float] = field(default_factory=dict)

    @property
    def done(self) -> float:
        """Steps so far."""
        found = self.steps_done() if self.steps_done else self.row.get("step", 0)
        return min(found, self.steps)


class GridView:
    """Shows points as they run.

    On a terminal finished points scroll by above the running ones and a bar; where the output is
    piped there is one line per point, as it ends. A point's own lines go to its lrexp.log.
    Titles are by number, of all points to run.

    Of a part of something larger, with what that has `said` so far, only points that failed have
    a line when they end; where the output is piped, each quarter has one. What was `told` of
    earlier batches of one sweep is not told again.
    """

    def __init__(
        self,
        titles: Mapping[int, str],
        console: Console | None = None,
        said: set[str] | None = None,
        told: set[str] | None = None,
    ):
        self._console = console or terminal(Console)
        self._titles, self._total, self._done = titles, len(titles), 0
        self._started, self._trains = time.monotonic(), False  # whether any point has begun to
        self.running: dict[int, _Running] = {}
        former = told if said is None else said
        self._said, self._all = set[str]() if former is None else former, said is None
        # is told the number of a point that is concluded, though what it runs with may go on
        self.over: Callable[[int], object] = lambda num: None

    def shown(self) -> AbstractContextManager[object]:
        """Keeps the live part on the terminal meanwhile."""
        if not self._console.is_terminal:
            return nullcontext()
        return Live(
            get_renderable=self._picture,
            console=self._console,
            refresh_per_second=4,
            transient=True,
        )

    def begin(self, num: int) -> None:
        """A point starts."""
        self.running[num] = _Running(f"{num} {self._titles[num]}", time.monotonic())

    def describe(
        self,
        num: int,
        opening: Sequence[str],
        steps: int,
        monitor: str,
        steps_done: Callable[[], float] | None = None,
    ) -> None:
        """What a point that is about to train says of itself."""
        if not self._trains and not self._done:  # what was done once before is no measure
            self._started = time.monotonic()
        self._trains = True
        for line in opening:
            if line.startswith(("note ", "leaks ")):
                word, said = brief(line).split(maxsplit=1)
                self.say(f"{word:<6} point {num}: {said}", line)
        point = self.running[num]
        point.steps, point.monitor, point.steps_done = steps, monitor, steps_done

    def row(self, num: int, row: Mapping[str, float]) -> None:
        """A point's latest epoch."""
        self.running[num].row = row

    def end(self, num: int, summary: Mapping[str, Any]) -> None:
        """A point ended, in whatever way."""
        point = self.running.pop(num)
        self._done += 1
        best, said = summary.get("best") or {}, [str(summary["status"])]
        width = self._console.width if self._console.is_terminal else ENDLESS
        if summary["status"] == "failed":
            error = (str(summary.get("error") or "").splitlines() or [""])[0]
            said.append(f"  {_cut(error, max(0, width - SHORT - 20))}")
        elif point.monitor in best:
            value = f"{point.monitor} {float(best[point.monitor]):.4g}"
            said += [f"  {value}", f" in epoch {float(best['epoch']):.0f}"]
        elapsed = f"{time.monotonic() - point.started:.1f}s"
        left = f", {duration(self._left())} left" if self._done < self._total else ""
        count = f"{self._done:>{len(str(self._total))}}/{self._total}"
        if self._all or summary["status"] == "failed":
            self._print(ended_line(count, point.named, said, f"  ({elapsed}{left})", width))
        elif not self._console.is_terminal and self._is_part(self._done):
            self._print(f"{count} runs{left}")

    def _is_part(self, done: int) -> bool:
        """Whether another quarter of many points is done, but not the last one."""
        many = self._total >= 4 * PART and done < self._total
        return many and done * 4 // self._total > (done - 1) * 4 // self._total

    def say(self, line: str, message: str = "") -> None:
        """Print a line once, however many points say it, or its message in other lines."""
        message = message or line
        if message not in self._said:
            self._said.add(message)
            self._print(line)

    def warn(self, num: int, level: str, message: str) -> None:
        """Print a warning with the first point that gives it."""
        self.say(f"{level}: point {num}: {message}", message)

    def _print(self, line: str) -> None:
        try:
            self._console.print(for_terminal(line), markup=False)
        except (OSError, SystemExit):  # nobody reads the output: no reason to stop
            self._console.quiet = True

    def _left(self) -> float:
        """Seconds until the last point ends, if the rest takes as long as what was."""
        elapsed = time.monotonic() - self._started
        shares = (point.done / point.steps for point in self.running.values() if point.steps)
        done = self._done + sum(shares)
        return elapsed / done * (self._total - done) if done else math.inf

    def _picture(self) -> RenderableType:
        running, width = list(self.running.values()), self._console.width
        shown = running[:LINES]
        at = [f"epoch {p.row['epoch']:.0f}" if p.row else "starts" for p in shown]
        worth = [
            "" if (value := p.row.get(p.monitor)) is None else f"{p.monitor} {value:.4g}"
            for p in shown
        ]
        columns = {
            "value": (list(map(Text, worth)), max(map(len, worth), default=0)),
            "epoch": (list(map(Text, at)), max(map(len, at), default=0)),
            "bar": (
                [ProgressBar(max(1, p.steps), p.done, BAR) for p in shown],
                BAR,
            ),
        }
        free, kept = width - SHORT, list[str]()
        for name, (_, needs) in columns.items():
            if free < needs + 2:
                break
            free -= needs + 2
            kept.insert(0, name)
        title = min(TITLE, SHORT + free)
        table = Table.grid(padding=(0, 2))
        for i, point in enumerate(shown):
            table.add_row(Text(_cut(point.named, title)), *(columns[name][0][i] for name in kept))
        if len(running) > LINES:
            table.add_row(Text(f"and {len(running) - LINES} more"))
        left = self._left()
        said = "?" if math.isinf(left) else duration(left)
        count, left_s = f"{self._done}/{self._total} points", f"{said} left"
        whole = Table.grid(padding=(0, 2))
        across = min(40, width - len(count) - len(left_s) - 4)
        bars = [ProgressBar(total=self._total, completed=self._done, width=across)]
        whole.add_row(Text(count), *(bars if across >= 4 else []), Text(left_s))
        return Group(table, whole)


def ended_line(count: str, named: str, said: Sequence[str], took: str, width: int) -> str:
    """How a point ended, in one line: the last parts are left out and names cut where it is long.

    >>> ended_line("1/3", "0 lr=0.1 seed=0", ["finished", "  val/loss 0.5"], "  (1.2s)", 43)
    '1/3  0 lr=0.1 se...  finished  val/loss 0.5'
    """
    for parts in ([*said, took], said, said[:2], said[:1]):
        text = "".join(parts)
        room = width - len(count) - len(text) - 4
        if room >= min(SHORT, len(named)):
            break
    room = max(SHORT, min(TITLE, room))
    return f"{count}  {_cut(named, room):<{room}}  {text}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


class PointRecorder:
    """Takes the rows of one point: for the live view, and into its log file."""

    def __init__(self, view: Any, num: int, info: RunInfo, steps_done: Callable[[], int]):
        self._info, self._view, self._num = info, view, num
        view.describe(num, info.opening, info.steps, info.monitor, steps_done)
        for line in (*info.opening, heading_line(info.monitor)):
            log.info(line)

    def row(self, row: dict[str, float]) -> None:
        """One epoch."""
        self._view.row(self._num, row)
        log.info(epoch_line(row, self._info.monitor))

    def finish(self, summary: dict[str, Any]) -> None:
        """What came out."""
        for line in closing_lines(summary, self._info):
            log.info(line)


class OncePerGrid(logging.Filter):
    """Takes warnings off a point's own terminal handler and says each of them once."""

    def __init__(self, view: GridView, num: int):
        super().__init__()
        self._view, self._num = view, num

    def filter(self, record: logging.LogRecord) -> bool:
        """Never true: the view has said it."""
        self._view.warn(self._num, record.levelname, record.getMessage())
        return False


def duration(seconds: float) -> str:
    """`8s`, `3m 20s` or `2h 05m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
