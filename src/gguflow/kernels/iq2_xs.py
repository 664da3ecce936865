"""IQ2_XS on lanes."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.bits import load_half
from gguflow.kernels.grids import decoded_points, even_signs, load_word, two_points, with_signs
from gguflow.kernels.policy import kernel
from gguflow.lanes import store

f32 = np.float32

SIZE = 256
TYPE_SIZE = 74


def dequantize_blocks(blocks: Any, out: Any) -> None:
    _decode(blocks, decoded_points("iq2_xs"), out)


@kernel
def _decode(blocks: Any, table: Any, out: Any) -> None:
    for block in range(out.size // SIZE):
        start = block * TYPE_SIZE
        d = load_half(blocks, start)
        for b in range(16):
            sub_scale = (int(blocks[start + 66 + b // 2]) >> 4 * (b % 2)) & 15
            scale = d * (f32(0.5) + f32(sub_scale)) * f32(0.25)
            first = load_word(blocks, start + 2 + 4 * b)
            second = load_word(blocks, start + 4 + 4 * b)
            values = two_points(table, first & 511, second & 511)
            store(out, block * SIZE + 16 * b, with_signs(scale * values, even_signs(first >> 9, second >> 9)))
