"""A mistake on the command line: one clear message, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_lines import JARGON, drive

from lrexp.__main__ import main


def filled(text: str, places: dict[str, str]) -> str:
    """A text with {files}, {taken} and {held} replaced."""
    for name, path in places.items():
        text = text.replace(f"{{{name}}}", path)
    return text


# name: (command line, what the message must say). {files} is a folder of YAML files with
# mistakes, {taken} a file where a folder is wanted, {held} a folder that already holds a run.
MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "unknown model": (["model=simple_cn"], ["model=simple_cn", "mean 'simple_cnn'", "mlp"]),
    "unknown model, nothing near": (
        ["model=xylophone"],
        ["model=xylophone", "allowed: cifar_resnet, convnext_tiny"],
    ),
    "unknown data": (["data=digit"], ["data=digit", "mean 'digits'", "mnist"]),
    "unknown loss": (["loss=crossentropi"], ["loss=crossentropi", "mean 'cross_entropy'"]),
    "unknown optimizer": (["optimizer=sdg"], ["optimizer=sdg", "mean 'sgd'", "adamw"]),
    "unknown lr_policy": (["lr_policy=layrwise"], ["lr_policy=layrwise", "'layerwise_decay'"]),
    "unknown scheduler": (["scheduler=cosin"], ["scheduler=cosin", "mean 'cosine'", "step"]),
    "unknown trainer": (["trainer=smok"], ["trainer=smok", "mean 'smoke'", "default"]),
    "unknown logger": (["logger=wand"], ["logger=wand", "mean 'wandb'", "none"]),
    "unknown task": (["task=trian"], ["task=trian", "mean 'train'"]),
    "unknown experiment": (["experiment=smoky"], ["experiment=smoky", "mean 'smoke'"]),
    "unknown launcher": (["-m", "hydra/launcher=basik"], ["hydra/launcher=basik", "'basic'"]),
    "misspelt top key": (["sed=3"], ["sed=3", "did you mean seed?"]),
    "misspelt group": (["traner=smoke"], ["traner=smoke", "did you mean trainer?"]),
    "misspelt group of a key": (["traner.epoch_=3"], ["write: lrexp trainer.epochs=3"]),
    "misspelt key": (["trainer.epoch=3"], ["trainer.epoch=3", "write: lrexp trainer.epochs=3"]),
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
    "learning_rate": (
        ["optimizer.learning_rate=0.1"],
        ["learning_rate=0.1", "write: lrexp optimizer.lr=0.1"],
    ),
    "learningRate": (
        ["optimizer.learningRate=0.1"],
        ["learningRate=0.1", "write: lrexp optimizer.lr=0.1"],
    ),
    "rate": (["optimizer.rate=0.1"], ["optimizer.rate=0.1", "write: lrexp optimizer.lr=0.1"]),
    "lr without its group": (["lr=0.1"], ["lr=0.1", "write: lrexp optimizer.lr=0.1"]),
    "epochs added": (["+epochs=3"], ["+epochs=3", "write: lrexp trainer.epochs=3"]),
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
    "a normalization by nothing": (
        ["data.normalize={mean:[0.5],std:[1e-9]}"],
        ["data.normalize.std", "must be at least 0.0001"],
    ),
    "a std of nothing": (
        ["data.mean=[0.5]", "data.std=[1e-9]"],
        ["data.std=[1e-09]", "must be at least 0.0001"],
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
    "removed key": (
        ["~optimizer.lr"],
        ["~optimizer.lr", "cannot be removed", "optimizer.lr=VALUE"],
    ),
    "removed seed": (["~seed"], ["~seed", "cannot be removed", "write seed=VALUE"]),
    "group elsewhere": (["optimizer@foo=adam"], ["optimizer@foo=adam", "write optimizer=adam"]),
    "added elsewhere": (["+optimizer@foo=adam"], ["+optimizer@foo=adam", "write optimizer=adam"]),
    "None of Python": (
        ["trainer.max_steps=None"],
        ["whole number", "write trainer.max_steps=null"],
    ),
    "None where none may be": (["trainer.epochs=None"], ["trainer.epochs=None", "a whole number"]),
    "axes below hydra": (
        ["-m", "+hydra.sweeper.params.optimizer.lr='0.1,0.2'"],
        ["hydra.sweeper.params.optimizer.lr", "write the axis itself: optimizer.lr=A,B"],
    ),
    "a mode of one run and -m": (["-m", "hydra.mode=RUN", "seed=0,1"], ["hydra.mode=RUN", "-m"]),
    "--run and -m": (["--run", "-m", "seed=0,1"], ["--run and --multirun exclude each other"]),
    "--resolve alone": (["--resolve"], ["--resolve goes with --cfg"]),
    "--package alone": (["--package", "optimizer"], ["--package goes with --cfg"]),
    "removed group": (["~optimizer"], ["~optimizer", "optimizer=NAME"]),
    "removed group that names the run": (["~model"], ["~model", "model=NAME"]),
    "missing data folder": (
        ["data=mnist", "data.download=false", "data.root=nowhere"],
        ["data.root=nowhere", "nowhere/MNIST/raw", "data.download=true"],
    ),
    "a column that is not read": (
        ["data=csv", "data.path={taken}", "data.columns={pth: file}"],
        ["data.columns.pth", "did you mean 'path'?"],
    ),
    "an unknown encoding": (
        ["data=csv", "data.path={taken}", "data.encoding=utf-9"],
        ["data.encoding=utf-9", "is no encoding", "cp1252"],
    ),
    "a preset without its data": (
        ["experiment=traffic_signs"],
        [
            "give data.path=... beside experiment=traffic_signs",
            "conf/experiment/traffic_signs.yaml",
        ],
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
    "resume of a name that no path can have": (
        ["-m", 'hydra.launcher.resume="a\0b"'],
        ["hydra.launcher.resume=a", "no such sweep"],
    ),
    "a shape of two numbers": (
        ["data.image_shape=[1,2]"],
        ["data.image_shape=[1, 2]", "three numbers", "such as 'data.image_shape=[1, 28, 28]'"],
    ),
    "a momentum of one number": (
        ["scheduler=one_cycle", "scheduler.momentum=[0.9]"],
        [
            "scheduler.momentum=[0.9]",
            "two numbers",
            "such as 'scheduler.momentum=[0.95, 0.85]'; or null",
        ],
    ),
    "resume of a run": (
        ["-m", "hydra.launcher.resume={held}"],
        ["hydra.launcher.resume={held}", "is a single run"],
    ),
    "one folder for two points": (["-m", "seed=1,2", "hydra.sweep.subdir=x"], ["subdir"]),
    "several values without -m": (["optimizer.lr=0.1,0.2"], ["optimizer.lr=0.1,0.2", "add -m"]),
    "a setting of one of two options": (
        ["-m", "lr_policy=uniform,layerwise_decay", "lr_policy.decay=0.5,0.8"],
        ["lr_policy.decay=0.5", "lr_policy=layerwise_decay", "cases="],
    ),
    "a value that does not fit one of several options": (
        ["-m", "lr_policy=uniform,freezeout", "scheduler=cosine"],
        ["scheduler=cosine: does not go with", "write scheduler=constant; in a grid of", "cases="],
    ),
    "half an option's name": (["lr_policy=backbone"], ["did you mean 'freeze_backbone'"]),
    "no folder of images": (["experiment=hymenoptera"], ["data.path", "give data.path="]),
    "monitor unknown": (["trainer.monitor=val/acur"], ["monitor=val/acur", "'val/accuracy'"]),
    "monitor without training": (
        ["trainer.epochs=0", "trainer.monitor=train/loss"],
        ["trainer.monitor=train/loss", "trainer.epochs=0"],
    ),
    "name of itself": (["name=${name}"], ["name"]),
    "name removed": (["~name"], ["name", "cannot be removed"]),
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


# Run in a program of their own: what is found before anything heavy is needed.
EARLY = (
    "unknown model",
    "misspelt key",
    "lr nan",
    "run folder of another run",
    "bad key in a sweep",
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What command lines name in braces."""
    base = tmp_path_factory.mktemp("mistakes")
    for name, text in FILES.items():
        file = base / "files" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (base / "taken").write_text("a file")
    (base / "held").mkdir()
    (base / "held" / "summary.json").write_text("{}")
    return {name: str(base / name) for name in ("files", "taken", "held")}


