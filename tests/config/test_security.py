"""Hostile inputs: refused with a message, and nothing ran, was written or was connected to."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from audited import answers
from conftest import ROOT
from hydra.types import RunMode
from omegaconf import OmegaConf

from lrexp.config.compose import CONFIG_NAME, CheckedLoader
from lrexp.config.errors import ConfigError, UserError
from lrexp.config.redact import redacted, secret_in
from lrexp.config.saved import MAX_BYTES, read_saved_config, read_yaml_text, refuse_writing
from lrexp.config.targets import check_hydra_section
from lrexp.folder.files import strict_json, write_atomically
from lrexp.grid.points.cases import read_cases
from lrexp.grid.points.point import read_points

SECRET = "sk-0123456789abcdef-very-secret"
SAVED = """\
name: smoke
seed: 0
run_id: null
model: {name: mlp, weights: null, strict: true, layers: null, convention: timm, widths: [8]}
optimizer: {name: sgd, lr: 0.1, weight_decay: 0.0, momentum: 0.9, nesterov: false}
"""

# What a `hydra` section could run or write, by the way it is written in YAML.
HYDRA_SECTIONS = {
    "a program as callback": "{callbacks: {x: {_target_: subprocess.Popen, args: [touch, pwned]}}}",
    "a shell as callback": "{callbacks: {x: {_target_: os.system, command: touch pwned}}}",
    "exec as callback": "{callbacks: {x: {_target_: builtins.exec, _args_: ['import os']}}}",
    "an unknown package as callback": "{callbacks: {x: {_target_: hostile_package.Callback}}}",
    "torch.hub.load as callback": "{callbacks: {x: {_target_: torch.hub.load, repo_or_dir: a/b}}}",
    "torch.load as callback": "{callbacks: {x: {_target_: torch.load, f: evil.pt}}}",
    "torch's command line as callback": (
        "{callbacks: {x: {_target_: torch.utils.collect_env.run, command: touch pwned}}}"
    ),
    "functools.partial as callback": (
        "{callbacks: {x: {_target_: functools.partial, _args_: [os.system, touch pwned]}}}"
    ),
    "a callback without a target": "{callbacks: {x: [1, 2]}}",
    "a socket in job_logging": (
        "{job_logging: {handlers: {s: {class: logging.handlers.SocketHandler, host: localhost,"
        " port: 9}}, root: {handlers: [s]}}}"
    ),
    "the web in job_logging": (
        "{job_logging: {handlers: {s: {class: logging.handlers.HTTPHandler, host: 'localhost:9',"
        " url: /}}, root: {handlers: [s]}}}"
    ),
    "mail in job_logging": (
        "{job_logging: {handlers: {s: {class: logging.handlers.SMTPHandler, mailhost: localhost,"
        " fromaddr: a, toaddrs: b, subject: c}}}}"
    ),
    "a program in job_logging": (
        "{job_logging: {handlers: {s: {'()': subprocess.Popen, args: [touch, pwned]}}}}"
    ),
    "a shell as formatter": "{job_logging: {formatters: {f: {'()': os.system, command: 'true'}}}}",
    "a package as formatter": "{job_logging: {formatters: {f: {class: hostile_package.F}}}}",
    "a package as filter": "{job_logging: {filters: {f: {'()': hostile_package.F}}}}",
    "a package as stream": (
        "{job_logging: {handlers: {s: {class: logging.StreamHandler,"
        " stream: 'ext://hostile_package.x'}}}}"
    ),
    "a log elsewhere": "{job_logging: {handlers: {file: {filename: /tmp/lrexp_pwned.log}}}}",
    "a log above the run's folder": (
        "{job_logging: {handlers: {file: {filename: '${hydra.runtime.output_dir}/../../x.log'}}}}"
    ),
    "a program in hydra_logging": (
        "{hydra_logging: {handlers: {s: {'()': subprocess.Popen, args: [touch, pwned]}}}}"
    ),
    "a queue in hydra_logging": (
        "{hydra_logging: {handlers: {s: {class: logging.handlers.QueueHandler,"
        " queue: {'()': hostile_package.Q}}}}}"
    ),
    "a program as launcher": "{launcher: {_target_: subprocess.Popen}}",
    "a package as launcher": "{launcher: {_target_: hostile_package.Launcher}}",
    "a shell as sweeper": "{sweeper: {_target_: os.system}}",
    "a shell in a sweeper": "{sweeper: {params: {seed: {_target_: os.system}}}}",
    "targets allowed by the config": "{job: {env_set: {LREXP_ALLOW_TARGETS: os}}}",
    "a module path": "{job: {env_set: {PYTHONPATH: /tmp}}}",
    "a preloaded library": "{job: {env_set: {LD_PRELOAD: /tmp/x.so}}}",
    "a key for the environment": "{job: {env_set: {WANDB_API_KEY: not-to-be-saved}}}",
    "a program of git's": (
        "{job: {env_set: {GIT_CONFIG_PARAMETERS: \"'core.fsmonitor=touch pwned'\"}}}"
    ),
    "another server for the key": "{job: {env_set: {WANDB_BASE_URL: 'http://localhost:9'}}}",
    "a proxy": "{job: {env_set: {https_proxy: 'http://localhost:9'}}}",
    "a section as environment": "{job: {env_set: '${optimizer}'}}",
    "a variable of the shell to be saved": "{job: {env_copy: [HOME]}}",
    "a section as launcher": "{launcher: '${optimizer.args}'}",
    "a section as a sweeper's part": "{sweeper: {sampler: '${optimizer.args.x}'}}",
    "a command line out of pieces": "{sweeper: {params: {logger.notes: '${name}{oc.env:HOME}'}}}",
    "a program of a cluster's jobs": "{launcher: {setup: [touch pwned]}}",
    "flags of a cluster's jobs": "{launcher: {additional_parameters: {wrap: touch pwned}}}",
    "a log elsewhere by interpolation": (
        "{job_logging: {handlers: {file: {filename:"
        " '${hydra.runtime.output_dir}/${now:..}/${now:..}/x.log'}}}}"
    ),
    "a log under a name that is run": (
        "{job_logging: {handlers: {file: {filename: '${hydra.runtime.output_dir}/x.pth'}}}}"
    ),
    "a package as stream by interpolation": (
        "{job_logging: {handlers: {s: {class: logging.StreamHandler,"
        " stream: '${now:ext://hostile_package.x}'}}}}"
    ),
    "attributes of a handler": (
        "{job_logging: {handlers: {s: {'()': logging.FileHandler, delay: true, filename:"
        " '${hydra.runtime.output_dir}/x.log', '.': {baseFilename: /tmp/lrexp_pwned}}}}}"
    ),
    "a format that reaches into objects": (
        "{job_logging: {formatters: {f: {style: '{', format: '{args[0].__init__.__globals__}'}}}}"
    ),
    "points elsewhere": "{sweep: {subdir: /tmp/lrexp_pwned}}",
    "Hydra's files elsewhere": "{output_subdir: ../../pwned}",
    "a job name with a path": "{job: {name: ../pwned}}",
}


IN_THE_END = "a job name with a path"  # refused with the settings, when the config is composed


def bomb(levels: int = 9) -> str:
    """YAML of a few hundred bytes that stands for 10^levels values."""
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for i in range(1, levels):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]")
    return "\n".join(lines) + "\n"


YAML_FILES = {
    "a bomb of aliases": bomb(),
    "a list inside itself": "trainer: &a [*a]\n",
    "deep nesting": f"trainer: {'[' * 5000}{']' * 5000}\n",
    "half-open nesting": f"trainer: {'{a: ' * 5000}",
    "a huge file": "# " + "x" * MAX_BYTES,
    "too many values": f"trainer: [{'1, ' * 50_000}1]\n",
    "a Python object": "trainer: !!python/object/apply:os.system ['touch pwned']\n",
    "a Python name": "trainer: !!python/name:os.system\n",
    "a module": "trainer: !!python/module:hostile_package\n",
    "no text": "\x00\x01\x02",
}

# Refused before anything is built: name → (command line, a word of the message)
LINES: dict[str, tuple[list[str], str]] = {
    "a pickled run": (["--experimental-rerun", "evil.pickle"], "experimental-rerun"),
    "another config path": (["--config-path", "/tmp"], "config-path"),
    "another config name": (["--config-name", "evil"], "config-name"),
    "packages on the search path": (["hydra.searchpath=[pkg://hostile_package]"], "searchpath"),
    "a path as name": (["name=../../pwned"], "name"),
    "an absolute name": (["name=/tmp/pwned"], "name"),
    "HTML as name": (["name='<script>alert(1)</script>'"], "name"),
    "a newline as name": (['name="a\\nb"'], "name"),
    "a path as run id": (["run_id=../../../x"], "run_id"),
    "a path for a point": (["-m", "seed=0,1", "hydra.sweep.subdir=../x${hydra.job.num}"], "subdir"),
    "a path for a point by interpolation": (
        ["-m", "seed=0,1", "hydra.sweep.subdir=${now:..}/x${hydra.job.num}"],
        "subdir",
    ),
    "a target in optimizer": (["+optimizer._target_=torch.optim.SGD"], "_target_"),
    "a target in data": (["+data._target_=torch.load"], "_target_"),
    "a target in trainer": (["+trainer._target_=os.system"], "_target_"),
    "a target in arguments": (
        ["model=timm", "model.name=resnet18", "model.args.x={_target_: os.system}"],
        "_target_",
    ),
    "a target in a list of arguments": (
        ["optimizer=torch", "optimizer.args.x=[{a: 1}, {_target_: os.system}]"],
        "_target_",
    ),
    "partial in arguments": (["scheduler=torch", "scheduler.args._partial_=true"], "_partial_"),
    "a target on top": (["+_target_=os.system"], "_target_"),
    "a program as network": (["model=custom", "model.target=subprocess.Popen"], "not allowed"),
    "a shell as network": (["model=custom", "model.target=os.system"], "not allowed"),
    "exec as network": (["model=custom", "model.target=builtins.exec"], "not allowed"),
    "torch.hub as network": (["model=custom", "model.target=torch.hub.load"], "not allowed"),
    "torch.load as network": (["model=custom", "model.target=torch.load"], "not allowed"),
    "an unknown package as network": (
        ["model=custom", "model.target=hostile_package.Net"],
        "not allowed",
    ),
    "a call as network": (["name=x", "model=custom", "model.target='os.system(\"x\")'"], "no name"),
    "dots as network": (["name=x", "model=custom", "model.target=..os.system"], "no name"),
    "weights by address": (["model.weights='http://localhost:9/w.pt'"], "no such file"),
    "weights by ftp": (["model.weights='ftp://localhost/w.pt'"], "no such file"),
    "data by address": (["data=hf", "data.path='https://localhost:9/x.parquet'"], "data.path"),
    "data in a bucket": (["data=hf", "data.path='s3://bucket/x'"], "data.path"),
    "data by a path out of the hub": (["data=hf", "data.path=../../x"], "data.path"),
    "a table by address": (["data=csv", "data.path='http://localhost:9/t.csv'"], "data.path"),
    "images by address": (["data=imagefolder", "data.path='http://localhost:9/'"], "data.path"),
    "a test set by address": (["+data.eval_sets.x='http://localhost:9/'"], "eval_sets"),
    "a key as note": ([f"logger.notes={SECRET}"], "WANDB_API_KEY"),
    "a key by interpolation": (["logger.notes=${oc.env:WANDB_API_KEY}"], "WANDB_API_KEY"),
    "a key among tags": ([f"logger.tags=[a,{SECRET}]"], "WANDB_API_KEY"),
    "a password in an address": (["logger.notes='https://me:secret1@host/x'"], "password"),
    "a bomb as cases": (["-m", "cases=bomb.yaml"], "more than"),
    "a pipe as weights": (["model.weights=pipe.yaml"], "is no file"),
    "a device as weights": (["model.weights=/dev/zero"], "is no file"),
    "a pipe as cases": (["-m", "cases=pipe.yaml"], "no such file"),
}

# Refused while the run is built, after its folder was claimed.
BUILT: dict[str, tuple[list[str], str]] = {
    "a pickle as weights": (["model.weights=raw.pt"], "none that torch.save wrote"),
    "a pickle in a zip as weights": (["model.weights=zip.pt"], "holds objects beside tensors"),
    "a run folder with a pickle": (["model.weights=run"], "holds objects beside tensors"),
    "a pickle called safetensors": (["model.weights=raw.safetensors"], "checkpoint of torch.save"),
    "a program compiled by torch": (["model.weights=script.pt"], "weights"),
    "a header without end": (["model.weights=header.safetensors"], "safetensors"),
    "nothing as weights": (["model.weights=empty.pt"], "is empty"),
    "bundled weights from elsewhere": (["model.weights='bundled:../../x'"], "ships"),
    "a network from the hub": (
        ["model=timm", "model.name='hf-hub:evil/net'", "name=x"],
        "no such model",
    ),
    "a network from a folder": (
        ["model=timm", "model.name='local-dir:/tmp'", "name=x"],
        "no such model",
    ),
    "a checkpoint in arguments": (
        ["model=timm", "model.name=resnet18", "model.args.checkpoint_path=raw.pt"],
        "cannot be set here",
    ),
    "an address in arguments": (
        ["model=timm", "model.name=resnet18", "+model.args.pretrained_cfg.url='http://localhost'"],
        "cannot be set here",
    ),
    "files in arguments": (
        ["model=timm", "model.name=resnet18", "+model.args.pretrained_cfg_overlay.file=raw.pt"],
        "cannot be set here",
    ),
    "a path as torchvision's network": (
        ["model=torchvision", "model.name=../../x", "name=x"],
        "no such",
    ),
    "a private name as optimizer": (["optimizer=torch", "optimizer.name=__import__"], "optimizer"),
    "a module as optimizer": (["optimizer=torch", "optimizer.name=os.system"], "optimizer"),
    "a function as schedule": (
        ["scheduler=torch", "scheduler.name=LambdaLR", "+scheduler.args.lr_lambda=os.system"],
        "Python function",
    ),
    "a pickle as parquet": (["data=hf", "data.path=evil.parquet"], "evil.parquet"),
    "a bomb as image": (["data=csv", "data.path=bomb.csv"], "images can be read"),
}

# With packages that the user has allowed, but wrong kinds in them: a function, a class of another
# kind, a module reached through another.
ALLOWED = {
    "torch.hub.load": "torch.nn.Module",
    "torch.load": "torch.nn.Module",
    "torch.utils.collect_env.run": "torch.nn.Module",
    "torch.optim.SGD": "torch.nn.Module",
    "torch.nn.Module.load_state_dict": "cannot be imported",
    "functools.partial": "torch.nn.Module",
    "functools.os.system": "cannot be imported",
}


Audited = Callable[..., list[Any]]


class Evil:
    """Runs a program when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


