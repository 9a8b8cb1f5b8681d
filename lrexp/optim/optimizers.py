"""Optimizers: from an option's settings to a torch optimizer over the plan's groups.

Whatever the class, a group's `lr` and `weight_decay` are what the plan and the schedule say. What
cannot keep that promise is refused here, with the reason.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Set
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from lrexp.config.checks import REFUSED_ARGS
from lrexp.config.errors import ConfigError, did_you_mean
from lrexp.optim.groups import named
from lrexp.plan.plan import Plan

Groups = list[dict[str, Any]]


def adafactor(
    groups: Groups,
    *,
    lr: float,
    beta2_decay: float,
    eps_gradient: float | None,
    eps_scale: float,
    clip_threshold: float,
) -> Optimizer:
    """torch's Adafactor: a step of min(lr, 1/√t) × max(eps_scale, RMS(w)), factored second moment.

    Source: Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235.

    Args:
        groups: parameter groups.
        lr: the base rate, which the groups' own rates go before.
        beta2_decay: β₂ at step t is 1 − t^beta2_decay.
        eps_gradient: added to the second moment; the smallest number of the type when None.
        eps_scale: least scale of a parameter.
        clip_threshold: updates with a larger root mean square are scaled down to it.
    """
    eps = (eps_gradient, eps_scale)
    return torch.optim.Adafactor(groups, lr=lr, beta2_decay=beta2_decay, eps=eps, d=clip_threshold)


class MuonWithAdamW(Optimizer):
    """Muon for the weight matrices of hidden layers, AdamW for every other parameter.

    One list of groups, one state: each step hands every group's rate and weight decay to torch's
    Muon for its matrices and to torch's AdamW for the rest of the same group.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; with
    adjust_lr=match_rms_adamw updates have AdamW's size, so that one rate fits both (Liu et al.
    2025, https://arxiv.org/abs/2502.16982).

    Args:
        groups: parameter groups with `names`.
        matrices: names of the parameters for Muon, two-dimensional each.
        momentum: of Muon.
        nesterov: of Muon.
        ns_steps: Newton-Schulz iterations.
        adjust_lr: how Muon's rate follows a matrix's shape, torch's `adjust_lr_fn`.
        adamw_betas: of AdamW.
        adamw_eps: of AdamW.

    Raises:
        ConfigError: when no parameter is for Muon.
    """

    def __init__(
        self,
        groups: Groups,
        matrices: Set[str],
        *,
        momentum: float,
        nesterov: bool,
        ns_steps: int,
        adjust_lr: str,
        adamw_betas: list[float],
        adamw_eps: float,
    ):
        super().__init__(groups, {})
        muon = partial(
            torch.optim.Muon,
            momentum=momentum,
            nesterov=nesterov,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr,
        )
        beta1, beta2 = adamw_betas
        adamw = partial(torch.optim.AdamW, betas=(beta1, beta2), eps=adamw_eps)
        self._parts: list[tuple[Optimizer, Groups]] = []
        for make, for_muon in ((muon, True), (adamw, False)):
            shares = [
                (group, [p for name, p in named([group]) if (name in matrices) == for_muon])
                for group in self.param_groups
            ]
            shares = [(group, params) for group, params in shares if params]
            if not shares and for_muon:
                hint = "Muon trains weight matrices of hidden linear layers; choose optimizer=adamw"
                raise ConfigError("optimizer", "finds no matrix that trains", hint, "muon")
            if shares:
                part = make([{"params": params} for _, params in shares])
                part.state = self.state
                self._parts.append((part, [group for group, _ in shares]))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of both parts at the rates the groups have now."""
        for part, groups in self._parts:
            for own, group in zip(part.param_groups, groups, strict=True):
                own["lr"], own["weight_decay"] = group["lr"], group["weight_decay"]
            part.step()


def part_of(optimizer: Optimizer, weight: Tensor) -> Optimizer:
    """The optimizer that steps a weight: itself, but of `MuonWithAdamW` one of its two."""
    if not isinstance(optimizer, MuonWithAdamW):
        return optimizer
    parts = (part for part, _ in optimizer._parts)
    return next(
        part for part in parts if any(p is weight for g in part.param_groups for p in g["params"])
    )


def muon(groups: Groups, model: nn.Module, plan: Plan, **settings: Any) -> Optimizer:
    """Muon for the hidden layers of this model, AdamW for the rest: see `MuonWithAdamW`."""
    return MuonWithAdamW(groups, hidden_matrices(model, plan), **settings)


