"""`lrexp confirm`: what is fixed before anything is trained, what may change, and going on."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_lines import main_in, run, start
from confirmed_runs import CLASSES, write_confirmed
from processes import HUNG_S
from synthetic_sweep import outcome, went_wrong, write_sweep

from lrexp.commands.confirm import parser
from lrexp.config.errors import RunFailedError, UserError
from lrexp.runs.scores import read_tried
from lrexp.runs.sweep import read_sweep
from lrexp.session.confirm import (
    Asked,
    confirm,
    extended,
    fresh_seeds,
    make_protocol,
    read_protocol,
    sweep_of,
)
from lrexp.session.trials import Trials, loader_for, train_trials

AXES = {"lr_policy": ["uniform", "lp_ft"], "optimizer.lr": [0.03, 0.1], "seed": [0, 1]}


def swept(folder: Path, result: Callable[[dict[str, Any]], Any] | None = None, **more: Any) -> Path:
    classes = {"data": {"classes": CLASSES | more.pop("classes", {})}}
    given = result or (lambda chosen: outcome(chosen["optimizer.lr"], **classes))
    return write_sweep(folder / "s", more.pop("axes", AXES), given, **more)


# --- The protocol --------------------------------------------------------------------------------


def test_seeds_are_the_same_for_all_and_none_that_the_sweep_used(tmp_path: Path) -> None:
    axes = AXES | {"seed": [0, 1001]}
    plan = make_protocol(read_sweep(swept(tmp_path, axes=axes)), Asked(seeds=3))
    assert plan.seeds == (1000, 1002, 1003)
    more = extended(plan, Asked(seeds=5), tmp_path, [0, 1001, 1004])
    assert more.seeds == (1000, 1002, 1003, 1005, 1006), "the first ones stay"
    assert more.looks == (3, 5)
    assert fresh_seeds(2, ["a", None, [1000], 1000]) == (1001, 1002)


def test_a_protocol_is_the_same_after_it_was_saved(tmp_path: Path) -> None:
    plan = make_protocol(read_sweep(swept(tmp_path)), Asked(margin=0.01))
    (tmp_path / "protocol.json").write_text(plan.text())
    assert read_protocol(tmp_path) == plan
    assert (plan.baseline, plan.metric, plan.margin, len(plan.seeds)) == (
        "uniform", "accuracy", 0.01, 10,
    )  # fmt: skip
    assert [one.rate for one in plan.contenders] == [0.03, 0.03]
    (tmp_path / "protocol.json").write_text(plan.text().replace('"seeds"', '"seed"'))
    with pytest.raises(UserError, match=r"protocol\.json cannot be read"):
        read_protocol(tmp_path)


def test_uneven_classes_are_known_before_anything_is_trained(tmp_path: Path) -> None:
    sweep = read_sweep(swept(tmp_path, classes={"uneven": True}))
    assert make_protocol(sweep, Asked()).metric == "balanced_accuracy"
    assert make_protocol(sweep, Asked(metric="accuracy")).metric == "accuracy"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Asked(metric="balanced_accuracy"), "--metric balanced_accuracy: .* begun with accuracy"),
        (Asked(margin=0.01), r"--margin 0\.01: .* begun with 0\.02"),
        (Asked(baseline="lp_ft"), "--baseline lp_ft: .* begun with uniform"),
        (Asked(seeds=9), "--seeds 9: .* begun with 10; more can be added"),
    ],
)
def test_what_was_fixed_cannot_change(tmp_path: Path, asked: Asked, said: str) -> None:
    plan = make_protocol(read_sweep(swept(tmp_path)), Asked())
    same = Asked(metric="accuracy", margin=0.02, baseline="uniform", seeds=10)
    assert extended(plan, same, tmp_path, []) == plan
    with pytest.raises(UserError, match=said):
        extended(plan, asked, tmp_path, [])


@pytest.mark.parametrize(
    ("status", "ended"), [("diverged", True), ("failed", True), ("interrupted", False), ("", False)]
)
def test_a_sweep_that_has_not_ended_is_not_confirmed(
    tmp_path: Path, status: str, ended: bool
) -> None:
    def result(chosen: dict[str, Any]) -> dict[str, Any] | None:
        if chosen["seed"] or chosen["optimizer.lr"] > 0.05:
            return outcome(0.3)
        return went_wrong(status) if status else None

    sweep = read_sweep(swept(tmp_path, result))
    if ended:
        assert [one.rate for one in make_protocol(sweep, Asked()).contenders] == [0.1, 0.1]
    else:
        with pytest.raises(UserError, match=r"(?s)2 of 8 points have no result.*launcher\.resume="):
            make_protocol(sweep, Asked())


def test_the_folder_of_confirmed_runs_means_its_sweep(tmp_path: Path) -> None:
    folder = swept(tmp_path)
    beside = folder.with_name("s-confirm")
    shutil.copytree(folder, beside)
    assert sweep_of(str(beside)) == beside, "a sweep may be called so"
    (beside / "protocol.json").touch()
    assert sweep_of(str(beside)) == folder
    with pytest.raises(UserError, match="is no sweep: a sweep is what lrexp -m makes"):
        sweep_of(str(next(folder.glob("0_*"))))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seeds", "2"], "at least 3 seeds"),
        (["--seeds", "many"], "invalid whole number value: 'many'"),
        (["--margin", "2"], r"0\.02 is 2 points"),
        (["--margin", "nan"], r"0\.02 is 2 points"),
        (["--metric", "f1"], "invalid choice: 'f1'"),
    ],
)
def test_words_that_mean_nothing(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        parser().parse_args(["latest", *words])


@pytest.mark.parametrize("override", ["hydra.run.dir=x", "~hydra.job", "name=${oc.env:HOME}"])
def test_overrides_of_a_file_are_those_of_an_experiment(tmp_path: Path, override: str) -> None:
    loader = loader_for(swept(tmp_path))
    trials = Trials(tmp_path / "c", {"uniform": [override]}, {"uniform": [1000]})
    with pytest.raises(UserError):
        train_trials(loader, trials, lambda line: None)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(("ended", "error"), [("failed", RunFailedError), ("missing", UserError)])
def test_nothing_is_concluded_while_a_run_has_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: str, error: type[Exception]
) -> None:
    folder, said = swept(tmp_path), list[str]()
    plan = make_protocol(read_sweep(folder), Asked(seeds=3))
    labels = np.arange(9) % 3
    right = {name: np.ones((3, 9), bool) for name in ("uniform", "lp_ft")}
    lost = {("lp_ft", 1001): ended}
    beside = write_confirmed(tmp_path / "s-confirm", right, labels, lost=lost)
    (beside / "protocol.json").write_text(plan.text())
    monkeypatch.setattr("lrexp.session.confirm.train_trials", lambda *given: None)
    with pytest.raises(error) as raised:
        confirm(str(folder), Asked(), said.append)
    told = str(raised.value)
    assert "nothing is concluded: 1 run has no result" in told
    assert f"go on with: lrexp confirm {folder}" in told
    assert "confirm 2 configurations on 3 fresh seeds (1000 to 1002): 6 runs" in said


def test_a_confirmation_goes_on_where_it_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, how, said = swept(tmp_path), "hydra/launcher=joblib", list[str]()
    beside, launched = tmp_path / "s-confirm", list[Any]()

    def train(loader: Any, trials: Trials, say: Any, begin: Callable[[], object]) -> None:
        beside.mkdir(exist_ok=True)
        begin()
        if not launched:
            saved = json.loads((folder / "points.json").read_text()) | {"command": [*trials.how]}
            (beside / "points.json").write_text(json.dumps(saved))
        launched.append([*trials.how])
        raise KeyboardInterrupt

    monkeypatch.setattr("lrexp.session.confirm.train_trials", train)
    for words in ((how,), (), ("hydra/launcher=ray",)):
        with pytest.raises(KeyboardInterrupt):
            confirm(str(folder), Asked(how=words), said.append)
    assert launched == [[how], [how], ["hydra/launcher=ray"]]
    told = [line for line in said if line.startswith("go on")]
    named = f"go on  lrexp confirm {folder}"
    assert told == [f"{named} {how}", named, f"{named} hydra/launcher=ray"]


def test_where_every_run_failed_it_is_said_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = swept(tmp_path)
    plan = make_protocol(read_sweep(folder), Asked(seeds=3))
    names = ("uniform", "lp_ft")
    right = {name: np.ones((3, 9), bool) for name in names}
    lost = {(name, 1000 + i): "failed" for name in names for i in range(3)}
    beside = write_confirmed(tmp_path / "s-confirm", right, np.arange(9) % 3, lost=lost)
    (beside / "protocol.json").write_text(plan.text())
    monkeypatch.setattr("lrexp.session.confirm.train_trials", lambda *given: None)
    with pytest.raises(RunFailedError) as raised:
        confirm(str(folder), Asked(), list[str]().append)
    assert f"go on with: lrexp confirm {folder}" in str(raised.value)


# --- Whole programs ------------------------------------------------------------------------------

SWEEP = (
    "-m", "experiment=smoke", "model=mlp", "data.limit=300", "data.leak_check=skip",
    "trainer.device=cpu", "trainer.threads=1", "hydra.launcher.executor=serial",
    "lr_policy=uniform,freeze_backbone", "optimizer.lr=0.05,0.2", "seed=0", "hydra.sweep.dir=s",
)  # fmt: skip


@pytest.fixture(scope="module")
def small(made_once: Callable[..., Path]) -> Path:
    """A sweep of four points."""

    def make(folder: Path) -> None:
        assert main_in(folder, *SWEEP) == 0

    return made_once("sweep to confirm", make)


def confirmed(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "s-confirm" / "comparison.json").read_text())


@pytest.mark.slow
def test_a_sweep_is_confirmed_and_extended(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    assert main_in(tmp_path, "confirm", "s", "--seeds", "3", "--margin", "0.05") == 0
    said = capsys.readouterr().out
    assert "confirm 2 configurations on 3 fresh seeds (1000 to 1002): 6 runs" in said
    found = confirmed(tmp_path)
    assert found["seeds"] == [1000, 1001, 1002]
    assert (found["split"], found["metric"], found["margin"]) == ("test", "accuracy", 0.05)
    assert " ".join(said.split()).find(" ".join(found["sentence"].split())) > 0
    tried = read_tried(tmp_path / "s-confirm")
    for row in found["rows"]:
        ran = [tried.tries[row["name"]][seed].folder for seed in found["seeds"]]
        tests = [
            json.loads((tmp_path / "s-confirm" / one / "summary.json").read_text())["test"]
            for one in ran
        ]
        assert row["per_seed"] == pytest.approx([test["accuracy"] for test in tests])
        assert row["loss"]["mean"] == pytest.approx(sum(t["loss"] for t in tests) / 3, rel=1e-4)
    plan = read_protocol(tmp_path / "s-confirm")
    assert plan is not None
    summaries = [*(tmp_path / "s-confirm").glob("*/summary.json")]
    before = [file.stat().st_mtime_ns for file in summaries]
    assert len(before) == 6

    assert main_in(tmp_path, "confirm", "s", "--margin", "0.02") == 2
    assert "begun with 0.05" in capsys.readouterr().err
    assert main_in(tmp_path, "confirm", "s-confirm", "--seeds", "4") == 0
    said = capsys.readouterr().out
    assert "resume 6 points are done, 2 to run" in said
    assert "added after a look (3, then 4)" in " ".join(said.split())
    assert confirmed(tmp_path)["seeds"] == [1000, 1001, 1002, 1003]
    after = [file.stat().st_mtime_ns for file in summaries]
    assert before == after, "nothing was trained twice"
    assert read_protocol(tmp_path / "s-confirm") == replace(
        plan, seeds=(*plan.seeds, 1003), looks=(3, 4)
    )


@pytest.mark.slow
def test_a_killed_confirmation_goes_on_with_the_same_command(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    words = ("confirm", "s", "--seeds", "3")
    program = start(tmp_path, *words)
    assert program.stdout is not None
    for line in program.stdout:
        if line.startswith("2/6"):
            break
    program.send_signal(signal.SIGKILL)
    program.communicate(timeout=HUNG_S)
    folder = tmp_path / "s-confirm"
    assert read_protocol(folder) is not None, "it was there before the first run"
    assert not (folder / "comparison.json").exists()
    done = {p.name for p in folder.glob("*/summary.json")}
    assert done
    code, said = run(tmp_path, *words)
    assert code == 0, said
    assert "points are done" in said
    assert len(confirmed(tmp_path)["seeds"]) == 3


@pytest.mark.slow
def test_other_settings_than_those_that_ran_are_refused(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a YAML file or a folder of data has become since is not what was chosen."""
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "s" / "points.json"
    file.write_text(file.read_text().replace('"data.limit": 300', '"data.limit": 301'))
    assert main_in(tmp_path, "confirm", "s", "--seeds", "3") == 2
    assert "data.limit was 301 and is 300; nothing was run" in capsys.readouterr().err
    assert not (tmp_path / "s-confirm").exists()
