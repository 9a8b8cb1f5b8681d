"""Steps in one kernel: on a GPU alone, unless the user says otherwise; and what they count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lrexp.optim import optimizers
from lrexp.optim.groups import counter_device, load_state_by_name, state_by_name
from lrexp.optim.optimizers import PlainSteps, from_library, stepping_on


def groups(model: nn.Module) -> list[dict[str, Any]]:
    names, params = zip(*model.named_parameters(), strict=True)
    own = {"params": list(params), "names": list(names), "name": "all", "lr": 0.1}
    return [own | {"lr_scale": 1.0, "weight_decay": 0.0}]


def test_on_a_gpu_alone_and_where_torch_has_such_a_step() -> None:
    gpu, cpu = torch.device("cuda", 1), torch.device("cpu")
    for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        assert stepping_on(gpu, kind) == {"fused": True}
        assert stepping_on(cpu, kind) == {"foreach": False}
    assert stepping_on(gpu, torch.optim.RMSprop) == {}
    assert stepping_on(cpu, lambda groups: None) == stepping_on(cpu, nn.Linear) == {}


@pytest.mark.parametrize(
    ("args", "fused"),
    [({}, True), ({"fused": False}, False), ({"foreach": True}, None), ({"amsgrad": True}, True)],
)
def test_what_the_user_says_wins(
    monkeypatch: pytest.MonkeyPatch, args: dict[str, Any], fused: bool | None
) -> None:
    monkeypatch.setattr(
        optimizers, "stepping_on", lambda device, kind: {"fused": True}
    )  # as on a GPU
    made = from_library("torch", groups(nn.Linear(2, 2)), 0.1, "AdamW", args)
    assert [group["fused"] for group in made.param_groups] == [fused]


def test_counts_stand_where_they_are_counted() -> None:
    there = torch.empty(1, device="meta")  # in place of a GPU
    assert counter_device({"fused": True}, there).type == "meta"
    assert counter_device({"capturable": True}, there).type == "meta"
    assert counter_device({"fused": None, "capturable": False}, there).type == "cpu"
    assert counter_device({}, there).type == "cpu"


def test_a_fused_step_goes_on_and_state_takes_the_layout_of_its_weight() -> None:
    """Of a state that was saved in another layout: a fused step wants one for both."""
    torch.manual_seed(0)
    was = nn.Conv2d(3, 4, 3)
    now = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    now.load_state_dict(was.state_dict())
    first, second = (torch.optim.AdamW(groups(m), lr=0.1, fused=True) for m in (was, now))
    images = torch.randn(2, 3, 8, 8)
    was(images).sum().backward()
    first.step()
    now.load_state_dict(was.state_dict())
    load_state_by_name(second, state_by_name(first))
    average = second.state[now.weight]["exp_avg"]
    assert average.stride() == now.weight.stride() != was.weight.stride()
    assert torch.equal(average, first.state[was.weight]["exp_avg"])
    for model, optimizer in ((was, first), (now, second)):
        model.zero_grad()
        model(images).sum().backward()
        optimizer.step()
    assert torch.allclose(now.weight, was.weight, atol=1e-6)


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adafactor"])
def test_a_plain_step_is_the_step(name: str) -> None:
    """To the bit, with autograd off in it as ever."""
    models = [nn.Linear(3, 2), nn.Linear(3, 2)]
    models[1].load_state_dict(models[0].state_dict())
    plain, usual = (from_library("torch", groups(model), 0.1, name, {}) for model in models)
    for _ in range(3):
        for model, steps in zip(models, (PlainSteps(plain), usual), strict=True):
            model.zero_grad()
            model(torch.ones(4, 3)).square().sum().backward()
            steps.step()
    assert all(map(torch.equal, models[0].parameters(), models[1].parameters()))
    assert PlainSteps(plain).step.__func__ is type(plain).step.__wrapped__  # type: ignore[attr-defined]


def test_hooks_profilers_and_a_step_of_ones_own_are_kept() -> None:
    optimizer, heard = torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1), []
    hook = optimizer.register_step_post_hook(lambda *_: heard.append("after"))
    PlainSteps(optimizer).step()
    assert heard == ["after"]
    hook.remove()
    everywhere = register_optimizer_step_pre_hook(lambda *_: heard.append(""))
    PlainSteps(optimizer).step()
    everywhere.remove()
    assert heard == ["after", ""]
    with torch.profiler.profile() as watched:
        PlainSteps(optimizer).step()
    assert any("SGD.step" in event.key for event in watched.key_averages())
    optimizer.step = lambda closure=None: heard.append("own")  # type: ignore[method-assign]
    PlainSteps(optimizer).step()
    assert heard[-1] == "own"
