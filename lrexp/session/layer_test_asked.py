"""From a command line with task=layer_test to what is trained: parts, factors, seeds, cases."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.callbacks import Callbacks
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from lrexp.config.check import check
from lrexp.config.compose import CheckedLoader, without_hydra
from lrexp.config.errors import ConfigError, UserError, few
from lrexp.config.names import new_run_id, shown_path
from lrexp.config.recompose import SavedLoader
from lrexp.config.schema import Config
from lrexp.folder.layout import CASES, PROTOCOL
from lrexp.grid.cost import Cost, cost
from lrexp.grid.jobs import Session
from lrexp.grid.points.cases import made_cases
from lrexp.grid.settings import OF_LAUNCHER
from lrexp.plan.multiplied import (
    Part,
    Rules,
    difference,
    merged_words,
    parts_of,
    refuse_moving,
    rules_of,
)
from lrexp.runs.run import content, flat, json_object
from lrexp.runs.sweep import SEED
from lrexp.session.composed import compose_points, find_equal_points
from lrexp.session.hydra import hydra_of
from lrexp.session.points import Points
from lrexp.session.procedure import FIRST_FRESH
from lrexp.session.request import read_request
from lrexp.session.which_asked import ONE_THREAD
from lrexp.session.which_lines import shown_time

if TYPE_CHECKING:
    from lrexp.models.layer_map import LayerMap
    from lrexp.plan.plan import Plan

RUN_DIR = "hydra.run.dir"
BASE, TOGETHER = "as asked for", "together"  # cases
FREE = ("run_id", "task.repeats", "trainer.resume", "trainer.device")  # may change when it goes on


@dataclass(frozen=True)
class Design:
    """A test of layers: what is trained, and where."""

    folder: Path
    saved: Mapping[str, Any]  # that config, plain values
    config: Config
    layers: LayerMap
    plan: Plan
    parts: Sequence[Part]
    seeds: Sequence[int]
    fresh: Sequence[int]  # of the check
    how: Sequence[str]  # overrides of the launcher
    common: Sequence[str]  # overrides that all runs have
    notes: Sequence[str]
    extra: str | None = None  # folder of the user's own YAML files
    looks: Sequence[int] = field(default=())  # seeds at earlier ends of the same test

    def loader(self) -> SavedLoader:
        """What composes around the config that was asked for; a grid takes one of its own."""
        return SavedLoader(dict(self.saved), self.folder / PROTOCOL, self.extra)

    @property
    def policy(self) -> str:
        return str(self.config.lr_policy.name)

    @property
    def base_lr(self) -> float:
        return float(self.config.optimizer.lr)

    @property
    def factors(self) -> list[float]:
        return list(self.config.task.factors)

    @property
    def check(self) -> bool:
        return bool(self.config.task.check)

    @property
    def resume(self) -> bool:
        return self.config.trainer.resume == "auto"

    @property
    def pairs(self) -> list[tuple[int, float]]:
        """Part and factor, from the input to the head, of parts that train at all."""
        places = [place for place, part in enumerate(self.parts) if part.trained]
        return [(place, factor) for place in places for factor in self.factors]

    @cached_property
    def cases(self) -> dict[str, list[str]]:
        """Overrides of the policy by case; the baseline is the policy itself, untouched."""
        found: dict[str, list[str]] = {BASE: []}
        for part, factor in self.pairs:
            name = case_name(self.parts, part, factor)
            found[name] = self.rules({part: factor}).overrides
        return found

    @property
    def runs(self) -> int:
        return len(self.cases) * len(self.seeds)

    def rules(self, factors: Mapping[int, float]) -> Rules:
        """The policy with factors on some parts."""
        of_layers = {
            layer: factor for part, factor in factors.items() for layer in self.parts[part].layers
        }
        return rules_of(
            self.layers,
            self.plan,
            of_layers,
            base_weight_decay=self.config.optimizer.weight_decay,
            decay_bias_norm=self.config.lr_policy.decay_bias_norm,
        )


def case_name(parts: Sequence[Part], part: int, factor: float) -> str:
    """`conv x0.25`; two layers of one name are told apart by their place."""
    names = [one.name for one in parts]
    name = parts[part].name
    place = f"{part} " * (names.count(name) > 1)
    return f"{place}{name} x{factor:g}"


def plan_layer_test(
    loader: CheckedLoader, config: DictConfig, overrides: Sequence[str], extra: str | None
) -> Design:
    """What a composed config with task=layer_test asks for. Hydra is set up with the loader.

    Args:
        loader: that composed it.
        config: of the command line.
        overrides: of it.
        extra: folder of the user's own YAML files.

    Raises:
        UserError: for what cannot be tested; nothing has been written.
    """
    given = list(overrides)
    how = [one for one in given if OF_LAUNCHER.fullmatch(one)]
    for one in given:
        key = one.lstrip("+~").partition("=")[0]
        if re.match(r"hydra([./@]|$)", key) and one not in how and key != RUN_DIR:
            raise UserError(
                f"{one}: task=layer_test runs its grids itself; {RUN_DIR} is its folder"
            )
    loader.check(config, given)
    config.run_id = config.run_id or new_run_id()
    folder = loader.folder(config, RUN_DIR, given)
    if (folder / PROTOCOL).is_file() and config.trainer.resume != "auto":
        raise UserError(
            f"{shown_path(folder)} holds a test already; nothing was changed\n"
            f"  trainer.resume=auto goes on with it, {RUN_DIR}=FOLDER begins another"
        )
    resolved, checked = check(without_hydra(config))
    saved: Any = OmegaConf.to_container(resolved)
    _refuse_factors(checked.task.factors)
    if checked.trainer.epochs == 0:
        raise ConfigError("trainer.epochs", "trains nothing, so no rate changes anything", given=0)
    with loader.placing(given):
        layers, plan = _planned(checked)
        refuse_moving(layers, plan, checked.lr_policy.name)
    parts = parts_of(layers, plan, checked.task.layers_at_most)
    seeds = range(checked.seed, checked.seed + checked.task.repeats)
    first = checked.seed + FIRST_FRESH
    design = Design(
        folder=folder,
        saved=saved,
        config=checked,
        layers=layers,
        plan=plan,
        parts=parts,
        seeds=seeds,
        fresh=range(first, first + checked.task.repeats),
        how=how,
        common=_common(given, checked),
        notes=_notes(parts, layers.depth, plan, checked),
        extra=extra,
    )
    if not design.pairs:
        raise ConfigError("lr_policy", "freezes every layer", "nothing is left to multiply")
    _refuse_other_plan(design)
    return design


def refuse_changed(folder: Path, design: Design) -> list[int]:
    """Seeds of the test that a folder holds, at every end that it came to so far.

    Raises:
        UserError: when it is another test.
    """
    before = content(folder / PROTOCOL, json_object, {})
    was, now = (flat(some) for some in (before.get("saved"), design.saved))
    changed = [k for k in dict.fromkeys([*was, *now]) if k not in FREE and was.get(k) != now.get(k)]
    if changed:
        key = changed[0]
        raise UserError(
            f"{shown_path(folder)} holds another test: {key} was {was.get(key)} and is"
            f" {now.get(key)}; choose another folder with {RUN_DIR}=FOLDER"
        )
    looks = [one for one in before.get("looks", []) if type(one) is int]
    if looks and max(looks) > len(design.seeds):
        raise UserError(
            f"task.repeats={len(design.seeds)}: this test was run with {max(looks)}; more can be"
            " added, and none left out"
        )
    return looks


def opening_lines(design: Design) -> list[str]:
    """What is going to be trained, and what it takes, as a short probe tells."""
    factors = ", ".join(f"{factor:g}" for factor in design.factors)
    tested = sum(part.trained > 0 for part in design.parts)
    what = "part" if any(part.first != part.last for part in design.parts) else "layer"
    begun = design.resume and (design.folder / PROTOCOL).is_file()
    goes_on = ": what is done is read, and the rest trained" if begun else ""
    lines = [
        f"layers {shown_path(design.folder)}{goes_on}",
        f"       lr_policy={design.policy} as it is, and with one rate at a time × {factors}:"
        f" {tested} {what}{'s' * (tested != 1)}, {len(design.seeds)} seeds",
        f"cost   {design.runs} runs{'' if begun else _time(design)}",
    ]
    if design.check and design.fresh:
        lines.append(
            f"       and {2 * len(design.fresh)} where multipliers help, to check them together"
        )
    return [*lines, *(f"note   {note}" for note in design.notes)]


def _time(design: Design) -> str:
    """Seconds on the clock, from the baseline and one part, whose runs are like all others."""
    place = design.pairs[len(design.pairs) // 2][0]
    wanted = [BASE, *(case_name(design.parts, place, factor) for factor in design.factors)]
    try:
        found = _probed(design, {name: design.cases[name] for name in wanted})
    except Exception:  # the first run will say why it cannot be built
        return ""
    about = shown_time(found.total_s * design.runs / max(1, found.points))
    return f", about {about} here and now ({found.way}; one by itself {found.run_s:.2g} s)"


def _probed(design: Design, cases: Mapping[str, Sequence[str]]) -> Cost:
    seeds = f"{SEED}={','.join(map(str, design.seeds))}"
    axes = {name: [*some, seeds] for name, some in cases.items()}
    loader = design.loader()
    with hydra_of(loader):
        request = read_request(loader, [*design.how, *design.common])
        request.cases = made_cases(Path(CASES), axes)
        points = compose_points(loader, request)
        find_equal_points(loader, request, points)
        context = HydraContext(config_loader=loader, callbacks=Callbacks(request.config))
        session = Session(context, Points(), settings=request.settings)
        return cost([point for point in points if point.same_as is None], session)


def _planned(config: Config) -> tuple[LayerMap, Plan]:
    """The layers of the network and the plan of its policy, nothing loaded."""
    from lrexp.build.data import stated_data
    from lrexp.build.model import build_model
    from lrexp.build.rates import build_plan
    from lrexp.build.schedule import count_steps

    data = stated_data(config)
    layers = build_model(config, data, meta=True)[1]
    return layers, build_plan(config, layers, count_steps(config, data.train_size))


def _refuse_other_plan(design: Design) -> None:
    """Raise a ConfigError unless rules with factor 1 make the plan that was asked for, exactly."""
    from lrexp.build.rates import build_plan
    from lrexp.build.schedule import Steps

    rules, written = design.rules({}), design.loader()
    with hydra_of(written):
        request = read_request(written, [])
        composed = written.load_sweep_config(
            request.config, ["task=train", "trainer.resume=never", *rules.overrides]
        )
    config = check(without_hydra(composed))[1]
    ruled = build_plan(config, design.layers, Steps(1, 1))
    if said := difference(design.plan, ruled):
        problem = f"cannot be written as rules of lr_policy=per_layer: {said}"
        raise ConfigError("lr_policy", problem, given=design.policy)


def _refuse_factors(factors: Sequence[float]) -> None:
    key = "task.factors"
    if not factors:
        raise ConfigError(key, "holds no factor", "such as [0, 0.25, 4]")
    if 1 in factors:
        raise ConfigError(key, "holds 1, which changes nothing", "leave it out", factors)
    if len(set(factors)) < len(factors):
        raise ConfigError(key, "holds a factor twice", given=factors)


def _common(given: Sequence[str], config: Config) -> list[str]:
    """What all runs have beside the config that was asked for."""
    common = ["task=train", "trainer.resume=never"]
    if config.trainer.threads is None:  # many small runs: more get in each other's way
        common.append(ONE_THREAD)
    if not any(one.lstrip("+~").startswith("logger") for one in given):
        common.append("logger=none")
    return [
        *common,
        *(one for one in given if one.startswith("data.root=")),
    ]  # typed: may be filled


def _notes(parts: Sequence[Part], depth: int, plan: Plan, config: Config) -> list[str]:
    notes = list(filter(None, [merged_words(parts, depth)]))
    still = [part.name for part in parts if not part.trained]
    if still:
        notes.append(f"lr_policy={config.lr_policy.name} freezes {few(still)}: not multiplied")
    fresh = {row.layer_name for row in plan.rows if row.source == "fresh" and not row.frozen}
    if 0 in config.task.factors and fresh and len(fresh) < depth:
        names = list(dict.fromkeys(row.layer_name for row in plan.rows if row.layer_name in fresh))
        notes.append(f"{few(names)} was drawn at random, not loaded: frozen it stays random")
    if config.task.repeats < 3:
        notes.append("fewer than three seeds claim nothing: task.repeats=5 is the default")
    return notes
