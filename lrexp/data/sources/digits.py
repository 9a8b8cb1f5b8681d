"""The digits that ship with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lrexp.data.source import Source


def digits() -> Source:
    """UCI handwritten digits: 1,797 images of 8×8 in 17 grey levels, from the package itself.

    Alpaydin and Kaynak 1998, doi:10.24432/C50P49, CC BY 4.0.
    """
    with np.load(Path(__file__).parent.parent / "digits.npz") as file:
        images, labels = file["images"], file["labels"].astype(np.int64)
    return Source(images[:, None], labels, tuple("0123456789"), white=16)
