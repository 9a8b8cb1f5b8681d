"""Every optimizer: rates and decay per group, the same bits after resuming, and what is refused."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import schedulefree
import timm.optim
import torch
from torch import nn
from trainers import Silent, Watch, trainer_of

from lrexp.build.experiment import build
from lrexp.config.errors import ConfigError
from lrexp.data.draws import order
from lrexp.folder.checkpoint import load_checkpoint, save_checkpoint
from lrexp.judge.epoch import Row
from lrexp.models.layers import layer_map
from lrexp.optim.groups import (
    load_state_by_name,
    param_groups,
    set_rates,
    set_trainable,
    state_by_name,
)
from lrexp.optim.optimizers import (
    check_plan,
    from_library,
    hidden_matrices,
    recalibrate_batchnorm,
    use_averaged_weights,
    use_training_weights,
)
from lrexp.plan.plan import Plan, Treatment, make_plan
from lrexp.plan.policies.freezing import freeze_backbone
from lrexp.plan.policies.scaling import layerwise_decay, uniform
from lrexp.train.loop import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

Optimizer = torch.optim.Optimizer
# option -> the raw class with the settings of its YAML file, made of parameters, rate and decay
RAW: dict[str, Callable[[Any, float, float], Optimizer]] = {
    "sgd": lambda p, lr, wd: torch.optim.SGD(p, lr, momentum=0.9, weight_decay=wd),
    "adam": lambda p, lr, wd: torch.optim.Adam(p, lr, weight_decay=wd),
    "adamw": lambda p, lr, wd: torch.optim.AdamW(p, lr, weight_decay=wd),
    "rmsprop": lambda p, lr, wd: torch.optim.RMSprop(p, lr, weight_decay=wd),
    "nadam": lambda p, lr, wd: torch.optim.NAdam(p, lr, weight_decay=wd),
    "radam": lambda p, lr, wd: torch.optim.RAdam(p, lr, weight_decay=wd),
    "adagrad": lambda p, lr, wd: torch.optim.Adagrad(p, lr, weight_decay=wd),
    "adafactor": lambda p, lr, wd: torch.optim.Adafactor(p, lr, weight_decay=wd),
    "lion": lambda p, lr, wd: timm.optim.Lion(p, lr, weight_decay=wd),
    "lamb": lambda p, lr, wd: timm.optim.Lamb(p, lr, weight_decay=wd, max_grad_norm=None),
    "schedulefree_sgd": lambda p, lr, wd: schedulefree.SGDScheduleFree(p, lr, weight_decay=wd),
    "schedulefree_adamw": lambda p, lr, wd: schedulefree.AdamWScheduleFree(p, lr, weight_decay=wd),
    "torch": lambda p, lr, wd: torch.optim.Adamax(p, lr, weight_decay=wd),
    "timm": lambda p, lr, wd: timm.optim.NAdamW(p, lr, weight_decay=wd),
}
OPTIONS = [*RAW, "muon"]
FEW = ("trainer.device=cpu", "data.limit=100", "trainer.limit_train_batches=4")


class Net(nn.Module):
    """Convolution, BatchNorm, a hidden linear layer and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.hidden = nn.Linear(4 * 36, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(images)).relu().flatten(1)
        return self.head(self.hidden(x).relu())


def gradients(model: nn.Module, step: int) -> None:
    """The same made-up gradients for every optimizer, others at each step."""
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def trainer(compose: Any, *overrides: str) -> Trainer:
    return trainer_of(compose(*overrides))


def exact(rows: list[Row]) -> list[Row]:
    return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in rows]


def halves(model: nn.Module) -> Plan:
    """Half the rate per layer, decay 0.1 where it is not a bias."""
    return layerwise_decay(layer_map(model, "head"), 0.01, 0.1, decay=0.5, decay_bias_norm=False)


