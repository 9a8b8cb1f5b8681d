"""Does task=layer_test find the layer that has to learn, where that is known? As a Markdown table.

    python scripts/layer_test_table.py [DATA] [--out FOLDER]

Truth is planted. Of the network that knows the digits 0-4 one layer is drawn anew, and it learns
5-9 (experiment=finetune_digits): that layer should be worst to freeze, more so than where nothing
was drawn anew. With DATA, which holds cifar10_10k/ and weights/, a ResNet-20 that knows CIFAR-10
meets noisy images (scripts/make_shifted.py): its first layers should want to move (Lee et al. 2022,
https://arxiv.org/abs/2210.11466). About 8 CPU-minutes; a folder given with --out goes on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lrexp.__main__ import main as lrexp
from lrexp.folder.layout import LAYER_TEST
from lrexp.judge.layer_test import Change, LayerTest, factor_words
from lrexp.report.layer_test.files import read_layer_test

BUNDLED = "lrexp/models/bundled/simple_cnn_digits_0_4.safetensors"
DIGITS = "experiment=finetune_digits"
# fresh seeds, three times the images, freezing alone: what the tests above say would tell
MORE = f"{DIGITS} seed=100 data.val_fraction=0.6 data.test_fraction=0.1 task.factors=[0]"
CIFAR = (
    "experiment=cifar_shifted data.path={shifted}/cifar_noise"
    " model.weights={data}/weights/resnet20-12fca82f.safetensors"
    " trainer.epochs=1 trainer.train_eval_limit=50 hydra.launcher.executor=serial"
    " task.layers_at_most=4 task.repeats=4 task.factors=[0]"
)


@dataclass(frozen=True)
class Problem:
    """A run whose answer is known."""

    name: str
    words: str
    truth: str  # the layer that has to learn; empty: none more than the others
    anew: str = ""  # layer of the bundled network that is drawn anew


PROBLEMS = (
    Problem("digits, nothing drawn anew", DIGITS, ""),
    Problem("digits, conv drawn anew", DIGITS, "conv", "conv"),
    Problem("digits, hidden drawn anew", DIGITS, "hidden", "hidden"),
    Problem("digits, conv drawn anew, more images", MORE, "conv", "conv"),
    Problem("digits, hidden drawn anew, more images", MORE, "hidden", "hidden"),
    Problem("noisy CIFAR-10, ResNet-20", CIFAR, "conv1 to layer1.2"),
)


def drawn_anew(layer: str, file: Path) -> None:
    """Write the bundled weights with one layer as torch draws it."""
    import torch
    from safetensors.torch import load_file, save_file

    from lrexp.models.simple_cnn import SimpleCNN

    tensors = load_file(Path(__file__).parent.parent / BUNDLED)
    classes = len(tensors["head.bias"])
    torch.manual_seed(0)
    channels, _, kernel, _ = tensors["conv.weight"].shape
    fresh = SimpleCNN((1, 8, 8), classes, channels, kernel, len(tensors["hidden.bias"]))
    tensors |= {k: v for k, v in fresh.state_dict().items() if k.startswith(f"{layer}.")}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def tested(problem: Problem, out: Path, data: Path | None) -> LayerTest:
    """What task=layer_test says of a problem; read where it is done."""
    folder = out / problem.name.replace(",", "").replace(" ", "_")
    if (folder / LAYER_TEST).is_file():
        return read_layer_test(folder)
    shifted = out / "shifted"
    words = problem.words.format(data=data, shifted=shifted).split()
    if "{shifted}" in problem.words and data is not None:
        from make_shifted import make

        make(data, shifted)
    if problem.anew:
        file = out / f"{problem.anew}_anew.safetensors"
        drawn_anew(problem.anew, file)
        words.append(f"model.weights={file}")
    how = ["task=layer_test", "task.check=false", "trainer.resume=auto", f"hydra.run.dir={folder}"]
    if code := lrexp([*how, *words]):
        raise SystemExit(f"lrexp {' '.join(words)} ended with {code}")
    return read_layer_test(folder)


def cell(one: Change | None) -> str:
    """The change of validation loss, in bold where it is told from zero."""
    if one is None:
        return ""
    if one.word in ("diverges", "not measured"):
        return one.word
    said = f"{one.loss:+.3f} ± {one.loss_se:.3f}".replace("-", "−")
    return f"**{said}**" if one.word in ("helps", "hurts") else said


def rows(problem: Problem, found: LayerTest, factors: list[float]) -> list[str]:
    """A line of the table per layer."""
    lines = []
    for place, part in enumerate(found.parts):
        by_factor = {one.factor: one for one in found.of_part(place)}
        cells = [cell(by_factor.get(factor)) for factor in factors]
        true = "has to learn" if part.name == problem.truth else ""
        first = problem.name if not place else ""
        lines.append(f"| {first} | {part.name} | {true} | {' | '.join(cells)} |")
    return lines


def summary(problem: Problem, found: LayerTest) -> str:
    """Whether the layer that has to learn is the worst to freeze, and told from zero."""
    frozen = [one for one in found.changes if one.factor == 0 and one.word != "not measured"]
    worst = max(frozen, key=lambda one: one.loss if one.word != "diverges" else float("inf"))
    told = "told from zero" if worst.word in ("hurts", "diverges") else "within noise"
    said = f"{problem.name}: worst to freeze is {found.parts[worst.part].name}, {told}"
    return f"{said} (planted: {problem.truth or 'none'})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        asked = [p for p in PROBLEMS if args.data is not None or "{data}" not in p.words]
        found = {problem: tested(problem, out.resolve(), args.data) for problem in asked}
    factors = sorted({one.factor for test in found.values() for one in test.changes})
    heads = ["problem", "layer", "truth", *map(factor_words, factors)]
    print(f"\n| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for problem, test in found.items():
        print("\n".join(rows(problem, test, factors)))
    print()
    for problem, test in found.items():
        print(summary(problem, test))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
