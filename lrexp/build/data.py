"""The configured data: opened, split, checked, and kept for the next run."""

from __future__ import annotations

import inspect
import logging
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lrexp.config.checks import NUMBERS_OF_ONES_OWN
from lrexp.config.errors import ConfigError, UserError
from lrexp.config.schema import Config, chosen_option, load
from lrexp.config.schema.training import Data, TorchvisionSet
from lrexp.data.dataset import Dataset, Split, make_dataset
from lrexp.data.feeding import free_bytes, shape_of_first
from lrexp.data.source import TEST, TRAIN, Source
from lrexp.data.sources.csv_table import csv_table
from lrexp.data.sources.hf import hf
from lrexp.data.splits import Chosen, choose, class_positions
from lrexp.data.transforms import Augment
from lrexp.models.pretrained import IMAGENET, expected_input
from lrexp.train.feature_store import FeatureStore

log = logging.getLogger(__name__)


class Datasets:
    """Data that several runs share, each read and placed once. No run changes it.

    The oldest are given up when together they would take more than a quarter of what is free.
    """

    LIMIT = 16  # data sets; those that are streamed hold worker processes

    def __init__(self) -> None:
        self._held: dict[str, Dataset] = {}
        self.built = 0
        self.features = FeatureStore(shared=True)  # of frozen backbones

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
        kept.features = self.features.for_worker()
        kept._held = {
            key: held
            for key, held in self._held.items()
            if held.train.labels.device.type == "cpu"
            and all(split.pixels.in_memory for split in _splits(held))
        }
        return kept

    def _make_room(self, device: torch.device) -> None:
        held = {  # bytes of all pixels that are held in memory; a byte per value
            key: sum(len(s) * math.prod(s.pixels.shape) for s in _splits(one) if s.pixels.in_memory)
            for key, one in self._held.items()
        }
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
    to_train = len(source.labels) if source.split is None else int((source.split == TRAIN).sum())
    _check_stated(data, "num_classes", data.num_classes, len(source.class_names))
    _check_stated(data, "train_size", data.train_size, to_train)
    if data.augment == "trivial" and source.white != 255:
        problem = f"needs images of 256 levels, these have {source.white + 1}"
        raise ConfigError("data.augment", problem, "allowed: none, basic", "trivial")
    chosen = choose_images(config, source)
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
        eval_sets=_eval_sets(data, source, chosen) if data.eval_sets else {},
    )
    _check_stated(data, "image_shape", _stated_shape(data), list(dataset.image_shape))
    if dataset.leaks and data.leak_check == "error":
        found = [*dataset.leaks.lines(), *map(_leak_in_words, dataset.leaks.items())]
        hint = "data.leak_check=warn trains all the same"
        raise UserError("\n  ".join(["data: the leak check found something", *found, hint]))
    return dataset


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
    one, other = f"{item['split']} {item['item']}", f"{item['other_split']} {item['other_item']}"
    return f"{kind}: {one} = {other}{at}"


def _check_stated(data: Data, key: str, stated: object, held: object) -> None:
    if stated not in (None, held):
        problem = f"is not what the data holds: {held}"
        raise ConfigError(f"data.{key}", problem, given=getattr(data, key))


def _stated_shape(data: Data) -> list[int] | None:
    """The stated [C, H, W] as it is after `data.image_size`."""
    if data.image_shape is None or data.image_size is None:
        return data.image_shape
    return [data.image_shape[0], data.image_size, data.image_size]


def open_source(config: Config) -> Source:
    """The configured data set, images of files not yet decoded."""
    open_it = load(chosen_option("data", config.data).make)
    common = {"library", *(f.name for f in fields(Data))}
    wanted = inspect.signature(open_it).parameters  # of the common settings too, such as group_by
    settings = {f.name: getattr(config.data, f.name) for f in fields(config.data)}
    source = open_it(**{k: v for k, v in settings.items() if k not in common or k in wanted})
    return source if config.data.image_size is None else source.of_size(config.data.image_size)


def _eval_sets(data: Data, source: Source, chosen: Chosen) -> dict[str, Source]:
    """Further test sets, labelled with the classes trained on; -1 where an image is of another.

    Images get the size of the training images where these are square.

    Raises:
        UserError: when one cannot be opened, or holds none of the classes.
    """
    class_names, several = chosen.class_names, source.multi_label
    _, height, width = shape_of_first(source, chosen.splits["train"])
    image, label = (getattr(data, f"{kind}_column", None) for kind in ("image", "label"))
    columns = image, label, source.channels, None
    found = {}
    for name, path in data.eval_sets.items():
        key = f"data.eval_sets.{name}"
        if Path(path).suffix.lower() in (".csv", ".tsv"):
            own = csv_table(
                *(path, None, several, source.channels, None),
                columns=getattr(data, "columns", {}),
                encoding=getattr(data, "encoding", None),
                test_only=True,
            )
        else:
            own = hf(path, None, None, None, None, None, *columns, test_only=True)
        if own.multi_label != several:
            kinds = ("several labels", "one label")[:: 1 if several else -1]
            problem = f"has {kinds[1]} per image, the training images have {kinds[0]}"
            raise ConfigError(key, problem, given=path)
        index = {c: i for i, c in enumerate(class_names)}
        to = np.array([index.get(c, -1) for c in own.class_names], np.int64)
        if (to < 0).all():
            classes = ", ".join(own.class_names[:5]), ", ".join(class_names[:5])
            problem = f"has classes {classes[0]}, ..., none of those trained on ({classes[1]}, ...)"
            raise ConfigError(key, problem, given=path)
        if several:
            labels = np.zeros((len(own.labels), len(class_names)), np.float32)
            labels[:, to[to >= 0]] = own.labels[:, to >= 0]
        else:
            labels = np.where(own.labels < 0, -1, to[own.labels])
            if own.has(TEST):  # of a whole data set, what is there to test on
                labels = np.where(own.split == TEST, labels, -1)
        own = replace(own, labels=labels, class_names=class_names, groups=None)
        found[name] = own.of_size(height) if height == width else own
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

    Where weights expect another number of channels, or ImageNet has, grey images get the mean over
    theirs, and several channels each that of one.

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
    stated = data.normalize in ("dataset", "imagenet")
    expected = None if stated else expected_input(config.model)
    if data.normalize == "imagenet":
        expected = IMAGENET
    if expected is not None:
        mean, std = list(expected.mean), list(expected.std)
        if len(mean) == channels:
            return mean, std
        return [sum(mean) / len(mean)] * channels, [sum(std) / len(std)] * channels
    if data.normalize == "weights":
        hint = f"allowed: auto, dataset, imagenet, {NUMBERS_OF_ONES_OWN}"
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
    shape = _stated_shape(data)
    if data.num_classes is None or shape is None or data.train_size is None:
        source = open_source(config)
        for note in source.notes:
            log.warning("data: %s", note)
        chosen = choose_images(config, source)
        train = chosen.splits["train"]
        all_used = data.on_corrupt == "error"  # some may turn out to be unreadable
        first = shape_of_first(source, train)
        return StatedData(first, chosen.class_names, len(train), exact=all_used)
    named = chosen_option("data", data).class_names
    names = load(named)(data.name) if named else tuple(map(str, range(data.num_classes)))
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
    return StatedData((shape[0], shape[1], shape[2]), names, train_size, exact)
