"""Work cut into pieces and done on threads: what quantizing, reading and multiplying have in common.

Kernels release the interpreter's lock, so threads are enough; and no result depends on how the work was cut.
"""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait

from gguflow.errors import UsageError


def pieces(size: int, row: int, block_size: int, target: int) -> Iterator[tuple[int, int]]:
    """Cut `size` flat weights, in rows of `row`, into pieces [first, last) of about `target`: some whole
    rows, or whole blocks of one row.
    """
    if row <= target:
        step = target // max(row, 1) * row
        yield from ((first, min(first + step, size)) for first in range(0, size, step or 1))
    else:
        step = max(target // block_size, 1) * block_size
        for start in range(0, size, row):
            yield from ((start + first, start + min(first + step, row)) for first in range(0, row, step))


def run(work: Callable[[int, int], None], pieces: list[tuple[int, int]], threads: int) -> None:
    """Do the pieces, on `threads` threads, the caller's own among them; the first error in the order of the
    pieces is the one raised.

    A thread that is done with a piece takes the next: none waits to be told, and the caller is not woken for
    each.
    """
    if threads < 1:
        raise UsageError(f"threads must be 1 or more, not {threads}")
    if threads == 1 or len(pieces) < 2:
        for piece in pieces:
            work(*piece)
        return
    waiting = deque(enumerate(pieces))
    errors: list[tuple[bool, int, BaseException]] = []

    def take() -> None:
        """Pieces, as long as there are any; after one that failed, none is begun."""
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
            errors.append((isinstance(error, Exception), i, error))  # an interruption comes before all else

    def leave() -> None:
        """Wait for those that have begun: nobody writes to the caller's arrays after this."""
        wait([helper for helper in helpers if not helper.cancel()])

    helpers = [_pool(threads).submit(take) for _ in range(min(threads, len(pieces)) - 1)]
    try:
        take()
        leave()
    except BaseException:
        waiting.clear()
        leave()
        raise
    if errors:
        raise min(errors, key=lambda error: error[:2])[2]


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay: starting them costs as much as a million weights."""
    return ThreadPoolExecutor(threads, thread_name_prefix="gguflow")


if hasattr(os, "register_at_fork"):  # a child of fork has the object, but not its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
