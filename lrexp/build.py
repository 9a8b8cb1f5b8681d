"""The one room that turns a config into live objects."""

from __future__ import annotations

import inspect
import logging
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from lrexp.config import duration
from lrexp.data import SOURCES, Augment, Chosen, Dataset, Source, choose, make_dataset
from lrexp.data.dataset import Split, class_positions
from lrexp.data.feeding import free_bytes, shape_of_first
from lrexp.data.source import TEST, TRAIN
from lrexp.data.sources import STATED_CLASS_NAMES
from lrexp.draws import draw
from lrexp.errors import ConfigError, UserError
from lrexp.models import (
    MLP,
    CifarResNet,
    LayerMap,
    SimpleCNN,
    custom_model,
    expected_input,
    head_names,
    heads_by_shape,
    layer_map,
    load_weights,
    pretrained_file,
    pretrained_weights,
    timm_model,
    torchvision_model,
    transform_arguments,
    weights_fingerprint,
)
from lrexp.optim import has_momentum, param_groups, set_rates
from lrexp.optimizers import (
    OPTIMIZERS,
    MuonWithAdamW,
    check_plan,
    from_library,
    hidden_matrices,
)
from lrexp.plan import Plan
from lrexp.policies import POLICIES
from lrexp.preview import Preview, shown_steps
from lrexp.saved import read_saved_config
from lrexp.schedulers import MOMENTA, SCHEDULES, Plateau, with_warmup
from lrexp.schema import (
    BUNDLED,
    MONITORS,
    TOP5_CLASSES,
    BinaryCrossEntropy,
    Config,
    CsvTable,
    CustomModel,
    Data,
    LibraryOptimizer,
    MultiStep,
    ReduceOnPlateau,
    TorchvisionSet,
    Wsd,
    option_of,
    settings_of,
)

log = logging.getLogger(__name__)

DETERMINISM_COST = (
    "deterministic algorithms alone: the same bits in every run on the same machine; slower on a"
    " GPU, and an operation without such a form ends the run. On the CPU they change nothing"
)
DEFAULT_THREADS = torch.get_num_threads()
MODELS: dict[str, Callable[..., nn.Module]] = {
    "simple_cnn": SimpleCNN,
    "mlp": MLP,
    "cifar_resnet": CifarResNet,
    "torchvision": torchvision_model,
    "timm": timm_model,
    "custom": custom_model,
}
Loss = Callable[[Tensor, Tensor], Tensor]
# settings of data that decide which image is in which split
SPLITTING = ("seed", "val_fraction", "test_fraction", "group_by")


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
    momenta: list[float] = field(default_factory=list)  # m(t), empty when momentum stays put
    plateau: Plateau | None = None  # its own s comes on top of the schedule's


def build(config: Config, datasets: Datasets | None = None) -> Experiment:
    """Build an experiment.

    Args:
        config: of the run.
        datasets: of earlier runs in this program; what they have is not read again.

    Raises:
        UserError: when the device is not there, data cannot be had, or settings do not fit the
            data or the model. Nothing has been written by then.
    """
    device = choose_device(config.trainer.device)
    torch.set_num_threads(config.trainer.threads or DEFAULT_THREADS)
    set_deterministic(config.trainer.deterministic)
    read = build_dataset if datasets is None else datasets.get
    dataset = read(config, device)
    dataset = replace(dataset, notes=(*dataset.notes, *_input_notes(config, dataset)))
    check_monitors(config, len(dataset.class_names))
    model, layers = build_model(config, dataset)
    model.to(device)
    rates = build_rates(config, model, layers, len(dataset.train))
    return Experiment(
        device=device,
        dataset=dataset,
        model=model,
        layers=layers,
        plan=rates.plan,
        optimizer=rates.optimizer,
        base_lr=config.optimizer.lr,
        schedule=rates.schedule,
        steps_per_epoch=rates.steps_per_epoch,
        loss=build_loss(config, dataset, device),
        weights_fingerprint=weights_fingerprint(
            pretrained_file(config.model.library, config.model.name)
            if getattr(config.model, "pretrained", False)
            else config.model.weights
        ),
        momenta=rates.momenta,
        plateau=build_plateau(config, len(dataset.train)),
    )


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