@pytest.fixture
def audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Audited]:
    """A function from command lines to what each answered and did, in a folder of its own.

    A package of it, on the path, must not be imported. Modules named `warm` are imported before,
    as what imports them may look around.
    """

    def run(lines: list[list[str]], *warm: str, **environment: str) -> list[Any]:
        (tmp_path / "hostile_package").mkdir(exist_ok=True)
        marker = "open('imported', 'w').close()\n"
        (tmp_path / "hostile_package" / "__init__.py").write_text(marker)
        for module in ("lrexp.__main__", *warm):
            importlib.import_module(module)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return answers(lines)

    before = set(sys.modules)
    yield run
    for name in set(sys.modules) - before:
        if name in ("mypkg", "hostile_package"):
            del sys.modules[name]


def refused(name: str, answer: Any, word: str) -> None:
    """The answer is one clear message, of a mistake in the request."""
    assert answer["code"] == 2, (name, answer)
    said = answer["said"]
    assert said.startswith("error: "), (name, said)
    assert word in said, (name, said)
    assert "Traceback" not in said, (name, said)
    assert len(said.splitlines()) <= 24, (name, said)
    assert len(said) < 3000, (name, said)
    assert SECRET not in said, (name, said)


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def experiments(folder: Path, files: dict[str, str]) -> list[list[str]]:
    """Files of YAML as experiments in a folder of the user's, and the lines that choose them."""
    lines = []
    (folder / "cfg" / "experiment").mkdir(parents=True)
    for i, text in enumerate(files.values()):
        (folder / "cfg" / "experiment" / f"e{i}.yaml").write_text(text)
        lines.append(["--config-dir", "cfg", f"experiment=e{i}", "task=plan"])
    return lines