@pytest.mark.parametrize("option", RAW)
def test_unequal_rates_and_decays_step_as_the_raw_class_does_alone_at_each(
    option: str, compose: Any
) -> None:
    overrides = ["optimizer.lr=0.01", "optimizer.weight_decay=0.1"]
    overrides += ["optimizer.max_grad_norm=null"] if option == "lamb" else []
    policy = ["lr_policy=layerwise_decay", "lr_policy.decay=0.5"]
    experiment = build(compose(*FEW, f"optimizer={option}", *overrides, *policy))
    model, optimizer = experiment.model, experiment.optimizer
    assert len({group["lr_scale"] for group in optimizer.param_groups}) == 3
    alone = copy.deepcopy(model)
    tensors = dict(alone.named_parameters())
    raw = [
        RAW[option]([tensors[row.name] for row in rows], 0.01 * rows[0].lr_scale, wd)
        for rows in experiment.plan.groups.values()
        for wd in [rows[0].weight_decay]
    ]
    start = {name: t.detach().clone() for name, t in tensors.items()}
    for each in [optimizer, *raw]:
        use_training_weights(each)
    for step in range(4):
        set_rates(optimizer, 0.01, 1.0)
        gradients(model, step)
        gradients(alone, step)
        optimizer.step()
        for each in raw:
            each.step()
    for each in [optimizer, *raw]:
        use_averaged_weights(each)
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, tensors[name]), name
        assert not torch.equal(tensor, start[name]), name


def test_muon_trains_hidden_matrices_and_adamw_the_rest_at_the_groups_rates(compose: Any) -> None:
    overrides = ["optimizer=muon", "optimizer.lr=0.01", "optimizer.weight_decay=0.1"]
    experiment = build(compose(*FEW, *overrides, "lr_policy=layerwise_decay"))
    model, optimizer = experiment.model, experiment.optimizer
    assert [g["name"] for g in optimizer.param_groups] == list(experiment.plan.groups)
    alone = copy.deepcopy(model)
    tensors = dict(alone.named_parameters())
    raw: list[Optimizer] = []
    for row in experiment.plan.rows:
        given = {"lr": 0.01 * row.lr_scale, "weight_decay": row.weight_decay}
        if row.name == "hidden.weight":
            raw.append(
                torch.optim.Muon([tensors[row.name]], **given, adjust_lr_fn="match_rms_adamw")
            )
        else:
            raw.append(torch.optim.AdamW([tensors[row.name]], **given, betas=(0.9, 0.95)))
    for step in range(3):
        s = 1 - step / 4
        set_rates(optimizer, 0.01, s)
        gradients(model, step)
        gradients(alone, step)
        optimizer.step()
        for row, each in zip(experiment.plan.rows, raw, strict=True):
            each.param_groups[0]["lr"] = 0.01 * row.lr_scale * s
            each.step()
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, tensors[name]), name
    kinds = {name: set(state) for name, state in state_by_name(optimizer).items()}
    assert kinds.pop("hidden.weight") == {"momentum_buffer"}
    assert set(map(frozenset, kinds.values())) == {frozenset({"step", "exp_avg", "exp_avg_sq"})}


def test_muon_takes_weights_of_linear_layers_only() -> None:
    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(5, 4)
            self.table = nn.Parameter(torch.zeros(3, 4))
            self.attention = nn.MultiheadAttention(4, 2)
            self.norm = nn.LayerNorm(4)
            self.conv = nn.Conv1d(4, 4, 1)
            self.hidden = nn.Linear(4, 4)
            self.head = nn.Linear(4, 2)

    model = Token()
    plan = uniform(layer_map(model, "head"), 0.1, 0.0, decay_bias_norm=False)
    assert hidden_matrices(model, plan) == {
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "hidden.weight",
    }


@pytest.mark.parametrize("option", OPTIONS)
def test_training_continues_to_the_same_bits(option: str, compose: Any, tmp_path: Path) -> None:
    overrides = (
        *FEW, f"optimizer={option}", "lr_policy=layerwise_decay", "trainer.epochs=4",
        "scheduler.warmup=3 steps", "optimizer.weight_decay=0.01", "trainer.stats_every=2",
    )  # fmt: skip
    whole = trainer(compose, *overrides)
    file = tmp_path / "state.pt"
    keep = Watch(lambda row: row["epoch"] == 2 and save_checkpoint(file, whole.state()))
    whole.run(keep)
    resumed = trainer(compose, *overrides)
    resumed.load_state(load_checkpoint(file))
    resumed.run(Silent())
    assert len(whole.rows) == 4
    assert exact(resumed.rows) == exact(whole.rows)
    other = resumed.experiment.model.state_dict()
    for name, tensor in whole.experiment.model.state_dict().items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_an_optimizer_learns_the_digits_with_its_defaults(option: str, compose: Any) -> None:
    one = trainer(compose, "trainer.device=cpu", f"optimizer={option}", "trainer.epochs=3")
    one.run(Silent())
    assert one.rows[-1]["val/loss"] < min(2.25, one.rows[0]["val/loss"])  # chance is log(10) = 2.3


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_a_frozen_backbone_is_bit_identical_under_every_optimizer(
    option: str, compose: Any
) -> None:
    if option == "muon":  # nothing but the head trains, and the head is AdamW's
        with pytest.raises(ConfigError, match="finds no matrix that trains"):
            build(compose(*FEW, "optimizer=muon", "lr_policy=freeze_backbone"))
        return
    overrides = ["lr_policy=freeze_backbone", "trainer.epochs=2", "optimizer.weight_decay=0.1"]
    one = trainer(compose, *FEW, f"optimizer={option}", *overrides)
    before = {n: t.clone() for n, t in one.experiment.model.state_dict().items()}
    one.run(Silent())
    for name, tensor in one.experiment.model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (not name.startswith("head.")), name
    assert all(name.startswith("head.") for name in state_by_name(one.experiment.optimizer))