def build_preview(config: Config) -> Preview:
    """The run of a config as far as it can be known without data, weights and training.

    Raises:
        ConfigError: when settings do not fit each other, the stated data or the model.
    """
    data = stated_data(config)
    model, layers = build_model(config, data, meta=True)
    found = build_rates(config, model, layers, data.train_size)
    plan, per_epoch, total = found.plan, found.steps_per_epoch, len(found.schedule)
    steps = shown_steps(found.schedule, per_epoch)
    factors = plan.factors(total, per_epoch)
    rates: dict[str, list[float | None]] = {g["name"]: [] for g in found.optimizer.param_groups}
    for step in steps:
        g = {group: table[step] for group, table in factors.items()}
        set_rates(found.optimizer, config.optimizer.lr, found.schedule[step], g)
        for group in found.optimizer.param_groups:
            trains = plan.groups[group["name"]][0].trains_after(step // per_epoch)
            rates[group["name"]].append(group["lr"] if trains else None)
    notes = []
    if plan.measured:
        notes.append("a measured scale is set anew before every epoch; the rates are its most")
    if isinstance(config.scheduler, ReduceOnPlateau):
        notes.append(f"the plateau lowers every rate when {config.scheduler.monitor} stalls")
    return Preview(
        plan=plan,
        train_size=data.train_size,
        exact_size=data.exact,
        steps_per_epoch=per_epoch,
        total_steps=total,
        steps=steps,
        s=[found.schedule[step] for step in steps],
        rates=rates,
        notes=notes,
    )


@dataclass(frozen=True)
class Rates:
    """What decides how fast every parameter moves."""

    plan: Plan
    optimizer: Optimizer
    schedule: list[float]  # s(t) for every step t
    steps_per_epoch: int
    momenta: list[float]  # m(t), empty when momentum stays put


def build_plan(config: Config, layers: LayerMap) -> Plan:
    """What the configured policy decides for every parameter."""
    return POLICIES[option_of(vars(config.lr_policy))](
        layers, config.optimizer.lr, config.optimizer.weight_decay, **settings_of(config.lr_policy)
    )


def build_rates(config: Config, model: nn.Module, layers: LayerMap, train_size: int) -> Rates:
    """The plan, and the optimizer and schedule that carry it out; says what is odd about it."""
    plan = build_plan(config, layers)
    if not param_groups(model, plan, config.optimizer.lr):
        raise ConfigError("lr_policy", "freezes every parameter: nothing would train")
    if layers.unplaced and len({row.lr_scale for row in plan.rows}) > 1:
        log.warning(
            "%d parameters have no layer of their own and learn as the last one does: %s. Place"
            " them with model.layers.",
            len(layers.unplaced),
            ", ".join(layers.unplaced[:8]) + (", ..." if len(layers.unplaced) > 8 else ""),
        )
    if plan.frozen_random:
        log.warning(
            "%d of %d frozen tensors were never loaded from weights (%s): they are random features"
            " and stay so. Load a pretrained network with model.weights.",
            len(plan.frozen_random),
            len(plan.frozen_names),
            ", ".join(plan.frozen_random[:3]) + (", ..." if len(plan.frozen_random) > 3 else ""),
        )
    steps_per_epoch, steps = count_steps(config, train_size)
    epochs = math.ceil(steps / steps_per_epoch)  # fewer than trainer.epochs under max_steps
    if epochs and plan.schedule_restart and plan.schedule_restart >= epochs:
        problem = f"leaves nothing of the {epochs} epochs for the second phase"
        hint = "raise trainer.max_steps or trainer.epochs"
        raise ConfigError("lr_policy.head_epochs", problem, hint, plan.schedule_restart)
    if late := plan.never_reached(epochs) if epochs else []:
        log.warning(
            "%d tensors would first train after the last epoch and stay frozen: %s",
            len(late),
            ", ".join(late[:3]) + (", ..." if len(late) > 3 else ""),
        )
    schedule = build_schedule(config, train_size, plan.schedule_restart)
    optimizer = build_optimizer(config, model, plan)
    for warning in check_plan(optimizer, config.optimizer.name, plan, len(schedule)):
        log.warning(warning)
    momenta = build_momenta(config, train_size, plan.schedule_restart)
    if momenta and not has_momentum(optimizer):
        problem = "cycles momentum, and this optimizer has neither momentum nor betas"
        hint = (
            "scheduler.momentum=null, or scheduler.args.cycle_momentum=false, cycles the rate alone"
        )
        raise ConfigError("scheduler", problem, hint, config.scheduler.name)
    return Rates(plan, optimizer, schedule, steps_per_epoch, momenta)


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


class Datasets:
    """Data that several runs share, each read and placed once. No run changes it.

    The oldest are given up when together they would take more than a quarter of what is free.
    """

    LIMIT = 16  # data sets; those that are streamed hold worker processes

    def __init__(self) -> None:
        self._held: dict[str, Dataset] = {}
        self.built = 0

    def get(self, config: Config, device: torch.device) -> Dataset:
        """As `build_dataset`, from memory where that is possible.

        Raises:
            UserError: when the data cannot be had.
        """
        key = _data_key(config, device)
        if key in self._held:
            log.info("data: shared with an earlier run")
            self._held[key] = self._held.pop(key)  # now the newest
        else:
            self._make_room(device)
            self._held[key] = build_dataset(config, device)
            self.built += 1
        dataset = self._held[key]
        train = replace(dataset.train, augment=_augment(config))
        return replace(dataset, train=train)

    def in_memory(self) -> Datasets:
        """Those that other programs can share: whose images all lie in the CPU's memory."""
        kept = Datasets()
        kept._held = {
            key: held
            for key, held in self._held.items()
            if held.train.labels.device.type == "cpu"
            and all(split.pixels.in_memory for split in _splits(held))
        }
        return kept

    def _make_room(self, device: torch.device) -> None:
        held = {key: _pixel_bytes(dataset) for key, dataset in self._held.items()}
        while held and (sum(held.values()) > free_bytes(device) / 4 or len(held) >= self.LIMIT):
            oldest = next(iter(held))
            del held[oldest], self._held[oldest]


def _data_key(config: Config, device: torch.device) -> str:
    """What two runs have in common when `build_dataset` gives them equal splits."""
    data = asdict(config.data)
    del data["batch_size"]  # nothing is cut into batches yet; augmentation is put on afterwards
    by_weights = data["normalize"] in ("auto", "weights")
    expected = expected_input(config.model) if by_weights else None
    return repr((data, config.trainer.train_eval_limit, expected, str(device)))


def _pixel_bytes(dataset: Dataset) -> int:
    """Bytes of all pixels that are held in memory; a byte per value."""
    splits = [s for s in _splits(dataset) if s.pixels.in_memory]
    return sum(len(s) * math.prod(s.pixels.shape) for s in splits)


def _splits(dataset: Dataset) -> list[Split]:
    every = (dataset.train, dataset.val, dataset.test, *dataset.eval_sets.values())
    return [split for split in every if split is not None]


def _augment(config: Config) -> Augment | None:
    kind = config.data.augment
    return None if kind == "none" else Augment(kind, config.seed)


def build_dataset(config: Config, device: torch.device) -> Dataset:
    """The splits of the configured source, on the device."""
    data = config.data
    source = open_source(config)
    found = {
        "num_classes": len(source.class_names),
        "image_shape": list(source.images.shape[1:])
        if isinstance(source.images, np.ndarray)
        else None,
        "train_size": int((source.split == TRAIN).sum())
        if source.split is not None
        else len(source.labels),
    }
    for key, value in found.items():
        stated = getattr(data, key)
        if None not in (stated, value) and stated != value:
            raise ConfigError(f"data.{key}", f"is not what the data holds: {value}", given=stated)
    if data.augment == "trivial" and source.white != 255:
        problem = f"needs images of 256 levels, these have {source.white + 1}"
        raise ConfigError("data.augment", problem, "allowed: none, basic", "trivial")
    chosen = choose_images(config, source)
    extra = {}
    if data.eval_sets:
        _, height, width = shape_of_first(source, chosen.splits["train"])
        side = height if height == width else None
        extra = open_eval_sets(
            config, chosen.class_names, source.channels, side, source.multi_label
        )
    dataset = make_dataset(
        source,
        chosen,
        seed=data.seed,
        normalize=normalization(config, source.channels),
        augment=_augment(config),
        train_eval_limit=config.trainer.train_eval_limit,
        in_memory=data.in_memory,
        workers=data.workers,
        leak_check=data.leak_check != "skip",
        drop_corrupt=data.on_corrupt == "drop",
        device=device,
        eval_sets=extra,
    )
    if data.image_shape is not None and list(dataset.image_shape) != of_size(data):
        problem = f"is not what the data holds: {list(dataset.image_shape)}"
        raise ConfigError("data.image_shape", problem, given=data.image_shape)
    if dataset.leaks and data.leak_check == "error":
        found = [*dataset.leaks.lines(), *map(_leak_in_words, dataset.leaks.items())]
        hint = "data.leak_check=warn trains all the same"
        raise UserError("\n  ".join(["data: the leak check found something", *found, hint]))
    return dataset


def of_size(data: Data) -> list[int]:
    """The stated [C, H, W] as it is after `data.image_size`."""
    assert data.image_shape is not None
    c, h, w = data.image_shape
    return [c, data.image_size or h, data.image_size or w]


def _input_notes(config: Config, dataset: Dataset) -> Iterator[str]:
    """What a run with this device should know, and what weights and images may not share."""
    if config.trainer.deterministic:
        yield DETERMINISM_COST
    model, normalize = config.model, config.data.normalize
    weights = model.weights or getattr(model, "pretrained", False)
    if not weights or str(model.weights).startswith(BUNDLED):
        return
    if (run := Path(str(model.weights)).expanduser() / "config.yaml").is_file():
        theirs, ours = read_saved_config(run).get("data"), vars(config.data)
        theirs = theirs if isinstance(theirs, dict) else {}
        same_images = all(theirs.get(key) == ours.get(key) for key in ("name", "path", "root"))
        moved = [key for key in SPLITTING if theirs.get(key) != ours.get(key)]
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
            " data.normalize={mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}"
        )
    if expected is not None and expected.size not in (None, height, width):
        side = expected.size
        yield f"the weights saw images of {side}×{side}, these are {height}×{width}"


