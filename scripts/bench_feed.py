"""What feeding costs: from memory and streamed, beside a torchvision + DataLoader loop.

    LREXP_TEST_DATA=FOLDER python scripts/bench_feed.py [--repetitions 3]

FOLDER holds mnist/, cifar10_10k/ and hymenoptera/; images of data=synthetic stand in for what is
not there. `memory`, `stream 0` and `stream 2` are ours, the latter with that many workers;
`torchvision 2` is PIL images, torchvision's transforms on each, and a DataLoader of 2 persistent
workers; `tensors` gathers batches of images that were normalised beforehand, as a loop by hand
would. The first table is an epoch with forward, loss, backward and SGD step, one model and batch
size for all; the second is feeding alone. Loops take turns, forth and back by turns, after an epoch
of feeding each that is not timed (workers start in it); medians over repetitions are printed. Where
others use the machine set OMP_NUM_THREADS=1: two threads that wait for a busy core distort it all.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_loop import compose
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from lrexp.build.data import build_dataset, open_source, stated_data
from lrexp.build.model import build_model
from lrexp.data.draws import cut
from lrexp.data.source import EncodedImages, Source
from lrexp.folder.environment import environment

ROOT = Path(os.environ.get("LREXP_TEST_DATA", "/nowhere"))
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DATA = {  # data → shape, images without the folder, folder, overrides with it
    "MNIST": ([1, 28, 28], 70000, "mnist", ["data=mnist", "data.root={}"]),
    "CIFAR-10": ([3, 32, 32], 11000, "cifar10_10k", ["data=hf", "data.path={}"]),
    "photos": ([3, 160, 160], 400, "hymenoptera", ["data=hf", "data.path={}"]),
}
Feed = Callable[[int], Iterator[tuple[Tensor, Tensor]]]  # epoch → batches


class Pictures:
    """Images as torchvision's datasets give them: PIL, and a transform of each."""

    def __init__(self, source: Source, ids: np.ndarray, transform: Callable[..., Tensor]):
        self.source, self.ids, self.transform = source, ids, transform

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        i, images = int(self.ids[row]), self.source.images
        if isinstance(images, np.ndarray):
            picture = Image.fromarray(images[i, 0] if len(images[i]) == 1 else images[i].T)
        else:
            assert isinstance(images, EncodedImages)
            file = images.encoded(i)
            assert isinstance(file, bytes | str)
            picture = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
        mode = "L" if self.source.channels == 1 else "RGB"
        return self.transform(picture.convert(mode)), int(self.source.labels[i])


