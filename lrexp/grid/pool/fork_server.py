"""The last module that the fork server imports, and nobody else.

What it has imported stays as it is, so that workers share it, and it ends without taking it down
piece by piece: half a second with torch, for which a piped output would stay open.
"""

import atexit
import gc
import os

gc.freeze()
atexit.register(os._exit, 0)  # workers, forked from it, do not come by here
