"""`lrexp rerun RUN`: a saved run run again, from its folder, an artifact, or a config alone."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lrexp.commands.answer import ended, layers_tested, parser_of, swept
from lrexp.config.check import check
from lrexp.config.compose import without_hydra
from lrexp.config.errors import ConfigError, UserError, for_terminal
from lrexp.config.names import shown_path
from lrexp.config.parts import part, targets_in
from lrexp.config.recompose import SavedLoader
from lrexp.config.schema import meaning_of
from lrexp.folder.environment import environment
from lrexp.grid.pool.in_worker import set_threads
from lrexp.runs.differences import (
    SavedRun,
    change_lines,
    config_changes,
    environment_changes,
    read_run,
    shown,
)
from lrexp.runs.recheck import (
    OTHER_CONFIG,
    data_lines,
    edited,
    refuse_uncheckable,
    rounds_otherwise,
    verdict,
)
from lrexp.session.hydra import hydra_of
from lrexp.session.single import compose_single, continue_run, run_single, trains_a_grid

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
  with --check 0 identical, 3 same config but numbers differ, 4 different config, 5 cannot tell: the
  run was trained stacked, and rounding alone leads such a run elsewhere"""


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


# what lines begin with that say a part of the environment is another
HEADINGS = {
    **dict.fromkeys(("lrexp", "commit", "diff_hash", "code_hash", "parts"), "code"),
    **dict.fromkeys(("packages", "python"), "pkg"),
    **dict.fromkeys(("device", "gpu", "gpu_driver", "cuda", "cudnn"), "gpu"),
    **dict.fromkeys(("threads", "cpu", "cpu_capability", "cpu_count", "os"), "cpu"),
}


def main(argv: list[str]) -> int:
    """Answer the words behind the verb; see `lrexp.commands.answer.answer`."""
    args = parser().parse_intermixed_args(argv)
    asked = [flag for flag in ("check", "resume", "multirun") if getattr(args, flag)]
    if len(asked) > 1:
        raise UserError(f"--{asked[0]} and --{asked[1]} exclude each other")
    if args.changed_data and not args.resume:
        raise UserError("--changed-data goes with --resume")
    saved, overrides = read_run(args.run), args.overrides
    if args.check:
        refuse_uncheckable(saved)
    ground, trainer = saved.config, saved.config.get("trainer")
    if not args.resume and isinstance(trainer, dict) and trainer.get("resume") == "auto":
        ground = ground | {"trainer": trainer | {"resume": "never"}}  # a run of its own
    loader = SavedLoader(ground, saved.file, args.config_dir)
    with hydra_of(loader):
        if args.multirun:
            return swept(loader, overrides)
        if args.resume and saved.folder is None:
            raise UserError(f"{saved.file} is a config alone: --resume goes on in a run folder")
        config = compose_single(loader, overrides)
        if config.hydra.mode == RunMode.MULTIRUN:
            raise UserError("hydra.mode=MULTIRUN: write -m for a grid around the saved run")
        if trains_a_grid(config) and not (args.check or args.resume):
            return layers_tested(loader, config, overrides, args.config_dir)
        if args.resume:
            config.run_id = config.run_id or saved.config.get("run_id")
        loader.check(config, overrides)
        _match_threads(saved, config)
        if args.resume:
            return _resume(saved, config, overrides, args.changed_data)
        return _rerun(saved, loader, config, overrides, args.check)


def _resume(saved: SavedRun, config: DictConfig, overrides: list[str], changed_data: bool) -> int:
    """Go on with a run in its own folder."""
    if hydra := [override for override in overrides if override.startswith("hydra.")]:
        raise UserError(f"{hydra[0]}: a run goes on in its own folder, as it was started")
    assert saved.folder is not None
    resolved = check(without_hydra(config))[0]
    return ended(continue_run(saved.folder, resolved, overrides, changed_data))


