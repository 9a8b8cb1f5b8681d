"""Validation and test accuracy, gap and trained parameters over seeds, as a Markdown table.

    python scripts/finetune_table.py [OVERRIDE ...]             experiment=finetune_digits
    python scripts/finetune_table.py --default [OVERRIDE ...]   the default run

Every cell comes from real runs of the real command (in this process, to save imports), read back
from their run folders: mean ± standard deviation over seeds 0 to 4.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
from pathlib import Path

from lrexp.__main__ import main as lrexp

POLICIES = ("uniform", "layerwise_decay", "per_layer", "freeze_backbone")
SEEDS = range(5)
HEADINGS = ("val accuracy", "highest val accuracy", "test accuracy", "gap at best epoch", "trained")


def train(folder: Path, *overrides: str) -> dict[str, float]:
    """Run once; returns what the tables show."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = lrexp(["logger=none", f"hydra.run.dir={folder}", *overrides])
    if code:
        raise SystemExit(f"lrexp {' '.join(overrides)} ended with {code}\n{said.getvalue()}")
    summary = json.loads((folder / "summary.json").read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "val accuracy": 100 * summary["best"]["val/accuracy"],
        "highest val accuracy": 100 * max(row["val/accuracy"] for row in rows),
        "test accuracy": 100 * summary["test"]["accuracy"],
        "gap at best epoch": summary["gap"]["best"]["loss"],
        "trained": summary["parameters"]["trainable"],
    }


def cells(runs: list[dict[str, float]]) -> list[str]:
    """One row of the table: mean ± standard deviation over runs."""
    found = []
    for heading in HEADINGS:
        values = [run[heading] for run in runs]
        mean, std = statistics.mean(values), statistics.stdev(values)
        if heading == "trained":
            found.append(f"{mean:,.0f}")
        elif heading == "gap at best epoch":
            found.append(f"{mean:.3f} ± {std:.3f}")
        else:
            found.append(f"{mean:.1f} ± {std:.1f} %")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--default", action="store_true", help="the default run")
    args, overrides = parser.parse_known_args()
    rows = ["experiment=finetune_digits lr_policy=" + policy for policy in POLICIES]
    print(f"| {'run' if args.default else 'lr_policy'} | {' | '.join(HEADINGS)} |")
    print("|---" * (1 + len(HEADINGS)) + "|")
    with tempfile.TemporaryDirectory() as temporary:
        for i, row in enumerate([""] if args.default else rows):
            runs = [
                train(Path(temporary) / f"{i}_{seed}", *row.split(), f"seed={seed}", *overrides)
                for seed in SEEDS
            ]
            name = row.partition("lr_policy=")[2] or "default"
            print(f"| {name} | {' | '.join(cells(runs))} |", flush=True)


if __name__ == "__main__":
    main()