def _leak_in_words(item: dict[str, Any]) -> str:
    """One item of the leak check as a line."""
    kind = item["kind"]
    if kind == "conflict":
        copies = zip(item["splits"], item["items"], item["labels"], strict=True)
        return (
            f"conflict: {', '.join(f'{split} {name} is {label}' for split, name, label in copies)}"
        )
    if kind == "group":
        sides = ", ".join(f"{count} in {split}" for split, count in item["items"].items())
        return f"group {item['group']}: {sides}"
    at = f" at {item['correlation']}" if "correlation" in item else ""
    return (
        f"{kind}: {item['split']} {item['item']} = {item['other_split']} {item['other_item']}{at}"
    )


def open_source(config: Config) -> Source:
    """The configured data set, images of files not yet decoded."""
    open_it, common = SOURCES[config.data.name], {f.name for f in fields(Data)}
    wanted = inspect.signature(open_it).parameters  # of the common settings too, such as group_by
    settings = {f.name: getattr(config.data, f.name) for f in fields(config.data)}
    source = open_it(**{k: v for k, v in settings.items() if k not in common or k in wanted})
    return source if config.data.image_size is None else source.of_size(config.data.image_size)


def open_eval_sets(
    config: Config,
    class_names: tuple[str, ...],
    channels: int,
    side: int | None,
    several: bool,
) -> dict[str, Source]:
    """Further test sets, labelled with the given classes; -1 where an image is of another.

    Args:
        config: of the run.
        class_names: those that the network knows; classes are matched by name.
        channels: of the training images.
        side: height and width of the training images if they are square.
        several: whether an image may have several labels.

    Raises:
        UserError: when one cannot be opened, or holds none of the classes.
    """
    found = {}
    columns = [getattr(config.data, f"{kind}_column", None) for kind in ("image", "label")]
    for name, path in config.data.eval_sets.items():
        key = f"data.eval_sets.{name}"
        if Path(path).suffix.lower() in (".csv", ".tsv"):
            source = SOURCES["csv"](path, None, several, channels, None, test_only=True)
        else:
            settings = (None, None, None, None, None, *columns, channels, None)
            source = SOURCES["hf"](path, *settings, test_only=True)
        if source.multi_label != several:
            kinds = ("several labels", "one label")[:: 1 if several else -1]
            problem = f"has {kinds[1]} per image, the training images have {kinds[0]}"
            raise ConfigError(key, problem, given=path)
        index = {c: i for i, c in enumerate(class_names)}
        to = np.array([index.get(c, -1) for c in source.class_names], np.int64)
        if (to < 0).all():
            classes = ", ".join(source.class_names[:5]), ", ".join(class_names[:5])
            problem = f"has classes {classes[0]}, ..., none of those trained on ({classes[1]}, ...)"
            raise ConfigError(key, problem, given=path)
        if several:
            labels = np.zeros((len(source.labels), len(class_names)), np.float32)
            labels[:, to[to >= 0]] = source.labels[:, to >= 0]
        else:
            labels = np.where(source.labels < 0, -1, to[source.labels])
            if source.has(TEST):  # of a whole data set, what is there to test on
                labels = np.where(source.split == TEST, labels, -1)
        source = replace(source, labels=labels, class_names=class_names, groups=None)
        found[name] = source if side is None else source.of_size(side)
    return found