# Found and said in the same way as others of the list.
ALIKE = {
    *(f"unknown {group}" for group in ("data", "loss", "optimizer", "scheduler", "trainer")),
    *("unknown logger", "unknown task", "unknown experiment", "misspelt group of a key"),
    *("learningRate", "rate", "epochs added", "misspelt key of one rule", "text for epochs"),
    *("lr negative", "lr infinite", "lr empty", "epochs empty", "option null", "two options"),
    *("a class of another kind", "number for a list", "settings as a tag", "name with a slash"),
    *("run folder null", "run folder missing", "Hydra's job name", "forced key", "removed key"),
    *("removed group that names the run", "file above run folder", "one bad type in a sweep"),
    *("a bad value in a sweep's range", "value in a file of cases", "a file of no cases"),
    *("resume of a run", "name removed", "sweep folder of nothing", "device unknown"),
    *("rule that freezes and trains", "rule that gives nothing", "rule that selects nothing"),
    *("rule with a bad layer", "rule with a text as flag", "rules that are no list"),
    *("variable that is not set", "no key", "unknown --cfg", "type in an experiment file"),
    *("value in an experiment file", "key in a leaf file without a schema"),
    *("leaf file without a name", "key of a rule in a leaf file", "class weights"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in ALIKE else ()) for n in MISTAKES]
)
def test_a_mistake_gets_one_clear_message_and_leaves_nothing(
    name: str,
    places: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv, expected = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    no_run_can_start(monkeypatch)
    code = main([filled(argument, places) for argument in argv])
    said = "".join(capsys.readouterr())
    assert code in (1, 2), f"{code}\n{said}"
    assert not JARGON.search(said), said
    for words in expected:
        assert filled(words, places) in said, f"{words!r} is not in:\n{said}"
    assert list(tmp_path.iterdir()) == []
    held = Path(places["held"])  # and what it was refused for is as it was
    assert [p.name for p in held.iterdir()] == ["summary.json"]
    assert (held / "summary.json").read_text() == "{}"
    assert Path(places["taken"]).read_text() == "a file"


def no_run_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*arguments: Any, **named: Any) -> None:
        raise RuntimeError("reached the run")

    for module in ("single", "points"):  # the first imports the second's, before it is replaced
        monkeypatch.setattr(f"lrexp.session.{module}.job", reached)


def test_the_list_of_what_is_alike_names_mistakes() -> None:
    assert MISTAKES.keys() >= ALIKE


def test_mistakes_are_found_without_a_heavy_import(places: dict[str, str], tmp_path: Path) -> None:
    cases = [(name, [filled(a, places) for a in MISTAKES[name][0]]) for name in EARLY]
    found = drive(tmp_path, cases)
    assert [outcome["code"] for outcome in found["outcomes"].values()] == [2] * len(EARLY)
    assert found["heavy"] == []


def test_full_error_shows_where_a_mistake_came_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert main(["sed=3"]) == 2
    assert "Traceback" in capsys.readouterr().err
