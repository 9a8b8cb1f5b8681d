"""What the leak check found: in lines for people, and as plain values for files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

LISTED, SHOWN = 20, 3  # items of each kind in summary.json, and in a line of the console


@dataclass(frozen=True)
class Twins:
    """Items of `split` with a partner in the earlier split `other`, each once."""

    split: str
    other: str
    positions: np.ndarray  # (m,) in split
    others: np.ndarray  # (m,) in other: the first exact copy, or the nearest image
    correlation: np.ndarray | None = None  # (m,) float32; None for exact copies


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
    threshold: float
    ratio: float
    rank: int
    names: Sequence[str] | None = None  # of every position: ids or file names

    def __bool__(self) -> bool:
        return bool(self.exact or self.near or self.conflicts or self.groups)

    def lines(self) -> list[str]:
        """A line for each kind: how many in which splits, and the first few items."""
        lines = []
        if self.exact:
            pairs = ((a, b) for t in self.exact for a, b in zip(t.positions, t.others, strict=True))
            first = _first(f"{self._name(a)} = {self._name(b)}" for a, b in pairs)
            lines.append(f"exact copies: {self._shares(self.exact)}; {first}")
        if self.near:
            rows = (
                f"{self._name(a)} ~ {self._name(b)} at {c:.3f}"
                for t in self.near
                if t.correlation is not None
                for a, b, c in zip(t.positions, t.others, t.correlation, strict=True)
            )
            rule = f"8×8 thumbnails correlate at {self.threshold:g} or more"
            lines.append(f"near duplicates ({rule}): {self._shares(self.near)}; {_first(rows)}")
        if self.conflicts:
            total = sum(len(conflict.positions) for conflict in self.conflicts)
            first = _first(
                ", ".join(
                    f"{split} {self._name(at)} is {label}"
                    for at, split, label in _few(
                        zip(c.positions, c.splits, c.labels, strict=True), SHOWN
                    )
                )
                for c in self.conflicts
            )
            n = len(self.conflicts)
            what = "image has copies" if n == 1 else "images have copies"
            lines.append(f"{n:,} {what} with different labels ({total:,} items): {first}")
        for (split, other), shared in _by_splits(self.groups).items():
            items, others = (sum(getattr(g, k) for g in shared) for k in ("items", "other_items"))
            n = len(shared)
            what = "group stands" if n == 1 else "groups stand"
            sides = f"{others:,} {other} and {items:,} {split} items"
            first = _first(g.group for g in shared)
            lines.append(f"{n:,} {what} in both {other} and {split} ({sides}): {first}")
        return lines

    def as_dict(self) -> dict[str, object]:
        """Counts, the rule, and the first 20 items of each kind, as strict JSON can hold them."""
        items = self.items()
        of_kind = {
            kind: [item for item in items if item["kind"] == kind]
            for kind in ("exact", "near", "conflict", "group")
        }
        return {
            "counts": {
                "exact": _counts(self.exact),
                "near": _counts(self.near),
                "conflicts": len(self.conflicts),
                "groups": {
                    f"{split} in {other}": len(shared)
                    for (split, other), shared in _by_splits(self.groups).items()
                },
                "twins": {split: len(positions) for split, positions in self.twins.items()},
                "flat": self.flat,
            },
            "near_rule": {"threshold": self.threshold, "ratio": self.ratio, "rank": self.rank},
            "items": {kind: found[:LISTED] for kind, found in of_kind.items()},
        }

    def items(self) -> list[dict[str, object]]:
        """Everything found, one plain dictionary each: what `data.leak_check=error` lists."""
        items: list[dict[str, object]] = []
        for kind, twins in (("exact", self.exact), ("near", self.near)):
            for found in twins:
                for i, (at, other) in enumerate(zip(found.positions, found.others, strict=True)):
                    item: dict[str, object] = {"kind": kind, "split": found.split}
                    item |= {"item": self._name(at), "other_split": found.other}
                    item["other_item"] = self._name(other)
                    if found.correlation is not None:
                        item["correlation"] = round(float(found.correlation[i]), 4)
                    items.append(item)
        for conflict in self.conflicts:
            named = [self._name(at) for at in conflict.positions]
            splits, labels = list(conflict.splits), list(conflict.labels)
            items.append({"kind": "conflict", "items": named, "splits": splits, "labels": labels})
        for g in self.groups:
            sizes = {g.split: g.items, g.other: g.other_items}
            items.append({"kind": "group", "group": g.group, "items": sizes})
        return items

    def _name(self, position: int) -> str:
        return str(position) if self.names is None else str(self.names[position])

    def _shares(self, found: Sequence[Twins]) -> str:
        """How many of each split in which other."""
        return ", ".join(
            f"{len(t.positions):,} of {self.sizes[t.split]:,} {t.split} images in {t.other}"
            for t in found
        )


def _few(items: Iterable[tuple], n: int) -> list[tuple]:
    return [item for _, item in zip(range(n), items, strict=False)]


def _first(texts: Iterable[str]) -> str:
    """The first few, and dots when there are more."""
    texts = list(texts)
    return "; ".join(texts[:SHOWN]) + ("; ..." if len(texts) > SHOWN else "")


def _counts(twins: Sequence[Twins]) -> dict[str, dict[str, int]]:
    """Distinct items on each side, for each pair of splits."""
    return {
        f"{t.split} in {t.other}": {
            t.split: len(np.unique(t.positions)),
            t.other: len(np.unique(t.others)),
        }
        for t in twins
    }


def _by_splits(groups: Sequence[SharedGroup]) -> dict[tuple[str, str], list[SharedGroup]]:
    found: dict[tuple[str, str], list[SharedGroup]] = {}
    for g in groups:
        found.setdefault((g.split, g.other), []).append(g)
    return found