def choose_images(config: Config, source: Source) -> Chosen:
    """Which images of a source the run's splits hold."""
    data = config.data
    return choose(
        source,
        seed=data.seed,
        classes=data.classes,
        limit=data.limit,
        limit_per_class=data.limit_per_class,
        val_fraction=data.val_fraction,
        test_fraction=data.test_fraction,
        drop_unlabeled=data.on_corrupt == "drop",
    )


def normalization(config: Config, channels: int) -> tuple[list[float], list[float]] | None:
    """Mean and std per channel that images are normalised with; None: those of the training images.

    Where weights expect another number of channels, grey images get the mean over theirs, and
    several channels each that of one.

    Raises:
        ConfigError: when the weights do not say what they expect, or a number is missing.
    """
    data = config.data
    if isinstance(data.normalize, dict):
        found = data.normalize["mean"], data.normalize["std"]
        if len(found[0]) != channels:
            problem = f"has {len(found[0])} numbers for {channels} channels"
            raise ConfigError("data.normalize.mean", problem, given=found[0])
        return found
    expected = None if data.normalize == "dataset" else expected_input(config.model)
    if expected is not None:
        mean, std = list(expected.mean), list(expected.std)
        if len(mean) == channels:
            return mean, std
        return [sum(mean) / len(mean)] * channels, [sum(std) / len(std)] * channels
    if data.normalize == "weights":
        hint = "allowed: auto, dataset, or {mean: [...], std: [...]}"
        problem = "no weights say how their images were normalised"
        raise ConfigError("data.normalize", problem, hint, "weights")
    return None if data.mean is None or data.std is None else (data.mean, data.std)


