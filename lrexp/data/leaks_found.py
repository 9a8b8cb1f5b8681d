"""What the leak check found: in lines for people, and as plain values for files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import islice

import numpy as np

from lrexp.config.errors import few

NEAREST_IMAGES = 16_384  # that an image is compared with when there are too many: leak_bounds
LISTED, SHOWN = 20, 3  # items of each kind in summary.json, and in a line of the console


@dataclass(frozen=True)
class Twins:
    """Items of `split` with a partner in the earlier split `other`, each once."""

    split: str
    other: str
    positions: np.ndarray  # (m,) in split
    others: np.ndarray  # (m,) in other: the first exact copy, or the nearest image
    correlation: np.ndarray  # (m,) of thumbnails, 1 for exact copies


@dataclass(frozen=True)
class Conflict:
    """Copies of one image that carry different labels, within a split or across."""

    positions: tuple[int, ...]
    splits: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class SharedGroup:
    """A group with items in two splits."""

    group: str
    split: str
    other: str
    items: int  # in split
    other_items: int


@dataclass(frozen=True)
class Leaks:
    """What the check found; empty lists where nothing was found."""

    exact: list[Twins]
    near: list[Twins]
    conflicts: list[Conflict]
    groups: list[SharedGroup]
    twins: dict[str, np.ndarray]  # split → sorted positions with a twin or group mate in the first
    sizes: dict[str, int]
    flat: int  # images without contrast, left out of the search for near duplicates
    rule: dict[str, float]  # threshold, ratio and rank of near duplicates
    cut_short: dict[str, int]  # split → its images that not all within reach were compared with
    names: Sequence[str] | None = None  # of every position: ids or file names

    def __bool__(self) -> bool:
        return bool(self.exact or self.near or self.conflicts or self.groups)

    def lines(self) -> list[str]:
        """A line for each kind: how many in which splits, and the first few items.

        One more where the search for near duplicates was cut short, also when nothing was found.
        """
        lines = []
        if self.exact:
            pairs = (f"{a} = {b}" for t in self.exact for a, b, _ in self._pairs(t))
            lines.append(f"exact copies: {self._shares(self.exact)}; {_first(pairs)}")
        if self.near:
            pairs = (f"{a} ~ {b} at {c:.3f}" for t in self.near for a, b, c in self._pairs(t))
            rule = f"8×8 thumbnails correlate at {self.rule['threshold']:g} or more"
            lines.append(f"near duplicates ({rule}): {self._shares(self.near)}; {_first(pairs)}")
        if n := len(self.conflicts):
            total = sum(len(conflict.positions) for conflict in self.conflicts)
            first = _first(
                ", ".join(
                    f"{split} {self._name(at)} is {label}"
                    for at, split, label in list(zip(*astuple(c), strict=True))[:SHOWN]
                )
                for c in self.conflicts
            )
            what = "image has copies" if n == 1 else "images have copies"
            lines.append(f"{n:,} {what} with different labels ({total:,} items): {first}")
        for (split, other), shared in self._groups_by_splits().items():
            n, items = len(shared), sum(g.items for g in shared)
            others = sum(g.other_items for g in shared)
            what = "group stands" if n == 1 else "groups stand"
            sides = f"{others:,} {other} and {items:,} {split} items"
            first = _first(g.group for g in shared)
            lines.append(f"{n:,} {what} in both {other} and {split} ({sides}): {first}")
        if self.cut_short:
            shares = ", ".join(
                f"{n:,} of {self.sizes[split]:,} {split}" for split, n in self.cut_short.items()
            )
            lines.append(
                f"near duplicates of {shares} images were looked for among the"
                f" {NEAREST_IMAGES:,} earlier images that lie nearest, not among all"
            )
        return lines

    def as_dict(self) -> dict[str, object]:
        """Counts, the rule, and the first 20 items of each kind, as strict JSON can hold them.

        `cut_short` is there where the search was: see the field.
        """
        items: dict[str, list[object]] = {"exact": [], "near": [], "conflict": [], "group": []}
        for item in self.items():
            items[str(item["kind"])].append(item)
        groups = self._groups_by_splits().items()
        return {
            "counts": {
                "exact": _counts(self.exact),
                "near": _counts(self.near),
                "conflicts": len(self.conflicts),
                "groups": {f"{split} in {other}": len(found) for (split, other), found in groups},
                "grouped": {  # images of the first split that share one with the other
                    f"{split} in {other}": sum(g.items for g in found)
                    for (split, other), found in groups
                },
                "twins": {split: len(positions) for split, positions in self.twins.items()},
                "flat": self.flat,
            },
            "near_rule": self.rule,
            **({"cut_short": self.cut_short} if self.cut_short else {}),
            "items": {kind: found[:LISTED] for kind, found in items.items()},
        }

    def items(self) -> list[dict[str, object]]:
        """Everything found, one plain dictionary each: what `data.leak_check=error` lists."""
        items: list[dict[str, object]] = []
        for kind, twins in (("exact", self.exact), ("near", self.near)):
            for t in twins:
                for a, b, c in self._pairs(t):
                    item: dict[str, object] = {"kind": kind, "split": t.split, "item": a}
                    item |= {"other_split": t.other, "other_item": b}
                    item |= {"correlation": round(float(c), 4)} if kind == "near" else {}
                    items.append(item)
        for conflict in self.conflicts:
            named = [self._name(at) for at in conflict.positions]
            splits, labels = list(conflict.splits), list(conflict.labels)
            items.append({"kind": "conflict", "items": named, "splits": splits, "labels": labels})
        for g in self.groups:
            sizes = {g.split: g.items, g.other: g.other_items}
            items.append({"kind": "group", "group": g.group, "items": sizes})
        return items

    def _pairs(self, found: Twins) -> Iterator[tuple[str, str, float]]:
        """What both sides are called, and their correlation."""
        sides = (map(self._name, side) for side in (found.positions, found.others))
        return zip(*sides, found.correlation, strict=True)

    def _groups_by_splits(self) -> dict[tuple[str, str], list[SharedGroup]]:
        found: dict[tuple[str, str], list[SharedGroup]] = {}
        for g in self.groups:
            found.setdefault((g.split, g.other), []).append(g)
        return found

    def _name(self, position: int) -> str:
        return str(position) if self.names is None else str(self.names[position])

    def _shares(self, found: Sequence[Twins]) -> str:
        """How many of each split in which other."""
        return ", ".join(
            f"{len(t.positions):,} of {self.sizes[t.split]:,} {t.split} images in {t.other}"
            for t in found
        )


def _first(texts: Iterable[str]) -> str:
    return few(islice(texts, SHOWN + 1), SHOWN, "; ")


def _counts(twins: Sequence[Twins]) -> dict[str, dict[str, int]]:
    """Distinct items on each side, for each pair of splits."""
    return {
        f"{t.split} in {t.other}": {t.split: len(t.positions), t.other: len(np.unique(t.others))}
        for t in twins
    }
