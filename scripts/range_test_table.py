"""How good are the rates that a range test suggests? Against a grid of rates, as Markdown tables.

    python scripts/range_test_table.py DATA [--out FOLDER] [--only NAME ...]

DATA holds gtsrb32/, mnist/ and weights/. For each of four tasks (in this process, to save imports):

- a grid of 12 rates, each trained with seeds 0 to 4: the best rate is the one with the highest
  mean test accuracy there;
- a range test with seeds 0 to 4 (`task=range_test`), and what it suggests;
- the best rate, each suggestion and the option's own default rate, trained with seeds 5 to 9.

Printed is the mean test accuracy over these other seeds, and of each suggestion how far it is below
the best rate's, in points, with the standard error over seeds. Within two points is a hit. What was
trained is kept in FOLDER (outputs/range_test), so that the script goes on where it was stopped.
MNIST and the signs are reduced so that all of it takes about 15 minutes of one CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from lrexp.__main__ import main as lrexp

RATES = [float(f"{10 ** (-4 + 0.4 * i):.3g}") for i in range(12)]
CHOSEN, JUDGED = range(5), range(5, 10)  # seeds
HIT = 2.0  # points
AT_A_TIME = 3  # rates that are trained before what came out is kept
PARTS = ("rate", "low", "high")
TASKS = {
    "digits": "",
    "finetune_digits": "experiment=finetune_digits",
    "mnist, 2,000 images": (
        "experiment=mnist_simple_cnn data.root=DATA/mnist data.download=false data.limit=2000"
        " data.batch_size=32"
    ),
    "traffic signs, 200 images of 10 kinds": (
        "experiment=traffic_signs data.path=DATA/gtsrb32"
        " model.weights=DATA/weights/resnet20-12fca82f.safetensors"
        " data.classes=[2,11,12,13,14,17,18,25,35,38] data.limit=200 data.image_size=12"
        " data.batch_size=8 data.val_fraction=0.03 trainer.train_eval_limit=50 trainer.epochs=3"
    ),
}


def trained(
    out: Path, words: Sequence[str], rates: Sequence[float], seeds: Sequence[int]
) -> dict[float, list[float]]:
    """By rate the test accuracies in per cent, one per seed; trained where they are not kept."""
    file = out / "accuracies.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    left = [rate for rate in rates if any(f"{rate:g} {seed}" not in kept for seed in seeds)]
    for todo in (left[i : i + AT_A_TIME] for i in range(0, len(left), AT_A_TIME)):
        grid = f"optimizer.lr={','.join(f'{rate:g}' for rate in todo)}"
        folder = out / f"grid_{len(list(out.glob('grid_*')))}"
        where = [f"seed={','.join(map(str, seeds))}", f"hydra.sweep.dir={folder}"]
        command(["-m", *words, grid, *where])
        for file_of_run in folder.glob("*/summary.json"):
            summary = json.loads(file_of_run.read_text())
            typed = (file_of_run.parent / ".hydra" / "overrides.yaml").read_text()
            (rate,) = re.findall(r"optimizer\.lr=(\S+)", typed)
            accuracy = summary["test"].get("accuracy", 0.0)  # none: it diverged in its first epoch
            kept[f"{float(rate):g} {summary['seed']}"] = 100 * accuracy
        file.write_text(json.dumps(kept))
    return {rate: [kept[f"{rate:g} {seed}"] for seed in seeds] for rate in rates}


def suggested(out: Path, words: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """What the range test suggests, by rule: rate, and the lowest and highest over seeds."""
    folder = out / "range_test"
    if not (folder / "summary.json").exists():
        test = ["task=range_test", f"task.repeats={len(CHOSEN)}", f"hydra.run.dir={folder}"]
        command([*words, *test])
    made = json.loads((folder / "summary.json").read_text())["range_test"]["suggestions"]
    return {one["rule"]: tuple(float(f"{one[k]:.2g}") for k in PARTS) for one in made}  # type: ignore


def default_rate(out: Path) -> float:
    """optimizer.lr of the task as it is, which the range test's config has."""
    saved = (out / "range_test" / "config.yaml").read_text()
    return float(re.findall(r"^optimizer:\n(?:  .*\n)*?  lr: (\S+)", saved, re.MULTILINE)[0])


def command(words: Sequence[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = lrexp([*words, "logger=none"])
    if code:
        raise SystemExit(f"lrexp {' '.join(words)} ended with {code}\n{said.getvalue()}")


def below(best: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """How far the mean is below the best rate's, in points, and the error of that over seeds."""
    lost = [b - o for b, o in zip(best, other, strict=True)]
    return statistics.mean(lost), statistics.stdev(lost) / len(lost) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("outputs/range_test"))
    parser.add_argument("--only", nargs="*", help="names of tasks, or their beginnings")
    args = parser.parse_args()
    hits: dict[str, list[bool]] = {}
    print("| task | rate from | rate (over seeds) | accuracy | below the best |")
    print("|---|---|---|---|---|")
    for name, task in TASKS.items():
        if args.only and not name.startswith(tuple(args.only)):
            continue
        out = args.out / name.partition(",")[0].replace(" ", "_")
        out.mkdir(parents=True, exist_ok=True)
        words = task.replace("DATA", str(args.data.resolve())).split()
        grid = trained(out, words, RATES, CHOSEN)
        best = max(RATES, key=lambda rate: statistics.mean(grid[rate]))
        rules = suggested(out, words)
        rows = {
            "grid, the best of 12": (best,),
            "the option's default": (default_rate(out),),
        } | rules
        found = trained(out, words, sorted({rate for rate, *_ in rows.values()}), JUDGED)
        for rule, (rate, *ends) in rows.items():
            lost, error = below(found[best], found[rate])
            spread = f" ({ends[0]:g} to {ends[1]:g})" if ends else ""
            mean = statistics.mean(found[rate])
            gap, mark = f"{lost:.1f} ± {error:.1f}", ""
            if rule != "grid, the best of 12":
                hits.setdefault(rule, []).append(lost <= HIT)
                mark = "" if lost <= HIT else " **miss**"
            else:
                gap = "–"
            print(
                f"| {name} | {rule} | {rate:g}{spread} | {mean:.1f} % | {gap}{mark} |", flush=True
            )
    print("\n| rate from | hits |\n|---|---|")
    for rule, ones in hits.items():
        print(f"| {rule} | {sum(ones)} of {len(ones)} |")


if __name__ == "__main__":
    main()
