"""The run report from files alone: what it says, what it draws, and what damage it survives."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conclusions import conclusion
from conftest import ROOT
from processes import HUNG_S
from report_runs import row, write_run
from synthetic_sweep import outcome, write_sweep

from lrexp.__main__ import main
from lrexp.report.comparison.page import write_conclusion
from lrexp.report.run.defaults import changes
from lrexp.report.run.mistakes import png
from lrexp.report.run.page import run_page, write_run_report
from lrexp.report.run.words import headline, key_figures
from lrexp.runs.run import flat, read_choices, read_rows, read_run

Command = Callable[..., tuple[int, str]]
HEAVY = ("torch", "hydra", "wandb", "datasets", "matplotlib", "torchvision", "pandas")


def text_of(page: str) -> str:
    body = re.sub("<(style|script)[^>]*>.*?</(style|script)>|<wbr>", "", page, flags=re.S)
    return re.sub("<[^>]*>", " ", body)


def charts_of(page: str) -> dict[str, dict[str, Any]]:
    found = re.findall('<script type="application/json">(.*?)</script>', page)
    return {spec["title"]: spec for spec in map(json.loads, found)}


def test_the_headline_says_what_came_out(tmp_path: Path) -> None:
    said = headline(read_run(write_run(tmp_path / "run")))
    assert "With lr_policy=layerwise_decay, val/loss was lowest in epoch 2 of 4: 0.500" in said
    assert f"(val accuracy 70.0 ± {100 * math.sqrt(0.7 * 0.3 / 19):.1f} %)" in said
    assert "The gap there is 0.167 ± 0.050" in said
    rise = "val loss is 0.200 ± 0.020 above that of epoch 2; val accuracy is measured to hold"
    assert f"By epoch 4 it grows overconfident: {rise} (0.0 ± 0.5 points below its best)" in said
    error = 100 * math.sqrt(0.75 * 0.25 / 300)
    assert f"Test accuracy is 75.0 ± {error:.1f} % on 300 images" in said


def test_of_uneven_classes_balanced_accuracy_stands_beside_accuracy(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    assert "balanced" not in headline(run)
    run.summary["data"]["classes"] = {"uneven": True}
    run.summary["best"]["val/balanced_accuracy"] = 0.512
    run.summary["test"]["balanced_accuracy"] = 0.498
    said = headline(run)
    assert re.search(r"\(val accuracy 70.0 ± [0-9.]+ %, balanced 51.2 %\)", said)
    assert re.search(r"Test accuracy is 75.0 ± [0-9.]+ %, balanced 49.8 % on 300 images", said)


def test_what_was_told_before_the_first_step_is_said_above_the_figures(tmp_path: Path) -> None:
    told = ["pets: passed over 2 as .heic", "labels are uneven, images in train/val: cat 72/16."]
    page = text_of(run_page(read_run(write_run(tmp_path / "run", remarks=told))))
    assert "Pets: passed over 2 as .heic." in page
    assert "Labels are uneven, images in train/val: cat 72/16." in page


def test_overfitting_within_the_noise_is_not_claimed(tmp_path: Path) -> None:
    rows = [row(epoch) for epoch in range(1, 4)]
    rows[-1]["overfit/loss_se"] = 0.09
    said = headline(read_run(write_run(tmp_path / "run", rows=rows)))
    assert "Val loss is 0.100 ± 0.090 above that of epoch 2: within noise" in said
    assert "did not hurt" not in said  # what is not shown is not denied
    assert "overconfident" not in said


@pytest.mark.parametrize(
    ("status", "epochs", "words"),
    [
        ("diverged", 2, "Diverged in epoch 2: the loss is no longer a finite number"),
        ("failed", 2, "The run failed after 2 epochs."),
        ("failed", 0, "The run failed before its first epoch ended."),
        ("interrupted", 1, "Interrupted after 1 epoch; checkpoints/last.pt"),
        ("running", 3, "The run goes on, or was killed: 3 epochs so far."),
    ],
)
def test_the_headline_says_how_a_run_ended(
    tmp_path: Path, status: str, epochs: int, words: str
) -> None:
    folder = write_run(tmp_path / "run", epochs, status, error="OSError: disk is full")
    assert words in headline(read_run(folder))
    text = text_of(run_page(read_run(folder)))
    assert "OSError: disk is full" in text
    assert "the last words" in text, "a run that did not simply finish shows its log"


def test_the_error_of_the_loss_is_that_of_the_images(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = write_run(tmp_path / "run")
    drawn = np.random.default_rng(0)
    scores = drawn.dirichlet((2, 2), 50).astype(np.float32)
    labels = drawn.integers(0, 2, 50)
    split = np.array(["val"] * 40 + ["test"] * 10)
    columns = {"id": range(50), "item": ["x"] * 50, "split": split, "label": labels}
    pq.write_table(pa.table({**columns, "scores": list(scores)}), folder / "predictions.parquet")
    losses = -np.log(scores[np.arange(40), labels[:40]].astype(float))
    rows = [row(epoch) for epoch in range(1, 5)]
    rows[1]["val/loss"] = float(losses.mean())
    summary = json.loads((folder / "summary.json").read_text())
    summary["best"] = rows[1]
    (folder / "summary.json").write_text(json.dumps(summary))
    shown = {what: value for what, value, _ in key_figures(read_run(folder))}
    error = losses.std(ddof=1) / math.sqrt(40)
    assert shown["Best val/loss"] == f"{losses.mean():.2f} ± {error:.2f}" or (
        shown["Best val/loss"] == f"{losses.mean():.3f} ± {error:.3f}"
    )
    summary["best"]["val/loss"] = 0.123  # not the loss of these predictions
    (folder / "summary.json").write_text(json.dumps(summary))
    shown = {what: value for what, value, _ in key_figures(read_run(folder))}
    assert shown["Best val/loss"] == "0.123"


def test_curves_hold_the_rows(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    rows = read_rows(folder, [])
    charts = charts_of(run_page(read_run(folder)))
    loss = {one["name"]: one for one in charts["Loss"]["series"]}
    assert charts["Loss"]["xs"] == [[1, 2, 3, 4]]
    assert loss["val"]["y"] == pytest.approx([r["val/loss"] for r in rows], rel=1e-5)
    assert loss["gap"]["low"] == pytest.approx([r["train_eval/loss"] for r in rows], rel=1e-5)
    assert loss["gap"]["high"] == loss["val"]["y"], "the shade is the gap"
    assert loss["val"]["high"] == pytest.approx([r["val/loss"] + 0.05 for r in rows], rel=1e-5)
    gap = charts["Gap"]["series"][0]
    assert gap["low"] == pytest.approx([r["gap/loss"] - r["gap/loss_se"] for r in rows], rel=1e-5)
    assert {c["cursor"] for t, c in charts.items() if not t.startswith("Confusion")} == {"epoch"}
    assert [mark["label"] for mark in charts["Loss"]["marks"]] == ["best 2"]


def test_rates_are_shown_step_by_step_with_gaps_while_frozen(tmp_path: Path) -> None:
    charts = charts_of(run_page(read_run(write_run(tmp_path / "run"))))
    rates = {one["name"]: one for one in charts["Learning rate by group"]["series"]}
    xs = charts["Learning rate by group"]["xs"][rates["conv"]["x"]]
    assert (xs[0], xs[-1]) == (0.1, 4), "the last step of epoch 4 lies at 4"
    assert rates["conv"]["y"] == [None] * 10 + [0.05] * 30
    assert rates["head"]["y"] == [0.1] * 40


def test_without_a_schedule_rates_come_from_the_rows(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "schedule.csv").unlink()
    chart = charts_of(run_page(read_run(folder)))["Learning rate by group"]
    assert chart["series"][0]["y"] == [None, 0.05, 0.05, 0.05]


def test_heat_maps_go_from_the_head_to_the_input(tmp_path: Path) -> None:
    charts = charts_of(run_page(read_run(write_run(tmp_path / "run"))))
    assert charts["Drift"]["rows"] == ["head", "conv"]
    assert charts["Drift"]["values"][0] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert charts["Update ratio"]["log"]


def test_a_group_of_several_layers_says_which(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    assert "one group" not in text_of(run_page(read_run(folder))), "every layer is its own"
    plan = (folder / "plan.csv").read_text().replace("stem,stem,false", "stem,conv,false")
    (folder / "plan.csv").write_text(plan)
    page = run_page(read_run(folder))
    assert "measured together: conv is stem, conv." in text_of(page)
    for title in ("Drift", "Update ratio"):
        assert charts_of(page)[title]["rows"] == ["head", "conv (2 layers)"]


def test_a_divergence_is_a_gap_with_a_mark(tmp_path: Path) -> None:
    rows = [row(1), row(2), row(3, **{"val/loss": "Infinity", "gap/loss": "NaN"})]
    folder = write_run(tmp_path / "run", status="diverged", rows=rows)
    chart = charts_of(run_page(read_run(folder)))["Loss"]
    assert {"x": 3, "label": "diverged", "kind": "bad"} in chart["marks"]
    assert next(one for one in chart["series"] if one["name"] == "val")["y"][2] is None


def test_a_run_without_a_finite_loss_says_so_and_shows_what_was_measured(tmp_path: Path) -> None:
    nothing = {key: "NaN" for key in row(1) if key.endswith(("loss", "loss_running", "_se"))}
    folder = write_run(tmp_path / "run", status="diverged", rows=[row(1, **nothing)])
    page = run_page(read_run(folder))
    assert "Loss" not in charts_of(page)
    assert "No loss was a finite number in any epoch" in text_of(page)
    assert re.search(r"loss\s+NaN", text_of(page)), "not a dash, which means not measured"


def test_a_member_of_a_stack_says_that_it_did_not_train_alone(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", members=12, device="cpu"))
    shown = {what: detail for what, _, detail in key_figures(run)}
    assert shown["Training took"] == "cpu, together with 11 others"


def test_the_plan_is_a_bar_per_layer_and_a_table(tmp_path: Path) -> None:
    page = run_page(read_run(write_run(tmp_path / "run")))
    bars = re.findall('<span title="([^"]*)">.*?<span class="value">(.*?)</span>', page)
    assert bars == [("stem", "frozen"), ("conv", "0.05"), ("head", "0.1")]
    assert "trains from epoch 2" in page
    assert page.count("<code>head.bias</code>") == 1
    assert "1 frozen tensors and buffers are bit-identical" in page
    assert "1 of 2 tensors moved in every phase that trains them; head.bias unused in" in page
    older = run_page(read_run(write_run(tmp_path / "older", learning_proof=None)))
    assert "moved in every phase" not in older


def test_confusion_counts_are_those_of_the_file(tmp_path: Path) -> None:
    chart = charts_of(run_page(read_run(write_run(tmp_path / "run"))))["Confusion on val"]
    assert chart["values"] == [[7, 1], [2, 9]]
    assert chart["labels"][0][1] == "1 of 8 images of cat called dog"


def test_the_command_can_be_pasted(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / ".hydra" / "overrides.yaml").write_text(
        json.dumps(["lr_policy.rules=[{layers: head, scale: 2}]", "model.weights=latest"])
    )
    config = (folder / "config.yaml").read_text().replace("weights: null", "weights: /old/run")
    (folder / "config.yaml").write_text(config)
    text = html.unescape(text_of(run_page(read_run(folder))))
    command = "python -m lrexp 'lr_policy.rules=[{layers: head, scale: 2}]' model.weights=/old/run"
    assert command in text, "latest is another run by now"


def test_no_home_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "ada"))
    folder = write_run(tmp_path / "home" / "ada" / "run", error="no file in /x", status="failed")
    assert str(tmp_path / "home" / "ada") in (folder / ".hydra" / "hydra.yaml").read_text()
    assert "/home/ada" not in run_page(read_run(folder))


EVIL = "</script><script>alert(1)</script>"


def test_a_name_is_never_markup(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", name=EVIL, error=EVIL, status="failed")
    (folder / "confusion.csv").write_text(f"split,true,{EVIL},b\nval,{EVIL},1,2\nval,b,1,2\n")
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps([f"name={EVIL}"]))
    (folder / "lrexp.log").write_text(EVIL)
    page = run_page(read_run(folder))
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    assert EVIL in charts_of(page)["Confusion on val"]["columns"]


FILES = sorted(
    ["config.yaml", "plan.csv", "metrics.jsonl", "summary.json", "environment.json",
     "schedule.csv", "confusion.csv", "per_class.csv", ".hydra/hydra.yaml",
     ".hydra/overrides.yaml", "wrong_images.npz", "predictions.parquet"]
)  # fmt: skip
DAMAGE = {
    "missing": None,
    "empty": b"",
    "binary": bytes(range(256)) * 4,
    "cut": b'{"status": "fini',
    "list": b"[1, 2]",
    "nonsense": b"a,b\n1\n",
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_a_damaged_file_costs_no_more_than_its_part(tmp_path: Path, file: str, damage: str) -> None:
    folder = write_run(tmp_path / "run")
    content = DAMAGE[damage]
    if content is None:
        (folder / file).unlink(missing_ok=True)
    else:
        (folder / file).write_bytes(content)
    report = write_run_report(folder)
    text = text_of(report.read_text("utf-8"))
    assert "made_by_hand" in text
    if file in ("plan.csv", "config.yaml", "environment.json") and damage in ("binary", "missing"):
        assert file in text, "what is missing is named"


def test_an_empty_folder_gives_a_report_that_says_so(tmp_path: Path) -> None:
    text = text_of(write_run_report(tmp_path).read_text())
    assert "summary.json cannot be read" in text
    assert "config.yaml is missing" in text


@pytest.mark.parametrize("key", ["best", "last", "test", "data", "timings", "verdicts", "leaks"])
@pytest.mark.parametrize("value", [None, [], "text", 3, {"loss": "text", "epoch": None}])
def test_a_summary_of_another_shape_is_survived(tmp_path: Path, key: str, value: Any) -> None:
    folder = write_run(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, key: value}))
    assert "<h2" in write_run_report(folder).read_text()


def test_a_half_written_last_row_is_noted_and_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 5, "val/lo')
    notes: list[str] = []
    assert [r["epoch"] for r in read_rows(folder, notes)] == [1, 2, 3, 4]
    assert notes == ["metrics.jsonl: 1 of 5 lines cannot be read and are left out"]


def test_a_long_run_stays_below_its_size(tmp_path: Path) -> None:
    many = {f"{kind}/group_{i}": 0.123456 for kind in ("lr", "drift", "update_ratio")
            for i in range(60)}  # fmt: skip
    rows = [row(epoch, **many) for epoch in range(1, 1501)]
    folder = write_run(tmp_path / "run", rows=rows)
    names = [f"class number {i}" for i in range(60)]
    lines = [f"{split},{name}," + ",".join(["12"] * 60)
             for split in ("val", "test") for name in names]  # fmt: skip
    (folder / "confusion.csv").write_text(f"split,true,{','.join(names)}\n" + "\n".join(lines))
    images = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), np.uint8)
    words = np.array(["x" * 60] * 24)
    np.savez(folder / "wrong_images.npz", images=images, item=words, true=words, predicted=words,
             score=np.ones(24), true_score=np.ones(24), loss=np.ones(24), split="test")  # fmt: skip
    assert write_run_report(folder).stat().st_size < 1_500_000


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_hold_the_pixels(channels: int) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    opened = np.asarray(Image.open(io.BytesIO(png(pixels))))
    assert np.array_equal(opened.reshape(5, 7, channels), pixels)


def test_wrong_images_are_pictures_with_their_words(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    images = np.zeros((1, 4, 4, 3), np.uint8)
    np.savez(
        folder / "wrong_images.npz", images=images, item=["a<b>.png"], true=["cat"],
        predicted=["dog"], score=[0.9], true_score=[0.1], loss=[2.3], split="val",
    )  # fmt: skip
    page = run_page(read_run(folder))
    (source,) = re.findall('<img src="data:image/png;base64,([^"]*)" alt="cat taken for dog"', page)
    assert base64.b64decode(source) == png(images[0])
    assert "a&lt;b&gt;.png" in page
    assert "Most wrong on val" in page


# ---- against Hydra


OVERRIDES = [
    [],
    ["optimizer=adam", "optimizer.lr=0.01", "trainer.epochs=3"],
    ["model=resnet18", "model.args.width_per_group=32", "data.image_size=32"],
    ["experiment=finetune_digits", "lr_policy=layerwise_decay", "lr_policy.decay=0.5"],
    ["trainer=smoke", "scheduler=cosine", "scheduler.warmup=0.1", "seed=4"],
    ["lr_policy=per_layer", "lr_policy.rules=[{layers: head, scale: 2}]"],
]


@pytest.mark.parametrize("overrides", OVERRIDES, ids=" ".join)
def test_changes_are_those_between_hydras_own_configs(overrides: list[str]) -> None:
    """The options' own values come from Hydra here, from plain YAML files there."""
    from hydra import version
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.utils import setup_globals
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from lrexp.config.compose import CONFIG_NAME, CheckedLoader

    version.setbase("1.3")
    setup_globals()
    loader = CheckedLoader()

    def composed(*given: str) -> tuple[dict[str, Any], dict[str, str]]:
        config = loader.load_configuration(CONFIG_NAME, list(given), RunMode.RUN)
        choices = dict(config.hydra.runtime.choices)
        plain = {key: config[key] for key in config if key not in ("hydra", "run_id")}
        return {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in plain.items()
        }, choices

    try:
        config, choices = composed(*overrides)
        chosen = [f"{group}={option}" for group, option in choices.items()
                  if "/" not in group and group != "experiment" and option]  # fmt: skip
        stated, _ = composed(*chosen)
    finally:
        GlobalHydra.instance().clear()
    sections = [key for key, value in config.items() if isinstance(value, dict)]
    wanted = {
        f"{section}.{key}": value
        for section in sections
        for key, value in flat(config[section]).items()
        if flat(stated[section]).get(key) != value and not str(value).startswith("${")
    }
    _, found = changes(config, choices)
    settings = {change.key: change.value for change in found}
    seed = {"seed": 4} if "seed=4" in overrides else {}
    name = {"name": "finetune_digits"} if "experiment=finetune_digits" in overrides else {}
    assert {k: v for k, v in settings.items() if k != "name"} == wanted | seed, name


