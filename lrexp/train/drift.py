"""How far weights have come from where they started."""

from __future__ import annotations

import torch
from torch import nn

from lrexp.plan.plan import Plan
from lrexp.train.scales import ratio


class Drift:
    """How far each group's weights are from where they started: ‖w − w₀‖ / ‖w₀‖ over the group."""

    def __init__(self, model: nn.Module, plan: Plan):
        tensors = dict(model.named_parameters())
        self._groups = list(plan.groups)
        moving = {g: rows for g, rows in plan.groups.items() if not rows[0].frozen}
        self._now = {g: [tensors[r.name] for r in rows] for g, rows in moving.items()}
        self._start = {g: [p.detach().clone() for p in now] for g, now in self._now.items()}
        self._sizes: dict[str, float] = {}  # ‖w₀‖ of each group

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """`drift/<group>`; 0 for a group that has not moved, infinite for one that started at 0."""
        found = {f"drift/{group}": 0.0 for group in self._groups}  # what never trains does not move
        for group, start in self._start.items():
            steps = [now - was for now, was in zip(self._now[group], start, strict=True)]
            if group not in self._sizes:
                self._sizes[group] = float(torch.nn.utils.get_total_norm(start))
            moved = float(torch.nn.utils.get_total_norm(steps))
            found[f"drift/{group}"] = ratio(moved, self._sizes[group])
        return found
