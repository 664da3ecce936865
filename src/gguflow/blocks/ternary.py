"""The codes that TQ1_0, TQ2_0 and Q2_0 share; the twin of kernels/ternary.py."""

from __future__ import annotations

import numpy as np

from gguflow.blocks.base import Floats
from gguflow.blocks.bits import round_half_away

f32 = np.float32


def ternary_codes(x: Floats) -> tuple[np.float32, list[int]]:
    """The largest magnitude d, and round(x / d) + 1. Where 1 / d overflows (d is denormal) every code is that
    of zero.
    """
    d = f32(np.max(np.abs(x)))
    inverse = f32(1) / d if d else f32(0)
    if np.isinf(inverse):
        inverse = f32(0)
    return d, [round_half_away(v * inverse) + 1 for v in x]
