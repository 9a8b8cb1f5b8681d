"""task=layer_test as a program: what it refuses, and one from its start to a policy to paste."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lrexp.__main__ import main
from lrexp.config.errors import UserError
from lrexp.folder.layout import LAYER_CHECK, LAYER_RUNS
from lrexp.session.layer_test import begin_layer_test

# a head a thousand times too slow: what helps is known
SLOW_HEAD = [
    "task=layer_test",
    "experiment=smoke",
    "trainer.epochs=2",
    "trainer.limit_train_batches=null",
    "lr_policy=per_layer",
    "lr_policy.rules=[{layers:head,scale:0.001}]",
    "task.factors=[1000]",
    "task.repeats=5",
]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "task=layer_test", "optimizer.lr=0.1,0.2"], "trains a grid of its own"),
        (["task=layer_test", "lr_policy=lp_ft"], "no rule of lr_policy=per_layer can multiply"),
        (["task=layer_test", "task.factors=[1,4]"], "holds 1, which changes nothing"),
        (["task=layer_test", "task.factors=[]"], "holds no factor"),
        (["task=layer_test", "task.factors=[-1]"], "task.factors"),
        (["task=layer_test", "task.repeats=1"], "task.repeats"),
        (["task=layer_test", "trainer.epochs=0"], "trains nothing"),
        (["task=layer_test", "hydra.job.name=mine"], "runs its grids itself"),
        (["task=layer_test", "cases=policies"], "several cases for one run"),
    ],
)
def test_what_cannot_be_tested_is_refused_before_there_is_a_folder(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["lr_policy", LAYER_RUNS, LAYER_CHECK, "plots", "protocol.json"])
@pytest.mark.parametrize("resume", [False, True])
def test_nothing_is_written_through_a_link_that_leads_out(
    name: str, resume: bool, tmp_path: Path
) -> None:
    folder, elsewhere = tmp_path / "test", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / name).symlink_to(elsewhere)
    design: Any = SimpleNamespace(folder=folder, resume=resume)
    with pytest.raises(UserError, match=f"{name} is a link that leads out of the folder"):
        begin_layer_test(design, print, lambda *_: folder)
    assert [path.name for path in folder.iterdir()] == [name]


@pytest.mark.slow
def test_the_layer_that_is_too_slow_is_found_and_the_policy_to_paste_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "test"
    where = f"hydra.run.dir={folder}"
    assert main([*SLOW_HEAD, where]) == 0
    said = capsys.readouterr().out
    assert "cost   20 runs, about" in said
    found = json.loads((folder / "layer_test.json").read_text())
    helped = [(one["part"], one["factor"]) for one in found["changes"] if one["word"] == "helps"]
    assert helped == [(2, 1000.0)]
    assert found["together"]["word"] == "helps"
    assert found["fresh"] == [1000, 1001, 1002, 1003, 1004]
    assert " ".join(found["sentence"].split()) in " ".join(said.replace("-", "−").split())
    for name in ("report.html", "layer_test.csv", "plots/layer_test.png", "protocol.json"):
        assert (folder / name).is_file()

    # the baseline is the policy as it was asked for, to the bit
    points = json.loads((folder / LAYER_RUNS / "points.json").read_text())["points"]
    base = next(p for p in points if p["case"] == "as asked for" and "seed=1" in p["overrides"])
    alone = [word for word in SLOW_HEAD if not word.startswith("task")]
    single = tmp_path / "single"
    assert main([*alone, "seed=1", "trainer.threads=1", f"hydra.run.dir={single}"]) == 0
    plans = [(at / "plan.csv").read_text() for at in (single, folder / LAYER_RUNS / base["folder"])]
    assert plans[0] == plans[1]

    # both ways to have the policy give the promised rates, and train
    capsys.readouterr()
    pasted = list(found["paste"])
    rest = ["experiment=smoke", "trainer.epochs=1"]
    assert main([*rest, *pasted, f"hydra.run.dir={tmp_path / 'pasted'}"]) == 0
    own = ["--config-dir", str(folder), "lr_policy=layer_test"]
    assert main([*own, *rest, f"hydra.run.dir={tmp_path / 'own'}"]) == 0
    plans = [(tmp_path / name / "plan.csv").read_text() for name in ("pasted", "own")]
    assert plans[0] == plans[1]
    assert ",1.0," in next(line for line in plans[0].splitlines() if "head.weight" in line)
    assert shlex.join(pasted) in said

    # it does not begin twice in a folder, and goes on with more seeds
    assert main([*SLOW_HEAD, where]) == 2
    assert "trainer.resume=auto goes on with it" in capsys.readouterr().err
    more = [*SLOW_HEAD[:-1], "task.repeats=6", "trainer.resume=auto", where]
    kept = {file: file.read_bytes() for file in folder.glob(f"{LAYER_RUNS}/*/metrics.jsonl")}
    assert main([*more, "optimizer.lr=0.01"]) == 2
    assert "holds another test: optimizer.lr was" in capsys.readouterr().err
    assert main([*more, "task.check=false"]) == 2
    assert main(more) == 0
    assert {file: file.read_bytes() for file in kept} == kept
    found = json.loads((folder / "layer_test.json").read_text())
    assert found["seeds"] == [0, 1, 2, 3, 4, 5]
    assert any("Seeds were added after a look (5)" in one for one in found["remarks"])
