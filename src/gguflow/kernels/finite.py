"""Finding NaN and infinity at memory speed."""

from __future__ import annotations

import numpy as np

from gguflow.kernels.lanes import float_bits, load, mask_bits, splat, where
from gguflow.kernels.policy import helper, kernel
from gguflow.kernels.types import F32s, Int

i32 = np.int32

_EXPONENT = 0x7F800000  # all ones in NaN and infinity only


@kernel
def first_non_finite(x: F32s) -> Int:
    """The index of the first NaN or infinity in flat float32 x, or -1."""
    strip = 256
    i = 0
    while i + strip <= x.size and is_finite(x, i, strip):
        i += strip
    while i < x.size:
        if not np.isfinite(x[i]):
            return i
        i += 1
    return -1


@helper
def is_finite(x: F32s, first: int, n: int) -> bool:
    """Whether weights first ... first + n - 1 of x are numbers; n: a multiple of 16. No branch for a single
    weight.

    Encoders ask it of each batch just before they read it: the batch is then in the first-level cache, and
    the answer costs next to nothing.
    """
    worst = splat(0)
    for i in range(first, first + n, 16):
        exponent = float_bits(load(x, i)) & _EXPONENT
        worst = where(exponent > worst, exponent, worst)
    return mask_bits(worst == _EXPONENT) == 0