def test_choices_are_compared_with_the_default_ones(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    choices, folders, cwd = read_choices(folder)
    chosen, _ = changes(read_run(folder).config, choices, folders)
    assert chosen == [("lr_policy", "uniform", "layerwise_decay")]
    assert cwd == str(tmp_path)
    assert folders == []


# ---- the command, and what it imports


TWO_REPORTS = f"""
import sys
from lrexp.__main__ import main

def report(*arguments):
    code = main(["report", *arguments])
    print(code, "imported", *sorted(set({HEAVY!r}) & set(sys.modules)))

report("run", "--no-plots")
print("of the sweep:", file=sys.stderr)
report("sweep")
"""


def test_reports_are_made_from_files_alone_without_torch(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    write_sweep(tmp_path / "sweep", {"optimizer.lr": (0.1, 0.2)}, lambda _: outcome(0.5))
    done = subprocess.run(
        [sys.executable, "-c", TWO_REPORTS], cwd=tmp_path, capture_output=True, text=True,
        check=False, timeout=HUNG_S, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    of_run, of_sweep = done.stdout.splitlines()[:2], done.stdout.splitlines()[2:]
    assert of_run == ["report run/report.html", "0 imported"]
    assert of_sweep[0].startswith("report sweep/report.html, ")
    assert of_sweep[-1] == "0 imported matplotlib"
    assert done.stderr.startswith("of the sweep:")  # matplotlib may say that it looks for fonts
    assert (folder / "report.html").exists()
    assert not (folder / "plots").exists()
    assert (tmp_path / "sweep" / "plots" / "curves.svg").exists()


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """A function from words after `report` to the exit code and what was said of mistakes."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        return main(["report", *arguments]), capsys.readouterr().err

    return run


def test_latest_is_the_run_that_outputs_names(tmp_path: Path, command: Command) -> None:
    write_run(tmp_path / "outputs" / "a" / "run")
    (tmp_path / "outputs" / "latest").symlink_to("a/run", target_is_directory=True)
    assert command("latest", "--no-plots") == (0, "")
    assert (tmp_path / "outputs" / "a" / "run" / "report.html").exists()


def test_a_folder_that_is_no_run_is_a_mistake(tmp_path: Path, command: Command) -> None:
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "run")
    for arguments, words in (
        (("nothing",), "there is no folder nothing"),
        (("empty",), "empty is neither a run nor a sweep"),
        (("run", "--runs"), "--runs is for a sweep"),
    ):
        code, said = command(*arguments)
        assert code == 2
        assert words in said
        assert "Traceback" not in said


def test_a_comparison_is_reported_from_its_numbers(tmp_path: Path, command: Command) -> None:
    folder = tmp_path / "comparison"
    folder.mkdir()
    page = write_conclusion(folder, conclusion())
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    for file in folder.iterdir():
        if file.name != "comparison.json":
            file.unlink()
    assert command("comparison", "--no-plots") == (0, "")
    assert page.exists()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    (folder / "comparison.json").write_text("{}")
    code, said = command("comparison", "--no-plots")
    assert code == 2
    assert "comparison.json cannot be read" in said


def test_a_report_that_cannot_be_written_is_an_error(tmp_path: Path, command: Command) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "report.html").mkdir()
    code, said = command("run", "--no-plots")
    assert code == 1
    assert "error: run: " in said
