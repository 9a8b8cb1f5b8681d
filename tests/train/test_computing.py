"""In which numbers, layout and graphs a network is computed, and what cannot be is refused."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trainers import Silent

from lrexp.build.computing import build_computing, refuse_what_fails
from lrexp.build.experiment import build
from lrexp.config.errors import ConfigError, UserError
from lrexp.grid.isolation import undisturbed
from lrexp.train.computing import COLLECT_EVERY, PLAIN, Computing, quiet_collector
from lrexp.train.loop import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = ("data.limit=60", "trainer.epochs=1", "trainer.limit_train_batches=2")
Compose = Callable[..., Any]
Prepare = Callable[..., Trainer]


@pytest.fixture(autouse=True)
def _flags() -> Iterator[None]:
    """No test leaves torch rounding otherwise."""
    with undisturbed():
        yield


class Seen(nn.Module):
    """A convolution and a head that note what reaches them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.head = nn.Linear(16, 3)
        self.inputs: list[Tensor] = []
        for module in (self.conv, self.head):
            module.register_forward_hook(self._see)

    def _see(self, module: nn.Module, given: Any, made: Tensor) -> None:
        self.inputs += [*given, made]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.conv(images).relu().flatten(1))


def test_a_plain_run_computes_the_network_itself() -> None:
    model = Seen()
    assert PLAIN.forward(model) is model
    assert Computing(precision="tf32").forward(model) is model  # the GPU rounds, not the code


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16")])
def test_layers_compute_in_fewer_bits_and_weights_and_logits_stay_float32(
    precision: str, dtype: str
) -> None:
    model, images = Seen(), torch.randn(3, 2, 4, 4)
    logits = Computing(precision=precision).forward(model)(images)
    assert logits.dtype == torch.float32
    _, of_conv, _, of_head = model.inputs
    assert {of_conv.dtype, of_head.dtype} == {getattr(torch, dtype)}
    assert torch.equal(of_head.float(), logits)
    logits.sum().backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())  # type: ignore[union-attr]


def test_channels_last_reaches_the_convolutions_and_changes_no_value() -> None:
    model, images = Seen(), torch.randn(3, 2, 4, 4)
    plain = model(images)
    found = Computing(channels_last=True).forward(model)(images)
    given = model.inputs[4]
    assert given.is_contiguous(memory_format=torch.channels_last)
    assert not given.is_contiguous()
    assert torch.allclose(found, plain, atol=1e-6)


@pytest.mark.parametrize(
    ("device", "setting", "said"),
    [
        ("cpu", "precision=tf32", "on cpu it changes nothing"),
        ("cpu", "cuda_graph=true", "trainer.device is cpu"),
        ("mps", "cuda_graph=true", "trainer.device is mps"),
        ("mps", "precision=bf16", "has not been tried"),
        *(
            pytest.param("mps", setting, "has not been tried", marks=pytest.mark.slow)
            for setting in ("precision=tf32", "precision=fp16", "compile=default")
        ),
        ("mps", "compile=aot_eager", "has not been tried"),
    ],
)
def test_what_a_device_cannot_is_refused_with_its_key(
    compose: Compose, device: str, setting: str, said: str
) -> None:
    settings = compose(f"trainer.{setting}").trainer
    with pytest.raises(ConfigError, match=said) as refused:
        build_computing(settings, torch.device(device))
    assert setting.partition("=")[0] in str(refused.value)


