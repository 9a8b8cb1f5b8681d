"""Points run in this program, as Hydra runs a job: by itself, or several that train together."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, run_job
from hydra.types import HydraContext
from omegaconf import DictConfig, flag_override

from lrexp.config.errors import CannotGoOnError, UserError, out_of_memory
from lrexp.folder.claim import InUseError, owned
from lrexp.folder.hold import is_held
from lrexp.grid.points.point import Point
from lrexp.grid.points.resume import begin_anew, stopped_in
from lrexp.grid.settings import LauncherSettings
from lrexp.runs.resume import Stopped
from lrexp.train.signals import signals_stop

log = logging.getLogger(__name__)

ORPHANS_S = 10.0  # that programs which read data for a killed worker may take to end

T = TypeVar("T")


@dataclass(frozen=True)
class Session:
    """Runs points in this program, whatever becomes of each.

    What stops a sweep (KeyboardInterrupt, Terminated) passes through.
    """

    context: HydraContext  # of the command
    # runs one composed config; lrexp's own has more (see `lrexp.session.points`) and what shows its
    # points, `view`: the grid's, or None
    task: Any
    settings: LauncherSettings = field(default_factory=LauncherSettings)
    folder: Path = Path()  # the sweep's

    @property
    def view(self) -> Any:
        """What shows the points: see `lrexp.grid.live.GridView`."""
        return getattr(self.task, "view", None)

    def say(self, line: str) -> None:
        """Tell people about the grid as a whole."""
        log.info(line)
        self.view.say(line)

    def run(self, points: Sequence[Point]) -> list[tuple[Point, JobReturn]]:
        """Run points together, or one by itself."""
        if len(points) == 1:
            return [(points[0], self._run(points[0], self.task))]
        return self._together(points)

    def _together(self, points: Sequence[Point]) -> list[tuple[Point, JobReturn]]:
        """Run points that train together where their networks allow it, the rest one by one.

        Their jobs are nested, the last one outermost: all are open while they train, and each has
        its own Hydra files, log and records. Those are concluded as soon as the point has come to
        its end, whatever the others do; the job is over for Hydra when all are.
        """
        members: list[_Member] = []
        ended: list[tuple[Point, JobReturn]] = []

        def enter(following: Sequence[Point]) -> None:
            if not following:
                self._train(members[::-1])
                return
            *rest, point = following
            opened = False

            def task(config: DictConfig, *stopped: Stopped) -> float:
                nonlocal opened
                run = self.task.open(config, asked, *stopped)
                with ExitStack() as records:
                    records.enter_context(run.recorded())
                    member = _Member(run, records, partial(self._over, point.num))
                    members.append(member)
                    opened = True
                    try:
                        enter(rest)
                    finally:
                        member.switch_log()
                    if member.failure is not None:
                        raise member.failure
                return run.value

            ended.append((point, self._run(point, task)))
            if not opened:  # it could not be built; the others can
                enter(rest)

        with signals_stop() as asked:
            enter(points)
        for handler in (handler for member in members for handler in member.handlers):
            if isinstance(handler, logging.FileHandler):
                handler.close()
        return ended

    def _over(self, num: int) -> None:
        """Tell of a point that is concluded while its job, or its pack, goes on."""
        if self.view:
            self.view.over(num)

    def _run(self, point: Point, task: Callable[..., Any]) -> JobReturn:
        """Run a point in its folder, which no job of a former launcher may begin in meanwhile."""
        if self.view:
            self.view.begin(point.num)
        config = point.config
        folder = Path(str(config.hydra.sweep.dir))
        with ExitStack() as held:
            place = folder / point.folder
            if point.settings and not is_held(place):  # a job of an engine holds it already
                try:
                    held.enter_context(_owned(place))
                except UserError as error:
                    return failed_as(point, error)
            if point.reached is None:
                return self._job(point, task, config)
            return self._go_on(point, task, config, folder)

    def _go_on(
        self, point: Point, task: Callable[..., Any], config: DictConfig, folder: Path
    ) -> JobReturn:
        """Let what was stopped in a point's folder go on; if it cannot, the point runs anew."""
        why, stopped = "", None
        try:
            stopped = stopped_in(folder, point)
        except CannotGoOnError as error:
            why = str(error)
        if stopped:
            with flag_override(config, ["struct", "readonly"], False):
                config.run_id = stopped.run_id
                config.hydra.output_subdir = None  # .hydra/ stays as the run's start wrote it
            returned = self._job(point, task, config, stopped)
            error = returned._return_value
            if not isinstance(error, CannotGoOnError):
                return returned
            why = (str(error).splitlines() or [""])[0].rstrip(":")
        begin_anew(folder, point)
        point.note = f"{why or 'nothing is left to go on with'}; the point runs anew"
        if self.view:
            self.view.say(f"note   {point.folder}: {point.note}")
        return self._job(point, task, point.config)

    def _job(
        self, point: Point, task: Callable[..., Any], config: DictConfig, *stopped: Stopped
    ) -> JobReturn:
        """A point's job, as Hydra runs it; the task is also given the run that goes on, if any."""

        def guarded(config: DictConfig) -> Any:
            if self.view:
                from lrexp.grid.live import OncePerGrid

                for handler in logging.root.handlers:
                    if type(handler) is logging.StreamHandler:
                        handler.addFilter(OncePerGrid(self.view, point.num))
            if point.note:
                log.info(point.note)
            try:
                return task(config, *stopped)
            except SystemExit as error:
                raise RuntimeError(f"something in it called exit({error.code})") from error

        try:
            return run_job(
                task_function=guarded,
                config=config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
                hydra_context=self.context,
            )
        except Exception as error:  # its folder could not be written, or a callback failed
            log.info("point %d", point.num, exc_info=error)
            return failed_as(point, error)

    def _train(self, members: Sequence[_Member]) -> None:
        """Train members to their end, those together that can be; notes what made one fail."""
        from lrexp.grid.stack.trainer import shared

        alike: dict[Any, list[_Member]] = {}
        for member in members:
            alike.setdefault(shared(member.run.trainer), []).append(member)
        for group in alike.values():
            self._train_alike(group)

    def _train_alike(self, group: Sequence[_Member]) -> None:
        from lrexp.grid.stack.trainer import StackedTrainer, failure_of
        from lrexp.grid.stack.trial import in_our_words

        if len(group) == 1:
            (member,) = group
            run = member.run
            run.trained_by(run.executor, 1)
            member.failure = failure_of(partial(run.trainer.run, member, run.checkpoints))
            member.conclude()
            return
        executor = "stacked" if self.task.executor == "serial" else self.task.executor
        for member in group:
            member.run.trained_by(executor, len(group))
            with member.own_log():
                log.info("trains together with %d other runs", len(group) - 1)
        failures: list[Exception | None] = [None] * len(group)

        def conclude(k: int) -> None:
            group[k].failure = failures[k]
            group[k].conclude()

        try:
            stack = StackedTrainer([member.run.trainer for member in group])
            stack.run(group, [member.run.checkpoints for member in group], failures, conclude)
        except Exception as error:
            reason = "there was not enough memory" if out_of_memory(error) else in_our_words(error)
            parts = halves(group) if out_of_memory(error) else [[member] for member in group]
            log.warning("%d runs could not train together: %s", len(group), reason)
            log.info("training together", exc_info=error)
        else:
            parts = []
        for member, failure in zip(group, failures, strict=True):
            if member.concluded:
                continue
            # built anew, as far as its last recorded epoch
            member.failure = failure or failure_of(member.run.renew)
            if member.failure is not None:
                member.conclude()
        for part in parts:  # those that have come to their end are no longer like the others
            self._train([member for member in part if not member.concluded])


