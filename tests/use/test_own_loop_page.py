"""What docs/own_loop.md shows runs, and gives what it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import processes
import pytest
from conftest import ROOT

PAGE = (ROOT / "docs" / "own_loop.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SCRIPTS = ROOT / "scripts" / "same_finetune"


def block(word: str) -> str:
    """The one block of code with a word in it."""
    [found] = [text for _, text in BLOCKS if word in text]
    return found


# Beside the hooks of the page: who calls them, and what every step was taken with.
BEGINNING = """
import json, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
steps = []
def see(optimizer, *_):
    of = optimizer.param_groups
    pairs = [(g["lr"], *pair) for g in of for pair in zip(g["names"], g["params"])]
    steps.append({name: [lr, p.requires_grad] for lr, name, p in pairs})
register_optimizer_step_post_hook(see)
"""
LIGHTNING = """
import lightning as L
class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = model
    def training_step(self, batch, _):
        return cross_entropy(self.model(batch[0]), batch[1])
    def configure_optimizers(self):
        return optimizer
HOOKS
quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False)
L.Trainer(max_epochs=15, accelerator="cpu", **quiet).fit(Module(), batches)
"""
TRANSFORMERS = """
from torch.utils.data import default_collate
from transformers import Trainer, TrainerCallback, TrainingArguments
HOOKS
Trainer(
    model,
    TrainingArguments(
        num_train_epochs=15, per_device_train_batch_size=16, lr_scheduler_type="constant",
        max_grad_norm=0, report_to="none", use_cpu=True,
    ),
    data_collator=lambda rows: dict(zip(("images", "labels"), default_collate(rows))),
    train_dataset=train,
    compute_loss_func=lambda logits, labels, **_: cross_entropy(logits, labels),
    optimizers=(optimizer, None),
    callbacks=[Follow()],
).train()
"""
ENDING = """
wanted = [
    {
        row.name: [
            0.05 * row.lr_scale * (factors[row.group][t] if row.group in factors else 1.0),
            row.trains_after(t // len(batches)),
        ]
        for row in plan.rows
    }
    for t in range(15 * len(batches))
]
print(json.dumps([len(steps), steps == wanted, len({str(step) for step in steps}) > 10]))
"""


@pytest.fixture
def _shared(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Iterator[None]:
    """Scripts find what they share, which is made for each anew."""
    monkeypatch.syspath_prepend(SCRIPTS)
    sys.modules.pop("shared", None)
    yield
    sys.modules.pop("shared", None)


def test_the_groups_of_a_network_are_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    exec(block("torchvision.models"), {})
    assert capsys.readouterr().out == block("conv1_no_decay")


@pytest.mark.usefixtures("_shared")
def test_a_moving_policy_is_followed_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    exec(block("def follow"), {})
    said = capsys.readouterr().out
    assert re.fullmatch(r"val accuracy 9[3-9]\.\d%\n", said), said
    assert re.search(r"It printed `val accuracy 9[3-9]\.\d%`", PAGE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "hooks"),
    [
        (LIGHTNING, indent(block("def on_train_batch_start"), "    ")),
        (TRANSFORMERS, block("def on_step_begin")),
    ],
    ids=["lightning", "transformers"],
)
def test_hooks_of_other_trainers_follow_a_plan(program: str, hooks: str, tmp_path: Path) -> None:
    made = block("def follow").partition("\nstep = 0\n")[0]
    code = "\n".join([BEGINNING, made, program.replace("HOOKS", hooks), ENDING])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{SCRIPTS}"},
        capture_output=True,
        text=True,
        timeout=processes.HUNG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [105, True, True]
