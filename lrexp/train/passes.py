"""What a step computes: its batches as they are fed, and forward, loss and backward of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lrexp.config.errors import UserError
from lrexp.data import draws
from lrexp.data.generators import begin_at
from lrexp.optim.groups import named
from lrexp.optim.optimizers import recalibrate_batchnorm
from lrexp.train.first_numbers import fault_of_step
from lrexp.train.measure import correct_images
from lrexp.train.recorded import Pass, pass_of

if TYPE_CHECKING:
    from lrexp.train.loop import Trainer

# of a batch its rows (B,) in the training split, images (B, C, H, W) and labels, and where what the
# network draws begins
Batch = tuple[np.ndarray, tuple[Tensor, Tensor], int]
Group = Sequence[np.ndarray]  # rows (B,) of each batch that a step is made of, those of all ranks


class Passes:
    """Feeds the steps of a run, and leaves the gradients of each with the weights.

    Args:
        trainer: whose steps they are, with its own network, numbers and ranks.
    """

    def __init__(self, trainer: Trainer):
        self._trainer = trainer
        self._pass: Pass | None = None  # of the phase that is being trained

    def begin(self) -> list[Tensor]:
        """What trains in the epoch that begins, or goes on; the passes to come are of that."""
        trainer, experiment = self._trainer, self._trainer.experiment
        groups = experiment.optimizer.param_groups
        self._trained = {name: p for name, p in named(groups) if p.requires_grad}
        weights, cut = list(self._trained.values()), trainer.fed.cut
        trainer.ranks.begin_phase(experiment)
        called = trainer.ranks.forward_of(experiment)
        called = trainer.fed.part(experiment.model) if cut else called
        self._pass = pass_of(experiment, called, weights, trainer.loss_scale, self._pass)
        return weights

    def fed(self, left: Sequence[Group]) -> Iterator[tuple[Group, Iterable[Batch]]]:
        """The steps of some groups of batches, and this rank's share of each.

        Of every step its first batch has come by then; the others are taken while gradients add up.
        """
        trainer, each = self._trainer, self._trainer.settings.accumulate
        rank, share = trainer.ranks.rank, trainer.ranks.share
        shares = [[share(batch) for batch in group] for group in left]
        seeds = dropout_seeds(trainer.seed, trainer.step, len(left), each, rank)
        batches = trainer.fed.train.batches([*chain.from_iterable(shares)], trainer.epoch)
        for first, group, own, drawn in zip(batches, left, shares, seeds, strict=True):
            yield group, zip(own, chain((first,), batches), drawn, strict=False)

    def gradients(self, group: Group, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        """Leave the gradients of one step with the weights; its loss (), images that are right ().

        Of several ranks each has the same gradients, and its share of loss and images.

        Raises:
            UserError: when something of a run's first step is not a finite number, or when what
                takes part in a step of several ranks is not what did before.
        """
        trainer, experiment, ranks = self._trainer, self._trainer.experiment, self._trainer.ranks
        losses, seen = ranks.losses_of(experiment, group), []
        for i, (rows, (images, labels), seed) in enumerate(batches):
            assert self._pass is not None
            begin_at(seed, experiment.device, torchs_alone=not experiment.own_network)
            with ranks.exchanging(i == len(group) - 1):
                loss, logits = self._pass(losses[i], images, labels, add=i > 0)
            if i == len(group) - 1:
                ranks.refuse_skipping()
            if not trainer.step:
                self._look_at_first(rows, images, logits, loss)
            right = correct_images(logits, labels)
            seen.append((loss, right if ranks.counts(group[i]) else 0 * right))
        if len(seen) == 1 and not ranks.several:
            return seen[0]
        loss, correct = (reduce(torch.add, each) for each in zip(*seen, strict=True))
        return ranks.share_of(loss), correct

    def recalibrate(self) -> None:
        """Measure statistics of BatchNorm anew, on up to 50 batches of training images."""
        trainer, train = self._trainer, self._trainer.fed.train
        order = draws.order(trainer.seed, "recalibrate", train.ids, trainer.epoch)
        parts = draws.cut(order, trainer.batch_size)[:50]
        several = [part for part in parts if len(part) > 1]  # one image may be no statistics
        images = (images for images, _ in train.batches(several or parts))
        part = trainer.fed.part(trainer.experiment.model)
        recalibrate_batchnorm(part, images, trainer.experiment.computing.forward(part))

    def _look_at_first(
        self, rows: np.ndarray, images: Tensor, logits: Tensor, loss: Tensor
    ) -> None:
        """Raise UserError when something of the first step is not a finite number."""
        trainer = self._trainer
        found = {name: p.grad for name, p in self._trained.items() if p.grad is not None}
        if trainer.loss_scale:  # which skips such a step, and scales less
            found = {}
        fault = fault_of_step(trainer.experiment, rows, images, logits, loss, found)
        if fault := trainer.ranks.fault_of_any(fault, loss):
            raise UserError(fault)


def dropout_seeds(seed: int, first_step: int, count: int, each: int, rank: int) -> list[list[int]]:
    """What makes dropout, and all that a network draws, a function of (seed, step, micro, rank).

    By step; micro is which of its `each` batches. The first one's of the first rank is of (seed,
    step) alone, and the first rank's others of (seed, step, micro).
    """
    steps = np.arange(first_step, first_step + count)
    counters = [(micro, rank) if rank else (micro,) * (micro > 0) for micro in range(each)]
    drawn = [draws.draw_each(seed, "dropout", steps, *micro) for micro in counters]
    return (np.stack(drawn, axis=1) >> np.uint64(1)).tolist()
