"""IQ2_S on lanes."""

from __future__ import annotations

import numpy as np

from gguflow.blocks.iq2_s import SEARCH
from gguflow.kernels.bits import load_half, store_half
from gguflow.kernels.finite import is_finite
from gguflow.kernels.grid_search import (
    CODES,
    SCALES,
    SIGNS,
    Search,
    Tables,
    fit_super_block,
    new_work,
    pack_sub_scale,
    parameters,
    tables,
    take_unowned,
    weigh,
)
from gguflow.kernels.grids import decoded_points, load_word, two_points, with_signs
from gguflow.kernels.lanes import store_onward
from gguflow.kernels.policy import kernel
from gguflow.kernels.types import F32s, I32s, U8s

f32 = np.float32

SIZE = 256
TYPE_SIZE = 82


def quantize_blocks(x: F32s, out: U8s) -> int:
    return _encode(x, x, False, parameters(SEARCH), tables("iq2_s"), *new_work(), out)


def quantize_blocks_weighted(x: F32s, importance: F32s, out: U8s) -> int:
    return _encode(x, importance, True, parameters(SEARCH), tables("iq2_s"), *new_work(), out)


@kernel
def _encode(
    x: F32s,
    importance: F32s,
    weighted: bool,
    search: Search,
    table: Tables,
    work: F32s,
    codes: I32s,
    out: U8s,
) -> int:
    x, importance, table, work, codes, out = take_unowned(x, importance, table, work, codes, out)
    for block in range(x.size // SIZE):
        first = block * SIZE
        if not is_finite(x, first, SIZE):
            return first
        weigh(x, first, importance, weighted, f32(0.25), work)
        largest = fit_super_block(x, first, 8, 2, search, table, work, codes)
        _store(work, codes, table.point, largest, out, block * TYPE_SIZE)
    return x.size


@kernel
def _store(work: F32s, codes: I32s, index: I32s, largest: f32, out: U8s, start: int) -> None:
    d = largest / f32(31)
    inverse = f32(1) / d
    store_half(out, start, d * f32(0.9875))
    for k in range(8):
        high = 0
        for i in range(4):
            point = index[codes[CODES + 4 * k + i]]
            out[start + 2 + 4 * k + i] = np.uint8(point & 255)
            out[start + 34 + 4 * k + i] = np.uint8(codes[SIGNS + 4 * k + i])
            high |= (point >> 8) << (2 * i)
        out[start + 66 + k] = np.uint8(high)
    for b in range(0, 16, 2):
        low = pack_sub_scale(work[SCALES + b], inverse, 15) if largest > f32(0) else 0
        high = pack_sub_scale(work[SCALES + b + 1], inverse, 15) if largest > f32(0) else 0
        out[start + 74 + b // 2] = np.uint8(low | (high << 4))


def dequantize_blocks(blocks: U8s, out: F32s) -> None:
    _decode(blocks, decoded_points("iq2_s"), out)


@kernel
def _decode(blocks: U8s, table: U8s, out: F32s) -> None:
    for block in range(out.size // SIZE):
        start = block * TYPE_SIZE
        d = load_half(blocks, start)
        for b in range(16):
            sub_scale = (int(blocks[start + 74 + b // 2]) >> 4 * (b % 2)) & 15
            scale = d * (f32(0.5) + f32(sub_scale)) * f32(0.25)
            high = int(blocks[start + 66 + b // 2]) >> 4 * (b % 2)
            first = int(blocks[start + 2 + 2 * b]) | ((high & 3) << 8)
            second = int(blocks[start + 3 + 2 * b]) | ((high & 12) << 6)
            signs = load_word(blocks, start + 34 + 2 * b)
            values = two_points(table, first, second)
            store_onward(out, block * SIZE + 16 * b, with_signs(scale * values, signs))
