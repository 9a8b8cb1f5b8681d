"""Run a command and say what it took: CPU seconds of all its processes, and wall seconds.

    python scripts/cpu_budget.py COMMAND ...

With LREXP_TEST_BUDGET=1 a command that took a third more than BUDGET_S fails, on any machine: the
budget is scaled by how long a loop takes here that was timed on the machine it was set on.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time

BUDGET_S = 360.0  # of CPU time, user and system, for the fast tests
TOLERANCE = 4 / 3
LOOP_S = 0.25  # of `loop` on the machine that the budget is meant for


def loop() -> float:
    """CPU seconds for a fixed amount of what tests do most: small objects, calls, text."""
    started = time.process_time()
    found: dict[str, int] = {}
    for i in range(400_000):
        key = f"{i % 1000}.{i % 7}"
        found[key] = found.get(key, 0) + len(key)
    return time.process_time() - started


def main(command: list[str]) -> int:
    """The command's exit code, or 1 when it was too expensive."""
    budgeted = os.environ.get("LREXP_TEST_BUDGET") == "1"
    slowness = min(loop() for _ in range(5)) / LOOP_S if budgeted else 1.0
    started = time.monotonic()
    code = subprocess.run(command, check=False).returncode
    wall_s = time.monotonic() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = used.ru_utime + used.ru_stime
    print(f"{cpu_s:.0f} CPU seconds, {wall_s:.0f} seconds by the clock")
    if budgeted:
        budget_s = BUDGET_S * slowness
        print(f"budget {budget_s:.0f} CPU seconds on this machine, a third more is too much")
        if cpu_s > budget_s * TOLERANCE:
            print("error: the tests take too long; the most expensive are listed above")
            return code or 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
