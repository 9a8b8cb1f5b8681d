"""Inputs for lrexp that nobody would type, and what must hold for the answer to each.

Shared by test_fuzz.py, which runs some, and scripts/fuzz.py, which runs as many as asked for.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

SECONDS = 3.0  # of CPU time that an answer may take: others may share the machine
LINES, CHARACTERS = 45, 8000  # of a message that fits a screen, one long list of names included
KEYS = [
    *("name", "seed", "run_id", "data.batch_size", "data.seed", "data.limit", "data.classes"),
    *("data.val_fraction", "data.normalize", "data.augment", "data.eval_sets", "data.image_size"),
    *("optimizer.lr", "optimizer.weight_decay", "optimizer.momentum", "optimizer.nesterov"),
    *("trainer.epochs", "trainer.max_steps", "trainer.device", "trainer.monitor"),
    *("trainer.threads", "trainer.patience", "trainer.deterministic", "scheduler.warmup"),
    *("scheduler.floor", "model.channels", "model.layers", "model.weights", "model.convention"),
    *("loss.label_smoothing", "loss.class_weights", "lr_policy.decay", "lr_policy.rules"),
    *("logger.tags", "logger.mode", "logger.notes", "task.against", "hydra.job.name"),
    *("hydra.output_subdir", "hydra.sweep.subdir", "hydra.mode", "hydra.verbose"),
    *("hydra.callbacks", "hydra.job_logging", "hydra.launcher.members", "hydra.sweeper.params"),
    *("model", "data", "loss", "optimizer", "lr_policy", "scheduler", "trainer", "logger"),
    *("experiment", "task", "nonsense", "a.b.c", "model.args", "optimizer.args.x", "hydra", ""),
]
OPTIONS = [
    *("mlp", "timm", "torchvision", "custom", "cifar_resnet", "resnet18", "digits", "hf", "csv"),
    *("synthetic", "bce", "adam", "muon", "torch", "per_layer", "layerwise_decay", "surgical"),
    *("freezeout", "one_cycle", "plateau", "wsd", "smoke", "none", "plan", "uniform", "latest"),
]
numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from([0, -0.0, 1e308, 5e-324, 2**31, 2**63, 10**400, -1, 0.5]),
)
words = st.one_of(
    st.text(max_size=30),
    st.text("${}[](),=:.'\"\\~+!&*#|<>@%^/ \t\nabc019_-", max_size=30),
    st.sampled_from(["null", "true", "off", "???", "nan", "-inf", "1e999", "''", "../../x", "~"]),
)
loops = st.sampled_from(
    [
        *("${seed}", "${name}", "${optimizer.lr}", "${nothing.here}", "${oc.env:NOT_SET}"),
        *("${oc.env:HOME}", "${oc.decode:'['}", "${oc.create:{a: 1}}", "${now:%Y}", "${}"),
        *("${${name}}", "${hydra:job.name}", "${lrexp.point_name:x}", "${unknown:1}", "${.}"),
        *("${..}", "${trainer}", "${optimizer}", "a${b", "${oc.select:x,${seed}}"),
    ]
)
scalars = st.one_of(numbers, words, loops, st.booleans(), st.none(), st.sampled_from(OPTIONS))
names = st.one_of(st.sampled_from(KEYS), st.sampled_from(OPTIONS), words)
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4)),
    max_leaves=12,
)


def written(value: Any) -> str:
    """A value in the grammar of overrides, or something close to it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


@st.composite
def override(draw: Any) -> str:
    """One word of a command line."""
    prefix = draw(st.sampled_from(["", "", "", "", "+", "++", "~"]))
    key = draw(st.one_of(st.sampled_from(KEYS), st.sampled_from(KEYS), words))
    text = written(draw(trees))
    line = draw(st.sampled_from(["{p}{k}={v}", "{p}{k}='{v}'", '{p}{k}="{v}"', "{p}{k}", "{v}"]))
    return line.format(p=prefix, k=key, v=text).replace("\x00", "")


LOOKS = [["task=plan"], ["task=plan"], ["--cfg", "job"], ["--cfg", "job", "--resolve"]]
LOOKS += [["--cfg", "hydra"], ["--info", "defaults"]]
command_lines = st.tuples(st.lists(override(), min_size=1, max_size=3), st.sampled_from(LOOKS)).map(
    lambda pair: [*pair[0], *pair[1]]
)

# Files of YAML: an experiment with wrong keys and values, or no YAML at all
sections = st.dictionaries(
    st.one_of(
        st.sampled_from(["name", "seed", "model", "data", "optimizer", "trainer", "hydra"]),
        st.sampled_from(["scheduler", "lr_policy", "loss", "logger", "defaults"]),
        words,
    ),
    st.one_of(trees, st.dictionaries(st.sampled_from([k.rpartition(".")[2] for k in KEYS]), trees)),
    max_size=4,
)


