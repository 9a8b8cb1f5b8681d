"""Files that lrexp did not write are not written over, whatever the way to them."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_lines import SMOKE

from lrexp.__main__ import main

GRID = ["-m", *SMOKE, "seed=0,1", "hydra.sweep.dir=."]
SUBDIR = "hydra.sweep.subdir=points/${hydra.job.num}"
AUTO = "trainer.resume=auto"


def held(folder: Path) -> dict[str, str]:
    """Every file in a folder."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in found}


@pytest.mark.parametrize(
    ("file", "argv"),
    [
        ("config.yaml", [*SMOKE, "hydra.run.dir=."]),
        ("checkpoints/best.pt", [*SMOKE, "hydra.run.dir=."]),
        ("report.html", [*SMOKE, "hydra.run.dir=.", AUTO]),
        ("rates.png", ["task=plan", "hydra.run.dir=."]),
        ("lrexp.log", [*SMOKE, "hydra.run.dir=link"]),
        ("my.log", [*SMOKE, "hydra.run.dir=.", "hydra.job.name=my"]),
        ("points/config.yaml", [*SMOKE, "hydra.run.dir=.", "hydra.output_subdir=points"]),
        ("leaderboard.csv", GRID),
        ("points/1/plan.csv", [*GRID, SUBDIR]),
        ("points/1/.hydra/config.yaml", [*GRID, SUBDIR, "hydra/launcher=basic"]),
    ],
)
def test_a_file_of_the_users_own_is_refused_by_name(
    file: str,
    argv: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / file).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / file).write_text("mine")
    (tmp_path / "link").symlink_to(".")
    assert main(argv) == 2
    assert f"{tmp_path} holds {file}, which this would write over" in capsys.readouterr().err
    assert held(tmp_path) == {file: "mine"}


@pytest.mark.parametrize("file", ["report.html", "plots/loss.png"])
def test_a_report_is_not_written_over_another_page_or_picture(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"epoch": 1, "train/loss": 1.0, "train_eval/loss": 1.0, "val/loss": 1.0, "step": 1}
    (tmp_path / "metrics.jsonl").write_text(str(row).replace("'", '"') + "\n")
    argv = ["report", str(tmp_path)]
    assert main(argv) == main(argv) == 0  # its own are made anew
    for name in ("report.html", "plots/loss.png", "plots/loss.svg"):
        assert (tmp_path / name).is_file()
    (tmp_path / file).write_text("mine")
    assert main(argv) == 1
    assert f"{tmp_path / file} was not written by lrexp" in capsys.readouterr().err
    assert (tmp_path / file).read_text() == "mine"
