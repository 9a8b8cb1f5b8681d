"""Which learning-rate policy should I use, by how much is it better, and does it overfit?"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Where each public function is; it is imported when it is first used, for torch takes seconds.
_PUBLIC: dict[str, str] = {
    "certify": "lrexp.use.certify",
}


def __getattr__(name: str) -> Any:
    """A public function, from the module that holds it."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
