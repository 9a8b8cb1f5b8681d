"""The command line as a user meets it: mistakes, help, runs, signals, sweeps, completion."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

CONF = ROOT / "conf"
GROUPS = sorted(p.name for p in CONF.iterdir() if p.is_dir() and p.name not in ("hydra", "schema"))
HEAVY = ["torch", "torchvision", "wandb", "datasets"]
Lrexp = Callable[..., subprocess.CompletedProcess[str]]
Outcomes = dict[str, dict[str, Any]]

# Reads [[name, argv], ...] and runs each through main() in a fresh folder of that name.
DRIVER = """
import contextlib, io, json, os, sys, time
from pathlib import Path
import lrexp.__main__ as command

def run(argv):
    out, err = io.StringIO(), io.StringIO()
    started = time.perf_counter()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = command.main(argv)
        except SystemExit as stop:
            code = stop.code
        except BaseException as error:
            code = f"Traceback: {type(error).__name__}: {error}"
    return {
        "code": code,
        "out": out.getvalue(),
        "err": err.getvalue(),
        "left": sorted(os.listdir()),
        "elapsed_s": time.perf_counter() - started,
    }

def run_all(cases):
    outcomes = {}
    for name, argv in cases:
        folder = base / name
        folder.mkdir()
        os.chdir(folder)
        outcomes[name] = before(name) or run(argv)
    return outcomes

base = Path(sys.argv[1])
cases = json.loads((base / "cases.json").read_text())
before = lambda name: None
"""
FINISH = """
outcomes = run_all(cases)
heavy = [name for name in ("torch", "torchvision", "wandb", "datasets") if name in sys.modules]
(base / "outcomes.json").write_text(json.dumps({"outcomes": outcomes, "heavy": heavy}))
"""


def user_environment(base: Path) -> dict[str, str]:
    """The environment of a user without a W&B account, for fixtures that outlive one test."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "HYDRA_"))}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "120",
        "NETRC": os.devnull,
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_CONFIG_DIR": str(base / "wandb_config"),
    }


def drive(base: Path, cases: list[tuple[str, list[str]]], setup: str = "") -> dict[str, Any]:
    """Run command lines one after the other in one process, each in its own folder."""
    (base / "cases.json").write_text(json.dumps(cases))
    (base / "driver.py").write_text(DRIVER + setup + FINISH)
    done = subprocess.run(
        [sys.executable, str(base / "driver.py"), str(base)],
        env=user_environment(base),
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((base / "outcomes.json").read_text())


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A command line of its own, running in a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "lrexp", *arguments],
        cwd=folder,
        env=user_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def only_run(cwd: Path) -> Path:
    """The one run folder under outputs/."""
    (folder,) = (p for p in cwd.glob("outputs/*/*") if p.parent.name != "latest")
    return folder


def filled(text: str, places: dict[str, str]) -> str:
    """A text with {files}, {taken} and {held} replaced."""
    for name, path in places.items():
        text = text.replace(f"{{{name}}}", path)
    return text


# --- Mistakes -------------------------------------------------------------------------------

