"""IQ3_S on lanes."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguflow.kernels.bits import load_half
from gguflow.kernels.grids import decoded_points, four_points, load_word, with_signs
from gguflow.kernels.policy import kernel
from gguflow.lanes import store

f32 = np.float32

SIZE = 256
TYPE_SIZE = 110


def dequantize_blocks(blocks: Any, out: Any) -> None:
    _decode(blocks, decoded_points("iq3_s"), out)


@kernel
def _decode(blocks: Any, table: Any, out: Any) -> None:
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
                store(out, block * SIZE + 32 * b + 4 * i, with_signs(scale * values, signs))