def _rerun(
    saved: SavedRun, loader: SavedLoader, config: DictConfig, overrides: list[str], to_check: bool
) -> int:
    """Run it once more, in a folder of its own, and say what is not as it was."""
    if to_check and config.trainer.resume != "never":
        raise UserError("trainer.resume=auto: --check trains anew; leave one of them out")
    now: Any = OmegaConf.to_container(check(without_hydra(config))[0])
    known = {"run_id", *loader.filled}
    changes = [one for one in config_changes(saved.config, now) if one[0] not in known]
    of_file = "a config alone" if saved.folder is None else "an artifact"
    status = saved.status if saved.summary else of_file
    lines = [f"rerun  {shown_path(saved.folder or saved.file)} ({status})"]
    lines += [f"config {line}" for line in change_lines(changes)] or ["config the saved one"]
    if edited(saved):
        lines.append("config config.yaml was edited after the run (its config_id is another)")
    if new := ", ".join(f"{key}={shown(value)}" for key, value in loader.filled.items()):
        lines.append(f"config newer than the saved one, at today's default: {new}")
    print(for_terminal("\n".join(lines)), flush=True)
    if to_check and (edited(saved) or any(meaning_of(key).decides for key, _, _ in changes)):
        print("check  different config: nothing was run")
        return OTHER_CONFIG
    lines = _environment_lines(saved, config, loader, overrides)
    print(for_terminal("\n".join(lines)), flush=True)
    until = None
    if to_check and not saved.whole:
        until = saved.rows[-1]["epoch"]
        print(f"check  the run was {saved.status} after epoch {until}: this one stops there too")
    ran = run_single(loader, config, overrides, until)
    again = read_run(str(ran.folder))
    for line in data_lines(saved, again):
        print(for_terminal(line))
    if not to_check:
        return ended(ran)
    code, lines = _verdict(saved, again, config, until)
    print(for_terminal("\n".join(lines)))
    return code


def _verdict(
    saved: SavedRun, again: SavedRun, config: DictConfig, until: int | None
) -> tuple[int, list[str]]:
    """As `verdict`, with the rerun's twin where that is needed."""
    if not rounds_otherwise(saved, again):
        return verdict(saved, again)
    from lrexp.tasks.twin import train_twin

    said = "what rounding does to it is seen by training it once more, all but the same"
    print(f"check  the run was trained stacked: {said}", flush=True)
    checked = check(without_hydra(config))[1]
    with TemporaryDirectory() as folder:
        rows = train_twin(checked, Path(folder), until)
        return verdict(saved, again, replace(again, folder=Path(folder), rows=rows, summary={}))


def _match_threads(saved: SavedRun, config: DictConfig) -> None:
    """Take as many threads as the run had."""
    threads, cores = saved.environment.get("threads"), os.cpu_count() or 1
    if type(threads) is int and config.trainer.threads is None and 1 <= threads <= cores:
        set_threads(threads)


def _environment_lines(
    saved: SavedRun, config: DictConfig, loader: SavedLoader, overrides: list[str]
) -> list[str]:
    """What of code, packages and machine is not as it was, before anything is built.

    A run that was on the CPU stays there.
    """
    if not saved.environment:
        return ["code   nothing is recorded of code, packages and machine"]
    import torch

    from lrexp.build.experiment import choose_device

    lines: list[str] = []
    was, chosen = saved.environment.get("device"), config.trainer.device
    if was == "cpu" and chosen == "auto" and choose_device("auto").type != "cpu":
        lines.append("device cpu, where the run was; trainer.device=auto was saved")
        config.trainer.device = "cpu"
    parts = targets_in(check(without_hydra(config))[1])
    try:
        device = choose_device(config.trainer.device)
        for key, target in parts.items():
            part(key, target)  # so that its source is known
    except ConfigError as error:
        raise loader.placed(error, overrides) from error
    now = environment(device, config.trainer.threads or torch.get_num_threads(), {}, parts)
    before = {k: v for k, v in saved.environment.items() if k != "fingerprints"}
    changes = environment_changes(before, now)
    for change in changes:
        heading = HEADINGS.get(change[0].partition(".")[0], "env")
        lines.append(f"{heading:<6} {change_lines([change])[0]}")
    return lines if changes else [*lines, "code   code, packages and machine are as they were"]
