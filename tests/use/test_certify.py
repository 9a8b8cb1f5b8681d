"""What a loop did that was not meant is found, whoever's loop it is; what is meant stays silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import timm.optim
import timm.scheduler
import torch
from torch import Tensor, nn, optim
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim import lr_scheduler as schedulers
from torch.optim import optimizer as torch_optimizer

import lrexp
from lrexp.config.errors import UserError
from lrexp.models.layers import layer_map
from lrexp.optim.groups import param_groups, set_rates
from lrexp.optim.optimizers import MuonWithAdamW
from lrexp.plan.plan import Plan, Row, rise
from lrexp.plan.policies.freezing import freeze_backbone
from lrexp.plan.policies.scaling import layerwise_decay
from lrexp.use.certified import Finding, NotAsMeantError, Report
from lrexp.use.certify import certify
from lrexp.use.fingerprints import fingerprint

pytestmark = pytest.mark.usefixtures("one_thread")

BODY = {"0.weight", "0.bias", "1.weight", "1.bias"}
IN_ONE_PIECE = "stepped in one piece with others"
Each = Callable[[int], object]


def net() -> nn.Sequential:
    """Two layers, the first with BatchNorm."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(1)
    return torch.randn(16, 8, generator=drawn).to(dtype), torch.arange(16) % 4


def train(
    model: nn.Module,
    optimizer: Any,
    scheduler: Any = None,
    steps: int = 4,
    before: Each = lambda step: None,
    set_to_none: bool = True,
) -> None:
    """A loop as people write it. `before` is called before every step."""
    images, labels = batch(next(model.parameters()).dtype)
    for step in range(steps):
        before(step)
        optimizer.zero_grad(set_to_none=set_to_none)
        cross_entropy(model(images), labels).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def sgd(model: nn.Module, **settings: Any) -> optim.SGD:
    trained = [p for p in model.parameters() if p.requires_grad]
    return optim.SGD(trained, **{"lr": 0.1, **settings})


def by_layer(model: nn.Sequential, **settings: Any) -> optim.SGD:
    """Body at lr_scale 0.1, head at 1."""
    groups: list[dict[str, Any]] = [
        {"params": [*model[:3].parameters()], "lr_scale": 0.1},
        {"params": [*model[3].parameters()], "lr_scale": 1.0},
    ]
    return optim.SGD(groups, **{"lr": 0.1, **settings})


def seen(
    model: nn.Module, optimizer: Any, scheduler: Any = None, plan: Plan | None = None, **how: Any
) -> Report:
    """The report on `train`."""
    with certify(model, optimizer, plan, raises=False) as report:
        train(model, optimizer, scheduler, **how)
    return report


def only(report: Report, kind: str) -> Finding:
    """The one finding there is."""
    assert [finding.kind for finding in report.findings] == [kind], str(report)
    return report.findings[0]


# --- Healthy loops: silence -----------------------------------------------------------------------


def warmup(optimizer: Optimizer) -> Any:
    return schedulers.LambdaLR(optimizer, lambda step: min(1.0, step / 2))


def adamw(model: nn.Module) -> Optimizer:
    return optim.AdamW(model.parameters(), lr=0.01)


def head_alone(model: Any) -> Optimizer:
    model[:3].requires_grad_(False)
    model[1].eval()
    model[1].train = lambda mode=True: model[1]
    return optim.Adagrad(model[3].parameters())


@pytest.mark.parametrize("make", [sgd, adamw, head_alone])
@pytest.mark.parametrize("steps", [1, 5])
def test_a_healthy_loop_with_warmup_and_batchnorm_stays_silent(
    make: Callable[[Any], Optimizer], steps: int
) -> None:
    model = net()
    optimizer = make(model)
    report = seen(model, optimizer, warmup(optimizer), steps=steps)
    assert report.findings == []
    assert report.judged
    assert report.steps == steps
    assert {row.name for row in report.rows} == {name for name, _ in model.named_parameters()}


