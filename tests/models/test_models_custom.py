"""model=custom: the user's own class, imported only from a package that the environment allows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from processes import HUNG_S

from lrexp.build.data import build_dataset
from lrexp.build.experiment import build
from lrexp.build.model import build_model
from lrexp.config.errors import ConfigError
from lrexp.models.weights import save_weights

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, image_shape, num_classes, width=4, depth=1):
        super().__init__()
        channels, height, side = image_shape
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(depth))
        self.classify = nn.Linear(width, num_classes)

    def forward(self, images):
        x = self.stem(images)
        for block in self.blocks:
            x = block(x).relu()
        return self.classify(x.mean((2, 3)))

class Named(Net):
    def __init__(self, in_channels, num_classes):
        super().__init__((in_channels, 8, 8), num_classes)
        self.steps = int(torch.ones(3).sum())  # needs values, which the meta device has not

class Fixed(Net):
    def __init__(self):
        super().__init__((1, 8, 8), 3)

class Odd(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.out = nn.Conv2d(4, num_classes, 1)  # the classifier, registered first
        self.stem = nn.Conv2d(in_channels, 4, 3)
        self.hidden = nn.Linear(4, 4)

    def forward(self, images):
        x = self.hidden(self.stem(images).mean((2, 3)))
        return self.out(x[:, :, None, None]).flatten(1)

class Empty(nn.Module):
    pass

class Plain:
    pass

number = 3

def function(num_classes):
    return Net((1, 8, 8), num_classes)

def words():
    return "Net"

def lazy(num_classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a package of the user's, importable and allowed."""
    name = f"nets_{tmp_path.name.replace('-', '_')}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "nets.py").write_text(NETS)
    (tmp_path / name / "broken.py").write_text("raise RuntimeError('no GPU here')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LREXP_ALLOW_TARGETS", f"other, {name}")
    return name


def test_the_class_gets_its_arguments_and_what_it_takes_of_the_data(
    compose: Any, package: str
) -> None:
    config = compose(
        "model=custom", f"model.target={package}.nets.Net", "model.args.width=6",
        "model.args.depth=2", "data.classes=[1,2,3]", "lr_policy=layerwise_decay",
    )  # fmt: skip
    assert config.model.name == f"{package}.nets.Net"
    experiment = build(config)
    assert experiment.model.stem.weight.shape == (6, 1, 3, 3)
    assert experiment.layers.layer_names == ["stem", "blocks.0", "blocks.1", "classify"]
    assert {r.name for r in experiment.plan.rows if r.head} == {"classify.weight", "classify.bias"}
    first = experiment.model.state_dict()
    again = build(config).model.state_dict()
    assert all(torch.equal(first[n], again[n]) for n in first)  # it follows the seed


def test_order_convention_and_weights_work_for_it_too(
    compose: Any, package: str, tmp_path: Path
) -> None:
    overrides = ["model=custom", f"model.target={package}.nets.Net"]
    model, _ = build_model(c := compose(*overrides), build_dataset(c, torch.device("cpu")))
    save_weights(model.state_dict(), tmp_path / "w.safetensors", tuple("abc"))
    loaded = build(
        compose(
            *overrides, f"model.weights={tmp_path / 'w.safetensors'}", "seed=9",
            "model.layers=[blocks.*,stem.*]",
        )
    )  # fmt: skip
    assert torch.equal(loaded.model.stem.weight, model.stem.weight)
    assert loaded.layers.layer_names == ["blocks.*", "stem.*", "classify"]
    assert {r.source for r in loaded.plan.rows if r.head} == {"fresh"}
    assert build(compose(*overrides, "model.convention=block")).layers.layer_names == [
        "stem", "blocks", "classify",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["Net", "Named", "function"])
def test_a_plan_of_it_has_no_values_though_it_computes_with_some(
    compose: Any, package: str, name: str
) -> None:
    config = compose("model=custom", f"model.target={package}.nets.{name}")
    model, layers = build_model(config, build_dataset(config, torch.device("cpu")), meta=True)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert layers.depth == 3