def test_command_lines_that_would_harm_are_refused_before_anything_happens(
    audited: Audited, tmp_path: Path
) -> None:
    (tmp_path / "evil.pickle").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "bomb.yaml").write_text(bomb())
    os.mkfifo(tmp_path / "pipe.yaml")
    before = {*contents(tmp_path), "hostile_package", "hostile_package/__init__.py"}
    lines = [line for line, _ in LINES.values()]
    answers = audited(lines, WANDB_API_KEY=SECRET)
    for (name, (_, word)), answer in zip(LINES.items(), answers, strict=True):
        refused(name, answer, word)
        assert answer["did"] == [], (name, answer)
    assert contents(tmp_path) == before


def test_a_hydra_section_in_a_file_runs_and_writes_nothing(
    audited: Audited, tmp_path: Path
) -> None:
    """Some as whole command lines and grids; all of them in the test below."""
    some = {k: HYDRA_SECTIONS[k] for k in [*list(HYDRA_SECTIONS)[::5], IN_THE_END]}
    text = "# @package _global_\nhydra: "
    lines = experiments(tmp_path, {k: text + v + "\n" for k, v in some.items()})
    before = {*contents(tmp_path), "hostile_package", "hostile_package/__init__.py"}
    grids = [[*line, "-m", "seed=0,1"] for line in lines[::2]]
    answers = audited([*lines, *grids])
    for name, answer in zip([*some, *list(some)[::2]], answers, strict=True):
        refused(name, answer, "hydra.")
        assert answer["did"] == [], (name, answer)
    assert contents(tmp_path) == before