def test_a_bias_in_front_of_batchnorm_has_no_gradient_worth_a_step() -> None:
    model = net()
    report = seen(model, sgd(model, lr=1e-3))
    row = next(row for row in report.rows if row.name == "0.bias")
    assert report.findings == []
    assert 0 < (row.largest_gradient or 0.0) < 1e-7
    assert row.moved is False
    assert row.not_judged == "steps too small"


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "test_convnext"])
@pytest.mark.parametrize("layer_decay", [None, 0.75])
def test_timm_with_its_own_factory_and_scheduler_stays_silent(
    name: str, layer_decay: float | None
) -> None:
    model = timm.create_model(name, num_classes=4)
    optimizer = timm.optim.create_optimizer_v2(
        model, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=layer_decay
    )
    scheduler: Any = timm.scheduler.CosineLRScheduler(optimizer, t_initial=5, warmup_t=2)
    with certify(model, optimizer) as report:
        for step in range(2):
            scheduler.step(step)
            optimizer.zero_grad()
            model(torch.randn(2, 3, 32, 32)).square().mean().backward()
            optimizer.step()
    assert report.findings == []
    assert all(row.moved or row.not_judged for row in report.rows)
    if layer_decay:  # as timm has them: lr × lr_scale
        assert len({row.planned for row in report.rows}) > 2
        for row in report.rows:
            assert row.planned == pytest.approx(row.highest)


def test_what_freezes_in_the_loop_and_then_stays_is_silent() -> None:
    model = net()

    def freeze(step: int) -> None:
        if step == 2:
            model[3].requires_grad_(False)

    assert seen(model, sgd(model, momentum=0.9), before=freeze).findings == []


def test_what_freezes_again_after_its_last_step_is_silent() -> None:
    model = net()

    def turn(step: int) -> None:
        model[3].requires_grad_(step != 1)

    optimizer = sgd(model)
    with certify(model, optimizer) as report:
        train(model, optimizer, before=turn)
        model[3].requires_grad_(False)
    assert report.findings == []
    assert {r.not_judged for r in report.rows if not r.trains} == {"frozen after its last step"}


def test_what_trains_in_turns_is_silent() -> None:
    """As a GAN's two halves do."""
    model = net()
    one, two = optim.SGD(model[:3].parameters(), lr=0.1), optim.SGD(model[3].parameters(), lr=0.1)
    with certify(model, [one, two]) as report:
        for step in range(4):
            model[:3].requires_grad_(step % 2 == 0)
            model[3].requires_grad_(step % 2 == 1)
            train(model, (one, two)[step % 2], steps=1)
        model.requires_grad_(True)
    assert report.findings == []
    assert report.steps == 4
    assert {row.groups for row in report.rows} == {("SGD group 0",)}


@pytest.mark.parametrize("given", [[0, 1], [1, 0], None])
def test_one_optimizer_after_another_is_silent(given: list[int] | None) -> None:
    model = net()
    model[1].eval()
    one, two = optim.SGD(model[3].parameters(), lr=0.1), optim.SGD(model.parameters(), lr=0.01)
    known = None if given is None else [(one, two)[i] for i in given]
    with certify(model, known) as report:
        train(model, one)
        train(model, two)
    assert not report.faults, str(report)


def test_by_turns_two_optimizers_of_a_tensor_are_a_fault() -> None:
    model = net()
    one, two = sgd(model), optim.SGD(model[3].parameters(), lr=0.01)
    with certify(model, [one, two], raises=False) as report:
        for optimizer in (one, two, one):
            train(model, optimizer, steps=1)
    assert only(report, "two_groups").tensors == ("3.weight", "3.bias")


def test_groups_that_are_made_anew_in_the_loop_are_seen() -> None:
    model = net()
    optimizer = by_layer(model)
    with certify(model, optimizer, raises=False) as report:
        train(model, optimizer)
        optimizer.param_groups.clear()
        optimizer.add_param_group({"params": [*model.parameters()]})
        train(model, optimizer)
    assert report.steps == 8
    assert {row.groups for row in report.rows} == {("group 0",)}


def test_a_step_that_raised_hides_no_other_optimizer() -> None:
    model = net()
    with certify(model, None) as report:
        with pytest.raises(RuntimeError, match="SparseAdam"):
            train(model, optim.SparseAdam(model.parameters(), lr=0.1))
        train(model, sgd(model))
    assert report.steps == 4


def test_a_tensor_without_values_has_nothing_to_move() -> None:
    model = net()
    model.register_parameter("empty", nn.Parameter(torch.zeros(0)))
    assert not seen(model, sgd(model)).findings


def test_groups_that_come_in_the_loop_are_seen() -> None:
    model = net()
    model[:3].requires_grad_(False)
    optimizer = sgd(model)

    def unfreeze(step: int) -> None:
        if step == 2:
            model[:3].requires_grad_(True)
            optimizer.add_param_group({"params": [*model[:3].parameters()], "lr": 0.1})

    model[1].eval()
    report = seen(model, optimizer, before=unfreeze)
    assert {row.name: row.groups for row in report.rows}["0.weight"] == ("group 1",)
    assert report.findings == []


