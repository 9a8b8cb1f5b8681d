"""`certify` in the loops of Lightning, Hugging Face's Trainer, accelerate and DDP."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import timm.optim
import torch
from conftest import ROOT
from torch import Tensor, nn, optim
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim import lr_scheduler as schedulers
from torch.utils.data import DataLoader, Dataset

from lrexp.use.certified import NotAsMeantError, Report
from lrexp.use.certify import certify

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

Build = Callable[["Net"], Any]


class Net(nn.Module):
    """Two layers with BatchNorm between them; its loss is its own, as transformers has it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.norm = nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.norm(self.body(images)).relu())
        return {"loss": cross_entropy(logits, labels), "logits": logits}

    def freeze(self, frozen: bool = True) -> None:
        for module in (self.body, self.norm):
            module.requires_grad_(not frozen)


class Images(Dataset[dict[str, Tensor]]):
    def __init__(self) -> None:
        self.images = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"images": self.images[index], "labels": torch.tensor(index % 4)}


def sgd(net: Net) -> Optimizer:
    return optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)


def built_before_unfreezing(net: Net) -> Optimizer:
    net.freeze()
    optimizer = sgd(net)
    net.freeze(False)
    return optimizer


def frozen_under_train(net: Net) -> Optimizer:
    net.freeze()
    return sgd(net)


def with_lr_scale(net: Net) -> Optimizer:
    body = [*net.body.parameters(), *net.norm.parameters()]
    groups: list[Any] = [
        {"params": body, "lr_scale": 0.1},
        {"params": net.head.parameters(), "lr_scale": 1.0},
    ]
    return optim.SGD(groups, lr=0.1)


def zero_with_decay(net: Net) -> Optimizer:
    groups: list[Any] = [
        {"params": net.body.parameters(), "lr": 0.0},
        {"params": [*net.norm.parameters(), *net.head.parameters()]},
    ]
    return timm.optim.AdaBelief(groups, lr=0.1, weight_decay=0.01, fixed_decay=True)


def compiled_while_frozen(net: Net) -> Optimizer:
    """And used ever after, as a graph without guards is."""
    net.freeze()
    net.train()
    unguarded = {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}
    net.compile(backend="aot_eager", options=unguarded)
    net(torch.randn(16, 8), torch.arange(16) % 4)
    net.freeze(False)
    return sgd(net)


BROKEN: dict[str, tuple[Build, set[str]]] = {
    "no_group": (built_before_unfreezing, {"body.weight", "norm.weight", "norm.bias"}),
    "frozen_statistics": (frozen_under_train, {"norm.running_mean", "norm.running_var"}),
    "scale_ignored": (with_lr_scale, {name for name, _ in Net().named_parameters()}),
    "moves_at_rate_0": (zero_with_decay, {"body.weight"}),
    "no_gradient": (compiled_while_frozen, {"body.weight", "norm.weight", "norm.bias"}),
}
LATE = ("scheduler_group", {"body.weight", "norm.weight", "norm.bias"})


@pytest.fixture(autouse=True)
def _compiles_anew() -> Iterator[None]:
    yield
    torch.compiler.reset()


def check(report: Report, kind: str, tensors: set[str]) -> None:
    assert [finding.kind for finding in report.faults] == [kind], str(report)
    assert {name.removeprefix("net.") for name in report.faults[0].tensors} == tensors
    assert report.steps == 8


class Forgets(schedulers.LRScheduler):
    """Halves the rates of the groups there were when it was made, as those of timm go by them."""

    def get_lr(self) -> list[float]:  # type: ignore[override]
        rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        known = len(self.base_lrs)
        return [rate / 2 for rate in rates[:known]] + rates[known:] if self.last_epoch else rates


# --- Lightning -----------------------------------------------------------------------------------


def fit(build: Build, tmp_path: Path, callbacks: Any = (), **trainer: Any) -> Report:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
            return self.net(**batch)["loss"]

        def configure_optimizers(self) -> Any:
            return build(self.net)

    module = Module()
    with certify(module, raises=False) as report:
        lightning.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
            callbacks=[*callbacks], **trainer,
        ).fit(module, DataLoader(Images(), 16))  # fmt: skip
    return report


