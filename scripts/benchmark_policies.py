"""Which learning-rate policy, on five problems, and what of published claims comes out again.

    python scripts/benchmark_policies.py DATA [--out FOLDER] [--only PROBLEM] [--quick]

Every problem is one `lrexp which`: policies with equal tuning, their best trained again on fresh
seeds and compared with one rate for all (uniform) on test images. It is resumable: what FOLDER
holds is not run again, and what was stopped goes on. DATA holds cifar10_10k/, gtsrb32/,
hymenoptera/ and weights/ (scripts/make_shifted.py is run first). `--only` names a problem,
`--quick` tries whether everything works: few policies, two epochs, no result.

It prints Markdown: the command of every problem, test scores, and of every claim whether it was
*reproduced*, *not reproduced*, or is *undecided* here. Networks and data are smaller than those
that the claims were made with: not reproduced here does not mean wrong there.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from make_shifted import make

from lrexp.folder.layout import COMPARISON, PROTOCOL
from lrexp.judge.conclusion import Conclusion, Row
from lrexp.report.comparison.files import read_conclusion

HERE = Path(__file__).resolve().parent
MARGIN = 0.02
PLAIN = ("uniform", "layerwise_decay", "discriminative", "freeze_backbone", "lp_ft")
PLAIN += ("gradual_unfreeze", "auto_rgn", "bias_norm_only")
BLOCKS = ("first_block", "last_block")  # surgical on ResNet-20, see scripts/benchmark/
RESNET20 = "model.weights=DATA/weights/resnet20-12fca82f.safetensors"
SQUEEZENET = "model.weights=DATA/weights/squeezenet1_1_tv_fp16.safetensors"
Expected = Literal["better", "worse", "no worse"]
Outcome = Literal["reproduced", "not reproduced", "undecided", "not run"]


@dataclass(frozen=True)
class Problem:
    """What policies are compared on."""

    title: str
    overrides: str  # DATA and OUT stand for folders
    policies: tuple[str, ...]
    budget: str = ""  # of lrexp which, in runs: minutes would let the machine decide; empty: all


@dataclass(frozen=True)
class Claim:
    """What somebody has found a policy to be, compared with one rate for all layers."""

    problem: str
    policy: str
    expected: Expected
    source: str


PROBLEMS = {
    "digits": Problem(
        "digits 5-9 from 100 images, SimpleCNN that knows 0-4",
        "experiment=finetune_digits",
        (*PLAIN, "surgical"),
    ),
    "signs": Problem(
        "traffic signs split by track, ResNet-20 that knows CIFAR-10",
        f"experiment=traffic_signs data.path=DATA/gtsrb32 {RESNET20} data.limit=300"
        " data.val_fraction=0.05 trainer.epochs=5 trainer.train_eval_limit=100",
        (*PLAIN, "surgical"),
        "150",
    ),
    "noise": Problem(
        "CIFAR-10 with noise on its images, ResNet-20 that knows it",
        f"experiment=cifar_shifted data.path=OUT/shifted/cifar_noise {RESNET20}"
        " data.limit=200 trainer.epochs=4 trainer.train_eval_limit=100",
        (*PLAIN, *BLOCKS),
        "150",
    ),
    "flipped": Problem(
        "CIFAR-10 with class c called 9 - c, ResNet-20 that knows it",
        f"experiment=cifar_shifted data.path=OUT/shifted/cifar_flipped {RESNET20}"
        " data.limit=200 trainer.epochs=4 trainer.train_eval_limit=100",
        (*PLAIN, *BLOCKS),
        "150",
    ),
    "ants": Problem(
        "ants or bees, SqueezeNet that knows ImageNet",
        f"experiment=hymenoptera data.path=OUT/shifted/hymenoptera {SQUEEZENET}"
        " data.val_fraction=0.2 data.image_size=96 trainer.epochs=5",
        (*PLAIN, "surgical"),
        "150",
    ),
}
YOSINSKI = "Yosinski et al. 2014, https://arxiv.org/abs/1411.1792"
KUMAR = "Kumar et al. 2022, https://arxiv.org/abs/2202.10054"
ULMFIT = "Howard and Ruder 2018, https://arxiv.org/abs/1801.06146"
LEE = "Lee et al. 2022, https://arxiv.org/abs/2210.11466"
BITFIT = "Ben Zaken et al. 2022, https://arxiv.org/abs/2106.10199"
TRANSFER = ("digits", "signs", "ants")  # to other classes
CLAIMS = [
    *(Claim(one, "freeze_backbone", "worse", YOSINSKI) for one in TRANSFER),
    *(Claim(one, "lp_ft", "better", KUMAR) for one in TRANSFER),
    *(Claim(one, "discriminative", "better", ULMFIT) for one in TRANSFER),
    *(Claim(one, "gradual_unfreeze", "better", ULMFIT) for one in TRANSFER),
    Claim("ants", "bias_norm_only", "no worse", BITFIT),
    Claim("noise", "first_block", "better", LEE),
    Claim("noise", "freeze_backbone", "worse", LEE),
    Claim("noise", "auto_rgn", "better", LEE),
    Claim("flipped", "first_block", "worse", LEE),
    Claim("flipped", "freeze_backbone", "better", LEE),
    Claim("flipped", "auto_rgn", "better", LEE),
]


def outcome(claim: Claim, conclusion: Conclusion | None) -> Outcome:
    """What became of a claim.

    `no difference` answers *better* and *worse* with no, and *no worse* with yes.
    """
    row = row_of(conclusion, claim.policy)
    if row is None or row.compared is None:
        return "not run"
    word = row.compared.word
    if word == "undecided":
        return "undecided"
    met = word != "worse" if claim.expected == "no worse" else word == claim.expected
    return "reproduced" if met else "not reproduced"


def row_of(conclusion: Conclusion | None, policy: str) -> Row | None:
    """A policy's row, where it was compared."""
    rows = conclusion.rows if conclusion else ()
    return next((row for row in rows if row.name == policy), None)


