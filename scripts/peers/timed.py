"""Runs a program and writes when each of its optimizer steps ended, as JSON.

python timed.py MARKS PROGRAM [ARGUMENT ...]      PROGRAM: a file, or -m and a module
"""

from __future__ import annotations

import atexit
import json
import runpy
import sys
import time
from pathlib import Path

from torch.optim.optimizer import register_optimizer_step_post_hook

marks, *sys.argv = sys.argv[1:]
ends: list[float] = []
register_optimizer_step_post_hook(lambda *_: ends.append(time.time()))
atexit.register(lambda: Path(marks).write_text(json.dumps(ends)))
if sys.argv[0] == "-m":
    module = sys.argv.pop(1)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
else:
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
