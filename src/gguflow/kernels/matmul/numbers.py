"""What F32, F16 and BF16 have in common: rows of any length, whose last product is not the last of 32."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.matmul.sums import SUMS
from gguflow.kernels.policy import helper

f32 = np.float32


@helper
def padded_rest(x: Any) -> Any:
    """The last x.size % 32 activations and zeros behind them, float32[32]: with zeros for weights, they add
    nothing to any sum.
    """
    rest = np.zeros(SUMS, f32)
    whole = x.size // SUMS * SUMS
    for i in range(whole, x.size):
        rest[i - whole] = x[i]
    return rest
