"""The configurations of a sweep side by side, best first, never by test; and a row per run."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrexp.config.schema import direction
from lrexp.folder.files import csv_text, strict_json, write_atomically
from lrexp.folder.layout import LEADERBOARD, LEADERBOARD_TABLE, POINTS_TABLE
from lrexp.grid.points.point import Point, read_summary
from lrexp.judge.exploring import student
from lrexp.judge.ranking import Configuration, Spread, configurations
from lrexp.judge.verdicts import TALLIED, counted_kinds
from lrexp.judge.winner import no_winner
from lrexp.judge.words import importance_words, in_short
from lrexp.runs.run import numbers
from lrexp.runs.sweep import (
    DAMAGED,
    EQUAL,
    FAILED,
    MISSING,
    REPEATED,
    STATUSES,
    Sweep,
    SweepPoint,
    common_monitor,
    kinds_of,
    numbers_of,
    status_of,
    swept_keys,
    took_of,
)

log = logging.getLogger(__name__)

ALSO = ("test/loss", "test/accuracy", "gap/loss")  # shown, never sorted by
SECTIONS = ("best", "test", "last", "verdicts", "timings", "members")  # of a summary
NUMBERS = ("best", "test", "last")  # those of them that hold numbers
# Of a run, in points.csv: columns of its best epoch, of its test and of its last epoch.
OF_BEST = ("val/loss", "val/accuracy", "gap/loss", "gap/loss_se", "gap/accuracy")
OF_TEST = ("loss", "accuracy")
OF_LAST = ("overfit/loss", "overfit/loss_se", "overfit/accuracy", "overfit/accuracy_se")
WAITS = 20  # times as long as writing took, until it is written again
WIDTH = 100  # of lines, where no terminal says
LESS = ("std", "gap/loss", "test/accuracy")  # columns that are left out where there is no room
NAME, SEEDS = 26, 12  # characters that names and what became of seeds want at least


def sweep_points(
    points: Sequence[Point], summaries: Mapping[int, Mapping[str, Any]]
) -> tuple[tuple[SweepPoint, ...], str]:
    """Points as `judge` takes them, and the monitor that decides among them."""
    monitor, _ = common_monitor([point.settings for point in points])
    known = tuple(
        SweepPoint(
            num=point.num,
            folder=point.folder,
            overrides=tuple(point.overrides),
            settings=point.settings,
            case=point.case,
            same_as=point.same_as,
            former=point.former,
            status=summary.get("status") or MISSING,
            best=summary.get("best") or {},
            test=summary.get("test") or {},
            last=summary.get("last") or {},
            kinds=kinds_of(summary),
            took_s=took_of(summary),
        )
        for point in points
        for summary in [summaries.get(point.num, {})]  # it may not have run
    )
    return known, monitor


def leaderboard(
    points: Sequence[Point], summaries: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    """Rows by configuration, best first as `judge.ranking` has them, and what they are sorted by.

    A row has the mean and the sample standard deviation over its finished seeds of the monitor's
    best value, and of test and gap at that epoch, with the ends of the 95 % interval of the mean;
    all but the mean are NaN for one seed. `seeds` has the monitor's best of every one of them.
    Points that train like an earlier one count there alone, and are named. A row of points that a
    changed grid no longer asks for is `former`. Summaries are by number of the point.
    """
    known, monitor = sweep_points(points, summaries)
    swept = swept_keys(known)
    nums = {point.num for point in known}
    twins = [point for point in known if point.same_as is not None]
    equal: dict[int | None, list[int]] = {}
    for twin in twins:
        equal.setdefault(twin.same_as, []).append(twin.num)
    names = dict.fromkeys([monitor, *ALSO])
    nothing = no_winner([point for point in known if point.same_as is None])
    return {
        "monitor": monitor,
        "direction": direction(monitor),
        "no_winner": None if nothing is None else f"{nothing[0]}; what may help: {nothing[1]}",
        "keys": [key for key in swept if key not in REPEATED],
        "configurations": [
            {
                "rank": one.rank,
                "case": one.points[0].case,
                "former": all(p.former for p in one.points),
                "settings": dict(one.chosen),
                "status": {status: one.counts[status] for status in STATUSES},
                "verdicts": {kind: one.kinds[kind] for kind in TALLIED if one.kinds[kind]},
                **{name: _with_interval(one.over_seeds(name)) for name in names},
                "seeds": _by_seed(one),
                "points": [p.num for p in one.points],
                "folders": [p.folder for p in one.points],
                "equal": sorted(num for p in one.points for num in equal.get(p.num, ())),
            }
            for one in configurations(Sweep(Path(), known, monitor))
        ],
        "equal": [
            {
                "point": twin.num,
                "title": in_short({key: twin.chosen.get(key) for key in swept}),
                "runs_as": twin.same_as,
            }
            for twin in twins
            if twin.same_as in nums
        ],
    }


def _with_interval(found: Spread) -> dict[str, float]:
    """n, mean and std, and the 95 % interval of the mean by Student's t."""
    margin = student(found.n - 1) * found.se if found.n > 1 else math.nan
    ends = {"low": found.mean - margin, "high": found.mean + margin}
    return {**vars(found), **ends}


