"""The configurations of a sweep side by side: seeds aggregated, best first, never by test."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrexp.config.schema import MONITORS
from lrexp.folder.files import strict_json, write_atomically
from lrexp.grid.points.point import NEVER_STARTED, Point, title, varied
from lrexp.judge.words import in_short

log = logging.getLogger(__name__)

SEED = "seed"  # its points are tries of one configuration
ALSO = ("test/loss", "test/accuracy", "gap/loss")  # shown, never sorted by
STATUSES = ("finished", "diverged", "failed", "interrupted", "running", NEVER_STARTED)
WIDTH = 100


def leaderboard(
    points: Sequence[Point], summaries: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    """Rows by configuration, best first, and what they are sorted by.

    A row has the mean and the sample standard deviation over its finished seeds of the monitor's
    best value, and of test and gap at that epoch; the standard deviation is NaN for one seed.
    Configurations with a diverged or failed point come after all others. Points that train like an
    earlier one count there alone, and are named. A row of points that a changed grid no longer asks
    for is `former`.

    Args:
        points: of the sweep, partly run or not at all.
        summaries: by number of the point; those that are missing have not run.
    """
    monitors = {str(point.settings["trainer.monitor"]) for point in points}
    monitor = monitors.pop() if len(monitors) == 1 else "val/loss"
    sign = 1 if MONITORS[monitor] == "min" else -1
    keys = [key for key in varied(points) if key != SEED]
    twins: dict[int, list[int]] = {}
    for point in points:
        if point.same_as is not None:
            twins.setdefault(point.same_as, []).append(point.num)
    rows = _configurations([point for point in points if point.same_as is None], keys)
    table = [_row(tries, keys, monitor, summaries, twins) for tries in rows]

    def worth(row: dict[str, Any]) -> tuple[bool, bool, float]:
        bad = row["status"]["diverged"] + row["status"]["failed"] > 0
        mean = row[monitor]["mean"]
        return bad, not math.isfinite(mean), sign * mean if math.isfinite(mean) else 0.0

    table.sort(key=worth)
    by_num = {point.num: point for point in points}
    return {
        "monitor": monitor,
        "direction": MONITORS[monitor],
        "keys": keys,
        "configurations": [{"rank": rank, **row} for rank, row in enumerate(table, 1)],
        "equal": [
            {"point": p.num, "title": title(p, varied(points)), "runs_as": p.same_as}
            for p in points
            if p.same_as is not None and p.same_as in by_num
        ],
    }


def _configurations(points: Sequence[Point], keys: Sequence[str]) -> list[list[Point]]:
    """Points by what was swept but the seed.

    A former point that was asked for in the same words may have run with other settings, from a
    file that has been edited since. It is a try of the same configuration only if it agrees with
    the present points in all that these have in common.
    """
    rows: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        chosen = point.chosen
        rows.setdefault((point.case, *(chosen.get(key) for key in keys)), []).append(point)
    found: list[list[Point]] = []
    for tries in rows.values():
        if not any(point.former for point in tries):
            found.append(tries)
            continue
        present = [p.settings for p in tries if not p.former] or [tries[0].settings]
        common = [k for k in present[0] if all(s.get(k) == present[0][k] for s in present)]
        parts: dict[str, list[Point]] = {}
        for point in tries:
            told = [point.settings.get(key) for key in common if key != SEED]
            parts.setdefault(json.dumps(told, default=str), []).append(point)
        found += parts.values()
    return found


def _row(
    tries: list[Point],
    keys: Sequence[str],
    monitor: str,
    summaries: Mapping[int, Mapping[str, Any]],
    twins: Mapping[int, list[int]],
) -> dict[str, Any]:
    """One configuration."""
    found = {p.num: summaries.get(p.num, {"status": NEVER_STARTED}) for p in tries}
    counts = Counter(summary["status"] for summary in found.values())
    finished = [s for s in found.values() if s["status"] == "finished" and s["best"]]
    values: dict[str, list[float]] = {monitor: [s["best"][monitor] for s in finished]}
    for name in ALSO:
        section, _, key = name.partition("/")
        measured = [s["test"].get(key) if section == "test" else s["best"][name] for s in finished]
        values.setdefault(name, [float(value) for value in measured if value is not None])
    return {
        "case": tries[0].case,
        "former": all(p.former for p in tries),
        "settings": {key: tries[0].chosen.get(key) for key in keys},
        "status": {status: counts[status] for status in STATUSES},
        **{name: _mean_and_std([float(v) for v in some]) for name, some in values.items()},
        "points": [p.num for p in tries],
        "folders": [p.folder for p in tries],
        "equal": sorted(num for p in tries for num in twins.get(p.num, [])),
    }


def _mean_and_std(values: Sequence[float]) -> dict[str, float]:
    """Both NaN when a value is no finite number, as a test loss may be where validation is fine."""
    finite = all(map(math.isfinite, values))
    return {
        "n": len(values),
        "mean": statistics.fmean(values) if values and finite else math.nan,
        "std": statistics.stdev(values) if len(values) > 1 and finite else math.nan,
    }


def leaderboard_csv(board: Mapping[str, Any]) -> str:
    """The same rows as a table: a column per swept key; empty where nothing is known."""
    names = list(dict.fromkeys([board["monitor"], *ALSO]))
    statistic = [(name, part) for name in names for part in ("mean", "std")]
    lines: list[list[Any]] = [
        [
            *("rank", "case", *board["keys"], "n"),
            *(f"{name}_{part}" for name, part in statistic),
            *STATUSES,
            *("points", "equal"),
        ]
    ]
    for row in board["configurations"]:
        cells = (row[name][part] for name, part in statistic)
        lines.append(
            [
                *(row["rank"], row["case"], *(row["settings"][key] for key in board["keys"])),
                row[board["monitor"]]["n"],
                *(repr(value) if math.isfinite(value) else "" for value in cells),
                *(row["status"][status] for status in STATUSES),
                *(" ".join(map(str, row[name])) for name in ("points", "equal")),
            ]
        )
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def leaderboard_lines(board: Mapping[str, Any], at_most: int = 20) -> list[str]:
    """The board in a terminal of 100 columns: what tells configurations apart, and how they did."""
    monitor, rows = board["monitor"], board["configurations"][:at_most]
    better = "lowest" if board["direction"] == "min" else "highest"
    table = [["", monitor, "± std", "test acc", "gap", "seeds"]]
    for row in rows:
        named = in_short(row["settings"]) or "all"
        named = f"former {named}" if row["former"] else named
        bad = [f"{count} {name}" for name, count in row["status"].items() if count]
        all_finished = row["status"]["finished"] == len(row["points"])
        table.append(
            [
                f"{row['rank']:>3}  {named}",
                _cell(row[monitor]["mean"], monitor),
                _cell(row[monitor]["std"], monitor),
                _cell(row["test/accuracy"]["mean"], "test/accuracy"),
                _cell(row["gap/loss"]["mean"], "gap/loss"),
                str(row[monitor]["n"]) if all_finished else ", ".join(bad),
            ]
        )
    widths = [max(len(line[i]) for line in table) for i in range(6)]
    room = WIDTH - sum(widths[1:]) - 2 * 5
    heading = f"by {better} {monitor}"
    widths[0] = max(len(heading), min(widths[0], room))
    lines = []
    for line in table:
        first = line[0]
        if len(first) > widths[0]:
            first = f"{first[: widths[0] - 3]}..."
        rest = [cell.rjust(width) for cell, width in zip(line[1:5], widths[1:5], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *rest, line[5]]).rstrip())
    lines[0] = heading.ljust(widths[0]) + lines[0][widths[0] :]
    left_out = len(board["configurations"]) - len(rows)
    if left_out:
        lines.append(f"     and {left_out} more configurations: see leaderboard.csv")
    return lines


def _cell(value: float, name: str) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{100 * value:.1f}%" if "accuracy" in name else f"{value:.4g}"


class Leaderboard:
    """leaderboard.csv and leaderboard.json of a sweep folder, replaced as points end."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._summaries: dict[int, dict[str, Any]] = {}
        self.points: list[Point] = []

    def take(self, num: int, summary: Mapping[str, Any]) -> None:
        """Keep of a summary what the board needs."""
        kept = {key: summary.get(key) for key in ("status", "best", "test", "error")}
        kept["best"] = _as_numbers(kept["best"] or {})
        kept["test"] = _as_numbers(kept["test"] or {})
        self._summaries[num] = kept

    def status(self, num: int) -> str:
        """Of a point."""
        return self._summaries.get(num, {}).get("status") or NEVER_STARTED

    def with_status(self, status: str) -> list[tuple[Point, str]]:
        """Points of a status, each with the first line of its error."""
        found = [p for p in self.points if p.same_as is None and self.status(p.num) == status]
        errors = [str(self._summaries[p.num]["error"] or "") for p in found]
        return [(p, (e.splitlines() or [""])[0]) for p, e in zip(found, errors, strict=True)]

    def board(self) -> dict[str, Any]:
        """See `leaderboard`."""
        return leaderboard(self.points, self._summaries)

    def write(self) -> None:
        """Both files; each is replaced as a whole. A full disk is a warning and stops no sweep."""
        board = self.board()
        text = strict_json(board, indent=1)
        try:
            write_atomically(self.folder / "leaderboard.json", text + "\n")
            write_atomically(self.folder / "leaderboard.csv", leaderboard_csv(board))
        except OSError as error:
            log.warning("the leaderboard could not be written: %s", error)


def _as_numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a strict JSON object, "NaN" and the infinities too."""
    return {k: float(v) if isinstance(v, str | int | float) else v for k, v in row.items()}
