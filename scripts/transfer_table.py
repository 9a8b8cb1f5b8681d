"""Fine-tuning on real images: accuracy over seeds 0 to 2, as a Markdown table.

    python scripts/transfer_table.py DATA [OVERRIDE ...]

DATA holds gtsrb32/, hymenoptera/, mnist/ and weights/. Every cell comes from real runs of the
presets (in this process, to save imports): mean ± standard deviation of the accuracy in per cent on
the test set (validation for hymenoptera, which has none).
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

SEEDS = range(3)
SIGNS = "experiment=traffic_signs data.path=DATA/gtsrb32"
RESNET20 = "model.weights=DATA/weights/resnet20-12fca82f.safetensors"
PHOTOS = "experiment=hymenoptera data.path=DATA/hymenoptera"
SQUEEZENET = "model.weights=DATA/weights/squeezenet1_1_tv_fp16.safetensors"
MNIST = "experiment=mnist_simple_cnn data.root=DATA/mnist data.download=false"
SLOW = "lr_policy=per_layer lr_policy.rules=[{layers:backbone,scale:0.02}]"
ROWS = {
    "traffic_signs, everything at 0.1": f"{SIGNS} {RESNET20}",
    "traffic_signs, backbone at 0.002": f"{SIGNS} {RESNET20} {SLOW}",
    "traffic_signs, from scratch": SIGNS,
    "mnist_simple_cnn": MNIST,
    "mnist_simple_cnn, momentum 0.9": f"{MNIST} optimizer.momentum=0.9",
    "hymenoptera, everything at 0.003": f"{PHOTOS} {SQUEEZENET}",
    "hymenoptera, freeze_backbone": f"{PHOTOS} {SQUEEZENET} lr_policy=freeze_backbone",
    "hymenoptera, from scratch": PHOTOS,
}


def train(folder: Path, overrides: list[str]) -> float:
    """Accuracy in per cent of one run."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = lrexp(["logger=none", f"hydra.run.dir={folder}", *overrides])
    if code:
        raise SystemExit(f"lrexp {' '.join(overrides)} ended with {code}\n{said.getvalue()}")
    summary = json.loads((folder / "summary.json").read_text())
    accuracy = summary["test"].get("accuracy", summary["best"]["val/accuracy"])
    return 100 * accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    args, overrides = parser.parse_known_args()
    print("| run | accuracy |\n|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for i, (name, row) in enumerate(ROWS.items()):
            given = row.replace("DATA", str(args.data)).split()
            accuracies = [
                train(Path(temporary) / f"{i}_{seed}", [*given, f"seed={seed}", *overrides])
                for seed in SEEDS
            ]
            mean, std = statistics.mean(accuracies), statistics.stdev(accuracies)
            print(f"| {name} | {mean:.1f} ± {std:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
