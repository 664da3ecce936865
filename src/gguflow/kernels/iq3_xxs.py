"""IQ3_XXS on lanes."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.bits import load_half
from gguflow.kernels.grids import decoded_points, even_signs, four_points, load_long_word, with_signs
from gguflow.kernels.policy import kernel
from gguflow.lanes import store

f32 = np.float32

SIZE = 256
TYPE_SIZE = 98


def dequantize_blocks(blocks: Any, out: Any) -> None:
    _decode(blocks, decoded_points("iq3_xxs"), out)


@kernel
def _decode(blocks: Any, table: Any, out: Any) -> None:
    for block in range(out.size // SIZE):
        start = block * TYPE_SIZE
        d = load_half(blocks, start)
        for b in range(8):
            word = load_long_word(blocks, start + 66 + 4 * b)
            scale = d * (f32(0.5) + f32(word >> 28)) * f32(0.5)
            for i in range(0, 4, 2):
                q = start + 2 + 8 * b + 2 * i
                values = four_points(table, int(blocks[q]), int(blocks[q + 1]), int(blocks[q + 2]), int(blocks[q + 3]))
                signs = even_signs((word >> 7 * i) & 127, (word >> (7 * i + 7)) & 127)
                store(out, block * SIZE + 32 * b + 8 * i, with_signs(scale * values, signs))
