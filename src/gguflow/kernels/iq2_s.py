"""IQ2_S on lanes."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.bits import load_half
from gguflow.kernels.grids import decoded_points, load_word, two_points, with_signs
from gguflow.kernels.policy import kernel
from gguflow.lanes import store

f32 = np.float32

SIZE = 256
TYPE_SIZE = 82


def dequantize_blocks(blocks: Any, out: Any) -> None:
    _decode(blocks, decoded_points("iq2_s"), out)


@kernel
def _decode(blocks: Any, table: Any, out: Any) -> None:
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
            store(out, block * SIZE + 16 * b, with_signs(scale * two_points(table, first, second), signs))
