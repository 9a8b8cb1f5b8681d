"""The first module that the fork server imports, and nobody else: how it behaves.

It is in a process group of its own, and so are the workers that are forked from it: Ctrl-C, and a
SIGTERM to the group, reach the program alone, which then asks each worker once.
"""

import atexit
import os
import signal

os.setpgrp()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # it ends when no program is left
# It does not take down what it imported piece by piece: half a second with torch, for which a piped
# output would stay open. Workers do not come by here.
atexit.register(os._exit, 0)
