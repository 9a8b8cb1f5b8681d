"""What the fork server imports, and nobody else: workers are forked from it and share all of it.

It is in a process group of its own, and so are they: Ctrl-C, and a SIGTERM to the group, reach the
program alone, which then asks each worker once.
"""

import atexit
import gc
import os
from contextlib import suppress
from importlib import import_module

os.setpgrp()
# It ends without taking down what it imported piece by piece: half a second with torch, for which
# a piped output would stay open. Workers do not come by here.
atexit.register(os._exit, 0)

# None of it starts a thread or uses a GPU, so that forking is safe.
PRELOAD = (
    "lrexp.grid.pool.in_worker",
    "lrexp.tasks.train",
    "lrexp.build.experiment",
    "lrexp.train.loop",
    "lrexp.grid.stack.trainer",
    "lrexp.grid.stack.timing",
    "lrexp.grid.live",
    "torch._dynamo",
)
for name in PRELOAD:
    with suppress(Exception):  # a worker imports it again, and its points say what is wrong
        import_module(name)
gc.freeze()
