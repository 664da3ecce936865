"""Do the weights of a block lie on a grid already? Sixteen blocks at a time, one in each lane. The scalar
twin is `gguflow.fidelity.reference_lattices`.
"""

from __future__ import annotations

import numpy as np

from gguflow.kernels.lanes import (
    load,
    mask_bits,
    splat,
    store,
    store_i32,
    store_u8,
    transpose16,
    unowned,
    vabs,
    where,
)
from gguflow.kernels.level_grids import HALF, Grid, code, half, inverse_of, level, scale_neighbour
from gguflow.kernels.policy import helper, kernel
from gguflow.kernels.types import F32s, F32x16, I32s, Mask16, U8s

f32 = np.float32

LARGEST_HALF = f32(65504)


@helper
def lies_on(
    x: F32s, size: int, d: F32x16, tolerance: f32, gap: f32, active: Mask16, grid: Grid
) -> tuple[Mask16, F32x16]:
    """Whether all weights are within tolerance * |weight| of d times a level, and how probable that is for
    any weights: the product of the shares of the line that are as near. gap: between levels, on average.
    """
    inverse = inverse_of(d)
    chance = splat(f32(1))
    for i in range(size):
        v = load(x, 16 * i)
        scaled = v * inverse
        active = active & (vabs(v - d * level(scaled, grid)) <= tolerance * vabs(v))
        share = f32(2) * tolerance / gap * vabs(scaled)
        share = where((share > f32(0)) & (share < f32(1)), share, f32(1))
        chance = chance * share
        if i % 4 == 3 and mask_bits(active) == 0:
            break
    return active, chance


@helper
def refined(x: F32s, size: int, d: F32x16, grid: Grid) -> F32x16:
    """The least-squares scale for the levels that d gives."""
    inverse = inverse_of(d)
    qx_sum = qq_sum = splat(f32(0))
    for i in range(size):
        v = load(x, 16 * i)
        q = level(v * inverse, grid)
        qx_sum = qx_sum + q * v
        qq_sum = qq_sum + q * q
    return where(qq_sum > f32(0), qx_sum / qq_sum, d)


@helper
def signed_peak(x: F32s, size: int) -> F32x16:
    """The first weight of the largest magnitude."""
    peak = splat(f32(0))
    for i in range(size):
        v = load(x, 16 * i)
        peak = where(vabs(v) > vabs(peak), v, peak)
    return peak


@kernel
def find(
    x: F32s,
    grid: Grid,
    levels: F32s,
    tolerance: f32,
    gap: f32,
    chance: f32,
    d: F32s,
    found: I32s,
    codes: U8s,
) -> None:
    """Look for each block's scale: its largest weight has one of the levels, tried in their order.

    x: float32[n * size], finite.
    levels: float32, not 0: what the largest weight may stand for.
    tolerance: relative, of a weight.
    gap: between levels, on average.
    chance: the largest probability with which any weights may pass.
    d: float32[batches * 16], written: the scale as it is stored.
    found: int32[batches * 16], written: 1 where there is one; a block of zeros has one.
    codes: uint8[batches * size * 16], written, in lanes, where found.
    """
    x = unowned(x)
    size = grid.size
    n_blocks = x.size // size
    natural = np.zeros(16 * size, f32)
    lanes = np.empty(16 * size, f32)
    zero = splat(f32(0))
    for first in range(0, n_blocks, 16):
        for k in range(16):
            for i in range(0, size, 16):
                v = load(x, (first + k) * size + i) if first + k < n_blocks else zero
                store(natural, k * size + i, v)
        for i in range(0, size, 16):
            transpose16(natural, i, size, lanes, i)
        peak = signed_peak(lanes, size)
        is_found = peak == zero
        exact = stored = zero
        for index in range(levels.size):
            trial = peak / levels[index]
            if grid.scale == HALF:
                rough, _ = lies_on(lanes, size, trial, f32(2) * tolerance, gap, ~is_found, grid)
                if mask_bits(rough) == 0:
                    continue
                trial = refined(lanes, size, trial, grid)
                rounded = half(trial)
                possible = rough & (vabs(rounded) > zero) & (vabs(rounded) <= LARGEST_HALF)
                on, probability = lies_on(lanes, size, trial, tolerance, gap, possible, grid)
                better = on & (probability <= chance)
                exact = where(better, trial, exact)
                stored = where(better, rounded, stored)
                is_found = is_found | better
            else:
                for move in range(2):
                    rounded = scale_neighbour(vabs(trial), move, grid)
                    on, probability = lies_on(lanes, size, rounded, tolerance, gap, ~is_found, grid)
                    better = on & (probability <= chance)
                    exact = where(better, rounded, exact)
                    stored = where(better, rounded, stored)
                    is_found = is_found | better
            if mask_bits(~is_found) == 0:
                break
        store(d, first, stored)
        store_i32(found, first, where(is_found, splat(1), splat(0)))
        inverse = inverse_of(exact)
        for i in range(size):
            store_u8(codes, first * size + 16 * i, code(load(lanes, 16 * i) * inverse, grid))