@dataclass(frozen=True)
class StatedData:
    """What is known of the data before its images are read."""

    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    train_size: int  # images to train on
    exact: bool  # False where the images of chosen classes are estimated from their share


def stated_data(config: Config) -> StatedData:
    """Sizes of splits as `choose` takes them, from what the data option's YAML file states.

    Where it leaves that to the data itself, labels and the first image are read.
    """
    data = config.data
    if data.num_classes is None or data.image_shape is None or data.train_size is None:
        source = open_source(config)
        chosen = choose_images(config, source)
        train = chosen.splits["train"]
        shape = shape_of_first(source, train)
        all_used = data.on_corrupt == "error"  # some may turn out to be unreadable
        return StatedData(shape, chosen.class_names, len(train), exact=all_used)
    c, h, w = of_size(data)
    numbers = tuple(map(str, range(data.num_classes)))
    names = STATED_CLASS_NAMES.get(data.name, numbers)
    if data.classes is not None:
        names = tuple(names[i] for i in class_positions(data.classes, names))
    pool = round(data.train_size * len(names) / data.num_classes)
    has_test = isinstance(data, TorchvisionSet)
    fractions = (0.0 if has_test else data.test_fraction, data.val_fraction)
    train_size = pool - sum(round(fraction * pool) for fraction in fractions)
    exact = data.classes is None and data.limit_per_class is None
    if data.limit_per_class is not None:
        train_size = min(train_size, data.limit_per_class * len(names))
    if data.limit is not None and data.limit < train_size:
        train_size, exact = data.limit, True
    return StatedData((c, h, w), names, train_size, exact)


