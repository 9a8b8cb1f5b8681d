"""Every YAML file in conf/: it composes, checks, builds, and says what it is."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from own_parts import stripes
from PIL import Image

from lrexp.config.errors import ConfigError
from lrexp.config.names import conf_folder
from lrexp.config.schema import GROUPS, OPTIONS, Trainer, option_of

CONF = conf_folder()
CHOICES = sorted((p.parent.name, p.stem) for group in GROUPS for p in (CONF / group).glob("*.yaml"))
FILLED_IN = {  # a file without a schema of its own → the option whose file it begins with
    (group, option): content["defaults"][0]
    for group, option in CHOICES
    if group in OPTIONS
    and isinstance(content := yaml.safe_load((CONF / group / f"{option}.yaml").read_text()), dict)
    and content["defaults"][0] in OPTIONS[group]
}
FILES = sorted(CONF.rglob("*.yaml"))
NEEDS_DOWNLOAD = {("data", name) for name in ("fashion_mnist", "cifar10", "cifar100")}
MADE_FOR_224 = {
    ("model", name) for name in ("convnext_tiny", "squeezenet1_1", "swin_t", "vit_b_16")
}
NEEDS_MNIST = {("data", "mnist"), ("experiment", "mnist_simple_cnn")}
OWN_DATA = {  # experiments on the user's own images, and what they are below LREXP_TEST_DATA
    "traffic_signs": ("data.path=DATA/gtsrb32", "data.limit=100"),
    "hymenoptera": ("data.path=DATA/hymenoptera",),
    "cifar_shifted": ("data.path=DATA/cifar10_10k", "data.limit=100"),
}


CUSTOM = {  # parts of a user's own
    "model": ["model.target=lrexp.models.mlp.MLP", "model.args={widths: [4], dropout: 0}"],
    "data": ["data.target=own_parts.stripes"],
    "loss": ["loss.target=own_parts.focal"],
    "lr_policy": ["lr_policy.target=own_parts.slower"],
    "scheduler": ["scheduler.target=own_parts.halves"],
}


def own_images(group: str, option: str, folder: Path) -> list[str]:
    """Where the images are, for the options that read the user's own."""
    if (group, option) == ("data", "npz"):
        images, labels = stripes()
        np.savez(folder / "own.npz", images=images, labels=labels)
        return [f"data.path={folder}/own.npz"]
    if group != "data" or option not in ("hf", "imagefolder", "csv"):
        return []
    files = [f"{c}/{i}.png" for c in ("cat", "dog") for i in range(10)]
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)
    if option == "csv":
        rows = [f"{name},{name[:3]}" for name in files]
        folder = folder / "images.csv"
        folder.write_text("\n".join(["path,label", *rows]))
    return [f"data.path={folder}"]


@pytest.mark.parametrize(("group", "option"), CHOICES)
def test_every_option_composes_and_builds(
    group: str,
    option: str,
    compose: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from lrexp.build.data import StatedData
    from lrexp.build.experiment import build
    from lrexp.build.model import build_model

    overrides = [f"{group}={option}", *own_images(group, option, tmp_path)]
    if (group, option) in NEEDS_DOWNLOAD:
        assert compose(*overrides).data.name == option
        pytest.skip("it composes; building needs the network")
    data = os.environ.get("LREXP_TEST_DATA")
    if group == "experiment" and option in OWN_DATA:
        if not data:
            pytest.skip("needs images: LREXP_TEST_DATA is not set")
        overrides += [override.replace("DATA", data, 1) for override in OWN_DATA[option]]
    if (group, option) in NEEDS_MNIST:
        composed = compose(*overrides)
        if data is None:
            assert composed.data.name == "mnist"
            pytest.skip("it composes; building needs MNIST: LREXP_TEST_DATA is not set")
        overrides += [f"data.root={data}/mnist", "data.download=false", "data.limit=1000"]
    if option == "custom":
        monkeypatch.setenv("LREXP_ALLOW_TARGETS", "lrexp,own_parts")
        overrides += CUSTOM[group]
    if (group, option) in MADE_FOR_224:
        imagenet = StatedData((3, 224, 224), tuple(map(str, range(10))), 1000, exact=True)
        assert build_model(compose(*overrides), imagenet, meta=True)[1].depth >= 10
        return
    config = compose(*overrides, "trainer.device=cpu")
    if (group, option) == ("loss", "bce"):  # it composes, and is not for the default's labels
        with pytest.raises(ConfigError, match="any number of labels"):
            build(config)
        return
    experiment = build(config)
    assert {row.name for row in experiment.plan.rows} == {
        name for name, _ in experiment.model.named_parameters()
    }
    assert len(experiment.schedule) > 0
    if group not in ("experiment", "trainer"):
        assert option_of(vars(getattr(config, group))) == FILLED_IN.get((group, option), option)


@pytest.mark.parametrize(
    ("group", "option", "schema"),
    [
        (group, name, option.schema)
        for group, options in OPTIONS.items()
        for name, option in options.items()
    ]
    + [("trainer", "default", Trainer)],
)
def test_a_file_sets_every_field_of_its_schema_and_nothing_else(
    group: str, option: str, schema: type
) -> None:
    content = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
    if "/schema/data_settings@_here_" in content["defaults"]:
        content |= yaml.safe_load((CONF / "schema/data_settings.yaml").read_text())
    assert set(content) - {"defaults"} == {f.name for f in fields(schema)}


def test_every_file_has_a_schema_and_every_schema_a_file() -> None:
    for group, kinds in OPTIONS.items():
        filled_in = {option for of, option in FILLED_IN if of == group}
        assert not filled_in & set(kinds)
        assert {p.stem for p in (CONF / group).glob("*.yaml")} == set(kinds) | filled_in


@pytest.mark.parametrize("file", FILES, ids=lambda p: str(p.relative_to(CONF)))
def test_a_file_starts_with_a_comment_and_is_short(file: Path) -> None:
    lines = file.read_text().splitlines()
    comments = [line for line in lines[:2] if re.match(r"# (?!@package)\w", line)]
    assert comments
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("file", FILES, ids=lambda p: str(p.relative_to(CONF)))
def test_no_word_is_read_as_a_boolean_by_accident(file: Path) -> None:
    assert not re.search(r":\s*(on|off|yes|no)\b", file.read_text(), re.IGNORECASE)


EXPERIMENTS = sorted((CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda p: p.stem)
def test_an_experiment_gives_the_command_that_runs_it(file: Path) -> None:
    assert f"#   python -m lrexp experiment={file.stem}" in file.read_text()


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda p: p.stem)
def test_an_experiment_is_named_after_its_file(file: Path, compose: Callable[..., Any]) -> None:
    somewhere = ["data.path=."] if file.stem in OWN_DATA else []
    assert compose(f"experiment={file.stem}", *somewhere).name == file.stem


def test_experiments_have_the_last_word_but_for_the_command_line(
    compose: Callable[..., Any],
) -> None:
    assert compose("experiment=smoke").trainer.epochs == 2
    assert compose("experiment=smoke", "trainer.epochs=7").trainer.epochs == 7
    assert compose("experiment=smoke", "logger=wandb").logger.name == "wandb"


@pytest.mark.parametrize("group", GROUPS)
def test_schemas_never_show_up_as_options(group: str, compose: Callable[..., Any]) -> None:
    from hydra.core.object_type import ObjectType

    from lrexp.config.compose import CheckedLoader

    loader = CheckedLoader()
    found = loader.repository.get_group_options(group, ObjectType.CONFIG)
    assert sorted(found) == sorted(p.stem for p in (CONF / group).glob("*.yaml"))