def hidden_matrices(model: nn.Module, plan: Plan) -> set[str]:
    """Names of the two-dimensional weights of linear layers, attention included, but the head's.

    Embeddings, position tables, convolutions, biases, norms and the head are what Muon's authors
    leave to AdamW.
    """
    head = {row.name for row in plan.rows if row.head}
    found = set()
    for prefix, module in model.named_modules():
        for name, tensor in module.named_parameters(prefix, recurse=False):
            matrix = tensor.ndim == 2 and name.endswith("weight")
            if matrix and name not in head and not isinstance(module, nn.Embedding):
                found.add(name)
    return found


def from_library(library: str, groups: Groups, lr: float, name: str, args: dict) -> Optimizer:
    """Any class of torch.optim, or any name of timm's registry.

    Args:
        library: "torch" or "timm".
        groups: parameter groups.
        lr: the base rate, which the groups' own rates go before.
        name: a class of torch.optim, or one of timm.optim.list_optimizers().
        args: keyword arguments for it; lists become tuples.

    Raises:
        ConfigError: when there is none of that name, it cannot be used here, or it refuses `args`.
    """
    if reason := REFUSED.get(name.lower()):
        raise ConfigError("optimizer.name", reason, given=name)
    make = _class_named(library, name)
    parameters = inspect.signature(make).parameters
    for key in args:
        if key not in parameters:
            allowed = set(parameters) - REFUSED_ARGS.keys()
            problem = f"{name} has no such argument"
            raise ConfigError(f"optimizer.args.{key}", problem, did_you_mean(key, allowed))
        _check_argument(key, args[key], parameters[key].default)
    if "weight_decay" not in parameters and any(group["weight_decay"] for group in groups):
        raise ConfigError("optimizer.weight_decay", f"{name} has no weight decay", "set it to 0")
    kind: Any = make.func if isinstance(make, partial) else make
    if inspect.signature(kind.step).parameters["closure"].default is inspect.Parameter.empty:
        raise ConfigError("optimizer.name", NEEDS_CLOSURE, given=name)
    if kind is torch.optim.Muon:
        other = [n for n, p in named(groups) if p.ndim != 2]
        if other:
            problem = f"Muon trains matrices only, and {other[0]} is none"
            hint = "optimizer=muon gives the rest to AdamW"
            raise ConfigError("optimizer.name", problem, hint, name)
    plain = {key: tuple(v) if isinstance(v, list) else v for key, v in args.items()}
    if not {"fused", "foreach", "differentiable"} & args.keys():  # how it steps is the user's say
        plain |= stepping_on(groups[0]["params"][0].device, kind)
    try:
        if library == "torch":
            return make(groups, lr=lr, **plain)
        timm: Any = importlib.import_module("timm.optim")
        return timm.create_optimizer_v2(groups, name, lr=lr, **plain)
    except (ValueError, TypeError, RuntimeError, AssertionError, ImportError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError("optimizer.args", f"{name}: {said}", given=args or "") from error


FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)  # that can step in one kernel


def stepping_on(device: torch.device, kind: Any) -> dict[str, bool]:
    """Arguments that let torch's class step at its best on a device.

    On a GPU one kernel, where it has such a step; torch itself takes its foreach step for others.
    On the CPU the plain loop over tensors: torch takes it too, but asks for the kind of every
    tensor at every step before, which takes as long as a small layer. Either of the others would
    move the last bits of every run there.
    """
    if device.type == "cuda":
        return {"fused": True} if kind in FUSED else {}
    ours = inspect.isclass(kind) and kind.__module__.startswith("torch.optim.")
    return {"foreach": False} if ours and "foreach" in inspect.signature(kind).parameters else {}


class PlainSteps:
    """Steps as an optimizer does, but for what torch wraps around its `step`.

    That names it to a profiler and asks for hooks, which takes as long as a small layer. An
    optimizer with hooks, or a step of its own, is left as it is; so are all while a profiler runs.

    Args:
        optimizer: that steps.
    """

    def __init__(self, optimizer: Optimizer):
        plain = getattr(type(optimizer).step, "__wrapped__", None)
        hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
        asked_for = hooks or _global_optimizer_pre_hooks or _global_optimizer_post_hooks
        profiled = torch.autograd._profiler_enabled()  # pyright: ignore[reportPrivateImportUsage]
        watched = asked_for or profiled or "step" in vars(optimizer)
        self.step = optimizer.step if plain is None or watched else MethodType(plain, optimizer)


any_torch, any_timm = (partial(from_library, library) for library in ("torch", "timm"))