def _by_seed(one: Configuration) -> dict[str, float]:
    """The monitor's best by `seed=0`, or `seed=0 data.seed=1` where splits were drawn anew."""
    found = one.by_repetition
    several = len({of_data for _, of_data in found}) > 1
    return {
        f"seed={seed} data.seed={of_data}" if several else f"seed={seed}": value
        for (seed, of_data), value in found.items()
    }


def leaderboard_csv(board: Mapping[str, Any]) -> str:
    """The same rows as a table: a column per swept key, and the monitor's best a column per seed.

    A cell is empty where nothing is known.
    """
    names = list(dict.fromkeys([board["monitor"], *ALSO]))
    statistic = [(name, part) for name in names for part in ("mean", "std", "low", "high")]
    seeds = list(dict.fromkeys(seed for row in board["configurations"] for seed in row["seeds"]))
    lines: list[list[Any]] = [
        [
            *("rank", "case", *board["keys"], "n"),
            *(f"{name}_{part}" for name, part in statistic),
            *STATUSES,
            *("verdicts", "points", "equal"),
            *(f"{board['monitor']} {seed}" for seed in seeds),
        ]
    ]
    for row in board["configurations"]:
        cells = (row[name][part] for name, part in statistic)
        lines.append(
            [
                *(row["rank"], row["case"], *(row["settings"][key] for key in board["keys"])),
                row[board["monitor"]]["n"],
                *map(_written, cells),
                *(row["status"][status] for status in STATUSES),
                " ".join(f"{kind}:{count}" for kind, count in row["verdicts"].items()),
                *(" ".join(map(str, row[name])) for name in ("points", "equal")),
                *(_written(row["seeds"].get(seed, math.nan)) for seed in seeds),
            ]
        )
    return csv_text(lines)


def points_csv(points: Sequence[SweepPoint], monitor: str) -> str:
    """A row per run, in the order of their numbers; empty where nothing is known.

    Settings are those swept; best, gap and test are of the best epoch, overfitting of the last. A
    point that runs as an earlier one is `equal`, and has no numbers of its own.
    """
    keys = [key for key in swept_keys(points) if key not in REPEATED]
    of_best = list(dict.fromkeys([monitor, *OF_BEST]))
    lines: list[list[Any]] = [
        [
            *("point", "case", *keys, *REPEATED, "status", "best_epoch", *of_best),
            *(f"test/{name}" for name in OF_TEST),
            *(*OF_LAST, "took_s", "verdicts", "former", "same_as", "folder"),
        ]
    ]
    for one in sorted(points, key=lambda point: point.num):
        epoch, equal = one.best.get("epoch", math.nan), one.same_as is not None
        lines.append(
            [
                *(one.num, one.case, *(one.chosen.get(key, "") for key in keys)),
                *("" if value is None else value for value in one.repetition),
                EQUAL if equal else one.status,
                int(epoch) if math.isfinite(epoch) else "",
                *(_written(one.best.get(name, math.nan)) for name in of_best),
                *(_written(one.test.get(name, math.nan)) for name in OF_TEST),
                *(_written(one.last.get(name, math.nan)) for name in OF_LAST),
                *(_written(one.took_s), " ".join(one.kinds), int(one.former)),
                *("" if one.same_as is None else one.same_as, one.folder),
            ]
        )
    return csv_text(lines)


def _written(value: float) -> str:
    return repr(value) if math.isfinite(value) else ""


def leaderboard_lines(board: Mapping[str, Any], at_most: int = 20, width: int = WIDTH) -> list[str]:
    """The board in a terminal: what tells configurations apart, and how they did.

    In a narrow one columns are left out, and long names cut.
    """
    monitor, rows = board["monitor"], board["configurations"][:at_most]
    best = "lowest" if board["direction"] == "min" else "highest"
    columns = {"name": [f"by {best} {monitor}"], monitor: [monitor], "std": ["std"],
               "test/accuracy": ["test acc"], "gap/loss": ["gap"], "seeds": ["seeds"]}  # fmt: skip
    for row in rows:
        named = in_short(row["settings"]) or "all"
        named = f"former {named}" if row["former"] else named
        bad = [f"{count} {name}" for name, count in row["status"].items() if count]
        all_finished = row["status"]["finished"] == len(row["points"])
        ended = str(row[monitor]["n"]) if all_finished else ", ".join(bad)
        cells = {
            "name": f"{row['rank']:>3}  {named}",
            monitor: _cell(row[monitor]["mean"], monitor),
            "std": _cell(row[monitor]["std"], monitor),
            "test/accuracy": _cell(row["test/accuracy"]["mean"], "test/accuracy"),
            "gap/loss": _cell(row["gap/loss"]["mean"], "gap/loss"),
            "seeds": "; ".join(filter(None, (ended, counted_kinds(row["verdicts"])))),
        }
        for name, cell in cells.items():
            columns[name].append(cell)
    lines = _fitted(columns, monitor, width)
    left_out = len(board["configurations"]) - len(rows)
    if left_out:
        lines.append(f"     and {left_out} more configurations: see leaderboard.csv")
    if board["no_winner"]:
        lines.append(f"no winner: {board['no_winner']}")
    if found := board.get("importance"):
        lines.append(importance_words(found))
    return lines


