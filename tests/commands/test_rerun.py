"""Saved runs run again: what is rebuilt, what is refused, and what --check says."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from processes import HUNG_S
from unchanged import nothing_changed

from lrexp.__main__ import main
from lrexp.config.check import check
from lrexp.config.compose import CONFIG_NAME, CheckedLoader, without_hydra
from lrexp.config.errors import ConfigError
from lrexp.config.names import conf_folder
from lrexp.config.recompose import SavedLoader
from lrexp.report.run.page import write_run_report
from lrexp.runs.differences import read_run
from lrexp.runs.recheck import CANNOT_TELL, DIFFER, IDENTICAL, OTHER_CONFIG, verdict
from lrexp.runs.sweep import read_sweep
from lrexp.session.hydra import hydra_of

GOLDEN = Path(__file__).parents[1] / "golden_run"
SMOKE = ("experiment=smoke", "trainer.device=cpu")


def resolved(loader: CheckedLoader, *overrides: str) -> DictConfig:
    """What a run would save as its config.yaml, but for its id."""
    with hydra_of(loader):
        composed = loader.load_configuration(CONFIG_NAME, list(overrides), RunMode.RUN)
        loader.check(composed, list(overrides))
        return check(without_hydra(composed))[0]


def saved_of(config: DictConfig) -> dict[str, Any]:
    """The plain values that are read back from a saved config."""
    return yaml.safe_load(OmegaConf.to_yaml(config))


def again(saved: dict[str, Any], *overrides: str) -> DictConfig:
    return resolved(SavedLoader(saved, Path("config.yaml")), *overrides)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    with nothing_changed():  # its log is closed
        assert main([*SMOKE, f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.fixture
def run(smoke: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run, in a fresh working folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(smoke, tmp_path / "copy"))


def runs_in(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("outputs/*/*/summary.json"))


def edit(file: Path, change: Callable[[Any], None]) -> None:
    is_yaml = file.suffix == ".yaml"
    content = yaml.safe_load(file.read_text()) if is_yaml else json.loads(file.read_text())
    change(content)
    file.write_text(yaml.safe_dump(content) if is_yaml else json.dumps(content))


def in_fresh_process(*arguments: str, cwd: Path, threads: str = "1") -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "lrexp", "rerun", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads},
        capture_output=True,
        text=True,
        timeout=HUNG_S,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_run_is_identical_in_a_fresh_process_and_another_folder(
    smoke: Path, tmp_path: Path
) -> None:
    code, said = in_fresh_process(str(smoke), "--check", cwd=tmp_path, threads="2")
    assert code == IDENTICAL, said
    assert "identical: 2 epochs, final weights: equal bit for bit" in said
    assert "code, packages and machine are as they were" in said  # threads too, as recorded
    (new,) = runs_in(tmp_path)
    assert (new / "metrics.jsonl").exists()
    assert (new / ".hydra" / "overrides.yaml").read_text().strip() == "[]"


def test_a_rerun_is_a_run_of_its_own_with_the_same_settings(run: Path) -> None:
    assert main(["rerun", str(run)]) == 0
    (new,) = runs_in(run.parent)
    was, now = (yaml.safe_load((f / "config.yaml").read_text()) for f in (run, new))
    assert new.name.endswith(now["run_id"])
    assert was.pop("run_id") != now.pop("run_id")
    assert was == now
    assert (run.parent / "outputs/latest").resolve() == new
    ids = [json.loads((f / "summary.json").read_text())["config_id"] for f in (run, new)]
    assert ids[0] == ids[1]


def test_points_of_a_grid_are_identical_when_run_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = ["-m", *SMOKE, "optimizer.lr=0.05,0.02", "hydra.launcher.executor=serial"]
    assert main([*sweep, "hydra.sweep.dir=sweep"]) == 0
    (point,) = Path("sweep").glob("1_*")
    assert main(["rerun", str(point), "--check"]) == IDENTICAL
    assert "equal bit for bit" in capsys.readouterr().out
    assert main(["rerun", "sweep"]) == 2
    assert f"it is a sweep: give one of them: 0_optimizer.lr_0.05, {point.name}" in (
        capsys.readouterr().err
    )


@pytest.mark.slow
def test_points_of_the_pool_are_identical_with_the_recorded_threads(
    lrexp: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    sweep = ("-m", *SMOKE, "optimizer.lr=0.05,0.02", "hydra.launcher.executor=pool")
    done = lrexp(*sweep, "hydra.launcher.workers=2", "hydra.sweep.dir=sweep", OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    (point,) = (tmp_path / "sweep").glob("0_*")
    code, said = in_fresh_process(str(point), "--check", cwd=tmp_path)
    assert code == IDENTICAL, said


def stacked_point(*overrides: str) -> Path:
    """A point of a sweep whose points trained together; sweeps of the same name are one."""
    sweep = ["-m", *SMOKE, "logger=none", *overrides, "hydra.launcher.executor=stacked"]
    assert main([*sweep, "hydra.sweep.dir=sweep"]) == 0
    (point,) = Path("sweep").glob("0_*")
    assert json.loads((point / "summary.json").read_text())["executor"] == "stacked"
    return point


@pytest.mark.slow
def test_a_stacked_point_is_held_to_what_rounding_does_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    point = stacked_point("optimizer.lr=0.05,0.02")
    metrics, weights = point / "metrics.jsonl", point / "checkpoints/last.pt"
    honest = metrics.read_text(), weights.read_bytes()
    assert main(["rerun", str(point), "--check"]) == IDENTICAL
    said = capsys.readouterr().out
    assert "trained stacked" in said
    assert "allowed is 10 × what a twin differs by" in said
    assert "identical within what is allowed" in said
    assert len(runs_in(tmp_path)) == 1  # the twin leaves nothing
    # Less than a per mille of one loss, and one weight in three thousand.
    rows = [json.loads(line) for line in honest[0].splitlines()]
    rows[1]["val/loss"] += 1e-3
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["rerun", str(point), "--check"]) == DIFFER
    said = capsys.readouterr().out
    assert "numbers differ by more than rounding: val/loss" in said
    metrics.write_text(honest[0])
    last = torch.load(weights, weights_only=True)
    last["model"]["conv.weight"][0, 0, 0, 0] += 1e-2
    torch.save(last, weights)
    assert main(["rerun", str(point), "--check"]) == DIFFER
    assert "final weights differ by" in capsys.readouterr().out


@pytest.mark.slow
def test_of_a_stacked_point_that_rounding_leads_elsewhere_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    many = ("trainer.epochs=3", "trainer.limit_train_batches=null", "data.limit=300")
    point = stacked_point("optimizer.lr=0.6", *many, "data.batch_size=8", "seed=0,1")
    assert main(["rerun", str(point), "--check"]) == CANNOT_TELL
    said = capsys.readouterr().out
    assert "cannot tell whether it is reproduced: from epoch" in said
    assert "rounding alone leads such a run elsewhere" in said


def test_check_names_the_first_epoch_the_metric_and_the_likely_cause(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows[1]["val/loss"] += 0.25
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    edit(run / "environment.json", lambda facts: facts["packages"].update(torch="1.0"))
    assert main(["rerun", str(run), "--check"]) == DIFFER
    said = capsys.readouterr().out
    assert "same config, numbers differ, first in epoch 2" in said
    (line,) = [line for line in said.splitlines() if line.lstrip().startswith("val/loss ")]
    assert line.split()[1:3] == ["0.25", "2"]
    assert f"cause  packages.torch: 1.0 → {torch.__version__.partition('+')[0]}" in said


def test_check_sees_one_changed_bit_of_the_weights(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(run / "summary.json", lambda summary: summary.pop("weights_hash"))  # of an older run
    assert main(["rerun", str(run), "--check"]) == IDENTICAL
    last = torch.load(run / "checkpoints/last.pt", weights_only=True)
    value = last["model"]["conv.bias"][0]
    last["model"]["conv.bias"][0] = torch.nextafter(value, torch.tensor(1.0))
    torch.save(last, run / "checkpoints/last.pt")
    assert main(["rerun", str(run), "--check"]) == DIFFER
    assert "final weights differ by" in capsys.readouterr().out


def test_another_config_is_said_and_not_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rerun", str(run), "optimizer.lr=0.1", "--check"]) == OTHER_CONFIG
    said = capsys.readouterr().out
    assert "config optimizer.lr: 0.05 → 0.1" in said
    assert "different config" in said
    edit(run / "config.yaml", lambda config: config["optimizer"].update(lr=0.1))
    assert main(["rerun", str(run), "--check"]) == OTHER_CONFIG
    assert "edited after the run" in capsys.readouterr().out
    assert not (run.parent / "outputs").exists()


def test_where_a_run_runs_is_no_other_config(run: Path) -> None:
    asked = ["trainer.threads=1", "data.workers=0", "data.in_memory=true", "name=elsewhere"]
    assert main(["rerun", str(run), *asked, "--check"]) == IDENTICAL


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four epochs that was stopped behind its first."""
    from lrexp.tasks.train import Training

    row, folder = Training.row, tmp_path_factory.mktemp("stopped") / "run"

    def then_stop(run: Training, values: dict[str, float]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        row(run, values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "row", then_stop)
        command = [*SMOKE, "trainer.epochs=4", "scheduler=cosine", "logger=none"]
        assert main([*command, f"hydra.run.dir={folder}"]) == 143
    return folder


@pytest.mark.parametrize("status", ["interrupted", "running"])
def test_a_stopped_run_is_compared_as_far_as_it_came_and_no_further(
    stopped: Path,
    status: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path(shutil.copytree(stopped, "copy"))
    edit(run / "summary.json", lambda summary: summary.update(status=status))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "st')
    assert main(["rerun", str(run), "--check"]) == IDENTICAL
    said = capsys.readouterr().out
    word = "killed" if status == "running" else status  # nobody holds its lock
    assert f"rerun  copy ({word})" in said
    assert f"check  the run was {word} after epoch 1: this one stops there too" in said
    assert f"identical: 1 epoch, all that it had when it was {word}, weights of epoch 1" in said
    (new,) = runs_in(tmp_path)
    assert len((new / "metrics.jsonl").read_text().splitlines()) == 1
    summary = json.loads((new / "summary.json").read_text())
    assert summary["status"] == "interrupted"  # it can go on
    if status == "running":
        return
    last = torch.load(run / "checkpoints/last.pt", weights_only=True)
    last["model"]["conv.bias"][0] += 1e-3
    torch.save(last, run / "checkpoints/last.pt")
    assert main(["rerun", str(run), "--check"]) == DIFFER
    assert "weights of epoch 1 differ" in capsys.readouterr().out


def test_a_run_stopped_before_its_first_row_has_nothing_to_compare(
    stopped: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path(shutil.copytree(stopped, "copy"))
    (run / "metrics.jsonl").write_text("")
    assert main(["rerun", str(run), "--check"]) == 2
    assert "interrupted before its first epoch had ended" in capsys.readouterr().err
    assert not Path("outputs").exists()


def test_check_trains_anew_whatever_the_saved_config_goes_on_with(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(run / "config.yaml", lambda config: config["trainer"].update(resume="auto"))
    assert main(["rerun", str(run), "--check", f"hydra.run.dir={run}"]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main(["rerun", str(run), "--check", "trainer.resume=auto"]) == 2
    assert "--check trains anew" in capsys.readouterr().err
    again = ["--check", "hydra.run.dir=again"]
    assert main(["rerun", str(run), *again]) == IDENTICAL
    assert main(["rerun", str(run), *again]) == 2  # the numbers there may be of other code


def test_an_edited_seed_is_another_config(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(run / "config.yaml", lambda config: config.update(seed=5))
    assert main(["rerun", str(run), "--check"]) == OTHER_CONFIG
    assert "edited after the run" in capsys.readouterr().out


def test_what_changed_when_a_run_went_on_is_a_likely_cause(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(run / "environment.json", lambda facts: facts["packages"].update(numpy="1.0"))
    assert main(["rerun", str(run), "--resume", "trainer.epochs=3", "optimizer.lr=0.01"]) == 0
    said = capsys.readouterr().out
    assert "change optimizer.lr: 0.05 → 0.01" in said
    assert "change packages.numpy: 1.0 → " in said
    assert main(["rerun", str(run), "--check"]) == DIFFER
    said = capsys.readouterr().out
    assert "cause  it went on after epoch 2 with optimizer.lr: 0.05 → 0.01" in said
    assert "cause  it went on after epoch 2 with packages.numpy: 1.0 → " in said
    assert "cause  nothing" not in said


def test_a_run_goes_on_with_the_threads_that_it_had(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_num_threads()
    edit(run / "environment.json", lambda facts: facts.update(threads=1))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "2")
    torch.set_num_threads(2)
    try:
        assert main(["rerun", str(run), "--resume", "trainer.epochs=3"]) == 0
        assert json.loads((run / "environment.json").read_text())["threads"] == 1
        assert "change threads" not in capsys.readouterr().out
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("plan.csv", b"\xff\xfe\x00"),
        ("config.yaml", b"name: smoke\ntrainer: cut\ndata: cut\n"),
        ("metrics.jsonl", b"[" * 100_000),
        ("metrics.jsonl", b'{"epoch": 1, "val/loss": 1' + b"0" * 400 + b"}\n"),
        ("summary.json", b'{"members": "x", "status": [1], "best": 7, "resumed": [3]}'),
    ],
)
def test_damaged_files_of_a_run_are_no_crash(
    run: Path, file: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / file).write_bytes(content)
    assert main(["compare", str(run), str(GOLDEN)]) in (0, 2)
    assert "HYDRA_FULL_ERROR" not in capsys.readouterr().err


def test_what_a_run_says_does_not_reach_the_terminal_as_commands(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(run / "summary.json", lambda summary: summary.update(status="\x1b[31mfine\x07"))
    edit(run / "environment.json", lambda facts: facts.update(os="\x1b]0;title\x07"))
    assert main(["compare", str(run), str(GOLDEN)]) == 0
    assert main(["rerun", str(run), "--check", "optimizer.lr=7"]) == OTHER_CONFIG
    said = capsys.readouterr().out
    assert "fine" in said
    assert "\x1b" not in said
    assert "\x07" not in said


def test_a_lone_config_runs_and_cannot_be_checked(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lone = run.parent / "mailed.yaml"
    shutil.copy(run / "config.yaml", lone)
    assert main(["rerun", str(lone), "--check"]) == 2
    assert "came without numbers" in capsys.readouterr().err
    assert main(["rerun", str(lone)]) == 0
    (new,) = runs_in(run.parent)
    assert [json.loads((f / "summary.json").read_text())["weights_hash"] for f in (run, new)] == [
        json.loads((run / "summary.json").read_text())["weights_hash"]
    ] * 2


def test_an_artifact_is_checked_by_its_weights(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = run.parent / "smoke-abc:v0"
    artifact.mkdir()
    for name in ("config.yaml", "plan.csv", "checkpoints/best.pt"):
        shutil.copy(run / name, artifact)
    assert main(["rerun", str(artifact), "--check"]) == IDENTICAL
    assert "identical: best weights: equal bit for bit" in capsys.readouterr().out


def test_best_weights_are_held_against_best_weights(run: Path) -> None:
    """Where another epoch was the last, its weights are others."""
    shutil.copytree(run, artifact := run.parent / "artifact")
    for name in ("summary.json", "metrics.jsonl", "checkpoints/last.pt"):
        (artifact / name).unlink()
    last = torch.load(run / "checkpoints/last.pt", weights_only=True)
    last["model"]["conv.bias"][0] += 1
    torch.save(last, run / "checkpoints/last.pt")
    code, lines = verdict(read_run(str(artifact)), read_run(str(run)))
    assert (code, lines) == (IDENTICAL, ["check  identical: best weights: equal bit for bit"])
    best = torch.load(run / "checkpoints/best.pt", weights_only=True)
    best["model"]["conv.bias"][0] += 1
    torch.save(best, run / "checkpoints/best.pt")
    code, lines = verdict(read_run(str(artifact)), read_run(str(run)))
    assert code == DIFFER
    assert "best weights differ by" in "\n".join(lines)


def test_groups_are_selected_on_top_of_saved_values() -> None:
    saved = saved_of(resolved(CheckedLoader(), "trainer.epochs=7", "model=mlp", "optimizer.lr=0.3"))
    saved["data"]["normalize"] = {"mean": [0.3], "std": [0.9], "chosen": "auto"}
    on_saved = partial(resolved, SavedLoader(saved, Path("config.yaml")))
    config = on_saved("lr_policy=freeze_backbone", "lr_policy.unfreeze_last=1")
    fresh = resolved(CheckedLoader(), "lr_policy=freeze_backbone", "lr_policy.unfreeze_last=1")
    assert config.lr_policy == fresh.lr_policy
    rest = {key: value for key, value in saved_of(config).items() if key != "lr_policy"}
    assert rest == {key: value for key, value in saved.items() if key != "lr_policy"}
    frozen_out = on_saved("lr_policy=freezeout")
    assert frozen_out.lr_policy.epochs == 7  # ${trainer.epochs}, of the saved trainer
    recipe = on_saved("experiment=finetune_digits")
    assert recipe.model.name == "mlp"
    assert recipe.data.classes == [5, 6, 7, 8, 9]
    assert recipe.name == "finetune_digits"
    assert on_saved("experiment=smoke").trainer.epochs == 2  # it chooses another trainer
    assert on_saved("experiment=finetune_digits", "data.limit=50").data.limit == 50


OPTIONS = {
    group: sorted(file.stem for file in (conf_folder() / group).glob("*.yaml"))
    for group in ("lr_policy", "scheduler", "optimizer", "loss", "trainer", "logger", "model")
}
NEEDS = {
    "lr_policy=per_layer": ("lr_policy.rules=[{match: 'conv.*', scale: 0.1}]",),
    "scheduler=torch": ("scheduler.name=StepLR", "scheduler.args={step_size: 2}"),
    "optimizer=torch": ("optimizer.name=NAdam", "optimizer.args.eps=1e-9"),
    "optimizer=timm": ("optimizer.name=lamb",),
    "scheduler=inverse_sqrt": ("scheduler.warmup=0.1",),
    "model=torchvision": ("model.name=resnet18",),
    "model=timm": ("model.name=resnet18",),
    "model=custom": ("model.target=mypkg.nets.Net",),
    **{f"{g}=custom": (f"{g}.target=mypkg.own.it",) for g in ("loss", "lr_policy")},
    "scheduler=custom": ("scheduler.target=mypkg.own.it", "scheduler.args.power=2"),
}


QUICK = ("lr_policy=per_layer", "optimizer=torch", "scheduler=torch")


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param(chosen, marks=() if chosen in QUICK else pytest.mark.slow)
        for chosen in (f"{group}={option}" for group in OPTIONS for option in OPTIONS[group])
    ],
)
def test_a_saved_config_is_rebuilt_as_it_is(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LREXP_ALLOW_TARGETS", "mypkg")
    config = resolved(CheckedLoader(), chosen, *NEEDS.get(chosen, ()), "seed=3", "name=mine")
    loader = SavedLoader(saved_of(config), Path("config.yaml"))
    assert OmegaConf.to_yaml(resolved(loader)) == OmegaConf.to_yaml(config)
    assert not loader.filled


def test_settings_newer_than_the_saved_config_get_their_default() -> None:
    saved = saved_of(resolved(CheckedLoader(), "scheduler=cosine"))
    del saved["trainer"]["stats_every"], saved["scheduler"]["floor"]
    loader = SavedLoader(saved, Path("config.yaml"))
    config = resolved(loader)
    assert config.trainer.stats_every == 16
    assert loader.filled == {"scheduler.floor": 0.0, "trainer.stats_every": 16}


def test_a_newer_setting_of_a_section_within_is_known_too() -> None:
    saved = saved_of(resolved(CheckedLoader(), "lr_policy=per_layer"))
    saved["lr_policy"]["default"] = {}
    loader = SavedLoader(saved, Path("config.yaml"))
    resolved(loader)
    assert {key.rpartition(".")[0] for key in loader.filled} == {"lr_policy.default"}


@pytest.mark.parametrize(
    ("section", "said"),
    [(None, "loss: is missing"), ("x", "loss: is missing"), ({}, r"loss\.name: is missing")],
)
def test_a_saved_section_without_an_option_is_not_told_to_compose(section: Any, said: str) -> None:
    saved = saved_of(resolved(CheckedLoader())) | {"loss": section}
    with pytest.raises(ConfigError, match=said) as caught:
        resolved(SavedLoader(saved, Path("config.yaml")))
    assert "defaults" not in str(caught.value)


WRONG = {
    "optimizer.learning_rate=0.1": "is written optimizer.lr=0.1",
    "trainer.epochs=many": "must be a whole number",
    "trainer.epochs=-1": "must be at least 0",
    "lr_policy=freze_backbone": "did you mean 'freeze_backbone'?",
    "lr_policy.decay=0.5": "it belongs to lr_policy=layerwise_decay",
    "+nonsense=1": "there is no such setting",
    "optimizer.lr=0.1,0.2": "add -m",
    "cases=policies": "cases",
}


@pytest.mark.parametrize(
    "override",
    [pytest.param(o, marks=pytest.mark.slow if i % 2 else ()) for i, o in enumerate(sorted(WRONG))],
)
def test_overrides_are_as_strict_as_on_the_command_line(
    override: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rerun", str(run), override]) == 2
    said = capsys.readouterr().err
    assert WRONG[override] in said
    assert "Traceback" not in said
    assert not (run.parent / "outputs").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("model.weights=~nobody-of-that-name/w.pt", "names the home folder of nobody here"),
        ("trainer.threads=100000000", "must be at least 1 and at most 1024"),
    ],
)
def test_a_saved_value_that_would_end_the_program_is_refused(
    setting: str, said: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    section, key, value = re.split(r"[.=]", setting, maxsplit=2)
    edit(run / "config.yaml", lambda c: c[section].update({key: yaml.safe_load(value)}))
    assert main(["rerun", str(run)]) == 2
    assert said in capsys.readouterr().err
    assert not (run.parent / "outputs").exists()


BROKEN: dict[str, tuple[Callable[[Any], Any], str]] = {
    "unknown setting": (lambda c: c["optimizer"].update(learning_rate=1), "did you mean"),
    "unknown section": (lambda c: c.update(optimiser={}), "there is no such setting"),
    "wrong type": (lambda c: c["trainer"].update(epochs="many"), "must be a whole number"),
    "beyond its limit": (lambda c: c["trainer"].update(epochs=-3), "must be at least 0"),
    "no section": (lambda c: c.pop("lr_policy"), "is missing"),
    "no option": (lambda c: c["lr_policy"].update(name="unifrom"), "did you mean 'uniform'?"),
    "interpolation": (lambda c: c.update(name="${oc.env:HOME}"), "interpolation"),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_saved_config_is_held_to_the_schema_and_its_file_named(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, expected = BROKEN[name]
    edit(run / "config.yaml", change)
    assert main(["rerun", str(run)]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert "config.yaml" in said
    assert not (run.parent / "outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere"], "there is no such run"),
        (["~nobody-of-that-name/run"], "there is no such run"),
        (["x" * 300], "there is no such run"),
        (["latest"], "there is no run in outputs/"),
        (["."], "has no config.yaml"),
        (["copy", "--check", "--resume"], "exclude each other"),
        (["copy", "-m", "--check", "seed=1,2"], "exclude each other"),
        (["copy", "--changed-data"], "goes with --resume"),
        (["copy", "--nonsense"], "--nonsense"),
        ([], "lrexp rerun --help"),
    ],
)
def test_wrong_command_lines_say_what_is_wrong(
    arguments: list[str], expected: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rerun", *arguments]) == 2
    assert expected in capsys.readouterr().err


def test_a_grid_around_a_saved_run(run: Path) -> None:
    asked = ["-m", "seed=0,1", "lr_policy=freeze_backbone", "trainer.epochs=1"]
    assert main(["rerun", str(run), *asked, "hydra.sweep.dir=sweep"]) == 0
    points = [yaml.safe_load(f.read_text()) for f in sorted(Path("sweep").glob("*/config.yaml"))]
    assert [(p["seed"], p["lr_policy"]["name"]) for p in points] == [
        (0, "freeze_backbone"),
        (1, "freeze_backbone"),
    ]
    assert all(p["trainer"]["limit_train_batches"] == 4 for p in points)  # the saved trainer


@pytest.mark.slow
def test_a_grid_around_a_saved_run_says_how_to_make_it_again_and_goes_on(run: Path) -> None:
    edit(run / "config.yaml", lambda config: config["lr_policy"].update(name="freeze_backbone"))
    options = Path("own") / "optimizer"
    options.mkdir(parents=True)
    (options / "mine.yaml").write_text("defaults: [sgd, _self_]\nlr: 0.07\n")
    asked = ["-m", "--config-dir", "own", "seed=0,1", "optimizer=mine", "trainer.epochs=1"]
    assert main(["rerun", str(run), *asked, "hydra.sweep.dir=sweep"]) == 0

    def made() -> list[Any]:
        found = [yaml.safe_load(f.read_text()) for f in sorted(Path("sweep").glob("*/config.yaml"))]
        return [(p["seed"], p["lr_policy"]["name"], p["optimizer"]["lr"]) for p in found]

    whole = [(0, "freeze_backbone", 0.07), (1, "freeze_backbone", 0.07)]
    assert made() == whole
    sweep = read_sweep(Path("sweep").resolve())
    own = str(Path("own").resolve())
    assert sweep.before == ("rerun", "sweep/rerun.yaml", "--config-dir", own)
    made_by = [*sweep.before, "-m", *sweep.command]
    page = Path("sweep/report.html").read_text().replace("<wbr>", "")  # where a line may break
    assert shlex.join(["lrexp", *made_by]) in page
    edit(run / "config.yaml", lambda config: config["lr_policy"].update(name="uniform"))
    shutil.rmtree("sweep/1_seed_1")
    assert main(["-m", "hydra.launcher.resume=sweep"]) == 0
    assert made() == whole
    write_run_report(Path("sweep/1_seed_1"))
    page = Path("sweep/1_seed_1/report.html").read_text()
    assert "python -m lrexp rerun sweep/1_seed_1<" in page  # what was typed is not all of it


@pytest.mark.parametrize("asked", ["trainer.resume=auto", "trainer.resume=never,auto"])
def test_a_grid_refuses_to_go_on_as_a_single_run_does(
    asked: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for of_what in (SMOKE, ["rerun", str(run)]):
        assert main([*of_what, "-m", "seed=0,1", asked, "hydra.sweep.dir=sweep"]) == 2
        assert "hydra.launcher.resume=SWEEP" in capsys.readouterr().err
        assert not Path("sweep").exists()


def test_a_grid_is_made_around_a_run_that_went_on_by_itself(run: Path) -> None:
    edit(run / "config.yaml", lambda config: config["trainer"].update(resume="auto"))
    asked = ["-m", "seed=0", "trainer.epochs=1", "hydra.sweep.dir=sweep"]
    assert main(["rerun", str(run), *asked]) == 0


def test_a_stopped_run_is_resumed_in_its_folder(run: Path) -> None:
    before = (run / "metrics.jsonl").read_text()
    assert main(["rerun", str(run), "--resume", "trainer.epochs=3"]) == 0
    after = (run / "metrics.jsonl").read_text()
    assert after.startswith(before)
    assert [json.loads(line)["epoch"] for line in after.splitlines()] == [1, 2, 3]
    assert runs_in(run.parent) == []


def test_resume_refuses_another_folder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rerun", str(run), "--resume", "hydra.run.dir=other"]) == 2
    assert "goes on in its own folder" in capsys.readouterr().err


def test_the_golden_run_is_reproduced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["rerun", str(GOLDEN), "--check"]) in (IDENTICAL, DIFFER)
    (new,) = runs_in(tmp_path)
    was, now = ((f / "metrics.jsonl").read_text().splitlines() for f in (GOLDEN, new))
    assert len(was) == len(now) == 2
    for old, row in zip(map(json.loads, was), map(json.loads, now), strict=True):
        for metric in old.keys() - {"perf/epoch_s", "perf/examples_per_s"}:
            # another machine may round otherwise, and one image of 359 fall on the other side
            assert row[metric] == pytest.approx(old[metric], rel=1e-3, abs=6e-3), metric
    summaries = [json.loads((f / "summary.json").read_text()) for f in (GOLDEN, new)]
    for key in ("plan_hash", "parameters"):
        assert summaries[0][key] == summaries[1][key], key
    was_read, now_read = (summary["data"] for summary in summaries)
    assert {key: now_read[key] for key in was_read} == was_read
    facts = [json.loads((f / "environment.json").read_text()) for f in (GOLDEN, new)]
    assert facts[0]["fingerprints"] == facts[1]["fingerprints"]


def test_downloads_go_nowhere_that_only_a_saved_config_names(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = resolved(CheckedLoader(), "data=mnist", f"data.root={run.parent}/planted")
    (run / "config.yaml").write_text(OmegaConf.to_yaml(config))
    assert main(["rerun", str(run)]) == 2
    assert "may not choose where to download" in capsys.readouterr().err
    assert not (run.parent / "planted").exists()


def test_the_place_of_a_wrong_value_is_the_saved_file() -> None:
    saved = saved_of(resolved(CheckedLoader()))
    saved["scheduler"]["warmup"] = "soon"
    with pytest.raises(ConfigError) as raised:
        again(saved)
    assert raised.value.place == "config.yaml"
    assert raised.value.given == "soon"
