"""The command that runs a saved run again: from its folder, an artifact, or a config alone."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrexp.__main__ import answer, continue_run, hydra_of, leave, run_single, run_sweep_of
from lrexp.config.errors import ConfigError, UserError, misused
from lrexp.config.names import shown_path
from lrexp.folder.layout import BEST, CHECKPOINTS, LAST
from lrexp.runs.differences import (
    Change,
    CurveDifference,
    SavedRun,
    change_lines,
    config_changes,
    curve_differences,
    decides,
    environment_changes,
    lone_epochs,
    read_run,
    shown,
)

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lrexp.config.recompose import SavedLoader

IDENTICAL, DIFFER, OTHER_CONFIG = 0, 3, 4  # exit codes of --check
FINAL, BEST = f"{CHECKPOINTS}/{LAST}", f"{CHECKPOINTS}/{BEST}"
# Runs that were trained together round otherwise than alone. Of a metric, relative to the larger
# of 1 and its value (one image more or less among a few hundred is classified right); of all
# weights, the norm of the difference relative to theirs. Runs that settle stay below 1e-6 in both.
STACKED_METRIC = 1e-2
STACKED_WEIGHTS = 1e-3
MOST_METRICS = 12  # that are listed

DESCRIPTION = """\
Run a saved run again, in a new run folder, from the config that it saved.