TIMM = [
    name
    for name in timm.optim.list_optimizers()
    # CUDA only, or refused
    if not name.startswith(("bnb", "fused", "kron", "adahessian", "madgrad", "rmsproptf"))
]


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_any_optimizer_of_timm_continues_to_the_same_bits(name: str) -> None:
    def make(model: nn.Module) -> Optimizer:
        groups = param_groups(model, halves(model), 0.01)
        return from_library("timm", groups, 0.01, name, {})

    def train(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
        for step in steps:
            set_rates(optimizer, 0.01, 1 - step / 10)
            gradients(model, step)
            optimizer.step()

    model = Net()
    optimizer = make(model)
    train(model, optimizer, range(3))
    other = Net()
    other.load_state_dict(model.state_dict())
    resumed = make(other)
    load_state_by_name(resumed, copy.deepcopy(state_by_name(optimizer)))
    train(model, optimizer, range(3, 6))
    train(other, resumed, range(3, 6))
    for parameter, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[parameter]), parameter


def test_any_optimizer_by_name_is_the_librarys_own_with_its_arguments(compose: Any) -> None:
    overrides = ["optimizer=torch", "optimizer.name=NAdam", "optimizer.args.momentum_decay=0.01"]
    optimizer = build(compose(*FEW, *overrides, "optimizer.args.betas=[0.8,0.9]")).optimizer
    assert type(optimizer) is torch.optim.NAdam
    assert optimizer.defaults["momentum_decay"] == 0.01
    assert optimizer.defaults["betas"] == (0.8, 0.9)
    lookup = ["optimizer=timm", "optimizer.name=adan", "optimizer.args.caution=true"]
    optimizer = build(compose(*FEW, *lookup)).optimizer
    assert type(optimizer).__name__ == "Adan"
    assert optimizer.defaults["caution"] is True


