"""Certify a training loop, anybody's: what happened to every tensor is what was meant."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from lrexp.config.errors import UserError
from lrexp.plan.plan import Plan
from lrexp.use.certified import Finding, NotAsMeantError, Report
from lrexp.use.judged import check_names, judged
from lrexp.use.watching import Watch

log = logging.getLogger(__name__)


@contextmanager
def certify(
    model: nn.Module,
    optimizer: Any = None,
    plan: Plan | None = None,
    steps: int | None = None,
    raises: bool = True,
) -> Iterator[Report]:
    """Watch any training loop and say what it did to every tensor that was not meant.

    Without a plan, what requires a gradient at the end is meant to train and the rest to stay;
    rates of groups with `lr_scale` are to relate by it. With a plan, both are what its rows say.
    Rates are those that groups hold when the optimizer steps.

    No copy of a tensor is kept, and a GPU is waited for at the beginning and the end alone. A rate
    of 0 throughout, steps that a scaler skipped, gradients of exactly 0 and sharded parameters
    are not judged.

    >>> from torch import nn, ones, optim
    >>> net = nn.Linear(2, 1)
    >>> sgd = optim.SGD(net.parameters(), lr=0.1)
    >>> with certify(net, sgd) as report:
    ...     net(ones(1, 2)).sum().backward()
    ...     sgd.step()
    >>> print(report)
    certify: 1 step of SGD: as meant
    tensors            group    planned  held  trains  gradient  moved
    weight and 1 more  group 0  0.1      0.1   yes     yes       yes

    Args:
        model: any module; compiled, DDP and the like are looked through.
        optimizer: a torch optimizer, a wrapper of one with its `param_groups` (accelerate,
            Lightning), or a list of them. None: whichever steps a tensor of the model.
        plan: what is meant, by parameter name.
        steps: judge after so many optimizer steps, and let go; None: at the end of the block.
        raises: whether a fault raises; a note never does.

    Yields:
        A report: data when judged, and `print(report)`.

    Raises:
        NotAsMeantError: with the report, when it has a fault.
        UserError: for an optimizer without groups, or a plan of another model.
    """
    optimizers = list(optimizer) if isinstance(optimizer, list | tuple) else optimizer
    if optimizers is not None and not isinstance(optimizers, list):
        optimizers = [optimizers]
    for one in optimizers or ():
        if not isinstance(getattr(one, "param_groups", None), list):
            raise UserError(
                f"certify: {type(one).__name__} is no torch optimizer: it has no param_groups"
            )
    if plan is not None and not isinstance(plan, Plan):
        raise UserError(f"certify: {plan!r} is no plan; lrexp.plan_of makes one")
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise UserError(f"certify: steps={steps!r} is no number of steps from 1 on")
    watch = Watch(model, optimizers, plan)
    check_names(watch)
    certified = _Certified(watch, steps, raises)
    try:
        yield certified.report
    except BaseException:
        try:  # what was seen so far; the loop's own error is the one to be shown
            certified.judge()
        except Exception as error:
            log.info("certify", exc_info=error)
        raise
    certified.end()


class _Certified:
    """A watch from its first hook to its report."""

    def __init__(self, watch: Watch, steps: int | None, raises: bool):
        self.report = Report()
        self._watch, self._steps, self._raises = watch, steps, raises
        self._hooks = (
            register_optimizer_step_pre_hook(_untraced(watch.before)),
            register_optimizer_step_post_hook(_untraced(self._after)),
        )

    def end(self) -> None:
        """Judge, unless that was done, and raise what is a fault."""
        if not self.report.judged:
            self.judge()
            if self._raises and self.report.faults:
                raise NotAsMeantError(self.report)

    def judge(self) -> None:
        """Take the hooks away and fill the report, once."""
        if self.report.judged:
            return
        for hook in self._hooks:
            hook.remove()
        watch, report = self._watch, self.report
        report.steps = watch.steps
        report.optimizers = [stepped.title for stepped in watch.stepped]
        report.rows, report.findings = judged(watch)
        if self._steps is not None and watch.steps < self._steps:
            said = f"{watch.steps} of the {self._steps} steps to be watched were made"
            advice = "train as many within the block"
            report.findings.append(Finding("fewer_steps", False, (), said, advice))
        report.judged = True

    def _after(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._watch.after(optimizer, args, kwargs) and self._watch.steps == self._steps:
            self.end()


def _untraced(hook: Any) -> Any:
    """The hook, that a compiled step calls as it is; where nothing compiles, nothing to do."""
    return torch.compiler.disable(hook) if "torch._dynamo" in sys.modules else hook
