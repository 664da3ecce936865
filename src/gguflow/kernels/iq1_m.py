"""IQ1_M on lanes."""

from __future__ import annotations

import numpy as np

from gguflow.kernels.bits import float_to_half_scalar, half_to_float_scalar
from gguflow.kernels.finite import is_finite
from gguflow.kernels.grid_search import (
    CODES,
    SCALES,
    Tables,
    W,
    pack_sub_scale,
    tables,
    take_unowned,
    weigh,
)
from gguflow.kernels.grids import decoded_points, load_word, store_word, two_points
from gguflow.kernels.iq1_search import SHIFTS, base_value, fit_super_block, new_work
from gguflow.kernels.lanes import lane_numbers, splat, store_onward, where
from gguflow.kernels.policy import kernel
from gguflow.kernels.types import F32s, I32s, U8s

f32 = np.float32

SIZE = 256
TYPE_SIZE = 56
TINY = f32(1e-7)
FIRST_POINT = 0  # the code of point 0, which a sub-block of zeros keeps


def quantize_blocks(x: F32s, out: U8s) -> int:
    return _encode(x, x, False, tables("iq1"), *new_work(), out)


def quantize_blocks_weighted(x: F32s, importance: F32s, out: U8s) -> int:
    return _encode(x, importance, True, tables("iq1"), *new_work(), out)


@kernel
def _encode(
    x: F32s, importance: F32s, weighted: bool, table: Tables, work: F32s, codes: I32s, out: U8s
) -> int:
    x, importance, table, work, codes, out = take_unowned(x, importance, table, work, codes, out)
    neighbours = table.neighbours.view(np.uint8)
    for block in range(x.size // SIZE):
        first = block * SIZE
        if not is_finite(x, first, SIZE):
            return first
        weigh(x, first, importance, weighted, f32(0), work)
        largest = fit_super_block(x, first, 16, 2, TINY, table.starts, neighbours, work, codes)
        _store(x, first, work, codes, table.point, largest, out, block * TYPE_SIZE)
    return x.size


@kernel
def _store(
    x: F32s, first: int, work: F32s, codes: I32s, index: I32s, largest: f32, out: U8s, start: int
) -> None:
    """The codes and shifts; then the sub-scales under a scale that is fitted to all weights again."""
    alive = largest > f32(0)
    d = largest / f32(15)
    inverse = f32(1) / d
    sum_qx = f32(0)
    sum_q2 = f32(0)
    words = np.uint64(0)  # four of 16 bits
    for b in range(16):
        shifts = codes[SHIFTS + b] if alive else 0
        sub_scale = pack_sub_scale(work[SCALES + b], inverse, 7) if alive else 0
        words |= np.uint64(sub_scale) << np.uint64(16 * (b // 4) + 3 * (b % 4))
        high = ((shifts & 1) << 3) | ((shifts & 2) << 6)
        for g in range(2):
            code = codes[CODES + 2 * b + g]
            code = code if code >= 0 else FIRST_POINT
            point = index[code]
            out[start + 2 * b + g] = np.uint8(point & 255)
            high |= (point >> 8) << (4 * g)
            base = base_value(shifts, g)
            for i in range(8):
                at = 16 * b + 8 * g + i
                q = (f32((code >> (2 * i)) & 3) + base) * f32(2 * sub_scale + 1)
                sum_qx += work[W + at] * q * x[first + at]
                sum_q2 += work[W + at] * q * q
        out[start + 32 + b] = np.uint8(high)
    if sum_q2 > f32(0):
        d = sum_qx / sum_q2
    scale = float_to_half_scalar(d * f32(1.1125)) if alive else 0
    for n in range(4):
        word = int((words >> np.uint64(16 * n)) & np.uint64(0xFFFF)) | (((scale >> (4 * n)) & 15) << 12)
        store_word(out, start + 48 + 2 * n, word)


def dequantize_blocks(blocks: U8s, out: F32s) -> None:
    _decode(blocks, decoded_points("iq1"), out)


@kernel
def _decode(blocks: U8s, table: U8s, out: F32s) -> None:
    in_second = lane_numbers() >= 8
    for block in range(out.size // SIZE):
        start = block * TYPE_SIZE
        bits = 0
        for n in range(4):
            bits |= (load_word(blocks, start + 48 + 2 * n) >> 12) << (4 * n)
        d = half_to_float_scalar(bits)
        for b in range(16):
            sub_scale = (load_word(blocks, start + 48 + 2 * (b // 4)) >> 3 * (b % 4)) & 7
            scale = d * f32(2 * sub_scale + 1)
            high = int(blocks[start + 32 + b])
            first = int(blocks[start + 2 * b]) | ((high & 0x07) << 8)
            second = int(blocks[start + 2 * b + 1]) | ((high & 0x70) << 4)
            # the table's levels are one above the grid's values
            shift_first = f32(-1.125) if high & 0x08 else f32(-0.875)
            shift_second = f32(-1.125) if high & 0x80 else f32(-0.875)
            shift = where(in_second, splat(shift_second), splat(shift_first))
            store_onward(out, block * SIZE + 16 * b, scale * (two_points(table, first, second) + shift))
