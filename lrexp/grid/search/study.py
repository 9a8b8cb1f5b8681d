"""A study of Optuna's: where it is kept, who is asked for trials, and what they are told.

Optuna takes a while to import, and who does not ask for it need not have it: only functions do.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import math
import os
import sqlite3
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrexp.config.errors import ConfigError, UserError, did_you_mean, first_line
from lrexp.config.names import shown_path
from lrexp.config.redact import redacted
from lrexp.folder.layout import STUDY
from lrexp.grid.search.settings import SAMPLERS, SECTION, OptunaSettings
from lrexp.grid.search.space import Open, Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.study import Study

URL = "sqlite:///"
SQLITE = (".db", ".sqlite", ".sqlite3")
JOURNAL = (".journal", ".log")
NAME = "lrexp"  # of a study that was given none
SAME = ("qmc", "grid")  # samplers that count their draws, whose seed stays the same
ENOUGH, BEST = 15, 5  # trials for importances, and those that count as good ones at least
ASKED = "lrexp"  # attribute of a study: what was asked for
FOLDER, GIVEN_UP = "folder", "given_up"  # of a trial: its sweep's; without a run


@dataclass(frozen=True)
class Trial:
    """What a sampler chose."""

    number: int
    params: Mapping[str, Any]  # by key
    folder: str  # of its sweep


@dataclass(frozen=True)
class Importance:
    """What of the settings told good trials from others."""

    shares: Mapping[str, float]  # by key, the largest first; they sum to 1
    trials: int
    best: int  # of them

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a file."""
        counts = {"trials": self.trials, "best": self.best}
        return {"evaluator": "PED-ANOVA", **counts, "settings": dict(self.shares)}


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna without its own lines in the terminal, and without its word on what is experimental.

    Raises:
        UserError: when it is not installed, or is too old.
    """
    try:
        import optuna
    except ImportError as error:
        said = "a search needs Optuna, which is not installed: pip install 'lrexp[optuna]'"
        raise UserError(said) from error
    if int(optuna.__version__.partition(".")[0]) < 5:
        said = f"a search needs Optuna 5, and {optuna.__version__} is installed"
        raise UserError(f"{said}: pip install -U 'lrexp[optuna]'")
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def check_sampler(settings: OptunaSettings, space: Space) -> None:
    """Raise ConfigError for an argument that a sampler does not take, and for no grid."""
    with quiet():
        _sampler(settings, space, 0)


def storage_place(settings: OptunaSettings, folder: Path) -> Path | None:
    """The file of a storage; None for a URL of something else.

    Raises:
        ConfigError: for a file whose kind its name does not tell.
    """
    given = settings.storage
    if given is None:
        return folder / STUDY
    if "://" in given and not given.startswith(URL):
        return None
    path = Path(given.removeprefix(URL)).expanduser().resolve()
    if path.suffix not in (*SQLITE, *JOURNAL):
        hint = f"a file that ends in {SQLITE[0]} (SQLite) or {JOURNAL[0]}, or a URL"
        raise ConfigError(f"{SECTION}.storage", "is no storage that is known", hint, given)
    return path


def open_study(settings: OptunaSettings, folder: Path) -> Study:
    """The study of a sweep, with all its trials where it is there already.

    Raises:
        ConfigError: when the storage cannot be opened, or its study seeks the other way.
    """
    import optuna

    name: str = settings.study_name or NAME
    with _opening(settings):
        study = optuna.create_study(
            storage=_storage(settings, folder),
            study_name=name,
            load_if_exists=True,
            direction=optuna.study.StudyDirection[str(settings.direction).upper()],
        )
    if study.direction.name.lower() != settings.direction:
        problem = f"holds a study that is to {study.direction.name.lower()}"
        raise ConfigError(f"{SECTION}.study_name", problem, "choose another name", name)
    return study


def fresh_study(settings: OptunaSettings) -> Study:
    """A study that is kept nowhere."""
    import optuna

    way = optuna.study.StudyDirection[str(settings.direction).upper()]
    return optuna.create_study(direction=way)


def is_begun(settings: OptunaSettings, folder: Path) -> bool:
    """Whether the study of a sweep is there already.

    Raises:
        ConfigError: when the storage cannot be opened.
    """
    import optuna

    place = storage_place(settings, folder)
    if place and not place.exists():
        return False
    with _opening(settings):
        names = optuna.get_all_study_names(_storage(settings, folder))
    return (settings.study_name or NAME) in names


def _storage(settings: OptunaSettings, folder: Path) -> BaseStorage:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    place = storage_place(settings, folder)
    if place and place.suffix in JOURNAL:
        return optuna.storages.JournalStorage(JournalFileBackend(str(place)))
    if place is None:
        return optuna.storages.RDBStorage(str(settings.storage))

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(place, check_same_thread=False)

    # a path with ? or % in it would mean another file as part of a URL
    return optuna.storages.RDBStorage(f"{URL}{STUDY}", engine_kwargs={"creator": connect})


@contextmanager
def _opening(settings: OptunaSettings) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of SQLAlchemy and its drivers, of the operating system
        key, given = f"{SECTION}.storage", redacted(settings.storage or STUDY)
        said = redacted(first_line(error))
        raise ConfigError(key, f"cannot be opened: {said}", given=given) from error


def counted(study: Study) -> int:
    """Trials that need not be asked for again: those that ended, and those that someone runs."""
    attributes = [trial.user_attrs for trial in study.get_trials(deepcopy=False)]
    return sum(FOLDER in of_one and GIVEN_UP not in of_one for of_one in attributes)


def running(study: Study) -> list[Trial]:
    """Trials without an end, by number."""
    from optuna.trial import TrialState

    found = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [Trial(t.number, t.params, t.user_attrs.get(FOLDER, "")) for t in found]


def ask(
    study: Study, count: int, settings: OptunaSettings, space: Space, folder: Path
) -> list[Trial]:
    """So many new trials, fewer where a grid has no more.

    Draws follow from the sampler's seed, how many trials there were, and what those that ended came
    to: a study that was stopped asks for the same as one that was not.
    """
    begun = counted(study)
    if settings.sampler["name"] == "grid":  # what was given up is not drawn again either
        count = min(count, int(space.size) - len(study.get_trials(deepcopy=False)))
    wanted, asked = {one.key: _distribution(one) for one in space.searched}, list[Trial]()
    for nth in range(begun, begun + count):
        study.sampler = _sampler(settings, space, nth)
        trial = study.ask(wanted)
        trial.set_user_attr(FOLDER, str(folder))
        asked.append(Trial(trial.number, trial.params, str(folder)))
    return asked


def tell(study: Study, number: int, value: float | None) -> None:
    """What a trial came to; None: it failed."""
    import optuna

    study.sampler = optuna.samplers.RandomSampler(0)  # that of a grid would stop a loop of Optuna's
    if value is None:
        study.tell(number, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(number, value)


def give_up(study: Study, number: int) -> None:
    """A trial that was asked for and has no runs: another takes its place."""
    _note(study, number, GIVEN_UP, True)
    tell(study, number, None)


def take_over(study: Study, number: int, folder: Path) -> None:
    """A trial that is run in a folder from now on."""
    _note(study, number, FOLDER, str(folder))


def _note(study: Study, number: int, key: str, value: object) -> None:
    trial = study.get_trials(deepcopy=False)[number]
    study._storage.set_trial_user_attr(trial._trial_id, key, value)


def importance(study: Study) -> Importance | None:
    """What settings matter, by PED-ANOVA; None with one setting or fewer than fifteen trials.

    How far the best tenth of trials, but five at least, lies from all, setting by setting, as
    shares of the sum (Watanabe et al. 2023, https://arxiv.org/abs/2304.10255). It needs no
    scikit-learn, as fANOVA does.
    """
    import optuna

    done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(done) < ENOUGH or len(done[0].params) < 2:
        return None
    try:
        with quiet():
            best = max(BEST, math.ceil(len(done) / 10))
            evaluator = optuna.importance.PedAnovaImportanceEvaluator(
                target_quantile=best / len(done)
            )
            shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (ValueError, RuntimeError):  # of trials that tell nothing
        return None
    return Importance({key: float(share) for key, share in shares.items()}, len(done), best)


def note_asked(study: Study, asked: Mapping[str, Any]) -> None:
    """Note in a new study what it is begun with."""
    if ASKED not in study.user_attrs:
        study.set_user_attr(ASKED, dict(asked))


def refuse_other_search(
    study: Study, asked: Mapping[str, Any], settings: OptunaSettings, folder: Path
) -> None:
    """Raise UserError when a study was begun with other settings, or not by lrexp.

    Args:
        study: to go on with.
        asked: plain values by key, what is searched under its own.
        settings: that say where it is kept.
        folder: of the sweep.
    """
    before = study.user_attrs.get(ASKED)
    if before is None:
        if study.get_trials(deepcopy=False):
            problem = "holds trials that are not of lrexp"
            raise ConfigError(
                f"{SECTION}.study_name", problem, "choose another name", study.study_name
            )
        return
    keys = [key for key in {**before, **asked} if before.get(key) != asked.get(key)]
    if keys:
        said = [f"{key} was {before.get(key)} and is {asked.get(key)}" for key in keys[:6]]
        named = f", with another {SECTION}.study_name," if settings.storage else ""
        raise UserError(
            f"the study {study.study_name} was begun otherwise:\n  " + "\n  ".join(said) + "\n"
            f"  another folder than {shown_path(folder)}{named} begins a new one"
        )


def is_of_folder(study: Study, folder: Path, numbers: Iterable[int]) -> bool:
    """Whether trials of these numbers were begun in a folder, or in one that is gone: it moved."""
    trials, here = study.get_trials(deepcopy=False), os.path.realpath(folder)
    if max(numbers := list(numbers), default=-1) >= len(trials):
        return False
    places = {trials[number].user_attrs.get(FOLDER, "") for number in numbers}
    return all(os.path.realpath(at) == here or not os.path.isdir(at) for at in places)


def _sampler(settings: OptunaSettings, space: Space, begun: int) -> BaseSampler:
    """A fresh one; its draws depend on the seed and on how many trials there were."""
    import optuna

    given = {key: value for key, value in settings.sampler.items() if key != "name"}
    name, seed = settings.sampler["name"], given.get("seed")
    if seed is not None and name not in SAME:
        text = f"{seed} {begun}".encode()
        given["seed"] = int.from_bytes(hashlib.blake2b(text, digest_size=4).digest())
    if name == "grid":
        if endless := [one for one in space.searched if not one.values]:
            key, text = endless[0].key, endless[0].text
            problem = "has no end of values, and a grid tries all of them"
            raise ConfigError(key, problem, "write A,B,C or range(START,STOP,STEP)", text)
        given["search_space"] = {one.key: one.values for one in space.searched}
    kind = getattr(optuna.samplers, SAMPLERS[name])
    taken = inspect.signature(kind).parameters
    if unknown := [key for key in given if key not in taken]:
        hint = did_you_mean(unknown[0], taken)
        key = f"{SECTION}.sampler.{unknown[0]}"
        raise ConfigError(key, f"is no argument of {SAMPLERS[name]}", hint, given[unknown[0]])
    try:
        return kind(**given)
    except ImportError as error:
        raise UserError(f"hydra/sweeper/sampler={name}: {first_line(error)}") from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{SECTION}.sampler", first_line(error), given=name) from error


def _distribution(one: Open) -> BaseDistribution:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if one.choices:
        return CategoricalDistribution(one.choices)
    if one.whole:
        return IntDistribution(int(one.low), int(one.high), one.log, int(one.step or 1))
    return FloatDistribution(one.low, one.high, one.log, one.step)
