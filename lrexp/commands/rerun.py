"""`lrexp rerun RUN`: a saved run run again, from its folder, an artifact, or a config alone."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from lrexp.commands.answer import ended, parser_of, swept
from lrexp.config.errors import ConfigError, UserError
from lrexp.config.names import shown_path
from lrexp.config.schema import meaning_of
from lrexp.runs.differences import (
    Change,
    SavedRun,
    change_lines,
    config_changes,
    environment_changes,
    read_run,
    shown,
)

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lrexp.config.recompose import SavedLoader

DESCRIPTION = """\
Run a saved run again, in a new run folder, from the config that it saved.

RUN is a run folder, a point of a grid, a downloaded W&B artifact, a config.yaml by itself, or
`latest`. Overrides come on top as on lrexp's own command line: settings (trainer.epochs=3) and
options of conf/ (lr_policy=freeze_backbone). The thread count is the recorded one.
"""
EXAMPLES = """\
  lrexp rerun latest --check                      are the numbers reproduced, to the bit?
  lrexp rerun outputs/NAME/RUN --resume           go on with a run that was stopped
  lrexp rerun latest -m lr_policy=uniform,layerwise_decay seed=0,1,2
"""
CODES = """\
0 done, 1 the run failed, 2 a mistake in the request;
  with --check 0 identical, 3 same config but numbers differ, 4 different config"""


def parser() -> argparse.ArgumentParser:
    """What the words behind the verb mean."""
    words = parser_of("rerun", DESCRIPTION, EXAMPLES, CODES)
    words.add_argument("run", metavar="RUN", help="what to run again")
    words.add_argument("overrides", metavar="OVERRIDE", nargs="*", default=[], help="KEY=VALUE")
    words.add_argument(
        "--check", action="store_true", help="compare every number with the saved one's"
    )
    words.add_argument(
        "--resume", action="store_true", help="go on with a stopped run, in its own folder"
    )
    words.add_argument(
        "--changed-data",
        action="store_true",
        help="with --resume: go on although data or weights have changed since",
    )
    words.add_argument("-m", "--multirun", action="store_true", help="a grid around the saved run")
    words.add_argument("--config-dir", "-cd", help="folder of your own YAML files")
    return words


def main(argv: list[str]) -> int:
    """Answer the words behind the verb; see `lrexp.commands.answer.answer`."""
    args = parser().parse_intermixed_args(argv)
    asked = [flag for flag in ("check", "resume", "multirun") if getattr(args, flag)]
    if len(asked) > 1:
        raise UserError(f"--{asked[0]} and --{asked[1]} exclude each other")
    if args.changed_data and not args.resume:
        raise UserError("--changed-data goes with --resume")
    saved, overrides = read_run(args.run), args.overrides

    from lrexp.config.recompose import SavedLoader
    from lrexp.runs.recheck import refuse_uncheckable
    from lrexp.session.hydra import hydra_of

    if args.check:
        refuse_uncheckable(saved)
    ground = saved.config if args.resume else _begun_anew(saved.config)
    loader = SavedLoader(ground, saved.file, args.config_dir)
    with hydra_of(loader):
        if args.multirun:
            return swept(loader, overrides)
        if args.resume:
            return _resume(saved, loader, overrides, args.changed_data)
        return _rerun(saved, loader, overrides, args.check)


def _resume(saved: SavedRun, loader: SavedLoader, overrides: list[str], changed_data: bool) -> int:
    """Go on with a run in its own folder."""
    from lrexp.config.check import check
    from lrexp.config.compose import without_hydra
    from lrexp.session.single import continue_run

    if saved.folder is None:
        raise UserError(f"{saved.file} is a config alone: --resume goes on in a run folder")
    config = _composed(loader, overrides)
    config.run_id = config.run_id or saved.config.get("run_id")
    loader.check(config, overrides)
    if hydra := [override for override in overrides if override.startswith("hydra.")]:
        raise UserError(f"{hydra[0]}: a run goes on in its own folder, as it was started")
    _match_threads(saved, config)
    resolved = check(without_hydra(config))[0]
    return ended(continue_run(saved.folder, resolved, overrides, changed_data))


def _rerun(saved: SavedRun, loader: SavedLoader, overrides: list[str], to_check: bool) -> int:
    """Run it once more, in a folder of its own, and say what is not as it was."""
    from lrexp.runs.recheck import OTHER_CONFIG, data_lines, edited, verdict
    from lrexp.session.single import run_single

    config = _composed(loader, overrides)
    loader.check(config, overrides)
    if to_check and config.trainer.resume != "never":
        raise UserError("trainer.resume=auto: --check trains anew; leave one of them out")
    changes = _config_changes(saved, loader, config)
    for line in [*_opening(saved), *_config_lines(saved, loader, changes)]:
        print(line, flush=True)
    if to_check and (edited(saved) or any(meaning_of(key).decides for key, _, _ in changes)):
        print("check  different config: nothing was run")
        return OTHER_CONFIG
    _match(saved, config)
    for line in _environment_lines(saved, config, loader, overrides):
        print(line, flush=True)
    until = None
    if to_check and not saved.whole:
        until = saved.rows[-1]["epoch"]
        print(f"check  the run was {saved.status} after epoch {until}: this one stops there too")
    ran = run_single(loader, config, overrides, until)
    again = read_run(str(ran.folder))
    for line in data_lines(saved, again):
        print(line)
    if not to_check:
        return ended(ran)
    code, lines = verdict(saved, again)
    print("\n".join(lines))
    return code


def _composed(loader: SavedLoader, overrides: list[str]) -> DictConfig:
    from hydra.types import RunMode

    from lrexp.session.single import compose_single

    config = compose_single(loader, overrides)
    if config.hydra.mode == RunMode.MULTIRUN:
        raise UserError("hydra.mode=MULTIRUN: write -m for a grid around the saved run")
    return config


def _begun_anew(config: dict[str, Any]) -> dict[str, Any]:
    """A saved config for a run of its own, which goes on with nothing that a folder may hold."""
    trainer = config.get("trainer")
    if not isinstance(trainer, dict) or trainer.get("resume") != "auto":
        return config
    return config | {"trainer": trainer | {"resume": "never"}}


def _opening(saved: SavedRun) -> list[str]:
    where = shown_path(saved.folder or saved.file)
    status = "a config alone" if saved.folder is None else "an artifact"
    return [f"rerun  {where} ({saved.status if saved.summary else status})"]


def _config_changes(saved: SavedRun, loader: SavedLoader, config: DictConfig) -> list[Change]:
    """What overrides have changed in the saved config."""
    from omegaconf import OmegaConf

    from lrexp.config.check import check
    from lrexp.config.compose import without_hydra

    now: Any = OmegaConf.to_container(check(without_hydra(config))[0])
    return [
        change
        for change in config_changes(saved.config, now)
        if change[0] != "run_id" and change[0] not in loader.filled
    ]


def _config_lines(saved: SavedRun, loader: SavedLoader, changes: list[Change]) -> list[str]:
    from lrexp.runs.recheck import edited

    lines = [f"config {line}" for line in change_lines(changes)] or ["config the saved one"]
    if edited(saved):
        lines.append("config config.yaml was edited after the run (its config_id is another)")
    new = [f"{key}={shown(value)}" for key, value in loader.filled.items()]
    if new:
        lines.append(f"config newer than the saved one, at today's default: {', '.join(new)}")
    return lines


def _match(saved: SavedRun, config: DictConfig) -> None:
    """Take as many threads as the run had, and stay on the CPU when it was there."""
    _match_threads(saved, config)
    if saved.environment.get("device") == "cpu" and config.trainer.device == "auto":
        from lrexp.build.experiment import choose_device

        if choose_device("auto").type != "cpu":
            config.trainer.device = "cpu"
            print("device cpu, where the run was; trainer.device=auto was saved")


def _match_threads(saved: SavedRun, config: DictConfig) -> None:
    from lrexp.grid.pool.in_worker import set_threads

    threads, cores = saved.environment.get("threads"), os.cpu_count() or 1
    if type(threads) is int and config.trainer.threads is None and 1 <= threads <= cores:
        set_threads(threads)


def _environment_lines(
    saved: SavedRun, config: DictConfig, loader: SavedLoader, overrides: list[str]
) -> list[str]:
    """What of code, packages and machine is not as it was, before anything is built."""
    if not saved.environment:
        return ["code   nothing is recorded of code, packages and machine"]
    import torch

    from lrexp.build.experiment import choose_device
    from lrexp.folder.environment import environment

    try:
        device = choose_device(config.trainer.device)
    except ConfigError as error:
        raise loader.placed(error, overrides) from error
    threads = config.trainer.threads or torch.get_num_threads()
    now = environment(device, threads, {})
    before = {k: v for k, v in saved.environment.items() if k != "fingerprints"}
    changes = environment_changes(before, now)
    return [f"{_heading(change[0])} {change_lines([change])[0]}" for change in changes] or [
        "code   code, packages and machine are as they were"
    ]


def _heading(key: str) -> str:
    section = key.partition(".")[0]
    words = {"packages": "pkg", "threads": "cpu", "python": "pkg", "lrexp": "code"}
    words |= dict.fromkeys(("commit", "diff_hash", "code_hash"), "code")
    words |= dict.fromkeys(("device", "gpu", "gpu_driver", "cuda", "cudnn"), "gpu")
    words |= dict.fromkeys(("cpu", "cpu_capability", "cpu_count", "os"), "cpu")
    return f"{words.get(section, 'env'):<6}"
