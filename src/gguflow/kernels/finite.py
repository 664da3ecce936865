"""Finding NaN and infinity at memory speed."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.policy import kernel
from gguflow.lanes import float_bits, load, mask_bits, where

i32 = np.int32

_EXPONENT = 0x7F800000  # all ones in NaN and infinity only


@kernel
def first_non_finite(x: Any) -> Any:
    """The index of the first NaN or infinity in flat float32 x, or -1."""
    size = x.size
    strip = 256
    i = 0
    while i + strip <= size:  # a strip without a branch inside; a strip that holds one is looked through below
        worst = float_bits(load(x, i)) & _EXPONENT
        for j in range(16, strip, 16):
            exponent = float_bits(load(x, i + j)) & _EXPONENT
            worst = where(exponent > worst, exponent, worst)
        if mask_bits(worst == _EXPONENT) != 0:
            break
        i += strip
    while i < size:
        if not np.isfinite(x[i]):
            return i
        i += 1
    return -1
