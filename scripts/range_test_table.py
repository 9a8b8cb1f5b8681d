"""How good are the rates that a range test suggests? Against a grid of rates, as Markdown tables.

    python scripts/range_test_table.py DATA [--out FOLDER] [--only NAME ...]

DATA holds gtsrb32/, mnist/ and weights/. For each of four tasks (in this process, to save imports):

- a grid of 12 rates, each trained with seeds 0 to 4: the best rate is the one with the highest
  mean test accuracy there;
- a range test with seeds 0 to 4 (`task=range_test`), and what it suggests;
- the best rate, each suggestion and the option's own default rate, trained with seeds 5 to 9.

Printed is the mean test accuracy over these other seeds, and of each suggestion how far it is below
the best rate's, in points, with the standard error over seeds. Within two points is a hit. What was
trained is kept in FOLDER (/tmp/range_test_table), so that the script goes on where it was stopped.
MNIST and the signs are reduced so that all of it takes about 15 minutes of one CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from lrexp.__main__ import main as lrexp

RATES = [float(f"{10 ** (-4 + 0.4 * i):.3g}") for i in range(12)]
CHOSEN, JUDGED = range(5), range(5, 10)  # seeds
HIT = 2.0  # points
TASKS = {
    "digits": "",
    "finetune_digits": "experiment=finetune_digits",
    "mnist, 1,000 images": (
        "experiment=mnist_simple_cnn data.root=DATA/mnist data.download=false data.limit=1000"
    ),
    "traffic signs, 250 images of 10 kinds": (
        "experiment=traffic_signs data.path=DATA/gtsrb32"
        " model.weights=DATA/weights/resnet20-12fca82f.safetensors"
        " data.classes=[0,1,2,3,4,5,6,7,8,9]"
        " data.limit=250 data.image_size=16 trainer.epochs=3"
    ),
}


def trained(out: Path, words: Sequence[str], rate: float, seeds: Sequence[int]) -> list[float]:
    """Test accuracy in per cent of a run per seed; NaN for a run that diverged at once."""
    return trained_all(out, words, [rate], seeds)[rate]


def trained_all(
    out: Path, words: Sequence[str], rates: Sequence[float], seeds: Sequence[int]
) -> dict[float, list[float]]:
    """By rate the test accuracies in per cent, one per seed; trained where they are not kept."""
    file = out / "accuracies.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    todo = [rate for rate in rates if any(f"{rate:g} {seed}" not in kept for seed in seeds)]
    if todo:
        grid = f"optimizer.lr={','.join(f'{rate:g}' for rate in todo)}"
        folder = out / f"grid_{len(list(out.glob('grid_*')))}"
        command(["-m", *words, grid, f"seed={','.join(map(str, seeds))}",
                 f"hydra.sweep.dir={folder}"])  # fmt: skip
        for summary in folder.glob("*/summary.json"):
            found = json.loads(summary.read_text())
            rate = json.loads((summary.parent / "config.json").read_text()) if False else None
            words_of = (summary.parent / ".hydra" / "overrides.yaml").read_text().split()
            rate = next(
                float(w.partition("=")[2]) for w in words_of if w.startswith("optimizer.lr=")
            )
            accuracy = found["test"].get("accuracy", 0.0)  # of no use at all: it diverged at once
            kept[f"{rate:g} {found['seed']}"] = 100 * accuracy
        file.write_text(json.dumps(kept))
    return {rate: [kept[f"{rate:g} {seed}"] for seed in seeds] for rate in rates}


def suggested(out: Path, words: Sequence[str]) -> dict[str, dict[str, float]]:
    """What the range test suggests, by rule: rate, low and high over seeds."""
    folder = out / "range_test"
    if not (folder / "summary.json").exists():
        command(
            [*words, "task=range_test", f"task.repeats={len(CHOSEN)}", f"hydra.run.dir={folder}"]
        )
    made = json.loads((folder / "summary.json").read_text())["range_test"]["suggestions"]
    return {one["rule"]: one for one in made}


def command(words: Sequence[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = lrexp([*words, "logger=none"])
    if code:
        raise SystemExit(f"lrexp {' '.join(words)} ended with {code}\n{said.getvalue()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("/tmp/range_test_table"))
    parser.add_argument("--only", nargs="*", help="names of tasks, or their beginnings")
    parser.add_argument("--grid-only", action="store_true")
    args = parser.parse_args()
    for name, task in TASKS.items():
        if args.only and not name.startswith(tuple(args.only)):
            continue
        out = args.out / name.partition(",")[0].replace(" ", "_")
        out.mkdir(parents=True, exist_ok=True)
        words = task.replace("DATA", str(args.data.resolve())).split()
        grid = trained_all(out, words, RATES, CHOSEN)
        means = {rate: statistics.mean(values) for rate, values in grid.items()}
        print(name, {f"{r:g}": round(m, 1) for r, m in means.items()}, flush=True)


if __name__ == "__main__":
    main()