def build_model(
    config: Config, dataset: Dataset | StatedData, meta: bool = False
) -> tuple[nn.Module, LayerMap]:
    """The network, initialised from the seed and then from weights, and its layer map.

    Args:
        config: of the run.
        dataset: whose images and classes the network is for.
        meta: build it without values, on the meta device; of weights only shapes are read.

    Raises:
        ConfigError: when the network cannot be built for the data, or its weights do not fit it.
    """
    kind = MODELS[option_of(vars(config.model))]
    settings = settings_of(config.model)
    weights, strict = settings.pop("weights"), settings.pop("strict")
    order, convention = settings.pop("layers"), settings.pop("convention")

    def made(on_meta: bool, classes: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]), torch.device("meta" if on_meta else "cpu"):
            torch.manual_seed(draw(config.seed, "init"))
            try:
                return kind(dataset.image_shape, classes, **settings)
            except Exception:  # some networks compute with values while they are built
                if not on_meta:
                    raise
        return made(False, classes).to("meta")

    pretrained = settings.pop("pretrained", False)
    if pretrained:
        settings["args"] = transform_arguments(config.model.name) | config.model.args
    model = made(meta, len(dataset.class_names))
    if pretrained:
        library, name, args = config.model.library, config.model.name, config.model.args
        with torch.random.fork_rng(devices=[]):
            weights = pretrained_weights(library, name, args, header_only=meta)
    heads, loaded = head_names(model), set[str]()
    if isinstance(config.model, CustomModel):
        heads = heads_by_shape(model, made(True, len(dataset.class_names) + 1)) or heads
    if weights:
        loaded = load_weights(model, weights, dataset.class_names, heads, strict)
    layers = layer_map(model, heads, loaded, convention=convention, layers=order)
    return model, layers


def build_optimizer(config: Config, model: nn.Module, plan: Plan) -> Optimizer:
    """The configured torch optimizer over the plan's groups."""
    groups, lr = param_groups(model, plan, config.optimizer.lr), config.optimizer.lr
    if isinstance(config.optimizer, LibraryOptimizer):
        library, name = config.optimizer.library, config.optimizer.name
        return from_library(library, groups, lr, name, config.optimizer.args)
    settings = settings_of(config.optimizer)
    settings.pop("lr")
    settings.pop("weight_decay")
    if "betas" in settings:
        settings["betas"] = tuple(settings["betas"])
    if config.optimizer.name == "muon":
        return MuonWithAdamW(groups, hidden_matrices(model, plan), **settings)
    return OPTIMIZERS[config.optimizer.name](groups, lr=lr, **settings)


