"""The pretrained weights of torchvision and timm: in their caches, or fetched once."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn
from torch.hub import HASH_REGEX

from lrexp.config.errors import ConfigError
from lrexp.models.library import AUXILIARY, check_torchvision_name, made, timm_with
from lrexp.models.weights import Weights

log = logging.getLogger(__name__)

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
    source = _torchvision if library == "torchvision" else _timm
    with torch.device("meta") if header_only else contextlib.nullcontext():
        model, class_names, inputs = source(name, args, header_only)
    state = model.state_dict()
    if name in AUXILIARY:
        state = {n: t for n, t in state.items() if not n.startswith(("aux", "AuxLogits"))}
    return Weights(KEY, f"{library}'s pretrained {name}", state, class_names, inputs)


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
    from torchvision import models

    check_torchvision_name(name)
    listed: Any = models.get_model_weights(name)
    if not len(listed):
        raise ConfigError(KEY, f"torchvision has no weights for {name}", given="true")
    return listed.DEFAULT


def timm_config(name: str) -> Any:
    """timm's description of the weights of a name, with or without its tag."""
    timm = timm_with(name)
    try:
        found = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag that there is not
        tags = ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}.*"))
        raise ConfigError("model.name", str(error), f"with weights: {tags}", name) from error
    if found is None or not found.has_weights:
        hint = "timm.list_pretrained() has the names of those that do"
        raise ConfigError(KEY, f"timm has no weights for {name}", hint, "true")
    return found


def _torchvision(
    name: str, args: dict[str, Any], header_only: bool
) -> tuple[nn.Module, tuple[str, ...], None]:
    from torchvision import models

    weights = torchvision_weights(name)
    class_names = tuple(weights.meta["categories"])
    if header_only:
        plain = {"aux_logits": False, "init_weights": False} if name in AUXILIARY else {}
        count = len(class_names)
        make = lambda: models.get_model(name, num_classes=count, **plain, **args)  # noqa: E731
        return made(name, args, make), class_names, None
    file = _from_url(weights.url)
    make = lambda: models.get_model(name, weights=weights, progress=False, **args)  # noqa: E731
    return _loaded(name, args, file, make), class_names, None


def _timm(
    name: str, args: dict[str, Any], header_only: bool
) -> tuple[nn.Module, tuple[str, ...] | None, tuple[str, ...] | None]:
    timm, config = timm_with(name), timm_config(name)
    sizes = {"num_classes": config.num_classes, "in_chans": config.input_size[0]}
    first = config.first_conv
    inputs = (first,) if isinstance(first, str) else tuple(first) if first else None
    names = config.label_names and tuple(config.label_names)
    if header_only:
        make = lambda: timm.create_model(name, pretrained=False, **sizes, **args)  # noqa: E731
        return made(name, args, make), names, inputs
    file = _timm_file(config)
    local = {"file": str(file)}
    make = lambda: timm.create_model(  # noqa: E731
        name, pretrained=True, pretrained_cfg_overlay=local, **sizes, **args
    )
    return _loaded(name, args, file, make), names, inputs


def _loaded(name: str, args: dict[str, Any], file: Path, make: Callable[[], Any]) -> nn.Module:
    """What the library makes of a file; the file is named when it cannot be read."""
    try:
        with _quiet(), _tensors_only():
            return made(name, args, make)
    except ConfigError as error:
        if error.key != "model.args" or args:
            raise
        hint = f"remove {file}, or give a file of your own with model.weights=FILE"
        raise ConfigError(KEY, f"{error.problem}", hint, "true") from error


def _from_url(url: str) -> Path:
    """The file of a URL in torch.hub's cache; its hash is checked when it is fetched."""
    file = _hub_path(url)
    if not file.is_file():
        hash_prefix = HASH_REGEX.search(file.name)

        def fetch() -> None:
            file.parent.mkdir(parents=True, exist_ok=True)
            prefix = hash_prefix[1] if hash_prefix else None
            torch.hub.download_url_to_file(url, str(file), prefix, progress=False)

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

    cache = hub.constants.HF_HUB_CACHE
    offline = hub.constants.HF_HUB_OFFLINE
    url = "" if offline else hub.hf_hub_url(repo, names[0], revision=revision or None)
    _fetch(url, fetch, f"the hub's cache is {cache}, for {repo}")
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
    problem = _unreachable(url) if url else "HF_HUB_OFFLINE is set"
    if not problem:
        log.info("fetching %s", url)
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(REACH_S)  # of every wait, so that a dead connection ends
        try:
            with _quiet():
                fetch()
            return
        except Exception as error:  # whatever urllib, a hash check or the hub raises
            problem = f"{type(error).__name__}: {error}".splitlines()[0]
        finally:
            socket.setdefaulttimeout(before)
    server = urlparse(url).hostname or "the hub"
    raise ConfigError(
        KEY,
        f"the weights are not in the cache, and {server} cannot give them: {problem}",
        f"model.weights=FILE takes a local file; {where}",
        "true",
    )


def _unreachable(url: str) -> str:
    """Why a URL's server does not answer within REACH_S, names looked up included; else empty."""
    found = [f"no answer in {REACH_S:g} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, method="HEAD"), timeout=REACH_S
            ):
                found[0] = ""
        except urllib.error.HTTPError:  # an answer, if only that it does not like HEAD
            found[0] = ""
        except Exception as error:
            found[0] = str(getattr(error, "reason", error)) or type(error).__name__

    thread = threading.Thread(target=ask, daemon=True)  # a name look-up takes no time limit
    thread.start()
    thread.join(REACH_S)
    return found[0]


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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what libraries print and log below errors."""
    loggers = [logging.getLogger(name) for name in ("timm", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
