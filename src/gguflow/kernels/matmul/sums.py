"""The one order of the sums of products, whatever the format, the processor and the number of threads.

Of the products of a row, in binary32, product i goes to partial sum i mod 32, in increasing order of i: two
vectors of sums. At the end the second is added to the first, and what is left by halves. Two chains of
additions are as fast as memory is; 32 sums keep the rounding error small.
"""

from __future__ import annotations

import numpy as np

from gguflow.kernels.lanes import prefetch, sum_by_halves
from gguflow.kernels.policy import helper
from gguflow.kernels.types import F32s, F32x16, I32s, Int, U8s

f32 = np.float32

SUMS = 32
AHEAD = 4096
"""Bytes: what is fetched into the cache before its turn; the processor's own guesses end at the page."""


@helper
def fold(low: F32x16, high: F32x16) -> f32:
    """The sum of the 32 partial sums, as float32."""
    return sum_by_halves(low + high)


@helper
def scratch(n_blocks: int) -> tuple[I32s, F32s]:
    """For one number of each block of a row: int32 and float32 of n_blocks, rounded up to 16."""
    size = (n_blocks + 15) // 16 * 16
    return np.zeros(size, np.int32), np.empty(size, f32)


@helper
def fetch_ahead(blocks: U8s, i: Int, size: int) -> None:
    """Ask for the cache lines that lie AHEAD of the `size` bytes from byte i of a flat uint8 array."""
    for line in range(0, size, 64):
        prefetch(blocks, i + AHEAD + line)
