"""The image's steps, the versions that it and the tests are installed from, and their rehearsal."""

from __future__ import annotations

import json
import os
import re
import sys
import time
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKED = "scripts/container/locked.txt"
LINE = re.compile(r"([a-z0-9-]+)==(\S+)(?:  # (cuda|dev))?")


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    """A function that imports a module of scripts/container/."""
    sys.path.insert(0, str(ROOT / "scripts/container"))
    yield import_module
    sys.path.remove(str(ROOT / "scripts/container"))


@pytest.fixture(scope="module")
def rehearse(script: Any) -> Any:
    return script("rehearse")


@pytest.fixture(scope="module")
def steps(rehearse: Any) -> list[Any]:
    return rehearse.steps((ROOT / "Dockerfile").read_text())


def only(steps: list[Any], name: str) -> str:
    """What follows the one instruction of that name."""
    (found,) = [step.words for step in steps if step.name == name]
    return found


def locked() -> dict[str, tuple[str, str]]:
    """Name → version and use of every line."""
    lines = [x for x in (ROOT / LOCKED).read_text().splitlines() if not x.startswith("#")]
    found = [LINE.fullmatch(line) for line in lines]
    assert all(found), "a line is no name==version"
    names = [match[1] for match in found if match]
    assert names == sorted(set(names))
    return {match[1]: (match[2], match[3] or "") for match in found if match}


def unmet(requirements: list[str], versions: dict[str, tuple[str, str]]) -> list[str]:
    """Those that no version of the list meets."""
    needs = [Requirement(text) for text in requirements]
    found = [versions.get(canonicalize_name(need.name), ("", "")) for need in needs]
    return [
        str(need)
        for need, (version, _) in zip(needs, found, strict=True)
        if not version or not need.specifier.contains(version)
    ]