# name: (command line, what the message must say). {files} is a folder of YAML files with
# mistakes, {taken} a file where a folder is wanted, {held} a folder that already holds a run.
MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "unknown model": (["model=simple_cn"], ["model=simple_cn", "mean 'simple_cnn'", "mlp"]),
    "unknown model, nothing near": (
        ["model=vit"],
        ["model=vit", "allowed: cifar_resnet, convnext_tiny"],
    ),
    "unknown data": (["data=digit"], ["data=digit", "mean 'digits'", "mnist"]),
    "unknown loss": (["loss=crossentropy"], ["loss=crossentropy", "mean 'cross_entropy'"]),
    "unknown optimizer": (["optimizer=sdg"], ["optimizer=sdg", "mean 'sgd'", "adamw"]),
    "unknown lr_policy": (["lr_policy=layerwise"], ["lr_policy=layerwise", "'layerwise_decay'"]),
    "unknown scheduler": (["scheduler=cosin"], ["scheduler=cosin", "mean 'cosine'", "step"]),
    "unknown trainer": (["trainer=smok"], ["trainer=smok", "mean 'smoke'", "default"]),
    "unknown logger": (["logger=wand"], ["logger=wand", "mean 'wandb'", "none"]),
    "unknown task": (["task=trian"], ["task=trian", "mean 'train'"]),
    "unknown experiment": (["experiment=smoky"], ["experiment=smoky", "mean 'smoke'"]),
    "unknown launcher": (["-m", "hydra/launcher=basik"], ["hydra/launcher=basik", "'basic'"]),
    "misspelt top key": (["sed=3"], ["sed=3", "did you mean seed?"]),
    "misspelt group": (["traner=smoke"], ["traner=smoke", "did you mean trainer?"]),
    "misspelt group of a key": (["traner.epochs=3"], ["traner.epochs=3", "did you mean trainer"]),
    "misspelt key": (["trainer.epoch=3"], ["trainer.epoch=3", "did you mean trainer.epochs?"]),
    "misspelt key of Hydra": (["hydra.run.dri=x"], ["hydra.run.dri=x", "hydra.run.dir"]),
    "misspelt key in a rule": (
        ["lr_policy=per_layer", "lr_policy.rules=[{mach: 'conv.*', lr: 0.1}]"],
        ["mach", "match?", "lr_policy.rules=[{mach"],
    ),
    "misspelt key of one rule": (
        ["lr_policy=per_layer", "lr_policy.rules.0.scal=3"],
        ["lr_policy.rules.0.scal=3", "mean lr_policy.rules[0].scale?"],
    ),
    "misspelt key below a key": (
        ["lr_policy=per_layer", "lr_policy.default.scal=2"],
        ["lr_policy.default.scal=2", "did you mean lr_policy.default.scale?"],
    ),
    "learning_rate": (["optimizer.learning_rate=0.1"], ["learning_rate=0.1", "optimizer.lr?"]),
    "learningRate": (["optimizer.learningRate=0.1"], ["learningRate=0.1", "optimizer.lr?"]),
    "rate": (["optimizer.rate=0.1"], ["optimizer.rate=0.1", "did you mean optimizer.lr?"]),
    "lr without its group": (["lr=0.1"], ["lr=0.1", "did you mean optimizer.lr?"]),
    "epochs added": (["+epochs=3"], ["epochs=3", "did you mean trainer.epochs?"]),
    "setting of another option": (
        ["lr_policy.decay=0.8"],
        ["lr_policy.decay=0.8", "lr_policy=layerwise_decay"],
    ),
    "momentum of adam": (
        ["optimizer=adam", "optimizer.momentum=0.9"],
        ["optimizer.momentum=0.9", "optimizer=sgd"],
    ),
    "list for lr": (
        ["optimizer.lr=[0.1,0.01]"],
        ["optimizer.lr=[0.1,0.01]", "must be a number", "lr_policy=per_layer"],
    ),
    "text for lr": (["optimizer.lr=fast"], ["optimizer.lr=fast", "must be a number"]),
    "key below a number": (["optimizer.lr.x=3"], ["optimizer.lr.x=3"]),
    "float for epochs": (["trainer.epochs=2.5"], ["trainer.epochs=2.5", "a whole number"]),
    "text for epochs": (["trainer.epochs=many"], ["trainer.epochs=many", "a whole number"]),
    "negative epochs": (["trainer.epochs=-1"], ["trainer.epochs=-1", "at least 0"]),
    "text for a flag": (["optimizer.nesterov=maybe"], ["nesterov=maybe", "true or false"]),
    "text in a list of numbers": (["data.mean=[a,b]"], ["data.mean", "a number"]),
    "number for a list": (["data.mean=5"], ["data.mean=5", "a list", "a number"]),
    "classes of no list": (["data.classes=5"], ["data.classes=5", "a list of labels or names"]),
    "a class of another kind": (["data.classes=[1.5,2]"], ["data.classes", "labels or names"]),
    "an unknown normalization": (["data.normalize=datset"], ["data.normalize", "dataset"]),
    "half a normalization": (
        ["data.normalize={mean:[0.5]}"],
        ["data.normalize.std", "a finite number per channel"],
    ),
    "settings as a tag": (["logger.tags=[a,{b: 1}]"], ["logger.tags", "text"]),
    "lr 0": (["optimizer.lr=0"], ["optimizer.lr=0", "above 0"]),
    "lr nan": (["optimizer.lr=nan"], ["optimizer.lr=nan", "above 0"]),
    "lr negative": (["optimizer.lr=-0.1"], ["optimizer.lr=-0.1", "above 0"]),
    "lr infinite": (["optimizer.lr=inf"], ["optimizer.lr=inf", "finite"]),
    "lr empty": (["optimizer.lr="], ["optimizer.lr=", "a number"]),
    "lr null": (["optimizer.lr=null"], ["optimizer.lr=null", "a number"]),
    "epochs empty": (["trainer.epochs="], ["trainer.epochs=", "a whole number"]),
    "option empty": (["optimizer="], ["optimizer=", "adamw"]),
    "option null": (["optimizer=null"], ["optimizer=null", "adamw"]),
    "option a number": (["trainer=3"], ["trainer=3", "smoke"]),
    "two options": (["optimizer=[sgd,adam]"], ["optimizer=[sgd,adam]"]),
    "name empty": (["name="], ["name=", "letters, digits"]),
    "name with a slash": (["name=a/b"], ["name=a/b", "letters, digits"]),
    "run folder empty": (["hydra.run.dir="], ["hydra.run.dir"]),
    "run folder null": (["hydra.run.dir=null"], ["hydra.run.dir=null"]),
    "run folder missing": (["hydra.run.dir=???"], ["hydra.run.dir=???"]),
    "Hydra's flag": (["hydra.job.chdir=maybe"], ["hydra.job.chdir=maybe"]),
    "Hydra's job name": (["hydra.job.name=a/b"], ["hydra.job.name=a/b"]),
    "Hydra's mode": (["hydra.mode=MULTIRU"], ["hydra.mode=MULTIRU", "MULTIRUN"]),
    "Hydra's sweeper": (
        ["-m", "hydra.sweeper.max_batch_size=x", "seed=1,2"],
        ["hydra.sweeper.max_batch_size=x"],
    ),
    "sweeper parameter": (["hydra.sweeper.params.seed=1"], ["hydra.sweeper.params.seed=1"]),
    "added key": (["+optimizer.foo=1"], ["+optimizer.foo=1", "settings of optimizer: lr"]),
    "forced key": (["++optimizer.foo=1"], ["++optimizer.foo=1", "settings of optimizer: lr"]),
    "added option": (["+optimizer=adam"], ["+optimizer=adam", " optimizer=adam"]),
    "removed key": (["~optimizer.lr"], ["~optimizer.lr", "a number"]),
    "removed group": (["~optimizer"], ["~optimizer", "optimizer=NAME"]),
    "removed group that names the run": (["~model"], ["~model", "model=NAME"]),
    "missing data folder": (
        ["data=mnist", "data.download=false", "data.root=nowhere"],
        ["data.root=nowhere", "nowhere/MNIST/raw", "data.download=true"],
    ),
    "missing weights file": (["model.weights=no.safetensors"], ["model.weights=no.safetensors"]),
    "file as run folder": (["hydra.run.dir={taken}"], ["{taken}", "hydra.run.dir=FOLDER"]),
    "file above run folder": (["hydra.run.dir={taken}/x"], ["{taken}/x", "hydra.run.dir="]),
    "file as sweep folder": (
        ["-m", "seed=1,2", "hydra.sweep.dir={taken}/x"],
        ["{taken}/x", "hydra.sweep.dir=FOLDER"],
    ),
    "run folder of another run": (["hydra.run.dir={held}"], ["{held} already holds a run"]),
    "one bad value in a sweep": (["-m", "optimizer.lr=0.1,-1"], ["optimizer.lr=-1", "above 0"]),
    "one bad type in a sweep": (["-m", "seed=1,x"], ["seed=x", "a whole number"]),
    "one bad option in a sweep": (
        ["-m", "lr_policy=uniform,unifrom"],
        ["lr_policy=unifrom", "mean 'uniform'"],
    ),
    "a bad value in a sweep's range": (["-m", "optimizer.lr=range(0,1,0.5)"], ["lr=0.0"]),
    "bad key in a sweep": (["-m", "sed=1,2"], ["sed=1", "did you mean seed?"]),
    "cases without -m": (["cases=policies"], ["cases=policies", "add -m"]),
    "unknown cases": (["-m", "cases=policy"], ["cases=policy", "mean 'policies'"]),
    "key in a file of cases": (
        ["-m", "cases={files}/cases/key.yaml"],
        ["lr_policy.decy=0.5", "lr_policy.decay?", "files/cases/key.yaml, case gentle"],
    ),
    "value in a file of cases": (
        ["-m", "cases={files}/cases/value.yaml", "seed=1,2"],
        ["lr_policy.decay=2", "at most 1", "files/cases/value.yaml, case steep"],
    ),
    "syntax of a file of cases": (
        ["-m", "cases={files}/cases/syntax.yaml"],
        ["files/cases/syntax.yaml", "line 2"],
    ),
    "a file of no cases": (
        ["-m", "cases={files}/cases/flat.yaml"],
        ["files/cases/flat.yaml, case lr_policy: holds no settings"],
    ),
    "unknown executor": (
        ["-m", "seed=1,2", "hydra.launcher.executor=seral"],
        ["hydra.launcher.executor=seral", "mean 'serial'"],
    ),
    "only what failed of a new sweep": (
        ["-m", "seed=1,2", "hydra.launcher.only=failed"],
        ["hydra.launcher.only=failed", "hydra.launcher.resume=SWEEP"],
    ),
    "resume of nothing": (
        ["-m", "hydra.launcher.resume=nowhere"],
        ["hydra.launcher.resume=nowhere", "no such sweep"],
    ),
    "resume of a run": (
        ["-m", "hydra.launcher.resume={held}"],
        ["hydra.launcher.resume={held}", "is a single run"],
    ),
    "one folder for two points": (["-m", "seed=1,2", "hydra.sweep.subdir=x"], ["subdir"]),
    "several values without -m": (["optimizer.lr=0.1,0.2"], ["optimizer.lr=0.1,0.2", "add -m"]),
    "monitor unknown": (["trainer.monitor=val/acc"], ["monitor=val/acc", "'val/accuracy'"]),
    "monitor without training": (
        ["trainer.epochs=0", "trainer.monitor=train/loss"],
        ["trainer.monitor=train/loss", "trainer.epochs=0"],
    ),
    "name of itself": (["name=${name}"], ["name"]),
    "name removed": (["~name"], ["name", "has no value"]),
    "folder of nothing": (["hydra.run.dir=${foo}"], ["hydra.run.dir", "foo"]),
    "sweep folder of nothing": (["-m", "seed=1,2", "hydra.sweep.dir=${foo}"], ["hydra.sweep.dir"]),
    "sweep folder empty": (["-m", "seed=1,2", "hydra.sweep.dir="], ["sweep.dir", "no folder"]),
    "experiment null": (["experiment=null"], ["experiment=null", "not one option"]),
    "monitor on test": (["trainer.monitor=test/accuracy"], ["never looks at test"]),
    "device unknown": (["trainer.device=cudda"], ["trainer.device=cudda", "mean 'cuda'", "cpu"]),
    "warmup beyond training": (["scheduler.warmup=1.5"], ["scheduler.warmup=1.5", "[0, 1)"]),
    "warmup unit": (["scheduler.warmup='3 weeks'"], ["scheduler.warmup=3 weeks", "2 epochs"]),
    "rule with lr and scale": (
        ["lr_policy=per_layer", "lr_policy.rules=[{match: 'conv.*', lr: 0.1, scale: 2}]"],
        ["lr_policy.rules[0]", "both lr and scale"],
    ),
    "rule that freezes and trains": (
        ["lr_policy=per_layer", "lr_policy.rules=[{match: 'conv.*', lr: 0.1, frozen: true}]"],
        ["lr_policy.rules[0]", "freezes"],
    ),
    "rule that gives nothing": (
        ["lr_policy=per_layer", "lr_policy.rules=[{match: 'conv.*'}]"],
        ["lr_policy.rules[0]", "gives nothing"],
    ),
    "rule that selects nothing": (
        ["lr_policy=per_layer", "lr_policy.rules=[{scale: 2}]"],
        ["lr_policy.rules[0]", "needs one of match"],
    ),
    "rule with a bad layer": (
        ["lr_policy=per_layer", "lr_policy.rules=[{layers: top, scale: 2}]"],
        ["lr_policy.rules[0].layers=top", "head, backbone"],
    ),
    "rule with a bad expression": (
        ["lr_policy=per_layer", "lr_policy.rules=[{match: 're:(', scale: 2}]"],
        ["lr_policy.rules[0].match=re:(", "regular expression"],
    ),
    "rule with a text as rate": (
        ["lr_policy=per_layer", "lr_policy.rules=[{match: 'conv.*', lr: fast}]"],
        ["lr_policy.rules", "lr", "fast", "must be a number"],
    ),
    "rule with a text as flag": (
        ["lr_policy=per_layer", "lr_policy.rules=[{layers: head, frozen: maybe}]"],
        ["lr_policy.rules", "frozen", "maybe", "true or false"],
    ),
    "rule that is a number": (
        ["lr_policy=per_layer", "lr_policy.rules=[3]"],
        ["lr_policy.rules[0]", "in braces"],
    ),
    "rules that are no list": (
        ["lr_policy=per_layer", "lr_policy.rules=fast"],
        ["lr_policy.rules=fast", "a list of rules"],
    ),
    "reference to nothing": (["seed=${nothing}"], ["seed=${nothing}", "'nothing' not found"]),
    "variable that is not set": (["seed=${oc.env:LREXP_NOPE}"], ["seed=", "LREXP_NOPE"]),
    "two betas": (["optimizer=adam", "optimizer.betas=[0.9]"], ["betas=[0.9]", "two numbers"]),
    "nothing left to train on": (
        ["data.val_fraction=0.6", "data.test_fraction=0.5"],
        ["data.val_fraction", "data.test_fraction", "nothing to train on"],
    ),
    "class weights": (["loss.class_weights=even"], ["class_weights=even", "balanced"]),
    "no value": (["seed"], ["seed", "KEY=VALUE"]),
    "no key": (["=3"], ["=3", "KEY=VALUE"]),
    "open bracket": (["trainer.epochs=["], ["trainer.epochs=[", "KEY=VALUE"]),
    "option by its name alone": (["optimizer.name=adam"], ["optimizer.name", "optimizer=adam"]),
    "missing --config-dir": (["--config-dir", "nowhere"], ["--config-dir", "nowhere"]),
    "--config-name": (["--config-name", "x"], ["--config-name", "not supported"]),
    "unknown flag": (["--frobnicate"], ["--frobnicate"]),
    "unknown --cfg": (["--cfg", "jobs"], ["'jobs'", "'job'"]),
    "mistake with --cfg job": (["--cfg", "job", "sed=3"], ["sed=3", "did you mean seed?"]),
    "key in an experiment file": (
        ["--config-dir", "{files}", "experiment=key"],
        ["optimizer.learning_rate=0.1", "optimizer.lr?", "files/experiment/key.yaml"],
    ),
    "type in an experiment file": (
        ["--config-dir", "{files}", "experiment=type"],
        ["trainer.epochs=many", "a whole number", "files/experiment/type.yaml"],
    ),
    "value in an experiment file": (
        ["--config-dir", "{files}", "experiment=value"],
        ["trainer.epochs=-3", "at least 0", "files/experiment/value.yaml"],
    ),
    "option in an experiment file": (
        ["--config-dir", "{files}", "experiment=option"],
        ["trainer=smok", "mean 'smoke'", "files/experiment/option.yaml"],
    ),
    "group in an experiment file": (
        ["--config-dir", "{files}", "experiment=group"],
        ["traner", "did you mean trainer", "files/experiment/group.yaml"],
    ),
    "syntax of an experiment file": (
        ["--config-dir", "{files}", "experiment=syntax"],
        ["files/experiment/syntax.yaml", "line 2"],
    ),
    "key in a leaf file": (
        ["--config-dir", "{files}", "optimizer=key"],
        ["optimizer.momentun=0.5", "optimizer.momentum?", "files/optimizer/key.yaml"],
    ),
    "key in a leaf file without a schema": (
        ["--config-dir", "{files}", "optimizer=bare"],
        ["optimizer.momentun=0.5", "optimizer.momentum?", "files/optimizer/bare.yaml"],
    ),
    "leaf file without a name": (
        ["--config-dir", "{files}", "optimizer=nameless"],
        ["optimizer.name", "adamw", "files/optimizer/nameless.yaml"],
    ),
    "key of a rule in a leaf file": (
        ["--config-dir", "{files}", "lr_policy=key"],
        ["mach", "match?", "files/lr_policy/key.yaml"],
    ),
    "value of a rule in a leaf file": (
        ["--config-dir", "{files}", "lr_policy=value"],
        ["lr_policy.rules[0].lr=-0.1", "above 0", "files/lr_policy/value.yaml"],
    ),
}
FILES = {
    "experiment/key": "# @package _global_\noptimizer: { learning_rate: 0.1 }\n",
    "experiment/type": "# @package _global_\ntrainer: { epochs: many }\n",
    "experiment/value": "# @package _global_\ntrainer: { epochs: -3 }\n",
    "experiment/option": "# @package _global_\ndefaults:\n  - override /trainer: smok\n",
    "experiment/group": "# @package _global_\ndefaults:\n  - override /traner: smoke\n",
    "experiment/syntax": "# @package _global_\ntrainer: { epochs: 3\n",
    "optimizer/key": "defaults: [sgd, _self_]\nmomentun: 0.5\n",
    "optimizer/bare": "name: sgd\nlr: 0.1\nmomentun: 0.5\n",
    "optimizer/nameless": "lr: 0.1\n",
    "cases/key": "gentle: { lr_policy: layerwise_decay, lr_policy.decy: 0.5 }\n",
    "cases/value": "steep:\n  lr_policy: layerwise_decay\n  lr_policy.decay: [0.5, 2]\n",
    "cases/syntax": "a:\n  b: { c: 1\n",
    "cases/flat": "lr_policy: uniform\n",
    "lr_policy/key": 'defaults: [per_layer, _self_]\nrules: [{ mach: "conv.*", lr: 0.1 }]\n',
    "lr_policy/value": 'defaults: [per_layer, _self_]\nrules: [{ match: "conv.*", lr: -0.1 }]\n',
}
# Words of the machinery below, which mean nothing to a user.
JARGON = re.compile(
    r"Traceback|full_key|object_type|[Mm]erge error|Error merging|Unexpected type"
    r"|ValidationError|reached the run|NoneType"
)


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every wrong command line's outcome, in a process where no run can start."""
    base = tmp_path_factory.mktemp("mistakes")
    places = {"files": base / "files", "taken": base / "taken", "held": base / "held"}
    for name, text in FILES.items():
        file = places["files"] / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    places["taken"].write_text("a file")
    places["held"].mkdir()
    (places["held"] / "summary.json").write_text("{}")
    paths = {name: str(path) for name, path in places.items()}
    cases = [(name, [filled(a, paths) for a in argv]) for name, (argv, _) in MISTAKES.items()]
    setup = (
        "def reached(*arguments): raise RuntimeError('reached the run')\ncommand._job = reached\n"
    )
    return drive(base, cases, setup) | {"places": paths}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_clear_message_and_leaves_nothing(
    name: str, mistakes: dict[str, Any]
) -> None:
    outcome = mistakes["outcomes"][name]
    said = outcome["out"] + outcome["err"]
    assert outcome["code"] in (1, 2), f"{outcome['code']}\n{said}"
    assert not JARGON.search(said), said
    for words in MISTAKES[name][1]:
        assert filled(words, mistakes["places"]) in said, f"{words!r} is not in:\n{said}"
    assert outcome["left"] == []
    assert outcome["elapsed_s"] < 5


