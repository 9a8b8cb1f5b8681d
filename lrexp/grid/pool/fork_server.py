"""What the fork server imports, and nobody else.

It is in a process group of its own, and so are the workers that are forked from it: Ctrl-C, and a
SIGTERM to the group, reach the program alone, which then asks each worker once.
"""

import atexit
import gc
import os
import signal
from contextlib import suppress
from importlib import import_module

os.setpgrp()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # it ends when no program is left
for name in os.environ["LREXP_PRELOAD"].split():
    with suppress(Exception):  # a worker imports it again, and its piece says what is wrong
        import_module(name)
gc.freeze()  # all that stays as it is, so that workers share it
# It does not take down what it imported piece by piece: half a second with torch, for which a piped
# output would stay open. Workers do not come by here.
atexit.register(os._exit, 0)