# --- Broken loops in plain torch ------------------------------------------------------------------


def test_an_optimizer_built_before_unfreezing_leaves_tensors_out() -> None:
    model = net()
    model[0].requires_grad_(False)
    optimizer = sgd(model)
    model[0].requires_grad_(True)
    finding = only(seen(model, optimizer), "no_group")
    assert finding.tensors == ("0.weight", "0.bias")
    assert "built before they were unfrozen" in finding.message


def test_a_layer_that_was_replaced_after_the_optimizer_was_built() -> None:
    model = net()
    optimizer = sgd(model)
    model[3] = nn.Linear(8, 4)
    finding = only(seen(model, optimizer), "no_group")
    assert finding.tensors == ("3.weight", "3.bias")
    assert "2 tensors that the model does not have: a layer was replaced" in finding.message


def test_an_optimizer_that_certify_was_not_given() -> None:
    model = net()
    one, two = optim.SGD(model[:3].parameters(), lr=0.1), optim.SGD(model[3].parameters(), lr=0.1)
    with certify(model, one, raises=False) as report:
        for optimizer in (one, two):
            train(model, optimizer)
    finding = only(report, "no_group")
    assert finding.tensors == ("3.weight", "3.bias")
    assert "list of all optimizers" in finding.advice


def test_a_tensor_in_two_groups() -> None:
    model = net()
    optimizer = sgd(model)
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": [model[3].weight]})
    finding = only(seen(model, optimizer), "two_groups")
    assert finding.tensors == ("3.weight",)
    assert "group 0 and group 1" in finding.message


class Forgets:
    """A scheduler of the groups there were when it was made, as timm's are and torch's were."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._groups, self._step = [*optimizer.param_groups], 0
        for group in self._groups:
            group["initial_lr"] = group["lr"]

    def step(self) -> None:
        self._step += 1
        for group in self._groups:
            group["lr"] = group["initial_lr"] / (1 + self._step)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Forgets, "has lost it: it held 0.01 while the others' rates changed"),
        (lambda o: schedulers.LinearLR(o, total_iters=4), "from the 0.01 it came with to 0.025"),
        (
            lambda o: schedulers.CosineAnnealingLR(o, 4),
            "",
        ),  # goes on from where it is: as it should
    ],
)
def test_a_group_added_after_the_scheduler(make: Callable[[Any], Any], said: str) -> None:
    model = net()
    optimizer = optim.SGD(model[3].parameters(), lr=0.1)
    scheduler = make(optimizer)
    optimizer.add_param_group({"params": [*model[:3].parameters()], "lr": 0.01})
    report = seen(model, optimizer, scheduler)
    if said:
        finding = only(report, "scheduler_group")
        assert set(finding.tensors) == BODY
        assert said in finding.message
    else:
        assert report.findings == []


@pytest.mark.parametrize("scheduled", [True, False])
def test_lr_scale_that_nobody_multiplies(scheduled: bool) -> None:
    model = net()
    optimizer = by_layer(model)
    scheduler = schedulers.LinearLR(optimizer, total_iters=4) if scheduled else None
    report = seen(model, optimizer, scheduler)
    finding = only(report, "scale_ignored")
    assert "lr_scale of their groups goes from 0.1 to 1, and nobody multiplies" in finding.message
    planned = {row.name: row.planned for row in report.rows}
    held = {row.name: row.highest for row in report.rows}
    assert planned["3.weight"] == held["3.weight"] == held["0.weight"]
    assert planned["0.weight"] == pytest.approx(0.1 * (planned["3.weight"] or 0))


@pytest.mark.parametrize(
    ("factor", "kind"), [((0.1, 1.0), None), ((0.01, 1.0), "rates"), ((0.3, 1.0), "rates")]
)
def test_lr_scale_multiplied_once_twice_or_otherwise(
    factor: tuple[float, ...], kind: str | None
) -> None:
    model = net()
    optimizer = by_layer(model)

    def rates(step: int) -> None:
        for group, own in zip(optimizer.param_groups, factor, strict=True):
            group["lr"] = 0.1 * own / (1 + step)

    report = seen(model, optimizer, before=rates)
    if kind is None:
        assert report.findings == []
    else:
        finding = only(report, kind)
        assert set(finding.tensors) == (BODY if factor[0] == 0.01 else {"3.weight", "3.bias"})
        assert ("multiplied in twice" in finding.message) == (factor[0] == 0.01)


def test_rates_that_meet_at_a_floor_are_not_one_rate() -> None:
    model = net()
    optimizer = by_layer(model)

    def to_a_floor(step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = group["lr_scale"] * 0.1 if step < 5 else 1e-6

    assert seen(model, optimizer, before=to_a_floor, steps=6).findings == []


def test_own_rates_of_groups_are_multiplied_by_lr_scale() -> None:
    """Where groups have both, the plan is their product, as timm's schedulers make it."""
    model = net()
    optimizer = by_layer(model)
    optimizer.param_groups[0]["lr"] = 0.05
    scheduler: Any = timm.scheduler.CosineLRScheduler(optimizer, t_initial=8)
    report = seen(model, optimizer, before=scheduler.step)
    assert report.findings == []
    assert sorted({row.planned or 0 for row in report.rows}) == pytest.approx([0.005, 0.1])