@pytest.fixture(scope="module")
def hydra_section() -> Any:
    """Hydra's own section, as every command has it."""
    composed = CheckedLoader().load_configuration(CONFIG_NAME, [], RunMode.RUN)
    return OmegaConf.create(OmegaConf.to_container(composed.hydra, resolve=False))


@pytest.mark.parametrize("name", sorted({*HYDRA_SECTIONS} - {IN_THE_END}))
def test_a_hydra_section_is_refused_by_name(hydra_section: Any, name: str) -> None:
    check_hydra_section(OmegaConf.to_container(hydra_section, resolve=False))
    changed = OmegaConf.merge(hydra_section, OmegaConf.create(HYDRA_SECTIONS[name]))
    with pytest.raises(ConfigError, match=r"^hydra\."):
        check_hydra_section(OmegaConf.to_container(changed, resolve=False))


def test_what_a_config_may_set_of_the_environment_is_what_decides_kernels_and_threads() -> None:
    from lrexp.folder.environment import VARIABLES

    check_hydra_section({"job": {"env_set": dict.fromkeys((*VARIABLES, "OMP_NUM_THREADS"), "1")}})
    with pytest.raises(ConfigError, match=r"env_set\.WANDB_BASE_URL: .*\n.*OMP_NUM_THREADS"):
        check_hydra_section({"job": {"env_set": {"WANDB_BASE_URL": "x"}}})


