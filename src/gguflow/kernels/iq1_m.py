"""IQ1_M on lanes."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.bits import half_to_float_scalar
from gguflow.kernels.grids import decoded_points, load_word, two_points
from gguflow.kernels.policy import kernel
from gguflow.lanes import lane_numbers, splat, store, where

f32 = np.float32

SIZE = 256
TYPE_SIZE = 56


def dequantize_blocks(blocks: Any, out: Any) -> None:
    _decode(blocks, decoded_points("iq1"), out)


@kernel
def _decode(blocks: Any, table: Any, out: Any) -> None:
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
            shift_first = f32(-1.125) if high & 0x08 else f32(-0.875)  # the table's levels are one above the grid's values
            shift_second = f32(-1.125) if high & 0x80 else f32(-0.875)
            shift = where(in_second, splat(shift_second), splat(shift_first))
            store(out, block * SIZE + 16 * b, scale * (two_points(table, first, second) + shift))