def _fitted(columns: dict[str, list[str]], monitor: str, width: int) -> list[str]:
    """Columns as lines; what comes first in LESS is left out first where they are too wide."""
    widths = {name: max(map(len, cells)) for name, cells in columns.items()}
    name, seeds = (min(widths[end], most) for end, most in (("name", NAME), ("seeds", SEEDS)))
    inner = {one: wide for one, wide in widths.items() if one not in ("name", "seeds")}

    def free() -> int:
        return width - sum(inner.values()) - 2 * (len(inner) + 1)

    for less in LESS:
        if free() < name + seeds and less != monitor:
            inner.pop(less)
    last = max(min(widths["seeds"], free() - name), min(seeds, free() // 3))
    first = max(0, min(widths["name"], free() - last))
    lines = []
    for i in range(len(columns["name"])):
        middle = [columns[one][i].rjust(wide) for one, wide in inner.items()]
        ends = _cut(columns["name"][i], first).ljust(first), _cut(columns["seeds"][i], last)
        lines.append("  ".join([ends[0], *middle, ends[1]]).rstrip())
    return lines


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: max(0, most - 3)]}..."[:most]


def _cell(value: float, name: str) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{100 * value:.1f}%" if "accuracy" in name else f"{value:.4g}"


class Leaderboard:
    """leaderboard.csv, leaderboard.json and points.csv of a sweep, replaced as points end."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._summaries: dict[int, dict[str, Any]] = {}
        self.points: list[Point] = []
        self.importance: dict[str, Any] | None = None  # of the settings of a search
        self._due = 0.0  # when it may be written again

    def take(
        self, num: int, summary: Mapping[str, Any], monitor: str | None = None
    ) -> dict[str, Any]:
        """Keep of a summary what the board needs, and return that.

        A finished point without a number for its monitor is damaged: see `status_of`.
        """
        kept = numbers({key: summary.get(key) for key in ("status", "error", *SECTIONS)})
        if kept["status"] not in (MISSING, DAMAGED):
            kept["status"], kept["error"] = status_of(kept, monitor)
        kept |= {section: numbers_of(kept[section]) for section in NUMBERS}
        self._summaries[num] = kept
        return kept

    def look_up(self, points: Sequence[Point]) -> None:
        """Take what the folders of points say, and write the files."""
        for point in points:
            self.read(point)
        self.write()

    def read(self, point: Point) -> None:
        """Take what the folder of a point says."""
        self.take(point.num, read_summary(self.folder / point.folder), point.monitor)

    def status(self, num: int) -> str:
        """Of a point."""
        return self._summaries.get(num, {}).get("status") or MISSING

    def summary(self, num: int) -> Mapping[str, Any]:
        """What `take` kept of a point; its status alone where it has not run."""
        return self._summaries.get(num, {"status": MISSING})

    def damaged(self, points: Sequence[Point]) -> list[tuple[Point, str]]:
        """Those of some points that left no result that can be read, each with why."""
        found = [point for point in points if self.status(point.num) == DAMAGED]
        return [(point, str(self._summaries[point.num]["error"])) for point in found]

    def failed(self) -> list[tuple[Point, str]]:
        """Points that failed, each with the first line of its error."""
        found = [p for p in self.points if p.same_as is None and self.status(p.num) == FAILED]
        errors = [str(self._summaries[p.num]["error"] or "") for p in found]
        return [(p, (e.splitlines() or [""])[0]) for p, e in zip(found, errors, strict=True)]

    def board(self) -> dict[str, Any]:
        """See `leaderboard`."""
        found = leaderboard(self.points, self._summaries)
        return found | ({"importance": self.importance} if self.importance else {})

    def write_if_due(self) -> None:
        """`write`, unless a good part of the time since the last time went into that.

        It takes longer the more points there are: after each of them it would take the square.
        """
        if time.perf_counter() >= self._due:
            self.write()

    def write(self) -> None:
        """All three; each is replaced as a whole. A full disk is a warning and stops no sweep."""
        started, board = time.perf_counter(), self.board()
        text = strict_json(board, indent=1)
        points, monitor = sweep_points(self.points, self._summaries)
        try:
            write_atomically(self.folder / LEADERBOARD, text + "\n")
            write_atomically(self.folder / LEADERBOARD_TABLE, leaderboard_csv(board))
            write_atomically(self.folder / POINTS_TABLE, points_csv(points, monitor))
        except OSError as error:
            log.warning("the leaderboard could not be written: %s", error)
        now = time.perf_counter()
        self._due = now + WAITS * (now - started)
