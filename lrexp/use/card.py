"""The model card of a run: what it was trained on, how good it is, and what speaks against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import lrexp
from lrexp.config.errors import few
from lrexp.data.preprocessing import Preprocessing
from lrexp.judge.words import capital
from lrexp.models.weights import weights_name
from lrexp.report.html.page import without_home
from lrexp.report.run.page import leak_remarks
from lrexp.report.run.words import headline, images_of, key_figures, option_of_group, remarks
from lrexp.report.run.words import setting_words as settings_in_words
from lrexp.runs.run import Run
from lrexp.use.trained import Trained

MOST_CLASSES = 20  # that are named


def model_card(trained: Trained, run: Run, use: str, files: Mapping[str, str]) -> str:
    """README.md of an exported network, in Markdown: what its run's report says, in short.

    Args:
        trained: the run.
        run: what its folder holds.
        use: how the network is used.
        files: what lies in the folder → what it is.
    """
    config = trained.config
    name = str(run.config.get("name") or run.folder.name)
    parts = {
        "": [headline(run)],
        "Trained": list(_origin(trained, run)),
        "Results": [_figures(run)],
        "What was found": list(_found(run)),
        "Images": [images_in_words(trained.preprocessing)],
        "Use": [use],
        "Files": [f"- `{file}`: {what}" for file, what in files.items()],
    }
    lines = [f"# {_plain(name)}: {_plain(config.model.name)} on {_plain(config.data.name)}"]
    for title, part in parts.items():
        if said := [one for one in part if one]:
            lines += ["", *([f"## {title}", ""] if title else []), *said]
    return without_home("\n".join(lines)) + "\n"


def _origin(trained: Trained, run: Run) -> Iterator[str]:
    """Policy, data, first weights, code and environment."""
    config, names = trained.config, trained.class_names
    policy = option_of_group(run, "lr_policy")
    yield f"- {_plain(settings_in_words(run))}; learning rates by lr_policy={_plain(policy)}"
    several = "several labels per image" if trained.multi_label else "one label per image"
    yield f"- {len(names)} classes, {several}: {_plain(few(names, MOST_CLASSES))}"
    if sizes := images_of(run):
        counts = ", ".join(f"{count:,} {split}" for split, count in sizes.items())
        yield f"- images: {counts}"
    began = weights_name(config.model) or "random weights"
    yield f"- began from {_plain(began.rpartition('/')[2])}"  # a path is of this machine
    if config.trainer.ema is not None:
        yield f"- the weights are their moving average (trainer.ema={config.trainer.ema:g})"
    if config.trainer.precision != "fp32":
        yield f"- computed in {config.trainer.precision}; in float32 scores differ a little"
    summary, packages = run.summary, run.environment.get("packages") or {}
    ids = f"run {summary.get('run_id')}, config {summary.get('config_id')}"
    torch = f", torch {packages['torch']}" if "torch" in packages else ""
    yield f"- {ids}, epoch {trained.epoch}; lrexp {lrexp.__version__}{torch}"


def _figures(run: Run) -> str:
    rows = [
        f"| {_plain(title)} | {_plain(value)} | {_plain(note or '')} |"
        for title, value, note in key_figures(run)
    ]
    heads = ["| figure | value ± standard error | |", "| --- | --- | --- |"]
    return "\n".join([*heads, *rows]) if run.rows else ""


def _found(run: Run) -> Iterator[str]:
    """Verdicts, leaks and remarks; that nothing was found is said, too."""
    said = [capital(str(one.get("message") or one["kind"])) for one in run.summary["verdicts"]]
    said += [*_leaks(run), *leak_remarks(run), *remarks(run)]
    said += [capital(str(line)) for line in run.summary["remarks"]]
    lines = dict.fromkeys(_plain(line.rstrip(".")) for line in said)
    for line in lines:
        yield f"- {line}."
    if not lines:
        yield "- No verdict speaks against these figures."


def _leaks(run: Run) -> Iterator[str]:
    """How many images the leak check found on two sides of a split."""
    leaks = run.summary["leaks"]
    if leaks is None:
        yield "Leak check: it was not made"
        return
    counts = leaks.get("counts") or {}
    for kind, what in (("exact", "exact copies"), ("near", "near duplicates")):
        found = counts.get(kind) or {}
        shares = [
            f"{of[pair.partition(' ')[0]]:,} {pair.replace(' in ', ' images in ')}"
            for pair, of in found.items()
        ]
        if shares:
            yield f"Leak check: {what}: {', '.join(shares)}"
    shared = {"conflicts": counts.get("conflicts"), **(counts.get("groups") or {})}
    for what, count in shared.items():
        if count:
            of = "images whose copies have other labels" if what == "conflicts" else "groups"
            where = "" if what == "conflicts" else f" of {what}"
            yield f"Leak check: {count:,} {of}{where}"


def images_in_words(preprocessing: Preprocessing) -> str:
    """How an image becomes what the network sees, for people."""
    channels, height, width = preprocessing.image_shape
    kind = {1: "grey", 3: "RGB"}.get(channels, f"of {channels} channels")
    levels = f", rounded to {preprocessing.white + 1} levels" if preprocessing.white != 255 else ""
    mean, std = (", ".join(f"{x:g}" for x in v) for v in (preprocessing.mean, preprocessing.std))
    return (
        f"The network sees images of {width}×{height}, {kind}. An image is turned upright as EXIF"
        " says, laid on white where it is transparent, its short side resized and its middle cut"
        f" out (Pillow's `ImageOps.fit`, bilinear with antialias){levels}, and normalised as"
        f" (pixel in [0, 1] − mean) / std, mean {mean} and std {std} by channel. Another resize"
        " changes the scores; `images.py` is the one it was trained with."
    )


def _plain(text: str) -> str:
    """A text in which Markdown finds nothing of its own: names come from files of others."""
    line = " ".join(str(text).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|" else c for c in line)
