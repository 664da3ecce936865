"""IQ3_XXS on lanes."""

from __future__ import annotations

import numpy as np

from gguflow.blocks.iq3_xxs import SEARCH
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
from gguflow.kernels.grids import (
    decoded_points,
    even_signs,
    four_points,
    load_long_word,
    store_long_word,
    with_signs,
)
from gguflow.kernels.lanes import store_onward
from gguflow.kernels.policy import kernel
from gguflow.kernels.types import F32s, I32s, U8s

f32 = np.float32

SIZE = 256
TYPE_SIZE = 98


def quantize_blocks(x: F32s, out: U8s) -> int:
    return _encode(x, x, False, parameters(SEARCH), tables("iq3_xxs"), *new_work(), out)


def quantize_blocks_weighted(x: F32s, importance: F32s, out: U8s) -> int:
    return _encode(x, importance, True, parameters(SEARCH), tables("iq3_xxs"), *new_work(), out)


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
    if largest == f32(0):
        out[start : start + TYPE_SIZE] = 0
        return
    d = largest / f32(31)
    inverse = f32(1) / d
    store_half(out, start, d * f32(1.0125))
    for i in range(64):
        out[start + 2 + i] = np.uint8(index[codes[CODES + i]])
    for b in range(8):
        word = pack_sub_scale(work[SCALES + b], inverse, 15) << 28
        for i in range(4):
            word |= int(codes[SIGNS + 4 * b + i]) << (7 * i)
        store_long_word(out, start + 66 + 4 * b, word)


def dequantize_blocks(blocks: U8s, out: F32s) -> None:
    _decode(blocks, decoded_points("iq3_xxs"), out)


@kernel
def _decode(blocks: U8s, table: U8s, out: F32s) -> None:
    for block in range(out.size // SIZE):
        start = block * TYPE_SIZE
        d = load_half(blocks, start)
        for b in range(8):
            word = load_long_word(blocks, start + 66 + 4 * b)
            scale = d * (f32(0.5) + f32(word >> 28)) * f32(0.5)
            for i in range(0, 4, 2):
                q = start + 2 + 8 * b + 2 * i
                values = four_points(
                    table, int(blocks[q]), int(blocks[q + 1]), int(blocks[q + 2]), int(blocks[q + 3])
                )
                signs = even_signs((word >> 7 * i) & 127, (word >> (7 * i + 7)) & 127)
                store_onward(out, block * SIZE + 32 * b + 8 * i, with_signs(scale * values, signs))
