"""Make lrexp/models/bundled/simple_cnn_digits_0_4.safetensors: SimpleCNN trained on digits 0 to 4.

    python scripts/make_digits_0_4.py

Runs `python -m lrexp data.classes=[0,1,2,3,4]` and keeps the weights of its best epoch, with the
names of the classes its head knows. The result is committed; it starts experiment=finetune_digits.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from lrexp.folder.checkpoint import load_checkpoint
from lrexp.models.weights import save_weights

TARGET = Path(__file__).parent.parent / "lrexp/models/bundled/simple_cnn_digits_0_4.safetensors"

with tempfile.TemporaryDirectory() as folder:
    run = Path(folder) / "run"
    command = [sys.executable, "-m", "lrexp", "data.classes=[0,1,2,3,4]", "logger=none"]
    subprocess.run([*command, f"hydra.run.dir={run}"], check=True)
    best = load_checkpoint(run / "checkpoints" / "best.pt")
    save_weights(best["model"], TARGET, class_names=tuple("01234"))
print(f"{TARGET.name}: epoch {best['epoch']}, {TARGET.stat().st_size / 1000:.0f} kB")
