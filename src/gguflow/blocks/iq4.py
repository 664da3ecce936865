"""What IQ4_NL and IQ4_XS share: sixteen values that lie closer together near zero, and the search for the
scale that fits them to 32 weights.

Source: kvalues_iq4nl, best_index_int8 and quantize_row_iq4_nl_impl in ggml's ggml-common.h and ggml-quants.c;
see spec/blocks/i-quants.md.
"""

from __future__ import annotations

import numpy as np

from gguflow.blocks.base import Floats
from gguflow.blocks.fits import TINY, Codes, ordered_sum
from gguflow.blocks.nibbles import signed_peak

f32 = np.float32

VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], f32)
"""What a code stands for, before the scale."""

MIDPOINTS = (VALUES[:-1] + VALUES[1:]) / f32(2)
"""Where the nearer value changes; a midpoint belongs to the value above it."""


def nearest_values(v: Floats) -> Codes:
    """The code of the nearest value: how many midpoints are <= v. NaN counts them all."""
    return np.searchsorted(MIDPOINTS, v, side="right").astype(np.int32)


def error_weights(x: Floats, importance: Floats | None, mean_square: np.float32) -> Floats:
    """How much the error of each weight counts: its square, or importance * sqrt(2 * mean_square + its
    square).

    mean_square: of the block that x belongs to.
    """
    if importance is None:
        return x * x
    weights: Floats = importance * np.sqrt(f32(2) * mean_square + x * x)
    return weights


def fit_scale(x: Floats, w: Floats) -> np.float32:
    """The scale d for x ~ d * VALUES[code]: of 16 trial scales, the weighted least squares of the codes of
    each; the best is kept.

    The weight of the largest magnitude (the first of them) is mapped to -127, and then to -134, -133, ...
    -120. 0 where all are below TINY.
    """
    peak = signed_peak(x)
    if abs(peak) < TINY:
        return f32(0)

    def trial(inverse: np.float32) -> tuple[np.float32, np.float32]:
        values = VALUES[nearest_values(inverse * x)]
        return ordered_sum(w * values * x), ordered_sum(w * values * values)

    sum_qx, sum_q2 = trial(f32(1) / (-peak / VALUES[0]))
    d = sum_qx / sum_q2 if sum_q2 > 0 else f32(0)
    best = d * sum_qx
    for k in range(-7, 8):
        sum_qx, sum_q2 = trial((f32(k) + VALUES[0]) / peak)
        if sum_q2 > 0 and sum_qx * sum_qx > best * sum_q2:
            d = sum_qx / sum_q2
            best = d * sum_qx
    return d


def inverse_or_zero(scale: np.float32) -> np.float32:
    """1 / scale, and 0 for 0."""
    return f32(1) / scale if scale != 0 else f32(0)