def test_a_scheduler_that_overwrites_the_rates_of_groups() -> None:
    model = net()
    optimizer = by_layer(model)
    for group in optimizer.param_groups:
        group["lr"] *= group.pop("lr_scale")
    with certify(model, optimizer, raises=False) as report:
        train(model, optimizer, schedulers.OneCycleLR(optimizer, max_lr=0.1, total_steps=5))
    finding = only(report, "scale_ignored")
    assert "their groups began with 0.01 to 0.1, and a scheduler overwrote it" in finding.message


@pytest.mark.parametrize("set_to_none", [True, False])
def test_frozen_in_the_loop_and_carried_on_by_momentum_and_decay(set_to_none: bool) -> None:
    model = net()
    optimizer = sgd(model, momentum=0.9, weight_decay=0.01)

    def freeze(step: int) -> None:
        if step == 2:
            model[3].requires_grad_(False)

    report = seen(model, optimizer, before=freeze, set_to_none=set_to_none)
    if set_to_none:
        assert report.findings == []
    else:
        finding = only(report, "frozen_moves")
        assert finding.tensors == ("3.weight", "3.bias")
        assert "by weight decay (0.01) and momentum" in finding.message


def test_frozen_and_written_to_by_something_else() -> None:
    model = net()
    model[3].requires_grad_(False)
    average = torch.optim.swa_utils.AveragedModel(model)

    def write_average(step: int) -> None:
        with torch.no_grad():
            average.module[3].weight.mul_(0.9)  # of a run before
            model[3].weight.copy_(average.module[3].weight)

    finding = only(seen(model, sgd(model), before=write_average, steps=2), "frozen_moves")
    assert finding.tensors == ("3.weight",)
    assert "not by the optimizer" in finding.message


@pytest.mark.parametrize("steps", [1, 3])
def test_batchnorm_of_a_frozen_body_under_train(steps: int) -> None:
    model = net()
    model[:3].requires_grad_(False)
    finding = only(seen(model, sgd(model), steps=steps), "frozen_statistics")
    assert finding.tensors == ("1.running_mean", "1.running_var")
    model.eval()
    assert seen(model, sgd(model), steps=steps).findings == []


@pytest.mark.parametrize("fixed", [True, False])
def test_rate_0_with_decay(fixed: bool) -> None:
    """Decay goes by the rate in most optimizers, where rate 0 is not judged."""
    model = net()
    groups: list[Any] = [
        {"params": [*model[:3].parameters()], "lr": 0.0},
        {"params": model[3].parameters()},
    ]
    optimizer = timm.optim.AdaBelief(groups, lr=0.1, weight_decay=0.01, fixed_decay=fixed)
    report = seen(model, optimizer)
    if fixed:
        finding = only(report, "moves_at_rate_0")
        assert set(finding.tensors) == BODY - {"1.bias"}  # which is 0
        assert "weight decay (0.01) that does not go by the rate" in finding.message
    else:
        assert report.findings == []
        assert {r.not_judged for r in report.rows if r.name in BODY} == {"rate 0"}


@pytest.mark.slow
def test_compiled_before_unfreezing() -> None:
    model = net()
    model[0].requires_grad_(False)
    unguarded = {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}
    compiled = torch.compile(model, backend="aot_eager", options=unguarded)
    compiled(batch()[0])
    model[0].requires_grad_(True)
    finding = only(seen(compiled, sgd(model)), "no_gradient")
    assert finding.tensors == ("0.weight", "0.bias")
    assert "compile after unfreezing" in finding.advice
    torch.compiler.reset()
    fresh = torch.compile(net(), backend="aot_eager")
    assert seen(fresh, sgd(fresh)).findings == []


def test_what_the_loss_does_not_reach() -> None:
    model = net()
    model.register_parameter("unread", nn.Parameter(torch.ones(2)))
    assert only(seen(model, sgd(model)), "no_gradient").tensors == ("unread",)


