"""The pretrained weights of torchvision and timm: in their caches, or fetched once.

And what they, or those of a file or a run, expect of their images.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlparse

import torch
from safetensors import SafetensorError, safe_open
from torch.hub import HASH_REGEX

from lrexp.config.errors import ConfigError, first_line
from lrexp.config.saved import read_saved_config
from lrexp.config.schema.training import LEAST_STD, LibraryModel, Model
from lrexp.folder.layout import CHECKPOINTS, CONFIG
from lrexp.folder.network import quiet, within
from lrexp.models.library import AUXILIARY, library_with, made
from lrexp.models.weight_files import why_refused
from lrexp.models.weights import Weights, weights_path

log = logging.getLogger(__name__)

NONSENSE = (TypeError, ValueError, OverflowError, RecursionError)  # that a file may hold
REACH_S = 5.0  # how long a server may take to answer at all
KEY = "model.pretrained"


def pretrained_weights(
    library: str, name: str, args: dict[str, Any], header_only: bool = False
) -> Weights:
    """The weights that a library has for one of its networks, for its own classes and channels.

    The library makes its network and loads it strictly, so that whatever it does to old names or
    to position embeddings is done.

    Args:
        library: torchvision or timm.
        name: of the network.
        args: its further arguments.
        header_only: names and shapes alone, on the meta device; nothing is fetched.

    Raises:
        ConfigError: when there are none, they cannot be had, or do not fit the arguments.
    """
    if library == "torchvision":
        make, entry = library_with(library, name).get_model, torchvision_weights(name)
        classes = entry.meta["categories"]
        plain = {"num_classes": len(classes)}
        plain |= {"aux_logits": False, "init_weights": False} if name in AUXILIARY else {}
        loading = {"weights": entry, "progress": False}
    else:
        make, config = library_with(library, name).create_model, timm_config(name)
        classes = config.label_names
        plain = {"num_classes": config.num_classes, "in_chans": config.input_size[0]}
        loading = plain | {"pretrained": True}
    if header_only:
        with torch.device("meta"):
            model = made(name, args, lambda: make(name, **plain, **args))
    else:
        file = pretrained_file(library, name)
        if library == "timm":
            loading["pretrained_cfg_overlay"] = {"file": str(file)}
        try:
            with quiet(), _tensors_only():
                model = made(name, args, lambda: make(name, **loading, **args))
        except ConfigError as error:
            if error.key != "model.args" or args:
                raise
            hint = f"remove {file}, or give a file of your own with model.weights=FILE"
            cause, problem = error.__cause__, error.problem
            unread = isinstance(cause, UnpicklingError | EOFError)
            if cause and (unread or "PytorchStreamReader" in str(cause)):  # no words for users
                problem = f"{file} {why_refused(file, cause)[0]}"
            raise ConfigError(KEY, problem, hint, "true") from error
    state = model.state_dict()
    if name in AUXILIARY:
        state = {n: t for n, t in state.items() if not n.startswith(("aux", "AuxLogits"))}
    class_names = tuple(classes) if classes else None
    return Weights(KEY, f"{library}'s pretrained {name}", state, class_names)


def transform_arguments(name: str) -> dict[str, Any]:
    """What goes with the weights of a network: two of torchvision's normalise their input anew."""
    return {"transform_input": True} if name in AUXILIARY else {}


def pretrained_file(library: str, name: str) -> Path:
    """The file of a network's weights in the library's cache, fetched when it is not there.

    Raises:
        ConfigError: when there are no such weights, or they cannot be had.
    """
    if library == "torchvision":
        return _from_url(torchvision_weights(name).url)
    return _timm_file(timm_config(name))


def torchvision_weights(name: str) -> Any:
    """The entry of torchvision's weights API that it recommends for a network."""
    listed = library_with("torchvision", name).get_model_weights(name)
    if not len(listed):
        raise ConfigError(KEY, f"torchvision has no weights for {name}", given="true")
    return listed.DEFAULT


def timm_config(name: str) -> Any:
    """timm's description of the weights of a name, with or without its tag."""
    timm = library_with("timm", name)
    try:
        found = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag that there is not
        tags = ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}.*"))
        raise ConfigError("model.name", str(error), f"with weights: {tags}", name) from error
    if found is None or not found.has_weights:
        hint = "timm.list_pretrained() has the names of those that do"
        raise ConfigError(KEY, f"timm has no weights for {name}", hint, "true")
    return found


def _from_url(url: str) -> Path:
    """The file of a URL in torch.hub's cache; its hash is checked when it is fetched."""
    file = _hub_path(url)
    if not file.is_file():
        start = HASH_REGEX.search(file.name)

        def fetch() -> None:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), start and start[1], progress=False)

        _fetch(url, fetch, f"{file} is where it would lie")
    return file