def as_yaml(value: Any) -> str:
    import yaml

    try:
        return yaml.safe_dump(value, allow_unicode=True, sort_keys=False)
    except (yaml.YAMLError, ValueError):  # PyYAML cannot write what it cannot read
        return json.dumps(value)


files = st.one_of(
    sections.map(as_yaml).map(lambda text: f"# @package _global_\n{text}"),
    st.text(max_size=200),
    st.binary(max_size=200),
)


@dataclass
class Answer:
    code: Any
    said: str
    out: str
    took_s: float


def answer(line: list[str]) -> Answer:
    """What one command line gives, in this program."""
    from lrexp.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    handlers, level = list(logging.root.handlers), logging.root.level
    started = time.process_time()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code: Any = main(line)
    except BaseException as error:  # reported with the input that led to it
        code = f"{type(error).__name__}: {error}"
    took_s = time.process_time() - started
    for handler in [h for h in logging.root.handlers if h not in handlers]:
        logging.root.removeHandler(handler)
        handler.close()
    logging.root.setLevel(level)
    return Answer(code, err.getvalue(), out.getvalue(), took_s)


def everything() -> set[str]:
    """The current folder's files and folders, at every depth."""
    walked = os.walk(".")
    return {os.path.join(at, name) for at, *names in walked for name in [*names[0], *names[1]]}


def complaint(line: list[str]) -> str:
    """Run a command line in the current folder; what is wrong with its answer, or nothing.

    What it left is removed when that was legal.
    """
    before = everything()
    found = answer(line)
    after = everything()
    if found.code not in (0, 1, 2):
        return f"ended with {found.code}"
    if "Traceback" in found.said:
        return f"shows a traceback: {found.said[-300:]}"
    if found.took_s > SECONDS and found.code:
        return f"took {found.took_s:.1f} s"
    if found.code:
        if not found.said.strip():
            return "fails without a word"
        if len(found.said) > CHARACTERS or found.said.count("\n") > LINES:
            return f"says {len(found.said)} characters in {found.said.count(chr(10))} lines"
        if not any(text.startswith("error: ") for text in found.said.splitlines()):
            return f"has no line that begins with error: {found.said[:200]!r}"
        if "set HYDRA_FULL_ERROR=1" in found.said:
            return f"is an unforeseen error: {found.said[:300]!r}"
    if found.code and after != before:
        return f"leaves {sorted(after ^ before)[:5]} with code {found.code}: {found.said[-300:]!r}"
    if after - before:
        for name in {path.split(os.sep)[1] for path in after - before}:
            shutil.rmtree(name, ignore_errors=True)
    return ""


def damaged(content: bytes, cut: float, flips: list[tuple[float, int]]) -> bytes:
    """Bytes cut off at a share of their length, then some replaced at shares of what is left."""
    left = bytearray(content[: round(len(content) * cut)])
    for share, value in flips:
        if left:
            left[min(len(left) - 1, int(share * len(left)))] = value
    return bytes(left)


damages = st.tuples(
    st.one_of(st.just(1.0), st.floats(0, 1)),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
)


def restore(folder: Path, originals: dict[str, bytes]) -> None:
    for name, content in originals.items():
        (folder / name).write_bytes(content)


def make_run(folder: Path) -> None:
    """A run, a sweep's points.json and weights to damage: small, and read by what we have."""
    import torch

    from lrexp.models.simple_cnn import SimpleCNN
    from lrexp.models.weights import save_weights

    code = answer(
        [
            *("logger=none", "trainer.epochs=1", "trainer.limit_train_batches=1", "data.limit=20"),
            *("trainer.stats_every=0", "trainer.train_eval_limit=2", f"hydra.run.dir={folder}"),
        ]
    )
    assert code.code == 0, code
    model = SimpleCNN((1, 8, 8), 10, channels=10, kernel_size=5, hidden=50)
    save_weights(model.state_dict(), folder / "w.safetensors", tuple(map(str, range(10))))
    torch.save(model.state_dict(), folder / "w.pt")
    row = {"num": 0, "folder": "0_x", "case": "", "same_as": None, "overrides": ["seed=0"]}
    row |= {"differs": {"seed": 0}, "lacks": []}
    points = {"command": ["seed=0,1"], "first": {"seed": 0}, "points": [row]}
    (folder / "of_sweep").mkdir()
    (folder / "of_sweep" / "points.json").write_text(json.dumps(points))


