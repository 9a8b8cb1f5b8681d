"""Ranks of runs, each a process, quick to start: what every rank came to goes into a file.

    python ranks_program.py FOLDER

FOLDER/jobs.pkl holds a list of `Job`. The ranks of a job are forks of this program, which has
imported all they need.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed import FileStore
from trainers import Silent

from lrexp.build.experiment import build
from lrexp.config.errors import UserError
from lrexp.tasks.joining import join
from lrexp.train.agreement import RankFailedError, Words
from lrexp.train.loop import Trainer
from lrexp.train.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Job:
    """A run, of so many ranks."""

    name: str
    config: Any
    world: int
    look: str = "as_it_is"  # a function here: what is done to the experiment before it is trained
    state: Path | None = None  # checkpoint that it goes on from


class Unused(nn.Module):
    """A network with a parameter that takes no part in what it makes."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.spare = nn.Parameter(torch.ones(3))
        self.hidden, self.head = nn.Linear(64, 8), nn.Linear(8, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.hidden(images.flatten(1)).tanh())


class Skipping(nn.Module):
    """A network that skips a layer at some steps, such as the first that is tried."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.hidden, self.odd = nn.Linear(64, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = self.hidden(images.flatten(1)).tanh()
        return self.head(found if self.training and torch.rand(()) < 0.5 else self.odd(found))


class Normed(nn.Module):
    """A network with BatchNorm, dropout and a buffer of yes and no."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(4 * 36, num_classes)
        self.register_buffer("odd", torch.arange(4) % 2 == 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.norm(self.conv(images)).relu().flatten(1)))


def as_it_is(model: nn.Module) -> None: ...


def in_double(model: nn.Module) -> None:
    """The network in float64: ranks add up in another order, which then makes no difference."""
    model.double()
    model.register_forward_pre_hook(lambda _, given: (given[0].double(),))


def drawing(model: nn.Module) -> None:
    """A network that keeps what it draws, in a buffer that is not saved."""
    in_double(model)
    model.drawn = []

    def draw(module: Any, given: Any) -> None:
        if module.training and torch.is_grad_enabled():
            module.drawn.append(float(torch.rand(())))

    model.register_forward_pre_hook(draw)


def result_of(job: Job, folder: Path, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Train a job; its rows without times, weights, and what else tests look at.

    Of one that is refused what is said to it.
    """
    experiment = build(job.config, None, ranks)
    globals()[job.look](experiment.model)
    size, seed = job.config.data.batch_size, job.config.seed
    trainer = Trainer(experiment, job.config.trainer, size, seed, ranks=ranks)
    if job.state and ranks.first:
        trainer.load_state(torch.load(job.state, weights_only=True))
    join(trainer, going_on=job.state is not None)
    checkpoints = folder / job.name
    checkpoints.mkdir(exist_ok=True)
    try:
        with ranks.together([]):
            trainer.run(Silent(), checkpoints / "checkpoints")
    except (UserError, RankFailedError) as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    rows = [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in trainer.rows]
    return {
        "rows": rows,
        "weights": experiment.model.state_dict(),
        "drawn": getattr(experiment.model, "drawn", []),
        "frozen": trainer.frozen.as_dict()["identical"],
    }


def forked(run: Callable[[], None]) -> int:
    """The process that runs it."""
    if child := os.fork():
        return child
    try:
        run()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main(folder: Path) -> int:
    """Run all jobs; 1 when a rank failed."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    import_module("torch._dynamo")  # which torch's optimizers ask for: once, and not in every rank
    for job in pickle.loads((folder / "jobs.pkl").read_bytes()):

        def as_rank(rank: int, job: Job = job) -> None:
            store: Any = FileStore(str(folder / f"{job.name}.store"), job.world)
            ranks = Ranks(Words(store, rank, job.world), rank, job.world)
            torch.save(result_of(job, folder, ranks), folder / f"{job.name}.{rank}.pt")

        children = [forked(lambda rank=rank: as_rank(rank)) for rank in range(job.world)]
        codes = [os.waitpid(child, 0)[1] for child in children]
        if any(codes):
            return 1
    return 0


if __name__ == "__main__":
    sys.modules["ranks_program"] = sys.modules["__main__"]  # where jobs were pickled from
    sys.exit(main(Path(sys.argv[1])))
