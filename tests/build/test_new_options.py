"""Adding an option is its function, its YAML file and its schema: nothing else is touched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from trainers import Silent, trainer_of

import lrexp
from lrexp.build.experiment import build_preview
from lrexp.config.errors import ConfigError
from lrexp.config.schema import OPTIONS, Option, load, meaning_of, store_schemas
from lrexp.config.schema.meaning import length, number
from lrexp.config.schema.rates import Optimizer, Policy, Scheduler
from lrexp.config.schema.training import Data, Model
from lrexp.data.source import Source
from lrexp.models.layers import LayerMap
from lrexp.plan.plan import Plan, Treatment, make_plan


@dataclass
class OwnModel(Model):
    width: int = number(at_least=1)


class OwnNet(nn.Sequential):
    def __init__(
        self, image_shape: tuple[int, int, int], num_classes: int, *, name: str = "", width: int = 1
    ):
        inputs = int(np.prod(image_shape))
        super().__init__(nn.Flatten(), nn.Linear(inputs, width), nn.Linear(width, num_classes))


@dataclass
class OwnData(Data):
    brightness: int = number(at_least=0, at_most=255)


def own_source(brightness: int, train_size: int) -> Source:
    images = np.full((train_size, 1, 2, 2), brightness, np.uint8)
    images[:, 0, 0, 0] = np.arange(train_size)  # no two are the same
    return Source(images, np.arange(train_size) % 2, ("even", "odd"))


@dataclass
class OwnOptimizer(Optimizer):
    dampening: float = number(at_least=0, neutral=0.0)


def own_optimizer(groups: list[dict[str, Any]], *, lr: float, dampening: float) -> Any:
    return torch.optim.SGD(groups, lr=lr, momentum=0.5, dampening=dampening)


@dataclass
class OwnPolicy(Policy):
    backbone: float = number(above=0)


def own_policy(
    layers: LayerMap,
    base_lr: float,
    base_weight_decay: float,
    *,
    backbone: float,
    decay_bias_norm: bool,
) -> Plan:
    return make_plan(layers, lambda p: Treatment(1.0 if p.head else backbone, base_weight_decay))


@dataclass
class OwnScheduler(Scheduler):
    hold: Any = length(least=1)


def own_schedule(steps: int, steps_per_epoch: int, *, hold_steps: int, floor: float) -> list[float]:
    return [1.0 if t < hold_steps else floor for t in range(steps)]


OWN = {
    "model": Option(OwnModel, f"{__name__}:OwnNet"),
    "data": Option(OwnData, f"{__name__}:own_source"),
    "optimizer": Option(OwnOptimizer, f"{__name__}:own_optimizer"),
    "lr_policy": Option(OwnPolicy, f"{__name__}:own_policy"),
    "scheduler": Option(OwnScheduler, f"{__name__}:own_schedule"),
}
YAML = {
    "model": "{width: 3, weights: null, strict: true, layers: null, convention: timm}",
    "data": "{brightness: 9, num_classes: 2, image_shape: [1, 2, 2], train_size: 100}",
    "optimizer": "{lr: 0.1, weight_decay: 0.0, dampening: 0.2}",
    "lr_policy": "{backbone: 0.5, decay_bias_norm: false}",
    "scheduler": "{hold: 1 epoch, floor: 0.25, warmup: 0}",
}


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for --config-dir with an option for each of five groups, and these registered."""
    for group, option in OWN.items():
        monkeypatch.setitem(OPTIONS[group], "own", option)
        common = ", /schema/data_settings@_here_" if group == "data" else ""
        defaults = f"[/schema/{group}/own@_here_{common}, _self_]"
        (tmp_path / group).mkdir()
        own = f"{{defaults: {defaults}, name: own, {YAML[group][1:]}\n"
        (tmp_path / group / "own.yaml").write_text(own)
    store_schemas()
    meaning_of.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    meaning_of.cache_clear()


def composed(folder: Path, *overrides: str) -> Any:
    from hydra import version
    from hydra.core.utils import setup_globals
    from hydra.types import RunMode

    from lrexp.config.check import check
    from lrexp.config.compose import CONFIG_NAME, CheckedLoader, without_hydra

    version.setbase("1.3")
    setup_globals()
    loader = CheckedLoader(str(folder))
    config = loader.load_configuration(CONFIG_NAME, list(overrides), RunMode.RUN)
    return check(without_hydra(config))[1]


def test_an_option_of_each_group_trains_once_it_is_registered(own_folder: Path) -> None:
    own = [f"{group}=own" for group in OWN]
    config = composed(own_folder, *own, "trainer.epochs=2", "trainer.device=cpu")
    preview = build_preview(config)
    per_epoch = preview.steps_per_epoch
    trainer = trainer_of(config)
    trainer.run(Silent())
    experiment = trainer.experiment
    assert len(trainer.rows) == 2
    assert experiment.schedule == [1.0] * per_epoch + [0.25] * per_epoch
    assert {row.lr_scale for row in experiment.plan.rows} == {0.5, 1.0}
    assert experiment.plan.hash == preview.plan.hash
    assert experiment.optimizer.param_groups[0]["dampening"] == 0.2
    assert experiment.dataset.class_names == ("even", "odd")
    assert isinstance(experiment.model, OwnNet)


def test_a_file_without_its_schema_names_the_options_there_are(tmp_path: Path) -> None:
    (tmp_path / "lr_policy").mkdir()
    file = tmp_path / "lr_policy" / "layerwise.yaml"
    file.write_text("defaults: [/schema/lr_policy/layerwise@_here_, _self_]\nname: layerwise\n")
    with pytest.raises(ConfigError) as caught:
        composed(tmp_path, "lr_policy=layerwise")
    said = str(caught.value)
    assert said.startswith("lr_policy=layerwise: its file asks for a schema that is not there\n")
    assert "did you mean 'layerwise_decay'? allowed: auto_rgn, " in said
    assert "OPTIONS of lrexp/config/schema/__init__.py" in said
    assert "from the command line: lr_policy=layerwise" in said


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (f"{__name__}:own_polcy", f"{__name__} has no own_polcy\n  did you mean 'own_policy'?"),
        ("lrexp.plan.policies.mine:own", "there is no module lrexp.plan.policies.mine\n"),
    ],
)
def test_an_option_whose_function_is_missing_says_so(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, target: str, said: str
) -> None:
    monkeypatch.setitem(OPTIONS["lr_policy"], "own", Option(OwnPolicy, target))
    with pytest.raises(ConfigError) as caught:
        build_preview(composed(own_folder, "lr_policy=own"))
    assert str(caught.value).startswith(f"lr_policy=own: {said}")
    assert f"from OPTIONS in lrexp/config/schema/__init__.py: {target}" in str(caught.value)


def test_a_module_that_lacks_a_package_of_its_own_says_which(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lacking_one.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        load("lacking_one:policy")


def test_no_module_lists_its_names_beside_the_registry() -> None:
    package = Path(lrexp.__file__).parent
    assert not [file for file in package.rglob("*.py") if "__all__" in file.read_text()]
