"""Checkpoints of other programs: found where they keep the weights, refused in words of ours."""

from __future__ import annotations

import argparse
import logging
import pickle
import shlex
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lrexp.config.errors import ConfigError, first_line
from lrexp.config.quoting import unreadable
from lrexp.config.schema.training import Model
from lrexp.folder.checkpoint import load_checkpoint
from lrexp.models.pretrained import expected_input
from lrexp.models.simple_cnn import SimpleCNN
from lrexp.models.weight_files import read_file
from lrexp.models.weights import load_weights, read_weights

FIVE = ("0", "1", "2", "3", "4")


def cnn() -> SimpleCNN:
    return SimpleCNN((1, 8, 8), 5, channels=3, kernel_size=5, hidden=6)


STATE = cnn().state_dict()
OTHER = {name: tensor + 1 for name, tensor in STATE.items()}


def named(prefix: str, state: dict[str, Any] = STATE) -> dict[str, Any]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"net": STATE, "acc": 0.5, "epoch": 3}, ""),
        ({"network": STATE, "optimizer": {"state": {0: {"m": torch.zeros(1)}}}}, ""),
        ({"checkpoint": {"model": STATE, "epoch": 1}}, ""),
        ({"whatever": STATE, "epoch": 1}, ""),
        ({"ema": {"module": STATE, "decay": 0.999}}, ""),
        ({"ema": OTHER, "model": STATE}, "taken from model, not from ema"),
        ({"state_dict_ema": OTHER, "state_dict": STATE}, "taken from state_dict, not from"),
        ({"state_dict": named("model.")}, "prefix model. left out"),
        (named("net."), "prefix net. left out"),
        (named("backbone."), "prefix backbone. left out"),
        ({"model": named("module._orig_mod.encoder.")}, "prefix module._orig_mod.encoder. left"),
        (named("student.any_name."), "prefix student.any_name. left out"),
    ],
)
def test_weights_are_found_however_deep_and_whatever_stands_before_their_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: Any, said: str
) -> None:
    torch.save(content, tmp_path / "w.pt")
    model = cnn()
    with caplog.at_level(logging.INFO):
        assert len(load_weights(model, str(tmp_path / "w.pt"), FIVE, "head")) == 6
    assert all(torch.equal(t, STATE[n]) for n, t in model.state_dict().items())
    (record,) = caplog.records
    assert said in record.getMessage()
    assert (record.levelno == logging.WARNING) == bool(said)  # what was guessed is shown


def test_a_prefix_that_belongs_to_the_model_stays(tmp_path: Path) -> None:
    model = nn.Sequential()
    model.add_module("net", nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    torch.save(model.state_dict(), tmp_path / "w.pt")
    assert len(load_weights(model, str(tmp_path / "w.pt"), FIVE, "net.1")) == 4


def test_what_an_average_counts_beside_the_weights_is_named(tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(cnn())
    torch.save(averaged.state_dict(), tmp_path / "w.pt")
    wanted = r"unexpected n_averaged\n.*strict=false loads the 6 tensors that fit"
    with pytest.raises(ConfigError, match=wanted):
        load_weights(cnn(), str(tmp_path / "w.pt"), FIVE, "head")
    assert len(load_weights(cnn(), str(tmp_path / "w.pt"), FIVE, "head", strict=False)) == 6


def test_strict_false_is_no_advice_where_nothing_fits(tmp_path: Path) -> None:
    save_file(nn.Linear(2, 2).state_dict(), tmp_path / "w.safetensors")
    for strict in (True, False):
        with pytest.raises(ConfigError, match="none of the tensors fits the model") as raised:
            load_weights(cnn(), str(tmp_path / "w.safetensors"), FIVE, "head", strict=strict)
        assert "model.strict" not in str(raised.value)
        assert "missing conv.weight" in str(raised.value)


def refusal(file: Path) -> str:
    """What is said of a file, the same whether its header or all of it is read."""
    said = set()
    for header_only in (True, False):
        with pytest.raises(ConfigError) as raised:
            read_weights(str(file), header_only)
        said.add(str(raised.value))
    (message,) = said
    assert "\x1b" not in message
    for word in (
        "weights_only=True",
        "PyTorch",
        "pytorch",
        "add_safe_globals",
        "MetadataIncomplete",
    ):
        assert word not in message
    assert len(message.splitlines()) <= 2
    return message.replace(str(file), "FILE")


OPTIONS = argparse.Namespace(lr=0.1)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "class_name"),
    [
        ({"state_dict": STATE, "args": OPTIONS}, "argparse.Namespace"),
        ({"checkpoint": {"net": STATE}, "args": OPTIONS}, "argparse.Namespace"),
        ({**STATE, "args": OPTIONS}, "argparse.Namespace"),
        (cnn(), "lrexp.models.simple_cnn.SimpleCNN"),
        ({"model": cnn(), "epoch": 1}, "lrexp.models.simple_cnn.SimpleCNN"),
    ],
    ids=["state", "nested", "mixed", "network", "network_in_dict"],
)
def test_a_checkpoint_with_objects_is_refused_with_a_command_that_converts_it(
    tmp_path: Path, content: Any, class_name: str, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / 'it\'s a "file".pt'
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConfigError) as raised:
        read_weights(str(file))
    first, hint = str(raised.value).splitlines()
    assert f"holds objects beside tensors, of {class_name}" in first
    command = shlex.split(hint.partition("from: ")[2])
    assert command[:2] == ["python", "-c"]
    monkeypatch.chdir(tmp_path)
    exec(command[2], {})  # as the user would run it
    assert len(load_weights(cnn(), "weights.pt", FIVE, "head")) == 6


