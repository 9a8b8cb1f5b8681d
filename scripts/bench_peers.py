"""The same job in Lightning, fastai, Hugging Face's Trainer, lrexp and PyTorch by hand.

    python scripts/bench_peers.py [--rounds 7] [--folder outputs/bench_peers] [--only bare lrexp]

SimpleCNN on the 1,079 training digits of lrexp's default split, batch 16, SGD 0.05 with momentum
0.9, 6 epochs, validation after each, on the CPU. The programs are in scripts/peers/, each library
in the set-up that its documentation begins with, its own checkpoints and logs on, but no logger
that needs a network or an account (lrexp: logger=none). lrexp also evaluates 359 training images
after every epoch and test images at the end, and writes its report.

The libraries are installed from PyPI into FOLDER/env, which sees the packages of the running Python
and keeps its torch; one that does not install with that torch is said to be missing. Rounds run all
programs, every second one backwards; printed are medians over rounds:

    s/epoch      between the first step of epoch 2 and that of the last one, per epoch
    first step   from the start of the process to the end of the first optimizer step
    process      from start to end; beside it the CPU seconds of it
    lines        neither blank nor comment nor docstring, in the user's program (what all share,
                 scripts/peers/job.py with data and network, is not counted; of lrexp, whose network
                 and data these are, it is the command)
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from bench_loop import trainer

from lrexp.folder.environment import environment

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "scripts" / "peers"
EPOCHS = 6  # as in scripts/peers/job.py
PROGRAMS = {  # name → its file, and the packages it needs
    "bare": ("bare.py", []),
    "lrexp": ("", []),
    "Lightning": ("with_lightning.py", ["lightning"]),
    "fastai": ("with_fastai.py", ["fastai"]),
    "HF Trainer": ("with_transformers.py", ["transformers", "accelerate"]),
}


@dataclass(frozen=True)
class Run:
    """What one process took, in seconds."""

    epoch_s: float
    first_step_s: float
    process_s: float
    cpu_s: float


def environment_of(folder: Path, names: list[str]) -> tuple[Path, dict[str, str]]:
    """A Python that has what the programs need, and by program why it is missing."""
    python = folder / "env" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True)
    inside = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = Path(subprocess.run(inside, check=True, capture_output=True, text=True).stdout.strip())
    shared = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), str(ROOT)}
    (own / "same_torch.pth").write_text("\n".join(sorted(shared)) + "\n")
    held = folder / "constraints.txt"
    held.write_text(f"torch=={importlib.metadata.version('torch')}\n")
    missing = {}
    for name in names:
        packages = PROGRAMS[name][1]
        if not packages:
            continue
        install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        done = subprocess.run(
            [*install, "-c", held, *packages], capture_output=True, text=True, check=False
        )
        if done.returncode:
            (folder / f"{name}.pip.txt").write_text(done.stderr)
            missing[name] = next(
                (line for line in done.stderr.splitlines() if line.startswith("ERROR")),
                "pip failed",
            )
    return python, missing


def tensors(folder: Path) -> Path:
    """A file with the splits of lrexp's default run, for all programs but lrexp."""
    data = trainer("trainer.device=cpu").experiment.dataset
    splits = {"train": data.train, "val": data.val}
    file = folder / "digits.pt"
    torch.save({name: (split.images, split.labels) for name, split in splits.items()}, file)
    return file


def command(name: str, data: Path, folder: Path) -> list[str]:
    """A program and its arguments."""
    if name != "lrexp":
        return [str(PEERS / PROGRAMS[name][0]), str(data), str(folder)]
    fixed = ["trainer.device=cpu", "logger=none", f"hydra.run.dir={folder / 'run'}"]
    return ["-m", "lrexp", f"trainer.epochs={EPOCHS}", *fixed]


def lines(name: str) -> int:
    """Lines of a program that are code."""
    if name == "lrexp":
        return 1
    text = (PEERS / PROGRAMS[name][0]).read_text()
    shown = (ast.get_docstring(ast.parse(text)) or "").count("\n") + 1
    rows = [row.strip() for row in text.splitlines()]
    return sum(bool(row) and not row.startswith("#") for row in rows) - shown


def run(python: Path, name: str, data: Path, folder: Path) -> Run:
    """One process, in a folder of its own."""
    folder.mkdir(parents=True)
    marks, log = folder / "marks.json", folder / "log.txt"
    asked = [str(python), str(PEERS / "timed.py"), str(marks), *command(name, data, folder)]
    with log.open("w") as said:
        started = time.time()
        process = subprocess.Popen(asked, cwd=folder, stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        ended = time.time()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{name} failed: {log}\n{log.read_text()[-2000:]}")
    ends = json.loads(marks.read_text())
    each = len(ends) // EPOCHS
    if not each or len(ends) != each * EPOCHS:
        raise SystemExit(f"{name} made {len(ends)} steps in {EPOCHS} epochs: {log}")
    epoch_s = (ends[each * (EPOCHS - 1)] - ends[each]) / (EPOCHS - 2)
    cpu_s = used.ru_utime + used.ru_stime
    return Run(epoch_s, ends[0] - started, ended - started, cpu_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "bench_peers")
    parser.add_argument("--only", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    args = parser.parse_args()
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    python, missing = environment_of(folder, args.only)
    data, names = tensors(folder), [name for name in args.only if name not in missing]
    facts = environment(torch.device("cpu"), torch.get_num_threads(), {})
    print(
        f"{facts['cpu']}, {facts['cpu_count']} cores, {facts['threads']} threads,"
        f" torch {torch.__version__}, {args.rounds} rounds, load {os.getloadavg()[0]:.1f}"
    )
    attempt = time.strftime("%Y-%m-%d_%H-%M-%S")
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for i in range(-1, args.rounds):  # the first round fills caches and is not counted
        for name in names[:: 1 if i % 2 else -1]:
            one = run(python, name, data, folder / attempt / f"{i + 1}_{name.replace(' ', '_')}")
            if i >= 0:
                runs[name].append(one)
    print(
        f"{'program':<12}{'version':<20}{'s/epoch':>9}{'× bare':>8}{'first step':>12}"
        f"{'process':>9}{'CPU s':>8}{'lines':>7}"
    )
    for name in args.only:
        if name in missing:
            print(f"{name:<12}does not install with torch {torch.__version__}: {missing[name]}")
            continue
        found = {
            key: statistics.median(getattr(one, key) for one in runs[name])
            for key in ("epoch_s", "first_step_s", "process_s", "cpu_s")
        }
        bare = [one.epoch_s for one in runs.get("bare", [])]
        ratios = [one.epoch_s / b for one, b in zip(runs[name], bare, strict=False)]
        over = f"{statistics.median(ratios):.2f}" if ratios else "-"
        print(
            f"{name:<12}{version(python, name):<20}{found['epoch_s']:>9.3f}{over:>8}"
            f"{found['first_step_s']:>12.2f}{found['process_s']:>9.2f}{found['cpu_s']:>8.2f}"
            f"{lines(name):>7}"
        )
    print(f"load at the end {os.getloadavg()[0]:.1f}; what they wrote: {folder / attempt}")


def version(python: Path, name: str) -> str:
    """Of the first package of a program, as its environment has it."""
    packages = PROGRAMS[name][1]
    if not packages:
        return ""
    asked = f"import importlib.metadata as m; print(m.version({packages[0]!r}))"
    done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
