"""Points: composed once, told apart, kept in a file."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from grid_points import composing
from omegaconf import OmegaConf

from lrexp.config.errors import ConfigError, UserError
from lrexp.grid.points.point import (
    POINTS,
    Point,
    flat,
    in_short,
    make_point,
    points_text,
    read_points,
    read_summary,
    refuse_shared_folders,
)
from lrexp.runs.sweep import swept_keys


@pytest.fixture
def points() -> Iterator[Callable[..., Any]]:
    with composing() as function:
        yield function


GRIDS = [
    ["experiment=smoke", "seed=1", "optimizer.lr=0.1"],
    ["lr_policy=layerwise_decay", "lr_policy.decay=.6", "model=mlp", "data.eval_sets={a: b}"],
    ["lr_policy=per_layer", "lr_policy.rules=[{match: 'conv.*', lr: 0.1}]"],
    ["optimizer=torch", "optimizer.name=NAdam", "optimizer.args.momentum_decay=0.01"],
    ["+logger.tags=[a]", "seed=3", "optimizer=adam"],
]


@pytest.mark.parametrize("overrides", GRIDS, ids=" ".join)
def test_a_point_is_composed_to_what_hydra_composes(overrides: list[str]) -> None:
    from hydra import version
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.utils import setup_globals
    from hydra.types import RunMode

    from lrexp.config.compose import CONFIG_NAME, CheckedLoader

    version.setbase("1.3")
    setup_globals()
    loader = CheckedLoader()
    master = loader.load_configuration(
        CONFIG_NAME, ["seed=1,2", "hydra.mode=MULTIRUN"], RunMode.MULTIRUN
    )
    assert master.hydra.sweep.dir  # resolves `now`, which all points share
    for _ in range(2):  # the second time from what the first has kept
        ours = loader._composed_point(master, overrides)
        hydras = ConfigLoaderImpl.load_sweep_config(loader, master, overrides)
        ours.hydra.job.override_dirname = hydras.hydra.job.override_dirname  # set afterwards
        assert OmegaConf.to_container(ours) == OmegaConf.to_container(hydras)
        assert OmegaConf.get_cache(ours) == OmegaConf.get_cache(master)
        assert OmegaConf.is_struct(ours) is OmegaConf.is_struct(hydras) is True


CHOICES = {
    "lr_policy": ["uniform", "layerwise_decay", "discriminative", "ulmfit", "per_layer"],
    "scheduler": ["constant", "cosine", "step", "one_cycle", "plateau"],
    "optimizer": ["sgd", "adam", "muon"],
    "model": ["simple_cnn", "mlp", "cifar_resnet"],
    "data": ["digits", "synthetic"],
    "experiment": ["smoke", "finetune_digits"],
    "logger": ["none", "wandb"],
}
SETTINGS = {
    "seed": ["0", "7", "x", "-1"],
    "name": ["a", "'${lr_policy.name}'", "'${hydra.job.num}'", "a/b"],
    "optimizer.lr": ["1e-3", "0.5", "-1", "a", "inf"],
    "optimizer.weight_decay": ["0", "1e-4", "'${optimizer.lr}'"],
    "trainer.epochs": ["1", "2", "-2"],
    "trainer.monitor": ["val/loss", "val/accuracy", "val/los"],
    "model.weights": ["null", "/nowhere.pt", "~nobody_here/a"],
    "data.eval_sets": ["{}", "{a: .}", "{a: /nowhere}"],
    "data.limit": ["null", "100"],
    "lr_policy.decay": ["0.5", "null", "2"],
    "trainer.device": ["cpu", "gpu"],
    "optimizer.lrr": ["1"],
}


def slowly(loader: Any, master: Any, overrides: list[str]) -> Any:
    """A point as Hydra composes it, checked whole with nothing kept of others, or what is wrong."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    from lrexp.config import check

    check._KNOWN.clear()
    try:
        composed = ConfigLoaderImpl.load_sweep_config(loader, master, overrides)
        plain = copy.deepcopy(composed)
        OmegaConf.set_struct(plain, False)
        OmegaConf.set_readonly(plain, False)
        del plain["hydra"]
        return composed, *check.check(plain)
    except ConfigError as error:
        return str(loader.placed(error, overrides))