def test_mistakes_are_found_without_a_heavy_import(mistakes: dict[str, Any]) -> None:
    assert mistakes["heavy"] == []


def test_a_refused_folder_is_unchanged(mistakes: dict[str, Any]) -> None:
    held = Path(mistakes["places"]["held"])
    assert [p.name for p in held.iterdir()] == ["summary.json"]
    assert (held / "summary.json").read_text() == "{}"
    assert Path(mistakes["places"]["taken"]).read_text() == "a file"


def test_full_error_shows_where_a_mistake_came_from(lrexp: Lrexp) -> None:
    done = lrexp("sed=3", HYDRA_FULL_ERROR="1")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


# --- Quick answers --------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [["--help"], ["--cfg", "job"], ["--version"]])
def test_quick_answers_import_nothing_heavy(flags: list[str], tmp_path: Path) -> None:
    probe = (
        "import sys\nfrom lrexp.__main__ import main\ncode = main(sys.argv[1:])\n"
        f"heavy = [name for name in {HEAVY} if name in sys.modules]\n"
        "sys.exit(code or ', '.join(heavy) or 0)"
    )
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", probe, *flags],
        cwd=tmp_path,
        env=user_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert time.perf_counter() - started < 3  # about 0.3 s on an idle machine
    assert list(tmp_path.iterdir()) == []