@pytest.mark.parametrize(
    ("target", "args", "message"),
    [
        ("PACKAGE.nets.Nett", {}, r"has no Nett\n.*did you mean 'Net'\?"),
        ("PACKAGE.nets.lazy", {}, "has lazy layers"),
        ("PACKAGE.nothing.Net", {}, r"cannot be imported: ModuleNotFound.*\n.*PYTHONPATH"),
        ("PACKAGE.broken.Net", {}, r"cannot be imported: RuntimeError: no GPU here"),
        ("PACKAGE.nets.Plain", {}, "is no subclass of torch.nn.Module"),
        ("PACKAGE.nets.number", {}, "is a int, no function and no class"),
        ("PACKAGE.nets.words", {}, "gave a str, no torch.nn.Module"),
        ("PACKAGE.nets.Empty", {}, "has no parameters to train"),
        ("PACKAGE.nets.Fixed", {}, r"gives \(1, 3\) for one image of 1×8×8; \(1, 10\) is wanted"),
        ("PACKAGE.nets.Net", {"hight": 2}, r"raised TypeError.*hight.*\n.*called with"),
        ("PACKAGE.nets.Net", {"num_classes": 2}, r"model\.args\.num_classes=2: is given by lrexp"),
    ],
)
def test_what_cannot_be_a_network_is_said_in_words(
    compose: Any, package: str, target: str, args: dict[str, Any], message: str
) -> None:
    given = [f"model.args.{key}={value}" for key, value in args.items()]
    config = compose("model=custom", f"model.target={target.replace('PACKAGE', package)}", *given)
    with pytest.raises(ConfigError, match=message):
        build_model(config, build_dataset(config, torch.device("cpu")))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("PACKAGEx.nets.Net", r"not allowed\n.*LREXP_ALLOW_TARGETS=other,PACKAGE,PACKAGEx"),
        ("os.system", r"not allowed\n.*LREXP_ALLOW_TARGETS=other,PACKAGE,os"),
        ("torch.nn.Linear", "is in a package that is not allowed"),
        ("PACKAGE", "is no name of a class"),
        ("PACKAGE..Net", "is no name of a class"),
        ("PACKAGE.nets.9Net", "is no name of a class"),
    ],
)
def test_nothing_is_imported_before_its_package_is_allowed(
    compose: Any, package: str, target: str, message: str
) -> None:
    before = set(sys.modules)
    with pytest.raises(ConfigError, match=message.replace("PACKAGE", package)):
        compose("model=custom", f"model.target={target.replace('PACKAGE', package)}")
    assert not {n for n in set(sys.modules) - before if n.startswith(package)}


def test_without_the_variable_or_a_target_nothing_is_allowed(
    compose: Any, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"model\.target: has no value"):
        compose("model=custom")
    target = f"model.target={package}.nets.Net"
    with pytest.raises(ConfigError, match=r"model\.args\._target_=.*plain values"):
        compose("model=custom", target, "model.args._target_=os.system")
    monkeypatch.delenv("LREXP_ALLOW_TARGETS")
    with pytest.raises(ConfigError, match=rf"\n  set .* LREXP_ALLOW_TARGETS={package}$"):
        compose("model=custom", target)


@pytest.mark.slow
def test_an_installed_copy_trains_the_users_network_from_the_users_config_folder(
    tmp_path: Path,
) -> None:
    pytest.importorskip("hatchling")
    (tmp_path / "mypkg").mkdir()
    (tmp_path / "mypkg" / "__init__.py").write_text("")
    (tmp_path / "mypkg" / "nets.py").write_text(NETS)
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "net.yaml").write_text(
        "defaults: [custom, _self_]\ntarget: mypkg.nets.Net\nargs: { width: 8 }\n"
    )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install", "--no-deps"]
    pip += ["--no-build-isolation", "--target", "site", str(ROOT)]
    subprocess.run(pip, cwd=tmp_path, check=True, capture_output=True, timeout=HUNG_S)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    kept |= {"PYTHONPATH": f"{tmp_path / 'site'}:{tmp_path}", "LREXP_ALLOW_TARGETS": "mypkg"}

    def lrexp(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(tmp_path / "site" / "bin" / "lrexp"), "--config-dir", "mine", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=kept, capture_output=True, text=True, timeout=HUNG_S,
            check=False,
        )  # fmt: skip

    done = lrexp("model=net", "experiment=smoke", "model.args.depth=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mypkg.nets.Net: 314 parameters" in done.stdout
    (config,) = tmp_path.glob("outputs/smoke/*/config.yaml")
    assert "library: custom\n" in config.read_text()
    assert "name: mypkg.nets.Net\n" in config.read_text()
    kept["LREXP_ALLOW_TARGETS"] = "otherpkg"
    missing = lrexp("model=custom")
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: model.target: has no value")
    refused = lrexp("model=net", "experiment=smoke", "name=refused")
    assert refused.returncode == 2
    assert "LREXP_ALLOW_TARGETS=otherpkg,mypkg" in refused.stderr
    assert not (tmp_path / "outputs" / "refused").exists()


def test_the_head_is_what_changes_shape_with_the_classes(compose: Any, package: str) -> None:
    config = compose("model=custom", f"model.target={package}.nets.Odd")
    experiment = build(config)
    assert {p.name for p in experiment.layers.parameters if p.head} == {"out.weight", "out.bias"}
    frozen = build(compose("model=custom", f"model.target={package}.nets.Odd",
                           "lr_policy=freeze_backbone"))  # fmt: skip
    trained = {row.name for row in frozen.plan.rows if not row.frozen}
    assert trained == {"out.weight", "out.bias"}


def test_weights_for_other_classes_leave_that_head_fresh(
    compose: Any, package: str, tmp_path: Path
) -> None:
    model = build(compose("model=custom", f"model.target={package}.nets.Odd")).model
    save_weights(model.state_dict(), tmp_path / "w.safetensors", tuple("9876543210"))
    config = compose(
        "model=custom",
        f"model.target={package}.nets.Odd",
        f"model.weights={tmp_path}/w.safetensors",
    )
    fresh = {row.name for row in build(config).plan.rows if row.source == "fresh"}
    assert fresh == {"out.weight", "out.bias"}
