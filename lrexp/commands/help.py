"""The text of `--help`, read off the YAML files without composing anything."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NoReturn

from lrexp.commands.answer import VERBS
from lrexp.config.errors import UserError, nearest
from lrexp.config.habits import OURS, plain
from lrexp.config.names import conf_folder

GROUPS = (
    "experiment",
    "model",
    "data",
    "loss",
    "optimizer",
    "lr_policy",
    "scheduler",
    "trainer",
    "logger",
    "task",
)

TEXT = """\
lrexp: which learning-rate policy should I use, by how much is it better, and does it overfit?

usage: lrexp [-m] [GROUP=OPTION ...] [SETTING=VALUE ...]        (also: python -m lrexp)
       lrexp VERB ...                                           (lrexp VERB --help says more)

Choose an option per group (a file in conf/GROUP), change single settings, or sweep them with -m:
{groups}

Examples:
  lrexp                                           train on embedded digits, seconds, offline
  lrexp experiment=finetune_digits lr_policy=freeze_backbone
  lrexp model=mlp optimizer=adam optimizer.lr=3e-4 trainer.epochs=5 seed=3
  lrexp lr_policy=layerwise_decay lr_policy.decay=0.8 scheduler=cosine scheduler.warmup=0.1
  lrexp -m lr_policy=uniform,layerwise_decay,freeze_backbone optimizer.lr=0.01,0.1

Grids (-m): every combination of the values, and files of cases with axes of their own:
  lrexp -m cases=policies optimizer.lr=0.02,0.05 seed=0,1,2      (or cases=FILE.yaml)
{cases}
  lrexp -m hydra.launcher.resume=latest    finish a sweep that was stopped, or failed in part
  lrexp -m hydra.launcher.executor=serial ...     one after the other, to the bits of single runs;
                                           stacked: together, pool: in worker programs; auto
                                           (the default) times them and takes the fastest

With what was run (RUN and FOLDER may be `latest`):
{verbs}

Look before you run:
  lrexp task=plan             who would learn how fast (add overrides): a table and a picture
  lrexp task=range_test       which rate to begin with: the loss along a ramp of rates
  lrexp task=layer_test       which layer wants which rate, measured: one layer's rate at a time
  lrexp --cfg job             every setting with its value (add overrides to see what they change)
  lrexp --info defaults       which file each setting comes from
  lrexp --config-dir FOLDER   use your own YAML files beside ours
  lrexp --hydra-help          Hydra's own flags
  lrexp --version

Tab completion in bash:  eval "$(lrexp -sc install=bash)"     (also zsh and fish)
Results go to outputs/NAME/DATE_TIME-ID/; outputs/latest is the newest.
"""


def help_text(argv: list[str]) -> str:
    """What the tool does, every group with its options, and commands to copy."""
    folders = [conf_folder()]
    argv = [word for argument in argv for word in argument.split("=", 1)]
    for flag in ("--config-dir", "-cd"):
        if flag in argv[:-1]:
            folders.append(Path(argv[argv.index(flag) + 1]))
            if not folders[-1].is_dir():
                raise UserError(f"--config-dir {folders[-1]}: there is no such folder")
    lines = [line for group in GROUPS for line in _option_lines(group, folders)]
    cases = _option_lines("cases", folders)
    verbs = [f"  lrexp {verb:<10} {what}" for verb, what in VERBS.items()]
    return TEXT.format(groups="\n".join(lines), cases="\n".join(cases), verbs="\n".join(verbs))


def refuse_word(word: str, rest: Sequence[str] = ()) -> NoReturn:
    """Raise a UserError for a word that is no verb in its place, nor KEY=VALUE: what is meant?

    `rest` is what follows it.
    """
    by_option: dict[str, list[str]] = {}
    for group in GROUPS:
        for file in sorted((conf_folder() / group).rglob("*.yaml")):
            option = file.relative_to(conf_folder() / group).with_suffix("").as_posix()
            for name in {file.stem, option}:
                by_option.setdefault(name, []).append(f"{group}={option}")
    verbs = [after for after in rest if after in VERBS]
    if word not in VERBS and verbs:
        raise UserError(f"{word}: a verb comes first\n  write lrexp {verbs[0]} {word}")
    meant = nearest(word, [*VERBS, *GROUPS, *by_option])
    if word in VERBS:
        raise UserError(f"{word}: a verb comes first\n  write lrexp {word} ...")
    if word in by_option:
        ways = " or ".join(by_option[word])
        raise UserError(f"{word}: is an option, no verb\n  write {ways}")
    if "." in (setting := OURS.get(plain(word), "")):
        problem = "is no verb, and a setting is KEY=VALUE"
        raise UserError(f"{word}: {problem}\n  did you mean {setting}=VALUE?")
    if meant in GROUPS:
        raise UserError(f"{word}: is no verb\n  did you mean {meant}=OPTION?")
    if meant in by_option:
        ways = " or ".join(by_option[meant])
        raise UserError(f"{word}: is no verb, and a setting is KEY=VALUE\n  did you mean {ways}?")
    hint = f"did you mean '{meant}'? " if meant else ""
    raise UserError(
        f"{word}: there is no such verb, and a setting is KEY=VALUE\n"
        f"  {hint}verbs: {', '.join(VERBS)}; lrexp --help"
    )


def _option_lines(group: str, folders: list[Path]) -> list[str]:
    """A group with its options, long lists continued below, then those in folders of it."""
    names = {
        file.relative_to(folder / group).with_suffix("").as_posix()
        for folder in folders
        for file in (folder / group).rglob("*.yaml")
    }
    own = sorted(name for name in names if "/" not in name)
    options = textwrap.wrap(", ".join(own), 84) or [""]
    for inner in sorted({name.rpartition("/")[0] for name in names if "/" in name}):
        inside = sorted(name.rpartition("/")[2] for name in names if name.startswith(f"{inner}/"))
        options += textwrap.wrap(f"{inner}/NAME: {', '.join(inside)}", 84)
    return [f"  {name:<11} {part}" for name, part in zip_longest([group], options, fillvalue="")]
