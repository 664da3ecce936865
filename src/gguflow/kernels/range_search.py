"""Which part of its range a block should cover: all shrunk ranges of a ladder are tried, the one of the least
weighted squared error wins.

The trial scale is rounded to its type, but not nested: what a super-block makes of it is not known yet.
Ranges of equal error: the widest.
"""

from __future__ import annotations

import numpy as np

from gguflow.kernels.lanes import gather, lane, lane_numbers, load, lookup16, splat, to_float, unowned, where
from gguflow.kernels.nested_scales import clamped_code, stored
from gguflow.kernels.parametric import (
    ABSMAX,
    AFFINE,
    CODEBOOK,
    MIN,
    SMALLEST_PEAK,
    Books,
    Parameters,
    are_finite,
    asked_scale,
    extremes,
    lanes_at,
    ranks,
    ranks16,
    rounded_within,
)
from gguflow.kernels.policy import helper, kernel
from gguflow.kernels.types import F32s, F32x16

f32 = np.float32
i32 = np.int32

N_TRIALS = 32
STEP = f32(0.015625)
"""Trial j covers 1 - j / 64 of the range."""


@helper
def folded(sums: F32x16) -> f32:
    """The sixteen sums, added in order."""
    total = f32(0)
    for k in range(16):
        total = f32(total + lane(sums, k))
    return total


@helper
def affine_error(
    x: F32s, weights: F32s, start: int, stop: int, scale: f32, shift: f32, low: f32, high: f32
) -> f32:
    """The sum of weight * (x - its approximation)**2, approximations being scale * q + shift with q from low
    to high.
    """
    sums = splat(f32(0))
    inert = not scale > f32(0)
    for i in range(start, stop, 16):
        v = lanes_at(x, i)
        q = splat(f32(0)) if inert else to_float(rounded_within((v - shift) / scale, low, high))
        d = v - (q * scale + shift)
        e = d * d * lanes_at(weights, i) if weights.size > 0 else d * d
        sums = sums + where(lane_numbers() < stop - i, e, f32(0))
    return folded(sums)


@helper
def book_error(
    x: F32s,
    weights: F32s,
    start: int,
    stop: int,
    scale: f32,
    books: Books,
    base: int,
    bits: int,
    values: F32s,
) -> f32:
    """The same for a codebook; values: by rank."""
    sums = splat(f32(0))
    inverse = f32(f32(1) / max(scale, SMALLEST_PEAK))
    for i in range(start, stop, 16):
        v = lanes_at(x, i)
        if bits <= 4:
            nearest = lookup16(load(values, base), ranks16(v * inverse, load(books.bounds, base)))
        else:
            nearest = gather(values, ranks(v * inverse, books, base, bits) + base)
        d = v - nearest * scale
        e = d * d * lanes_at(weights, i) if weights.size > 0 else d * d
        sums = sums + where(lane_numbers() < stop - i, e, f32(0))
    return folded(sums)


@kernel
def search(x: F32s, weights: F32s, p: Parameters, books: Books, values: F32s, shrinks: F32s) -> None:
    """Find the best range of each block.

    x: float32, the weights.
    weights: float32, how much the error of each counts, or none.
    values: float32, the values of the books by rank.
    shrinks: float32, written: the factor of the best range of each block; 1 for what is not finite.
    """
    x, weights, values = unowned(x), unowned(weights), unowned(values)
    books = Books(unowned(books.bounds), unowned(books.order), books.stride)
    n_books = books.bounds.size // books.stride
    top_code = f32((1 << p.bits) - 1)
    half = f32((1 << (p.bits - 1)) - 1)
    q_max = f32(1) if p.quantizer == CODEBOOK else half if p.quantizer == ABSMAX else top_code
    for b in range(shrinks.size):
        start = b * p.block
        stop = min(start + p.block, x.size)
        shrinks[b] = f32(1)
        if not are_finite(x, start, stop):
            continue
        bottom, top = extremes(x, start, stop, p.quantizer, f32(np.inf))
        least = f32(np.inf)
        for j in range(N_TRIALS):
            shrink = f32(f32(1) - f32(j) * STEP)
            asked, minimum = asked_scale(p.quantizer, bottom, top, q_max, shrink)
            scale = stored(asked, p.scale_type)
            if p.quantizer == ABSMAX:
                error = affine_error(x, weights, start, stop, scale, f32(0), -half, half)
            elif p.quantizer == AFFINE:
                zero = f32(0)
                if scale > f32(0):
                    zero = f32(clamped_code(f32(-minimum / scale), (1 << p.bits) - 1))
                error = affine_error(x, weights, start, stop, scale, f32(0), -zero, top_code - zero)
            elif p.quantizer == MIN:
                shift = stored(minimum, p.scale_type)
                error = affine_error(x, weights, start, stop, scale, shift, f32(0), top_code)
            else:
                base = b % n_books * books.stride
                error = book_error(x, weights, start, stop, scale, books, base, p.bits, values)
            if error < least:
                least = error
                shrinks[b] = shrink
