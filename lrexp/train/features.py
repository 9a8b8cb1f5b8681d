"""A frozen backbone costs a head: what it makes of an image is computed once, and the head trains.

In a phase of the plan in which all that trains lies in the head, what the network computes below it
is the same for an image at every step and in every evaluation. It is cut at what the head gets,
where trying shows that nothing else decides the numbers; where something does, the phase trains on
images as any other, and the log says why.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import os
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lrexp.data.dataset import Dataset, Split
from lrexp.data.feeding import Computed
from lrexp.optim.groups import quick_hash, set_trainable
from lrexp.plan.plan import Plan
from lrexp.train import measure
from lrexp.train.cutting import AGAIN, reaching, refuse_by_trying, same
from lrexp.train.experiment import Experiment
from lrexp.train.feature_store import FeatureStore, NotCachedError, named_here
from lrexp.train.state import write_put_off

if TYPE_CHECKING:
    from lrexp.train.loop import Trainer

log = logging.getLogger(__name__)

TRIED = 8  # images at most


@dataclass(frozen=True)
class Fed:
    """What a phase trains and evaluates: the network on images, or a part of it on features."""

    train: Split
    train_eval: Split
    val: Split
    cut: str = ""  # name of the module that gets what the splits hold; empty: the whole network
    key: str = ""  # changes with whatever of the network lies below

    @classmethod
    def on_images(cls, dataset: Dataset) -> Fed:
        """The whole network."""
        return cls(dataset.train, dataset.train_eval, dataset.val)

    def part(self, model: nn.Module) -> nn.Module:
        """What of a network makes logits of what the splits hold."""
        return model.get_submodule(self.cut)

    def compiled(self, experiment: Experiment) -> AbstractContextManager[None]:
        """The network is compiled in it, where that is asked for; a head alone never is.

        Compiling would take longer than the head trains, and there is little in it to fuse.
        """
        if self.cut:
            return nullcontext()
        return experiment.computing.compiled(experiment.model)


def choose_fed(trainer: Trainer) -> None:
    """Say what a trainer's coming epoch trains and evaluates on, where that may have changed."""
    current = trainer.current
    finished = trainer.epoch - (current is not None and current.seen is None)
    rows = trainer.experiment.plan.rows
    trained = frozenset(row.name for row in rows if row.trains_after(finished))
    if trainer.cached_for != trained:
        write_put_off(trainer)  # before what was frozen trains
        trainer.cached = trainer.cached_for = None  # if this is interrupted
        trainer.cached = _chosen(trainer, trained, finished)
        trainer.cached_for = trained


def _chosen(trainer: Trainer, trained: frozenset[str], finished: int) -> Fed | None:
    """Features for the epochs after so many finished ones, until something else trains; or None.

    What is to be computed may take as long as an epoch, and can be interrupted.
    """
    experiment, store = trainer.experiment, trainer.features
    data, cuts = experiment.dataset, around_head(experiment.plan, trained)
    if store is None or trainer.settings.cache_features == "never" or not cuts:
        return None
    try:
        _refuse(trainer)
        set_trainable(experiment.model, experiment.plan, finished, experiment.beside)
        experiment.model.train()
        frozen = _frozen_below(trainer, store, cuts, _images_taken(trainer, finished))
        train = frozen.seen(data.train, training=True)
        train_eval, val = frozen.seen(data.train_eval), frozen.seen(data.val)
    except NotCachedError as reason:
        log.info("features are not cached: %s", reason)
        return None
    except Exception as error:  # training on images will say what is wrong, if it is wrong there
        log.info("features are not cached: they cannot be computed", exc_info=error)
        return None
    as_it_is = ", and is not compiled" * (experiment.computing.compile != "none")
    log.info(
        "features are cached: %s trains on what it gets of every image%s", frozen.cut, as_it_is
    )
    return Fed(train, train_eval, val, frozen.cut, frozen.key)


def logits_of(trainer: Trainer, split: Split) -> Tensor:
    """(n, classes) float32 logits of the weights of now, in eval mode."""
    how = trainer.settings.eval_batch_size, trainer.experiment.computing
    return measure.logits_of(*_part_and_split(trainer, split), *how)


