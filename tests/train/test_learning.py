"""What a phase trains moves in it, or it is said why not; what is passed by is an error."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from trainers import Silent, Watch, trainer_of

from lrexp.build.experiment import build
from lrexp.config.errors import UserError
from lrexp.data.draws import draw
from lrexp.folder.checkpoint import load_checkpoint, save_checkpoint
from lrexp.grid.stack.model import StackedModel
from lrexp.grid.stack.trainer import StackedTrainer
from lrexp.models.layers import layer_map
from lrexp.optim.alone import moves
from lrexp.optim.groups import param_groups, state_by_name
from lrexp.optim.optimizers import REFUSED, MuonWithAdamW, from_library
from lrexp.plan.plan import Plan, Row, then
from lrexp.plan.policies.scaling import uniform
from lrexp.train import learning, loop
from lrexp.train.loop import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

EPOCHS, STEPS = 4, 2
SHORT = (f"trainer.epochs={EPOCHS}", f"trainer.limit_train_batches={STEPS}")
Edit = Callable[[Row], Row]


class Net(nn.Module):
    """Two layers with BatchNorm and dropout between them, a tensor nobody reads, a dead unit."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.3)
        self.gain = nn.Parameter(torch.ones(8))
        self.dead = nn.Linear(8, 8)
        nn.init.constant_(self.dead.bias, -100.0)
        self.unread = nn.Parameter(torch.ones(2))
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.drop(self.norm(self.first(images.flatten(1)))) * self.gain
        return self.head(x + self.dead(x).relu())


