"""predictions.parquet: what the best weights say about every validation and test image."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lrexp.data import Split


def write_predictions(file: Path, splits: dict[str, Split], logits: dict[str, Tensor]) -> None:
    """Columns id (position in the source), split, label, scores (softmax, one per class).

    Args:
        file: written whole or not at all.
        splits: by name.
        logits: (n, classes) per split.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    scores = {name: torch.softmax(x, 1).cpu().numpy() for name, x in logits.items()}
    table = pa.table(
        {
            "id": np.concatenate([split.ids for split in splits.values()]),
            "split": [name for name, split in splits.items() for _ in range(len(split))],
            "label": np.concatenate([split.labels.cpu().numpy() for split in splits.values()]),
            "scores": pa.array(
                list(np.concatenate(list(scores.values()))), type=pa.list_(pa.float32())
            ),
        }
    )
    fresh = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    pq.write_table(table, fresh)
    fresh.replace(file)