def torchvision_loop(
    source: Source, ids: np.ndarray, augment: str, mean: list, std: list, batch: int, side: int
) -> Feed:
    """The loop of torchvision's tutorials."""
    fitted = [] if isinstance(source.images, np.ndarray) else [v2.Resize(side), v2.CenterCrop(side)]
    cropped = [v2.RandomCrop(side, padding=side // 8), v2.RandomHorizontalFlip()]
    changed = {"none": [], "basic": cropped, "trivial": [*cropped, v2.TrivialAugmentWide()]}
    tensor = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    pictures: Any = Pictures(source, ids, v2.Compose([*fitted, *changed[augment], *tensor]))
    pinned = DEVICE.type == "cuda"
    loader = DataLoader(
        pictures, batch, shuffle=True, num_workers=2, persistent_workers=True, pin_memory=pinned
    )

    def epoch(_: int) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in loader:
            yield images.to(DEVICE, non_blocking=True), labels.to(DEVICE, non_blocking=True)

    return epoch


def feeds(data: str, augment: str, batch: int, limit: int | None) -> dict[str, Feed]:
    """The loops over one training set, and what they need to be built."""
    shape, count, folder, overrides = DATA[data]
    if (ROOT / folder).exists():
        given = [text.format(ROOT / folder) for text in overrides]
        given += ["data.image_size=160"] if data == "photos" else []
    else:
        given = ["data=synthetic", f"data.image_shape={shape}", f"data.train_size={count}"]
    given += [f"data.augment={augment}", "data.leak_check=skip"]
    given += [f"data.limit={limit}"] if limit else []
    made: dict[str, Feed] = {}
    for name, more in {
        "memory": ["data.in_memory=true"],
        "stream 0": ["data.in_memory=false", "data.workers=0"],
        "stream 2": ["data.in_memory=false", "data.workers=2"],
    }.items():
        config = compose(*given, *more)
        dataset = build_dataset(config, DEVICE)

        def epoch(number: int, split=dataset.train) -> Iterator[tuple[Tensor, Tensor]]:
            order = np.random.default_rng(number).permutation(len(split))
            return split.batches(cut(order, batch), number)

        made[name] = epoch
    train, mean, std = dataset.train, dataset.mean, dataset.std
    made["torchvision 2"] = torchvision_loop(
        open_source(config), train.ids, augment, mean, std, batch, shape[1]
    )
    if augment == "none":
        images = train.images

        def tensors(number: int) -> Iterator[tuple[Tensor, Tensor]]:
            order = torch.from_numpy(np.random.default_rng(number).permutation(len(images)))
            for rows in order.to(DEVICE).split(batch):
                yield images.index_select(0, rows), train.labels.index_select(0, rows)

        made["tensors"] = tensors
    return made


def trainer(data: str, model: list[str]) -> Callable[[Iterator[tuple[Tensor, Tensor]]], None]:
    """A step of training on every batch, with a network and SGD of its own."""
    shape, count, *_ = DATA[data]
    stated = [f"data.image_shape={shape}", f"data.train_size={count}"]
    config = compose("data=synthetic", *stated, *model)
    network = build_model(config, stated_data(config))[0].to(DEVICE).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)

    def train(batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        for images, labels in batches:
            loss = cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return train


def consume(batches: Iterator[tuple[Tensor, Tensor]]) -> None:
    """Feeding alone."""
    for _ in batches:
        pass


def medians(
    made: dict[str, Feed], consumers: dict[str, Callable], repetitions: int
) -> dict[str, float]:
    """Seconds of an epoch of each loop."""
    spent: dict[str, list[float]] = {name: [] for name in made}
    for feed in made.values():
        consume(feed(0))
    for repetition in range(1, repetitions + 1):
        for name in list(made)[:: 1 if repetition % 2 else -1]:
            started = time.perf_counter()
            consumers[name](made[name](repetition))
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()
            spent[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3)
    repetitions = parser.parse_args().repetitions
    facts = environment(DEVICE, torch.get_num_threads(), {})
    print(
        f"{facts['gpu'] or facts['cpu']}, {facts['cpu_count']} cores, {facts['threads']} threads,"
        f" torch {torch.__version__}, {DEVICE}, {repetitions} repetitions,"
        f" load {os.getloadavg()[0]:.1f}"
    )
    columns = ["memory", "stream 0", "stream 2", "torchvision 2", "tensors"]
    header = f"{'data':<10}{'model':<18}{'augment':<9}{'images':>7}{'batch':>6}"
    header += "".join(f"{name:>15}" for name in columns)
    jobs: list[tuple[str, list[str], str, int, int | None]] = [
        ("MNIST", ["model=simple_cnn"], "none", 64, None),
        ("CIFAR-10", ["model=cifar_resnet", "model.depth=20"], "basic", 64, 1000),
        *(("MNIST", [], augment, 64, 20000) for augment in ("none", "basic")),
        *(("CIFAR-10", [], augment, 64, None) for augment in ("none", "basic", "trivial")),
        *(("photos", [], augment, 32, None) for augment in ("none", "basic", "trivial")),
    ]
    for title, with_model in (("seconds per epoch", True), ("images per second, no model", False)):
        print(f"\n{title}\n{header}")
        for data, model, augment, batch, limit in jobs:
            if bool(model) is not with_model:
                continue
            made = feeds(data, augment, batch, limit)
            consumers = {n: trainer(data, model) if model else consume for n in made}
            images = sum(len(labels) for _, labels in made["memory"](0))
            spent = medians(made, consumers, repetitions)
            cells = {n: f"{s:.2f}" if model else f"{images / s:,.0f}" for n, s in spent.items()}
            network = " ".join(text.split("=")[1] for text in model)
            line = f"{data:<10}{network:<18}{augment:<9}{images:>7,}{batch:>6}"
            print(line + "".join(f"{cells.get(name, '-'):>15}" for name in columns), flush=True)
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
