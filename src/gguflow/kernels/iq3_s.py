"""IQ3_S on lanes."""

from __future__ import annotations

import numpy as np

from gguflow.blocks.iq3_s import SEARCH
from gguflow.kernels.bits import load_half, store_half
from gguflow.kernels.finite import is_finite
from gguflow.kernels.grid_search import (
    CODES,
    SCALES,
    SIGNS,
    Search,
    Tables,
    V,
    fit_super_block,
    largest_of,
    new_work,
    pack_sub_scale,
    parameters,
    tables,
    take_unowned,
    weigh,
)
from gguflow.kernels.grids import decoded_points, four_points, load_word, with_signs
from gguflow.kernels.lanes import store_onward
from gguflow.kernels.policy import kernel
from gguflow.kernels.types import F32s, I32s, U8s

f32 = np.float32

SIZE = 256
TYPE_SIZE = 110


def quantize_blocks(x: F32s, out: U8s) -> int:
    return _encode(x, x, False, parameters(SEARCH), tables("iq3_s"), *new_work(), out)


def quantize_blocks_weighted(x: F32s, importance: F32s, out: U8s) -> int:
    return _encode(x, importance, True, parameters(SEARCH), tables("iq3_s"), *new_work(), out)


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
        weigh(x, first, importance, weighted, f32(0), work)
        largest = fit_super_block(x, first, 4, 3, search, table, work, codes)
        _store(work, codes, table.point, largest, out, block * TYPE_SIZE)
    return x.size


@kernel
def _store(work: F32s, codes: I32s, index: I32s, largest: f32, out: U8s, start: int) -> None:
    d = largest / f32(31)
    inverse = f32(1) / d
    store_half(out, start, d * f32(1.033))
    out[start + 2 : start + 106] = 0
    place = 0  # a sub-block of zeros takes none; see blocks/iq3_s.py
    for b in range(8):
        if largest_of(work, V + 32 * b, 32) == f32(0):
            continue
        for i in range(8):
            point = index[codes[CODES + 8 * b + i]]
            out[start + 2 + 8 * place + i] = np.uint8(point & 255)
            out[start + 66 + b] |= np.uint8((point >> 8) << i)
        for k in range(4):
            out[start + 74 + 4 * place + k] = np.uint8(codes[SIGNS + 4 * b + k])
        place += 1
    for b in range(0, 8, 2):
        low = pack_sub_scale(work[SCALES + b], inverse, 15) if largest > f32(0) else 0
        high = pack_sub_scale(work[SCALES + b + 1], inverse, 15) if largest > f32(0) else 0
        out[start + 106 + b // 2] = np.uint8(low | (high << 4))


def dequantize_blocks(blocks: U8s, out: F32s) -> None:
    _decode(blocks, decoded_points("iq3_s"), out)


@kernel
def _decode(blocks: U8s, table: U8s, out: F32s) -> None:
    for block in range(out.size // SIZE):
        start = block * TYPE_SIZE
        d = load_half(blocks, start)
        for b in range(8):
            sub_scale = (int(blocks[start + 106 + b // 2]) >> 4 * (b % 2)) & 15
            scale = d * f32(1 + 2 * sub_scale)
            ninth = int(blocks[start + 66 + b]) << 8
            for i in range(0, 8, 4):
                q = start + 2 + 8 * b + i
                values = four_points(
                    table,
                    int(blocks[q]) | ((ninth >> i) & 256),
                    int(blocks[q + 1]) | ((ninth >> (i + 1)) & 256),
                    int(blocks[q + 2]) | ((ninth >> (i + 2)) & 256),
                    int(blocks[q + 3]) | ((ninth >> (i + 3)) & 256),
                )
                signs = load_word(blocks, start + 74 + 4 * b + i // 2)
                store_onward(out, block * SIZE + 32 * b + 4 * i, with_signs(scale * values, signs))
