"""Sub-blocks with a scale and a min, on lanes: what the encoders of Q2_K, Q4_K and Q5_K have in common.

A batch is 16 super-blocks (see `super_blocks`); all lanes belong to one super-block each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gguflow.kernels.bits import nearest_int
from gguflow.kernels.fits import Fit, clamp, fit_positive, fit_scale_min
from gguflow.kernels.lanes import load, splat, store, to_float, vabs, vsqrt, where
from gguflow.kernels.policy import helper
from gguflow.kernels.super_blocks import BATCH, SIZE, sum_of_squares, to_lanes
from gguflow.kernels.types import F32s, F32x16, I32x16

f32 = np.float32


class SubBlocks(NamedTuple):
    """The n sub-blocks of 16 super-blocks: lanes float32[n * 16] each, vector j for sub-block j.

    scales, mins: fitted, then their codes.
    weights: sums of the importance.
    inverses, bases: the codes of the search are nearest_int(inverse * (x - base)).
    steps, offsets: what a reader will compute, d * scale and dmin * min.
    """

    scales: F32s
    mins: F32s
    weights: F32s
    inverses: F32s
    bases: F32s
    steps: F32s
    offsets: F32s


@helper
def new_sub_blocks(n: int) -> SubBlocks:
    size = n * BATCH
    return SubBlocks(
        np.empty(size, f32),
        np.empty(size, f32),
        np.empty(size, f32),
        np.empty(size, f32),
        np.empty(size, f32),
        np.empty(size, f32),
        np.empty(size, f32),
    )


@helper
def fit_batch(
    batch: F32s, subs: SubBlocks, size: int, n_max: int, first: f32, step: f32, last: int, absolute: bool
) -> None:
    """Fit the sub-blocks of `size` weights without importance.

    first, step, last: the ladder of fits.fit_scale_min.
    absolute: Q2_K's measure, errors times |x|; else squared errors times |x| + rms(x).
    """
    x = np.empty(2 * size * 16, f32)
    w = np.empty(2 * size * 16, f32)
    codes = np.empty(2 * size * 16, f32)
    for j in range(0, SIZE // size, 2):
        to_lanes(batch, size * j, 2 * size, x)
        for at in (0, 16 * size):
            squares = splat(f32(0))
            for i in range(at, at + 16 * size, 16):
                v = load(x, i)
                squares = squares + v * v
            level = splat(f32(0)) if absolute else vsqrt(squares / f32(size))
            for i in range(at, at + 16 * size, 16):
                store(w, i, level + vabs(load(x, i)))
        fits = fit_scale_min(x, w, codes, size, n_max, first, step, last, absolute)
        keep(subs, j, fits[0])
        keep(subs, j + 1, fits[1])


@helper
def fit_batch_weighted(
    batch: F32s, importance: F32s, subs: SubBlocks, size: int, n_max: int, spread: f32, n_scale_max: int
) -> tuple[F32x16, F32x16]:
    """Fit the sub-blocks with importance (float32[4096], in the order of the batch), then the scales and mins
    themselves: codes 0 to n_scale_max.

    spread: how often the mean square of the super-block enters a weight.
    Returns lanes (d, dmin); the codes are in subs.scales and subs.mins.
    """
    x = np.empty(2 * size * 16, f32)
    w = np.empty(2 * size * 16, f32)
    codes = np.empty(2 * size * 16, f32)
    variance = spread * sum_of_squares(batch, x) / f32(SIZE)
    n = SIZE // size
    for j in range(0, n, 2):
        to_lanes(batch, size * j, 2 * size, x)
        to_lanes(importance, size * j, 2 * size, w)
        for at in (0, 16 * size):
            total = splat(f32(0))
            for i in range(at, at + 16 * size, 16):
                v = load(x, i)
                u = load(w, i) * vsqrt(variance + v * v)
                total = total + u
                store(w, i, u)
            store(subs.weights, 16 * j + at // size, total)
        fits = fit_scale_min(x, w, codes, size, n_max, f32(-0.9), f32(0.05), 36, False)
        keep(subs, j, fits[0])
        keep(subs, j + 1, fits[1])
    d = fit_positive(subs.scales, subs.weights, codes, n, n_scale_max)
    copy(codes, subs.scales)
    dmin = fit_positive(subs.mins, subs.weights, codes, n, n_scale_max)
    copy(codes, subs.mins)
    return d, dmin


@helper
def keep(subs: SubBlocks, j: int, fit: Fit) -> None:
    """The result of fit_scale_min for sub-block j."""
    store(subs.scales, 16 * j, fit.scale)
    store(subs.mins, 16 * j, -fit.low)
    store(subs.inverses, 16 * j, fit.inverse)
    store(subs.bases, 16 * j, fit.base)


@helper
def copy(source: F32s, target: F32s) -> None:
    """The head of `source`, as much as `target` holds."""
    for i in range(0, target.size, 16):
        store(target, i, load(source, i))


@helper
def to_codes(values: F32s, n_max: int) -> F32x16:
    """Replace each vector by its code in n_max-ths of the largest, per lane; returns that n_max-th.

    A code is kept in a byte, as in ggml: where rounding made a scale negative, it wraps to a large one.
    """
    top = splat(f32(0))
    for i in range(0, values.size, 16):
        v = load(values, i)
        top = where(v > top, v, top)
    inverse = where(top > f32(0), f32(n_max) / top, f32(0))
    for i in range(0, values.size, 16):
        store(values, i, to_float(nearest_int(inverse * load(values, i)) & 255))
    return top / f32(n_max)


@helper
def codes16(batch: F32s, i: int, subs: SubBlocks, at: int, n_max: int) -> I32x16:
    """The codes of 16 weights from batch[i], of the sub-block with entry `at` in subs. Where the step is 0,
    ggml keeps the codes of the search.
    """
    v = load(batch, i)
    step = subs.steps[at]
    if step != f32(0):
        scaled = (v + subs.offsets[at]) / step
    else:
        scaled = subs.inverses[at] * (v - subs.bases[at])
    return clamp(nearest_int(scaled), 0, n_max)
