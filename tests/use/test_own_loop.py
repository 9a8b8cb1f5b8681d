"""Plans and parameter groups for a loop that is not ours: the program's own, and timm's."""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from trainers import Silent

import lrexp
from lrexp.build.data import stated_data
from lrexp.build.model import build_model
from lrexp.build.rates import build_rates
from lrexp.build.schedule import count_steps
from lrexp.config.errors import ConfigError
from lrexp.config.names import conf_folder
from lrexp.config.schema import OPTIONS
from lrexp.use.own_loop import param_groups, plan_of, set_trainable

Compose = Callable[..., Any]
EPOCHS, LR, DECAY = 4, 0.03, 0.01
# Settings other than those of the files, as they are given to the program and to us.
OTHERWISE: dict[str, dict[str, Any]] = {
    "layerwise_decay": {"decay": 0.8, "min_scale": 0.7, "decay_bias_norm": True},
    "per_layer": {"rules": [{"match": "conv.*", "lr": 0.001}, {"layers": 1, "frozen": True}]},
    "discriminative": {"lr_low": 0.003, "groups": 2},
    "freeze_backbone": {"unfreeze_last": 1},
    "gradual_unfreeze": {"every": "1 epochs", "decay": 0.4},
    "lp_ft": {"head_epochs": 2, "train_norm": True},
    "surgical": {"block": "hidden"},
    "freezeout": {"how": "linear"},
}
SETTINGS = [(policy, {}) for policy in OPTIONS["lr_policy"] if policy != "custom"]
SETTINGS += [
    *OTHERWISE.items(),
    ("custom", {"target": "own_parts.slower", "args": {"factor": 0.3}}),
]


