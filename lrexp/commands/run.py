"""The command without a verb: one run, or a sweep with -m; and what Hydra's flags show of both."""

from __future__ import annotations

import argparse
import re
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from lrexp import __version__
from lrexp.commands.answer import ended, flag_meant, layers_tested, swept
from lrexp.commands.completion import complete
from lrexp.commands.help import help_text, refuse_word
from lrexp.config.errors import UserError
from lrexp.config.names import CONFIG_NAME

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra

    from lrexp.config.compose import CheckedLoader


def main(argv: list[str]) -> int:
    """Answer a command line of overrides and flags; see `lrexp.commands.answer.answer`."""
    if argv and _is_word(argv[0]):  # before any flag is read: it may be a verb's
        refuse_word(argv[0], argv[1:])
    if any(flag in argv for flag in ("-h", "--help")):
        print(help_text(argv), end="")
        return 0
    if "--version" in argv:
        print(f"lrexp {__version__}")
        return 0

    from hydra._internal.utils import get_args_parser

    from lrexp.config.compose import CheckedLoader
    from lrexp.session.hydra import hydra_of

    parser = get_args_parser()
    parser.error = partial(_refuse_flags, parser)
    args = parser.parse_intermixed_args(argv)
    if args.experimental_rerun or args.config_path or args.config_name:
        raise UserError("--experimental-rerun, --config-path and --config-name are not supported")
    _refuse_flags_together(args)
    if words := [override for override in args.overrides if _is_word(override)]:
        refuse_word(words[0])
    loader = CheckedLoader(args.config_dir)
    with hydra_of(loader) as hydra:
        if args.shell_completion:
            complete(hydra, args.overrides)
            return 0
        if args.hydra_help or args.info is not None or args.cfg:
            _show(hydra, loader, parser, args)
            return 0
        if not args.multirun and "hydra.mode=MULTIRUN" not in args.overrides:
            from hydra.types import RunMode

            from lrexp.session.single import compose_single, run_single, trains_a_grid

            config = compose_single(loader, args.overrides)
            if trains_a_grid(config):
                return layers_tested(loader, config, args.overrides, args.config_dir)
            if config.hydra.mode != RunMode.MULTIRUN:
                return ended(run_single(loader, config, args.overrides))
        return swept(loader, args.overrides)


def _refuse_flags_together(args: argparse.Namespace) -> None:
    """Raise a UserError for flags that Hydra refuses, too."""
    asked = {"--run": args.run, "--multirun": args.multirun, "--cfg": args.cfg}
    asked |= {"--info": args.info is not None, "--hydra-help": args.hydra_help}
    given = [flag for flag, on in asked.items() if on]
    if len(given) > 1 and set(given) != {"--multirun", "--cfg"}:
        raise UserError(f"{' and '.join(given)} exclude each other")
    for flag, on in (("--resolve", args.resolve), ("--package", args.package)):
        if on and not args.cfg:
            raise UserError(f"{flag} goes with --cfg, which shows a config and runs nothing")


def _show(
    hydra: Hydra, loader: CheckedLoader, parser: argparse.ArgumentParser, args: argparse.Namespace
) -> None:
    """What Hydra shows of a command line, which it composes by itself."""
    from lrexp.config.origins import explained
    from lrexp.grid.points.cases import refuse_cases, take_cases

    overrides, _ = take_cases(args.overrides)
    if not args.multirun:
        refuse_cases(args.overrides)
    args.overrides = overrides
    try:
        if args.hydra_help:
            hydra.hydra_help(CONFIG_NAME, parser, args)
        elif args.info is not None:
            hydra.show_info(args.info, CONFIG_NAME, overrides)
        else:
            hydra.show_cfg(CONFIG_NAME, overrides, args.cfg, args.package, args.resolve)
    except UserError:
        raise
    except Exception as error:
        raise explained(loader, error, overrides) from error


def _is_word(argument: str) -> bool:
    """Whether an argument is neither a flag nor any way to write an override."""
    return argument[:1].isalpha() and "=" not in argument


def _refuse_flags(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    if re.search(r"--dry-?run\b", message):  # nearest is --run, which would train
        raise UserError("--dry-run is for lrexp which; task=plan shows a run or a grid untrained")
    said = flag_meant(parser, message)
    raise UserError(f"{said}\n  lrexp --help and lrexp --hydra-help list the flags")
