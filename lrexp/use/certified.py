"""What a certified loop did to every tensor: as data, as text and as a page's table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from lrexp.config.errors import UserError

COLUMNS = ("tensors", "group", "planned", "held", "trains", "gradient", "moved")


@dataclass(frozen=True)
class Finding:
    """Something that happened and was not meant, or that is worth knowing."""

    kind: str
    fault: bool  # raises; a note never does
    tensors: tuple[str, ...]
    message: str
    advice: str


@dataclass
class TensorRow:
    """One tensor: what was meant of it, and what happened.

    Rates are those that its group held when the optimizer stepped.
    """

    name: str
    shape: tuple[int, ...]
    groups: tuple[str, ...]  # that held it, most often one
    meant: bool  # to train
    trains: bool  # requires_grad at the end
    trained: bool = False  # requires_grad at a step
    shut: bool = False  # not at the last one, nor at the end
    planned: float | None = None  # the rate it was to have; None where nothing says it
    lowest: float | None = None  # rates held
    highest: float | None = None
    gradient: bool = False  # there was one at a step
    left_gradient: bool = False  # and at one while it was frozen
    largest_gradient: float | None = None  # of the steps looked at while its rate was not 0
    moved: bool | None = None  # None: not known
    weight_decay: float = 0.0
    momentum: bool = False  # its optimizer keeps state of it
    dtype: str = ""
    twice: bool = False  # groups stepped it by turns, not one optimizer after another
    not_judged: str = ""  # why nothing is said of its moving


@dataclass
class Report:
    """What `certify` saw: complete when the block ends, or after `steps` steps."""

    steps: int = 0
    optimizers: list[str] = field(default_factory=list)
    rows: list[TensorRow] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    judged: bool = False

    @property
    def faults(self) -> list[Finding]:
        """What was not meant."""
        return [finding for finding in self.findings if finding.fault]

    def __str__(self) -> str:
        if not self.judged:
            return "certify: not judged before the block ends, or its `steps` are done"
        table = [COLUMNS, *self._lines()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = (
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in table
        )
        return "\n".join([self._headline(), *map(_said, self.findings), *lines])

    def _repr_html_(self) -> str:
        if not self.judged:
            return f"<p>{escape(str(self))}</p>"
        items = "".join(f"<li><pre>{escape(_said(f))}</pre></li>" for f in self.findings)
        head = "".join(f"<th>{name}</th>" for name in COLUMNS)
        body = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>"
            for line in self._lines()
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f"<p>{escape(self._headline())}</p><ul>{items}</ul>{table}"

    def _headline(self) -> str:
        notes = len(self.findings) - len(self.faults)
        over = " and ".join(self.optimizers) or "an optimizer"
        found = [count(len(self.faults), "fault"), *([count(notes, "note")] if notes else [])]
        said = ", ".join(found) if self.findings else "as meant"
        return f"certify: {count(self.steps, 'step')} of {over}: {said}"

    def _lines(self) -> list[tuple[str, ...]]:
        """A line for tensors that were treated alike."""
        alike: dict[tuple[str, ...], list[str]] = {}
        for row in self.rows:
            alike.setdefault(_cells(row), []).append(row.name)
        return [(_few(names), *cells) for cells, names in alike.items()]


class NotAsMeantError(UserError):
    """A loop did what was not meant. Its `report` says all that was seen."""

    def __init__(self, report: Report):
        super().__init__("\n".join([report._headline(), *map(_said, report.faults)]))
        self.report = report


def _few(names: Sequence[str]) -> str:
    first = names[0]
    return first if len(names) == 1 else f"{first} and {len(names) - 1} more"


def count(number: int, noun: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _said(finding: Finding) -> str:
    word = "fault" if finding.fault else "note"
    return f"{word}: {finding.message}\n  {finding.advice}"


def _cells(row: TensorRow) -> tuple[str, ...]:
    held = "" if row.highest is None else f"{row.highest:.3g}"
    if row.lowest is not None and row.highest is not None and row.lowest < row.highest:
        held = f"{row.lowest:.3g} to {held}"
    words = {True: "yes", False: "no", None: "?"}
    moved = f"{words[row.moved]} ({row.not_judged})" if row.not_judged else words[row.moved]
    planned = "" if row.planned is None else f"{row.planned:.3g}"
    groups = ", ".join(row.groups) or "none"
    return groups, planned, held, words[row.trains], words[row.gradient], moved
