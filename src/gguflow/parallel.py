"""Work cut into pieces and done on threads: what quantizing, reading and multiplying have in common.

Kernels release the interpreter's lock, so threads are enough; and no result depends on how the work was cut.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait

from gguflow.errors import UsageError


def pieces(size: int, row: int, block_size: int, target: int) -> Iterator[tuple[int, int]]:
    """Cut `size` flat weights, in rows of `row`, into pieces [first, last) of about `target`: some whole rows, or whole blocks of one row."""
    if row <= target:
        step = target // max(row, 1) * row
        yield from ((first, min(first + step, size)) for first in range(0, size, step or 1))
    else:
        step = max(target // block_size, 1) * block_size
        for start in range(0, size, row):
            yield from ((start + first, start + min(first + step, row)) for first in range(0, row, step))


def run(work: Callable[[int, int], None], pieces: list[tuple[int, int]], threads: int) -> None:
    """Do the pieces, on `threads` threads; the first error in the order of the pieces is the one raised."""
    if threads < 1:
        raise UsageError(f"threads must be 1 or more, not {threads}")
    if threads == 1 or len(pieces) < 2:
        for piece in pieces:
            work(*piece)
        return
    running = [_pool(threads).submit(work, *piece) for piece in pieces]
    try:
        for done in running:
            done.result()
    except BaseException:
        for waiting in running:
            waiting.cancel()
        wait(running)  # nobody writes to the caller's arrays after this
        raise


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay: starting them costs as much as a million weights."""
    return ThreadPoolExecutor(threads, thread_name_prefix="gguflow")


if hasattr(os, "register_at_fork"):  # a child of fork has the object, but not its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
