"""What a step of a frozen backbone costs over a step that trains everything.

    python scripts/bench_frozen.py [--repetitions 9] [--size 128] [--batch 16]

torchvision's ResNet-18 (random weights, 10 classes) on random images, SGD with momentum: forward,
loss, backward, step under lr_policy=uniform and lr_policy=freeze_backbone. Each repetition runs the
two forth and back (ABBA), so that a machine that slows down or speeds up favours none; the ratio is
taken within a repetition, and medians over repetitions are printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18

from lrexp.folder.environment import environment
from lrexp.models.layers import layer_map
from lrexp.optim.groups import param_groups, set_rates, set_trainable
from lrexp.plan.plan import Plan
from lrexp.plan.policies.freezing import freeze_backbone
from lrexp.plan.policies.scaling import uniform


def stepper(policy: Callable[..., Plan], images: torch.Tensor) -> Callable[[], None]:
    """A function that makes one training step under a policy."""
    torch.manual_seed(0)
    model = resnet18(num_classes=10)
    plan = policy(layer_map(model, "fc"), 0.01, 1e-4, decay_bias_norm=False)
    optimizer = torch.optim.SGD(param_groups(model, plan, 0.01), momentum=0.9)
    labels = torch.arange(len(images)) % 10  # (B,)
    set_trainable(model, plan, finished_epochs=0)
    model.train()

    def step() -> None:
        set_rates(optimizer, 0.01, 1.0)
        loss = cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--size", type=int, default=128, help="height and width of the images")
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    images = torch.randn(args.batch, 3, args.size, args.size)
    steps = {"all": stepper(uniform, images), "frozen": stepper(freeze_backbone, images)}
    measured: list[dict[str, float]] = []
    for _ in range(1 + args.repetitions):
        spent = dict.fromkeys(steps, 0.0)
        for name in ("all", "frozen", "frozen", "all"):
            started = time.perf_counter()
            steps[name]()
            spent[name] += (time.perf_counter() - started) / 2
        measured.append(spent)
    measured = measured[1:]  # the first is warm-up

    facts = environment(torch.device("cpu"), torch.get_num_threads(), {})
    print(f"{facts['cpu']}, {facts['threads']} threads, torch {torch.__version__}, cpu")
    print(f"{args.repetitions} repetitions, batch {args.batch}, {args.size}x{args.size}")
    for name in steps:
        median = statistics.median(spent[name] for spent in measured)
        print(f"{name:<8}{1e3 * median:>9.1f} ms/step")
    ratios = [spent["frozen"] / spent["all"] for spent in measured]
    print(
        f"frozen / all  {statistics.median(ratios):.3f}  ({min(ratios):.3f} to {max(ratios):.3f})"
    )


if __name__ == "__main__":
    main()
