"""A whole run: everything it needs, on its device, or a preview of it."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lrexp.build.computing import build_computing, refuse_what_fails
from lrexp.build.data import Datasets, build_dataset, stated_data
from lrexp.build.loss import build_loss, check_monitors
from lrexp.build.model import build_model
from lrexp.build.own import build_metrics
from lrexp.build.ranks import check_for_ranks, notes_of_ranks, shared_by, synchronized
from lrexp.build.rates import build_rates
from lrexp.build.schedule import Steps, count_batches, count_steps
from lrexp.config.errors import ConfigError
from lrexp.config.saved import read_saved_config
from lrexp.config.schema import Config, settings_where
from lrexp.config.schema.training import BUNDLED
from lrexp.data.dataset import Dataset
from lrexp.data.draws import cut
from lrexp.data.generators import begun_at
from lrexp.folder.layout import CONFIG
from lrexp.judge.settings import monitor_notes
from lrexp.models.flow import parameters_beside
from lrexp.models.pretrained import expected_input, pretrained_file
from lrexp.models.weights import weights_fingerprint
from lrexp.optim.groups import set_trainable
from lrexp.plan.plan import Plan
from lrexp.plan.preview import Preview, group_rates, shown_steps
from lrexp.train.experiment import Experiment
from lrexp.train.forward import ANEW, repeats_itself
from lrexp.train.ranks import ALONE, Ranks

DETERMINISM_COST = (
    "deterministic algorithms alone: the same bits in every run on the same machine; slower on a"
    " GPU, and an operation without such a form ends the run. On the CPU they change nothing"
)
DEFAULT_THREADS = torch.get_num_threads()


def build(config: Config, datasets: Datasets | None = None, ranks: Ranks = ALONE) -> Experiment:
    """Build an experiment.

    Args:
        config: of the run.
        datasets: of earlier runs in this program; what they have is not read again.
        ranks: the processes that are to train it together.

    Raises:
        UserError: when the device is not there, data cannot be had, or settings do not fit the
            data or the model. Nothing has been written by then.
    """
    device = choose_device(ranks.device_name(config.trainer.device))
    computing = build_computing(config.trainer, device)
    check_for_ranks(config.trainer, ranks, device)
    torch.set_num_threads(config.trainer.threads or ranks.threads or DEFAULT_THREADS)
    set_deterministic(config.trainer.deterministic)
    read = build_dataset if datasets is None else datasets.get
    dataset = read(config, device)
    check_monitors(config, len(dataset.class_names))
    model, layers = build_model(config, dataset)
    model.to(device)
    if config.trainer.sync_batchnorm:
        model = synchronized(model)
    refuse_what_fails(config, computing, model, dataset)
    if computing.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    notes = (*dataset.notes, *_input_notes(config, dataset), *_model_notes(config, model, dataset))
    steps = count_steps(config, len(dataset.train))
    rates = build_rates(config, model, layers, steps)
    notes += (*_step_notes(config, model, rates.plan.turns(steps.epochs), rates.plan),)
    dataset = replace(dataset, notes=(*notes, *notes_of_ranks(config, model, ranks)))
    _refuse_batch_of_one(config, dataset, model, rates.plan, steps, ranks)
    beside: dict[str, frozenset[str]] = {}
    if not all(row.trains_throughout for row in rates.plan.rows):
        with begun_at(0, device):
            beside = parameters_beside(model, dataset.image_shape)
    return Experiment(
        device=device,
        dataset=dataset,
        model=model,
        layers=layers,
        base_lr=config.optimizer.lr,
        steps_per_epoch=steps.per_epoch,
        loss=build_loss(config, dataset, device),
        weights_fingerprint=weights_fingerprint(
            pretrained_file(config.model.library, config.model.name)
            if getattr(config.model, "pretrained", False)
            else config.model.weights
        ),
        beside=beside,
        computing=computing,
        metrics=build_metrics(config, dataset),
        own_network=_is_own(config),
        **vars(rates),
    )


def _refuse_batch_of_one(
    config: Config, dataset: Dataset, model: nn.Module, plan: Plan, steps: Steps, ranks: Ranks
) -> None:
    """Refuse a batch of one image that BatchNorm cannot learn from, before anything is trained.

    Found by trying it where the smallest batch of an epoch is one image, or a rank's share of it,
    in every mode that the plan puts the network into.
    """
    images, most = len(dataset.train), config.data.batch_size
    taken = min(count_batches(config, images), steps.total * config.trainer.accumulate)
    batches = cut(np.arange(images), most)[:taken]
    if not batches:
        return
    smallest, needed = len(batches[-1]), shared_by(config, ranks, len(batches[-1]))
    if smallest >= needed:
        return
    one, _ = next(dataset.train.batches([np.array([0])]))
    for epoch in plan.turns(steps.epochs):
        tried = copy.deepcopy(model)
        set_trainable(tried, plan, epoch)
        try:
            with torch.no_grad(), begun_at(0, one.device):
                tried.train()(one)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            of = f"the {images:,} training images"
            if smallest > 1:
                of = f"{smallest} images for one of {ranks.world} processes"
            problem = (
                f"makes a batch of one of {of}, and BatchNorm of"
                f" {config.model.name} has one value per channel then, which has no variance"
            )
            sizes = range(needed, 2 * needed)
            fits = [size for size in sizes if len(cut(np.arange(images), size)[-1]) >= needed]
            hint = f"data.batch_size={fits[0]} or more" if fits else "give more training images"
            raise ConfigError("data.batch_size", problem, hint, most) from error


def set_deterministic(wanted: bool) -> None:
    """Let torch use only algorithms that give the same bits every time, or leave it as it was.

    On a GPU they are slower, and some operations have none: the step that needs one raises
    RuntimeError. On the CPU training is deterministic anyway.
    """
    if not wanted:
        return
    # cuBLAS reads it when it starts; another value that its users chose themselves may hold, too
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def _input_notes(config: Config, dataset: Dataset) -> Iterator[str]:
    """What a run with this device should know, and what weights and images may not share."""
    if config.trainer.deterministic:
        yield DETERMINISM_COST
    model, normalize = config.model, config.data.normalize
    weights = model.weights or getattr(model, "pretrained", False)
    if not weights or str(model.weights).startswith(BUNDLED):
        return
    if (run := Path(str(model.weights)).expanduser() / CONFIG).is_file():
        theirs, ours = read_saved_config(run).get("data"), vars(config.data)
        theirs = theirs if isinstance(theirs, dict) else {}
        same_images = all(theirs.get(key) == ours.get(key) for key in ("name", "path", "root"))
        splitting = [key.partition(".")[2] for key in settings_where(splits=True)]
        moved = [key for key in splitting if theirs.get(key) != ours.get(key)]
        if same_images and moved:
            yield (
                f"the run these weights are of split the same images otherwise ({', '.join(moved)}"
                " differs): some of these val and test images it has trained on"
            )
    expected, (_, height, width) = expected_input(model), dataset.image_shape
    if expected is None and normalize == "auto":
        yield (
            "the weights do not say how their images were normalised; these are by the data set's"
            " own mean and std. With ImageNet's weights give what they were trained with:"
            " data.normalize=imagenet"
        )
    if expected is not None and expected.size not in (None, height, width):
        side = expected.size
        yield f"the weights saw images of {side}×{side}, these are {height}×{width}"


def _is_own(config: Config) -> bool:
    """Whether the network is the user's own code."""
    return getattr(config.model, "library", "") == "custom"


