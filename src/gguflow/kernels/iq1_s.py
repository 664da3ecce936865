"""IQ1_S on lanes."""

from __future__ import annotations

import numpy as np

from gguflow.kernels.bits import load_half, store_half
from gguflow.kernels.finite import is_finite
from gguflow.kernels.grid_search import (
    CODES,
    SCALES,
    Tables,
    mean_square,
    pack_sub_scale,
    tables,
    take_unowned,
    weigh_by_importance,
)
from gguflow.kernels.grids import decoded_points, load_word, store_word, two_points
from gguflow.kernels.iq1_search import SHIFTS, fit_super_block, new_work
from gguflow.kernels.lanes import store_onward
from gguflow.kernels.policy import kernel
from gguflow.kernels.types import F32s, I32s, U8s

f32 = np.float32

SIZE = 256
TYPE_SIZE = 50
TINY = f32(1e-12)


def quantize_blocks_weighted(x: F32s, importance: F32s, out: U8s) -> int:
    return _encode(x, importance, tables("iq1"), *new_work(), out)


@kernel
def _encode(x: F32s, importance: F32s, table: Tables, work: F32s, codes: I32s, out: U8s) -> int:
    x, importance, table, work, codes, out = take_unowned(x, importance, table, work, codes, out)
    neighbours = table.neighbours.view(np.uint8)
    for block in range(x.size // SIZE):
        first = block * SIZE
        if not is_finite(x, first, SIZE):
            return first
        weigh_by_importance(x, first, importance, f32(2) * mean_square(x, first), work)
        largest = fit_super_block(x, first, 32, 1, TINY, table.starts, neighbours, work, codes)
        _store(work, codes, table.point, largest, out, block * TYPE_SIZE)
    return x.size


@kernel
def _store(work: F32s, codes: I32s, index: I32s, largest: f32, out: U8s, start: int) -> None:
    d = largest / f32(15)
    inverse = f32(1) / d
    store_half(out, start, d * f32(1.125))
    for b in range(8):
        word = 0
        for i in range(4):
            code = codes[CODES + 4 * b + i]
            point = index[code] if code >= 0 else 0
            out[start + 2 + 4 * b + i] = np.uint8(point & 255)
            word |= (point >> 8) << (3 * i)
        if largest > f32(0):
            word |= (pack_sub_scale(work[SCALES + b], inverse, 7) << 12) | (codes[SHIFTS + b] << 15)
        store_word(out, start + 34 + 2 * b, word)


def dequantize_blocks(blocks: U8s, out: F32s) -> None:
    _decode(blocks, decoded_points("iq1"), out)


@kernel
def _decode(blocks: U8s, table: U8s, out: F32s) -> None:
    for block in range(out.size // SIZE):
        start = block * TYPE_SIZE
        d = load_half(blocks, start)
        for b in range(8):
            word = load_word(blocks, start + 34 + 2 * b)
            scale = d * f32(2 * ((word >> 12) & 7) + 1)
            # the table's levels are one above the grid's values
            shift = f32(-1.125) if word & 0x8000 else f32(-0.875)
            for i in range(0, 4, 2):
                first = int(blocks[start + 2 + 4 * b + i]) | (((word >> 3 * i) & 7) << 8)
                second = int(blocks[start + 3 + 4 * b + i]) | (((word >> (3 * i + 3)) & 7) << 8)
                values = two_points(table, first, second)
                store_onward(out, block * SIZE + 32 * b + 8 * i, scale * (values + shift))
