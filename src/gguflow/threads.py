"""Work that is cut into pieces and done on threads, for quantizing, reading and multiplying.

Kernels release the interpreter's lock, so threads are enough. Results do not depend on how work is cut.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from gguflow.arguments import integer, shown
from gguflow.errors import UsageError
from gguflow.platform import available_cpus

MOST = 1024
"""The most threads that may be asked for."""

WORTHWHILE = 1 << 18
"""Weights from which quantizing on several threads is faster: below, the second one comes too late."""

T = TypeVar("T")
U = TypeVar("U")


def check(threads: int | None) -> None:
    """Raise UsageError for what `resolve` refuses."""
    if threads is not None:
        resolve(threads)


def resolve(threads: int | None, size: int = WORTHWHILE) -> int:
    """The number of threads to use: every public function takes the argument in this way.

    threads: 1 to MOST; None for as many as there are processors that this process may use.
    size: of the work, as the number of weights that are quantized in the same time; for less than WORTHWHILE,
        None is one thread.

    Raises UsageError for everything else, booleans among it.
    """
    if threads is None:
        return 1 if size < WORTHWHILE else min(available_cpus(), MOST)
    if type(threads) is int and 1 <= threads <= MOST:
        return threads
    try:
        return integer(threads, "threads", 1, MOST)
    except UsageError:
        raise UsageError(
            f"threads must be an integer from 1 to {MOST}, or None for every processor, not {shown(threads)}"
        ) from None


def pieces(size: int, row: int, block_size: int, target: int) -> Iterator[tuple[int, int]]:
    """Cut flat weights into pieces [first, last): several whole rows, or whole blocks of one row.

    size: number of weights.
    row: weights of a row.
    block_size: weights of a block.
    target: approximate weights of a piece.
    """
    if row <= target:
        step = target // max(row, 1) * row
        yield from ((first, min(first + step, size)) for first in range(0, size, step or 1))
    else:
        step = max(target // block_size, 1) * block_size
        for start in range(0, size, row):
            yield from ((start + first, start + min(first + step, row)) for first in range(0, row, step))


def run(work: Callable[[int, int], None], pieces: list[tuple[int, int]], threads: int | None) -> None:
    """Call `work` for each piece on `threads` threads, including the caller's own.

    A thread that has finished a piece takes the next one itself, without waking the caller. If several pieces
    fail, the error of the first in order is raised. If the system has no threads left, those that there are
    do the work.
    """
    threads = resolve(threads)
    if threads == 1 or len(pieces) < 2:
        for piece in pieces:
            work(*piece)
        return
    waiting = deque(enumerate(pieces))
    errors: list[tuple[bool, int, BaseException]] = []
    changed = threading.Condition()
    n_helping = 0
    is_over = False

    def help_out() -> None:
        """Take pieces on another thread, unless that begins too late: a helper whose thread could not be
        started stays in the pool's queue.
        """
        nonlocal n_helping
        with changed:
            if is_over:
                return
            n_helping += 1
        try:
            take()
        finally:
            with changed:
                n_helping -= 1
                changed.notify_all()

    def take() -> None:
        """Do pieces as long as there are any; after an error, no piece is started."""
        i = -1
        try:
            while waiting:
                try:
                    i, piece = waiting.popleft()
                except IndexError:  # another thread took the last one
                    return
                work(*piece)
        except BaseException as error:
            waiting.clear()
            errors.append((isinstance(error, Exception), i, error))  # an interruption takes precedence

    def leave() -> None:
        """Wait for running helpers: after this no thread writes to the caller's arrays."""
        nonlocal is_over
        with changed:
            is_over = True
            while n_helping:
                changed.wait()

    try:
        with contextlib.suppress(RuntimeError):  # can't start new thread
            for _ in range(min(threads, len(pieces)) - 1):
                _pool(threads).submit(help_out)
        take()
        leave()
    except BaseException:
        waiting.clear()
        leave()
        raise
    if errors:
        raise min(errors, key=lambda error: error[:2])[2]


def ordered(action: Callable[[T], U], items: Iterable[T], threads: int | None) -> Iterator[U]:
    """The results of `action` for each item, in order, computed on threads a little ahead of the caller.

    What ends the iteration early, an error or an interruption included, cancels what has not started. If the
    system has no threads left, the caller computes them.
    """
    threads = resolve(threads)
    rest = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix="gguflow") as pool:
        try:
            pending = deque(_begin(pool, action, item) for item in islice(rest, 2 * threads))
            while pending:
                result = pending.popleft().result()
                pending.extend(_begin(pool, action, item) for item in islice(rest, 1))
                yield result
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _begin(pool: ThreadPoolExecutor, action: Callable[[T], U], item: T) -> Future[U]:
    """The result of an action to come, or at once if no thread can be started."""
    try:
        return pool.submit(action, item)
    except RuntimeError:  # can't start new thread
        done: Future[U] = Future()
        try:
            done.set_result(action(item))
        except Exception as error:
            done.set_exception(error)
        return done


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """A pool that is kept: starting threads costs as much as a million weights."""
    return ThreadPoolExecutor(threads, thread_name_prefix="gguflow")


if hasattr(os, "register_at_fork"):  # after fork, the child has the pool but not its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
