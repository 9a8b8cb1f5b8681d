"""One reader of run folders: what is missing, damaged or not finite, to the letter."""

from __future__ import annotations

import ast
import json
import math
import shutil
from pathlib import Path

import pytest
from report_runs import write_run

import lrexp
from lrexp.config.errors import UserError
from lrexp.folder.layout import METRICS, POINTS, SUMMARY
from lrexp.runs.differences import read_run as read_saved
from lrexp.runs.resume import stopped_run
from lrexp.runs.run import content, flat, json_object, named_path, read_rows, read_run, read_summary
from lrexp.runs.sweep import read_grid

PACKAGE = Path(lrexp.__file__).parent
# Rooms that read what is no file of a run folder: configs and cases before they are checked,
# metadata of foreign weights, W&B's own files, and images.
READERS = {
    "config", "runs", "models", "data", "grid/points/cases.py", "record/wandb/file.py",
    "record/wandb/dashboard.py", "train/agreement.py",  # the last: what ranks tell each other
}  # fmt: skip


def test_strings_for_what_is_not_finite_are_numbers(tmp_path: Path) -> None:
    (tmp_path / SUMMARY).write_text('{"best": {"a": "NaN", "b": ["Infinity", "-Infinity", "x"]}}')
    best = read_summary(tmp_path, [])["best"]
    assert math.isnan(best["a"])
    assert best["b"] == [math.inf, -math.inf, "x"]


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "[" * 100_000, "\udcff"])
def test_damage_is_an_error_or_a_note_and_names_the_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / SUMMARY
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"summary\.json cannot be read"):
        content(file, json_object, None)
    notes: list[str] = []
    assert content(file, json_object, {"otherwise": 1}, notes) == {"otherwise": 1}
    assert notes == ["summary.json is damaged and was left out"]


def test_what_is_missing_is_no_error(tmp_path: Path) -> None:
    notes: list[str] = []
    assert content(tmp_path / SUMMARY, json_object, None) is None
    assert content(tmp_path / SUMMARY, json_object, None, notes) is None
    assert notes == ["summary.json is missing"]
    assert read_rows(tmp_path, notes) == []
    assert len(notes) == 1, "a run that ended before its first epoch has no rows"


def test_rows_of_a_killed_and_a_continued_run(tmp_path: Path) -> None:
    rows = [{"epoch": 1, "a": 1}, {"epoch": 2, "a": 2}, {"epoch": 2, "a": 3}]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / METRICS).write_text(
        "\n".join(
            [*lines, '{"epoch": 3, "a'],
        )
    )
    notes: list[str] = []
    assert read_rows(tmp_path, notes) == [rows[0], rows[2]]
    assert notes == ["metrics.jsonl: 1 of 4 lines cannot be read and are left out"]


def test_reports_and_commands_read_the_same(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    for_report, for_command = read_run(folder), read_saved(str(folder))
    assert for_report.notes == []
    assert for_report.rows == for_command.rows
    assert for_report.plan == for_command.plan
    assert for_report.environment == for_command.environment
    assert for_command.summary.items() <= for_report.summary.items()


def test_settings_by_dotted_key() -> None:
    section = {"a": {"b": 1, "c": {}}, "d": [{"e": 2}]}
    assert flat(section) == {"a.b": 1, "a.c": {}, "d": [{"e": 2}]}
    assert flat({}) == {}
    assert flat(None) == {}


def test_points_that_make_no_sense_are_left_out(tmp_path: Path) -> None:
    good = {"num": 0, "folder": "0_a", "case": "", "same_as": 7, "overrides": ["seed=0"],
            "differs": {}, "lacks": []}  # fmt: skip
    rows = [good, good | {"num": "1"}, good | {"folder": 3}, {}]
    saved = {"command": ["seed=0,1"], "first": {"seed": 0}, "points": rows}
    (tmp_path / POINTS).write_text(json.dumps(saved))
    notes: list[str] = []
    command, points = read_grid(tmp_path, notes)
    assert command == ("seed=0,1",)
    assert [(p.num, p.same_as, p.settings) for p in points] == [(0, None, {"seed": 0})]
    assert len(notes) == 3


def loaders(tree: ast.AST) -> set[str]:
    """Calls that parse JSON or YAML."""
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    found = {ast.unparse(call) for call in calls}
    return found & {"json.loads", "json.load", "yaml.load", "yaml.safe_load", "OmegaConf.load"}


def test_files_of_runs_are_read_in_one_room() -> None:
    assert loaders(ast.parse("x = json.loads(file.read_text())")) == {"json.loads"}
    for file in PACKAGE.rglob("*.py"):
        place = file.relative_to(PACKAGE).as_posix()
        if not {place, place.partition("/")[0]} & READERS:
            assert not loaders(ast.parse(file.read_text())), place


def test_latest_is_a_way_to_what_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert named_path("latest/0_seed_0") == Path("outputs/latest/0_seed_0")
    assert named_path("latest") == Path("outputs/latest")
    (tmp_path / "latest" / "0_seed_0").mkdir(parents=True)
    assert named_path("latest/0_seed_0") == Path("latest/0_seed_0")
    (tmp_path / "outputs/latest/0_seed_0").mkdir(parents=True)
    (tmp_path / "latest").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"did you mean '0_seed_0'\?"):
        read_saved("latest/1_seed_0")
    (tmp_path / "outputs/latest/0_seed_0/config.yaml").touch()
    with pytest.raises(UserError, match=r"give one of them: 0_seed_0\n  such as latest/0_seed_0"):
        read_saved("latest")


def test_a_run_goes_on_beside_the_link_that_a_killed_client_of_wandb_leaves(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    logs = run / "wandb" / "offline-run-1" / "logs"
    logs.mkdir(parents=True)
    elsewhere.mkdir()
    (logs / "debug-core.log").symlink_to(elsewhere / "core.log")
    (run / "config.yaml").write_text("seed: 0\n")
    (run / "summary.json").write_text('{"run_id": "abcdefgh", "status": "running"}')
    stopped = stopped_run(run)
    assert stopped is not None
    assert stopped.run_id == "abcdefgh"
    shutil.rmtree(run / "wandb")
    (run / "wandb").symlink_to(elsewhere)
    with pytest.raises(UserError, match=r"wandb is a link that leads out of the folder"):
        stopped_run(run)