def test_steps_lost_in_bfloat16() -> None:
    model = net().bfloat16()
    finding = only(seen(model, sgd(model, lr=1e-8)), "lost_in_rounding")
    assert finding.fault
    assert "3.weight" in finding.tensors
    assert "bfloat16" in finding.message


def test_rates_at_which_nothing_moves_are_a_note() -> None:
    model = net()
    finding = only(seen(model, sgd(model, lr=1e-12)), "too_small")
    assert not finding.fault
    assert "no step changes a float32" in finding.message
    assert "at rate 1e-12" in finding.message


def test_a_step_that_leaves_a_tensor_out() -> None:
    model = net()
    optimizer = sgd(model)
    kept = model[3].bias.detach().clone()
    optimizer.register_step_post_hook(lambda *_: model[3].bias.data.copy_(kept))
    finding = only(seen(model, optimizer), "still")
    assert finding.tensors == ("3.bias",)
    assert "would move it, and the optimizer does not" in finding.message


def test_rates_that_differ_within_a_layer_are_a_note() -> None:
    model = net()
    groups = [
        {"params": [model[3].bias], "lr": 0.5},
        {"params": [p for p in model.parameters() if p is not model[3].bias]},
    ]
    optimizer = optim.SGD(groups, lr=0.1)
    with certify(model, optimizer) as report:
        train(model, optimizer)
    finding = only(report, "within_layer")
    assert not finding.fault
    assert finding.message == "rates differ within a layer: 3 0.1 to 0.5"


def test_a_block_without_a_step() -> None:
    for optimizer in (None, sgd(model := net())):
        with certify(model, optimizer) as report:
            pass
        assert not only(report, "no_step").fault
    with certify(model, raises=False) as report, torch.no_grad():
        model[3].weight.zero_()
    assert only(report, "no_step_seen").tensors == ("3.weight",)


def test_the_wrong_optimizer() -> None:
    model = net()
    with certify(model, sgd(model), raises=False) as report:
        train(model, sgd(model))
    assert report.steps == 0
    assert only(report, "no_step_seen").fault


# --- With a plan ----------------------------------------------------------------------------------


def planned(model: nn.Module) -> tuple[Plan, Optimizer]:
    """Layer-wise decay, and an optimizer over its groups."""
    plan = layerwise_decay(
        layer_map(model), 0.1, 0.0, decay=0.5, min_scale=0.0, decay_bias_norm=False
    )
    return plan, optim.SGD(param_groups(model, plan, 0.1), lr=0.1)


def test_a_loop_by_its_plan_is_silent_and_one_beside_it_is_not() -> None:
    model = net()
    plan, optimizer = planned(model)
    good = seen(
        model, optimizer, plan=plan, before=lambda t: set_rates(optimizer, 0.1, 1 / (t + 1))
    )
    assert good.findings == []
    rows = {row.name: row.planned for row in good.rows}
    assert rows == {row.name: pytest.approx(0.1 * row.lr_scale) for row in plan.rows}
    flat = only(seen(model, sgd(model), plan=plan), "scale_ignored")
    assert "the plan goes from 0.5 to 1" in flat.message

    def overwritten(step: int) -> None:
        optimizer.param_groups[0]["lr"] = 0.01

    assert only(seen(model, optimizer, plan=plan, before=overwritten), "rates").fault


def test_what_a_plan_freezes_is_judged_by_the_plan() -> None:
    model = net()
    plan = freeze_backbone(layer_map(model), 0.1, 0.0, decay_bias_norm=False)
    model[:3].eval()
    optimizer = optim.SGD(model[3].parameters(), lr=0.1)
    idle = only(seen(model, optimizer, plan=plan), "needless_gradient")
    assert not idle.fault
    assert set(idle.tensors) == BODY
    moved = only(seen(model, sgd(model), plan=plan), "frozen_moves")
    assert "the plan freezes them, and requires_grad is True" in moved.message
    model.requires_grad_(False)
    model[3].weight.requires_grad_(True)
    shut = only(seen(model, optimizer, plan=plan), "frozen")
    assert shut.tensors == ("3.bias",)


def test_rows_that_train_later_or_whose_rate_is_their_own_are_not_held_to_it() -> None:
    model = net()
    plan, optimizer = planned(model)

    def later(row: Row) -> Row:
        return replace(row, trainable_from=1, g=rise(1, 1.0)) if row.name in BODY else row

    changing = Plan(tuple(map(later, plan.rows)))
    optimizer.param_groups[0]["lr"] = 1e-3
    assert only(seen(model, optimizer, plan=plan), "rates").fault
    assert seen(model, optimizer, plan=changing).findings == []
    model[:3].requires_grad_(False)
    model[:3].eval()
    assert seen(model, optimizer, plan=changing).findings == []


