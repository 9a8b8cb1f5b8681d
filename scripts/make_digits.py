"""Make lrexp/data/digits.npz from the copy of the UCI digits that scikit-learn ships.

    pip install scikit-learn && python scripts/make_digits.py

Run once; the result is committed. 1,797 images of 8x8 with grey levels 0 to 16, and their labels.
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

target = Path(__file__).parent.parent / "lrexp" / "data" / "digits.npz"
digits = load_digits()
np.savez_compressed(
    target, images=digits.images.astype(np.uint8), labels=digits.target.astype(np.uint8)
)
print(f"{target.name}: {len(digits.target)} images, {target.stat().st_size / 1000:.0f} kB")
