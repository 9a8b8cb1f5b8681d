"""Figures of the leak check: recall and false alarms over thresholds, and its time.

    python scripts/bench_leaks.py DATA [--grid PNG]

DATA holds mnist/ (torchvision's layout), cifar10_10k/{train,test}.parquet and cifair_pairs.npz,
gtsrb32/train.parquet; what is missing is skipped.

ciFAIR: train = the 10,000 training images and the pairs' training images, each once; asked are the
286 test images of the pairs (recall: flagged at all; right: with the known partner) and those of
the 1,000 test images that are in no pair ("others": no known twin in the whole training set, so a
flag is counted as false). Only 35 of the 286 test images are at hand without JPEG artefacts, and
train is a fifth of CIFAR-10's: more strangers lie nearer then, and so do the neighbours that a pair
must stand out from. The defaults were chosen on the same pairs; the two halves (even and odd test
ids) show how far the figure depends on which pairs they were.

MNIST has no known near duplicates between its parts: what is flagged counts as false. Copies made
from training images (JPEG quality 75; noise of 10 levels; 0.8 x + 20; shifted by a pixel) count as
true. GTSRB: frames of a track are true twins; on a split by track none is left.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from lrexp.data.leaks import RANK, RATIO, THRESHOLD, find_leaks
from lrexp.data.leaks_found import Leaks
from lrexp.data.signatures import Signatures
from lrexp.data.sources.digits import digits
from lrexp.folder.environment import environment

THRESHOLDS = (0.80, 0.85, 0.88, 0.90, 0.92, 0.94, 0.96, 0.98)
RATIOS = (1.0, 0.3, 0.25, 0.2, 0.15)  # 1.0: the threshold alone


def parquet(file: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images (N, C, H, W) uint8 and the other columns."""
    table = pq.read_table(file)
    images = [Image.open(io.BytesIO(row["bytes"])) for row in table["image"].to_pylist()]
    pixels = np.stack([np.asarray(image) for image in images]).transpose(0, 3, 1, 2)
    others = [name for name in table.schema.names if name != "image"]
    return np.ascontiguousarray(pixels), {name: table[name].to_numpy() for name in others}


def sign(parts: dict[str, np.ndarray]) -> tuple[Signatures, dict[str, np.ndarray]]:
    """Signatures of splits given as images, one split after the other, and their positions."""
    signatures = Signatures.concatenate(Signatures.of(images) for images in parts.values())
    ends = np.cumsum([len(images) for images in parts.values()])
    splits = {
        name: np.arange(end - len(images), end)
        for (name, images), end in zip(parts.items(), ends, strict=True)
    }
    return signatures, splits


def check(
    signatures: Signatures,
    splits: dict[str, np.ndarray],
    threshold: float = THRESHOLD,
    ratio: float = RATIO,
) -> Leaks:
    """The check without labels and groups."""
    labels = np.zeros(len(signatures), np.int64)
    return find_leaks(signatures, labels, splits, threshold=threshold, ratio=ratio)


def flagged(leaks: Leaks, split: str) -> float:
    return 100 * len(leaks.twins[split]) / leaks.sizes[split]


def cifair(data: Path) -> None:
    train, _ = parquet(data / "train.parquet")
    test, _ = parquet(data / "test.parquet")
    with np.load(data / "cifair_pairs.npz") as file:
        pairs = {name: file[name] for name in file.files}
    ids, partners = pairs["test_id"], pairs["train_id"]
    extra = np.unique(partners, return_index=True)[1]
    extra = extra[partners[extra] >= len(train)]  # the others are in the parquet file
    where = {int(partners[i]): len(train) + n for n, i in enumerate(extra)}
    known = np.array([where.get(int(partner), int(partner)) for partner in partners])
    train = np.concatenate([train, pairs["train_img"][extra].transpose(0, 3, 1, 2)])
    asked = pairs["test_img"].transpose(0, 3, 1, 2)
    others = test[np.setdiff1d(np.arange(len(test)), ids)]
    parts = {"train": train, "pairs": asked, "others": others}
    lossless = pairs["test_is_lossless"]
    print(f"ciFAIR: {len(train):,} train, {len(asked)} pairs, {len(others)} others; in percent")
    print("   ratio threshold  recall  right  lossless  even   odd  others flagged")
    signatures, splits = sign(parts)
    start = len(train)
    for ratio in RATIOS:
        for threshold in THRESHOLDS:
            pair, false = (
                check(signatures, {"train": splits["train"], name: splits[name]}, threshold, ratio)
                for name in ("pairs", "others")
            )
            hit = np.zeros(len(asked), bool)
            hit[pair.twins["pairs"] - start] = True
            right = sum(
                int((known[twins.positions - start] == twins.others).sum())
                for twins in (*pair.near, *pair.exact)
            )
            halves = [hit[ids % 2 == side].mean() for side in (0, 1)]
            mark = "*" if (ratio, threshold) == (RATIO, THRESHOLD) else " "
            print(
                f"{mark}{ratio:>7}{threshold:>10.2f}{100 * hit.mean():>8.1f}"
                f"{100 * right / len(asked):>7.1f}{100 * hit[lossless].mean():>10.1f}"
                f"{100 * halves[0]:>6.1f}{100 * halves[1]:>6.1f}{flagged(false, 'others'):>16.2f}"
            )


def jpeg(images: np.ndarray) -> np.ndarray:
    """(n, 1, H, W) through JPEG of quality 75."""
    out = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image[0]).save(buffer, "JPEG", quality=75)
        out.append(np.asarray(Image.open(buffer))[None])
    return np.stack(out)