def test_what_starts_the_jobs_of_a_cluster_is_typed(hydra_section: Any) -> None:
    section: Any = OmegaConf.to_container(hydra_section, resolve=False)
    section["launcher"]["setup"] = ["module load cuda"]
    with pytest.raises(ConfigError, match="no file may say"):
        check_hydra_section(section)
    check_hydra_section(section, ["hydra.launcher.setup"])


# Texts of a file that read the environment, and the word of the message; None: may be there.
READS: dict[str, str | None] = {
    "${oc.env:HOME}/data": None,
    "${oc.env:SCRATCH,/tmp}": None,
    "${oc.decode:${oc.env:SLURM_CPUS_PER_TASK}}": None,
    "${oc.env:SCRATCH,${data.root}}": None,
    "${model.name}_${now:%Y}_${.lr}_${hydra:job.name}": None,
    "${oc.env:MY_DATABASE}": "reads the variable MY_DATABASE",
    "${oc.env:SLURM_JWT}": "reads the variable SLURM_JWT",
    "${ oc.env : MY_DATABASE }": "reads the variable MY_DATABASE",
    "${oc.env:HOME,${oc.env:MY_DATABASE}}": "reads the variable MY_DATABASE",
    "${oc.${name}:MY_DATABASE}": "no file may hold",
    "${oc.env:${name}}": "no file may hold",
    "${oc.env:'MY_DATABASE'}": "no file may hold",
    "${oc.decode:${name}{oc.env:MY_DATABASE}}": "no file may hold",
    "${oc.decode:'\\${oc.env:MY_DATABASE}'}": "reads the variable",
    "${oc.create:'{a: 1}'}": "no file may hold",
    "${other.resolver:x}": "no file may hold",
}


@pytest.mark.parametrize("text", READS)
def test_a_file_reads_of_the_environment_what_is_harmless(text: str, tmp_path: Path) -> None:
    said, file = READS[text], tmp_path / "cases.yaml"
    # as JSON, with its escapes: what counts is what YAML makes of them
    escaped = json.dumps(text).replace("$", "\\x24")
    file.write_text(f"mine: {{logger.notes: {escaped}}}\n")
    if said is None:
        assert read_cases(str(file), []).axes.keys() == {"mine"}
        return
    with pytest.raises(ConfigError, match=said) as refusal:
        read_cases(str(file), [])
    assert str(file) in str(refusal.value)
    assert "logger.notes" in str(refusal.value)


def test_a_file_of_options_reads_no_secret_of_the_environment(
    audited: Audited, tmp_path: Path
) -> None:
    texts = {"notes": "logger: {notes: '${oc.env:MY_DATABASE}'}\n"}
    texts |= {"defaults": "defaults: ['/model: ${oc.env:MY_DATABASE}']\n"}
    texts |= {"fine": "logger: {notes: '${oc.env:HOME}'}\n"}
    lines = experiments(tmp_path, {k: f"# @package _global_\n{v}" for k, v in texts.items()})
    typed = ["logger.notes=${oc.env:MY_DATABASE}", "--cfg", "job", "--resolve"]
    *bad, fine, own = audited([*lines, typed], MY_DATABASE="not for others")
    for answer in bad:
        refused("a variable", answer, "MY_DATABASE")
        assert "cfg/experiment/e" in answer["said"]
        assert "not for others" not in answer["said"]
    assert fine["code"] == 0, fine
    assert "not for others" in own["printed"]


@pytest.mark.parametrize("name", sorted(HYDRA_SECTIONS))
def test_a_hydra_section_in_a_saved_config_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"{SAVED}hydra: {HYDRA_SECTIONS[name]}\n")
    with pytest.raises(ConfigError, match="hydra: is a section that no saved config has"):
        read_saved_config(tmp_path)


def test_yaml_that_would_fill_memory_or_make_objects_is_refused(
    audited: Audited, tmp_path: Path
) -> None:
    lines = experiments(
        tmp_path, {k: f"# @package _global_\n{text}" for k, text in YAML_FILES.items()}
    )
    before = {*contents(tmp_path), "hostile_package", "hostile_package/__init__.py"}
    for name, answer in zip(YAML_FILES, audited(lines), strict=True):
        refused(name, answer, "")
        assert answer["did"] == [], (name, answer)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", sorted(YAML_FILES))
