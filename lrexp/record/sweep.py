"""The points of a sweep side by side, from their summaries alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lrexp.folder import shown_path


def sweep_lines(folder: Path) -> list[str]:
    """A line per point of a sweep, in the order they ran, and where everything is.

    Numbers are those of a point's best epoch by trainer.monitor, never of test.

    Args:
        folder: of the sweep; points that wrote no summary are left out.
    """
    points = sorted(folder.glob("*/summary.json"), key=lambda file: _number(file.parent.name))
    summaries = [(file.parent.name, json.loads(file.read_text("utf-8"))) for file in points]
    lines = []
    if summaries:
        width = max(len(name) for name, _ in summaries)
        heading = f"{'status':<11}  epoch  val loss  val acc           gap ± se"
        lines = ["", f"{'point':<{width}}  {heading}"]
        lines += [f"{name:<{width}}  {_cells(summary)}" for name, summary in summaries]
    if any(folder.glob("*/wandb/offline-run-*")):
        pattern = os.path.join(shown_path(folder), "*", "wandb", "offline-run-*")
        lines.append(f"wandb  offline; upload with: wandb sync {pattern}")
    return [*lines, f"sweep  {shown_path(folder)}"]


def _cells(summary: dict[str, Any]) -> str:
    best = summary["best"]
    status = f"{summary['status']:<11}"
    if not best:
        return f"{status}  {(summary['error'] or '').splitlines()[0] if summary['error'] else ''}"
    gap = f"{best['gap/loss']:.3f} ± {best['gap/loss_se']:.3f}"
    accuracy = f"{100 * best['val/accuracy']:.1f}%"
    return f"{status}  {best['epoch']:>5}  {best['val/loss']:>8.4f}  {accuracy:>7}  {gap:>17}"


def _number(name: str) -> tuple[int, str]:
    first = name.split("_")[0]
    return (int(first) if first.isdigit() else 0, name)
