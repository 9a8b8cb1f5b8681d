"""Everything that composing and checking a point reads besides its overrides, as a text."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path

from omegaconf import DictConfig

from lrexp.config.compose import CheckedLoader
from lrexp.config.recompose import SavedLoader
from lrexp.config.saved import MAX_BYTES

MOST_FILES = 5_000  # of a folder with options; more are not read to save the reading of a grid
# a folder that is another by now; not in a comment of YAML
_NEWEST = re.compile(r"^(?:[^#\n]*\W)?(?:weights|against)\s*[=:]\s*['\"]?latest\b", re.MULTILINE)
_READS = re.compile(r"oc\.env\s*:\s*([A-Za-z_]\w*(?=\s*[,}]))?")


def sources_text(loader: CheckedLoader, config: DictConfig, asked: Iterable[str]) -> str:
    """A line per thing that decides what overrides are composed to: its digest, and what it is.

    Two texts are equal only where equal overrides come to equal settings: composing is a function
    of the YAML files below the folders that Hydra searches, of a saved config that it happens on,
    of the code, of the environment's variables that any of these texts name, and of the folders
    that relative paths and `~` begin at. That more is read into it than a grid needs, such as
    options that it does not choose, costs no more than composing its points anew.

    Args:
        loader: that composes.
        config: composed for the sweep as a whole; says where Hydra looks for files.
        asked: other texts that become part of a point's config: overrides, a file of cases.

    Returns:
        The lines; nothing where not all of that can be told, as of a package with options.
    """
    texts, digests = list(asked), [f"{_code()}  code"]
    for source in config.hydra.runtime.config_sources:
        if source.schema == "file":
            files = _files(Path(source.path))
            if files is None:
                return ""
            for file in files:
                if not file.is_file() or file.stat().st_size > MAX_BYTES:  # a pipe, no option
                    return ""
                content = file.read_bytes()
                texts.append(content.decode(errors="replace"))
                digests.append(f"{_digest(content)}  {file}")
        elif (source.schema, source.path) not in (("pkg", "hydra.conf"), ("structured", "")):
            return ""
    if isinstance(loader, SavedLoader):
        texts.append(json.dumps(loader.saved, sort_keys=True, default=str))
        digests.append(f"{_digest(texts[-1].encode())}  saved config")
    if any(_NEWEST.search(text) for text in texts):  # another run by now
        return ""
    read = {found[1] for text in texts for found in _READS.finditer(text)}
    if None in read:  # a name that is itself made of something
        return ""
    places = {"here": os.getcwd(), "home": str(Path.home())}
    said = {f"${name}": repr(os.environ.get(name)) for name in read}
    digests += (f"{_digest(value.encode())}  {name}" for name, value in (places | said).items())
    return "\n".join(sorted(digests)) + "\n"


def _files(folder: Path) -> list[Path] | None:
    """YAML files of a folder; None where it holds more than a folder of options does."""
    found, looked_at = list[Path](), 0
    for at, folders, names in os.walk(folder, followlinks=True):
        looked_at += len(folders) + len(names)
        if looked_at > MOST_FILES:
            return None
        found += (Path(at, name) for name in names if name.endswith((".yaml", ".yml")))
    return found


@cache
def _code() -> str:
    """Of lrexp's own, and of the libraries that compose."""
    package = Path(__file__).parent.parent
    known = hashlib.blake2b(digest_size=16)
    for file in sorted(package.rglob("*.py")):
        known.update(file.read_bytes())
    for library in ("hydra-core", "omegaconf"):
        known.update(version(library).encode())
    return known.hexdigest()


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