class Later(nn.Module):
    """Its body has no gradient before the gain behind it has moved from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(64, 64)
        self.gain = nn.Parameter(torch.zeros(()))
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        return self.head(x + self.gain * self.body(x))


DEAD = {"dead.weight", "dead.bias"}
LATE = {"first.weight", "first.bias", *DEAD, "unread"}  # train from the third epoch on


def late(row: Row) -> Row:
    return replace(row, trainable_from=2, group="late") if row.name in LATE else row


Make = Callable[..., Trainer]
BUILT: list[Any] = []


@pytest.fixture
def make(compose: Any) -> Make:
    """A function to a trainer that has not trained yet."""

    def made(
        edit: Edit = lambda row: row,
        net: Callable[[], nn.Module] = Net,
        optimizer: Any = torch.optim.AdamW,
        lr: float = 0.01,
        **settings: Any,
    ) -> Trainer:
        config = compose("trainer.device=cpu", "data.leak_check=skip", *SHORT)
        if not BUILT:
            BUILT.append(build(config))
        for key, value in settings.items():
            assert hasattr(config.trainer, key)
            setattr(config.trainer, key, value)
        torch.manual_seed(1)
        model = net()
        layers = layer_map(model, "head")
        plan = Plan(tuple(map(edit, uniform(layers, lr, 0.0, decay_bias_norm=False).rows)))
        fresh = replace(
            BUILT[0],
            model=model,
            layers=layers,
            plan=plan,
            optimizer=optimizer(param_groups(model, plan, lr), lr=lr),
            base_lr=lr,
            schedule=[1.0] * (EPOCHS * STEPS),
            steps_per_epoch=STEPS,
        )
        return trainer_of(config, fresh)

    return made


def proof_of(trainer: Trainer) -> dict[str, Any]:
    trainer.run(Silent())
    return trainer.learning.as_dict()


def test_what_moved_what_nobody_reads_and_what_is_dead_are_told_apart(make: Make) -> None:
    trainer = make()
    found = proof_of(trainer)
    names = {name for name, _ in trainer.experiment.model.named_parameters()}
    others = {
        "unread": "unused in epochs 1 to 4: no gradient comes there",
        **dict.fromkeys(DEAD, "still in epochs 1 to 4: the gradient is 0"),
    }
    words = {name: others[name].split()[0] if name in others else "moved" for name in names}
    assert found == {"tensors": words, "reasons": others, "not_judged": []}


def muon(groups: Any, lr: float, matrices: tuple[str, ...] = ("first.weight",)) -> MuonWithAdamW:
    return MuonWithAdamW(
        groups,
        {*matrices},
        momentum=0.9,
        nesterov=True,
        ns_steps=5,
        adjust_lr="original",
        adamw_betas=[0.9, 0.95],
        adamw_eps=1e-8,
    )


def lion(groups: Any, lr: float) -> Any:
    return from_library("timm", groups, lr, "lion", {})


def schedulefree(groups: Any, lr: float) -> Any:
    return importlib.import_module("schedulefree").AdamWScheduleFree(groups, lr=lr)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, muon, lion, schedulefree])
def test_every_optimizer_is_judged_alike_and_by_what_it_does(make: Make, optimizer: Any) -> None:
    found = proof_of(make(optimizer=optimizer))
    rounding = "first.bias"  # is in front of BatchNorm: the gradient is 0 but for that
    assert found["reasons"].keys() - {rounding} == {*DEAD, "unread"}
    trainer = make(optimizer=optimizer)
    trainer.experiment.model.first.requires_grad_(False)
    compiled_while_frozen(trainer.experiment.model)
    with pytest.raises(UserError, match=r"^first\.weight is to train in epochs 1 to 4 "):
        trainer.run(Silent())


def test_every_phase_judges_what_it_trains(make: Make) -> None:
    found = proof_of(make(late))
    assert set(found["reasons"].values()) == {
        "unused in epochs 3 to 4: no gradient comes there",
        "still in epochs 3 to 4: the gradient is 0",
    }
    assert found["tensors"]["first.weight"] == found["tensors"]["head.bias"] == "moved"


def test_a_rate_of_zero_and_steps_lost_in_rounding_are_reasons(make: Make) -> None:
    def slow(row: Row) -> Row:
        scale = {"gain": 0.0, "head.weight": 1e-30}.get(row.name, 1.0)
        return replace(row, lr_scale=scale, group=f"of_{scale:.0e}".replace("-", "_"))

    reasons = proof_of(make(slow))["reasons"]
    assert reasons["gain"] == "still in epochs 1 to 4: the rate was 0 at every step"
    assert reasons["head.weight"] == "still in epochs 1 to 4: steps are too small for float32"

    def stops(row: Row) -> Row:  # its factor is 0 in the last two epochs, where a phase is
        row = replace(row, g=then(2, 0.0), group="stops") if row.name == "head.weight" else row
        return replace(row, trainable_from=2, group="later") if row.name == "gain" else row

    reasons = proof_of(make(stops))["reasons"]
    assert reasons["head.weight"] == "still in epochs 3 to 4: the rate was 0 at every step"


def test_a_gradient_that_was_zero_until_the_last_step_is_no_fault(make: Make) -> None:
    trainer = make(net=Later, optimizer=torch.optim.SGD, lr=1.0)
    trainer.experiment.schedule[1:] = []
    assert proof_of(trainer)["reasons"] == dict.fromkeys(
        ("body.weight", "body.bias"), "still in epoch 1: the gradient is 0"
    )
    taken_again = learning._eager_gradients(trainer, trainer.learning._phase)
    assert taken_again["body.weight"].any(), "by now it has one"


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_a_limit_on_gradients_that_stops_every_step_is_a_reason(make: Make, optimizer: Any) -> None:
    found = proof_of(make(optimizer=optimizer, clip_grad_norm=1e-30))
    assert "moved" not in {found["tensors"][name] for name in ("first.weight", "head.weight")}


def compiled_while_frozen(model: nn.Module) -> None:
    """What a graph does that was compiled while parameters were frozen, and is used ever after."""
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    busy: list[bool] = []

    def graph(*images: Tensor) -> Tensor:
        if busy:
            return model._call_impl(*images)
        busy.append(True)
        try:
            constants = {name: model.get_parameter(name).detach() for name in frozen}
            return functional_call(model, constants, images)
        finally:
            busy.pop()

    model._compiled_call_impl = graph


def test_a_tensor_that_a_stale_graph_leaves_out_ends_the_run_with_its_name(make: Make) -> None:
    trainer, rows = make(late), []
    trainer.begin_epoch()
    trainer.epoch = 0
    compiled_while_frozen(trainer.experiment.model)
    with pytest.raises(
        UserError, match=r"first\.\w+ is to train in epochs 3 to 4 and has not"
    ) as e:
        trainer.run(Watch(lambda row: rows.append(row["epoch"])))
    assert "the training step makes no gradient for it" in str(e.value)
    assert "(first.weight, first.bias: 2 in all)" in str(e.value)
    assert rows == [1, 2, 3, 4], "what took place is recorded"


def test_a_tensor_that_the_optimizer_leaves_out_ends_the_run(make: Make) -> None:
    trainer = make(lambda row: replace(row, group="gain") if row.name == "gain" else row)
    step, groups = trainer.experiment.optimizer.step, trainer.experiment.optimizer.param_groups
    gain = next(group for group in groups if group["name"] == "gain")

    def without() -> None:
        trainer.experiment.optimizer.param_groups = [g for g in groups if g is not gain]
        step()
        trainer.experiment.optimizer.param_groups = groups

    trainer.experiment.optimizer.step = without
    with pytest.raises(UserError, match=r"gain is to train .* the optimizer leaves it out"):
        trainer.run(Silent())


def test_a_tensor_whose_steps_lead_back_is_still(make: Make) -> None:
    """As those of a sign do, of a gradient that turns between two steps."""
    trainer = make(optimizer=lion)
    optimizer, gain = trainer.experiment.optimizer, trainer.experiment.model.get_parameter("gain")
    step, began = optimizer.step, gain.detach().clone()

    def there_and_back() -> None:
        step()
        gain.data.copy_(began)

    optimizer.step = there_and_back
    found = proof_of(trainer)
    assert found["tensors"]["gain"] == "still"
    assert "its steps add up to nothing" in found["reasons"]["gain"]


def test_the_judgment_changes_no_bit_of_the_run(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def traces(trainer: Trainer) -> Iterator[Any]:
        seen: list[Any] = []

        def look(row: Any) -> None:
            model = trainer.experiment.model
            seen.append([
                {k: v for k, v in row.items() if not k.startswith("perf/")},
                {name: value.clone() for name, value in model.state_dict().items()},
                {n: p.grad is not None and p.grad.clone() for n, p in model.named_parameters()},
                [module.training for module in model.modules()],
                state_by_name(trainer.experiment.optimizer),
                (random.getstate(), torch.get_rng_state()),
            ])  # fmt: skip

        trainer.run(Watch(look))
        assert len(seen) == EPOCHS
        return iter(seen)

    judged = traces(make(late))
    monkeypatch.setattr(learning.LearningProof, "end_epoch", lambda self, trainer: None)
    for ours, theirs in zip(judged, traces(make(late)), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_a_run_of_one_phase_hashes_twice(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    real = learning.quick_hash
    monkeypatch.setattr(learning, "quick_hash", lambda t: hashed.extend(t) or real(t))
    trainer = make()
    trainer.run(Silent())
    assert sorted(hashed) == sorted(2 * [n for n, _ in trainer.experiment.model.named_parameters()])


def stopped_after(trainer: Trainer, step: int, file: Path) -> None:
    """Train up to a step within an epoch, and save the state there."""

    class StopHereError(Exception): ...

    real = trainer.set_rates

    def set_rates(coming: int) -> None:
        if coming == step:
            raise StopHereError
        real(coming)

    trainer.set_rates = set_rates
    with pytest.raises(StopHereError):
        trainer.run(Silent())
    save_checkpoint(file, trainer.state())


@pytest.mark.parametrize("step", [1, 3, 5, 7])
def test_a_run_that_goes_on_within_a_phase_is_judged_by_all_of_it(
    make: Make, step: int, tmp_path: Path
) -> None:
    stopped_after(make(late), step, tmp_path / "last.pt")
    rest = make(late)
    rest.load_state(load_checkpoint(tmp_path / "last.pt"))
    assert proof_of(rest) == proof_of(make(late))


def test_what_a_stale_graph_left_out_before_a_stop_is_no_news_after_it(
    make: Make, tmp_path: Path
) -> None:
    stopped_after(make(late), 5, tmp_path / "last.pt")
    rest = make(late)
    rest.load_state(load_checkpoint(tmp_path / "last.pt"))
    with torch.no_grad():  # as if it had not moved since the phase began
        start = make(late).experiment.model.first.weight
        rest.experiment.model.first.weight.copy_(start)
    rest.experiment.optimizer.step = lambda: None
    with pytest.raises(UserError, match=r"first\.weight is to train in epochs 3 to 4"):
        rest.run(Silent())


def test_a_state_of_a_former_version_is_taken_up_and_its_phase_not_judged(
    make: Make, tmp_path: Path
) -> None:
    for step, judged in ((3, LATE | {"gain"}), (5, set())):
        stopped_after(make(late), step, tmp_path / "last.pt")
        state = load_checkpoint(tmp_path / "last.pt")
        del state["learning"]
        rest = make(late)
        rest.load_state(state)
        found = proof_of(rest)
        assert judged <= found["tensors"].keys()
        assert bool(judged) == bool(found["tensors"])
        since = 3 if step > 2 * STEPS else 1
        assert found["not_judged"] == [f"from epoch {since}: its state is of a former version"]


def test_another_plan_is_judged_from_its_first_epoch(make: Make, tmp_path: Path) -> None:
    stopped_after(make(), 3, tmp_path / "last.pt")
    rest = make(late)
    rest.load_state(load_checkpoint(tmp_path / "last.pt"), allow_plan_change=True)
    reasons = proof_of(rest)["reasons"]
    assert reasons["unread"] == "unused in epochs 3 to 4: no gradient comes there"


def test_a_run_that_stopped_after_its_last_step_says_that_it_cannot_tell(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make()
    trainer.experiment.schedule[STEPS:] = []
    trainer._evaluated = lambda split: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(Silent())
    save_checkpoint(tmp_path / "last.pt", trainer.state())
    rest = make()
    rest.experiment.schedule[STEPS:] = []
    rest.load_state(load_checkpoint(tmp_path / "last.pt"))
    found = proof_of(rest)
    assert {name for name, word in found["tensors"].items() if word == "not judged"} == DEAD
    assert found["tensors"]["unread"] == "unused"


def test_more_epochs_judge_their_phase_anew(make: Make, tmp_path: Path) -> None:
    short = make(net=Later, optimizer=torch.optim.SGD)
    short.experiment.schedule[1:] = []
    assert proof_of(short)["tensors"]["body.weight"] == "still"
    save_checkpoint(tmp_path / "last.pt", short.state())
    longer = make(net=Later, optimizer=torch.optim.SGD)
    longer.load_state(load_checkpoint(tmp_path / "last.pt"))
    found = proof_of(longer)
    assert set(found["tensors"].values()) == {"moved"}
    assert not found["reasons"]


def test_what_cannot_be_judged_is_left_out(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    diverged = make(optimizer=torch.optim.SGD, lr=1e30)
    found = proof_of(diverged)
    assert diverged.diverged
    assert found == {"tensors": {}, "reasons": {}, "not_judged": ["epoch 1: the run diverged"]}

    nothing = make(epochs=0)
    nothing.experiment.schedule[:] = []
    assert proof_of(nothing) == {"tensors": {}, "reasons": {}, "not_judged": []}

    real = loop.seen_row
    skipped = {"perf/skipped_steps": STEPS}
    monkeypatch.setattr(loop, "seen_row", lambda *known: real(*known) | skipped)
    still = make(late)
    still.experiment.optimizer.step = lambda: None
    whole = ["epochs 1 to 2: every step was skipped", "epochs 3 to 4: every step was skipped"]
    assert proof_of(still) == {"tensors": {}, "reasons": {}, "not_judged": whole}


def test_a_network_that_cannot_be_copied_is_no_failure(make: Make) -> None:
    trainer = make()
    trainer.experiment.model.lock = (_ for _ in ())
    found = proof_of(trainer)
    assert {found["tensors"][name] for name in (*DEAD, "unread")} == {"not judged"}
    assert "cannot be tried again" in found["reasons"]["unread"]


class Stacks(nn.Module):
    """Of what members of a stack may have."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 8)
        self.dead = nn.Linear(8, 8)
        nn.init.constant_(self.dead.bias, -100.0)
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images.flatten(1))
        return self.head(x + self.dead(x).relu())


