"""Super-blocks of 256 weights, 16 at a time: lane k belongs to super-block k of the batch.

The sub-block j of all 16 is brought into lanes together, so that what a super-block derives from its
sub-blocks (their largest scale, their packed codes) is arithmetic on lanes as well. The codes are written
from the batch in its natural order, one super-block after the other.
"""

from __future__ import annotations

import numpy as np

from gguflow.kernels.finite import is_finite
from gguflow.kernels.lanes import load, splat, store, transpose16
from gguflow.kernels.policy import helper
from gguflow.kernels.types import F32s, F32x16, Int

f32 = np.float32

SIZE = 256
BATCH = 16


@helper
def take_batch(x: F32s, first: int, batch: F32s) -> Int:
    """Copy blocks first ... first + 15 of x into batch, float32[4096]; past the end of x come zeros.

    Returns how many blocks there were; 0 where one of them holds NaN or infinity, and then nothing is copied.
    """
    count = min(BATCH, x.size // SIZE - first)
    if not is_finite(x, first * SIZE, count * SIZE):
        return 0
    for i in range(0, count * SIZE, 16):
        store(batch, i, load(x, first * SIZE + i))
    for i in range(count * SIZE, BATCH * SIZE, 16):
        store(batch, i, splat(f32(0)))
    return count


@helper
def take_importance(importance: F32s, first: int, batch: F32s) -> None:
    """Copy to batch, float32[4096], the importance of blocks first ... first + 15: entry i % m for block i,
    of the m in `importance`.
    """
    for k in range(BATCH):
        entry = (first + k) % (importance.size // SIZE)
        for i in range(0, SIZE, 16):
            store(batch, k * SIZE + i, load(importance, entry * SIZE + i))


@helper
def to_lanes(batch: F32s, start: int, n: int, lanes: F32s) -> None:
    """Weights start ... start + n - 1 of each super-block of the batch into lanes, float32[n * 16]; n: a
    multiple of 16.
    """
    for i in range(0, n, 16):
        transpose16(batch, start + i, SIZE, lanes, i)


@helper
def sum_of_squares(batch: F32s, lanes: F32s) -> F32x16:
    """The sum of the squares of each super-block, first weight to last. lanes: scratch, float32[256]."""
    total = splat(f32(0))
    for start in range(0, SIZE, 16):
        to_lanes(batch, start, 16, lanes)
        for i in range(16):
            v = load(lanes, 16 * i)
            total = total + v * v
    return total