def mnist(data: Path, grid: Path | None) -> None:
    from torchvision.datasets import MNIST

    own, test = (MNIST(str(data), train=train).data.numpy()[:, None] for train in (True, False))
    rng = np.random.default_rng(0)
    order = rng.permutation(len(own))
    parts = {"train": own[order[6000:]], "val": own[order[:6000]], "test": test}
    spent = []
    for _ in range(3):
        started, cpu = time.perf_counter(), time.process_time()
        signatures, splits = sign(parts)
        signed = time.perf_counter() - started
        leaks = check(signatures, splits)
        spent.append((time.perf_counter() - started, signed, time.process_time() - cpu))
    total, signed, cpu = sorted(spent)[1]
    print(
        f"\nMNIST {leaks.sizes}: {total:.2f} s ({cpu:.2f} s of CPU), of it signatures"
        f" {signed:.2f} s (median of 3; fastest {min(spent)[0]:.2f} s)"
    )
    for ratio in RATIOS:
        found = check(signatures, splits, ratio=ratio)
        shares = {name: f"{flagged(found, name):.2f} %" for name in ("val", "test")}
        print(f"  threshold {THRESHOLD}, ratio {ratio}: flagged {shares}")
    some = parts["train"][rng.choice(len(parts["train"]), 500, replace=False)]
    noisy = np.clip(some + rng.normal(0, 10, some.shape), 0, 255).astype(np.uint8)
    copies = {
        "JPEG": jpeg(some),
        "noise": noisy,
        "0.8 x + 20": (some * 0.8 + 20).astype(np.uint8),
        "shifted": np.roll(some, 1, -1),
    }
    for name, made in copies.items():
        found = check(*sign({"train": parts["train"], "copies": made}))
        print(f"  copies, {name}: found {flagged(found, 'copies'):.1f} %")
    if grid:
        pixels = np.concatenate(list(parts.values()))
        save_grid(grid, pixels, leaks)


def save_grid(file: Path, pixels: np.ndarray, leaks: Leaks) -> None:
    """Up to forty flagged pairs, each an image over its partner, in one row of 20 or two."""
    a = np.concatenate([twins.positions for twins in leaks.near])
    b = np.concatenate([twins.others for twins in leaks.near])
    some = np.linspace(0, len(a) - 1, 40 if len(a) >= 40 else min(len(a), 20)).astype(int)
    pairs = np.concatenate([pixels[a[some]], pixels[b[some]]], 2)  # (20 or 40, C, 2H, W)
    pairs = np.pad(pairs, ((0, 0), (0, 0), (2, 2), (2, 2)), constant_values=128)
    rows = [np.concatenate(list(pairs[i : i + 20]), -1) for i in range(0, len(pairs), 20)]
    picture = np.concatenate(rows, 1).transpose(1, 2, 0)
    picture = picture.repeat(2, 0).repeat(2, 1)
    Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(file)
    print(f"  {file}: {len(some)} of {len(a)} flagged pairs")


def gtsrb(file: Path, grid: Path | None) -> None:
    images, columns = parquet(file)
    tracks = columns["track"]
    rng = np.random.default_rng(0)
    order = rng.permutation(len(images))
    held_out = rng.permutation(np.unique(tracks))[: len(np.unique(tracks)) // 5]
    by_track = np.isin(tracks, held_out)
    splits = {
        "at random": {"train": order[len(order) // 5 :], "val": order[: len(order) // 5]},
        "by track": {"train": np.flatnonzero(~by_track), "val": np.flatnonzero(by_track)},
    }
    started = time.perf_counter()
    signatures = Signatures.of(images)
    print(f"\nGTSRB: signatures of {len(images):,} images {time.perf_counter() - started:.2f} s")
    for name, split in splits.items():
        leaks = find_leaks(signatures, columns["label"], split)
        grouped = find_leaks(signatures, columns["label"], split, tracks)
        a = np.concatenate([np.empty(0, int), *(twins.positions for twins in leaks.near)])
        b = np.concatenate([np.empty(0, int), *(twins.others for twins in leaks.near)])
        pairs = (
            f", pairs of one track {100 * (tracks[a] == tracks[b]).mean():.0f} %, of one class"
            f" {100 * (columns['label'][a] == columns['label'][b]).mean():.0f} %"
        )
        print(
            f"  split {name}: {leaks.sizes['val']:,} val images, flagged by pixels"
            f" {flagged(leaks, 'val'):.2f} %{pairs}; with groups {flagged(grouped, 'val'):.1f} %"
        )
        for line in grouped.lines():
            print(f"    {line}")
        if grid:
            save_grid(grid.with_stem(f"{grid.stem}_gtsrb_{name.replace(' ', '_')}"), images, leaks)


def small_digits() -> None:
    source = digits()
    order = np.random.default_rng(0).permutation(len(source.labels))
    leaks = find_leaks(
        Signatures.of(source.images), source.labels, {"train": order[540:], "val": order[:540]}
    )
    print(f"\ndigits {leaks.sizes}: flagged {flagged(leaks, 'val'):.2f} %")
    for line in leaks.lines():
        print(f"    {line}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--grid", type=Path, help="write pictures of flagged pairs here")
    args = parser.parse_args()
    facts = environment(torch.device("cpu"), torch.get_num_threads(), {})
    print(f"{facts['cpu']}, {facts['threads']} threads, torch {torch.__version__}")
    print(f"default: threshold {THRESHOLD}, ratio {RATIO} to the neighbour of rank {RANK} (*)\n")
    if (args.data / "cifar10_10k").exists():
        cifair(args.data / "cifar10_10k")
    if (args.data / "mnist").exists():
        mnist(args.data / "mnist", args.grid)
    if (args.data / "gtsrb32").exists():
        gtsrb(args.data / "gtsrb32" / "train.parquet", args.grid)
    small_digits()


if __name__ == "__main__":
    main()