def stacked(members: list[Trainer]) -> list[Exception | None]:
    failures: list[Exception | None] = [None] * len(members)
    StackedTrainer(members).run([Silent()] * len(members), [None] * len(members), failures)
    return failures


def test_members_of_a_stack_are_judged_as_runs_of_their_own(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [make(late, net=Stacks, lr=lr) for lr in (0.01, 0.02)]
    assert stacked(members) == [None, None]
    for member, lr in zip(members, (0.01, 0.02), strict=True):
        assert member.learning.as_dict() == proof_of(make(late, net=Stacks, lr=lr))

    def passes_by(model: StackedModel) -> None:
        for name, parameter in model._models[0].named_parameters():
            model.weights[name].requires_grad_(parameter.requires_grad and "first" not in name)
            model.weights[name].grad = None

    monkeypatch.setattr(StackedModel, "follow_freezing", passes_by)
    for failure in stacked([make(late, net=Stacks, lr=lr) for lr in (0.01, 0.02)]):
        assert isinstance(failure, UserError)
        assert str(failure).startswith("first.weight is to train in epochs 3 to 4")


def assert_tried_without_a_trace(make_optimizer: Callable[[list[dict[str, Any]]], Any]) -> None:
    """A step of each tensor alone moves it as it should, and nothing of the optimizer changes."""
    torch.manual_seed(draw(0, "tried"))
    layer = nn.Linear(6, 5)
    names = [name for name, _ in layer.named_parameters()]
    group = {"params": list(layer.parameters()), "names": names, "name": "all"}
    optimizer = make_optimizer([{**group, "lr": 0.01, "lr_scale": 1.0, "weight_decay": 0.0}])
    for steps in range(3):
        before = [p.clone() for p in layer.parameters()], repr(optimizer.state_dict())
        for weight in layer.parameters():
            gradient = torch.randn_like(weight)
            assert moves(optimizer, weight, gradient, 0.01, 3), steps
            assert not moves(optimizer, weight, gradient, 0.0, 3)
            assert not moves(optimizer, weight, torch.zeros_like(weight), 0.01, 3)
        assert repr(optimizer.state_dict()) == before[1]
        assert all(map(torch.equal, before[0], layer.parameters()))
        for weight in layer.parameters():
            weight.grad = torch.randn_like(weight)
        optimizer.step()


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adafactor", "muon"])
def test_a_step_is_tried_without_a_trace(name: str) -> None:
    if name == "muon":
        assert_tried_without_a_trace(lambda groups: muon(groups, 0.01, ("weight",)))
    else:
        kind = getattr(torch.optim, name)
        assert_tried_without_a_trace(lambda groups: kind(groups, lr=0.01))


@pytest.mark.slow
def test_a_step_of_every_library_optimizer_is_tried_without_a_trace() -> None:
    import timm.optim

    tried = 0
    for library, names in (
        ("timm", timm.optim.list_optimizers()),
        ("torch", ["Adadelta", "Adagrad", "Adam", "Adamax", "NAdam", "RAdam", "RMSprop"]),
    ):
        for name in sorted({*map(str, names)} - {*REFUSED, "adamuon", "muon", "nmuon", "muonc"}):
            try:
                from_library(library, [{"params": [nn.Parameter(torch.ones(2))]}], 0.01, name, {})
            except (UserError, KeyError):
                continue  # refused, or its package is not there
            tried += 1
            assert_tried_without_a_trace(
                lambda groups, of=(library, name): from_library(of[0], groups, 0.01, of[1], {})
            )
    assert tried > 30


@pytest.mark.slow
def test_a_compiled_graph_that_never_looks_at_what_trains_is_found(make: Make) -> None:
    """torch checks what trains before it uses a graph again; here it is told not to."""
    trainer = make(late)
    unguarded = {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}
    trainer.experiment.model.compile(backend="aot_eager", options=unguarded)
    with pytest.raises(UserError, match=r"^first\.weight is to train in epochs 3 to 4 "):
        trainer.run(Silent())


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lion", "muon", "schedulefree_adamw"])
@pytest.mark.parametrize(
    ("model", "side"),
    [("resnet18", 32), ("convnext_atto", 32), ("cait_xxs24_224", 32), ("efficientformer_l1", 224)],
)
def test_networks_of_timm_are_healthy_after_few_steps(
    compose: Any, model: str, side: int, optimizer: str
) -> None:
    """Of those that trained for three steps up to 177 tensors have not moved."""
    if model == "efficientformer_l1" and optimizer not in ("sgd", "adamw"):
        pytest.skip("a step of it takes seconds")
    if optimizer == "muon" and model in ("resnet18", "convnext_atto"):
        pytest.skip("it has no matrix for Muon")
    for settings in ((), ("trainer.clip_grad_norm=1e-9",), ("lr_policy=gradual_unfreeze",)):
        if settings and optimizer.startswith("schedulefree"):
            continue
        config = compose(
            *("trainer.device=cpu", "data.leak_check=skip", "trainer.stats_every=0"),
            *("data=synthetic", "data.train_size=24", f"data.image_shape=[3,{side},{side}]"),
            *("data.batch_size=4", "trainer.epochs=3", "trainer.limit_train_batches=1"),
            *("model=timm", f"model.name={model}", f"optimizer={optimizer}", *settings),
            *(["scheduler=constant"] if optimizer.startswith("schedulefree") else []),
            *([f"model.args.img_size={side}"] if model.startswith("cait") else []),
        )
        trainer = trainer_of(config)
        found = proof_of(trainer)
        assert set(found["tensors"]) == {
            name for name, _ in trainer.experiment.model.named_parameters()
        }
        assert {*found["tensors"].values()} <= {"moved", "still"}


def test_hashes_of_a_former_version_are_not_taken_for_those_of_weights_that_moved(
    compose: Any,
) -> None:
    trainer = trainer_of(compose("trainer.epochs=2", "trainer.limit_train_batches=1"))
    trainer.train_epoch()
    state = trainer.learning.state()
    hashes = state["phase"]["hashes"]
    assert {len(one) for one in hashes.values()} == {learning.DIGITS}
    state["phase"]["hashes"] = {name: one[:16] for name, one in hashes.items()}
    trainer.learning.load_state(state, trainer)
    found = trainer.learning.as_dict()
    assert found["tensors"] == {}
    assert found["not_judged"] == ["from epoch 1: its state is of a former version"]