def build_schedule(config: Config, train_size: int, restart: int | None = None) -> list[float]:
    """s(t) for every step of the run. A plateau's own factor comes on top of it: `build_plateau`.

    Args:
        config: of the run.
        train_size: training images.
        restart: finished epochs after which the schedule starts anew over what is left.

    Raises:
        ConfigError: when a length does not fit the training there is, or torch refuses arguments.
    """
    per_epoch, steps = count_steps(config, train_size)
    if isinstance(config.scheduler, MultiStep):
        _warn_of_late(config.scheduler.milestones, -(-steps // per_epoch))
    parts = _parts(steps, per_epoch, restart)
    return [s for part in parts for s in _schedule(config, part, per_epoch)]


def build_momenta(config: Config, train_size: int, restart: int | None = None) -> list[float]:
    """m(t) for every step of the run, held through the warmup; empty when momentum stays put."""
    per_epoch, steps = count_steps(config, train_size)
    parts = _parts(steps, per_epoch, restart)
    return [m for part in parts for m in _momenta(config, part, per_epoch)]


def _parts(steps: int, per_epoch: int, restart: int | None) -> list[int]:
    """Steps of each stretch that has a schedule of its own."""
    first = min(steps, (restart or 0) * per_epoch)
    return [first, steps - first] if 0 < first < steps else [steps]


def _schedule(config: Config, steps: int, per_epoch: int) -> list[float]:
    """One schedule with its warmup over so many steps."""
    if isinstance(config.scheduler, ReduceOnPlateau):
        schedule, settings = SCHEDULES["constant"], {"floor": config.scheduler.floor}
    else:
        schedule = SCHEDULES[option_of(vars(config.scheduler))]
        settings = _schedule_settings(config, per_epoch, steps)
    return with_warmup(
        lambda t, e: schedule(t, e, **settings),
        _warmup_steps(config, per_epoch, steps),
        steps,
        per_epoch,
    )


def _momenta(config: Config, steps: int, per_epoch: int) -> list[float]:
    option = option_of(vars(config.scheduler))
    if option not in MOMENTA or not steps:
        return []
    warmup_steps = _warmup_steps(config, per_epoch, steps)
    settings = _schedule_settings(config, per_epoch, steps)
    momenta = MOMENTA[option](steps - warmup_steps, per_epoch, **settings)
    return momenta[:1] * warmup_steps + momenta


def build_plateau(config: Config, train_size: int) -> Plateau | None:
    """What follows a metric when the scheduler is a plateau."""
    if not isinstance(config.scheduler, ReduceOnPlateau):
        return None
    warmup_steps = _warmup_steps(config, *count_steps(config, train_size))
    settings = settings_of(config.scheduler)
    settings.pop("warmup")
    return Plateau(warmup_steps=warmup_steps, **settings)


def _warn_of_late(milestones: list[int], epochs: int) -> None:
    late = [milestone for milestone in milestones if milestone >= epochs]
    if late and epochs:
        log.warning(
            "scheduler.milestones: training ends after %d epochs, so the rate does not drop at %s",
            epochs,
            ", ".join(map(str, late)),
        )


def _warmup_steps(config: Config, per_epoch: int, steps: int) -> int:
    warmup_steps = _steps_of("warmup", config.scheduler.warmup, per_epoch, steps)
    if steps and warmup_steps >= steps:
        raise ConfigError(
            "scheduler.warmup",
            f"takes {warmup_steps} steps, training has {steps}",
            given=config.scheduler.warmup,
        )
    return warmup_steps if steps else 0


def _schedule_settings(config: Config, per_epoch: int, steps: int) -> dict[str, Any]:
    """The schedule's own settings, lengths of time as steps under their name with `_steps`."""
    scheduler, settings = config.scheduler, settings_of(config.scheduler)
    settings.pop("warmup")
    for setting in ("period", "timescale"):
        if setting in settings:
            written = settings.pop(setting)
            written = scheduler.warmup if written is None else written
            settings[f"{setting}_steps"] = max(1, _steps_of(setting, written, per_epoch, steps))
    if isinstance(scheduler, Wsd):
        decay = _steps_of("decay", settings.pop("decay"), per_epoch, steps)
        main = steps - _warmup_steps(config, per_epoch, steps)
        if steps and decay > main:
            problem = f"takes {decay} steps, training has {main} after the warmup"
            raise ConfigError("scheduler.decay", problem, given=scheduler.decay)
        settings["decay_steps"] = min(decay, main)
    return settings


def _steps_of(setting: str, written: Any, per_epoch: int, steps: int) -> int:
    amount, unit = duration(f"scheduler.{setting}", written)
    return round(amount * {"share": steps, "epochs": per_epoch, "steps": 1}[unit])


def count_steps(config: Config, train_size: int) -> tuple[int, int]:
    """Steps per epoch and in all. The last, smaller batch of an epoch counts as one."""
    trainer = config.trainer
    per_epoch = -(-train_size // config.data.batch_size)
    per_epoch = min(per_epoch, trainer.limit_train_batches or per_epoch)
    steps = per_epoch * trainer.epochs
    return per_epoch, min(steps, trainer.max_steps or steps)


def build_loss(config: Config, dataset: Dataset, device: torch.device) -> Loss:
    """The loss as optimised: (B, classes) logits and labels → scalar.

    Labels are (B,) classes for cross_entropy, (B, classes) of 0 and 1 for bce.

    Raises:
        ConfigError: when the loss is not for such labels, or weights do not fit the classes.
    """
    settings, labels = config.loss, dataset.train.labels
    if isinstance(settings, BinaryCrossEntropy):
        if labels.ndim == 1:
            problem = f"is for any number of labels per image, and data={config.data.name} has one"
            hint = "choose loss=cross_entropy"
            if isinstance(config.data, CsvTable):
                hint += ", or data.multi_label=true for labels such as cat|dog"
            raise ConfigError("loss", problem, hint, "bce")
        weight = None
        if settings.pos_weight == "balanced":
            positives = (labels > 0.5).sum(0).cpu().numpy()
            _refuse_empty("loss.pos_weight", positives, dataset, "has no training image")
            negatives = len(labels) - positives
            _refuse_empty("loss.pos_weight", negatives, dataset, "is on every training image")
            weight = _weight(negatives / positives, device)
        return lambda logits, labels: F.binary_cross_entropy_with_logits(
            logits, labels, pos_weight=weight
        )
    if labels.ndim == 2:
        problem = f"is for one label per image, and data={config.data.name} has several"
        raise ConfigError("loss", problem, "choose loss=bce", "cross_entropy")
    classes, weights = len(dataset.class_names), settings.class_weights
    weight = None
    if weights == "balanced":
        counts = np.bincount(labels.cpu().numpy(), minlength=classes)
        _refuse_empty("loss.class_weights", counts, dataset, "has no training image")
        weight = _weight(counts.sum() / (classes * counts), device)
    elif weights is not None:
        if len(weights) != classes:
            problem = f"has {len(weights)} numbers for {classes} classes"
            raise ConfigError("loss.class_weights", problem, given=weights)
        weight = _weight(weights, device)
    smoothing = settings.label_smoothing
    return lambda logits, labels: F.cross_entropy(
        logits, labels, weight=weight, label_smoothing=smoothing
    )


def _refuse_empty(key: str, counts: np.ndarray, dataset: Dataset, problem: str) -> None:
    """Refuse to balance classes when one of them has a count of 0."""
    if not counts.all():
        name = dataset.class_names[int(np.argmin(counts))]
        raise ConfigError(key, f"class {name} {problem}", given="balanced")


def _weight(values: Any, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


def check_monitors(config: Config, classes: int) -> None:
    """Refuse to follow a metric that this data or this loss does not have."""
    absent = {}
    if isinstance(config.loss, BinaryCrossEntropy):
        absent["top5_accuracy"] = "is measured where every image has one label, not with loss=bce"
    else:
        absent["label_accuracy"] = "is measured where images have several labels, with loss=bce"
        if classes < TOP5_CLASSES:
            problem = f"is measured from {TOP5_CLASSES} classes up, and there are {classes}"
            absent["top5_accuracy"] = problem
    there = [monitor for monitor in MONITORS if monitor.split("/")[1] not in absent]
    for group in ("trainer", "scheduler"):
        monitor = getattr(getattr(config, group), "monitor", None)
        if monitor is not None and monitor not in there:
            problem, hint = absent[monitor.split("/")[1]], f"here: {', '.join(sorted(there))}"
            raise ConfigError(f"{group}.monitor", problem, hint, monitor)
