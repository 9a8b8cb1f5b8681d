"""What a command line with -m asks for: what its points have in common, and how they vary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lrexp.config.compose import CONFIG_NAME, CheckedLoader
from lrexp.config.errors import ConfigError
from lrexp.config.recompose import SavedLoader
from lrexp.config.saved import read_saved_config
from lrexp.folder.layout import CASES, MULTIRUN, RERUN
from lrexp.grid.points.cases import GROUP, Cases, read_cases, take_cases
from lrexp.grid.points.point import Started, read_points
from lrexp.grid.points.resume import sweep_folder
from lrexp.grid.search.settings import OF_SEARCH
from lrexp.grid.settings import OF_LAUNCHER, LauncherSettings, read_settings
from lrexp.runs.run import own_folders

LAUNCHER_GROUP, SETTING, RESUME = "hydra/launcher", "hydra.launcher.", "hydra.launcher.resume="
LAUNCHER = "hydra_plugins.hydra_lrexp_launcher.lrexp_launcher.LrexpLauncher"
SEARCHER = "hydra_plugins.hydra_lrexp_optuna.lrexp_optuna.LrexpOptunaSweeper"


@dataclass
class Request:
    """What a command line with -m asks for."""

    loader: CheckedLoader  # that composes it: a sweep that goes on may have one of its own
    config: DictConfig  # composed for the sweep as a whole
    overrides: list[str]  # without cases
    cases: Cases | None
    started: Started | None = None  # the sweep that is to go on
    sources: str = ""  # what points are composed from: see `sources_text`
    typed: Sequence[str] = ()  # overrides, without those that such a sweep had

    @property
    def ours(self) -> bool:
        """Whether our launcher runs it."""
        return self.config.hydra.launcher._target_ == LAUNCHER

    @property
    def searches(self) -> bool:
        """Whether our sweeper chooses its points as it goes."""
        return self.config.hydra.sweeper._target_ == SEARCHER

    @property
    def settings(self) -> LauncherSettings:
        """Of our launcher."""
        return read_settings(self.config.hydra.launcher)

    @property
    def task(self) -> list[str]:
        """Overrides of the command line that are not Hydra's."""
        return [str(override) for override in self.config.hydra.overrides.task]

    @property
    def axes(self) -> list[str]:
        """What a grid is made of: hydra.sweeper.params and the command line, which wins."""
        params: Any = OmegaConf.select(self.config, "hydra.sweeper.params") or {}
        typed = {override.lstrip("+~").partition("=")[0] for override in self.task}
        return [*(f"{k}={v}" for k, v in params.items() if k not in typed), *self.task]

    @property
    def how(self) -> list[str]:
        """Overrides that say how the points are chosen and run."""
        own = (OF_LAUNCHER, OF_SEARCH)
        return [o for o in self.overrides if any(some.fullmatch(o) for some in own)]

    @property
    def command(self) -> list[str]:
        """Overrides that ask for the same grid."""
        return [*([f"{GROUP}={self.cases.name}"] if self.cases else []), *self.axes]

    @property
    def texts(self) -> list[str]:
        """What becomes part of the points' configs."""
        return [*self.command, *([self.cases.text] if self.cases else [])]


def read_request(loader: CheckedLoader, overrides: Sequence[str]) -> Request:
    """Compose what all points have in common, and find what the grid is made of.

    A sweep that is resumed without naming its grid again is the one that was started.

    Raises:
        UserError: for what cannot be composed, and launcher settings that cannot be used.
    """

    def compose(given: Sequence[str]) -> DictConfig:
        asked = [*given, "hydra.mode=MULTIRUN"]
        return loader.load_configuration(CONFIG_NAME, asked, RunMode.MULTIRUN)

    rest, name = take_cases(overrides)
    resume = [override for override in rest if override.startswith(RESUME)]
    if resume and any(map(OF_SEARCH.fullmatch, rest)):  # what is changed of a search
        rest = list(dict.fromkeys(["hydra/sweeper=optuna", *rest]))
    if "hydra.mode=RUN" in rest:
        raise ConfigError("hydra.mode", "is one run, and -m asks for several", given="RUN")
    # what else is typed of a launcher may be for the one that the sweep was started with
    first = [o for o in rest if o in resume or not o.startswith(SETTING)] if resume else rest
    request = Request(loader, compose(first), rest, None, typed=rest)
    if request.ours and (resumed := request.settings.resume):
        request.started = read_points(sweep_folder(resumed))
        request.loader = loader = loader_of(request.started.folder, loader)
        request.config = compose(first)
    started = request.started
    if started and not request.axes and not name:
        command, name = take_cases(started.command)
        typed = {override.partition("=")[0] for override in rest}
        if LAUNCHER_GROUP in typed:  # settings of another are none of this one's
            command = [override for override in command if not override.startswith(SETTING)]
        kept = [override for override in command if override.partition("=")[0] not in typed]
        request.overrides = [*rest, *kept]
        request.config = compose(request.overrides)
        if name:  # the file as it was then
            copy = read_cases(str(started.folder / CASES), loader.folders)
            request.cases = replace(copy, name=name)
        return request
    if first != rest:
        request.config = compose(rest)
    if name:
        request.cases = read_cases(name, loader.folders)
    return request


def loader_of(folder: Path, given: CheckedLoader) -> CheckedLoader:
    """What composes a sweep that goes on: around its saved config, with its folders of options."""
    own = [*given.folders[:-1], *own_folders(folder / MULTIRUN)]
    extra = str(own[0]) if own else None
    if (folder / RERUN).is_file() and not isinstance(given, SavedLoader):
        return SavedLoader(read_saved_config(folder / RERUN), folder / RERUN, extra)
    return CheckedLoader(extra) if extra and len(given.folders) == 1 else given
