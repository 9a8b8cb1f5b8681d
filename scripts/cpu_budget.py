"""Run a command and say what it took: CPU seconds of all its processes, and wall seconds.

    python scripts/cpu_budget.py COMMAND ...

With LREXP_TEST_BUDGET=1 a command that took a third more than BUDGET_S fails, on any machine: the
budget is scaled by what a loop costs here, before or after, that was timed where it was set.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time

BUDGET_S = 360.0  # of CPU time, user and system, for the fast tests
TOLERANCE = 4 / 3
LOOP_S = 1.9  # that `loop` costs on the machine that the budget was set on

# What tests do most: start a program, import torch, make and call small things.
ONCE = """
import torch
net, images = torch.nn.Linear(64, 10), torch.rand(16, 64)
for i in range(300):
    net(images).sum().backward()
found = {}
for i in range(50_000):
    found[f"{i % 1000}.{i % 7}"] = i
"""


def loop() -> float:
    """CPU seconds of a small program, its cheapest run of three."""
    took = []
    for _ in range(3):
        before = children_s()
        subprocess.run([sys.executable, "-c", ONCE], check=True, env=one_thread())
        took.append(children_s() - before)
    return min(took)


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def children_s() -> float:
    """User and system time of all programs that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(command: list[str]) -> int:
    """The command's exit code, or 1 when it was too expensive."""
    budgeted = os.environ.get("LREXP_TEST_BUDGET") == "1"
    loop_s = loop() if budgeted else LOOP_S
    started, before = time.monotonic(), children_s()
    code = subprocess.run(command, check=False).returncode
    wall_s, cpu_s = time.monotonic() - started, children_s() - before
    print(f"{cpu_s:.0f} CPU seconds, {wall_s:.0f} seconds by the clock")
    if budgeted:
        slowness = max(loop_s, loop()) / LOOP_S  # others may have come to the machine meanwhile
        budget_s = BUDGET_S * slowness
        print(
            f"budget {budget_s:.0f} CPU seconds on this machine ({slowness:.2f} of the one it was"
            " set on), a third more is too much"
        )
        if cpu_s > budget_s * TOLERANCE:
            print("error: the tests take too long; the most expensive are listed above")
            return code or 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