def test_saved_configs_of_such_yaml_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(SAVED + YAML_FILES[name])
    with pytest.raises(ConfigError):
        read_saved_config(tmp_path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("notes: ${oc.env:HOME}", "interpolation"),
        ("notes: '${now:%Y}'", "interpolation"),
        ("'${seed}': 1", "interpolation"),
        ("optimizer: {name: sgd, lr: '${seed}'}", "interpolation"),
        ("optimizer: {name: sgd, _target_: os.system}", "_target_"),
        ("model: {name: timm, args: {x: [{_target_: torch.load}]}}", "_target_"),
        ("model: {name: timm, args: {_partial_: true}}", "_partial_"),
        ("_target_: os.system", "_target_"),
        ("defaults: [/hydra/callbacks/evil]", "defaults"),
        ("trainer: ???", "no value"),
        ("nonsense: 1", "no such setting"),
        ("7: 1", "no name"),
        ('task: "a\\0b"', "control characters"),
        ('task: "a\\e[31mb"', "control characters"),
        ("---\nname: second", "documents"),
        ("name: again", "duplicate"),
        ("task: &a {name: plan}", "anchors"),
        ("task: !!str plan", "anchors and tags"),
    ],
)
def test_a_saved_config_holds_plain_values_alone(line: str, said: str, tmp_path: Path) -> None:
    base = "".join(x for x in SAVED.splitlines(True) if x.split(":")[0] != line.split(":")[0])
    (tmp_path / "config.yaml").write_text((SAVED if line == "name: again" else base) + line + "\n")
    with pytest.raises(ConfigError, match=said):
        read_saved_config(tmp_path)


@pytest.mark.parametrize(
    "name", ["../../x", "/tmp/x", "a/b", "..", "", ".hidden", "<b>", "a" * 101]
)
def test_a_saved_name_stays_in_its_folder(name: str, tmp_path: Path) -> None:
    text = SAVED.replace("name: smoke", f"name: '{name}'", 1)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match="folder name"):
        read_saved_config(tmp_path)


def test_a_saved_config_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(SAVED.replace("lr: 0.1", "lr: 1e-3"))
    found = read_saved_config(tmp_path)
    assert found == read_saved_config(tmp_path / "config.yaml")
    assert found["optimizer"]["lr"] == 1e-3
    assert found["model"]["widths"] == [8]


def test_aliases_within_reason_are_read_in_files_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("a: &a {x: 1, y: [1, 2]}\nb: *a\nc: {<<: *a}\n")
    assert yaml.safe_load(read_yaml_text(file))["c"] == {"x": 1, "y": [1, 2]}


def test_a_saved_config_does_not_choose_where_data_is_downloaded(
    compose: Any, tmp_path: Path
) -> None:
    config = compose("data=mnist", f"data.root={tmp_path / 'there'}")
    with pytest.raises(ConfigError, match=r"data\.root"):
        refuse_writing(config, [])
    refuse_writing(config, ["data.root"])
    (tmp_path / "there" / "MNIST" / "raw").mkdir(parents=True)
    refuse_writing(config, [])


def png_bomb() -> bytes:
    """A PNG of a hundred kilobytes that stands for 60,000 × 60,000 pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(20_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows)


def hostile_files(folder: Path) -> None:
    """The files that BUILT names."""
    evil = pickle.dumps({"weight": Evil()})
    for name in ("raw.pt", "raw.safetensors", "evil.parquet"):
        (folder / name).write_bytes(evil)
    torch.save({"model": torch.zeros(1), "x": Evil()}, folder / "zip.pt")
    (folder / "run" / "checkpoints").mkdir(parents=True)
    (folder / "zip.pt").rename(folder / "run" / "checkpoints" / "best.pt")
    torch.save({"model": torch.zeros(1), "x": Evil()}, folder / "zip.pt")
    with zipfile.ZipFile(folder / "script.pt", "w") as archive:
        archive.writestr("script/constants.pkl", evil)
        archive.writestr("script/data.pkl", evil)
        archive.writestr("script/code/__torch__.py", "import os\n")
        archive.writestr("script/version", "3\n")
    (folder / "header.safetensors").write_bytes(b"\xff" * 7 + b"\x7f{" + b"x" * 100)
    (folder / "empty.pt").write_bytes(b"")
    (folder / "bomb.png").write_bytes(png_bomb())
    rows = "".join(f"bomb.png,{label}\n" for label in ("a", "b") * 10)
    (folder / "bomb.csv").write_text(f"path,label\n{rows}")


def only_in_its_folder(did: list[str], folder: Path) -> list[str]:
    """What a command did beside writing to the run folder, which it removed again."""
    mine = (str(folder / "outputs"), "outputs")
    files = ("open ", "os.mkdir ", "os.rename ", "os.remove ", "os.rmdir ")
    own = [d for d in did if d.startswith(files) and d.split(" ", 1)[1].startswith(mine)]
    # shutil.rmtree names what it removes below an open folder
    below = [d for d in did if d.startswith(("os.remove", "os.rmdir")) and "/" not in d]
    return [d for d in did if d not in own and d not in below]


@pytest.mark.slow
def test_what_is_refused_while_it_is_built_leaves_nothing(audited: Audited, tmp_path: Path) -> None:
    hostile_files(tmp_path)
    before = {*contents(tmp_path), "hostile_package", "hostile_package/__init__.py"}
    lines = [["logger=none", *line] for line, _ in BUILT.values()]
    warm = (
        "lrexp.build.experiment",
        "lrexp.train.loop",
        "timm",
        "torchvision",
        "datasets",
        "lrexp.data.leaks",
    )
    answers = audited(lines, *warm)
    for (name, (_, word)), answer in zip(BUILT.items(), answers, strict=True):
        refused(name, answer, word)
        assert only_in_its_folder(answer["did"], tmp_path) == [], (name, answer)
    assert contents(tmp_path) == before


def test_wrong_kinds_in_allowed_packages_are_refused(audited: Audited, tmp_path: Path) -> None:
    lines = [["logger=none", "model=custom", f"model.target={name}"] for name in ALLOWED]
    warm = ("lrexp.build.experiment", "lrexp.train.loop", "torch.utils.collect_env")
    allow = {"LREXP_ALLOW_TARGETS": "torch,functools,hostile"}
    lines.append(["logger=none", "model=custom", "model.target=hostile_package.Net"])
    answers = audited(lines, *warm, **allow)
    words = {**ALLOWED, "hostile_package.Net": "not allowed"}  # `hostile` allows no longer name
    for (name, word), answer in zip(words.items(), answers, strict=True):
        refused(name, answer, word)
        assert only_in_its_folder(answer["did"], tmp_path) == [], (name, answer)
    assert contents(tmp_path) == {"hostile_package", "hostile_package/__init__.py"}


def test_a_pickle_in_the_cache_of_pretrained_weights_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lrexp.models.pretrained import pretrained_weights, torchvision_weights

    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    url = torchvision_weights("squeezenet1_1").url
    torch.save({"weight": Evil()}, cache / url.rpartition("/")[2])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="holds objects beside tensors"):
        pretrained_weights("torchvision", "squeezenet1_1", {})
    assert not (tmp_path / "pwned").exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


CALLBACKS = """
from hydra.experimental.callback import Callback

