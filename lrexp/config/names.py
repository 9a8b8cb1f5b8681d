"""Where conf/ is, and what runs, points and folders are called."""

from __future__ import annotations

import os
import re
import secrets
import string
from pathlib import Path

# Files of a run folder that a setting may point at; `folder.layout` has all of them.
CONFIG = "config.yaml"
PLAN = "plan.csv"
CHECKPOINTS, BEST = "checkpoints", "best.pt"
RERUN_PROVIDER = "rerun"  # of a saved config among the sources that .hydra/hydra.yaml names
CONFIG_NAME = "config"  # of the file in conf/ that every composition begins with


def conf_folder() -> Path:
    """The folder of YAML files: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parent.parent
    checkout = package.parent / "conf"
    in_checkout = checkout.is_dir() and (package.parent / "pyproject.toml").is_file()
    return checkout if in_checkout else package / "conf"


def new_run_id() -> str:
    """8 characters a-z0-9 from the operating system's random source."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))


def point_name(overrides: str, max_bytes: int = 90) -> str:
    """A folder name for a point of a grid: its overrides, odd characters as `_`.

    >>> point_name("lr_policy=uniform,optimizer.lr=0.1")
    'lr_policy_uniform_optimizer.lr_0.1'
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", overrides).strip("_")
    return name[:max_bytes].rstrip("_") or "default"


def shown_path(folder: Path) -> str:
    """A folder as a user would type it: relative when it lies below the working directory."""
    relative = os.path.relpath(folder)
    return relative if not relative.startswith("..") else str(folder)