def test_another_weight_decay_than_planned_is_a_note() -> None:
    model = net()
    plan, _ = planned(model)
    optimizer = optim.AdamW(param_groups(model, plan, 0.1), lr=0.1)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.01
    finding = only(seen(model, optimizer, plan=plan), "weight_decay")
    assert not finding.fault
    assert "0.01 for 0" in finding.message


def test_a_plan_of_another_model_is_refused() -> None:
    model = net()
    plan, optimizer = planned(model)
    rows = tuple(row for row in plan.rows if row.name != "3.bias")
    with (
        pytest.raises(UserError, match=r"the model has 3\.bias, and the plan does not"),
        certify(model, optimizer, Plan(rows)),
    ):
        pass


# --- Not judged -----------------------------------------------------------------------------------


def test_gradients_of_exactly_0_are_not_judged() -> None:
    model = net()
    nn.init.constant_(model[1].bias, -100.0)  # nothing passes the ReLU
    report = seen(model, sgd(model))
    assert report.findings == []
    assert {r.name for r in report.rows if r.not_judged == "gradient 0"} >= {"0.weight", "3.weight"}


@pytest.mark.parametrize("fused", [True, False])
def test_steps_that_a_scaler_skips_are_not_judged(fused: bool) -> None:
    model = net()
    optimizer = optim.Adam(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu")
    images, labels = batch()
    with certify(model, optimizer) as report:
        for _ in range(2):
            optimizer.zero_grad()
            loss = cross_entropy(model(images), labels) * float("inf")
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    assert report.faults == []
    assert not any(row.moved for row in report.rows)
    if fused:  # the optimizer is called, and told to do nothing
        assert {row.not_judged for row in report.rows} == {"every step was skipped"}
    else:
        assert report.steps == 0


class Careful(optim.SGD):
    """Does nothing where a gradient is not finite."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if all(bool(p.grad.isfinite().all()) for p in self.param_groups[0]["params"]):
            super().step(closure)


def test_gradients_that_are_not_finite_are_not_judged() -> None:
    layer = nn.Linear(2, 2)
    optimizer = Careful(layer.parameters(), lr=0.1)
    with certify(layer, optimizer) as report:
        (layer(torch.ones(1, 2)) * float("inf")).sum().backward()
        optimizer.step()
    assert {row.not_judged for row in report.rows} == {"gradient not finite"}


def test_steps_that_lead_back_are_steps() -> None:
    layer = nn.Linear(2, 2)
    nn.init.zeros_(layer.bias)
    optimizer = optim.SGD([layer.bias], lr=0.5)
    layer.weight.requires_grad_(False)
    with certify(layer, optimizer) as report:
        for sign in (1, -1):
            optimizer.zero_grad()
            (sign * layer(torch.ones(1, 2))).sum().backward()
            optimizer.step()
    assert not layer.bias.any()
    assert [row.moved for row in report.rows] == [False, True]


def test_a_tensor_that_is_new_in_the_loop_is_judged_by_its_group_alone() -> None:
    model = net()
    optimizer = sgd(model)

    def replaced(step: int) -> None:
        if step == 2:
            model[3].bias = nn.Parameter(torch.ones(4))
            optimizer.param_groups[0]["params"][-1:] = []
            optimizer.add_param_group({"params": [model[3].bias]})

    report = seen(model, optimizer, before=replaced)
    assert report.findings == []
    assert {row.name: row.not_judged for row in report.rows}["3.bias"] == "new in the loop"


def test_sharded_parameters_are_not_judged() -> None:
    class DTensor(nn.Parameter):
        """Bears the name of torch's."""

    model = net()
    model[3].weight = DTensor(model[3].weight.detach())
    optimizer = optim.SGD([p for p in model.parameters() if p is not model[3].bias], lr=0.1)
    model[3].bias.requires_grad_(False)
    report = seen(model, optimizer)
    assert report.findings == []
    assert {r.name: r.not_judged for r in report.rows}["3.weight"] == "sharded"


def test_a_group_at_rate_0_is_not_held_to_its_lr_scale() -> None:
    model = net()
    optimizer = by_layer(model)
    optimizer.param_groups[1]["lr"] = 0.0
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 0.1})
    assert seen(model, optimizer).findings == []


