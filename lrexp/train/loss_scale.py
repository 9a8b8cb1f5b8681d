"""float16: losses are scaled up before their backward, and steps that overflow are skipped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lrexp.train.experiment import Experiment


def loss_scale_of(experiment: Experiment) -> LossScale | None:
    """What steps in place of the experiment's optimizer where it computes in float16."""
    fp16 = experiment.computing.precision == "fp16"
    return LossScale(experiment.optimizer, experiment.device) if fp16 else None


def skipped_row(scale: LossScale | None) -> dict[str, float]:
    """What a row says of the epoch's skipped steps; nothing where none can be."""
    return {"perf/skipped_steps": scale.take_skipped()} if scale else {}


class LossScale:
    """An optimizer whose gradients come from scaled losses: torch's GradScaler, and what it skips.

    Gradients below 6e-8 are 0 in float16, so the loss is multiplied before the backward pass and
    the gradients are divided after it. A step with a gradient that is not finite changes nothing
    but the scale, which halves; it grows again after 2,000 steps without one. Such a step counts as
    one all the same: schedule, dropout and the end of training follow it.

    Of an optimizer with a fused step nobody waits for the device; the step of any other waits to
    know whether it takes place.
    """

    def __init__(self, optimizer: Optimizer, device: torch.device):
        self._optimizer = optimizer
        self._scaler = torch.amp.GradScaler(device.type)
        self._skipped = torch.zeros((), device=device)  # steps since the last `take_skipped`
        self.found = self._skipped  # (): above 0 where the step of now is skipped

    def scale(self, losses: Tensor) -> Tensor:
        """The losses as gradients are to be taken of them."""
        return self._scaler.scale(losses)

    def unscale(self) -> None:
        """Divide the gradients again; before they are measured, clipped or stepped by."""
        self._scaler.unscale_(self._optimizer)
        by_device = self._scaler._found_inf_per_device(self._optimizer)  # of one device
        self.found = next(iter(by_device.values()))

    def step(self) -> None:
        """Step, unless a gradient is not finite, and move the scale."""
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._skipped += self.found

    def take_skipped(self) -> int:
        """How many steps were skipped since the last call; waits for the device."""
        skipped = int(self._skipped)
        self._skipped.zero_()
        return skipped

    def state(self) -> dict[str, Any]:
        """Scale, its growth, and the steps skipped in this epoch; waits for the device."""
        return {**self._scaler.state_dict(), "skipped": int(self._skipped)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self._scaler.load_state_dict(state)
        self._skipped.fill_(state["skipped"])
