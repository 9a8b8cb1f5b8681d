"""Sweep folders with known numbers, written as the launcher writes them but without training."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Axes = Mapping[str, Sequence[Any]]
FIRST = {
    "seed": 0,
    "optimizer.lr": 0.05,
    "lr_policy.name": "uniform",
    "trainer.monitor": "val/loss",
    "task.name": "train",
}
SETTING = {"lr_policy": "lr_policy.name", "optimizer": "optimizer.name"}


def outcome(loss: float, **more: Any) -> dict[str, Any]:
    """The summary of a run that finished with this validation loss."""
    best = {"epoch": 2, "val/loss": loss, "val/accuracy": 1 - loss / 4, "gap/loss": loss / 10}
    return {
        "status": "finished",
        "best": best,
        "test": {"loss": loss, "accuracy": 0.5},
        "error": None,
        "timings": {"total_s": 1.5},
        **more,
    }


def add_predictions(
    folder: Path,
    spread: Callable[[dict[str, str]], Sequence[float]],
    groups: Sequence[int] | None = None,
) -> None:
    """predictions.parquet of every finished run, with losses around its val/loss.

    Args:
        folder: of a sweep.
        spread: of what was asked for by a point, (n,) by how much the losses of images differ
            from their mean.
        groups: (n,) that images come in.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for row in json.loads((folder / "points.json").read_text())["points"]:
        file = folder / row["folder"] / "summary.json"
        if not file.exists() or json.loads(file.read_text())["status"] != "finished":
            continue
        apart = list(spread(dict(one.split("=") for one in row["overrides"])))
        mean = json.loads(file.read_text())["best"]["val/loss"]
        off = [math.exp(-(mean + one - sum(apart) / len(apart))) for one in apart]
        places = list(range(len(off)))
        table = pa.table(
            {
                "id": places,
                "item": list(map(str, places)),
                "split": ["val"] * len(off),
                "label": [0] * len(off),
                **({} if groups is None else {"group": list(groups)}),
                "scores": [[score, 1 - score] for score in off],
            }
        )
        pq.write_table(table, file.with_name("predictions.parquet"))


def went_wrong(status: str, error: str | None = None) -> dict[str, Any]:
    """The summary of a run that did not finish."""
    return {"status": status, "best": None, "test": None, "error": error, "timings": {}}


def write_sweep(
    folder: Path,
    axes: Axes,
    result: Callable[[dict[str, Any]], dict[str, Any] | None],
    *,
    epochs: int = 3,
    monitor: str = "val/loss",
    more: Callable[[dict[str, Any]], dict[str, Any]] = lambda chosen: {},
    points: Sequence[Mapping[str, Any]] | None = None,
) -> Path:
    """A sweep over the product of `axes`, the last one fastest.

    Args:
        folder: of the sweep.
        axes: values by override.
        result: summary of the point that was asked for so; None for one that has never started.
        epochs: rows of metrics.jsonl.
        monitor: of every point.
        more: settings besides those that were asked for.
        points: instead of the product, what is asked for by every point; may have `case` and
            `same_as`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first = FIRST | {"trainer.monitor": monitor}
    asked = points or [dict(zip(axes, vs, strict=True)) for vs in itertools.product(*axes.values())]
    rows = []
    for num, chosen in enumerate(asked):
        wanted = {k: v for k, v in chosen.items() if k not in ("case", "same_as")}
        overrides = [f"{key}={_typed(value)}" for key, value in wanted.items()]
        name = f"{num}_{'_'.join(overrides).replace('=', '_').replace('/', '_')}"[:90]
        settings = {SETTING.get(key, key): value for key, value in wanted.items()}
        rows.append(
            {
                "num": num,
                "folder": name,
                "case": chosen.get("case", ""),
                "same_as": chosen.get("same_as"),
                "overrides": overrides,
                "differs": settings | more(wanted),
                "lacks": [],
            }
        )
        summary = result(wanted)
        if summary is None or chosen.get("same_as") is not None:
            continue
        run = folder / name
        run.mkdir()
        (run / "summary.json").write_text(json.dumps(summary))
        (run / "metrics.jsonl").write_text("".join(_metrics(summary, epochs)))
    command = [f"{key}={','.join(map(_typed, values))}" for key, values in axes.items()]
    grid = {"command": command, "first": first, "points": rows}
    (folder / "points.json").write_text(json.dumps(grid))
    return folder


def _typed(value: Any) -> str:
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _metrics(summary: Mapping[str, Any], epochs: int) -> list[str]:
    """Rows as long as real ones, falling towards the best loss."""
    best = (summary["best"] or {}).get("val/loss", 2.0)
    padding = {f"update_ratio/group_{i}": 0.0012345678901234567 for i in range(12)}
    lines = []
    for epoch in range(1, epochs + 1):
        loss = best + math.exp(-epoch)
        row = {
            "epoch": epoch,
            "val/loss": loss,
            "val/accuracy": 1 - loss / 4,
            "gap/loss": loss / 10,
        }
        lines.append(json.dumps(row | padding) + "\n")
    return lines


POLICIES = (
    "uniform",
    "layerwise_decay",
    "discriminative",
    "ulmfit",
    "per_layer",
    "freeze_backbone",
    "bias_norm_only",
    "gradual_unfreeze",
    "lp_ft",
    "surgical",
)


def large_sweep(folder: Path, epochs: int = 30) -> Path:
    """1,000 points: 10 policies × 10 rates × 2 weight decays × 5 seeds, some of which diverge."""
    rates = [round(10 ** (-3 + i / 3), 6) for i in range(10)]

    def result(chosen: dict[str, Any]) -> dict[str, Any]:
        policy, lr, seed = (
            POLICIES.index(chosen["lr_policy"]),
            chosen["optimizer.lr"],
            chosen["seed"],
        )
        if lr > 0.6 and (seed + policy) % 3 == 0:
            return went_wrong("diverged")
        noise = math.sin(12.9898 * (policy + 1) + 78.233 * seed + 37.7 * lr) * 0.02
        bowl = (math.log10(lr) + 1.4 - policy / 20) ** 2 / 4
        return outcome(0.2 + bowl + policy / 50 + chosen["optimizer.weight_decay"] + noise)

    axes = {
        "lr_policy": POLICIES,
        "optimizer.lr": rates,
        "optimizer.weight_decay": (0.0, 0.01),
        "seed": range(5),
    }
    return write_sweep(folder, axes, result, epochs=epochs)