REFUSED = {
    "closure": (["optimizer=torch", "optimizer.name=LBFGS"], "closure"),
    "sparse": (["optimizer=torch", "optimizer.name=SparseAdam"], "sparse gradients"),
    "no rate": (["optimizer=torch", "optimizer.name=Rprop"], "reads its rate once"),
    "late rate": (["optimizer=torch", "optimizer.name=ASGD"], "by the rate of the moment"),
    "rate in momentum": (["optimizer=timm", "optimizer.name=rmsproptf"], "rate of the moment"),
    "second order": (["optimizer=timm", "optimizer.name=adahessian"], "second derivatives"),
    "random": (["optimizer=timm", "optimizer.name=kronw"], "random stream"),
    "unknown": (["optimizer=torch", "optimizer.name=Nadam"], "did you mean 'NAdam'"),
    "unknown to timm": (["optimizer=timm", "optimizer.name=lions"], "did you mean 'lion'"),
    "argument": (["optimizer=torch", "optimizer.args.etta=1"], "no such argument"),
    "number": (["optimizer=torch", "optimizer.args.eps=tiny"], "eps=tiny: must be a number"),
    "list": (["optimizer=torch", "optimizer.args.betas=0.9"], "must be a list of 2 numbers"),
    "truth": (["optimizer=torch", "optimizer.args.capturable=3"], "must be true or false"),
    "many": (["optimizer=timm", "optimizer.name=qqq"], r"in all\)"),
    "value": (["optimizer=torch", "optimizer.args.eps=-1"], "Adamax: Invalid epsilon"),
    "maximize": (["optimizer=torch", "optimizer.args.maximize=true"], "maximise the loss"),
    "differentiable": (["optimizer=torch", "optimizer.args.differentiable=true"], "through the"),
    "rate": (["optimizer=torch", "optimizer.args.lr=1"], "is optimizer.lr"),
    "target": (["optimizer=torch", "optimizer.args.hook={_target_: os.system}"], "plain values"),
    "raw muon": (["optimizer=torch", "optimizer.name=Muon"], "optimizer=muon gives the rest"),
    "decay": (["optimizer=schedulefree_sgd", "scheduler=cosine"], "averages instead"),
    "steps": (["optimizer=schedulefree_adamw", "scheduler=step"], "averages instead"),
    "betas": (["optimizer=muon", "optimizer.adamw_betas=[0.9]"], "two numbers"),
    "beta 0": (["optimizer=schedulefree_adamw", "optimizer.betas=[0,0.9]"], "above 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_with_the_reason(case: str, compose: Any) -> None:
    overrides, reason = REFUSED[case]
    with pytest.raises(ConfigError, match=reason) as caught:
        build(compose(*FEW, *overrides))
    assert caught.value.key.startswith(("optimizer", "scheduler"))


def test_a_closure_is_recognised_whatever_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asks(torch.optim.SGD):
        def step(self, closure: Any) -> None: ...  # type: ignore[override]

    monkeypatch.setattr(torch.optim, "Asks", Asks, raising=False)
    model = Net()
    with pytest.raises(ConfigError, match="closure"):
        from_library("torch", param_groups(model, halves(model), 0.1), 0.1, "Asks", {})


@pytest.mark.parametrize(
    ("option", "extra"), [("lion", "timm"), ("schedulefree_sgd", "schedulefree")]
)
def test_a_missing_package_is_one_error_that_says_what_to_install(
    option: str, extra: str, compose: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == extra else there(name)
    )
    with pytest.raises(ConfigError) as caught:
        compose(f"optimizer={option}")
    assert f"pip install 'lrexp[{extra}]'" in str(caught.value)
    assert compose("optimizer=adam").optimizer.name == "adam"


def test_prodigy_keeps_no_ratio_between_layers() -> None:
    model = Net()
    optimizer = torch.optim.SGD(param_groups(model, halves(model), 0.1))
    with pytest.raises(ConfigError, match="policy's ratios would be lost"):
        check_plan(optimizer, "Prodigy", halves(model), 10)
    plan = uniform(layer_map(model, "head"), 0.1, 0.0, decay_bias_norm=False)
    optimizer = torch.optim.SGD(param_groups(model, plan, 0.1))
    assert check_plan(optimizer, "Prodigy", plan, 10) == []


def test_adafactor_warns_when_its_own_limit_would_level_the_rates() -> None:
    model = Net()
    optimizer = torch.optim.Adafactor(param_groups(model, halves(model), 0.1), lr=0.1)
    (warning,) = check_plan(optimizer, "adafactor", halves(model), 101)
    assert "after step 100 of 101" in warning
    assert check_plan(optimizer, "adafactor", halves(model), 100) == []


@pytest.mark.parametrize("moment", [{"trainable_from": 1}, {"trainable_until": 2}])
def test_schedule_free_refuses_to_freeze_for_a_time(moment: dict[str, int]) -> None:
    model = Net()
    layers = layer_map(model, "head")
    plan = make_plan(
        layers, lambda p: Treatment(1.0, 0.0) if p.head else Treatment(1.0, 0.0, **moment)
    )
    optimizer = schedulefree.SGDScheduleFree(param_groups(model, plan, 0.1), lr=0.1)
    with pytest.raises(ConfigError, match=r"averages from the first step.*conv\.weight"):
        check_plan(optimizer, "schedulefree_sgd", plan, 10)


@pytest.mark.parametrize("option", ["schedulefree_sgd", "schedulefree_adamw"])
def test_schedule_free_evaluates_and_saves_the_average_and_trains_beside_it(
    option: str, compose: Any, tmp_path: Path
) -> None:
    overrides = (*FEW, f"optimizer={option}", "optimizer.lr=0.1", "trainer.epochs=2")
    ours = trainer(compose, *overrides)
    shadow = trainer(compose, *overrides)
    ours.run(Silent(), tmp_path)

    # The authors' own loop on the same batches.
    model, loss = shadow.experiment.model, shadow.experiment.loss
    optimizer = RAW[option](model.parameters(), 0.1, 0.0)
    data = shadow.experiment.dataset
    for shadow.epoch in (1, 2):
        optimizer.train()  # type: ignore[attr-defined]
        for images, labels in data.train.batches(shadow.batches()):
            optimizer.zero_grad()
            loss(model(images), labels).backward()
            optimizer.step()
        trained_at = copy.deepcopy(model.state_dict())
        optimizer.eval()  # type: ignore[attr-defined]
    saved = load_checkpoint(tmp_path / "last.pt")["model"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(saved[name], tensor), name
        assert not torch.equal(saved[name], trained_at[name]), name
    with torch.no_grad():
        logits = model.eval()(data.val.images)
        val_loss = nn.functional.cross_entropy(logits, data.val.labels).item()
    assert ours.rows[-1]["val/loss"] == pytest.approx(val_loss, abs=1e-6)


def with_norms(compose: Any, optimizer: str, *overrides: str) -> Trainer:
    """A trainer of `Net`, which has BatchNorm, on the digits."""
    config = compose(*FEW, f"optimizer={optimizer}", "trainer.epochs=3", *overrides)
    built, model = build(config), Net()
    model.norm.running_mean.fill_(0.3)  # not what a reset would leave
    layers = layer_map(model, "head")
    freeze = config.lr_policy.name == "freeze_backbone"
    plan = (freeze_backbone if freeze else uniform)(layers, 0.1, 0.0, decay_bias_norm=False)
    raw = RAW[optimizer](param_groups(model, plan, 0.1), 0.1, 0.0)
    experiment = type(built)(**{**vars(built), "model": model, "layers": layers, "plan": plan,
                                "optimizer": raw})  # fmt: skip
    return trainer_of(config, experiment)


def test_batchnorm_statistics_belong_to_the_averaged_weights(compose: Any) -> None:
    one = with_norms(compose, "schedulefree_sgd")
    one.run(Silent())
    model = one.experiment.model
    norm: Any = model.get_submodule("norm")
    ours = (norm.running_mean.clone(), norm.running_var.clone())
    train = one.experiment.dataset.train
    chosen = torch.from_numpy(order(one.seed, "recalibrate", train.ids, 3))
    torch.optim.swa_utils.update_bn(train.images[chosen].tensor_split(7), model)  # of 100 images
    assert torch.equal(norm.running_mean, ours[0])
    assert torch.equal(norm.running_var, ours[1])
    assert norm.momentum == 0.1
    plain = with_norms(compose, "sgd")
    plain.run(Silent())
    assert plain.experiment.model.get_submodule("norm").num_batches_tracked == 12  # of training


def test_frozen_batchnorm_is_not_recalibrated(compose: Any) -> None:
    one = with_norms(compose, "schedulefree_adamw", "lr_policy=freeze_backbone")
    before = copy.deepcopy(one.experiment.model.get_submodule("norm").state_dict())
    one.run(Silent())
    after = one.experiment.model.get_submodule("norm").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert one.frozen.as_dict()["identical"] is True


def test_a_model_with_norms_continues_to_the_same_bits_under_schedule_free(compose: Any) -> None:
    whole = with_norms(compose, "schedulefree_adamw")
    states: list[Any] = []
    whole.run(Watch(lambda row: states.append(copy.deepcopy(whole.state()))))
    resumed = with_norms(compose, "schedulefree_adamw")
    resumed.load_state(states[0])
    resumed.run(Silent())
    assert exact(resumed.rows) == exact(whole.rows)


def test_recalibration_is_of_the_weights_at_hand_and_leaves_eval_mode() -> None:
    model = Net()
    plan = uniform(layer_map(model, "head"), 0.1, 0.0, decay_bias_norm=False)
    set_trainable(model, plan, 0)
    images = torch.randn(32, 1, 8, 8)
    recalibrate_batchnorm(model, images.split(16))
    with torch.no_grad():
        seen = model.conv(images)  # (32, 4, 6, 6)
    assert torch.allclose(model.norm.running_mean, seen.mean((0, 2, 3)), atol=1e-6)
    assert not any(module.training for module in model.modules())
