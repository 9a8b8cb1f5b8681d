"""Proof that a change of the code changes no bit of any result.

    python scripts/bits.py record FILE [--code DIR]    what the checkout DIR (.) computes, as JSON
    python scripts/bits.py check FILE [--code DIR]     exit code 1 and a list of what differs

Both run `python -m lrexp` in a fresh folder with the checkout on PYTHONPATH and read what the runs
leave behind: old and new code need to share only the command line, the names of files and of a
checkpoint's `model`, `optimizer` and `step`. On one machine, with the same packages; needs Linux.

Of every run: each value of metrics.jsonl and summary.json but for times, and digests of the weights
and optimizer state in last.pt, the weights in best.pt, config.yaml and FILES; of every grid the
leaderboard. The runs: all policies × SGD, AdamW, Adafactor and the schedule-free ones on a network
with BatchNorm, every scheduler with a warmup, every other optimizer, losses, augmentation, sources,
clipping, patience, dropout; grids serially, in a pool and stacked; and runs that a signal stops
within an epoch and that go on: they must also end as those that nobody stopped.

What it cannot see: GPUs, more than one thread; large networks and data, pretrained weights, data
that have to be fetched, image folders, parquet; W&B, reports, what the terminal says; a resumed
sweep, what `auto` takes, a pack that memory splits; and whether the numbers are right.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from typing import Any

import torch
from PIL import Image

Run = dict[str, Any]  # where a value stands → the value, a number or a digest
Points = dict[str, dict[str, Any]]  # name of a point → its settings; a list as a value is nested

COMMON = """logger=none trainer.device=cpu trainer.threads=1 trainer.stats_every=2 data.workers=0
    data.limit=48 data.val_fraction=0.05 data.test_fraction=0.05"""
RESNET = "model=cifar_resnet trainer.epochs=3"  # has BatchNorm and eleven layers
POLICIES: Points = {
    **{name: {} for name in ("uniform", "layerwise_decay", "auto_rgn")},
    "per_layer": {"rules": "[{type: BatchNorm2d, lr: 0.002}, {match: conv1.*, frozen: true}]"},
    "discriminative": {"lr_low": 0.0005, "groups": 4},
    "ulmfit": {"ratio": 1.3},
    "freeze_backbone": {"unfreeze_last": 2, "train_norm": True},
    "gradual_unfreeze": {"every": 1, "groups": 3, "decay": 0.8},
    "lp_ft": {"head_epochs": 1, "finetune_scale": 0.5},
    "surgical": {"block": "layer2", "bn_stats": "follow"},
    "freezeout": {"t_0": 0.4},
    "bias_norm_only": {"train_head": False},
}
OPTIMIZERS: Points = {
    **{name: {} for name in ("adamw", "adafactor", "schedulefree_adamw")},
    "sgd": {"nesterov": True},
    "schedulefree_sgd": {"lr": 0.2},
}
FREE = ("schedulefree_sgd", "schedulefree_adamw")
# Those average from the first step, and these policies freeze layers for a time.
REFUSED = tuple(f"{name} schedulefree" for name in ("gradual_unfreeze", "lp_ft", "freezeout"))
PLATEAU = {"patience": 0, "threshold": 0.5, "factor": 0.3}
SCHEDULERS: Points = {
    **{name: {"warmup": 0.1} for name in ("one_cycle", "inverse_sqrt", "slanted_triangular")},
    **{name: {"warmup": "3 steps"} for name in ("constant", "polynomial", "cosine_restarts")},
    "linear": {"warmup": "2 steps", "floor": 0.1},
    "step": {"warmup": "1 epochs", "step_size": 1},
    "multistep": {"warmup": 0.1, "milestones": [[1, 3]]},
    "exponential": {"warmup": 0.1, "floor": 0.7},
    "cosine": {"warmup": 0.25, "floor": 0.01},
    "wsd": {"warmup": 0.1, "decay": 0.4},
    "plateau": {"warmup": 0.1, **PLATEAU},
    "torch": {"warmup": 0.1, "args": "{factor: 0.5, total_iters: 2}"},
}
LABELS = "/proc/self/cwd/labels.csv"  # the same in every fresh folder: configs hold it
OTHERS: Points = {
    **{name: {"optimizer": name} for name in ("adam", "rmsprop", "nadam", "radam", "adagrad")},
    **{name: {"optimizer": name} for name in ("muon", "lion", "lamb")},
    "Adamax": {"optimizer": "torch", "optimizer.name": "Adamax"},
    "adamp": {"optimizer": "timm", "optimizer.name": "adamp"},
    "adam one_cycle": {"optimizer": "adam", "scheduler": "one_cycle"},
    "clipping": {"trainer.clip_grad_norm": 0.3, "trainer.stats_every": 1},
    "patience": {"trainer.patience": 1, "trainer.monitor": "val/f1_macro", "trainer.epochs": 9},
    "max_steps": {"trainer.max_steps": 8, "scheduler": "cosine"},
    "evaluation alone": {"trainer.epochs": 0},
    "smoothing": {"loss.label_smoothing": 0.1, "data.augment": "basic"},
    "class weights": {"loss.class_weights": "balanced", "data.limit_per_class": 9},
    "trivial": {"data.augment": "trivial", "data": "synthetic", "data.train_size": 100},
    "streamed": {"data.in_memory": False, "data.workers": 1, "data.augment": "basic", "seed": 4},
    "image_size": {"data.image_size": 12, "data.normalize": "{mean: [0.4], std: [0.5]}"},
    "splits": {"data.seed": 5, "seed": 3, "loss.class_weights": [[1, 2, 3, 1, 2, 3, 1, 2, 3, 4]]},
    "dropout": {"model": "mlp", "model.dropout": 0.3, "model.widths": [[20, 10]]},
    "loaded": {"model.weights": "bundled:simple_cnn_digits_0_4", "data.classes": [[5, 6, 7, 8, 9]]},
    "labels": {
        "data": "csv", "data.path": LABELS, "data.multi_label": True, "loss": "bce",
        "data.group_by": "patient", "loss.pos_weight": "balanced", "data.val_fraction": 0.3,
    },
    "timm": {"model": "timm", "model.name": "test_efficientnet", "lr_policy": "layerwise_decay"},
    "torchvision": {"model": "mobilenet_v3_small", "lr_policy": "ulmfit", "trainer.epochs": 1},
}  # fmt: skip
PACKED: Points = {  # settings of their own in one pack
    "cosine": {"scheduler": "cosine", "scheduler.warmup": 0.2, "optimizer.weight_decay": 0.1},
    "one_cycle": {"scheduler": "one_cycle", "seed": 1},
    "plateau": {"scheduler": "plateau", **{f"scheduler.{k}": v for k, v in PLATEAU.items()}},
    "clipping": {"trainer.clip_grad_norm": 0.3, "optimizer.momentum": 0.5, "seed": 2},
    "patience": {"trainer.patience": 1, "optimizer.lr": 0.1},
    **{name: {"optimizer": name, "seed": 1} for name in ("rmsprop", "adam")},
}


def chosen(group: str, options: Points) -> Points:
    """Every option of a group with its settings."""
    return {
        name: {group: name} | {f"{group}.{key}": value for key, value in own.items()}
        for name, own in options.items()
    }


def with_policies(*optimizers: str, seeds: tuple[int, ...] = (0,)) -> Points:
    """Every policy with each of these optimizers."""
    given = {name: OPTIMIZERS[name] | {"weight_decay": 0.01} for name in optimizers}
    return {
        f"{policy} {optimizer} {seed}": one | other | {"seed": seed}
        for optimizer, one in chosen("optimizer", given).items()
        for policy, other in chosen("lr_policy", POLICIES).items()
        for seed in seeds
    }


# Grids: how they are run, what all their points share, and the points.
GRIDS: dict[str, tuple[str, str, Points]] = {
    "policies": ("serial", RESNET, with_policies("sgd", "adafactor", *FREE)),
    "schedulers": ("serial", "trainer.epochs=4 data.batch_size=4", chosen("scheduler", SCHEDULERS)),
    "others": ("serial", "trainer.epochs=2 data.batch_size=4", OTHERS),
    "pool": ("pool", f"{RESNET} hydra.launcher.workers=2", with_policies("adamw")),
    "stacked": ("stacked", RESNET, with_policies("sgd", "adamw", seeds=(0, 1)) | PACKED),
}
# Single runs, each once to its end and once stopped within an epoch.
STOPPED = {
    "gradual_unfreeze-adam": "model=cifar_resnet trainer.epochs=3 data.batch_size=2 optimizer=adam "
    "lr_policy=gradual_unfreeze lr_policy.every=1 lr_policy.groups=3 scheduler=plateau",
    "dropout-one_cycle": "model=mlp model.dropout=0.2 trainer.epochs=2 data.limit=400 "
    "data.batch_size=1 data.augment=basic scheduler=one_cycle",
}
FILES = ("plan.csv", "schedule.csv", "predictions.parquet", "per_class.csv", "confusion.csv")
OF_THE_MOMENT = ("run_id", "timings", "resumed")  # in summary.json, besides perf/*


def start(folder: Path, code: Path, command: str) -> Popen[str]:
    """A Python process in a folder that has a checkout on its path."""
    environment = os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, *command.split()]
    return Popen(words, cwd=folder, env=environment, text=True, stdout=PIPE, stderr=STDOUT)


def ended(process: Popen[str], allowed: int = 0) -> str:
    """What a process said; leaves when it did not end as it should."""
    said = process.communicate()[0]
    if process.returncode not in (0, allowed):
        raise SystemExit(f"{said}\n{process.args} ended with {process.returncode}")
    return said.strip()


def digest(value: Any) -> str:
    """Of tensors and numbers in any nest, to the bit, whatever the order of names."""
    parts = [repr(value)]
    if isinstance(value, torch.Tensor):
        parts = [str(value.dtype), str(tuple(value.shape)), value.numpy().tobytes().hex()]
    elif isinstance(value, dict):
        parts = [f"{key}: {digest(value[key])}" for key in sorted(value, key=str)]
    elif isinstance(value, (list, tuple)):
        parts = [digest(inner) for inner in value]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def flat(name: str, value: Any) -> Run:
    """Every value in a nest of JSON under its path, but for what depends on the clock."""
    if not isinstance(value, (dict, list)) or not value:
        return {name: value}
    found: Run = {}
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if not str(key).startswith("perf/"):
            found |= flat(f"{name} {key}", inner)
    return found


def read_run(folder: Path) -> Run:
    """All that a run left behind and that must be the same."""
    summary = json.loads((folder / "summary.json").read_text())
    said = flat("summary", {k: v for k, v in summary.items() if k not in OF_THE_MOMENT})
    if summary["status"] == "failed":
        return said
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = flat("row", rows) | said
    files = [folder / name for name in FILES if (folder / name).exists()]
    found |= {file.name: digest(file.read_bytes()) for file in files}
    config = (folder / "config.yaml").read_text().splitlines()
    found["config.yaml"] = digest([line for line in config if not line.startswith("run_id:")])
    for name, parts in (("last.pt", ("model", "optimizer")), ("best.pt", ("model",))):
        state = torch.load(folder / "checkpoints" / name, weights_only=True)
        found |= {f"{name} {part}": digest(state[part]) for part in parts}
    return found


def run_grid(temporary: Path, code: Path, grid: str) -> dict[str, Run]:
    """One sweep: its runs and its leaderboard."""
    executor, common, points = GRIDS[grid]
    (temporary / f"{grid}.yaml").write_text(json.dumps(points))  # JSON is YAML
    how = f"{common} hydra.launcher.executor={executor} hydra.sweep.dir={grid} cases={grid}.yaml"
    refused = {name for name in points if name.startswith(REFUSED)}
    said = ended(start(temporary, code, f"-m lrexp -m {COMMON} {how}"), allowed=bool(refused))
    table = (temporary / grid / "leaderboard.csv").read_text().splitlines()
    runs = {f"{grid}: leaderboard.csv": flat("line", list(csv.DictReader(table)))}
    for number, name in enumerate(points):
        run = read_run(next((temporary / grid).glob(f"{number}_*")))
        if (run["summary status"] == "failed") != (name in refused):
            raise SystemExit(f"{said}\n{grid}, {name}: {run['summary status']}")
        runs[f"{grid}: {name}"] = run
    return runs


def run_stopped(temporary: Path, code: Path, name: str) -> dict[str, Run]:
    """A run to its end, and the same one stopped by a signal within an epoch and gone on with."""
    given = f"-m lrexp {COMMON} {STOPPED[name]} trainer.checkpoint_every_steps=3"
    given += f" trainer.resume=auto hydra.run.dir={name}-"
    ended(start(temporary, code, f"{given}whole"))
    whole = read_run(temporary / f"{name}-whole")
    steps = whole["row 0 step"]  # per epoch
    for attempt in range(5):
        last = temporary / f"{name}-{attempt}" / "checkpoints" / "last.pt"
        process = start(temporary, code, f"{given}{attempt}")
        while process.poll() is None and not last.exists():
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
        ended(process, allowed=143)
        if process.returncode and torch.load(last, weights_only=True)["step"] % steps:
            ended(start(temporary, code, f"{given}{attempt}"))
            return {f"whole: {name}": whole, f"resumed: {name}": read_run(last.parent.parent)}
    raise SystemExit(f"{name}: in five attempts it was never stopped within an epoch")


def all_runs(code: Path) -> dict[str, Run]:
    """Everything that a checkout computes."""
    machine = {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}
    runs: dict[str, Run] = {"machine": machine}
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder)
        (temporary / "which.py").write_text("import lrexp; print(lrexp.__file__)")
        found = ended(start(temporary, code, "which.py"))
        if Path(found).parent.parent != code:
            raise SystemExit(f"{code} is no checkout of lrexp: {found} would be run")
        lines = ["path,label,patient"]
        for i in range(60):
            pixels = bytes((i * i + i * j * 7 + (j % 8) * 31) % 256 for j in range(64))
            Image.frombytes("L", (8, 8), pixels).save(temporary / f"{i}.png")
            lines += [f"{i}.png,{'|'.join('abc'[k] for k in range(3) if i >> k & 1)},{i // 3}"]
        (temporary / "labels.csv").write_text("\n".join(lines))
        for name in (*GRIDS, *STOPPED):
            runs |= (run_grid if name in GRIDS else run_stopped)(temporary, code, name)
            print(f"{name}: {len(runs)} results so far", flush=True)
    return runs


def differences(before: dict[str, Run], after: dict[str, Run], title: str = "") -> list[str]:
    """A line per run that is not the same, and below it the first values that are not."""
    lines = []
    for name in before | after:
        one, other = before.get(name, {}), after.get(name, {})
        keys = list(one | other)
        old, new = ([json.dumps(r[k]) if k in r else "-" for k in keys] for r in (one, other))
        found = [f"    {k}: {a} → {b}" for k, a, b in zip(keys, old, new, strict=True) if a != b]
        if found:
            lines += [f"{title}{name}: {len(found)} of {len(keys)} values differ", *found[:6]]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("verb", choices=("record", "check"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--code", type=Path, default=Path(), help="a checkout of lrexp")
    args = parser.parse_args()
    before = json.loads(args.file.read_text()) if args.verb == "check" else None
    runs = all_runs(args.code.resolve())
    whole, resumed = ({n: runs[f"{end}: {n}"] for n in STOPPED} for end in ("whole", "resumed"))
    lines = differences(whole, resumed, "resumed, against whole: ")
    if before is None:
        args.file.write_text(json.dumps(runs, indent=1))
    lines += differences(before or runs, runs)
    values, differ = sum(map(len, runs.values())), sum(line[0] != " " for line in lines)
    print(*lines, f"{len(runs)} results, {values} values: {differ} differ", sep="\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
