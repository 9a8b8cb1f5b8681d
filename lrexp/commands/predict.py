"""`lrexp predict RUN IMAGES`: what a trained run says of new images, as a table."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lrexp.commands.answer import parser_of
from lrexp.config.errors import for_terminal
from lrexp.config.names import shown_path

if TYPE_CHECKING:
    from lrexp.use.predict import Predicted
    from lrexp.use.trained import Trained

DESCRIPTION = """\
What a trained run says of new images: a table with file, label, score and the score of every class.

RUN is a run folder, a point of a sweep, a downloaded artifact, or `latest`. IMAGES are files,
folders (searched with all below them), and CSV or TSV files with a column of paths, which start
from the file's own folder; no labels are needed. Images of any size are decoded, resized and
normalised as the run did with its own, and computed with its best weights. A score is a
probability: softmax, or the sigmoid of each class where images have several labels, of which those
above 0.5 are the label, separated by |. The data the run was trained on need not be there.
"""
EXAMPLES = """\
  lrexp predict latest photo.jpg
  lrexp predict outputs/NAME/RUN photos/ --out photos.parquet
  lrexp predict latest new.csv --device cpu --batch 64 --overwrite
"""
CODES = """\
0 done, 1 done, but some images cannot be read (they are listed, and not in
  the table), 2 a mistake in the request, or no image can be read"""


def parser() -> argparse.ArgumentParser:
    """What the words behind the verb mean."""
    words = parser_of("predict", DESCRIPTION, EXAMPLES, CODES)
    words.add_argument("run", metavar="RUN", help="whose best weights are used")
    words.add_argument("images", metavar="IMAGES", nargs="+", help="files, folders, CSV of paths")
    words.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        default=Path("predictions.csv"),
        help="the table, .csv or .parquet (default predictions.csv)",
    )
    words.add_argument("--overwrite", action="store_true", help="replace the table if it is there")
    words.add_argument("--device", default="auto", help="cpu, cuda, cuda:N, mps (default auto)")
    words.add_argument(
        "--batch", type=_count, metavar="N", help="images at a time (default as the run evaluated)"
    )
    return words


def main(argv: list[str]) -> int:
    """Answer the words behind the verb; see `lrexp.commands.answer.answer`."""
    args = parser().parse_intermixed_args(argv)

    from lrexp.runs.differences import read_run
    from lrexp.use.predict import find_images, predict, refuse_out

    out = args.out.expanduser()
    refuse_out(out, args.overwrite)
    read_run(args.run)  # before torch is imported: people mistype
    images = find_images(args.images)

    import torch
    from rich.console import Console
    from rich.progress import Progress

    from lrexp.record.console import terminal
    from lrexp.use.trained import load_trained

    trained, started = load_trained(args.run, args.device), time.monotonic()
    if (threads := trained.config.trainer.threads) is not None:  # as many give the same bits
        torch.set_num_threads(threads)
    print(for_terminal("\n".join(opening_lines(trained))), flush=True)
    for note in images.notes:
        print(for_terminal(f"note   {note}"), flush=True)
    console = terminal(Console)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("images", total=len(images.files))
        done = predict(trained, images, out, args.batch, lambda count: bar.advance(task, count))
    took_s = time.monotonic() - started
    print(for_terminal("\n".join(closing_lines(done, took_s))))
    return 1 if done.skipped else 0


def opening_lines(trained: Trained) -> list[str]:
    """Which run it is, and what its network sees."""
    config, sees = trained.config, trained.preprocessing.image_shape
    kind = {1: "grey", 3: "RGB"}.get(sees[0], f"{sees[0]} channels")
    return [
        f"run    {shown_path(trained.folder)}, epoch {trained.epoch}",
        f"model  {config.model.name} on {trained.device}, {len(trained.class_names)} classes"
        f" of {config.data.name}; sees {sees[1]}×{sees[2]} {kind}",
    ]


def closing_lines(done: Predicted, took_s: float) -> list[str]:
    """What was said of the images, what could not be read, and where the table is."""
    lines = []
    if done.converted:
        counts = ", ".join(f"{what} {n:,}" for what, n in done.converted.most_common())
        lines.append(f"note   converted: {counts}")
    if len(done.sample) == done.images:  # all of them
        wide = max(len(name) for name, *_ in done.sample)
        lines += [
            f"said   {name:<{wide}}  {score:.3f}  {label or 'none'}"
            for name, label, score in done.sample
        ]
    else:
        common = done.said.most_common(8)
        more = f", and {len(done.said) - 8} more classes" if len(done.said) > 8 else ""
        lines.append(f"said   {', '.join(f'{name} {n:,}' for name, n in common)}{more}")
    rate = f", {done.images / took_s:,.0f} a second" if done.images >= 100 else ""
    lines.append(f"table  {done.out}: {done.images:,} image{'s' * (done.images != 1)}{rate}")
    if done.skipped:
        lines.append(f"left out {len(done.skipped):,} that cannot be read:")
        lines += [f"  {name}: {why}" for name, why in done.skipped]
    return lines


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return count


_count.__name__ = "whole number"  # what argparse calls it
