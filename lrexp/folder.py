"""Where things are: conf/, and run folders with their names, their lock and the newest one."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import string
from pathlib import Path

from lrexp.errors import UserError

SUMMARY = "summary.json"
LOCK = ".lock"


def conf_folder() -> Path:
    """The folder of YAML files: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parent
    checkout = package.parent / "conf"
    in_checkout = checkout.is_dir() and (package.parent / "pyproject.toml").is_file()
    return checkout if in_checkout else package / "conf"


def new_run_id() -> str:
    """8 characters a-z0-9 from the operating system's random source."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))


def point_name(overrides: str, max_bytes: int = 90) -> str:
    """A folder name for a point of a grid: its overrides, odd characters as `_`."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", overrides).strip("_")
    return name[:max_bytes].rstrip("_") or "default"


class Claim:
    """An exclusive hold on a folder, from its creation to the end of the process.

    A second process gets an error instead of a share in the folder. The lock is the kernel's
    (`flock`), so a killed process leaves none behind.
    """

    def __init__(self, folder: Path):
        """Create and lock the folder.

        Raises:
            UserError: when it cannot be written, is in use, or already holds a run.
        """
        self.folder = folder
        self.created = self._create()
        try:
            self._lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise UserError(
                f"{folder} is in use by another lrexp process\n"
                "  wait for it, or choose another folder with hydra.run.dir=FOLDER"
            ) from None
        except OSError as error:
            raise _cannot_write(folder, error) from error
        if (folder / SUMMARY).exists() or (folder / "multirun.yaml").exists():
            self.release()
            raise UserError(
                f"{folder} already holds a run; nothing was changed\n"
                "  choose another folder with hydra.run.dir=FOLDER, or move that one away"
            )

    def _create(self) -> list[Path]:
        """Make the folder; returns the folders that were not there before, outermost first."""
        missing = [p for p in (self.folder, *self.folder.parents) if not p.exists()][::-1]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_write(self.folder, error) from error
        return missing

    def release(self) -> None:
        """Give the folder free and remove the lock file."""
        (self.folder / LOCK).unlink(missing_ok=True)
        os.close(self._lock)

    def undo(self) -> None:
        """Remove what the claim created, for a command that failed before it began."""
        self.release()
        if self.folder in self.created:
            shutil.rmtree(self.folder, ignore_errors=True)
        for parent in reversed(self.created[:-1]):
            try:
                parent.rmdir()
            except OSError:  # not empty: another run lives there
                return


def link_latest(folder: Path) -> None:
    """Point outputs/latest at a run or sweep folder that lies under outputs/."""
    outputs = next((p for p in folder.parents if p.name == "outputs"), None)
    if outputs is None:
        return
    link, fresh = outputs / "latest", outputs / f".latest-{new_run_id()}"
    try:
        fresh.symlink_to(folder.relative_to(outputs), target_is_directory=True)
        fresh.replace(link)
    except OSError:  # a file system without links: the folder's path was printed
        fresh.unlink(missing_ok=True)


def _cannot_write(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write to {folder}: {error.strerror}\n"
        "  choose another folder with hydra.run.dir=FOLDER (hydra.sweep.dir=FOLDER with -m)"
    )
