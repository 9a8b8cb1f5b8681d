"""What members of a stack would do, tried for a step before any of them trains."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from lrexp.config.errors import out_of_memory
from lrexp.data.generators import begun_at
from lrexp.data.transforms import Normalize
from lrexp.grid.stack.model import without_slow_warnings
from lrexp.grid.stack.trainer import StackedTrainer, StackError
from lrexp.train.forward import ANEW, draws_from, repeats_itself
from lrexp.train.loop import Trainer

log = logging.getLogger(__name__)

# Of a norm, between a step alone and stacked: in float64, and where a network cannot be in that.
TOLERANCE, COARSE = 1e-4, 1e-2
IMAGES = 8  # of a step at most: enough to see a difference, and soon done


def tried(trainer: Trainer) -> str | None:
    """Why a network cannot be trained in a stack, in a sentence; None when it can.

    A step of two copies, stacked and each alone, as training makes it: the same loss, augmentation
    and clipping, in every mode that the plan puts the network into; for members that see the same
    images, and for such as see their own. The trainer is left as it was.
    """
    with without_slow_warnings(), begun_at(0, trainer.experiment.device):
        for dtype in (torch.float64, next(trainer.experiment.model.parameters()).dtype):
            try:
                _Trial(trainer, dtype).alone()
            except Exception as error:
                log.info("a step in %s", dtype, exc_info=error)
                continue
            try:
                return _tried(trainer, dtype)
            except Exception as error:
                log.info("a stacked step in %s", dtype, exc_info=error)
                return f"the network cannot be stacked: {in_our_words(error)}"
    return "a step of it fails by itself, as its run will say"


def in_our_words(error: Exception) -> str:
    """Why something cannot be stacked; what torch says of it is for its own developers."""
    said = str(error)
    if isinstance(error, StackError):
        return said
    if out_of_memory(error):
        return "there is not enough memory to try it"
    if "random" in said:
        return "it draws random numbers, and they would not be those of a run of its own"
    if "data-dependent" in said:
        return "it decides by values of tensors, of which a stack has several at a time"
    return "one of its operations, or of the loss, has no form for several members at a time"


def _tried(trainer: Trainer, dtype: torch.dtype) -> str | None:
    """Why the network cannot be stacked, found by stacking it; None when it can be.

    Members that see the same images, and such as see their own, in every mode that the plan puts
    the network into.
    """
    experiment = trainer.experiment
    if not repeats_itself(*_Trial(trainer, dtype).network()[:2]):
        return f"the network {ANEW}"
    epochs = math.ceil(len(experiment.schedule) / experiment.steps_per_epoch)
    for epoch in experiment.plan.turns(epochs):
        trial = _Trial(trainer, dtype, epoch)
        if reason := trial.draws() or trial.differs(same_images=False):
            return reason
    return _Trial(trainer, dtype).differs(same_images=True)


class _Trial:
    """One step of two members in an epoch, as training makes it, and of each alone.

    In float64, where the network can be in that, so that what it makes of rounding is not taken for
    a difference; at rate 1 by plain SGD, whose step is the gradient.
    """

    def __init__(self, trainer: Trainer, dtype: torch.dtype, epoch: int = 0):
        self._trainer, self._dtype, self._epoch = trainer, dtype, epoch
        self._tolerance = TOLERANCE if dtype == torch.float64 else COARSE
        dataset = trainer.experiment.dataset
        parts = {part: getattr(dataset, part) for part in ("train", "train_eval", "val")}
        self._dataset = replace(
            dataset,
            **{
                part: replace(split, normalize=_To(dtype, split.normalize))
                for part, split in parts.items()
            },
        )

    def member(self, k: int, seed: int) -> Trainer:
        """The k-th one, none of them like another."""
        experiment = self._trainer.experiment
        model = copy.deepcopy(experiment.model).to(self._dtype)
        tensors = dict(model.named_parameters())
        with torch.no_grad():
            for tensor in tensors.values():
                tensor.mul_(1 + k / 100)
        names = [name for group in experiment.optimizer.param_groups for name in group["names"]]
        params = [tensors[name] for name in names]
        group = {"params": params, "names": names, "name": "trial", "lr_scale": 1.0}
        own = replace(
            experiment,
            model=model,
            dataset=self._dataset,
            optimizer=torch.optim.SGD([group], lr=1.0),
            base_lr=1.0,
            schedule=[1.0],
            momenta=[],
            plateau=None,
        )
        images = min(IMAGES, self._trainer.batch_size)
        made = Trainer(own, self._trainer.settings, images, seed)
        made.epoch = self._epoch
        return made

    def alone(self) -> None:
        """A step of one member."""
        self.member(0, self._trainer.seed).train_epoch()

    def network(self) -> tuple[nn.Module, Tensor, Tensor]:
        """A network as it is in the epoch, images and their labels."""
        member = self.member(0, self._trainer.seed)
        member.begin_epoch()
        train = member.experiment.dataset.train
        chosen = np.arange(min(member.batch_size, len(train)))
        images, labels = next(train.batches([chosen], member.epoch))
        return member.experiment.model, images, labels

    def draws(self) -> str | None:
        """What it draws."""
        network, images, labels = self.network()
        found = draws_from(network, self._trainer.experiment.loss, images, labels)
        return found and (
            f"the network draws random numbers (from {found}), and stacked they would not be those"
            " of a run of its own"
        )

    def differs(self, same_images: bool) -> str | None:
        """What is not the same when stacked."""
        seed = self._trainer.seed
        seeds = [seed, seed] if same_images else [seed, seed + 1]
        stacked = [self.member(k, s) for k, s in enumerate(seeds)]
        before = [_flat(dict(t.experiment.model.named_parameters())) for t in stacked]
        seen_by = StackedTrainer(stacked).train_epoch()
        for k, seen in enumerate(seen_by):
            member = self.member(k, seeds[k])
            own = member.train_epoch()
            pair = [trainer.experiment.model for trainer in (stacked[k], member)]
            compared = {
                "losses": [torch.tensor(row["train/loss"]).double() for row in (seen, own)],
                "steps": [_flat(dict(m.named_parameters())) - before[k] for m in pair],
                "running statistics": [_flat(dict(m.named_buffers())) for m in pair],
            }
            for what, (found, expected) in compared.items():
                noise = torch.finfo(self._dtype).eps * before[k].norm()
                near = (found - expected).norm() <= self._tolerance * expected.norm() + noise
                if not expected.isfinite().all():
                    return f"the network's {what} are not finite numbers"
                if not near:  # NaN is not
                    return f"the network's {what} are others when it is stacked"
        return None


@dataclass(frozen=True)
class _To:
    """Normalised images as another type of number."""

    dtype: torch.dtype
    normalize: Normalize

    def __call__(self, images: Tensor) -> Tensor:
        return self.normalize(images).to(self.dtype)


def _flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """Tensors as one vector in order of names."""
    chosen = [tensors[name].detach().reshape(-1).double().cpu() for name in sorted(tensors)]
    return torch.cat([torch.zeros(1), *chosen])