def quickly(loader: Any, master: Any, overrides: list[str]) -> Any:
    """The same as a grid does it."""
    from lrexp.config.check import check_values, hydra_aside

    try:
        composed = loader.load_sweep_config(master, overrides)
    except ConfigError as error:
        return str(error)
    composed.run_id = None
    with hydra_aside(composed):
        read = check_values(composed)
    return composed, read, make_point(3, overrides, composed)


@pytest.mark.slow
@pytest.mark.parametrize("drawn", range(4))
def test_points_of_random_grids_are_those_of_the_slow_way(
    drawn: int, points: Callable[..., Any]
) -> None:
    from hydra.types import RunMode

    from lrexp.config.check import path_settings
    from lrexp.config.compose import CONFIG_NAME, CheckedLoader

    del points  # Hydra, set up for it
    draw, loader, right = random.Random(drawn), CheckedLoader(), 0
    asked = ["seed=1,2", "hydra.mode=MULTIRUN", "hydra.sweep.dir=sweep"]
    master = loader.load_configuration(CONFIG_NAME, asked, RunMode.MULTIRUN)
    for _ in range(80):
        keys = draw.sample(list(CHOICES), draw.randint(0, 2))
        values = {key: draw.choice(CHOICES[key]) for key in keys}
        first = draw.random() < 0.5  # of a setting's values, which all can be used
        for key in draw.sample(list(SETTINGS), draw.randint(1, 4)):
            values[key] = SETTINGS[key][0] if first else draw.choice(SETTINGS[key])
        overrides = [f"{key}={value}" for key, value in values.items()]
        expected, found = (way(loader, master, overrides) for way in (slowly, quickly))
        if isinstance(expected, str) or isinstance(found, str):
            assert found == expected, overrides
            continue
        right += 1
        (theirs, resolved, read), (ours, ours_read, point) = expected, found
        assert ours_read == read == OmegaConf.to_object(resolved)
        for key, path in path_settings(read).items():  # made absolute at the check
            OmegaConf.update(theirs, key, path)
        job = theirs.hydra.job
        job.num = job.id = 3
        job.override_dirname = ours.hydra.job._get_node("override_dirname")._value()
        assert flat(OmegaConf.to_container(point.config)) == flat(OmegaConf.to_container(theirs))
        del theirs.__dict__["_content"]["hydra"], theirs.__dict__["_content"]["run_id"]
        assert point.settings == flat(OmegaConf.to_container(theirs, resolve=True))
        assert list(point.settings) == list(flat(OmegaConf.to_container(theirs)))
    assert 15 < right < 70


def test_every_point_has_its_own_run_id_and_number(points: Callable[..., Any]) -> None:
    found = points("seed=1,2,3", "optimizer.lr=0.1,0.2")
    assert [p.num for p in found] == [p.config.hydra.job.num for p in found] == list(range(6))
    assert len({p.config.run_id for p in found}) == 6
    assert [p.settings["optimizer.lr"] for p in found] == [0.1, 0.2] * 3
    assert found[1].folder == "1_seed_1_optimizer.lr_0.2"
    assert swept_keys(found) == ["seed", "optimizer.lr"]


def test_a_point_is_named_by_what_was_swept(points: Callable[..., Any]) -> None:
    same = ["optimizer.lr=1e-3", "lr_policy=per_layer", "lr_policy.rules=[{match: '*', lr: 0.05}]"]
    assert [p.folder for p in points(*same, "seed=1,2")] == ["0_seed_1", "1_seed_2"]
    found = points(*same[1:], "seed=1", "trainer.epochs=1,2")
    assert [p.config.hydra.job.override_dirname for p in found] == [
        *("trainer.epochs=1", "trainer.epochs=2")
    ]


