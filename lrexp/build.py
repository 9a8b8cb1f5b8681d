"""The one room that turns a config into live objects."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from lrexp.config import warmup_share
from lrexp.data import Dataset, Source, digits, make_dataset, mnist
from lrexp.draws import draw
from lrexp.errors import ConfigError
from lrexp.models import (
    MLP,
    LayerMap,
    SimpleCNN,
    layer_map,
    load_weights,
    weights_fingerprint,
)
from lrexp.optim import OPTIMIZERS, param_groups
from lrexp.plan import Plan
from lrexp.policies import POLICIES
from lrexp.schedulers import SCHEDULES, with_warmup
from lrexp.schema import Config

log = logging.getLogger(__name__)

MODELS: dict[str, type[SimpleCNN | MLP]] = {"simple_cnn": SimpleCNN, "mlp": MLP}
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Experiment:
    """Everything a run needs, built and placed on its device."""

    device: torch.device
    dataset: Dataset
    model: nn.Module
    layers: LayerMap
    plan: Plan
    optimizer: Optimizer
    base_lr: float
    schedule: list[float]  # s(t) for every step t
    steps_per_epoch: int
    loss: Loss
    weights_fingerprint: str | None  # of the file the model was loaded from


def build(config: Config) -> Experiment:
    """Build an experiment.

    Raises:
        UserError: when the device is not there, data cannot be had, or settings do not fit the
            data or the model. Nothing has been written by then.
    """
    device = choose_device(config.trainer.device)
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    dataset = build_dataset(config, device)
    model, layers = build_model(config, dataset)
    model.to(device)
    plan = POLICIES[config.lr_policy.name](
        layers, config.optimizer.lr, config.optimizer.weight_decay, **_settings(config.lr_policy)
    )
    if not param_groups(model, plan, config.optimizer.lr):
        raise ConfigError("lr_policy", "freezes every parameter: nothing would train")
    if plan.frozen_random:
        log.warning(
            "%d of %d frozen tensors were never loaded from weights (%s): they are random features"
            " and stay so. Load a pretrained network with model.weights.",
            len(plan.frozen_random),
            len(plan.frozen_names),
            ", ".join(plan.frozen_random[:3]) + (", ..." if len(plan.frozen_random) > 3 else ""),
        )
    steps_per_epoch, _ = count_steps(config, len(dataset.train))
    if late := plan.never_reached(config.trainer.epochs) if config.trainer.epochs else []:
        log.warning(
            "%d tensors would first train after the last epoch and stay frozen: %s",
            len(late),
            ", ".join(late[:3]) + (", ..." if len(late) > 3 else ""),
        )
    return Experiment(
        device=device,
        dataset=dataset,
        model=model,
        layers=layers,
        plan=plan,
        optimizer=build_optimizer(config, param_groups(model, plan, config.optimizer.lr)),
        base_lr=config.optimizer.lr,
        schedule=build_schedule(config, len(dataset.train), plan.schedule_restart),
        steps_per_epoch=steps_per_epoch,
        loss=build_loss(config, dataset, device),
        weights_fingerprint=weights_fingerprint(config.model.weights),
    )


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is cuda, else mps, else cpu.

    Raises:
        ConfigError: when this machine does not have it.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
    device = torch.device(name)
    has_index = cuda and (device.index or 0) < torch.cuda.device_count()
    there = {"cpu": True, "mps": mps, "cuda": has_index}
    if not there[device.type]:
        have = [n for n in ("cpu", "mps", "cuda") if there[n]]
        hint = f"here: {', '.join(have)}; auto takes the best of them"
        raise ConfigError("trainer.device", "is not on this machine", hint, name)
    return device


def build_dataset(config: Config, device: torch.device) -> Dataset:
    """The splits of the configured source, on the device."""
    data = config.data
    source: Source = digits() if data.name == "digits" else mnist(data.root, data.download)
    return make_dataset(
        source,
        seed=data.seed,
        classes=data.classes,
        limit=data.limit,
        val_fraction=data.val_fraction,
        test_fraction=getattr(data, "test_fraction", 0.0),
        mean=data.mean,
        std=data.std,
        train_eval_limit=config.trainer.train_eval_limit,
        device=device,
    )


def build_model(config: Config, dataset: Dataset) -> tuple[nn.Module, LayerMap]:
    """The network, initialised from the seed and then from weights, and its layer map."""
    kind = MODELS[config.model.name]
    settings = _settings(config.model)
    weights = settings.pop("weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw(config.seed, "init"))
        model = kind(dataset.image_shape, len(dataset.class_names), **settings)
    loaded: set[str] = set()
    if weights:
        loaded = load_weights(model, weights, dataset.class_names, kind.head_name)
        fresh = [name for name, _ in model.named_parameters() if name not in loaded]
        named = ", ".join(fresh) or "none"
        log.info("loaded %d tensors of %s; fresh: %s", len(loaded), weights, named)
    return model, layer_map(model, kind.head_name, loaded)


def build_optimizer(config: Config, groups: list[dict[str, Any]]) -> Optimizer:
    """The configured torch optimizer over the plan's groups."""
    settings = _settings(config.optimizer)
    settings.pop("lr")
    settings.pop("weight_decay")
    if "betas" in settings:
        settings["betas"] = tuple(settings["betas"])
    return OPTIMIZERS[config.optimizer.name](groups, **settings)


