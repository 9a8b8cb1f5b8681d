"""A run folder written by hand, so that tests of reports need no training and no torch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

GROUPS = ("conv", "head")
PLAN = """\
name,shape,layer,layer_name,group,head,source,lr_scale,weight_decay,trainable_from,trainable_until,\
g,measured,bn_stats,frozen_dropout,schedule_restart
stem.weight,4x1x3x3,0,stem,stem,false,loaded,1.0,0.0,0,0,,,follow,false,
conv.weight,8x4x3x3,1,conv,conv,false,loaded,0.5,0.0,1,,,,follow,false,
head.weight,2x8,2,head,head,true,fresh,1.0,0.0,0,,,,follow,false,
head.bias,2,2,head,head,true,fresh,1.0,0.0,0,,,,follow,false,
"""
CONFIG = """\
name: {name}
seed: 3
model: {{name: simple_cnn, weights: null}}
data: {{name: digits, group_by: null}}
loss: {{name: cross_entropy}}
optimizer: {{name: sgd, lr: 0.1, weight_decay: 0.0, momentum: 0.9, nesterov: false}}
lr_policy: {{name: layerwise_decay, decay: 0.5}}
scheduler: {{name: constant, warmup: 0, floor: 0.0}}
trainer: {{epochs: 4, monitor: val/loss}}
"""
HYDRA = """\
hydra:
  runtime:
    cwd: {cwd}
    config_sources:
    - {{path: hydra.conf, schema: pkg, provider: hydra}}
    - {{path: {cwd}/conf, schema: file, provider: main}}
    choices:
      lr_policy: layerwise_decay
      optimizer: sgd
      data: digits
"""


def row(epoch: int, **other: Any) -> dict[str, Any]:
    """An epoch: val loss is best in epoch 2 and then rises."""
    train_eval, val = 1 / (epoch + 1), 0.5 + 0.1 * abs(epoch - 2)
    return {
        "epoch": epoch,
        "step": 10 * epoch,
        "train/loss": 1.1 / (epoch + 1),
        "train/accuracy": 0.5 + 0.1 * epoch,
        "train_eval/loss": train_eval,
        "train_eval/accuracy": 0.5 + 0.1 * epoch,
        "val/loss": val,
        "val/accuracy": 0.6 + 0.05 * epoch,
        "gap/loss": val - train_eval,
        "gap/loss_se": 0.05,
        "gap/accuracy": 0.02,
        "gap/accuracy_se": 0.01,
        "gap/loss_running": 0.1,
        "overfit/loss": 0.1 * max(0, epoch - 2),
        "overfit/loss_se": 0.02,
        "overfit/accuracy": 0.0,
        "overfit/accuracy_se": 0.005,
        **{f"lr/{group}": 0.1 if group == "head" else 0.05 * (epoch > 1) for group in GROUPS},
        **{f"update_ratio/{group}": 0.01 / epoch for group in GROUPS if epoch},
        **{f"drift/{group}": 0.1 * epoch for group in GROUPS},
        "grad_norm": 1.0,
        "perf/examples_per_s": 1000.0,
        "perf/epoch_s": 0.1,
        **other,
    }


def write_run(
    folder: Path,
    epochs: int = 4,
    status: str = "finished",
    name: str = "made_by_hand",
    rows: list[dict[str, Any]] | None = None,
    **summary: Any,
) -> Path:
    """Write config, plan, rows, summary, tables and what Hydra leaves; returns the folder."""
    rows = [row(epoch) for epoch in range(1, epochs + 1)] if rows is None else rows
    finite = [r for r in rows if isinstance(r["val/loss"], float) and math.isfinite(r["val/loss"])]
    best = min(finite, key=lambda r: r["val/loss"], default={})
    (folder / ".hydra").mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG.format(name=json.dumps(name)))
    (folder / "plan.csv").write_text(PLAN)
    (folder / ".hydra" / "hydra.yaml").write_text(HYDRA.format(cwd=folder.parent))
    (folder / ".hydra" / "overrides.yaml").write_text(
        "- lr_policy=layerwise_decay\n- lr_policy.decay=0.5\n- optimizer.lr=0.1\n"
    )
    (folder / "environment.json").write_text(
        json.dumps({"lrexp": "0.1.0", "commit": "abc", "device": "cpu", "packages": {"torch": "2"}})
    )
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in rows))
    steps = [f"{t},1.0,{'' if t < 10 else 0.05},0.1\n" for t in range(10 * epochs)]
    (folder / "schedule.csv").write_text("step,s,lr/conv,lr/head\n" + "".join(steps))
    (folder / "confusion.csv").write_text("split,true,cat,dog\nval,cat,7,1\nval,dog,2,9\n")
    (folder / "per_class.csv").write_text(
        "split,class,images,predicted,precision,recall,f1\n"
        "val,cat,8,9,0.78,0.875,0.82\nval,dog,11,10,0.9,0.82,0.86\n"
    )
    (folder / "lrexp.log").write_text("the last words\n")
    found = {
        "status": status,
        "run_id": "abcd1234",
        "name": name,
        "best": best,
        "last": rows[-1] if rows else {},
        "test": {"loss": 0.4, "accuracy": 0.75, "images": 300} if status == "finished" else {},
        "data": {"images": {"train": 80, "val": 19, "test": 300}},
        "leaks": None,
        "gap": {},
        "verdicts": [],
        "worst_classes": [],
        "timings": {"startup_s": 1.0, "train_s": 2.0, "total_s": 3.0},
        "parameters": {"total": 342, "trainable": 306},
        "frozen_proof": {"tensors": 1, "before": "a", "after": "a", "identical": True},
        "learning_proof": {
            "tensors": {"head.weight": "moved", "head.bias": "unused"},
            "reasons": {"head.bias": "unused in epoch 1: no gradient reaches it"},
            "not_judged": [],
        },
        "error": None,
        **summary,
    }
    (folder / "summary.json").write_text(json.dumps(found))
    return folder