# --- Wrappers -------------------------------------------------------------------------------------


def test_wrapped_models_are_looked_through() -> None:
    model = net()
    wrapped = nn.DataParallel(model)
    model[0] = torch.compile(model[0], backend="eager")  # type: ignore[assignment]
    with certify(wrapped, sgd(wrapped), raises=False) as report:
        pass
    assert [row.name for row in report.rows] == [name for name, _ in net().named_parameters()]


class Wrapped:
    """What accelerate and Lightning make of an optimizer: another object over its groups."""

    def __init__(self, inside: Optimizer) -> None:
        self.inside = inside

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.inside.param_groups

    @property
    def state(self) -> Any:
        return self.inside.state

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inside.zero_grad(set_to_none)

    def step(self) -> None:
        self.inside.step()


@pytest.mark.parametrize("given", [True, False])
def test_a_wrapped_optimizer_is_seen_by_its_groups(given: bool) -> None:
    model = net()
    optimizer = Wrapped(sgd(model))
    optimizer.inside.load_state_dict(optimizer.inside.state_dict())
    with certify(model, optimizer if given else None) as report:
        optimizer.inside.load_state_dict(optimizer.inside.state_dict())  # as accelerate does
        train(model, optimizer)
    assert report.steps == 4
    assert report.optimizers == ["SGD"]
    assert report.findings == []


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("kind", ["muon", "lookahead"])
def test_an_optimizer_that_steps_others_is_one(given: bool, kind: str) -> None:
    model = net()
    optimizer: Any
    if kind == "muon":
        plan, _ = planned(model)
        optimizer = MuonWithAdamW(
            param_groups(model, plan, 0.1), {"0.weight"}, momentum=0.9, nesterov=True, ns_steps=2,
            adjust_lr="match_rms_adamw", adamw_betas=[0.9, 0.99], adamw_eps=1e-8,
        )  # fmt: skip
    else:
        optimizer = timm.optim.Lookahead(sgd(model))
    with certify(model, optimizer if given else None) as report:
        train(
            model,
            optimizer,
        )
    assert report.steps == 4
    assert report.findings == []


def test_closures_are_seen_by_the_gradients_they_make() -> None:
    model = net()
    optimizer = optim.LBFGS(model.parameters())
    images, labels = batch()

    def closure() -> Tensor:
        optimizer.zero_grad()
        optimizer.param_groups[0]["lr"] = 0.5  # and by the rate they leave
        loss = cross_entropy(model(images), labels)
        loss.backward()
        return loss

    with certify(model, optimizer) as report:
        optimizer.step(closure)
    assert report.findings == []
    assert all(row.gradient and row.lowest == row.highest == 0.5 for row in report.rows)


def test_tensors_that_are_stepped_in_one_piece_or_as_copies() -> None:
    model = net()
    tensors = [*model.parameters()]
    flat = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in tensors]))
    flat.grad, at = torch.zeros_like(flat), 0
    for p in tensors:  # views of one piece
        p.data = flat.data[at : at + p.numel()].view_as(p)
        p.grad = flat.grad[at : at + p.numel()].view_as(p)
        at += p.numel()
    report = seen(model, optim.SGD([flat], lr=0.1), set_to_none=False)
    assert report.findings == []
    assert {row.groups for row in report.rows} == {("group 0",)}
    assert {row.not_judged for row in report.rows if not row.moved} <= {IN_ONE_PIECE}

    model = net()
    copies = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
    optimizer = optim.SGD(copies, lr=0.1)
    images, labels = batch()
    with certify(model, optimizer) as report:
        for _ in range(2):
            model.zero_grad()
            cross_entropy(model(images), labels).backward()
            for copy, p in zip(copies, model.parameters(), strict=True):
                copy.grad = p.grad
            optimizer.step()
            with torch.no_grad():
                for copy, p in zip(copies, model.parameters(), strict=True):
                    p.copy_(copy)
    assert report.findings == []
    assert {row.not_judged for row in report.rows} == {"an optimizer steps copies"}


def test_sparse_gradients_are_seen() -> None:
    table = nn.Embedding(5, 3, sparse=True)
    optimizer = optim.SparseAdam(table.parameters(), lr=0.1)
    with certify(table, optimizer) as report:
        table(torch.tensor([1, 2])).sum().backward()
        optimizer.step()
    assert [(row.moved, row.largest_gradient) for row in report.rows] == [(True, 1.0)]


# --- The block ------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_hook_is_left() -> Iterator[None]:
    yield
    assert not torch_optimizer._global_optimizer_pre_hooks
    assert not torch_optimizer._global_optimizer_post_hooks


