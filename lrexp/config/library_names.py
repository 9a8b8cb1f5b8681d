"""The networks, optimizers and schedulers of libraries by name, read off their source text.

So that a mistake can be answered without the seconds that importing torch or timm takes.
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

# (group, option that takes a name) → package, its files, and what stands before a name in them.
SOURCES = {
    ("model", "torchvision"): (
        *("torchvision", "models/*.py"),
        r"^@register_model\(.*\)\n(?:@.*\n)*def (\w+)",
    ),
    ("model", "timm"): ("timm", "models/*.py", r"^@register_model\ndef (\w+)"),
    ("optimizer", "torch"): ("torch", "optim/*.py", r"^class ([A-Z]\w+)\((?:Optimizer|Adam)\)"),
    ("optimizer", "timm"): ("timm", "optim/_optim_factory.py", r"\bname='(?!fused|bnb)(\w+)'"),
    ("scheduler", "torch"): ("torch", "optim/lr_scheduler.py", r"^class ([A-Z]\w+)\(LRSchedu"),
}


@cache
def names_of(group: str, library: str) -> frozenset[str]:
    """What a library calls what it has for a group; empty when it is not installed.

    >>> "resnet34" in names_of("model", "torchvision")
    True
    """
    package, pattern, name = SOURCES[group, library]
    spec = importlib.util.find_spec(package)  # imports nothing
    folders = (spec.submodule_search_locations or []) if spec else []
    texts = (f.read_text("utf-8", "replace") for at in folders for f in Path(at).glob(pattern))
    return frozenset(found for text in texts for found in re.findall(name, text, re.MULTILINE))


def library_of(group: str, typed: str) -> tuple[str, str] | None:
    """The first library that has such a name, and how that spells it; of several names, has all.

    A tag of weights may follow a network's name in timm.

    >>> library_of("model", "ResNet34"), library_of("model", "no_such_network")
    (('torchvision', 'resnet34'), None)
    """
    for of_group, library in SOURCES:
        if of_group != group:
            continue
        spelt = {name.casefold(): name for name in names_of(group, library)}
        parts = [name.partition("." if library == "timm" else "\0") for name in typed.split(",")]
        if all(stem.casefold() in spelt for stem, *_ in parts):
            return library, ",".join(spelt[stem.casefold()] + dot + tag for stem, dot, tag in parts)
    return None