RUN is a run folder, a point of a grid, a downloaded W&B artifact, a config.yaml by itself, or
`latest`. Overrides come on top as on lrexp's own command line: settings (trainer.epochs=3) and
options of conf/ (lr_policy=freeze_backbone). The thread count is the recorded one.
"""
EPILOG = """\
exit codes of --check: 0 identical, 3 same config but numbers differ, 4 different config;
  1 the run failed, 2 a mistake in the request
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command line; see `lrexp.__main__.answer`. --check has exit codes of its own."""
    return answer(_dispatch, argv)


def _dispatch(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lrexp.commands.rerun",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="what to run again")
    parser.add_argument("overrides", metavar="OVERRIDE", nargs="*", default=[], help="KEY=VALUE")
    parser.add_argument(
        "--check", action="store_true", help="compare every number with the saved one's"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with a stopped run, in its own folder"
    )
    parser.add_argument(
        "--changed-data",
        action="store_true",
        help="with --resume: go on although data or weights have changed since",
    )
    parser.add_argument("-m", "--multirun", action="store_true", help="a grid around the saved run")
    parser.add_argument("--config-dir", "-cd", help="folder of your own YAML files")
    parser.error = partial(misused, parser.prog)  # type: ignore[method-assign]
    args = parser.parse_intermixed_args(argv)

    asked = [flag for flag in ("check", "resume", "multirun") if getattr(args, flag)]
    if len(asked) > 1:
        raise UserError(f"--{asked[0]} and --{asked[1]} exclude each other")
    if args.changed_data and not args.resume:
        raise UserError("--changed-data goes with --resume")
    saved = read_run(args.run)
    if args.resume and saved.folder is None:
        raise UserError(f"{saved.file} is a config alone: --resume goes on in a run folder")
    if args.check:
        _refuse_uncheckable(saved)
    from hydra.types import RunMode

    from lrexp.config.check import check
    from lrexp.config.compose import CONFIG_NAME, without_hydra
    from lrexp.config.recompose import SavedLoader
    from lrexp.grid.points.cases import refuse_cases

    ground = saved.config if args.resume else _begun_anew(saved.config)
    loader, overrides = SavedLoader(ground, saved.file, args.config_dir), args.overrides
    with hydra_of(loader):
        if args.multirun:
            return run_sweep_of(loader, overrides)
        refuse_cases(overrides)
        config = loader.load_configuration(CONFIG_NAME, overrides, RunMode.RUN)
        if args.resume:
            config.run_id = config.run_id or saved.config.get("run_id")
        if config.hydra.mode == RunMode.MULTIRUN:
            raise UserError("hydra.mode=MULTIRUN: write -m for a grid around the saved run")
        loader.check(config, overrides)
        if args.resume:
            if hydra := [override for override in overrides if override.startswith("hydra.")]:
                raise UserError(f"{hydra[0]}: a run goes on in its own folder, as it was started")
            assert saved.folder is not None
            _match_threads(saved, config)
            resolved = check(without_hydra(config))[0]
            return continue_run(saved.folder, resolved, overrides, args.changed_data)
        if args.check and config.trainer.resume != "never":
            raise UserError("trainer.resume=auto: --check trains anew; leave one of them out")
        changes = _config_changes(saved, loader, config)
        for line in [*_opening(saved), *_config_lines(saved, loader, changes)]:
            print(line, flush=True)
        if args.check and (_edited(saved) or any(decides(key) for key, _, _ in changes)):
            print("check  different config: nothing was run")
            return OTHER_CONFIG
        _match(saved, config)
        for line in _environment_lines(saved, config, loader, overrides):
            print(line, flush=True)
        until = None
        if args.check and not saved.whole:
            until = saved.rows[-1]["epoch"]
            word = saved.status
            print(f"check  the run was {word} after epoch {until}: this one stops there too")
        code = run_single(loader, config, overrides, until)
        if code:
            return code
        again = read_run(config.hydra.run.dir)
    for line in _data_lines(saved, again):
        print(line)
    if not args.check:
        return 0
    code, lines = verdict(saved, again)
    print("\n".join(lines))
    return code


def _refuse_uncheckable(saved: SavedRun) -> None:
    if not saved.rows and saved.weights is None and not saved.summary.get("weights_hash"):
        raise UserError(
            f"{saved.file} came without numbers: --check has nothing to compare with\n"
            "  it needs the run's metrics.jsonl or a checkpoint beside it; leave out --check to run"
        )
    if not saved.rows and not saved.whole:
        raise UserError(
            f"{saved.folder} was {saved.status} before its first epoch had ended:"
            " --check has nothing to compare with\n  leave out --check to run"
        )


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


def _edited(saved: SavedRun) -> bool:
    """Whether config.yaml is no longer what the same code once ran."""
    from omegaconf import OmegaConf

    from lrexp.config.check import config_id
    from lrexp.folder.environment import source_hash

    ran = saved.summary.get("config_id")
    if "seed" in saved.summary and saved.summary["seed"] != saved.config.get("seed"):
        return True  # no config_id depends on it
    if ran is None or saved.environment.get("code_hash") != source_hash():
        return False  # another version may number configs otherwise
    return ran != config_id(OmegaConf.create(saved.config))


def _config_lines(saved: SavedRun, loader: SavedLoader, changes: list[Change]) -> list[str]:
    lines = [f"config {line}" for line in change_lines(changes)] or ["config the saved one"]
    if _edited(saved):
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
    from lrexp.grid.pool.in_worker import THREADS

    threads, cores = saved.environment.get("threads"), os.cpu_count() or 1
    if type(threads) is int and config.trainer.threads is None and 1 <= threads <= cores:
        os.environ.update(dict.fromkeys(THREADS, str(threads)))
        torch: Any = sys.modules.get("torch")
        if torch is not None:
            torch.set_num_threads(threads)


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


def _data_lines(saved: SavedRun, again: SavedRun) -> list[str]:
    """What only building could show: other data, other weights, another plan."""
    was, now = saved.environment.get("fingerprints"), again.environment.get("fingerprints")
    changes = (
        environment_changes({"fingerprints": was}, {"fingerprints": now}) if was and now else []
    )
    lines = [f"data   {line}" for line in change_lines(changes)]
    if saved.plan is not None and again.plan is not None:
        from lrexp.plan.plan import difference_lines

        lines += [f"plan   {line}" for line in difference_lines(saved.plan.diff(again.plan))]
    return lines


def verdict(saved: SavedRun, again: SavedRun) -> tuple[int, list[str]]:
    """What a rerun of the same config came to, against the run itself.

    Returns:
        IDENTICAL or DIFFER, and the lines that say so. A run that was trained together with others
        is held to `STACKED_METRIC` and `STACKED_WEIGHTS`, any other to the bit.
    """
    curves = curve_differences(saved.rows, again.rows)
    missing, new = lone_epochs(saved.rows, again.rows) if saved.rows else ([], [])
    weights = _Weights(saved, again)
    epochs = "1 epoch" if len(saved.rows) == 1 else f"{len(saved.rows)} epochs"
    if not saved.whole:
        epochs += f", all that it had when it was {saved.status}"
    compared = [epochs] if saved.rows else []
    compared += [weights.what] if weights.known else []
    lines: list[str] = []
    if saved.stacked:
        beyond = [d for d in curves if not within_tolerance(d)]
        apart = weights.apart() if weights.known else None
        good = not beyond and not missing and not new and (apart or 0.0) <= STACKED_WEIGHTS
        stated = f"metrics {STACKED_METRIC:g}, weights {STACKED_WEIGHTS:g} of their norm"
        lines.append(
            "check  the run was trained stacked, together with others, which rounds otherwise: "
            f"compared within {stated}"
        )
        if good:
            largest = max((relative(d) for d in curves), default=0.0)
            found = f"metrics within {largest:.1e}"
            found += "" if apart is None else f", weights within {apart:.1e}"
            return IDENTICAL, [*lines, f"check  identical within the tolerance: {found}"]
    elif not curves and not missing and not new and not weights.differ:
        equal = f"{', '.join(compared)}: equal bit for bit"
        return IDENTICAL, [f"check  identical: {equal}"]
    first = min([d.first_epoch for d in curves] + missing + new, default=None)
    where = f", first in epoch {first}" if first is not None else ""
    lines.append(f"check  same config, numbers differ{where} ({', '.join(compared)})")
    lines += _curve_lines(curves)
    if missing or new:
        lines.append(f"check  epochs that only one has: {', '.join(map(str, [*missing, *new]))}")
    if weights.differ:
        lines.append(f"check  {weights.what} differ{weights.distance()}")
    causes = environment_changes(saved.environment, again.environment)
    if saved.stacked:
        lines.append(
            "cause  trained stacked: at rates so high that a run jumps about, rounding alone leads "
            "it elsewhere"
        )
    on_the_way = _changed_on_the_way(saved)
    lines += [f"cause  {line}" for line in [*on_the_way, *change_lines(causes)]] or [
        "cause  nothing that was recorded of code, packages, machine and data differs"
        if saved.environment
        else "cause  unknown: nothing is recorded of code, packages, machine and data"
    ]
    return DIFFER, lines


def _changed_on_the_way(saved: SavedRun) -> list[str]:
    """What was other from some epoch on, when the run was stopped and went on."""
    resumed = saved.summary.get("resumed")
    points = [p for p in resumed if isinstance(p, dict)] if isinstance(resumed, list) else []
    return [
        f"it went on after epoch {point.get('epoch')} with {line}"
        for point in points
        for key in ("changes", "environment")
        for line in point.get(key) or ()
    ]


def relative(difference: CurveDifference) -> float:
    """|b − a| / max(1, |a|)."""
    return difference.largest / max(1.0, abs(difference.was))


def within_tolerance(difference: CurveDifference) -> bool:
    """Whether rounding explains what differs between a run alone and one trained with others."""
    return relative(difference) <= STACKED_METRIC


def _curve_lines(curves: list[CurveDifference]) -> list[str]:
    """A line per metric: how far apart at most, and where."""
    if not curves:
        return []
    lines = [
        f"       {'metric':<32} {'largest':>10} {'epoch':>6} {'was':>14} {'is':>14} {'from':>5}"
    ]
    lines += [
        f"       {d.metric[:32]:<32} {d.largest:>10.3g} {d.epoch:>6} {d.was:>14.8g} {d.now:>14.8g}"
        f" {d.first_epoch:>5}"
        for d in curves[:MOST_METRICS]
    ]
    left = len(curves) - MOST_METRICS
    return [*lines, f"       and {left} more metrics"] if left > 0 else lines


class _Weights:
    """The final weights of a run and of its rerun; the best ones where a run has no others.

    Of a run that was stopped those of its last row, where it saved them.
    """

    def __init__(self, saved: SavedRun, again: SavedRun):
        self._was, self._is = saved.weights, None
        of_best = self._was is not None and self._was.name == BEST
        hash_of_final = saved.summary.get("weights_hash") if saved.whole else None
        self.what = "best weights" if of_best and not hash_of_final else "final weights"
        if not saved.whole:
            epoch = saved.rows[-1]["epoch"] if saved.rows else None
            self.what = f"weights of epoch {epoch}"
            if of_best or _epoch_ended(self._was) != epoch:
                self._was = None
        if again.folder is not None:
            self._is = again.folder / (BEST if of_best else FINAL)
        if hash_of_final:
            self._pair = (hash_of_final, again.summary.get("weights_hash"))
        else:
            self._pair = (_hash(self._was), _hash(self._is))
        self.known = self._pair[0] is not None

    @property
    def differ(self) -> bool:
        return self.known and self._pair[0] != self._pair[1]

    def apart(self) -> float | None:
        """‖w' − w‖ / ‖w‖ over all floating-point tensors; None where one is not to be had."""
        was, now = _model(self._was), _model(self._is)
        if was is None or now is None or was.keys() != now.keys():
            return None
        pairs = [(was[n].double(), now[n].double()) for n in was if was[n].is_floating_point()]
        norm = sum(float(a.square().sum()) for a, _ in pairs) ** 0.5
        return sum(float((b - a).square().sum()) for a, b in pairs) ** 0.5 / (norm or 1.0)

    def distance(self) -> str:
        apart = self.apart()
        return "" if apart is None else f" by {apart:.2g} of their norm"


def _hash(file: Path | None) -> str | None:
    from lrexp.optim.groups import tensor_hash

    model = _model(file)
    return None if model is None else tensor_hash(model)


def _epoch_ended(file: Path | None) -> int | None:
    """The epoch whose end a state is of; None when it is from within one, or cannot be read."""
    from lrexp.folder.checkpoint import load_checkpoint

    try:
        state = load_checkpoint(file) if file else {}
        return state.get("epoch") if state.get("current") is None else None
    except Exception:  # whatever a reader makes of bytes that nobody wrote
        return None


def _model(file: Path | None) -> dict[str, Any] | None:
    """The weights in a checkpoint; None when there are none that can be read."""
    from lrexp.folder.checkpoint import load_checkpoint

    if file is None or not file.is_file():
        return None
    try:
        return load_checkpoint(file)["model"]
    except Exception as error:
        print(f"check  {file.name} cannot be read, weights are not compared: {error}")
        return None


if __name__ == "__main__":
    leave(main())
