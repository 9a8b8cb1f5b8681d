"""The wheel as pip installs it, and the checkout, from any working directory."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT
from own_parts_page import script, write_files
from processes import HUNG_S

from lrexp.__main__ import main

pytest.importorskip("hatchling")


def run(*command: str, cwd: Path, **environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and k[:6] != "WANDB_"}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=HUNG_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet")
    run(*pip, "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT), cwd=folder)
    (built,) = folder.glob("lrexp-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The folder that holds the installed copy, as the only one a command can see."""
    target = wheel.parent / "site"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    run(*pip, "--no-deps", "--target", str(target), str(wheel), cwd=wheel.parent)
    return target


def test_the_wheel_holds_every_file_it_needs(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    conf = {f"lrexp/{p.relative_to(ROOT)}" for p in (ROOT / "conf").rglob("*.yaml")}
    code = {str(p.relative_to(ROOT)) for p in (ROOT / "lrexp").rglob("*.py")}
    data = {
        "lrexp/data/digits.npz",
        "lrexp/data/digits.LICENSE.txt",
        "lrexp/models/bundled/simple_cnn_digits_0_4.safetensors",
        "lrexp/report/html/page.html",
        "lrexp/report/html/report.css",
        "lrexp/report/html/report.js",
    }
    assert conf | code | data <= names


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} <= {"lrexp", "hydra_plugins"}
    assert not [name for name in names if "__pycache__" in name or "outputs" in name]
    assert sum(file.file_size for file in zipfile.ZipFile(wheel).filelist) < 3_000_000


def test_an_installed_copy_finds_its_conf_from_any_folder(installed: Path, tmp_path: Path) -> None:
    where = "import lrexp.config.names as f; print(f.__file__, f.conf_folder())"
    said = run(sys.executable, "-c", where, cwd=tmp_path, PYTHONPATH=str(installed)).split()
    assert said == [str(installed / "lrexp/config/names.py"), str(installed / "lrexp/conf")]
    shown = run(
        *(sys.executable, "-m", "lrexp", "--cfg", "job", "optimizer=adam"),
        cwd=tmp_path,
        PYTHONPATH=str(installed),
    )
    assert "name: adam\n" in shown


@pytest.mark.slow
def test_an_installed_copy_trains_through_its_command(installed: Path, tmp_path: Path) -> None:
    command = str(installed / "bin" / "lrexp")
    weights = "model.weights=bundled:simple_cnn_digits_0_4"
    run(command, "experiment=smoke", weights, cwd=tmp_path, PYTHONPATH=str(installed))
    (summary,) = tmp_path.glob("outputs/smoke/*/summary.json")
    assert '"status": "finished"' in summary.read_text()


@pytest.mark.slow
def test_own_parts_train_by_an_installed_copy_as_their_page_says(
    installed: Path, tmp_path: Path
) -> None:
    """Every file and command of docs/own_parts.md, in a folder that is not ours."""
    write_files(tmp_path)
    program = f'lrexp() {{ python -m lrexp "$@"; }}\npython() {{ "{sys.executable}" "$@"; }}\n'
    path = f"export PYTHONPATH={installed}:$PYTHONPATH\n"
    said = run("bash", "-c", program + script().replace("PYTHONPATH=.\n", f"PYTHONPATH=.\n{path}"),
               cwd=tmp_path, WANDB_MODE="offline")  # fmt: skip
    summaries = [file.read_text() for file in tmp_path.glob("outputs/**/summary.json")]
    assert len(summaries) >= 12
    assert all('"status": "finished"' in summary for summary in summaries)
    assert "finished 0." in said


def test_a_checkout_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Programs of their own are started in such folders by many tests."""
    monkeypatch.chdir(tmp_path)
    assert main(["--info", "searchpath"]) == 0
    assert str(ROOT / "conf") in capsys.readouterr().out


def test_the_image_gets_everything_that_the_wheel_is_made_of() -> None:
    import tomllib

    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    parts = [*wheel["targets"]["wheel"]["packages"], *wheel["targets"]["wheel"]["force-include"]]
    assert len(parts) >= 3
    copied = (ROOT / "Dockerfile").read_text()
    for part in parts:
        assert f"COPY {part} /src/{part}\n" in copied