def read_damaged(folder: Path, name: str) -> None:
    """Read a file of a run's folder as the program does."""
    from omegaconf import OmegaConf

    from lrexp.commands.compare import comparison
    from lrexp.config.check import check
    from lrexp.config.saved import read_saved_config
    from lrexp.grid.points.point import read_points, read_summary
    from lrexp.models.pretrained import _of_run
    from lrexp.models.weights import read_weights
    from lrexp.plan.plan import read_plan
    from lrexp.runs.differences import read_run
    from lrexp.runs.predictions import paired_differences

    if name in COMPARED:
        found = read_run(str(folder))
        comparison(found, found)
    if name == "config.yaml":
        check(OmegaConf.create(read_saved_config(folder)))
        _of_run(folder / name)
    elif name == "plan.csv":
        read_plan((folder / name).read_text(errors="replace"))
    elif name == "summary.json":
        read_summary(folder)
    elif name == "of_sweep/points.json":
        read_points(folder / "of_sweep")
    elif name == "predictions.parquet":
        paired_differences(folder / name, folder / name)
    elif name not in COMPARED:
        for header_only in (False, True):
            read_weights(str(folder / name), header_only)


COMPARED = ["config.yaml", "plan.csv", "summary.json", "environment.json", "metrics.jsonl"]
DAMAGED = [
    *COMPARED,
    *("of_sweep/points.json", "predictions.parquet", "w.safetensors", "w.pt"),
    *("checkpoints/best.pt", "checkpoints/last.pt"),
]


def plain(value: Any) -> Any:
    """A state with lists for tensors, so that == sees every bit that is not NaN."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value.tolist() if hasattr(value, "tolist") else value


def state_complaint(folder: Path, last: bytes, previous: bytes | None, whole: list[Any]) -> str:
    """What is wrong with the state that a folder of checkpoints gives back, or nothing.

    Args:
        folder: for the files.
        last: content of last.pt, perhaps damaged.
        previous: of previous.pt, likewise; None: there is none.
        whole: `plain` of the two states that were saved. Any other must not be taken for one.
    """
    from lrexp.config.errors import UserError
    from lrexp.folder.checkpoint import load_last

    folder.mkdir(exist_ok=True)
    for name, content in (("last.pt", last), ("previous.pt", previous)):
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            (folder / name).write_bytes(content)
    started = time.process_time()
    try:
        state = load_last(folder)
    except UserError as error:
        return "" if len(str(error)) < CHARACTERS else f"says {len(str(error))} characters"
    except BaseException as error:  # reported with the damage that led to it
        return f"{type(error).__name__}: {error!s:.200}"
    took_s = time.process_time() - started
    if took_s > SECONDS:
        return f"took {took_s:.1f} s"
    return "" if plain(state) in whole else "gives a state that nobody saved"


def two_states(folder: Path) -> tuple[bytes, bytes, list[Any]]:
    """Contents of a last.pt and a previous.pt of a run, and `plain` of both."""
    from lrexp.folder.checkpoint import load_checkpoint

    last = (folder / "checkpoints" / "last.pt").read_bytes()
    state = load_checkpoint(folder / "checkpoints" / "last.pt")
    before = state | {"epoch": 0, "step": 0, "rows": []}
    import torch

    buffer = io.BytesIO()
    torch.save(before, buffer)
    return last, buffer.getvalue(), [plain(state), plain(before)]


def damage_complaint(folder: Path, name: str) -> str:
    """What is wrong with how a damaged file is read, or nothing."""
    from lrexp.config.errors import UserError

    started = time.process_time()
    try:
        read_damaged(folder, name)
    except UserError as error:
        if len(str(error)) > CHARACTERS or str(error).count("\n") > LINES:
            return f"says {len(str(error))} characters"
    except BaseException as error:  # reported with the damage that led to it
        return f"{type(error).__name__}: {error!s:.200}"
    took_s = time.process_time() - started
    return f"took {took_s:.1f} s" if took_s > SECONDS else ""


REPORTED = ["config.yaml", "environment.json", "metrics.jsonl", "plan.csv", "summary.json"]
REPORTED_SWEEP = ["leaderboard.json", "points.json"]


def report_complaint(folder: Path) -> str:
    """What is wrong with how the report of a damaged run or sweep is made, or nothing."""
    from lrexp.__main__ import main

    out, err, started = io.StringIO(), io.StringIO(), time.process_time()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["report", str(folder), "--no-plots"])
    except BaseException as error:  # reported with the damage that led to it
        return f"{type(error).__name__}: {error!s:.200}"
    said, took_s = err.getvalue(), time.process_time() - started
    if code not in (0, 1, 2) or (code and not said.startswith("error: ")) or "Traceback" in said:
        return f"ended with {code}: {said[:200]}"
    if said.count("\n") > LINES or len(said) > CHARACTERS:
        return f"says {len(said)} characters"
    return f"took {took_s:.1f} s" if took_s > SECONDS else ""


def make_sweep(folder: Path) -> None:
    """A sweep's folder with two points."""
    line = ["-m", "logger=none", "trainer.epochs=1", "trainer.limit_train_batches=1"]
    line += ["data.limit=20", "trainer.stats_every=0", "seed=0,1", f"hydra.sweep.dir={folder}"]
    found = answer([*line, "hydra.launcher.executor=serial"])
    assert found.code == 0, found