def _part_and_split(trainer: Trainer, split: Split) -> tuple[nn.Module, Split]:
    """What makes logits of a split with the weights of now: on features where they still hold."""
    model, fed, data = trainer.experiment.model, trainer.fed, trainer.experiment.dataset
    store, known = trainer.features, {id(data.train_eval), id(data.val)}
    if store is not None and store.shared and data.test is not None:
        known.add(id(data.test))  # it is evaluated once, by every run
    if store is None or not fed.cut or id(split) not in known or key_of(model, fed.cut) != fed.key:
        return model, split
    try:
        return fed.part(model), _Frozen(trainer, store, fed.cut, fed.key).seen(split)
    except NotCachedError as reason:
        log.info("features are not cached: %s", reason)
        return model, split


def around_head(plan: Plan, trained: Iterable[str]) -> list[str]:
    """Modules that hold all that trains: the head, then what it lies in, never the network itself.

    Args:
        plan: of all parameters; its head is one module or there is none.
        trained: names of parameters.
    """
    names = list(trained)
    heads = [row.name.split(".")[:-1] for row in plan.rows if row.head]
    parts: Any = os.path.commonprefix(heads)  # noqa: RUF071 (of lists of names, item by item)
    cuts = (".".join(parts[:i]) for i in range(len(parts), 0, -1))
    return [cut for cut in cuts if names and all(name.startswith(f"{cut}.") for name in names)]