def test_every_damage_has_one_sentence(tmp_path: Path) -> None:
    def written(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return refusal(tmp_path / name)

    torch.save(STATE, tmp_path / "zip.pt")
    torch.save(STATE, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(STATE, tmp_path / "w.safetensors")
    whole = {name: (tmp_path / name).read_bytes() for name in ("zip.pt", "old.pt", "w.safetensors")}
    for name in ("zip.pt", "old.pt"):
        half = whole[name][: len(whole[name]) // 2]
        size = f"{len(half):,} bytes"
        assert f"damaged or incomplete checkpoint of torch.save ({size})" in written("a", half)
    for length in (60, len(whole["w.safetensors"]) - 8):
        said = written("a", whole["w.safetensors"][:length])
        assert f"damaged or incomplete safetensors file ({length:,} bytes)" in said
    assert written("a", b"") == "model.weights=FILE: is empty\n  copy or download it again"
    assert "is a web page, not weights" in written("a.pth", b"\n<!DOCTYPE html><html><head>")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n"
    assert "pointer of git-lfs, not the file it stands for\n  git lfs pull" in written("a", pointer)
    assert "neither a safetensors file nor a checkpoint" in written("a", b"\x12\x34" * 50)
    assert "is a pickle, but none that torch.save wrote" in written("a", pickle.dumps({"a": 1}))
    for inside, expected in (
        ("a.txt", "is a zip archive, but none that torch.save wrote"),
        ("m/constants.pkl", "is a TorchScript program, not its weights\n  convert it: python -c"),
    ):
        with zipfile.ZipFile(tmp_path / "z.pt", "w") as archive:
            archive.writestr(inside, "x")
        assert expected in refusal(tmp_path / "z.pt")


def test_what_holds_no_weights_or_several_says_what_is_in_it(tmp_path: Path) -> None:
    for content, held in (
        ([1, 2], "it holds list"),
        ({"epoch": 1, "\x1b[31mred": 2}, r"it holds epoch, \?\[31mred"),
        ({"one": {"w": torch.zeros(1)}, "two": {"w": torch.zeros(1)}}, "it holds one, two"),
    ):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(ConfigError, match=rf"holds no state_dict\n.*{held}"):
            read_weights(str(tmp_path / "w.pt"))


def test_class_names_in_words_of_somebody_else_are_not_known(tmp_path: Path) -> None:
    for written in ("cat, dog", '{"0": "cat"}', "[1, 2]"):
        save_file(STATE, tmp_path / "w.safetensors", metadata={"class_names": written})
        assert read_weights(str(tmp_path / "w.safetensors")).class_names is None


def test_a_path_that_hydra_cannot_read_is_quoted_so_that_it_can(
    compose: Any, tmp_path: Path
) -> None:
    for name in ("epoch=3.ckpt", 'epoch=3-loss="0.2".ckpt', "last (2).ckpt", "[a]{b}.ckpt"):
        file = tmp_path / name
        torch.save(STATE, file)
        said = unreadable(f"model.weights={file}")
        (word,) = shlex.split(said.partition("write ")[2])
        assert compose(word).model.weights == str(file)
    for other in ("optimizer.lr==3", "nothing.known=a=b", "model.weights=', a=b"):
        assert unreadable(other).startswith("cannot be read; write KEY=VALUE") == (
            "weights" not in other
        )


def test_no_bold_letters_of_a_library_reach_a_message() -> None:
    assert first_line(ValueError("\x1b[1mdo those steps\x1b[0m only")) == "do those steps only"


def test_tensors_that_stand_for_more_than_was_saved_are_refused(tmp_path: Path) -> None:
    expanded = {"model": {"w": torch.zeros(1).expand(10**12)}, "epoch": 1, "step": 1}
    torch.save(expanded, tmp_path / "w.pt")
    for header_only in (False, True):
        with pytest.raises(ConfigError, match="made of fewer numbers"):
            read_file(tmp_path / "w.pt", "w.pt", header_only)
    with pytest.raises(ValueError, match="made of fewer numbers"):
        load_checkpoint(tmp_path / "w.pt")


def test_a_packed_checkpoint_is_not_unpacked(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1_000_000)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert read_file(tmp_path / "plain.pt", "plain.pt", False)[0]["w"].numel() == 1_000_000
    with pytest.raises(ConfigError, match="is packed"):
        read_file(tmp_path / "w.pt", "w.pt", False)


@pytest.mark.parametrize(
    "metadata",
    [
        {"mean": "[1e400]", "std": "[1]"},
        {"mean": "[0.5]", "std": "[0]"},
        {"mean": "[" * 10_000 + "]" * 10_000, "std": "[1]"},
        {"mean": "[0.5]", "std": "[1" + "0" * 400 + "]"},
        {"mean": "[0.5, 0.5]", "std": "[1]"},
        {"mean": "[]", "std": "[]"},
        {"class_names": "[" * 100_000},
    ],
)
def test_metadata_that_makes_no_sense_is_passed_over(
    metadata: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "w.safetensors"
    save_file({"w": torch.zeros(2)}, file, metadata=metadata)
    assert read_file(file, "w", True)[1] is None
    model = Model(name="mlp", weights=str(file), strict=True, layers=None, convention="timm")
    assert expected_input(model) is None