def _timm_file(config: Any) -> Path:
    """The file of timm's weights: of the Hugging Face hub, else of a URL."""
    if not config.hf_hub_id:
        return _from_url(config.url)
    import huggingface_hub as hub
    from huggingface_hub.errors import EntryNotFoundError

    repo, _, revision = config.hf_hub_id.partition("@")
    asked = config.hf_hub_filename or "pytorch_model.bin"
    names = [asked] if config.custom_load else [_safe(asked), asked]
    where: dict[str, Any] = {"repo_id": repo, "revision": revision or None}
    for name in names:
        if isinstance(file := hub.try_to_load_from_cache(filename=name, **where), str):
            return Path(file)
    if config.url and (file := _hub_path(config.url)).is_file():
        return file
    fetched: list[str] = []

    def fetch() -> None:
        for name in names:
            with contextlib.suppress(EntryNotFoundError):
                fetched.append(hub.hf_hub_download(filename=name, etag_timeout=REACH_S, **where))
                return
        raise FileNotFoundError(f"{repo} has none of {', '.join(names)}")

    offline = hub.constants.HF_HUB_OFFLINE
    url = "" if offline else hub.hf_hub_url(repo, names[0], revision=revision or None)
    _fetch(url, fetch, f"the hub's cache is {hub.constants.HF_HUB_CACHE}, for {repo}")
    return Path(fetched[0])


def _hub_path(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(urlparse(url).path)


def _safe(name: str) -> str:
    """What a repository calls the same weights as safetensors."""
    return {"pytorch_model.bin": "model.safetensors"}.get(
        name, str(Path(name).with_suffix(".safetensors"))
    )


def _fetch(url: str, fetch: Callable[[], None], where: str) -> None:
    """Run `fetch` if the server of a URL answers in time: one attempt, without a library's words.

    Raises:
        ConfigError: when it does not, or fetching fails; says what takes a local file.
    """

    def ask() -> None:
        head = urllib.request.Request(url, method="HEAD")
        with contextlib.suppress(urllib.error.HTTPError):  # an answer, that it does not like HEAD
            urllib.request.urlopen(head, timeout=REACH_S).close()

    silent = within(REACH_S, ask)[0] if url else OSError("HF_HUB_OFFLINE is set")
    if silent is None:
        log.info("fetching %s", url)
        try:
            with quiet(REACH_S):
                fetch()
            return
        except Exception as error:  # whatever urllib, a hash check or the hub raises
            problem = f"{type(error).__name__}: {first_line(error)}"
    else:
        problem = first_line(silent)
    server = urlparse(url).hostname or "the hub"
    raise ConfigError(
        KEY,
        f"the weights are not in the cache, and {server} cannot give them: {problem}",
        f"model.weights=FILE takes a local file; {where}",
        "true",
    )


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """torch.load runs no code of a file, whatever the library asks of it."""
    forced, forbidden = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = {name: os.environ.pop(name, None) for name in (forced, forbidden)}
    os.environ[forced] = "1"
    try:
        yield
    finally:
        del os.environ[forced]
        os.environ.update({name: value for name, value in before.items() if value is not None})


@dataclass(frozen=True)
class ExpectedInput:
    """Images as the weights saw them: (pixel in [0, 1] − mean) / std, square."""

    mean: tuple[float, ...]  # per channel of the weights, which the data may have more or less of
    std: tuple[float, ...]
    size: int | None  # side in pixels, where it is known


# of its training images, as the weights of torchvision and most of timm's expect it
IMAGENET = ExpectedInput((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), None)


def expected_input(model: Model) -> ExpectedInput | None:
    """The normalisation and size that a model's weights expect; None where nothing says so.

    torchvision's from its weights' own transforms, timm's from the network's description, a run's
    from its config.yaml, a safetensors file's from `mean` and `std` (JSON lists) in its metadata.
    The network is never reached, and no tensor is read.

    Raises:
        ConfigError: for pretrained weights that the library does not have.
    """
    if isinstance(model, LibraryModel) and model.pretrained:
        if model.library == "timm":
            config = timm_config(model.name)
            return ExpectedInput(tuple(config.mean), tuple(config.std), config.input_size[-1])
        preset = torchvision_weights(model.name).transforms()
        return ExpectedInput(tuple(preset.mean), tuple(preset.std), preset.crop_size[0])
    if not model.weights:
        return None
    path = weights_path(model.weights)
    run = path.parent.parent / CONFIG
    if path.parent.name == CHECKPOINTS and run.is_file():
        return _of_run(run)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        mean, std = (tuple(map(float, json.loads(metadata[key]))) for key in ("mean", "std"))
        _refuse_nonsense(mean, std)
    except (SafetensorError, OSError, KeyError, *NONSENSE):  # another kind of file
        return None
    return ExpectedInput(mean, std, None)


def _refuse_nonsense(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Raise ValueError for what no image can be normalised with."""
    finite = all(map(math.isfinite, (*mean, *std)))
    if not finite or len(mean) != len(std) or min(std) < LEAST_STD:  # or of no channel
        raise ValueError("no mean and std of channels")


def _of_run(file: Path) -> ExpectedInput | None:
    data = read_saved_config(file).get("data")
    data = data if isinstance(data, dict) else {}
    numbers = data.get("normalize")
    numbers = numbers if isinstance(numbers, dict) else data
    if not numbers.get("mean") or not numbers.get("std"):
        return None
    try:
        mean, std = (tuple(map(float, numbers[key])) for key in ("mean", "std"))
        _refuse_nonsense(mean, std)
    except NONSENSE as error:
        problem = "the run's data.normalize has no usable mean and std"
        raise ConfigError("model.weights", problem, place=str(file)) from error
    size = data.get("image_size")
    return ExpectedInput(mean, std, size if isinstance(size, int) else None)