class _Member:
    """One of several runs whose jobs are open at a time. Its rows go into its own log.

    Args:
        run: whose records are open.
        records: closes them.
        over: is called once that is done.
    """

    def __init__(self, run: Any, records: ExitStack, over: Callable[[], object]):
        self.run, self._records, self._over = run, records, over
        self.failure: Exception | None = None
        self.concluded = False
        self.handlers = logging.root.handlers[:]
        self._hydra = HydraConfig.instance().cfg

    def row(self, row: dict[str, float]) -> None:
        """Record one epoch."""
        with self.own_log():
            self.run.row(row)

    def conclude(self) -> None:
        """Test it and close its records, now that it has come to its end or failed."""
        self.concluded, failure = True, self.failure
        try:
            with self.own_log():
                self._records.__exit__(type(failure) if failure else None, failure, None)
        except Exception as error:
            self.failure = error
        self._over()

    @contextmanager
    def own_log(self) -> Iterator[None]:
        """Log to its file meanwhile."""
        handlers, hydra = logging.root.handlers[:], HydraConfig.instance().cfg
        self.switch_log()
        try:
            yield
        finally:
            logging.root.handlers[:] = handlers
            HydraConfig.instance().cfg = hydra

    def switch_log(self) -> None:
        """Log to its file from now on. Configuring the next job's log closed it: it opens again."""
        logging.root.handlers[:] = self.handlers
        HydraConfig.instance().cfg = self._hydra


@contextmanager
def _owned(place: Path) -> Iterator[None]:
    """Hold a point's folder; what keeps it for a moment after its program's end is waited for."""
    until = time.monotonic() + ORPHANS_S
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(owned(place))
                break
            except InUseError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)
        yield


def failed_as(point: Point, error: BaseException) -> JobReturn:
    """The end of a point that has none of its own."""
    returned = JobReturn(overrides=point.overrides, status=JobStatus.FAILED)
    returned.return_value = error
    return returned


def pack(feeds: Sequence[Hashable], largest: int) -> list[list[int]]:
    """Packs of at most `largest` runs that may all train together, as indices: each run in one.

    As few packs as there can be, of equal sizes but for one run; when there are several, runs of
    one feed, which see the same batches, stay together where they can: that is cheaper. Packs are
    in order of their first run, and so are the runs in each.
    """
    first_seen = {feed: i for i, feed in reversed(list(enumerate(feeds)))}
    order = sorted(range(len(feeds)), key=lambda i: (first_seen[feeds[i]], i))
    return sorted(sorted(part) for part in _parts(order, math.ceil(len(order) / largest)))


def halves(members: Sequence[T]) -> tuple[list[T], list[T]]:
    """Two packs out of one that did not fit, of equal sizes but for one member.

    Raises:
        ValueError: for fewer than two members, which cannot be divided.
    """
    if len(members) < 2:
        raise ValueError(f"a pack of {len(members)} cannot be halved")
    first, second = _parts(members, 2)
    return first, second


def _parts(members: Sequence[T], count: int) -> list[list[T]]:
    """So many stretches of a list, the first ones longer by one where it does not divide evenly."""
    size, rest = divmod(len(members), count)
    ends = [i * size + min(i, rest) for i in range(count + 1)]
    return [list(members[a:b]) for a, b in itertools.pairwise(ends)]