class Mine(Callback):
    def __init__(self, word="x"):
        self.word = word

    def on_job_start(self, config, **kwargs):
        print("my callback", self.word)

def run(command):
    raise AssertionError("called")
"""


def test_the_users_own_callback_runs_where_its_package_is_allowed(
    audited: Audited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mypkg.py").write_text(CALLBACKS)
    own = ["task=plan", "logger=none", "+hydra.callbacks.m._target_=mypkg.Mine"]
    (forbidden,) = audited([own])
    assert "not allowed" in forbidden["said"]
    done, nested, wrong = audited(
        [
            [*own, "+hydra.callbacks.m.word=hello"],
            [*own, "+hydra.callbacks.m.word={_target_: os.system}"],
            ["+hydra.callbacks.m._target_=mypkg.run"],
        ],
        LREXP_ALLOW_TARGETS="mypkg",
    )
    assert done["code"] == 0, done
    assert "my callback hello" in done["printed"]
    assert nested["code"] == wrong["code"] == 2
    assert "plain values" in nested["said"]
    assert "no subclass" in wrong["said"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"folder": "../../x"}, "leads out"),
        ({"folder": "/tmp/x"}, "leads out"),
        ({"folder": 7}, "cannot be read"),
        ({"num": "0"}, "cannot be read"),
        ({"command": ["hydra.callbacks.x._target_=os.system"]}, "no setting"),
        ({"command": ["+hydra.job.env_set.A=b"]}, "no setting"),
        ({"command": ["hydra/launcher=evil"]}, "no setting"),
        ({"command": ["hydra.launcher.setup=[touch pwned]"]}, "no setting"),
        ({"command": ["hydra.launcher.additional_parameters={wrap: x}"]}, "no setting"),
        ({"command": ["hydra.launcher.address=evil"]}, "no setting"),
        ({"command": ["hydra.launcher.partition=a\n#SBATCH --wrap=x"]}, "no setting"),
        ({"command": ["logger.notes=${oc.env:MY_DATABASE}"]}, "reads the variable"),
        ({"command": "seed=1"}, "cannot be read"),
        ({"command": [1]}, "cannot be read"),
        ({"points": []}, "cannot be read"),
        ({"points": {}}, "cannot be read"),
    ],
)
def test_a_sweep_folder_of_others_is_resumed_only_within_itself(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    row = {"num": 0, "folder": "0_x", "case": "", "same_as": None, "overrides": []}
    row |= {"differs": {}, "lacks": []}
    row |= {key: value for key, value in change.items() if key in row}
    saved = {"command": ["seed=0,1"], "first": {}, "points": [row]}
    saved |= {key: value for key, value in change.items() if key in saved}
    (tmp_path / "points.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match=said):
        read_points(tmp_path)


def test_no_secret_is_written_or_shown(audited: Audited, tmp_path: Path) -> None:
    address = "https://user:hunter2secret/@!x@example.org/x"
    quoted = '/sla5hed"and\\qu0ted'
    (tmp_path / "mypkg.py").write_text(
        "import logging, os, torch\n"
        "class Net(torch.nn.Sequential):\n"
        "    def __init__(self, num_classes, **kwargs):\n"
        "        super().__init__(torch.nn.Flatten(), torch.nn.LazyLinear(num_classes))\n"
        "        self(torch.zeros(1, 1, 8, 8))\n"
        "        key = os.environ['WANDB_API_KEY'] + ' ' + os.environ['PGPASSWORD']\n"
        f"        logging.getLogger('mypkg').warning('with %s at {address}', key)\n"
        "    def forward(self, x):\n"
        "        if self.training and torch.is_grad_enabled() and len(x) > 1:\n"
        "            secrets = os.environ['MY_TOKEN'] + os.environ['PGPASSWORD']\n"
        f"            raise OSError(secrets + ' at {address}')\n"
        "        return super().forward(x)\n"
    )
    token = "tok_abcdefghijklmnop"
    line = ["model=custom", "model.target=mypkg.Net", "trainer.epochs=1", "logger.mode=offline"]
    key = SECRET.ljust(40, "0")
    allow = {"LREXP_ALLOW_TARGETS": "mypkg", "WANDB_API_KEY": key, "MY_TOKEN": token}
    allow |= {"PGPASSWORD": quoted}
    (done,) = audited([[*line, "hydra.run.dir=run"]], "wandb", **allow)
    assert done["code"] == 1, done
    sys.modules["wandb"].teardown()  # its writer is through
    written = {f: f.read_bytes() for f in (tmp_path / "run").rglob("*") if f.is_file()}
    assert b"*** *** at https://***@example.org" in written[tmp_path / "run" / "lrexp.log"]
    assert b"***" in written[tmp_path / "run" / "summary.json"]
    for secret in (SECRET, token, "hunter2secret", "sla5hed", "qu0ted"):
        assert secret not in done["said"] + done["printed"]
        holders = [f.name for f, content in written.items() if secret.encode() in content]
        assert not holders, (secret, holders)


def test_files_of_a_run_are_written_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", SECRET)
    write_atomically(tmp_path / "environment.json", f'{{"a": "{SECRET}"}}')
    assert (tmp_path / "environment.json").read_text() == '{"a": "***"}'


def test_secrets_are_told_from_other_values(monkeypatch: pytest.MonkeyPatch) -> None:
    known = "MY_API_KEY GITHUB_TOKEN db_password AWS_SECRET_ACCESS_KEY PGPASSWORD MYSQL_PWD DB_PASS"
    known = f"{known} SSH_PASSPHRASE HTTP_AUTH GITHUB_PAT SENTRY_DSN SLURM_JWT"
    for name in known.split():
        monkeypatch.setenv(name, "abcdefgh-1")
        assert secret_in("x abcdefgh-1 y") == name
        assert redacted("x abcdefgh-1 y") == "x *** y"
        monkeypatch.delenv(name)
    for name, value in {
        "TOKENIZERS_PARALLELISM": "disabled",
        "SSH_KEY": __file__,
        "SSH_AUTH_SOCK": "/tmp/ssh-no/agent.7",
        "OLDPWD": "/home/me/project",
        "MONKEY": "abcdefgh-1",
        "SOME_KEY": "short",
    }.items():
        monkeypatch.setenv(name, value)
        assert secret_in(f"x {value} y") == "", name
    for plain in ("https://host:80/a@b and me@host", '{"a":"http://host:80","b":"me@x"}'):
        assert redacted(plain) == plain
    assert redacted("pg://me:a/b@c:d!@host/db, x@y") == "pg://***@host/db, x@y"
    assert redacted("https://ghp_0123456789abcdefghij@host/x") == "https://***@host/x"
    monkeypatch.setenv("PGPASSWORD", "/like'a\"path\\ä")  # which is none
    for written in (json.dumps, repr, "pg://{}".format, strict_json):
        assert "like" not in redacted(written("/like'a\"path\\ä"))


def test_there_are_more_than_a_hundred_hostile_inputs() -> None:
    groups = (HYDRA_SECTIONS, YAML_FILES, LINES, BUILT, ALLOWED)
    assert sum(map(len, groups)) > 100


def test_the_watch_sees_what_it_must_refuse(audited: Audited, tmp_path: Path) -> None:
    (tmp_path / "mypkg.py").write_text(
        "import hostile_package, os, socket, subprocess, torch\n"
        "open('written', 'w').close()\n"
        "subprocess.run(['true'])\n"
        "os.system('true')\n"
        "try:\n    socket.create_connection(('127.0.0.1', 9), 0.1)\nexcept OSError:\n    pass\n"
        "class Net(torch.nn.Module):\n    pass\n"
    )
    line = ["logger=none", "model=custom", "model.target=mypkg.Net"]
    allow = {"LREXP_ALLOW_TARGETS": "mypkg"}
    did = " ".join(only_in_its_folder(audited([line], **allow)[0]["did"], tmp_path))
    for seen in ("open written", "subprocess.Popen", "os.system", "socket.connect", "import host"):
        assert seen in did


def test_arrays_of_the_package_are_read_without_pickle() -> None:
    """numpy's own default, on which the embedded digits rely."""
    with np.load(ROOT / "lrexp" / "data" / "digits.npz") as file:
        assert all(file[name].dtype != object for name in file.files)