def test_what_a_gpu_cannot_is_refused(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    with pytest.raises(ConfigError, match=r"8\.0"):
        build_computing(compose("trainer.precision=tf32").trainer, gpu)
    together = compose("trainer.cuda_graph=true", "trainer.accumulate=2").trainer
    with pytest.raises(ConfigError, match=r"trainer\.accumulate=2"):
        build_computing(together, gpu)


@pytest.mark.parametrize(("precision", "rounds"), [("tf32", True), ("fp32", False)])
def test_float32_on_a_gpu_is_rounded_where_that_is_asked_for_alone(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, precision: str, rounds: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    build_computing(compose(f"trainer.precision={precision}").trainer, torch.device("cuda"))
    assert torch.backends.cudnn.allow_tf32 is rounds
    assert torch.get_float32_matmul_precision() == ("high" if rounds else "highest")


class Particular(nn.Module):
    """Takes images in the usual layout, in float32, alone."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 3, padding=1))
        self.head = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        found = self.convs(images)
        if found.dtype != torch.float32:
            raise TypeError("expected float32 here")
        return self.head(found.view(len(images), 128))


@pytest.mark.parametrize(
    ("setting", "said"), [("precision=bf16", "expected float32"), ("channels_last=true", "view")]
)
def test_what_a_network_cannot_is_refused_before_it_trains(
    compose: Compose, setting: str, said: str
) -> None:
    config = compose("trainer.device=cpu", "data.leak_check=skip", *SHORT, f"trainer.{setting}")
    experiment = build(config)
    known = experiment.computing, Particular(), experiment.dataset
    with pytest.raises(ConfigError, match=said) as refused:
        refuse_what_fails(config, *known)
    assert f"trainer.{setting.partition('=')[0]}" in str(refused.value)
    broken = nn.Conv2d(7, 2, 1)  # its run will say so
    refuse_what_fails(config, experiment.computing, broken, experiment.dataset)


# --- Garbage ------------------------------------------------------------------------------------


def test_no_garbage_is_collected_within_an_epoch_and_all_of_it_after(prepare: Prepare) -> None:
    trainer, found = prepare(*SHORT), []

    class Circle:
        """Waits for the collector."""

        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            found.append(gc.isenabled())

    def watch(loss: Tensor) -> bool:
        Circle()
        assert not gc.isenabled()
        assert not found
        return False

    trainer.train_epoch(watch=watch)
    assert found == [True, True]
    assert gc.isenabled()


def test_the_collector_is_as_it_was_after_an_epoch_that_raises(prepare: Prepare) -> None:
    trainer = prepare(*SHORT)

    def fail(loss: Tensor) -> bool:
        raise KeyError("in a step")

    with pytest.raises(KeyError):
        trainer.train_epoch(watch=fail)
    assert gc.isenabled()
    gc.disable()
    try:
        prepare(*SHORT).train_epoch()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_hangs_together_in_circles_does_not_pile_up() -> None:
    alive = [0]

    class Circle:
        def __init__(self) -> None:
            self.itself, alive[0] = self, alive[0] + 1

        def __del__(self) -> None:
            alive[0] -= 1

    with quiet_collector() as after_step:
        for step in range(3 * COLLECT_EVERY):
            Circle()
            after_step(step)
            assert alive[0] <= COLLECT_EVERY


# --- Compiled -----------------------------------------------------------------------------------


def test_a_network_that_was_compiled_is_itself_after_the_epoch(prepare: Prepare) -> None:
    """Copies, files and hashes go by names and know of no wrapper; evaluation is not compiled."""
    plain, trainer = prepare(*SHORT), prepare(*SHORT, "trainer.compile=aot_eager")
    model, during = trainer.experiment.model, []
    names = [*model.state_dict()]

    def watch(loss: Tensor) -> bool:
        during.append(model._compiled_call_impl is not None)
        copied = copy.deepcopy(model)
        assert [*copied.state_dict()] == names
        assert copied._compiled_call_impl is None
        return False

    trainer.train_epoch(watch=watch)
    assert during == [True, True]
    assert model._compiled_call_impl is None
    plain.train_epoch()
    for name, tensor in plain.experiment.model.state_dict().items():
        assert torch.allclose(model.state_dict()[name], tensor, atol=1e-6), name


def test_what_cannot_be_compiled_says_so_with_its_key(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lrexp.train import computing

    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler on this machine")

    monkeypatch.setitem(computing.COMPILERS, "default", {"backend": broken})
    trainer = prepare(*SHORT, "trainer.compile=default")
    with pytest.raises(UserError, match=r"trainer\.compile=default.*no compiler on this machine"):
        trainer.run(Silent())
    assert trainer.experiment.model._compiled_call_impl is None
    compiled = trainer.experiment.computing.compiled(trainer.experiment.model)
    with pytest.raises(ValueError, match="of the network's own"), compiled:
        raise ValueError("of the network's own")


def test_graphs_of_another_phase_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards need not ask what requires gradients: an unfrozen tensor would silently have none."""
    resets, model, other = [], Seen(), Seen()
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(1))
    computing = Computing(compile="aot_eager")

    def phase(network: nn.Module) -> int:
        with computing.compiled(network):
            return len(resets)

    begun = phase(model)
    assert phase(model) == begun  # the next epoch of the same phase
    model.conv.weight.requires_grad_(False)
    assert phase(model) == begun + 1
    model.conv.training = False
    assert phase(model) == begun + 2
    assert phase(other) == begun + 3
    assert phase(model) == begun + 4
    with PLAIN.compiled(other):
        assert other._compiled_call_impl is None
    assert replace(computing, precision="fp16").unscaled == computing
