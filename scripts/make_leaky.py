"""Images that come in groups which look alike, for experiment=lessons/leakage.

    python scripts/make_leaky.py FOLDER [DATA]

FOLDER gets, once and always the same, train.parquet and test.parquet with the columns image, label
and track; no track is in both. With DATA, which holds gtsrb32/, they are the German traffic signs
at 32x32: a track is ten frames of one sign, and a third of each class's tracks are for test.
Without it they are the digits that ship with lrexp: 200 of them in six copies with noise, and 600
others for test.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ORIGINALS, COPIES, OTHERS = 200, 6, 600
TEST_SHARE = 1 / 3  # of a class's tracks
NOISE = 20  # grey levels, standard deviation


def planted(images: np.ndarray, labels: np.ndarray) -> tuple[list[dict[str, Any]], ...]:
    """Rows of train, where every digit has copies, and of test, where none has.

    Args:
        images: (n, 8, 8) uint8.
        labels: (n,).
    """
    rng = np.random.default_rng(0)
    order = rng.permutation(len(images))[: ORIGINALS + OTHERS]
    train, test = list[dict[str, Any]](), list[dict[str, Any]]()
    for track, i in enumerate(order.tolist()):
        copies = COPIES if track < ORIGINALS else 1
        for _ in range(copies):
            noisy = images[i] + rng.normal(scale=NOISE, size=images[i].shape)
            row = {"image": {"bytes": png(noisy)}, "label": int(labels[i]), "track": track}
            (train if track < ORIGINALS else test).append(row)
    return train, test


def signs(file: Path) -> tuple[list[dict[str, Any]], ...]:
    """Rows of train and test of the traffic signs, tracks of every class in both."""
    import pyarrow.parquet as pq

    rows = pq.read_table(file, columns=["image", "label", "track"]).to_pylist()
    rng = np.random.default_rng(0)
    tracks: dict[int, dict[Any, None]] = {}
    for row in rows:
        tracks.setdefault(row["label"], {})[row["track"]] = None
    unseen = set[Any]()
    for label in sorted(tracks):
        drawn = rng.permutation(list(tracks[label])).tolist()
        unseen |= set(drawn[: max(1, round(TEST_SHARE * len(drawn)))])
    return (
        [r for r in rows if r["track"] not in unseen],
        [r for r in rows if r["track"] in unseen],
    )


def png(pixels: np.ndarray) -> bytes:
    """A grey image (H, W) as PNG."""
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def make(folder: Path, data: Path | None) -> None:
    """Whatever of it is not there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if folder.is_dir():
        return
    if data is not None:
        train, test = signs(data / "gtsrb32/train.parquet")
    else:
        from lrexp.data.sources.digits import digits

        source = digits()
        grey = np.asarray(source.images)[:, 0] * 15  # 17 levels
        train, test = planted(grey, np.asarray(source.labels))
    unfinished = folder.with_suffix(".part")
    unfinished.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("test", test)):
        pq.write_table(pa.Table.from_pylist(rows), unfinished / f"{name}.parquet")
    unfinished.rename(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("data", type=Path, nargs="?")
    asked = parser.parse_args()
    make(asked.folder, asked.data)
