"""Renew locked.txt: the newest versions that pyproject.toml allows, tried together today.

    .venv/bin/python scripts/container/lock.py     (3 to 10 minutes, 6 GB while it runs)

A fresh environment gets lrexp with every extra, that of development too, so that what users run
and what tests it is one solution; `pip check` and a smoke run must pass before the file is written.
A comment says what a line is for: none, running lrexp with all extras; `cuda`, that with PyPI's
torch on Linux alone; `dev`, development.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKED = Path(__file__).with_name("locked.txt")
CUDA = re.compile(r"nvidia-|cuda-|triton$")  # names of what torch needs for GPUs alone


def needed(extra: str, installed: Mapping[str, Distribution]) -> set[str]:
    """Names of installed packages that lrexp[extra] needs, itself or through others, here."""
    found, new = set[tuple[str, str]](), [("lrexp", ""), ("lrexp", extra)]
    while new:
        name, of_extra = new.pop()
        if (name, of_extra) in found or name not in installed:  # not there: of no use here
            continue
        found.add((name, of_extra))
        for line in installed[name].requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": of_extra}):
                other = canonicalize_name(requirement.name)
                new += [(other, e) for e in ("", *requirement.extras)]
    return {name for name, _ in found} - {"lrexp"}


def lines(installed: Mapping[str, Distribution]) -> Iterator[str]:
    """`name==version` of all that development needs, in order, each with what it is for."""
    runs = needed("all", installed)
    for name in sorted(needed("dev", installed)):
        use = "dev" if name not in runs else "cuda" if CUDA.match(name) else ""
        yield f"{name}=={installed[name].version}" + (f"  # {use}" if use else "")


def main() -> None:
    """Install, try, write.

    Raises:
        subprocess.CalledProcessError: when a step fails; the file is as it was.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with tempfile.TemporaryDirectory(prefix="lrexp-lock-") as folder:
        here = Path(folder)

        def run(*command: str | Path) -> None:
            print("+", *command, flush=True)
            subprocess.run(command, cwd=here, env=environment, check=True)

        run(sys.executable, "-m", "venv", here / "venv")
        python = here / "venv/bin/python"
        run(python, "-m", "pip", "install", "--quiet", f"{ROOT}[dev]")
        run(python, "-m", "pip", "check")
        run(python, "-m", "lrexp", "experiment=smoke")
        (site,) = (here / "venv/lib").glob("python*/site-packages")
        found = {canonicalize_name(d.name): d for d in distributions(path=[str(site)])}
        head = (
            "# Versions that were tested together: the image's, and those of scripts/install.sh.\n"
            "# Written by scripts/container/lock.py, which says what the comments mean:\n"
            f"# {datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()},"
            f" {platform.system()} {platform.machine()}\n"
        )
        LOCKED.write_text(head + "\n".join(lines(found)) + "\n")
    print(f"written: {LOCKED.relative_to(ROOT)}, of {len(found)} packages")


if __name__ == "__main__":
    main()