def test_the_image_runs_the_program_as_a_user_without_rights(steps: list[Any]) -> None:
    assert json.loads(only(steps, "ENTRYPOINT")) == ["python", "-m", "lrexp"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", only(steps, "USER"))  # Kubernetes asks for numbers
    names = [step.name for step in steps]
    assert "RUN" not in names[names.index("USER") :]
    places = [step.words for step in steps if step.name == "WORKDIR"]
    assert only(steps, "VOLUME") == f"{places[-1]}/outputs"


def test_a_changed_source_installs_no_packages_anew(steps: list[Any]) -> None:
    """What is copied before the packages are installed is the list of their versions alone."""
    runs = [i for i, step in enumerate(steps) if step.name == "RUN"]
    copied = [step.words for step in steps[: runs[0]] if step.name == "COPY"]
    assert copied == [f"{LOCKED} /src/locked.txt"]
    assert "pip install" in steps[runs[0]].words
    assert "--no-deps ." in steps[runs[1]].words


def test_what_is_copied_is_sent_to_the_builder(steps: list[Any]) -> None:
    ignored, *kept = (ROOT / ".dockerignore").read_text().split()
    assert ignored == "*"
    copied = {word for step in steps if step.name == "COPY" for word in step.words.split()[:-1]}
    assert {f"!{name}" for name in copied} == set(kept) - {"**/__pycache__"}
    assert all((ROOT / name).exists() for name in copied)


def test_steps_can_be_taken_in_a_folder(steps: list[Any]) -> None:
    """A path from the root in a command would be one of the machine that rehearses."""

    def roots(words: str) -> list[str]:
        return re.findall(r"(?<![\w.:/])/\w\S*", re.sub(r"--mount=\S+", "", words))

    assert [roots(step.words) for step in steps if step.name == "RUN"] == [[]] * 3
    assert roots("--mount=type=cache,target=/root/x cp /src/a b && rm -r ./*") == ["/src/a"]


def test_installs_of_users_and_tests_are_held_to_the_same_versions() -> None:
    install = (ROOT / "scripts/install.sh").read_text()
    assert f"locked={LOCKED}\n" in install
    assert '--constraint "$locked"' in install
    for file in ("scripts/test.sh", "scripts/run.sh"):
        assert re.search(r"source scripts/install.sh", (ROOT / file).read_text())
    assert " scripts/container/rehearse.py --packages-of .venv\n" in (ROOT / ".ci/run").read_text()


def test_the_locked_versions_are_those_of_the_image_s_python(steps: list[Any]) -> None:
    series = only(steps, "FROM").removeprefix("python:").removesuffix("-slim")
    assert f", Python {series}." in (ROOT / LOCKED).read_text().splitlines()[2]


def test_every_package_is_locked_at_a_version_that_is_allowed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras, versions = project["optional-dependencies"], locked()
    everything = [*project["dependencies"], *(text for texts in extras.values() for text in texts)]
    asked = [text for text in everything if not text.startswith("lrexp[")]
    assert len(asked) > 25
    assert unmet(asked, versions) == [], "renew it: scripts/container/lock.py"
    developing = {canonicalize_name(Requirement(text).name) for text in extras["dev"]}
    run = [canonicalize_name(Requirement(text).name) for text in asked]
    in_image = {name for name in run if versions[name][1] == ""}
    assert in_image == set(run) - developing
    assert unmet(["torch>=99", "Hydra_Core==1.0", "none"], versions) == [
        "torch>=99", "Hydra_Core==1.0", "none",
    ]  # fmt: skip


def test_what_a_line_is_for_is_read_off_what_packages_need(script: Any) -> None:
    def package(version: str, *requires: str) -> Any:
        return SimpleNamespace(version=version, requires=requires)

    lock = script("lock")
    installed = {
        "lrexp": package(
            "0", "torch", "lrexp[fast]; extra=='all'", "Zip_It[x]>1; extra=='fast'",
            "lrexp[all]; extra=='dev'", "pytest; extra=='dev'",
        ),
        "torch": package("2.1", "nvidia-cu; platform_system!='None'", "gone; python_version<'3'"),
        "nvidia-cu": package("13"),
        "zip-it": package("1.2", "deep; extra=='x'", "other; extra=='y'"),
        "deep": package("4"),
        "other": package("5"),
        "pytest": package("9", "deep", "plug"),
        "plug": package("1"),
    }  # fmt: skip
    assert list(lock.lines(installed)) == [
        "deep==4",
        "nvidia-cu==13  # cuda",
        "plug==1  # dev",
        "pytest==9  # dev",
        "torch==2.1",
        "zip-it==1.2",
    ]


def test_a_dockerfile_is_read_line_by_line(rehearse: Any) -> None:
    text = "# syntax=1\nFROM a\n\nRUN one \\\n    # why\n    two; \\\n  three\n\nUSER 1:1\n"
    assert rehearse.steps(text) == [("FROM", "a"), ("RUN", "one two; three"), ("USER", "1:1")]
    with pytest.raises(SystemExit, match="not known here"):
        rehearse.Image(Path(), {}, None).take(rehearse.Step("ADD", "a b"))


@pytest.fixture
def docker(rehearse: Any, tmp_path: Path) -> Any:
    """An image whose program writes what it is told to, in a folder."""
    image = rehearse.Image(tmp_path / "image", {"KIND": "small"}, None)
    program = "import os, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(os.environ['A'])"
    dockerfile = f"""
        ARG KIND=large
        ENV HOME=/home/me A=b
        WORKDIR /runs
        RUN mkdir -p outputs "$HOME" && \\
            echo "$KIND" > kind
        VOLUME /runs/outputs
        USER 1000:1000
        ENTRYPOINT {json.dumps(["python", "-c", program])}
    """
    for step in rehearse.steps(dockerfile):
        image.take(step)
    (tmp_path / "image/usr/local/bin").mkdir(parents=True)
    (tmp_path / "image/usr/local/bin/python").symlink_to(sys.executable)
    return rehearse.Docker(image, tmp_path)


def test_a_rehearsed_command_writes_into_what_is_mounted(docker: Any, tmp_path: Path) -> None:
    runs = tmp_path / "image/runs"
    assert (runs / "kind").read_text() == "small\n"
    docker.type("mkdir outputs")
    docker.type('docker run --rm -v "$PWD/outputs:/runs/outputs" lrexp outputs/one')
    docker.type("docker run --rm -v mine:/runs/outputs lrexp outputs/two")
    assert (tmp_path / "host/outputs/one").read_text() == "b"
    assert os.listdir(tmp_path / "volumes/mine") == ["two"]
    assert os.listdir(runs / "outputs") == []
    with pytest.raises(SystemExit):
        docker.type("docker run --no-such-option lrexp")


def test_what_a_rehearsed_command_leaves_elsewhere_is_found(docker: Any, tmp_path: Path) -> None:
    began = time.time()
    docker.type("docker run lrexp outputs/one")
    assert docker.elsewhere(began) == []
    docker.type("docker run lrexp two")
    assert docker.elsewhere(began) == [str(tmp_path / "image/runs/two")]
