"""The one loop of a conversion: jobs done on threads, and finished in their order.

A job is a leaf of a tensor (`leaf_jobs.py`) or a chunk of a payload. Jobs are made only when they are needed,
and their maker may require that all earlier ones are finished first (`DRAIN`). Threads take the next job
themselves. The thread that completes the first unfinished job finishes it and the completed jobs after it, so
no thread is woken up for each job. The time that a job costs here, in Python, limits how many threads are of
use: `tools/bench engine` measures it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Protocol

from gguflow import platform
from gguflow.conversion.plan import PlannedTensor

Progress = Callable[[PlannedTensor, int, int], None]
"""Called on the calling thread after each leaf or chunk of each output: tensor, weights, bytes."""

Event = tuple[PlannedTensor, int, int]
"""The arguments of `Progress`."""

PROGRESS_INTERVAL = 0.02
"""Seconds between calls of `Progress`; each call reports all that was done in the meantime."""


class Job(Protocol):
    """A piece of a conversion: the jobs are taken in order, performed side by side, and finished in order."""

    @property
    def held_nbytes(self) -> int:
        """Bytes of memory that the job holds between `perform` and `finish`."""

    def prefetch(self) -> None:
        """The job will be performed soon: a hint."""

    def perform(self) -> None:
        """Do the work, on any thread, at the same time as other jobs."""

    def finish(self) -> list[Event]:
        """Called after `perform`, one job at a time, in the order of the jobs; returns events."""


class Drain:
    """A mark among the jobs: what follows is made only when all jobs before it are finished."""


DRAIN = Drain()

Jobs = Generator["Job | Drain", None, None]


class Resumed:
    """A job that an earlier run did: it only reports progress.

    events: what `finish` returns.
    """

    held_nbytes = 0

    def __init__(self, events: list[Event]) -> None:
        self.events = events

    def prefetch(self) -> None:
        """Nothing to fetch."""

    def perform(self) -> None:
        """Nothing to do."""

    def finish(self) -> list[Event]:
        return self.events


class _Issued:
    """A job that a thread has taken, in the order of the jobs."""

    __slots__ = ("error", "is_performed", "job")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.is_performed = False
        self.error: BaseException | None = None


class _Loop:
    """The state that threads share, all of it under one lock.

    jobs: what is to be done.
    ahead: number of jobs that are prefetched before a thread takes them.
    most_held: bytes that performed jobs may hold while they wait to be finished; a single job may hold more.
    """

    def __init__(self, jobs: Jobs, ahead: int, most_held: int) -> None:
        self.events: deque[Event] = deque()
        self._jobs = jobs
        self._ahead = ahead
        self._most_held = most_held
        self._waiting: deque[Job | Drain] = deque()
        self._issued: deque[_Issued] = deque()
        self._held = 0
        self._is_exhausted = False
        self._is_finishing = False
        self._error: BaseException | None = None
        self._n_idle = 0
        self._changed = threading.Condition()

    def work(self) -> None:
        """Do jobs as long as there are any; raise the error of the first job that failed."""
        while (issued := self._take()) is not None:
            try:
                issued.job.perform()
            except BaseException as error:
                issued.error = error
            self._complete(issued)
        if self._error is not None:
            raise self._error

    def stop(self, error: BaseException) -> None:
        """No further job is begun."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def _take(self) -> _Issued | None:
        with self._changed:
            while self._error is None:
                try:
                    self._fill()
                except BaseException as error:
                    self._error = error
                    break
                first = self._waiting[0] if self._waiting else None
                if isinstance(first, Drain):
                    if not self._issued and not self._is_finishing:
                        self._waiting.popleft()
                        continue
                elif first is not None:
                    if self._held + first.held_nbytes <= self._most_held or not self._issued:
                        self._waiting.popleft()
                        self._held += first.held_nbytes
                        issued = _Issued(first)
                        self._issued.append(issued)
                        return issued
                elif self._is_exhausted:
                    break
                self._n_idle += 1
                self._changed.wait()
                self._n_idle -= 1
            self._changed.notify_all()
            return None

    def _fill(self) -> None:
        """Let some jobs be made, and prefetched, before they are taken; none behind a drain."""
        while not self._is_exhausted and len(self._waiting) < self._ahead:
            if self._waiting and isinstance(self._waiting[-1], Drain):
                return
            made = next(self._jobs, None)
            if made is None:
                self._is_exhausted = True
            else:
                if not isinstance(made, Drain):
                    made.prefetch()
                self._waiting.append(made)

    def _complete(self, performed: _Issued) -> None:
        """Finish what can be finished now, unless another thread is at it."""
        with self._changed:
            performed.is_performed = True
            if self._is_finishing:
                return
            self._is_finishing = True
        while True:
            with self._changed:
                if not self._issued or not self._issued[0].is_performed:
                    self._is_finishing = False
                    if self._n_idle:
                        self._changed.notify_all()
                    return
                first = self._issued[0]
                error = first.error or self._error
            try:
                if first.error is None and error is None:
                    self.events.extend(first.job.finish())
            except BaseException as raised:
                error = raised
            with self._changed:
                self._issued.popleft()
                self._held -= first.job.held_nbytes
                if self._error is None and error is not None:
                    self._error = error
                if self._n_idle:
                    self._changed.notify_all()


def run(jobs: Jobs, threads: int, most_held: int, progress: Progress | None) -> None:
    """Do all jobs, then close their generator; the first error, in the order of the jobs, ends the rest.

    jobs: the jobs, which are made as they are needed.
    threads: number of threads, 1 or more; 1 is the caller's own.
    most_held: bytes that jobs which are performed and not yet finished may hold together.
    progress: called on the caller's thread with each event; None for no calls.

    Raises what jobs raise, what making them raises, and what `progress` raises.
    """
    loop = _Loop(jobs, 2 * threads, most_held)

    def report() -> None:
        while loop.events:
            event = loop.events.popleft()
            if progress is not None:
                progress(*event)

    try:
        if threads == 1:
            _run_alone(loop, report)
        else:
            _run_on_threads(loop, threads, report)
        report()
    finally:
        jobs.close()


def _run_alone(loop: _Loop, report: Callable[[], None]) -> None:
    """On the caller's thread."""
    while (issued := loop._take()) is not None:
        try:
            issued.job.perform()
        except BaseException as error:
            issued.error = error
        loop._complete(issued)
        report()
    if loop._error is not None:
        raise loop._error


def _run_on_threads(loop: _Loop, threads: int, report: Callable[[], None]) -> None:
    with ThreadPoolExecutor(threads, thread_name_prefix="gguflow") as pool:
        try:
            pending = _start(pool, loop.work, threads)
            if not pending:
                _run_alone(loop, report)
            while pending:
                done, pending = wait(pending, PROGRESS_INTERVAL, FIRST_EXCEPTION)
                report()
                for future in done:
                    future.result()
        except BaseException as error:
            with platform.interruptions_deferred():  # who leaves now takes files away that threads write to
                loop.stop(error)
                pool.shutdown()
            if isinstance(error, RuntimeError) and isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from error  # interrupted again inside of a lock's own clean-up
            raise


def _start(pool: ThreadPoolExecutor, work: Callable[[], None], threads: int) -> set[Future[None]]:
    """Begin to work on as many threads as the system gives, which may have none left."""
    pending: set[Future[None]] = set()
    for _ in range(threads):
        try:
            pending.add(pool.submit(work))
        except RuntimeError:  # can't start new thread
            break
    return pending