def _class_named(library: str, name: str) -> Callable[..., Optimizer]:
    """torch's class, or timm's with the defaults that belong to the name there."""
    module: Any = importlib.import_module(f"{library}.optim")
    if library == "timm":
        pick, names = module.get_optimizer_class, [str(key) for key in module.list_optimizers()]
    else:
        kinds: Any = {key: kind for key, kind in vars(module).items() if inspect.isclass(kind)}
        pick = kinds.__getitem__
        names = [key for key, kind in kinds.items() if issubclass(kind, Optimizer)]
        names.remove("Optimizer")
    if name not in names:
        hint = did_you_mean(name, [key for key in names if key.lower() not in REFUSED])
        raise ConfigError("optimizer.name", f"{library}.optim has none of that name", hint, name)
    try:
        return pick(name)
    except (AssertionError, ImportError) as error:
        raise ConfigError("optimizer.name", str(error), given=name) from error


def _check_argument(key: str, value: Any, default: Any) -> None:
    """Refuse a value of another kind than the default of its argument."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, bool):
        wanted = "" if isinstance(value, bool) else "true or false"
    elif isinstance(default, int | float):
        wanted = "" if number else "a number"
    elif isinstance(default, tuple):
        fits = isinstance(value, list) and len(value) == len(default)
        wanted = "" if fits else f"a list of {len(default)} numbers"
    else:
        return
    if wanted:
        raise ConfigError(f"optimizer.args.{key}", f"must be {wanted}", given=value)


NEEDS_CLOSURE = "needs a closure that evaluates the loss several times a step; a step here has one"
# What torch and timm offer and cannot be used here, by its lower-case name.
REFUSED = {
    "lbfgs": NEEDS_CLOSURE,
    "sparseadam": "is for sparse gradients, which no network here has",
    "rprop": "reads its rate once, before the first step: no policy or schedule would act on it",
    **dict.fromkeys(
        ("asgd", "madgrad", "madgradw", "rmsproptf"),
        "does not step by the rate of the moment: no policy or schedule would act on it in time",
    ),
    "adahessian": "needs second derivatives, which a step here does not make",
    **dict.fromkeys(
        ("kron", "kronw", "kronc"),
        "draws from a random stream of its own, so that a run could not go on to the same bits",
    ),
}


def check_plan(optimizer: Optimizer, name: str, plan: Plan, steps: int) -> list[str]:
    """Whether an optimizer does what a plan says.

    Args:
        optimizer: over the plan's groups.
        name: of the option, or the library's own.
        plan: of the run.
        steps: optimizer steps of the run.

    Returns:
        Warnings, a sentence each.

    Raises:
        ConfigError: when it would not do what the plan says.
    """
    unequal = len({group["lr_scale"] for group in optimizer.param_groups}) > 1
    moving = any(row.measured or row.g or row.trainable_from for row in plan.rows)
    if "prodigy" in name.lower() and (unequal or moving):
        problem = "estimates one rate for all layers, so that the policy's ratios would be lost"
        raise ConfigError("optimizer.name", problem, "choose lr_policy=uniform", name)
    if averages_weights(optimizer):
        later = [
            row.name
            for row in plan.rows
            if not row.frozen and (row.trainable_from or row.trainable_until is not None)
        ]
        if later:
            problem = f"averages from the first step, and the plan freezes {later[0]} for a time"
            raise ConfigError("optimizer", problem, "choose another optimizer or lr_policy", name)
    top = max(group["lr"] for group in optimizer.param_groups)
    if (
        isinstance(optimizer, torch.optim.Adafactor)
        and unequal
        and steps > (limit := round(1 / top**2))
    ):
        return [
            f"Adafactor steps by at most 1/sqrt(t): after step {limit:,} of {steps:,}"
            " the fastest layers no longer learn at the policy's ratio; lower optimizer.lr"
        ]
    return []


def averages_weights(optimizer: Optimizer) -> bool:
    """Whether the weights to evaluate are an average, apart from those gradients are taken at."""
    return hasattr(optimizer, "train") and hasattr(optimizer, "eval")


def use_training_weights(optimizer: Any) -> None:
    """Put the weights that gradients are taken at into the model; nothing for most optimizers."""
    if averages_weights(optimizer):
        optimizer.train()


def use_averaged_weights(optimizer: Any) -> None:
    """Put the averaged weights into the model; nothing for most optimizers."""
    if averages_weights(optimizer):
        optimizer.eval()


@torch.no_grad()
def recalibrate_batchnorm(
    model: nn.Module,
    batches: Iterable[Tensor],
    forward: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Measure BatchNorm statistics anew for the weights the model holds now, and go to eval mode.

    The mean over batches of each batch's statistics, as torch.optim.swa_utils.update_bn takes it;
    all else is in eval mode, as it will be when they are used. Frozen norms keep theirs.

    Args:
        model: changed in place.
        batches: of training images, each (B, C, H, W).
        forward: computes the model; None: as it is.
    """
    model.train()
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
    ]
    model.eval()
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
        norm.train()
    for images in batches:
        (forward or model)(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