def test_version_is_the_packages(lrexp: Lrexp) -> None:
    from lrexp import __version__

    assert lrexp("--version").stdout == f"lrexp {__version__}\n"


def test_cfg_job_shows_what_an_override_changes(lrexp: Lrexp) -> None:
    from omegaconf import OmegaConf

    done = lrexp("--cfg", "job", "lr_policy=layerwise_decay", "lr_policy.decay=0.8", "seed=3")
    shown: Any = OmegaConf.create(done.stdout)
    assert (shown.lr_policy.name, shown.lr_policy.decay, shown.seed) == ("layerwise_decay", 0.8, 3)
    assert "hydra" not in shown


# --- Runs -----------------------------------------------------------------------------------

SWEEP = ["lr_policy=uniform,layerwise_decay,freeze_backbone", "optimizer.lr=0.01,0.1"]
SMOKE = ["experiment=smoke"]
RUNS = [
    ("smoke", SMOKE),
    ("no network", ["data=mnist", "data.root=nowhere"]),
    ("kernel", [*SMOKE, "model.kernel_size=9"]),
    ("bundled", [*SMOKE, "model.weights=bundled:nothing"]),
    ("rule", [*SMOKE, "lr_policy=per_layer", "lr_policy.rules=[{match: 'cnv.*', lr: 0.1}]"]),
    ("fixed folder", [*SMOKE, "model.kernel_size=9", "hydra.run.dir=mine"]),
    ("same second", SMOKE),
    ("diverged", [*SMOKE, "optimizer.lr=1e6", "trainer.limit_train_batches=null"]),
    ("sweep", ["-m", *SWEEP, *SMOKE, "logger=wandb", "trainer.monitor=val/accuracy"]),
    ("bad point", ["-m", *SMOKE, "model.kernel_size=3,9"]),
    ("failed", [*SMOKE, "trainer.epochs=5"]),
    ("failed sweep", ["-m", *SMOKE, "seed=1,2"]),
]
SETUP = """
def before(name):
    if name == "no network":
        from torchvision.datasets import MNIST
        MNIST.mirrors = ["http://127.0.0.1:9/"]
    if name == "same second":
        import datetime
        import hydra.core.utils
        class StoppedClock(datetime.datetime):
            now = classmethod(lambda cls: cls(2030, 1, 2, 3, 4, 5))
        hydra.core.utils.datetime = StoppedClock
        assert run(["experiment=smoke"])["code"] == 0
    if name == "sweep":
        from lrexp.grid.launcher import Grid
        original = Grid.run
        def keep(self, points):
            returned = original(self, points)
            values = [returned[point.num].return_value for point in points]
            (base / "returned.json").write_text(json.dumps(values))
            return returned
        Grid.run = keep
    if name.startswith("failed"):
        import lrexp.train
        save = lrexp.train.save_checkpoint
        save = getattr(save, "original", save)
        saved = []
        def disk_is_full(file, state):
            saved.append(file)
            if len(saved) > 2:
                raise OSError(28, "No space left on device", str(file))
            save(file, state)
        disk_is_full.original = save
        lrexp.train.save_checkpoint = disk_is_full

def in_group(file):
    from wandb.proto.wandb_internal_pb2 import RunRecord
    group = file.parents[3].name.encode()  # of the sweep's folder
    number = RunRecord.DESCRIPTOR.fields_by_name["run_group"].number
    return bytes([number << 3 | 2, len(group)]) + group in file.read_bytes()
"""
GROUPS_OF_SWEEP = """
_run_all = run_all
def run_all(cases):
    outcomes = _run_all(cases)
    files = sorted((base / "sweep").glob("outputs/*/*/*/wandb/*/*.wandb"))
    (base / "wandb.json").write_text(json.dumps({f.stem: in_group(f) for f in files}))
    return outcomes
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def runs(base: Path) -> Outcomes:
    """Outcomes of runs that came far enough to need torch, all in one process."""
    return drive(base, RUNS, SETUP + GROUPS_OF_SWEEP)["outcomes"]


def test_a_run_folder_holds_what_it_should(runs: Outcomes, base: Path) -> None:
    assert runs["smoke"]["code"] == 0, runs["smoke"]
    folder = only_run(base / "smoke")
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    wanted = {
        *(f".hydra/{name}.yaml" for name in ("config", "overrides", "hydra")),
        *("config.yaml", "plan.csv", "environment.json", "metrics.jsonl", "summary.json"),
        *("checkpoints/last.pt", "checkpoints/best.pt", "predictions.parquet", "lrexp.log"),
    }
    assert found >= wanted
    assert not {name for name in found if name.endswith((".lock", ".tmp"))}
    summary = summary_of(folder)
    assert (summary["status"], summary["error"]) == ("finished", None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-[a-z0-9]{8}", folder.name)
    assert folder.name.endswith(f"-{summary['run_id']}")
    assert folder.parent.name == summary["name"] == "smoke"
    assert [row["epoch"] for row in rows_of(folder)] == [1, 2]


def test_config_yaml_is_what_really_ran(runs: Outcomes, base: Path) -> None:
    folder = only_run(base / "smoke")
    text = (folder / "config.yaml").read_text()
    assert "${" not in text
    assert "???" not in text
    assert "name: smoke" in text
    assert f"run_id: {summary_of(folder)['run_id']}" in text


def test_the_console_says_where_the_run_is(runs: Outcomes, base: Path) -> None:
    assert str(only_run(base / "smoke").relative_to(base / "smoke")) in runs["smoke"]["out"]


def test_outputs_latest_is_the_newest(runs: Outcomes, base: Path) -> None:
    for name in ("smoke", "sweep"):
        latest = base / name / "outputs" / "latest"
        assert latest.is_symlink()
        assert not os.path.isabs(os.readlink(latest))
        assert latest.resolve() == only_run(base / name)


LATE_MISTAKES = {
    "kernel": ["model.kernel_size=9", "8×8"],
    "fixed folder": ["model.kernel_size=9", "8×8"],
    "bundled": ["model.weights=bundled:nothing", "bundled:simple_cnn_digits_0_4"],
    "rule": ["lr_policy.rules[0]", "cnv.*", "conv", "lr_policy.rules=[{match"],
    "no network": ["data=mnist", "nowhere/MNIST/raw", "data.root=FOLDER"],
}


@pytest.mark.parametrize("name", LATE_MISTAKES)
def test_a_mistake_found_while_building_leaves_nothing(runs: Outcomes, name: str) -> None:
    said = runs[name]["out"] + runs[name]["err"]
    assert runs[name]["code"] == 2, runs[name]
    assert not JARGON.search(said), said
    for words in LATE_MISTAKES[name]:
        assert words in said, f"{words!r} is not in:\n{said}"
    assert runs[name]["left"] == []


def rows_of(folder: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def test_a_diverged_run_is_a_result_in_strict_json(runs: Outcomes, base: Path) -> None:
    assert runs["diverged"]["code"] == 0, runs["diverged"]
    folder = only_run(base / "diverged")
    assert summary_of(folder)["status"] == "diverged"
    assert [v["kind"] for v in summary_of(folder)["verdicts"]] == ["diverged"]
    assert rows_of(folder)[-1]["val/loss"] in ("NaN", "Infinity")


def test_a_run_that_fails_in_training_says_so_in_its_summary(runs: Outcomes, base: Path) -> None:
    assert runs["failed"]["code"] == 1, runs["failed"]
    folder = only_run(base / "failed")
    summary = summary_of(folder)
    assert summary["status"] == "failed"
    assert "No space left on device" in summary["error"]
    assert "No space left on device" in runs["failed"]["err"]
    assert "Traceback" not in runs["failed"]["out"] + runs["failed"]["err"]
    assert "Traceback" in (folder / "lrexp.log").read_text()
    assert summary["last"]["epoch"] == len(rows_of(folder)) > 0


def test_two_runs_in_the_same_second_get_two_folders(runs: Outcomes, base: Path) -> None:
    assert runs["same second"]["code"] == 0, runs["same second"]
    folders = sorted((base / "same second" / "outputs" / "smoke").iterdir())
    assert [folder.name[:-8] for folder in folders] == ["2030-01-02_03-04-05-"] * 2
    assert [summary_of(folder)["status"] for folder in folders] == ["finished"] * 2


# --- Sweeps ---------------------------------------------------------------------------------


def points_of(base: Path, name: str = "sweep") -> list[Path]:
    return sorted(p for p in only_run(base / name).iterdir() if p.is_dir())


def test_a_sweep_gives_a_readable_folder_per_point(runs: Outcomes, base: Path) -> None:
    assert runs["sweep"]["code"] == 0, runs["sweep"]
    assert [p.name for p in points_of(base)] == [
        f"{number}_lr_policy_{policy}_optimizer.lr_{rate}"
        for number, (policy, rate) in enumerate(
            (policy, rate)
            for policy in ("uniform", "layerwise_decay", "freeze_backbone")
            for rate in ("0.01", "0.1")
        )
    ]


def test_points_of_a_sweep_are_runs_of_their_own(runs: Outcomes, base: Path) -> None:
    summaries = [summary_of(folder) for folder in points_of(base)]
    assert [summary["status"] for summary in summaries] == ["finished"] * 6
    assert len({summary["run_id"] for summary in summaries}) == 6
    assert len({summary["config_id"] for summary in summaries}) == 6
    assert all((folder / ".hydra" / "config.yaml").is_file() for folder in points_of(base))


def test_points_of_a_sweep_are_wandb_runs_in_one_group(runs: Outcomes, base: Path) -> None:
    in_group = json.loads((base / "wandb.json").read_text())
    assert in_group == {f"run-{summary_of(p)['run_id']}": True for p in points_of(base)}


def test_a_sweeper_sees_the_best_monitored_value(runs: Outcomes, base: Path) -> None:
    returned = json.loads((base / "returned.json").read_text())
    assert returned == [summary_of(p)["best"]["val/accuracy"] for p in points_of(base)]
    assert returned == [max(r["val/accuracy"] for r in rows_of(p)) for p in points_of(base)]


def test_a_point_that_cannot_be_built_is_found_before_the_first_one(runs: Outcomes) -> None:
    said = runs["bad point"]["out"] + runs["bad point"]["err"]
    assert runs["bad point"]["code"] == 2
    assert "model.kernel_size=9: is too large for images of 8×8" in said
    assert runs["bad point"]["left"] == []


def test_a_sweep_with_a_failed_point_says_so(runs: Outcomes, base: Path) -> None:
    said = runs["failed sweep"]["out"] + runs["failed sweep"]["err"]
    assert runs["failed sweep"]["code"] == 1, runs["failed sweep"]
    assert "No space left on device" in said
    assert "Traceback" not in said
    assert "failed" in [summary_of(p)["status"] for p in points_of(base, "failed sweep")]


# --- Real processes: signals and locks ------------------------------------------------------


def test_a_run_terminated_before_its_first_step_leaves_nothing(tmp_path: Path) -> None:
    process = start(tmp_path, *SMOKE)
    wait_for(lambda: [*tmp_path.glob("outputs/*/*/lrexp.log")])
    time.sleep(0.2)  # now it imports torch
    process.terminate()
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 143, said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, Path]]:
    """Two long runs, one terminated and one interrupted from the keyboard at their first row."""
    sent = {"terminated": signal.SIGTERM, "interrupted": signal.SIGINT}
    folders = {name: tmp_path_factory.mktemp(name) for name in sent}
    processes = {
        name: start(folder, *SMOKE, "trainer.epochs=100000") for name, folder in folders.items()
    }
    results = {}
    for name, process in processes.items():
        wait_for(lambda name=name: [*folders[name].glob("outputs/*/*/checkpoints/best.pt")])
        process.send_signal(sent[name])
    for name, process in processes.items():
        said = process.communicate(timeout=60)[0]
        results[name] = (process.returncode, said, only_run(folders[name]))
    return results


@pytest.mark.parametrize(("name", "code"), [("terminated", 143), ("interrupted", 130)])
def test_a_stopped_run_has_saved_its_state(
    stopped: dict[str, tuple[int, str, Path]], name: str, code: int
) -> None:
    returned, said, folder = stopped[name]
    assert returned == code, said
    assert "Traceback" not in said
    summary = summary_of(folder)
    assert summary["status"] == "interrupted"
    assert summary["last"]["epoch"] == rows_of(folder)[-1]["epoch"] > 0
    assert (folder / "checkpoints" / "last.pt").is_file()
    assert str(folder.name) in said


def test_a_folder_belongs_to_one_process_and_one_run(tmp_path: Path, lrexp: Lrexp) -> None:
    arguments = [*SMOKE, "hydra.run.dir=mine"]
    first = start(tmp_path, *arguments)
    wait_for((tmp_path / "mine" / ".lock").exists)
    second = lrexp(*arguments)
    assert second.returncode == 2, second.stdout + second.stderr
    assert "mine is in use by another lrexp process" in second.stderr
    said = first.communicate(timeout=60)[0]
    assert first.returncode == 0, said
    folder = tmp_path / "mine"
    assert summary_of(folder)["status"] == "finished"
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    third = lrexp(*arguments)
    assert third.returncode == 2
    assert "already holds a run" in third.stderr
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


# --- Shell completion -----------------------------------------------------------------------


@pytest.fixture
def complete(lrexp: Lrexp) -> Callable[[str], list[str]]:
    """What completion offers for a started command line."""

    def offered(line: str) -> list[str]:
        done = lrexp("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()

    return offered


def test_completion_offers_groups_options_and_settings(
    complete: Callable[[str], list[str]],
) -> None:
    assert "lr_policy=" in complete("lrexp lr_pol")
    options = sorted(f"lr_policy={p.stem}" for p in (CONF / "lr_policy").glob("*.yaml"))
    assert sorted(complete("lrexp model=mlp lr_policy=")) == options
    assert "optimizer.momentum=" in complete("lrexp optimizer.")


def test_completion_offers_no_schema(complete: Callable[[str], list[str]]) -> None:
    offered = complete("lrexp ")
    assert {f"{group}=" for group in GROUPS} <= set(offered)
    assert not [word for word in offered if word.startswith("schema")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_is_for_the_command(tmp_path: Path, shell: str) -> None:
    command = tmp_path / "lrexp"  # as pip writes it for [project.scripts]
    command.write_text(
        f"#!{sys.executable}\nfrom lrexp.__main__ import command\nraise SystemExit(command())\n"
    )
    command.chmod(0o755)
    done = subprocess.run(
        ["lrexp", "-sc", f"install={shell}"],
        env=user_environment(tmp_path) | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^.*complete.* lrexp\b", done.stdout, re.MULTILINE)
    if shell == "bash" and shutil.which("bash"):
        assert subprocess.run(["bash", "-n"], input=done.stdout, text=True).returncode == 0