def _model_notes(config: Config, model: nn.Module, dataset: Dataset) -> Iterator[str]:
    """What of a network of the user's own nobody can begin anew."""
    if not _is_own(config):
        return
    chosen = np.arange(min(8, len(dataset.train)))
    images, _ = next(dataset.train.batches([chosen]))
    with suppress(Exception):  # training will say what is wrong with it
        if not repeats_itself(model, images):
            yield (
                f"{config.model.target} {ANEW}: a run of it cannot be repeated, nor go on, to the"
                " same numbers. What it draws from torch, random and numpy.random is begun anew"
                " at every step"
            )


def _step_notes(
    config: Config, model: nn.Module, turns: Iterable[int], plan: Plan
) -> Iterator[str]:
    """What is not as in a step of one large batch, and which weights the numbers are of."""
    each, batch, ema = config.trainer.accumulate, config.data.batch_size, config.trainer.ema
    if each > 1 and _learns_statistics(model, turns, plan):
        yield (
            f"trainer.accumulate={each}: BatchNorm normalises by the statistics of each batch of"
            f" {batch} images, not of the {each * batch} that a step takes, so that the step is not"
            " quite that of the large batch"
        )
    if ema is not None:
        yield (
            f"trainer.ema={ema:g}: evaluations and best.pt are of the moving average of the"
            " weights, train/* and update ratios of those that are trained"
        )


def _learns_statistics(model: nn.Module, turns: Iterable[int], plan: Plan) -> bool:
    """Whether any BatchNorm is in training mode at some time."""
    if not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return False
    tried = copy.deepcopy(model)
    for epoch in turns:
        set_trainable(tried, plan, epoch)
        tried.train()
        if any(isinstance(module, _BatchNorm) and module.training for module in tried.modules()):
            return True
    return False


def build_preview(config: Config) -> Preview:
    """The run of a config as far as it can be known without data, weights and training.

    Raises:
        ConfigError: when settings do not fit each other, the stated data or the model.
    """
    data = stated_data(config)
    model, layers = build_model(config, data, meta=True)
    counted = count_steps(config, data.train_size)
    found = build_rates(config, model, layers, counted)
    steps = shown_steps(found.schedule, counted.per_epoch)
    notes = list(filter(None, [layers.note]))
    if found.plan.measured:
        notes.append("a measured scale is set anew before every epoch; the rates are its most")
    if found.plateau:
        notes.append(f"the plateau lowers every rate when {config.scheduler.monitor} stalls")
    notes += monitor_notes(config)
    return Preview(
        plan=found.plan,
        train_size=data.train_size,
        exact_size=data.exact,
        steps_per_epoch=counted.per_epoch,
        total_steps=counted.total,
        steps=steps,
        s=[found.schedule[step] for step in steps],
        rates=group_rates(
            found.plan, config.optimizer.lr, found.schedule, counted.per_epoch, steps
        ),
        notes=notes,
    )


def choose_device(name: str, key: str = "trainer.device") -> torch.device:
    """The device of that name, as `key` asks for; `auto` is cuda, else mps, else cpu.

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
        raise ConfigError(key, "is not on this machine", hint, name)
    return device
