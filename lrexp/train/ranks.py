"""Several processes that train one run: who takes which images, and what they exchange.

torchrun starts them. Each builds the same experiment and takes its share of every batch; torch's
DistributedDataParallel makes the gradients the same in all. The first records what they come to.
"""

from __future__ import annotations

import copy
import math
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lrexp.config.errors import ConfigError, Terminated, UserError, few
from lrexp.data.generators import begun_at
from lrexp.train.agreement import Agreement, RankFailedError, Words, gone
from lrexp.train.experiment import Experiment
from lrexp.train.signals import answered, whole

if TYPE_CHECKING:
    from lrexp.train.loop import Trainer

WAITS = timedelta(minutes=30)  # in an exchange, while the first rank writes
LossOfBatch = Callable[[Tensor, Tensor], Tensor]
OF_EXCHANGE = re.compile(r"gloo|nccl|connection (closed|reset) by peer", re.IGNORECASE)


class Ranks:
    """The processes that train a run; `ALONE` is the one of most runs.

    Args:
        words: what they tell each other; None: there is one.
        local: which of those on its machine this one is, from 0.
        nearby: how many there are on its machine.
    """

    def __init__(self, words: Words | None = None, local: int = 0, nearby: int = 1):
        self.rank, self.world = (words.rank, words.world) if words else (0, 1)
        self._words, self._local, self._nearby = words, local, nearby
        self._agreement: Agreement | None = None
        self._wrapped: DistributedDataParallel | None = None
        self._trains: list[str] = []  # what it was wrapped for
        self._took_part: dict[str, tuple[nn.Parameter, bool]] = {}  # of that, when it was tried
        self._agreed = 0  # values so far

    @property
    def words(self) -> Words:
        """What they tell each other, where there are several."""
        assert self._words is not None
        return self._words

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.world > 1

    @property
    def first(self) -> bool:
        """Whether it is this one that records, prints and saves."""
        return self.rank == 0

    @property
    def joined(self) -> bool:
        """Whether they exchange numbers by now."""
        return self.several and dist.is_initialized()

    @property
    def backend(self) -> str | None:
        """What exchanges their numbers."""
        return dist.get_backend() if self.joined else None

    @property
    def threads(self) -> int | None:
        """CPU threads of each, where torchrun chose one and nobody else did: an equal share."""
        if not self.several or os.environ.get("OMP_NUM_THREADS") != "1":
            return None
        return max(1, (os.cpu_count() or 1) // self._nearby)

    def device_name(self, asked: str) -> str:
        """Which device trainer.device means for this rank: each has a GPU of its own, or the CPU.

        Raises:
            ConfigError: when that cannot be.
        """
        if not self.several:
            return asked
        if asked not in ("auto", "cpu", "cuda"):
            hint = "allowed under torchrun: auto, cuda, cpu"
            raise ConfigError("trainer.device", "is one, and each rank has its own", hint, asked)
        if asked == "cpu" or not torch.cuda.is_available():
            return asked.replace("auto", "cpu")
        if self._local >= (there := torch.cuda.device_count()):
            problem = f"has {there} GPUs on this machine, and torchrun started {self._nearby} ranks"
            raise ConfigError("trainer.device", problem, f"--nproc_per_node={there}", asked)
        return f"cuda:{self._local}"

    def join(self, device: torch.device, facts: dict[str, Any]) -> None:
        """Form a group with the others, once all of them have built the same.

        Raises:
            UserError: when this rank has not built what the first has.
            RankFailedError: when another could not.
        """
        if not self.several:
            return
        self.words.say(f"ready/{self.rank}", facts)
        theirs = self.words.hear("ready/0")
        if others := [name for name in facts if facts[name] != theirs[name]]:
            raise UserError(
                f"it is to train another run than rank 0: {', '.join(others)} differ\n"
                "  every machine needs the same data, weights, options and version of lrexp"
            )
        self.words.say(f"same/{self.rank}")
        for rank in range(self.world):
            self.words.hear(f"same/{rank}")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        store: Any = self.words.store
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=dist.PrefixStore("group", store),  # type: ignore[reportPrivateImportUsage]
            rank=self.rank,
            world_size=self.world,
            timeout=WAITS,
        )

    @contextmanager
    def together(self, asked: Sequence[type[BaseException]]) -> Iterator[None]:
        """Train in it: who is asked to stop stops where all do, and who fails ends all.

        Args:
            asked: of `signals_stop`.

        Raises:
            RankFailedError: when another rank failed.
        """
        if not self.several:
            yield
            return
        self._agreement = Agreement(self.words, asked, self._free)
        try:
            with whole():
                try:
                    yield
                except BaseException as error:
                    if isinstance(error, Exception):
                        with suppress(ValueError):  # torchrun's answer to what is being told
                            signal.signal(signal.SIGTERM, signal.SIG_IGN)
                    answered()
                    self._blame(error)
                    raise
        finally:
            self._agreement.close()
            self._agreement = self._wrapped = None
            self._took_part = {}
        dist.destroy_process_group()

    def stops_here(self) -> type[BaseException] | None:
        """Pass a point that every rank passes; what all are to raise there when they stop."""
        return self._agreement.stops_here() if self._agreement else None

    def agreed(self, value: Any) -> Any:
        """The first rank's value, plain; no other rank is ahead of it."""
        if not self.several:
            return value
        self._agreed += 1
        if self.first:
            self.words.say(f"agreed/{self._agreed}", value)
        return self.words.hear(f"agreed/{self._agreed}")

    def share(self, batch: np.ndarray) -> np.ndarray:
        """What this rank takes of a batch (B,); the shares in order are the batch.

        Where it has fewer images than there are ranks, one or two stand in that do not `count`: a
        forward of none is more than many networks can do.
        """
        if not self.several:
            return batch
        return np.array_split(batch, self.world)[self.rank] if self.counts(batch) else batch[:2]

    def counts(self, batch: np.ndarray) -> bool:
        """Whether this rank has images of a batch."""
        return self.rank < len(batch)

    def losses_of(self, experiment: Experiment, group: Sequence[np.ndarray]) -> list[LossOfBatch]:
        """What each batch of a step adds to the loss of this rank; the step's is their mean.

        Args:
            experiment: whose step it is.
            group: (B,) positions in the training split of each of the step's whole batches.
        """
        if not self.several:
            return [experiment.loss_of(group)] * len(group)
        own = experiment.loss.over(experiment.normaliser_of(group) / self.world)
        nothing = experiment.loss.over(math.inf)
        return [own if self.counts(batch) else nothing for batch in group]

    def share_of(self, loss: Tensor) -> Tensor:
        """What this rank's loss adds to that of the step."""
        return loss / self.world if self.several else loss

    def fault_of_any(self, fault: str, loss: Tensor) -> str:
        """What any rank finds wrong with its first step, those first whose own loss () shows it."""
        if not self.several:
            return fault
        found = self.gathered((bool(loss.isfinite()), fault))
        return next((said for _, said in sorted(found, key=itemgetter(0)) if said), "")

    def begin_phase(self, experiment: Experiment) -> None:
        """Have gradients exchanged of what trains now, anew in every phase of the plan.

        Of what trains and is not used, which has no gradient, nothing is exchanged; nor of buffers,
        see `same_buffers`.
        """
        if not self.several:
            return
        model = experiment.model
        trains = [name for name, p in model.named_parameters() if p.requires_grad]
        if trains == self._trains:
            return
        self.same_buffers(model)  # a BatchNorm that is frozen now goes on with what it has
        unused = without_gradient(experiment)
        found = dict(model.named_parameters())
        self._took_part = {name: (found[name], name not in unused) for name in trains}
        left_out = {*unused, *dict(model.named_buffers())}
        # DDP calls a parameter of the network itself .NAME in places
        names = [*left_out, *(f".{name}" for name in left_out if "." not in name)]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)
        self._wrapped, self._trains = None, trains  # its hooks go before those of the next come
        if len(trains) > len(unused):  # else there is nothing to exchange
            self._wrapped = DistributedDataParallel(model)

    def refuse_skipping(self) -> None:
        """Refuse a network of which now this and now that takes part, after a backward of it.

        Nobody exchanges a gradient of what took no part when its phase began, and each rank would
        train it alone; for one that is missing the others wait.

        Raises:
            UserError: with the names.
        """
        changed = [
            f"{name} has {'no' if took_part else 'a'} gradient"
            for name, (parameter, took_part) in self._took_part.items()
            if (parameter.grad is not None) != took_part
        ]
        if changed:
            raise UserError(
                f"the network skips layers: unlike when this phase began, {few(changed, 3)}\n"
                f"  {self.world} ranks exchange the gradients of the same parameters at every step:"
                " train it in one process, or with every layer taking part in every step"
            )

    def forward_of(self, experiment: Experiment) -> nn.Module:
        """What is called to train: parameters stay the model's own, by their names."""
        return experiment.model if self._wrapped is None else self._wrapped

    def exchanging(self, now: bool) -> AbstractContextManager[object]:
        """Within it a backward exchanges gradients, or leaves them to a later one's."""
        return nullcontext() if now or self._wrapped is None else self._wrapped.no_sync()

    def summed(self, numbers: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.several:
            dist.all_reduce(numbers)
        return numbers

    def gathered(self, value: Any) -> list[Any]:
        """Every rank's value, in their order."""
        if not self.several:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """The first rank's value."""
        values = [value]
        if self.several:
            dist.broadcast_object_list(values)
        return values[0]

    def same_buffers(self, model: nn.Module) -> None:
        """Give every rank the first one's buffers: statistics of BatchNorm are of its images."""
        buffers = [buffer for buffer in model.buffers() if buffer.numel()] if self.several else []
        if not buffers:
            return
        with torch.no_grad():  # as bytes: whatever their types are, it is one message
            bits = [buffer.contiguous().view(-1).view(torch.uint8) for buffer in buffers]
            sizes, sent = list(map(len, bits)), torch.cat(bits)
            dist.broadcast(sent, 0)
            for buffer, part in zip(buffers, sent.split(sizes), strict=True):
                buffer.copy_(part.clone().view(buffer.dtype).view(buffer.shape))

    def _blame(self, error: BaseException) -> None:
        """Say that this rank fails of an error, or raise what ended another and led to it."""
        if not isinstance(error, Exception | KeyboardInterrupt | Terminated):
            self.agreed((False, None))  # after an epoch, the last that was asked for
        if isinstance(error, dist.DistError) or OF_EXCHANGE.search(str(error)):
            self.words.wait_for_failure(5.0)
            raise RankFailedError(gone(self.world)) from error
        self.words.fails(error)

    def _free(self) -> None:
        """End an exchange on GPUs that would wait for a rank that has failed; gloo ends its own."""
        if self.backend == "nccl":
            dist.group.WORLD.abort()  # type: ignore[union-attr]


ALONE = Ranks()


def ranks_of_torchrun() -> Ranks:
    """Those that torchrun started with this process."""
    local, nearby = (int(os.environ[name]) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    joined = dist.rendezvous("env://")  # type: ignore[reportPrivateImportUsage]
    store, rank, world = next(joined)
    return Ranks(Words(store, rank, world), local, nearby)


def without_gradient(experiment: Experiment) -> set[str]:
    """Names of parameters that train now and take no part in the loss."""
    data, model = experiment.dataset.train, copy.deepcopy(experiment.model)
    images, labels = next(data.batches([np.arange(min(2, len(data)))]))
    with begun_at(0, experiment.device):
        experiment.loss(model(images), labels).backward()
    found = model.named_parameters()
    return {name for name, p in found if p.requires_grad and p.grad is None}


def agreed_to_go_on(trainer: Trainer) -> bool:
    """Whether there is an epoch to come; among ranks the first one says so, and the plateau."""
    ranks, plateau = trainer.ranks, trainer.experiment.plateau
    goes_on, state = ranks.agreed((trainer.goes_on, plateau and plateau.state()))
    if plateau and not ranks.first:
        plateau.load_state(state)
    return goes_on


def stop_where_all_do(trainer: Trainer) -> None:
    """Raise what asks the ranks to stop, at a point that all of them have come to."""
    if asked := trainer.ranks.stops_here():
        collect(trainer)
        raise asked


def collect(trainer: Trainer) -> None:
    """Let every rank have what all of them saw of this epoch's batches."""
    if trainer.current is not None and trainer.ranks.several:
        trainer.current.running.collect(trainer.ranks.summed)
