"""The largest and the smallest magnitude among the binary16 scales of blocks, and the largest among plain
numbers: as the integers of their bits, in the order of the magnitudes, with infinity and NaN above all.
"""

from __future__ import annotations

import numpy as np

from gguflow.kernels.lanes import largest as largest_lane
from gguflow.kernels.lanes import smallest as smallest_lane
from gguflow.kernels.policy import helper, kernel, short_kernel
from gguflow.kernels.types import I32x16, Int, U16s, U32s

i32 = np.int32
u16 = np.uint16
u32 = np.uint32

INFINITE = 0x7C00
"""The bits of infinity in binary16."""
LOOK = -1
"""In place of how many weights are encoded: all of them, and their scales deserve a look."""


@helper
def done_or_look(n: int, largest: I32x16, smallest: I32x16) -> int:
    """What an encoder returns that has watched its scales: n, or LOOK where one is zero, infinite or NaN.

    largest, smallest: in each lane, the bits of the magnitudes of scales (`extremes`).
    """
    if largest_lane(largest) >= INFINITE or smallest_lane(smallest) == 0:
        return LOOK
    return n


@short_kernel
def extremes(words: U16s, step: int, first: int, second: int) -> tuple[Int, Int]:
    """Of blocks of `step` words with scales at words `first` and `second` (the same where there is one): the
    largest scale, and the smallest of the bits that the scales of a block have together: 0 where all are 0.
    """
    largest = i32(0)
    smallest = i32(0x7FFF)
    for start in range(0, words.size, step):
        a = i32(words[start + first]) & i32(0x7FFF)
        b = i32(words[start + second]) & i32(0x7FFF)
        largest = max(largest, max(a, b))
        smallest = min(smallest, a | b)
    return largest, smallest


@kernel
def largest_half(words: U16s) -> Int:
    """The largest magnitude of 16-bit floats."""
    largest = u16(0)
    for i in range(words.size):
        word = u16(words[i] & u16(0x7FFF))
        if word > largest:
            largest = word
    return largest


@kernel
def largest_single(words: U32s) -> Int:
    """The largest magnitude of binary32 floats."""
    largest = u32(0)
    for i in range(words.size):
        word = u32(words[i] & u32(0x7FFFFFFF))
        if word > largest:
            largest = word
    return largest
