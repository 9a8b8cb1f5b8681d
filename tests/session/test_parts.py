"""Parts handed over as Python objects: the run that their targets give, known to one call alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import own_parts
import pytest
import torch
from torch import nn

import lrexp
from lrexp.__main__ import main
from lrexp.config.errors import ConfigError, UserError
from lrexp.config.parts import handed_over
from lrexp.data.sources.arrays import from_arrays
from lrexp.session.parts import given_parts

SMOKE = ["experiment=smoke", "data.leak_check=skip"]


class Net(nn.Sequential):
    def __init__(self, in_channels: int, num_classes: int):
        super().__init__(nn.Conv2d(in_channels, 4, 3), nn.Flatten(), nn.Linear(4 * 36, num_classes))


def words(**parts: Any) -> list[str]:
    with given_parts(parts) as chosen:
        return chosen


def test_parts_become_the_custom_options_of_their_groups() -> None:
    found = words(policy=own_parts.slower, model=Net, metrics={"right": own_parts.right})
    assert found == [
        "lr_policy=custom",
        "lr_policy.target=own_parts.slower",
        "lr_policy.name=slower",
        "model=custom",
        f"model.target={__name__}.Net",
        "model.name=Net",
        "trainer.metrics.right=own_parts.right",
    ]
    assert not handed_over()


def test_data_in_memory_goes_by_its_content() -> None:
    images, labels = own_parts.stripes()
    other = images.copy()
    other[3, 2, 1] += 1
    targets = [words(data=data)[1] for data in ((images, labels), (images.copy(), labels.tolist()))]
    assert targets[0] == targets[1]
    assert targets[0].startswith("data.target=in_memory.arrays_")
    others = [(other, labels), (images, labels[::-1]), {"train": (images, labels)}]
    assert len({targets[0], *(words(data=data)[1] for data in others)}) == 4


class Says:
    """A metric whose answer no digest of its values sees."""

    def __init__(self, value: float):
        self.hidden = {"in": type("Holder", (), {"value": value})()}

    def __call__(self, scores: np.ndarray, labels: np.ndarray) -> float:
        return self.hidden["in"].value


def test_every_metric_is_its_own_function() -> None:
    metrics = {"one": Says(1.0), "two": Says(2.0)}
    with given_parts({"metrics": metrics}) as chosen:
        found = [handed_over()[word.partition("=")[2]] for word in chosen]
    assert found == [*metrics.values()]


def test_tensors_are_read_wherever_their_gradients_go() -> None:
    labels = torch.arange(4) % 2
    for images in (torch.rand(4, 1, 8, 8, requires_grad=True), torch.rand(4, 1, 8, 8).bfloat16()):
        plain = images.detach().float().numpy()
        found, expected = (from_arrays("x", (one, labels), 1) for one in (images, plain))
        assert np.array_equal(found.images, expected.images)
        assert words(data=(images, labels)) == words(data=(plain, labels))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"model": Net(1, 2)}, r"model=\.\.\. is a Net.*\n.*give its class"),
        ({"policy": 3}, "policy=... is a int, and a function or class is wanted"),
        ({"metrics": [own_parts.right]}, "are functions by name"),
        ({"lr_policy": own_parts.slower}, r"no such argument\n  did you mean 'policy'"),
        ({"epochs": 3}, r"no such argument\n  settings are overrides"),
    ],
)
def test_what_is_no_part_is_said(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        words(**parts)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> lrexp.Run:
    """A run of which every part was handed over."""
    folder = tmp_path_factory.mktemp("own") / "run"
    return lrexp.run(
        [*SMOKE, f"hydra.run.dir={folder}", "lr_policy.args.factor=0.3"],
        quiet=True,
        model=Net,
        data=own_parts.stripes(),
        policy=own_parts.slower,
        scheduler=lambda step, total_steps: 1 - step / total_steps,
        loss=partial(own_parts.focal, gamma=1.0),
        metrics={"brier_loss": own_parts.brier},
    )


def test_a_run_has_its_parts_under_their_names(trained: lrexp.Run) -> None:
    config, image = trained.config, torch.zeros(1, 1, 8, 8)
    assert trained.status == "finished"
    assert config["model"]["target"] == f"{__name__}.Net"
    assert config["loss"]["target"].startswith("in_memory.focal_")
    assert config["data"]["name"].startswith("arrays_")
    assert 0 < trained.best["val/brier_loss"] < trained.rows[0]["val/brier_loss"] + 1
    assert trained.model(image).shape == (1, 2)  # its class is still known to the object


def test_what_was_in_memory_is_asked_for_by_whoever_runs_it_again(
    trained: lrexp.Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LREXP_ALLOW_TARGETS", f"own_parts,{__name__}")
    assert main(["rerun", str(trained.folder)]) == 2
    said = capsys.readouterr().err
    assert "is what a program handed over when it ran" in said
    assert "data=...)" in said


@pytest.mark.slow
def test_a_run_is_loaded_where_its_network_is_though_its_data_is_nowhere(
    trained: lrexp.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=rf"LREXP_ALLOW_TARGETS={__name__}"):
        _ = lrexp.load(trained.folder).model
    monkeypatch.setenv("LREXP_ALLOW_TARGETS", __name__)
    loaded, images = lrexp.load(trained.folder).model, torch.ones(2, 1, 8, 8)
    assert torch.equal(loaded(images), trained.model(images))


@pytest.mark.slow
def test_functions_handed_over_give_the_run_that_their_targets_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LREXP_ALLOW_TARGETS", "own_parts")
    own: dict[str, Callable[..., Any]] = {"policy": own_parts.slower, "loss": own_parts.focal}
    objects = lrexp.run([*SMOKE, f"hydra.run.dir={tmp_path}/a"], quiet=True, **own)
    named = ["lr_policy=custom", "lr_policy.target=own_parts.slower", "lr_policy.name=slower"]
    named += ["loss=custom", "loss.target=own_parts.focal", "loss.name=focal"]
    by_name = lrexp.run([*SMOKE, f"hydra.run.dir={tmp_path}/b", *named], quiet=True)
    for key in ("weights_hash", "plan_hash", "config_id"):
        assert objects.summary[key] == by_name.summary[key], key


def test_a_pool_of_programs_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    asked = [*SMOKE, "seed=0,1", "hydra.launcher.executor=pool", f"hydra.sweep.dir={tmp_path}/s"]
    with pytest.raises(ConfigError, match=r"executor=pool: .*handed over as objects"):
        lrexp.sweep(asked, quiet=True, policy=own_parts.slower)
    assert not (tmp_path / "s").exists()


def test_arrays_of_the_wrong_shape_leave_no_folder(tmp_path: Path) -> None:
    asked = [*SMOKE, f"hydra.run.dir={tmp_path}/run"]
    with pytest.raises(UserError, match=r"labels have shape \(2,\), there are 80 images"):
        lrexp.run(asked, quiet=True, data=(own_parts.stripes()[0], np.arange(2)))
    assert not (tmp_path / "run").exists()