def key_of(model: nn.Module, cut: str) -> str:
    """16 hex digits that change with every tensor below the cut, and with the network's form."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    below = {name: t for name, t in tensors.items() if not name.startswith(f"{cut}.")}
    return _digest(cut, model, quick_hash(below))


def _digest(*what: object) -> str:
    return hashlib.blake2b(repr(what).encode(), digest_size=8).hexdigest()


def _refuse(trainer: Trainer) -> None:
    """What settings and tensors say against it, before anything is tried."""
    experiment = trainer.experiment
    if experiment.dataset.train.augment is not None:
        raise NotCachedError("augmentation shows another image at every epoch")
    if experiment.computing.cuda_graph:
        raise NotCachedError("trainer.cuda_graph=true records steps of the whole network")
    if experiment.device.type not in ("cpu", "cuda"):
        raise NotCachedError(f"features are kept on cpu and cuda, not on {experiment.device.type}")
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        raise NotCachedError("each of several processes sees other images at every epoch")


def _images_taken(trainer: Trainer, finished: int) -> int:
    """How many images are trained on, again and again, until something else trains."""
    experiment, settings = trainer.experiment, trainer.settings
    per_epoch = max(1, experiment.steps_per_epoch)
    epochs = math.ceil(len(experiment.schedule) / per_epoch)
    until = next((turn for turn in experiment.plan.turns(epochs) if turn > finished), epochs)
    batch = trainer.batch_size * settings.accumulate
    of_epoch = min(len(experiment.dataset.train), per_epoch * batch)
    return min((until - finished) * of_epoch, (len(experiment.schedule) - trainer.step) * batch)


def _frozen_below(trainer: Trainer, store: FeatureStore, cuts: list[str], taken: int) -> _Frozen:
    """What is frozen below the first of some modules where the network can be cut.

    Raises:
        NotCachedError: when there is none, or it would not pay for so many images that are taken.
    """
    data, reasons = trainer.experiment.dataset, []
    enough = taken >= len(data.train) + (not store.shared)
    for cut in cuts:
        frozen = _Frozen(trainer, store, cut)
        if not enough and not frozen.known(data.train, training=True):
            few = f"{taken:,} images are taken in this phase, of {len(data.train):,}"
            raise NotCachedError(f"{few}: it would not pay")
        try:
            frozen.refuse()
            return frozen
        except NotCachedError as reason:
            reasons.append(reason)
    raise reasons[-1]


class _Frozen:
    """What of a network is frozen below a cut, and what it makes of a run's images."""

    def __init__(self, trainer: Trainer, store: FeatureStore, cut: str, key: str = ""):
        self._trainer, self._store, self.cut = trainer, store, cut
        self._model, self._computing = trainer.experiment.model, trainer.experiment.computing
        self.key = key or key_of(self._model, cut)

    def known(self, split: Split, training: bool) -> bool:
        """Whether a split has been computed."""
        device = self._trainer.experiment.device
        return self._store.get(self._key(split, training), device) is not None

    def seen(self, split: Split, training: bool = False) -> Split:
        """A split of features in place of images, in batches as they are then taken.

        Args:
            split: of images.
            training: in training mode and batches of that size, else as it is evaluated.
        """
        key = self._key(split, training)
        device = self._trainer.experiment.device
        made = self._store.get(key, device)
        if made is None:
            with self._store.alone(key):
                made = self._store.get(key, device)  # while this one waited
                if made is None:
                    made = self._computed(split, training)
                    self._store.keep(key, made)
        rows = np.arange(len(split))
        return replace(split, pixels=made, rows=rows, normalize=_as_they_are, augment=None)

    def refuse(self) -> None:
        """Raise NotCachedError when what reaches the cut is not all that decides the numbers.

        Found by trying it on a few images, in training mode and in eval mode. Of a network that is
        known by all its tensors, a sample is compared with what it made of the images before.
        """
        train = self._trainer.experiment.dataset.train
        every = [*self._model.named_parameters(remove_duplicate=False)]
        trained = {id(p) for _, p in every if p.requires_grad}
        if any(id(p) in trained and not name.startswith(f"{self.cut}.") for name, p in every):
            raise NotCachedError("a tensor of the head takes part below it, too")
        samples, key = self._store.samples, self._key(train, training=True)
        few, _ = next(train.batches([np.arange(min(AGAIN, len(train)))]))
        if key not in samples:
            images, _ = next(train.batches([np.arange(min(TRIED, len(train)))]))
            for training in (True, False):
                network = copy.deepcopy(self._model).train(training)
                refuse_by_trying(network, self.cut, images, self._computing)
            samples[key] = reaching(self._model, self.cut, few, self._computing)
        elif not same(samples[key], reaching(self._model, self.cut, few, self._computing)):
            raise NotCachedError("another network has the same tensors and makes something else")

    def _computed(self, split: Split, training: bool) -> Computed:
        device, started = self._trainer.experiment.device, time.perf_counter()
        made, fit, done = None, [], 0
        self._model.train(training)
        try:
            for images, _ in split.in_order(self._size(training)):
                features = reaching(self._model, self.cut, images, self._computing)
                if made is None:
                    shape = (len(split), *features.shape[1:])
                    made = self._store.room(shape, features.dtype, device)
                made.values[done : done + len(features)] = features
                fit.append(features.isfinite().all())
                done += len(features)
        finally:
            self._model.train()
        if made is None or not torch.stack(fit).all():
            raise NotCachedError("what it makes of some images is not finite")
        log.info("features of %d images in %.1f s", len(split), time.perf_counter() - started)
        return made

    def _size(self, training: bool) -> int:
        """Images of a batch at most."""
        trainer = self._trainer
        return trainer.batch_size if training else trainer.settings.eval_batch_size

    def _key(self, split: Split, training: bool) -> str:
        """Changes with the frozen part, its mode, and with images, normalisation and batches."""
        data, model = self._trainer.experiment.dataset, self._model
        settings, computing = self._trainer.settings, self._computing
        of_pixels = not data.fingerprint.startswith("labels-")
        pixels = "" if of_pixels else named_here(split.pixels)
        return _digest(
            self.key,
            [m.training for m in model.modules()] if training else None,
            (data.fingerprint, pixels),
            (data.image_shape, data.mean, data.std),
            hashlib.blake2b(split.ids.tobytes()).hexdigest(),
            self._size(training),
            (str(self._trainer.experiment.device), settings.deterministic),
            (computing.precision, computing.channels_last),
        )


def _as_they_are(features: Tensor) -> Tensor:
    return features