LIGHTNINGS = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:The number of training batches",
    "ignore:.*LeafSpec",  # of torch, which Lightning asks for
)


@LIGHTNINGS
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_in_lightning(kind: str, tmp_path: Path) -> None:
    build, tensors = BROKEN[kind]
    check(fit(build, tmp_path), kind, tensors)


@LIGHTNINGS
def test_a_group_added_late_in_lightning(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import Callback

    class Unfreezes(Callback):
        def on_train_batch_start(
            self, trainer: Any, pl_module: Any, batch: Any, index: int
        ) -> None:
            if trainer.global_step == 2:
                pl_module.net.freeze(False)
                added = [*pl_module.net.body.parameters(), *pl_module.net.norm.parameters()]
                trainer.optimizers[0].add_param_group({"params": added, "lr": 0.01})

    def build(net: Net) -> Any:
        net.freeze()
        optimizer = sgd(net)
        return [optimizer], [{"scheduler": Forgets(optimizer), "interval": "step"}]

    check(fit(build, tmp_path, [Unfreezes()]), *LATE)


@LIGHTNINGS
def test_healthy_in_lightning(tmp_path: Path) -> None:
    def warmed_up(net: Net) -> Any:
        optimizer = optim.AdamW(net.parameters(), lr=0.01)
        scheduler = schedulers.LinearLR(optimizer, total_iters=4)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    report = fit(warmed_up, tmp_path, gradient_clip_val=1.0)
    assert report.findings == []
    assert report.steps == 8
    assert [row.lowest for row in report.rows] == pytest.approx([0.01 / 3] * len(report.rows))
    assert fit(warmed_up, tmp_path, accumulate_grad_batches=2).steps == 4


# --- Hugging Face's Trainer ----------------------------------------------------------------------


def trained(build: Build | None, tmp_path: Path, callbacks: Any = (), **arguments: Any) -> Report:
    from transformers import Trainer, TrainingArguments

    net = Net()
    optimizer = None if build is None else build(net)
    scheduler = None
    if isinstance(optimizer, tuple):
        optimizer, scheduler = optimizer
    settings = TrainingArguments(
        str(tmp_path), num_train_epochs=2, per_device_train_batch_size=16, report_to=[],
        save_strategy="no", logging_strategy="no", use_cpu=True, disable_tqdm=True, **arguments,
    )  # fmt: skip
    trainer = Trainer(
        net, settings, train_dataset=Images(), optimizers=(optimizer, scheduler),
        callbacks=[*callbacks],
    )  # fmt: skip
    with certify(net, optimizer, raises=False) as report:
        trainer.train()
    return report


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_in_hugging_faces_trainer(kind: str, tmp_path: Path) -> None:
    build, tensors = BROKEN[kind]
    check(trained(build, tmp_path), kind, tensors)


def test_unfrozen_by_a_callback_after_hugging_face_built_the_optimizer(tmp_path: Path) -> None:
    from transformers import TrainerCallback

    class Turns(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **of: Any) -> None:
            of["model"].freeze(False)

    def frozen(net: Net) -> None:
        net.freeze()

    check(trained(frozen, tmp_path, [Turns()]), "no_group", BROKEN["no_group"][1])


def test_a_group_added_late_in_hugging_faces_trainer(tmp_path: Path) -> None:
    from transformers import TrainerCallback

    class Unfreezes(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **of: Any) -> None:
            if state.global_step == 2:
                net = of["model"]
                net.freeze(False)
                added = [*net.body.parameters(), *net.norm.parameters()]
                of["optimizer"].add_param_group({"params": added, "lr": 0.01})

    def build(net: Net) -> Any:
        net.freeze()
        optimizer = sgd(net)
        return optimizer, Forgets(optimizer)

    check(trained(build, tmp_path, [Unfreezes()]), *LATE)


@pytest.mark.parametrize("build", [None, sgd])
def test_healthy_in_hugging_faces_trainer(build: Build | None, tmp_path: Path) -> None:
    report = trained(build, tmp_path, warmup_steps=2, weight_decay=0.01, learning_rate=0.01)
    assert report.findings == []
    assert report.steps == 8
    assert {row.lowest for row in report.rows} == {0.0}  # of the warmup's first step
    assert all(row.moved for row in report.rows)


# --- timm's factory ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["no_group", "frozen_statistics", "scale_ignored"])
def test_broken_with_timms_factory(kind: str) -> None:
    model = timm.create_model("test_efficientnet", num_classes=4)
    head = {"classifier.weight", "classifier.bias"}
    body = {name for name, _ in model.named_parameters()} - head
    frozen = kind != "scale_ignored"
    for name, p in model.named_parameters():
        p.requires_grad_(not frozen or name in head)
    decay = None if frozen else 0.75
    optimizer = timm.optim.create_optimizer_v2(model, "adamw", lr=1e-3, layer_decay=decay)
    scheduler = schedulers.CosineAnnealingLR(optimizer, 4)
    if kind == "no_group":
        model.requires_grad_(True)
    with certify(model, optimizer, raises=False) as report:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(2, 3, 32, 32)).square().mean().backward()
            optimizer.step()
            scheduler.step()
    (finding,) = report.findings
    assert finding.kind == kind
    if kind == "no_group":
        assert set(finding.tensors) == body
    elif kind == "scale_ignored":
        assert set(finding.tensors) == body | head
    else:
        assert len(finding.tensors) == 2 * sum(
            isinstance(m, nn.BatchNorm2d) for m in model.modules()
        )


