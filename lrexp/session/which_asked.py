"""From what was asked of `lrexp which` to its procedure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from lrexp.config.compose import CheckedLoader
from lrexp.config.errors import ConfigError, UserError, did_you_mean, few
from lrexp.config.names import new_run_id
from lrexp.config.schema import OPTIONS, load, option_of
from lrexp.grid.points.cases import take_cases
from lrexp.grid.settings import OF_LAUNCHER
from lrexp.judge.ladders import Ladder, Size, fitted
from lrexp.judge.ranking import HIGHEST
from lrexp.runs.sweep import RATE
from lrexp.session.procedure import FIRST_FRESH, Procedure
from lrexp.session.request import read_request
from lrexp.session.which_search import DECAY

BASELINE = "uniform"
MARGIN = 0.02
RUN_DIR = "hydra.run.dir"
GROUP = "lr_policy"
ONE_THREAD = "trainer.threads=1"


@dataclass(frozen=True)
class Asked:
    """What a command line asks for."""

    overrides: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()  # none: the usual ones
    baseline: str | None = None
    margin: float = MARGIN
    metric: str | None = None
    budget: float | None = None  # runs
    minutes: float | None = None  # or so many minutes
    config_dir: str | None = None
    tries: int | None = None  # of every policy, drawn by a search; None: ladders


@dataclass(frozen=True)
class Planned:
    """A procedure, and where it is to be carried out."""

    procedure: Procedure
    folder: Path


def plan_which(loader: CheckedLoader, asked: Asked, pace: Callable[[Procedure], float]) -> Planned:
    """The procedure that a command line asks for. Hydra is set up with the loader.

    Args:
        loader: that composes.
        asked: as typed.
        pace: seconds that a run of a procedure takes on the clock, for a budget in minutes.

    Raises:
        UserError: for what cannot be composed, and what is not for it.
    """
    how = [one for one in asked.overrides if OF_LAUNCHER.fullmatch(one)]
    given = [one for one in asked.overrides if one not in how]
    _refuse_overrides(given, loader)
    task = [one for one in given if not one.startswith(f"{RUN_DIR}=")]
    request = read_request(loader, [*how, *given])
    config = request.config
    config.run_id = new_run_id()
    folder = loader.folder(config, RUN_DIR, given)
    policies, notes = _policies(asked, loader, config)
    baseline = asked.baseline or BASELINE
    if baseline not in policies:
        _refuse_unknown([baseline], loader, "--baseline")
        policies = [baseline, *policies]
    if len(policies) < 2:
        raise UserError(f"--policies {policies[0]}: there is nothing to compare it with")
    ladders = [_ladder(policy, config, task, loader) for policy in policies]
    seed = int(config.seed)
    if asked.tries is not None:
        decay = float(OmegaConf.select(config, DECAY) or 0.0)
        decay = 0.0 if any(_key(one) == DECAY for one in task) else decay
        ladders = [replace(one, drawn=asked.tries, decay=decay) for one in ladders]
        notes.append(
            f"Settings were searched: {asked.tries} configurations of each policy were drawn by"
            f" Optuna (seed {seed}), and the better half went on to each further seed."
        )
    if config.trainer.threads is None:  # many small runs side by side: more get in each other's way
        task = [*task, ONE_THREAD]
    plan = Procedure(
        overrides=tuple(one for one in task if _key(one) not in (RATE, "seed")),
        how=tuple(how),
        ladders=tuple(ladders),
        seeds=(),
        fresh=(),
        looks=(),
        baseline=baseline,
        metric=asked.metric,
        margin=asked.margin,
        monitor=str(config.trainer.monitor),
        budget=asked.budget,
        minutes=asked.minutes,
        notes=tuple(notes),
        config_dir=asked.config_dir,
        drawn=None if asked.tries is None else seed,
    )
    whole = _sized(plan, fitted(ladders, None), seed)
    if asked.minutes is not None:
        plan = replace(plan, budget=float(int(60 * asked.minutes / pace(whole))))
    size = fitted(ladders, plan.budget)
    saved = _saved(size, whole)
    plan = replace(plan, notes=(*plan.notes, *saved))
    return Planned(_sized(plan, size, seed), folder)


def _sized(plan: Procedure, size: Size, seed: int) -> Procedure:
    first = seed + FIRST_FRESH
    return replace(
        plan,
        ladders=size.ladders,
        seeds=tuple(range(seed, seed + size.seeds)),
        fresh=tuple(range(first, first + size.looks[-1])),
        looks=size.looks,
    )


def _saved(size: Size, whole: Procedure) -> list[str]:
    """What a budget left out, in a sentence."""
    less = []
    if size.seeds < len(whole.seeds):
        less.append(f"rates are chosen by {size.seeds} seed{'s' * (size.seeds > 1)}")
    if sum(one.tries for one in size.ladders) < sum(one.tries for one in whole.ladders):
        tries = ", ".join(f"{one.policy} {one.tries}" for one in size.ladders)
        less.append(f"fewer configurations are tried ({tries})")
    if size.looks != whole.looks:
        less.append(f"at most {size.looks[-1]} seeds are compared")
    return [f"To keep to the budget {', and '.join(less)}."] if less else []


def _refuse_overrides(overrides: Sequence[str], loader: CheckedLoader) -> None:
    """Raise a UserError for what the procedure decides itself, and what belongs to a grid."""
    if take_cases(overrides)[1] is not None:
        raise UserError("cases: lrexp which makes cases of its own, a policy each: see --policies")
    for override in overrides:
        key = _key(override)
        if key == GROUP or key.startswith(f"{GROUP}."):
            raise UserError(
                f"{override}: policies are named with --policies; one with settings of its own is a"
                " file lr_policy/NAME.yaml in a folder given with --config-dir"
            )
        hydra = re.match(r"hydra([./@]|$)", key)
        if key.startswith("hydra.job.env"):
            raise UserError(
                f"{override}: lrexp which would not have it in all of its runs; set the variable in"
                " the shell"
            )
        if hydra and key != RUN_DIR:
            raise UserError(
                f"{override}: lrexp which runs its grids itself; {RUN_DIR} is its folder"
            )
        if key in ("run_id", "task"):
            raise UserError(f"{override}: is not for lrexp which")
    try:
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    except Exception:  # composing says what is wrong
        return
    for one in parsed:
        if one.is_sweep_override():
            raise UserError(
                f"{one.input_line}: lrexp which chooses what is tried; give one value (lrexp -m"
                " makes grids of your own)"
            )


def _policies(
    asked: Asked, loader: CheckedLoader, config: DictConfig
) -> tuple[list[str], list[str]]:
    """Who is compared, each once, and a sentence on who is not or should not be."""
    options, loaded = OPTIONS[GROUP], _loaded(config)
    if asked.policies:
        names = list(dict.fromkeys(asked.policies))
        _refuse_unknown(names, loader, "--policies")
        odd = [name for name in names if name in options and options[name].loaded]
        if odd and not loaded:
            return names, [
                f"No weights are loaded: {few(odd)} freeze layers as they were drawn at random."
            ]
        return names, []
    usual = [name for name, option in options.items() if option.usual]
    if loaded:
        return usual, []
    left_out = [name for name in usual if options[name].loaded]
    said = (
        f"Left out, as no weights are loaded and they freeze layers as they were drawn:"
        f" {few(left_out)}."
    )
    return [name for name in usual if name not in left_out], [said]


def _loaded(config: DictConfig) -> bool:
    """Whether the network begins with weights that were trained before."""
    model: Any = OmegaConf.to_container(config.model, resolve=True)
    return bool(model.get("pretrained")) or model.get("weights") is not None


def _refuse_unknown(names: Sequence[str], loader: CheckedLoader, flag: str) -> None:
    there = [str(one) for one in loader.get_group_options(GROUP)]
    for name in names:
        if name not in there:
            raise UserError(f"{flag} {name}: there is no such policy; {did_you_mean(name, there)}")


def _ladder(policy: str, config: DictConfig, task: Sequence[str], loader: CheckedLoader) -> Ladder:
    """What is tried of a policy: its option says which setting beside the rate."""
    point = loader.load_sweep_config(config, [f"{GROUP}={policy}", *task])
    section: Any = OmegaConf.to_container(point[GROUP], resolve=True)
    option = OPTIONS[GROUP][option_of(section)]
    key, middle, least = RATE, float(point.optimizer.lr), 0.0
    if option.absolute and load(option.absolute)(section):
        ends = section.get("lr_low"), section.get(HIGHEST.rpartition(".")[2])
        key, middle = (HIGHEST, float(ends[1])) if all(ends) else ("", 0.0)
        least = float(ends[0]) if all(ends) else 0.0
    setting, values = "", tuple[Any, ...]()
    if option.tried and key == RATE:
        name, tried = option.tried
        if section.get(name) is None or section[name] in tried:
            setting, values = f"{GROUP}.{name}", tried
    try:
        if values:
            loader.load_sweep_config(config, [f"{GROUP}={policy}", f"{setting}={values[0]}", *task])
    except ConfigError:  # a file of the user's own chose another of settings that exclude it
        setting, values = "", ()
    return Ladder(policy, key, middle, least=least, setting=setting, values=values)


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]
