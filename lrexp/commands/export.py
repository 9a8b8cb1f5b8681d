"""`lrexp export RUN`: the network in a folder of its own, for programs without lrexp."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from lrexp.commands.answer import parser_of
from lrexp.config.errors import for_terminal
from lrexp.config.names import shown_path
from lrexp.folder.layout import EXPORT

if TYPE_CHECKING:
    from lrexp.use.export import Exported

DESCRIPTION = f"""\
Write a trained run's network for programs without lrexp: weights (safetensors), the network as
Python of torch and its library alone, class names and normalisation (JSON), the code that decodes
and resizes images, an example that runs as it is, and a model card. Nothing is pickled.

RUN is a run folder, a point of a sweep, a downloaded artifact, or `latest`. What was written is
loaded again and compared with the run's network. The folder is RUN/{EXPORT} unless --out says
another.
"""
EXAMPLES = """\
  lrexp export latest
  lrexp export outputs/NAME/RUN --out classifier --onnx
"""


def parser() -> argparse.ArgumentParser:
    """What the words behind the verb mean."""
    words = parser_of("export", DESCRIPTION, EXAMPLES, "0 done, 2 a mistake in the request")
    words.add_argument("run", metavar="RUN", help="whose best weights are written")
    words.add_argument("--out", metavar="DIR", type=Path, help=f"the folder (default RUN/{EXPORT})")
    words.add_argument("--onnx", action="store_true", help="as ONNX, too, checked by onnxruntime")
    words.add_argument("--overwrite", action="store_true", help="replace what an export left there")
    return words


def main(argv: list[str]) -> int:
    """Answer the words behind the verb; see `lrexp.commands.answer.answer`."""
    args = parser().parse_intermixed_args(argv)

    from lrexp.runs.differences import read_run

    read_run(args.run)  # before torch is imported: people mistype

    from lrexp.use.export import export

    out = args.out and args.out.expanduser()
    print(for_terminal("\n".join(lines_of(export(args.run, out, args.onnx, args.overwrite)))))
    return 0


def lines_of(done: Exported) -> list[str]:
    """What was written where, how it was checked, and what to do with it."""
    folder, trained = shown_path(done.folder), done.trained
    sizes = ", ".join(f"{name} ({_size(count)})" for name, count in done.bytes_of.items())
    lines = [
        f"run    {shown_path(trained.folder)}, epoch {trained.epoch}:"
        f" {trained.config.model.name}, {len(trained.class_names)} classes",
        f"export {folder}: {sizes}",
        f"check  loaded again, its logits are the run's ({_apart(done.apart)})",
    ]
    if done.onnx_apart is not None:
        lines.append(f"check  onnxruntime gives torch's logits ({_apart(done.onnx_apart)})")
    return [*lines, f"try    python {shlex.quote(f'{folder}/example.py')} IMAGE"]


def _apart(largest: float) -> str:
    return f"at most {largest:.1g} apart" if largest else "to the bit"


def _size(count: float) -> str:
    units = iter(("B", "KB", "MB", "GB"))
    unit = next(units)
    while count >= 1000 and unit != "GB":
        count, unit = count / 1000, next(units)
    return f"{count:.3g} {unit}"