def test_points_are_told_apart_in_few_words() -> None:
    assert in_short({"lr_policy": "ulmfit", "optimizer.lr": "0.1", "x": None}) == "ulmfit lr=0.1"
    assert in_short({"a.decay": "1", "b.decay": "2"}) == "a.decay=1 b.decay=2"


def test_settings_are_flat() -> None:
    assert flat({"a": {"b": 1, "c": {}}, "d": [{"e": 2}]}) == {"a.b": 1, "a.c": {}, "d": [{"e": 2}]}


def test_the_file_of_points_gives_them_back(points: Callable[..., Any], tmp_path: Path) -> None:
    found = points("lr_policy=uniform,ulmfit", "seed=1,2")
    found[3].same_as = 1
    (tmp_path / POINTS).write_text(points_text(found[::-1], ["seed=1,2"]))
    started = read_points(tmp_path)
    assert started.command == ["seed=1,2"]
    for ours, theirs in zip(found, started.points, strict=True):
        ours.composed = b""
        assert ours == theirs


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_folder_of_no_sweep_cannot_be_read(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / POINTS).write_text(text)
    with pytest.raises(UserError, match=POINTS):
        read_points(tmp_path)


@pytest.mark.parametrize("text", [None, "", "{", "[]", "null"])
def test_a_summary_that_cannot_be_read_is_no_result(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "summary.json").write_text(text)
    found = read_summary(tmp_path)
    assert found["status"] == ("missing" if text is None else "damaged")
    assert (found["error"] is None) == (text is None)


@pytest.mark.parametrize("name", ["earlier", "jobs", "0"])
def test_a_sweep_with_a_link_that_leads_out_is_not_gone_on_with(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / POINTS).write_text(points_text([Point(0, [], {}, "0", b"")], []))
    read_points(folder)
    (folder / name).symlink_to(tmp_path)
    with pytest.raises(UserError, match="is a link that leads out"):
        read_points(folder)


def test_two_points_in_one_folder_are_refused(points: Callable[..., Any]) -> None:
    found = points("seed=1,2")
    found[1].folder = found[0].folder
    with pytest.raises(ConfigError, match="several points into one folder"):
        refuse_shared_folders(found)
    found[0].folder, found[1].folder = "a/0", "a/./0"
    with pytest.raises(ConfigError, match="several points into one folder"):
        refuse_shared_folders(found)


@pytest.mark.parametrize("folder", [".", "", "a/.."])
def test_a_point_in_the_folder_of_its_sweep_is_refused(
    points: Callable[..., Any], folder: str
) -> None:
    found = points("seed=1")
    found[0].folder = folder
    with pytest.raises(ConfigError, match="the sweep's own folder"):
        refuse_shared_folders(found)


@pytest.mark.parametrize(
    ("settings", "folders"),
    [
        ([], ["optimizer.lr=0.1,seed=0", "optimizer.lr=0.1,seed=1"]),
        (["exclude_keys=[seed]"], ["optimizer.lr=0.1"] * 2),
        (
            ["exclude_keys=[seed]", "kv_sep=-", "item_sep=_"],
            ["optimizer.lr-0.1"] * 2,
        ),
        (["kv_sep=-", "item_sep=_"], ["optimizer.lr-0.1_seed-0", "optimizer.lr-0.1_seed-1"]),
    ],
)
def test_a_point_is_named_as_hydra_is_told_to(
    settings: list[str], folders: list[str], points: Callable[..., Any]
) -> None:
    how = [f"hydra.job.config.override_dirname.{one}" for one in settings]
    subdir = "hydra.sweep.subdir=${hydra.job.override_dirname}/${seed}"
    found = points("optimizer.lr=0.1,0.2", "seed=0,1", subdir, *how)[:2]
    assert [p.folder for p in found] == [f"{name}/{i}" for i, name in enumerate(folders)]
