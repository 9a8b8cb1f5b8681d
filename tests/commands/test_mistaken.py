"""Command lines of other tools are answered with the right one, whole."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_lines import run, user_environment
from conftest import ROOT

from lrexp.__main__ import main
from lrexp.config.quoting import is_read
from lrexp.config.schema import GROUPS


def answered(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(list(words)) == 2
    return capsys.readouterr().err.splitlines()


def test_mistakes_that_composing_finds_are_answered_with_the_others_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my images").mkdir()
    said = answered(
        *(capsys, "--lr", "0.1,0.01", "optimizer.name=adamw", "lr_policy.layer_decay=0.7"),
        *("model.name=resnet34", "pretrained=true", "data.path=my images"),
    )
    assert said == [
        "error: --lr 0.1,0.01: is written optimizer.lr=0.1,0.01",
        "  lr_policy.layer_decay=0.7: is written lr_policy.decay=0.7",
        "  pretrained=true: is written model.pretrained=true",
        *said[3:-1],
        "  write: lrexp -m optimizer.lr=0.1,0.01 optimizer=adamw lr_policy=layerwise_decay"
        " lr_policy.decay=0.7 model.name=resnet34 model=torchvision model.pretrained=true"
        " data=imagefolder 'data.path=my images'",
    ]
    assert "  optimizer.name=adamw: is written optimizer=adamw" in said
    assert list(tmp_path.iterdir()) == [tmp_path / "my images"]


def test_what_is_still_wrong_is_said_in_place_of_a_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = answered(capsys, "lr=0.1", "optimizer.momentun=0.9")
    assert said[:2] == [
        "error: lr=0.1: is written optimizer.lr=0.1",
        "  optimizer.momentun=0.9: there is no such setting",
    ]
    assert "write:" not in "\n".join(said)
    said = answered(capsys, "lr=0.1", "-m", "model=resnet18,resnet19")
    assert said[1:3] == [
        "  model=resnet19: there is no such option",
        *said[2:3],
    ]
    assert "write:" not in "\n".join(said)


def test_a_flag_that_is_nobodys_is_said_beside_the_habits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert answered(capsys, "which", "lr=0.1", "--budgt", "3") == [
        "error: lr=0.1: is written optimizer.lr=0.1",
        "  --budgt 3: is written --budget 3",
        "  write: lrexp which optimizer.lr=0.1 --budget 3",
    ]
    said = answered(capsys, "which", "lr=0.1", "--gizmo", "3")
    assert said[1].startswith("  --gizmo: is no word here")
    assert answered(capsys, "which", "seed=1-3")[-1].startswith("  -m: this verb makes grids")


def test_a_flag_with_a_value_that_it_does_not_take_is_said_as_well(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = answered(capsys, "--cfg", "jobs", "lr=0.1")
    assert said[0] == "error: lr=0.1: is written optimizer.lr=0.1"
    assert "'jobs'" in said[1]
    assert "write:" not in "\n".join(said)


def test_what_is_shown_is_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert answered(capsys, "--cfg", "job", "seeds=2")[1:] == [
        "  --cfg and --info show one run: give one value of each setting"
    ]
    said = answered(capsys, "-m", "--cfg", "job", "seed=0,1")
    assert said[0] == "error: seed=0,1: several values for one run"


def test_a_verb_and_its_run_stay(capsys: pytest.CaptureFixture[str]) -> None:
    golden = str(ROOT / "tests" / "golden_run")
    said = answered(capsys, "rerun", golden, "lr=0.1", "--check", "epochs: 2")
    assert said[-1] == f"  write: lrexp rerun {golden} optimizer.lr=0.1 --check trainer.epochs=2"


@pytest.mark.parametrize(
    ("started", "written"),
    [
        (["python", "-m", "lrexp", "lr=1"], "python -m lrexp optimizer.lr=1"),
        (["a b/python", "-u", "-m", "lrexp", "lr=1"], "'a b/python' -u -m lrexp optimizer.lr=1"),
        (["/bin/python", "/bin/lrexp", "lr=1"], "lrexp optimizer.lr=1"),
    ],
)
def test_the_program_stays_as_it_was_typed(
    started: list[str],
    written: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "orig_argv", started)
    assert answered(capsys, "lr=1")[-1] == f"  write: {written}"


def test_several_gpus_are_asked_of_torchrun_and_a_stopped_run_of_rerun(
    capsys: pytest.CaptureFixture[str],
) -> None:
    written = "torchrun --nproc_per_node=4 -m lrexp optimizer.lr=1"
    assert answered(capsys, "gpus=4", "lr=1")[-1] == f"  write: {written}"
    assert answered(capsys, "model=mlp", "--resume")[-1] == "  write: lrexp rerun latest --resume"


@pytest.mark.slow
def test_what_is_printed_runs_when_it_is_pasted_into_bash(tmp_path: Path) -> None:
    code, said = run(tmp_path, "--cfg", "job", "lr=slice(1e-5, 1e-3)", "warmup_epochs=1")
    assert code == 2
    pasted = said.partition("  write: ")[2].strip()
    environment = user_environment(tmp_path)
    done = subprocess.run(
        ["bash", "-c", pasted],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for line in ("lr: 0.001", "lr_low: 1.0e-05", "warmup: 1 epochs"):
        assert line in done.stdout, pasted


# --- What messages tell people to paste -----------------------------------------------------------

KEY = rf"(?:(?:{'|'.join(GROUPS)})(?:\.\w+)*|hydra[./]\w+(?:\.\w+)*|seed|name|cases)="
QUOTED = re.compile(rf"(?P<sign>['\"]){KEY}.*?(?P=sign)(?=[\s.,;:)]|$)")
BARE = re.compile(rf"(?<![\w.=/'\"{{-]){KEY}\S*")


def texts(tree: ast.AST) -> Iterator[str]:
    """Text that a module may print: no docstrings; what is filled in is an x."""
    of_others = {
        id(part) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in n.values
    }
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            of_others.add(id(body[0].value))
        if isinstance(node, ast.JoinedStr):
            parts = (p.value if isinstance(p, ast.Constant) else "x" for p in node.values)
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from [node.value] * (id(node) not in of_others)


def pasteable(text: str) -> list[str]:
    """The KEY=VALUE words of a text, as a shell would be given them."""
    quoted = [found[0] for found in QUOTED.finditer(text)]
    bare = [found[0].rstrip(".,;:?!`") for found in BARE.finditer(QUOTED.sub(" ", text))]
    return quoted + [word.rstrip(")") if "(" not in word else word for word in bare]


# Patterns, and words of lists that shlex.join makes a command of.
NOT_PRINTED = ("config/habits.py", "plan/multiplied.py", "report/range_test/found.py")


def words_of_messages() -> dict[str, Path]:
    """What messages and comments of YAML files tell people to paste, and where it stands."""
    package = ROOT / "lrexp"
    unprinted = [package / name for name in NOT_PRINTED]
    files = [file for file in package.rglob("*.py") if file not in unprinted]
    found = {}
    for file in files:
        for text in texts(ast.parse(file.read_text())):
            found |= dict.fromkeys(pasteable(text), file)
    for file in (ROOT / "conf").rglob("*.yaml"):
        comments = "\n".join(re.findall(r"#(.*)", file.read_text()))
        found |= dict.fromkeys(pasteable(comments.replace("\\\n", " ")), file)
    return found


def test_what_messages_and_files_tell_people_to_paste_works_in_bash() -> None:
    found = words_of_messages()
    assert len(found) > 150
    script = "\n".join(f"printf '%s\\0' {word}" for word in found)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    read = done.stdout.split("\0")[:-1]
    assert done.stderr == ""
    assert len(read) == len(found)  # each is one word to bash
    for word, override in zip(found, read, strict=True):
        assert [override] == shlex.split(word), (word, found[word])
        unquoted = word == override and re.search(r"[][{}()*?$|&;<>~`]", override)
        assert not unquoted, (word, found[word])
        assert is_read(override), (word, found[word])


def test_a_message_with_a_bracket_to_paste_is_found_out() -> None:
    assert pasteable("give data.normalize={mean: [0.5]} or x") == ["data.normalize={mean"]
    assert pasteable("x: 'lr_policy.rules=[{a: 1}]' (seed=1), or seed=2.") == [
        *("'lr_policy.rules=[{a: 1}]'", "seed=1", "seed=2"),
    ]
