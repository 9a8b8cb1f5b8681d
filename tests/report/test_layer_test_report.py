"""A test of layers in a terminal, as a page, a picture and files, made of one value."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lrexp.__main__ import main
from lrexp.commands.answer import layers_tested
from lrexp.config.errors import UserError
from lrexp.folder.layout import LAYER_RUNS
from lrexp.judge.layer_test import Change, LayerTest, Word, sentence
from lrexp.plan.multiplied import Part
from lrexp.report.layer_test.figures import layers_figure
from lrexp.report.layer_test.files import layers_csv, read_layer_test
from lrexp.report.layer_test.lines import layers_lines
from lrexp.report.layer_test.page import layers_page, write_layer_test
from lrexp.session import layer_test, layer_test_asked

NAN = math.nan


def change(part: int, factor: float, loss: float, word: Word, **more: Any) -> Change:
    one = Change(
        part, factor, 5, 179, 0, loss, 0.01, loss - 0.025, loss + 0.025, -loss / 10, 0.004,
        0.001, 0.004, word, None, None, 0.04,
    )  # fmt: skip
    return replace(one, **more)


def made_up() -> LayerTest:
    """Two layers that are told from the others, one that diverges, one that is frozen anyway."""
    parts = (
        Part("stem", 0, 0, 100, 0, 0.0, 0.0),
        Part("layer1.0 to layer1.2", 1, 3, 900, 900, 0.1, 0.5),
        Part("head", 4, 4, 50, 50, 1.0, 1.0),
    )
    changes = (
        change(1, 0.0, 0.2, "hurts"),
        change(1, 4.0, -0.08, "helps"),
        change(2, 0.0, 0.01, "within noise", p_adjusted=0.9, more_seeds=7),
        replace(change(2, 4.0, NAN, "diverges"), low=NAN, high=NAN, accuracy=NAN, lost=2),
    )
    paste = ("lr_policy=per_layer", "lr_policy.rules=[{layers:1-3,scale:4.0}]")
    found = LayerTest(
        "", "freeze_backbone", 0.05, parts, (0.0, 4.0), (0, 1, 2, 3, 4), 179, "val/loss",
        0.31, 0.02, 0.9, 0.01, changes, paste=paste, remarks=("a <note>",),
        cost=(("runs", "25"),),
    )  # fmt: skip
    together = replace(change(0, 0.0, -0.06, "helps"), part=-1, factor=NAN)
    found = replace(found, together=together, fresh=(1000, 1001, 1002, 1003, 1004))
    return replace(found, sentence=sentence(found))


def test_the_terminal_shows_layers_from_the_input_and_what_to_paste(tmp_path: Path) -> None:
    lines = layers_lines(made_up(), tmp_path, 120)
    said = "\n".join(lines)
    rows = [line for line in lines if line.startswith(("stem", "layer1.0", "head"))]
    assert [row.split()[0] for row in rows] == ["stem", "layer1.0", "head"]
    assert "frozen already" in rows[0]
    assert "0.005 to 0.025" in rows[1]
    assert "-0.080 ± 0.010" in said
    assert "diverges (2 of 5)" in said
    assert "Together, on 5 fresh seeds" in " ".join(said.split())
    assert "task.repeats=12 hydra.run.dir=" in " ".join(said.split())
    assert "lr_policy=per_layer 'lr_policy.rules=[{layers:1-3,scale:4.0}]'" in said
    assert "lr_policy=layer_test" in said
    narrow = layers_lines(replace(made_up(), paste=()), tmp_path, 60)
    assert max(len(line) for line in narrow if str(tmp_path) not in line) <= 70
    assert not any("lr_policy=per_layer" in line for line in narrow)


def test_files_keep_every_number_and_the_page_says_the_same(tmp_path: Path) -> None:
    found = made_up()
    page = write_layer_test(tmp_path, found)
    text = page.read_text()
    assert repr(read_layer_test(tmp_path)) == repr(found)  # NaN is not itself
    rows = list(csv.DictReader((tmp_path / "layer_test.csv").read_text().splitlines()))
    assert [(row["layer"], row["factor"], row["verdict"]) for row in rows][1] == (
        "layer1.0 to layer1.2", "4.0", "helps",
    )  # fmt: skip
    assert rows[3]["val_loss_change"] == ""
    assert float(rows[1]["val_loss_change"]) == -0.08
    for part in ("rate × 4, not frozen", "a &lt;note&gt;", "freeze_backbone", "diverges (2 of 5)"):
        assert part in text
    assert layers_csv(found).count("\n") == 5


def test_report_makes_page_and_picture_anew_from_the_file_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_layer_test(tmp_path, made_up())
    page = (tmp_path / "report.html").read_text()
    (tmp_path / "report.html").unlink()
    (tmp_path / "layer_test.csv").unlink()
    assert main(["report", str(tmp_path)]) == 0
    assert "2 files in plots/" in capsys.readouterr().out
    assert (tmp_path / "report.html").read_text() == page
    assert (tmp_path / "plots" / "layer_test.png").stat().st_size > 10_000
    file = tmp_path / "layer_test.json"
    file.write_text(file.read_text().replace('"part": 2', '"part": 9'))
    assert main(["report", str(tmp_path)]) == 2
    assert "a change is of no part" in capsys.readouterr().err


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "layer_test.csv").write_text("mine")
    with pytest.raises(UserError, match=r"layer_test\.csv"):
        write_layer_test(tmp_path, made_up())
    assert [path.name for path in tmp_path.iterdir()] == ["layer_test.csv"]


def test_where_nothing_was_measured_there_is_no_picture() -> None:
    found = made_up()
    blank = [
        replace(one, word="not measured", loss=NAN, low=NAN, high=NAN) for one in found.changes
    ]
    found = replace(found, changes=tuple(blank), paste=(), together=None)
    assert layers_figure(found) is None
    assert "Nothing was measured" in sentence(found)
    assert "Nothing was measured" in layers_page(replace(found, sentence=sentence(found)))
    assert json.loads(json.dumps(sentence(found)))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"factor": 4.0', '"factor": 3.0', "a change is by no factor"),
        ('"factor": 4.0', '"factor": "NaN"', "a change is by no factor"),
        ('"policy": "freeze_backbone"', '"policy": "$\\\\frac{<mine>"', ""),
        ('"loss_se": 0.01', '"loss_se": "Infinity"', ""),
        ("4.0", "1e-320", ""),
    ],
)
def test_a_file_that_others_wrote_is_drawn_or_refused_in_words(
    old: str, new: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_layer_test(tmp_path, made_up())
    file = tmp_path / "layer_test.json"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    code, told = main(["report", str(tmp_path)]), capsys.readouterr().err
    assert (code, said in told) == (2 if said else 0, True)
    assert "<mine>" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("words", [["rerun"], ["compare", "latest"]])
def test_a_verb_for_runs_says_where_those_of_a_test_are(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_layer_test(tmp_path, made_up())
    assert main([words[0], str(tmp_path), *words[1:]]) == 2
    assert f"its runs are in {tmp_path / LAYER_RUNS}" in capsys.readouterr().err


@pytest.mark.parametrize(("undone", "code"), [(0, 0), (2, 1)])
def test_a_run_without_a_result_is_a_failure_and_one_that_diverged_is_not(
    undone: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = replace(made_up(), changes=(replace(change(1, 0.0, NAN, "not measured")),), paste=())
    done = layer_test.Answer(tmp_path, told, tmp_path / "report.html", undone)
    monkeypatch.setattr(layer_test, "begin_layer_test", lambda *given: done)
    monkeypatch.setattr(layer_test_asked, "plan_layer_test", lambda *given: None)
    monkeypatch.setattr(layer_test_asked, "opening_lines", lambda design: [])
    nobody: Any = None
    assert layers_tested(nobody, nobody, [], None) == code
