"""Which learning-rate policy should I use, by how much is it better, and does it overfit?"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # true to them; importing typing would take most of the time of this file
if TYPE_CHECKING:  # the same names as in `_PUBLIC`, for editors and type checkers
    from lrexp.api.folders import Run as Run
    from lrexp.api.folders import Sweep as Sweep
    from lrexp.api.folders import load as load
    from lrexp.api.folders import results as results
    from lrexp.api.run import run as run
    from lrexp.api.run import sweep as sweep
    from lrexp.config.errors import ConfigError as ConfigError
    from lrexp.config.errors import RunFailedError as RunFailedError
    from lrexp.config.errors import UserError as UserError
    from lrexp.optim.groups import set_rates as set_rates
    from lrexp.use.own_loop import param_groups as param_groups
    from lrexp.use.own_loop import plan_of as plan_of
    from lrexp.use.own_loop import set_trainable as set_trainable

__version__ = "0.1.0"

# Where each public name is; it is imported when it is first used, for torch takes seconds.
_PUBLIC: dict[str, str] = {
    "ConfigError": "lrexp.config.errors",
    "Run": "lrexp.api.folders",
    "RunFailedError": "lrexp.config.errors",
    "Sweep": "lrexp.api.folders",
    "UserError": "lrexp.config.errors",
    "load": "lrexp.api.folders",
    "param_groups": "lrexp.use.own_loop",
    "plan_of": "lrexp.use.own_loop",
    "results": "lrexp.api.folders",
    "run": "lrexp.api.run",
    "set_rates": "lrexp.optim.groups",
    "set_trainable": "lrexp.use.own_loop",
    "sweep": "lrexp.api.run",
}

if not TYPE_CHECKING:  # which then say when a name is none

    def __getattr__(name: str) -> object:
        """A public name, from the module that holds it."""
        if name not in _PUBLIC:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*_PUBLIC, *(name for name in globals() if name.startswith("__"))])
