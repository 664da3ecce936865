"""IQ1_S on lanes."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.bits import load_half
from gguflow.kernels.grids import decoded_points, load_word, two_points
from gguflow.kernels.policy import kernel
from gguflow.lanes import store

f32 = np.float32

SIZE = 256
TYPE_SIZE = 50


def dequantize_blocks(blocks: Any, out: Any) -> None:
    _decode(blocks, decoded_points("iq1"), out)


@kernel
def _decode(blocks: Any, table: Any, out: Any) -> None:
    for block in range(out.size // SIZE):
        start = block * TYPE_SIZE
        d = load_half(blocks, start)
        for b in range(8):
            word = load_word(blocks, start + 34 + 2 * b)
            scale = d * f32(2 * ((word >> 12) & 7) + 1)
            shift = f32(-1.125) if word & 0x8000 else f32(-0.875)  # the table's levels are one above the grid's values
            for i in range(0, 4, 2):
                first = int(blocks[start + 2 + 4 * b + i]) | (((word >> 3 * i) & 7) << 8)
                second = int(blocks[start + 3 + 4 * b + i]) | (((word >> (3 * i + 3)) & 7) << 8)
                store(out, block * SIZE + 32 * b + 8 * i, scale * (two_points(table, first, second) + shift))