def command(name: str, data: Path, out: Path, quick: bool) -> list[str]:
    """The words of `lrexp which` for a problem that has not begun."""
    problem, where = PROBLEMS[name], {"DATA": data, "OUT": out}
    policies, more = problem.policies, [f"--budget={problem.budget}"] * bool(problem.budget)
    overrides = problem.overrides.split()
    if quick:
        claimed = [claim.policy for claim in CLAIMS if claim.problem == name]
        policies = ("uniform", *dict.fromkeys(claimed[:2]))
        more = [f"--budget={8 * len(policies)}"]  # the least there is
        overrides = [*(o for o in overrides if "epochs" not in o), "trainer.epochs=2"]
    for word, folder in where.items():
        overrides = [override.replace(f"={word}/", f"={folder}/") for override in overrides]
    return [
        *("which", *overrides, "logger=none", "trainer.threads=1", f"hydra.run.dir={out / name}"),
        *("--policies", ",".join(policies), "--margin", str(MARGIN), *more),
        *("--config-dir", os.path.relpath(HERE / "benchmark")),
    ]


def concluded(folder: Path) -> Conclusion | None:
    """What a problem came to so far."""
    return read_conclusion(folder) if (folder / COMPARISON).is_file() else None


def run(name: str, data: Path, out: Path, quick: bool) -> None:
    """Bring a problem to its end, from wherever it is."""
    folder = out / name
    found = concluded(folder)
    if found and found.finished:
        return
    words = command(name, data, out, quick)
    if (folder / PROTOCOL).is_file():
        words = ["which", "--resume", str(folder)]
    code = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "lrexp", *words], env=os.environ | {"PYTHONPATH": code}
    )
    if done.returncode:
        raise SystemExit(f"lrexp {shlex.join(words)} ended with {done.returncode}")


def tables(found: Mapping[str, Conclusion], quick: bool) -> list[str]:
    """Everything as Markdown."""
    lines = [f"{datetime.date.today()}, {machine()}" + ", a trial run: no result" * quick, ""]
    data, out = Path("DATA"), Path("FOLDER")
    for name, one in found.items():
        said = ", ".join(f"{what} {value}" for what, value in one.cost)
        left = "" if one.finished else "; not finished"
        lines.append(f"- {name}: {PROBLEMS[name].title}; {said}{left}.")
        lines.append(f"  {one.sentence}")
        lines.append(f"  `python scripts/benchmark_policies.py DATA --only {name}` runs")
        lines.append(f"  `lrexp {shlex.join(command(name, data, out, quick))}`")
    metrics = [f"{name} ({one.metric.replace('_', ' ')})" for name, one in found.items()]
    lines += ["", f"| policy | {' | '.join(metrics)} |", "|---" * (1 + len(found)) + "|"]
    policies = dict.fromkeys(name for one in found for name in PROBLEMS[one].policies)
    for policy in policies:
        cells = [cell(row_of(one, policy)) for one in found.values()]
        if any(cells):
            lines.append(f"| {policy} | {' | '.join(cells)} |")
    lines += ["", "| problem | claim | here | difference from uniform | source |", "|---" * 5 + "|"]
    for claim in CLAIMS:
        if claim.problem in found:
            one = found[claim.problem]
            stands = f"{claim.policy} is {claim.expected} than uniform"
            measured = difference(row_of(one, claim.policy))
            cells = [claim.problem, stands, f"*{outcome(claim, one)}*", measured, claim.source]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def cell(row: Row | None) -> str:
    """Test score with its standard error over seeds, and the verdict."""
    if row is None:
        return ""
    score = f"{100 * row.score.mean:.1f} ± {100 * row.score.se:.1f} %"
    word = row.compared.word if row.compared else "baseline" if row.baseline else ""
    edge = f"best at its {row.edge} rate" if row.edge in ("lower", "upper") else ""
    return ", ".join(filter(None, (score, word, edge, row.ended)))


def difference(row: Row | None) -> str:
    """In points, with its interval."""
    if row is None or row.compared is None:
        return ""
    low, high = row.compared.interval
    mean = row.compared.difference.mean
    return f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def machine() -> str:
    """Processor, cores and torch."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{models[0] if models else platform.machine()}, {cores} cores, torch {torch.__version__}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark"))
    parser.add_argument("--only", choices=PROBLEMS, action="append", help="again for several")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args(argv)
    data, out = asked.data.resolve(), asked.out.resolve()
    if asked.quick:
        out = out.with_name(f"{out.name}-quick")
    make(data, out / "shifted")
    for name in asked.only or PROBLEMS:
        run(name, data, out, asked.quick)
    every = {name: concluded(out / name) for name in PROBLEMS}  # those of other times as well
    found = {name: one for name, one in every.items() if one}
    print("\n".join(tables(found, asked.quick)))


if __name__ == "__main__":
    main()