def small() -> nn.Sequential:
    """Convolution, BatchNorm, head, of images (1, 8, 8)."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    return nn.Sequential(*layers)


def written(value: Any) -> str:
    """As a command line has it."""
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{written(inner)}' for key, inner in value.items())}}}"
    return repr(value) if isinstance(value, str) else str(value)


@pytest.mark.parametrize(("policy", "settings"), SETTINGS, ids=lambda v: v if v else "")
def test_plan_and_groups_are_the_programs(
    policy: str, settings: dict[str, Any], compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LREXP_ALLOW_TARGETS", "own_parts")
    more = [f"lr_policy.{key}={written(value)}" for key, value in settings.items()]
    rates = [f"optimizer.lr={LR}", f"optimizer.weight_decay={DECAY}"]
    config = compose(f"lr_policy={policy}", f"trainer.epochs={EPOCHS}", *rates, *more)
    data = stated_data(config)
    model, layers = build_model(config, data)
    theirs = build_rates(config, model, layers, count_steps(config, data.train_size))
    plan = plan_of(model, policy, lr=LR, weight_decay=DECAY, epochs=EPOCHS, **settings)
    assert plan == theirs.plan
    if plan.measured:
        return
    own = torch.optim.SGD(param_groups(model, plan, lr=LR), lr=1.0)
    for ours, group in zip(own.param_groups, theirs.optimizer.param_groups, strict=True):
        same = ("name", "names", "lr", "lr_scale", "weight_decay")
        assert {key: ours[key] for key in same} == {key: group[key] for key in same}
        assert list(map(id, ours["params"])) == list(map(id, group["params"]))
    trains = {row.name: row.trains_after(0) for row in plan.rows}
    assert {name: p.requires_grad for name, p in model.named_parameters()} == trains


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_layerwise_decay_is_timms(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        timm = pytest.importorskip("timm")
        with torch.device("meta"):
            model = timm.create_model(name)
    theirs = importlib.import_module("timm.optim").param_groups_layer_decay(
        model,
        weight_decay=0.05,
        no_weight_decay_list=getattr(model, "no_weight_decay", set)(),
        layer_decay=0.65,
    )
    ours = param_groups(model, "layerwise_decay", lr=0.1, weight_decay=0.05, decay=0.65)

    def by_tensor(groups: list[dict[str, Any]]) -> dict[int, tuple[Any, float]]:
        return {
            id(tensor): (pytest.approx(group["lr_scale"]), group["weight_decay"])
            for group in groups
            for tensor in group["params"]
        }

    assert by_tensor(ours) == by_tensor(theirs)
    assert all(group["lr"] == 0.1 * group["lr_scale"] for group in ours)


def test_the_head_can_be_named_and_wrappers_are_looked_through() -> None:
    model = small()
    plan = plan_of(model, "freeze_backbone", head="0")
    assert [row.name for row in plan.rows if not row.frozen] == ["0.weight", "0.bias"]
    assert plan_of(model, "freeze_backbone", head=["0", "4"]).groups.keys() == {"1", "head"}
    wrapped = nn.DataParallel(model)
    assert plan_of(wrapped, "freeze_backbone") == plan_of(model, "freeze_backbone")
    [head] = param_groups(wrapped, "freeze_backbone", lr=0.1)
    assert head["params"] == list(model[4].parameters())
    with pytest.raises(ValueError, match="Sequential has no module '44': did you mean '4'"):
        plan_of(model, "uniform", head="44")


def test_layers_can_be_placed_by_hand() -> None:
    plan = plan_of(small(), "layerwise_decay", decay=0.5, layers=["1.*", "0.*"])
    assert {row.name: row.lr_scale for row in plan.rows if "bias" in row.name} == {
        "1.bias": 0.25,
        "0.bias": 0.5,
        "4.bias": 1.0,
    }


def test_parameters_without_a_layer_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    plan_of(small(), "layerwise_decay", layers=["0.*"])
    assert "2 parameters have no layer of their own" in caplog.text


def test_what_is_frozen_keeps_its_bits_in_a_loop_of_ones_own() -> None:
    model = small()
    groups = param_groups(model, "freeze_backbone", lr=0.1, weight_decay=0.1)
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    before = copy.deepcopy(model.state_dict())
    images, labels = torch.rand(6, 1, 8, 8), torch.arange(6)
    for _ in range(2):
        model.train()
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
    changed = {name for name, now in model.state_dict().items() if not now.equal(before[name])}
    assert changed == {"4.weight", "4.bias"}
    assert not model[1].training
    param_groups(model, "uniform", lr=0.1)
    model.train()
    assert model[1].training
    assert all(p.requires_grad for p in model.parameters())


def test_a_plan_that_moves_is_followed_epoch_by_epoch() -> None:
    model = small()
    plan = plan_of(model, "gradual_unfreeze", every=2, epochs=4, rewarmup=1)
    optimizer = torch.optim.SGD(param_groups(model, plan, lr=0.1))
    g, seen = plan.factors(steps=8, steps_per_epoch=2), []
    for epoch in range(4):
        set_trainable(model, plan, epoch)
        model.train()
        for step in (2 * epoch, 2 * epoch + 1):
            lrexp.set_rates(optimizer, 0.1, 0.5, {name: table[step] for name, table in g.items()})
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        seen.append((model[0].weight.requires_grad, model[1].training, rates["0"], rates["head"]))
    rise = pytest.approx(0.1 * 0.5 * 2 / 3)  # the second of 2 steps of re-warmup
    assert seen[:3] == [(False, False, 0, 0.05)] * 2 + [(True, True, rise, 0.05)]
    assert seen[3] == (True, True, 0.05, 0.05)


@pytest.mark.parametrize(
    "policy",
    [
        "lp_ft",
        *(pytest.param(p, marks=pytest.mark.slow) for p in ("gradual_unfreeze", "freezeout")),
    ],
)
def test_a_moving_policy_ends_with_the_programs_weights_to_the_bit(
    policy: str, prepare: Callable[..., Any], one_thread: None
) -> None:
    asked = ("experiment=finetune_digits", f"lr_policy={policy}", "trainer.epochs=3")
    job, same = prepare(*asked), prepare(*asked)
    model, train, lr = same.experiment.model, same.experiment.dataset.train, job.experiment.base_lr
    plan = plan_of(model, policy, epochs=3)
    optimizer = torch.optim.SGD(param_groups(model, plan, lr=lr), momentum=0.9)
    g = plan.factors(len(job.experiment.schedule), job.experiment.steps_per_epoch)
    for epoch in range(3):
        set_trainable(model, plan, epoch)
        model.train()
        same.epoch = epoch + 1  # which order the images have
        for images, labels in train.batches(same.batches()):
            now = {name: table[same.step] for name, table in g.items()}
            lrexp.set_rates(optimizer, lr, 1.0, now)
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
            same.step += 1
    job.run(Silent())
    wanted = job.experiment.model.state_dict()
    assert all(now.equal(wanted[name]) for name, now in model.state_dict().items())


@pytest.mark.parametrize(
    ("policy", "settings", "said"),
    [
        ("layerwise", {}, "lr_policy=layerwise: .*\n.*did you mean 'layerwise_decay'"),
        ("layerwise_decay", {"decy": 0.5}, "decy=0.5: .*\n.*did you mean 'decay'"),
        ("layerwise_decay", {"epoch": 5}, "epoch=5: .*\n.*did you mean 'epochs'"),
        ("layerwise_decay", {"name": "uniform"}, "name=uniform: is no setting"),
        ("layerwise_decay", {"decay": 2}, "lr_policy.decay=2.0: must be above 0 and at most 1"),
        ("layerwise_decay", {"decay": "x"}, "lr_policy.decay=x: must be a number"),
        ("ulmfit", {"stem_scale": 0.1}, "lr_policy.ratio=2.6: and stem_scale are both given"),
        ("per_layer", {"rules": [{"match": "9.*"}]}, r"rules\[0\]: gives nothing"),
        ("lp_ft", {"head_epochs": 2, "epochs": 2}, "leaves nothing of 2 epochs"),
        ("gradual_unfreeze", {}, "epochs: .*goes by how long training lasts"),
        ("freezeout", {}, "epochs: .*goes by how long training lasts"),
        ("lp_ft", {}, "epochs: .*goes by how long training lasts"),
        ("lp_ft", {"epochs": 0}, "epochs=0: must be at least 1"),
        ("uniform", {"lr": 0.0}, "lr=0.0: must be above 0"),
        ("lp_ft", {"epochs": 4}, "set_trainable.*set_rates, .* anew after 1 epoch$"),
        ("gradual_unfreeze", {"every": 1, "rewarmup": 0}, "lrexp.set_trainable"),
        ("auto_rgn", {}, "measures its rates .*only lrexp's own loop"),
    ],
)
def test_what_cannot_be_is_one_clear_error(
    policy: str, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        param_groups(small(), policy, **({"lr": 0.1} | settings))


def test_a_plan_holds_its_settings() -> None:
    model = small()
    plan = plan_of(model, "uniform", weight_decay=0.1)
    assert [group["weight_decay"] for group in param_groups(model, plan, lr=0.2)] == [0.1, 0.0]
    with pytest.raises(TypeError, match="give them to plan_of"):
        param_groups(model, plan, lr=0.2, weight_decay=0.1)


def test_lengths_in_epochs_need_no_end_of_training() -> None:
    model = small()
    starts = {row.trainable_from for row in plan_of(model, "lp_ft", head_epochs=3).rows}
    assert starts == {0, 3}


def test_a_preset_of_ones_own_begins_with_another_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lr_policy"
    folder.mkdir()
    for name in ("layerwise_decay", "uniform"):
        text = (conf_folder() / "lr_policy" / f"{name}.yaml").read_text()
        (folder / f"{name}.yaml").write_text(text)
    (folder / "gentle.yaml").write_text("defaults: [layerwise_decay, _self_]\ndecay: 0.25\n")
    monkeypatch.setattr("lrexp.use.own_loop.conf_folder", lambda: tmp_path)
    plan = plan_of(small(), "gentle")
    assert {row.lr_scale for row in plan.rows} == {0.25, 1.0}


def test_an_installer_may_have_made_links_of_our_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lr_policy").mkdir()
    (tmp_path / "lr_policy" / "uniform.yaml").symlink_to(
        conf_folder() / "lr_policy" / "uniform.yaml"
    )
    for module in ("lrexp.use.own_loop", "lrexp.runs.options"):
        monkeypatch.setattr(f"{module}.conf_folder", lambda: tmp_path)
    assert {row.lr_scale for row in plan_of(small(), "uniform").rows} == {1.0}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda net: param_groups(net.parameters(), "uniform", lr=0.1), "give the network"),
        (lambda net: plan_of(net, "uniform", convention="bert"), "did you mean 'beit'"),
        (lambda net: set_trainable(net, "gradual_unfreeze", 0), "lrexp.plan_of"),
    ],
)
def test_what_is_no_network_no_convention_and_no_plan_is_said(wrong: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        wrong(nn.Linear(2, 2))
