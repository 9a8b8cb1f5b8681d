"""A worker: a process that runs points, pack after pack, until its line to the session ends."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrexp.config.errors import Terminated, in_words
from lrexp.config.names import point_name
from lrexp.folder.claim import work_in
from lrexp.grid.isolation import keep_freed_memory, undisturbed
from lrexp.train.signals import signals_stop, whole

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn

    from lrexp.grid.points.point import Point

STOPPED = 143  # exit code of a worker that was asked to stop
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Place:
    """Where a worker runs."""

    device: str | None = None  # index of the GPU that it sees; None: as configured
    threads: int | None = None  # of torch, OpenMP and BLAS; None: as they are here


Say = Callable[[Any], None]  # a message to the session while a piece is worked on
Work = Callable[[Any], Any]  # piece → result
Start = Callable[[Place, Say], Work]  # picklable; called once in each worker


def work_on_pieces(
    line: Connection, place: Place, environment: dict[str, str], patience_s: float
) -> None:
    """Work on what comes over the line until it ends: a pickled `Start`, then pieces.

    Every piece is answered with ("returned", result) or ("raised", exception), after any number of
    ("said", message). When the worker is asked to stop (SIGTERM), the work is interrupted by
    `Terminated`, and the worker ends.

    Args:
        line: to the session.
        place: where this worker runs.
        environment: of the session.
        patience_s: how long the work may take to end when the session has gone.
    """
    os.register_at_fork(after_in_child=line.close)  # the line shall end with this process
    threading.Thread(target=_end_with_session, args=(patience_s,), daemon=True).start()
    with suppress(OSError):  # out of memory, Linux shall take a worker, not who knows about all
        Path("/proc/self/oom_score_adj").write_text("500")
    os.environ.clear()
    os.environ.update(environment)
    set_threads(place.threads)

    def send(kind: str, content: Any) -> None:
        with whole(), suppress(OSError):  # half a message would garble the next; nobody may listen
            line.send((kind, content))

    @cache
    def started() -> Work:
        work = pickle.loads(start)(place, partial(send, "said"))
        set_threads(place.threads)  # of what it has imported
        return work

    try:
        with signals_stop():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # blocked in the server
            start = line.recv_bytes()
            while True:
                piece = line.recv()
                try:
                    kind, content = "returned", started()(piece)
                except Exception as error:
                    kind, content = "raised", portable(error)
                for stream in (sys.stdout, sys.stderr):
                    with suppress(OSError):
                        stream.flush()
                send(kind, content)
    except (Terminated, KeyboardInterrupt):
        sys.exit(STOPPED)
    except (EOFError, ConnectionError):  # there will be no more pieces
        return


def _end_with_session(patience_s: float) -> None:
    """No worker outlives a program that is killed: its work is asked to stop, then killed."""
    session, main = multiprocessing.parent_process(), threading.main_thread().ident
    assert session is not None
    assert main is not None
    session.join()
    signal.pthread_kill(main, signal.SIGTERM)
    time.sleep(patience_s)
    os.kill(os.getpid(), signal.SIGKILL)


def set_threads(count: int | None) -> None:
    """Let torch, OpenMP and BLAS use `count` threads, whether they are loaded yet or not."""
    if count is None:
        return
    os.environ.update(dict.fromkeys(THREADS, str(count)))
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != count:
        torch.set_num_threads(count)


def portable(error: BaseException) -> BaseException:
    """An exception as it can be sent to another program."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(in_words(error))


def start_points(task: Any, place: Place, say: Say) -> Work:
    """What a worker does with a piece: the name of a method of `PointsHere` and its arguments."""
    from hydra import version
    from hydra.core.utils import setup_globals
    from omegaconf import OmegaConf

    if place.device is not None:  # before anything looks for GPUs
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpu = visible.split(",")[int(place.device)] if visible else place.device
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    version.setbase("1.3")
    setup_globals()
    OmegaConf.register_new_resolver("lrexp.point_name", point_name, replace=True)
    from lrexp.build import experiment

    keep_freed_memory()
    if place.threads:
        experiment.DEFAULT_THREADS = place.threads
    task.view = RemoteView(say)
    here = PointsHere(task)
    return lambda piece: getattr(here, piece[0])(*piece[1:])


class PointsHere:
    """Runs and times points in this worker, by the task of the session's points."""

    def __init__(self, task: Any):
        self._task = task
        self._context: Any = None  # Hydra's; its callbacks come with the first point's config

    def _hydra(self, point: Point) -> Any:
        if self._context is None:
            from hydra._internal.callbacks import Callbacks
            from hydra.types import HydraContext

            config = point.config
            if self._task.executor == "pool":  # jobs of engines own the folders of their points
                work_in(Path(str(config.hydra.sweep.dir)))
            self._context = HydraContext(None, Callbacks(config))  # type: ignore[arg-type]
        return self._context

    def run(self, points: Sequence[Point]) -> dict[int, JobReturn]:
        """Train points together, or one by itself; what came of each, by number."""
        from hydra.core.utils import JobStatus

        from lrexp.grid.jobs import Session

        context = self._hydra(points[0])
        with undisturbed():
            ended = Session(context, self._task).run(points)
        for _, returned in ended:
            returned.cfg = returned.hydra_cfg = None
            if returned.status == JobStatus.FAILED:
                returned.return_value = portable(returned._return_value)
        return {point.num: returned for point, returned in ended}

    def run_stacked(self, points: Sequence[Point]) -> dict[int, JobReturn]:
        """Train points together as far as this machine's memory allows; what came of each."""
        from lrexp.grid.executors import stacks
        from lrexp.grid.jobs import Session

        packs = stacks(points, Session(self._hydra(points[0]), self._task))
        return {num: end for pack in packs for num, end in self.run(pack).items()}

    def steps_per_s(self, points: Sequence[Point], at: float, budget_s: float) -> float:
        """Member-steps per second of points that train together, or one by itself.

        They are timed from the time.monotonic() `at` on; 0 when this worker gets ready too late.
        """
        from lrexp.grid.executors import aside
        from lrexp.grid.stack.probe import clones, steps_per_s

        with aside(self._task.view, points[0].num):
            seeds = [int(point.settings["seed"]) for point in points]
            trainers = clones(self._task.trainer(points[0].config), seeds)
            left_s = at - time.monotonic()
            if left_s < 0:
                return 0.0
            time.sleep(left_s)
            return steps_per_s(trainers, budget_s)


class RemoteView:
    """Stands for the grid's view in a worker: tells the session which of its methods to call."""

    def __init__(self, say: Say):
        self._say = say

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self._say((name, *arguments))

    def describe(self, num: int, opening: list[str], steps: int, monitor: str, _: Any) -> None:
        """What a point says of itself; how far it is, only its rows tell."""
        self._say(("describe", num, opening, steps, monitor))