def frozen_statistics() -> tuple[nn.Module, Optimizer]:
    model = net()
    model[:3].requires_grad_(False)
    return model, sgd(model)


def test_a_fault_is_one_error_with_what_and_how_to_mend() -> None:
    model, optimizer = frozen_statistics()
    with pytest.raises(NotAsMeantError) as raised, lrexp.certify(model, optimizer) as report:
        train(model, optimizer)
    assert raised.value.report is report
    first, fault, advice = str(raised.value).splitlines()
    assert first == "certify: 4 steps of SGD: 1 fault"
    assert fault.startswith("fault: 2 buffers of frozen BatchNorm changed (1.running_mean,")
    assert ".eval()" in advice


def test_steps_judge_at_once_and_let_go() -> None:
    model, optimizer = frozen_statistics()
    done: list[int] = []
    with pytest.raises(NotAsMeantError), certify(model, optimizer, steps=2) as report:
        train(model, optimizer, before=done.append)
    assert done == [0, 1]
    model, optimizer = net(), None
    with certify(model, steps=2) as report:
        train(model, sgd(model), steps=3)
        assert report.judged
        assert not torch_optimizer._global_optimizer_pre_hooks
        with torch.no_grad():
            model[3].weight.zero_()
        model.requires_grad_(False)
    assert report.steps == 2
    assert report.findings == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_of_the_loop_is_its_own(error: type[BaseException]) -> None:
    model, optimizer = frozen_statistics()
    caught: list[Report] = []

    def interrupt(step: int) -> None:
        if step == 2:
            raise error

    with pytest.raises(error), certify(model, optimizer) as report:  # noqa: PT012
        caught.append(report)
        assert "not judged" in str(report)
        train(model, optimizer, before=interrupt)
    (report,) = caught
    assert report.judged
    assert report.faults


def test_the_report_is_a_table_of_tensors_treated_alike() -> None:
    model = net().eval()
    report = seen(model, by_layer(model))
    lines = str(report).splitlines()
    assert lines[0] == "certify: 4 steps of SGD: 1 fault"
    assert " ".join(lines[-3].split()) == "tensors group planned held trains gradient moved"
    assert " ".join(lines[-2].split()) == "0.weight and 3 more group 0 0.01 0.1 yes yes yes"
    page = report._repr_html_()
    assert "<td>0.weight and 3 more</td>" in page
    assert page.count("<li>") == 1
    assert "&#x27;lr&#x27;" in page


def test_what_is_no_optimizer_is_refused() -> None:
    with pytest.raises(UserError, match="dict is no torch optimizer"), certify(net(), {}):
        pass


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex64, torch.uint8]
)
def test_a_fingerprint_tells_any_change_and_no_other(dtype: torch.dtype) -> None:
    tensor = torch.arange(1, 7).reshape(2, 3).to(dtype)
    before = int(fingerprint(tensor))
    assert int(fingerprint(tensor.clone())) == before
    assert int(fingerprint(tensor.t().contiguous().t())) == before  # however it lies
    for swapped in (tensor.flip(0), tensor.flip(1)):
        assert int(fingerprint(swapped.contiguous())) != before
    tensor[1, 2] += 1
    assert int(fingerprint(tensor)) != before


def test_fingerprints_of_large_tensors_know_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    from lrexp.use import fingerprints

    monkeypatch.setattr(fingerprints, "BLOCK", 4)
    tensor = torch.arange(30)
    found = {int(fingerprint(tensor))}
    for i in range(30):
        other = tensor.clone()
        other[i] = -1
        found.add(int(fingerprint(other)))
    found.add(int(fingerprint(torch.cat([tensor[4:8], tensor[:4], tensor[8:]]))))
    assert len(found) == 32


def test_what_cannot_be_watched_is_said_at_once_and_what_was_not_at_the_end() -> None:
    net = nn.Linear(2, 1)
    sgd = optim.SGD(net.parameters(), 0.1)
    wrong: list[dict[str, Any]] = [{"plan": "uniform"}, {"steps": "4"}, {"steps": 0}]
    for given in wrong:
        with pytest.raises(UserError, match="certify: "), lrexp.certify(net, sgd, **given):
            pass
    with lrexp.certify(net, sgd, steps=3) as report:
        net(torch.ones(1, 2)).sum().backward()
        sgd.step()
    said = [finding.message for finding in report.findings]
    assert said == ["1 of the 3 steps to be watched were made"]
    assert not report.faults