# --- Wrappers ------------------------------------------------------------------------------------


def loop(net: nn.Module, optimizer: Any, backward: Callable[[Tensor], object]) -> None:
    for _ in range(3):
        optimizer.zero_grad()
        for batch in DataLoader(Images(), 32):
            backward(net(**batch)["loss"])
            optimizer.step()


def test_a_compiled_step_is_seen() -> None:
    net = Net()
    optimizer = sgd(net)
    step = torch.compile(lambda: optimizer.step(), backend="aot_eager")
    images = Images()
    with certify(net, optimizer) as report:
        for _ in range(3):
            optimizer.zero_grad()
            net(images.images, torch.arange(64) % 4)["loss"].backward()
            step()
    assert report.steps == 3
    assert report.findings == []


def test_what_accelerate_prepares() -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=1)
    net, optimizer = Net(), None
    net, optimizer = accelerator.prepare(net, sgd(net))
    with certify(net, optimizer) as report:
        loop(net, optimizer, accelerator.backward)
    assert report.optimizers == ["SGD"]
    assert report.steps == 6
    assert report.findings == []


@pytest.fixture
def _one_process(tmp_path: Path) -> Iterator[None]:
    from torch import distributed

    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("_one_process")
def test_ddp_and_sharded_tensors() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    net = nn.parallel.DistributedDataParallel(Net())
    optimizer = sgd(net.module)
    with certify(net, optimizer) as report:
        loop(net, optimizer, Tensor.backward)
    assert report.findings == []
    assert [row.name for row in report.rows] == [name for name, _ in Net().named_parameters()]

    layer = nn.Linear(4, 4)
    mesh = init_device_mesh("cpu", (1,))
    layer.weight = nn.Parameter(distribute_tensor(layer.weight.detach(), mesh))
    layer.bias = nn.Parameter(distribute_tensor(layer.bias.detach(), mesh))
    optimizer = optim.SGD(layer.parameters(), lr=0.1)
    with certify(layer, optimizer) as report:
        layer(distribute_tensor(torch.ones(2, 4), mesh)).sum().backward()
        optimizer.step()
    assert {row.not_judged for row in report.rows} == {"sharded"}
    assert report.steps == 1


# --- The page -------------------------------------------------------------------------------------


def page_blocks(page: str) -> Iterator[tuple[str, str]]:
    """Every program of a page and the output printed below it."""
    for program, shown in re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", page, re.S):
        yield program, shown.strip()


def said_by(program: str, names: dict[str, Any]) -> str:
    """What a program prints, or the error that ends it."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            exec(program, names)
    except NotAsMeantError as error:
        return str(error)
    return printed.getvalue().strip()


def test_the_page_shows_what_its_programs_say() -> None:
    page = (ROOT / "docs" / "certify.md").read_text()
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    blocks = [*page_blocks(page)]
    assert len(blocks) == 13
    for program, shown in blocks:
        assert said_by(program, names) == shown
