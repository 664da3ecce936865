"""IQ2_XXS on lanes."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.bits import load_half
from gguflow.kernels.grids import decoded_points, even_signs, load_long_word, two_points, with_signs
from gguflow.kernels.policy import kernel
from gguflow.lanes import store

f32 = np.float32

SIZE = 256
TYPE_SIZE = 66


def dequantize_blocks(blocks: Any, out: Any) -> None:
    _decode(blocks, decoded_points("iq2_xxs"), out)


@kernel
def _decode(blocks: Any, table: Any, out: Any) -> None:
    for block in range(out.size // SIZE):
        start = block * TYPE_SIZE
        d = load_half(blocks, start)
        for b in range(8):
            part = start + 2 + 8 * b
            word = load_long_word(blocks, part + 4)
            scale = d * (f32(0.5) + f32(word >> 28)) * f32(0.25)
            for i in range(0, 4, 2):
                values = two_points(table, int(blocks[part + i]), int(blocks[part + i + 1]))
                signs = even_signs((word >> 7 * i) & 127, (word >> (7 * i + 7)) & 127)
                store(out, block * SIZE + 32 * b + 8 * i, with_signs(scale * values, signs))