def build_schedule(config: Config, train_size: int, restart: int | None = None) -> list[float]:
    """s(t) for every step of the run, starting anew after `restart` epochs if given."""
    per_epoch, steps = count_steps(config, train_size)
    first = min(steps, (restart or 0) * per_epoch)
    return _schedule(config, first, per_epoch) + _schedule(config, steps - first, per_epoch)


def _schedule(config: Config, steps: int, per_epoch: int) -> list[float]:
    """One schedule with its warmup over so many steps."""
    if not steps:
        return []
    amount, unit = warmup_share(config.scheduler.warmup)
    warmup_steps = round(amount * {"share": steps, "epochs": per_epoch, "steps": 1}[unit])
    if warmup_steps >= steps:
        raise ConfigError(
            "scheduler.warmup",
            f"takes {warmup_steps} steps, training has {steps}",
            given=config.scheduler.warmup,
        )
    settings = _settings(config.scheduler)
    settings.pop("warmup")
    schedule = SCHEDULES[config.scheduler.name]
    return with_warmup(lambda t, e: schedule(t, e, **settings), warmup_steps, steps, per_epoch)


def count_steps(config: Config, train_size: int) -> tuple[int, int]:
    """Steps per epoch and in all. The last, smaller batch of an epoch counts as one."""
    trainer = config.trainer
    per_epoch = -(-train_size // config.data.batch_size)
    per_epoch = min(per_epoch, trainer.limit_train_batches or per_epoch)
    steps = per_epoch * trainer.epochs
    return per_epoch, min(steps, trainer.max_steps or steps)


def build_loss(config: Config, dataset: Dataset, device: torch.device) -> Loss:
    """The loss as optimised: (B, classes) logits and (B,) labels → scalar."""
    classes, weights = len(dataset.class_names), config.loss.class_weights
    weight = None
    if weights == "balanced":
        counts = np.bincount(dataset.train.labels.cpu().numpy(), minlength=classes)
        if not counts.all():
            empty = dataset.class_names[int(np.argmin(counts))]
            raise ConfigError(
                "loss.class_weights", f"class {empty} has no training image", given="balanced"
            )
        weight = torch.tensor(counts.sum() / (classes * counts), dtype=torch.float32, device=device)
    elif weights is not None:
        if len(weights) != classes:
            problem = f"has {len(weights)} numbers for {classes} classes"
            raise ConfigError("loss.class_weights", problem, given=weights)
        weight = torch.tensor(weights, dtype=torch.float32, device=device)
    smoothing = config.loss.label_smoothing
    return lambda logits, labels: F.cross_entropy(
        logits, labels, weight=weight, label_smoothing=smoothing
    )


def _settings(option: Any) -> dict[str, Any]:
    """An option's own settings: all but its name, nested rules kept as they are."""
    return {f.name: getattr(option, f.name) for f in fields(option) if f.name != "name"}
