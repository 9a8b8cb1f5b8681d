"""What settings of an optimizer must be together, and with the schedule."""

from __future__ import annotations

import importlib.util

from lrexp.config.errors import ConfigError
from lrexp.config.schema import Config, chosen_option, option_of
from lrexp.config.schema.optimizer import LibraryOptimizer, Sgd

# What no optimizer takes in optimizer.args, and why.
REFUSED_ARGS = {
    "maximize": "would maximise the loss",
    "differentiable": "would differentiate through the step, which training here never does",
    "lr_decay": "would decay the rate beside the schedule; choose a scheduler",
    "params": "is what lr_policy decides",
    "lr": "is optimizer.lr",
    "weight_decay": "is optimizer.weight_decay",
}


def check_optimizer(config: Config) -> None:
    """Raise a ConfigError for the first setting that cannot be used."""
    optimizer, option = config.optimizer, option_of(vars(config.optimizer))
    package = chosen_option("optimizer", optimizer).needs
    if package and importlib.util.find_spec(package) is None:
        hint = f"pip install 'lrexp[{package}]'"
        raise ConfigError("optimizer", f"needs the package {package}", hint, option)
    for key in ("betas", "adamw_betas"):
        betas = getattr(optimizer, key, None)
        if betas is not None and len(betas) != 2:
            raise ConfigError(f"optimizer.{key}", "must be two numbers", given=betas)
    if package == "schedulefree" and config.scheduler.name != "constant":
        problem = f"lets the rate change over time, and optimizer={option} averages instead"
        hint = "choose scheduler=constant; its warmup fits"
        raise ConfigError("scheduler", problem, hint, option_of(vars(config.scheduler)))
    if isinstance(optimizer, LibraryOptimizer):
        for key, value in optimizer.args.items():
            if key in REFUSED_ARGS:
                raise ConfigError(f"optimizer.args.{key}", REFUSED_ARGS[key], given=value)
    if isinstance(optimizer, Sgd) and optimizer.nesterov and not optimizer.momentum:
        raise ConfigError("optimizer.nesterov", "needs optimizer.momentum above 0", given=True)
