"""Q5_1 on lanes: a scale and a minimum, codes of five bits; see legacy.py and, with importance,
legacy_search.py.
"""

from __future__ import annotations

from gguflow.kernels import legacy, legacy_search
from gguflow.kernels.policy import kernel
from gguflow.kernels.types import F32s, U8s

WATCHES_SCALES = True


@kernel
def quantize_blocks(x: F32s, out: U8s) -> int:
    return legacy.quantize_affine(x, out, 5)


@kernel
def quantize_blocks_weighted(x: F32s, importance: F32s, out: U8s) -> int:
    return legacy_search.quantize_affine(x, importance, out, 5)


@kernel
def dequantize_blocks(blocks: U8s, out: F32s) -> None:
    legacy.dequantize_affine(blocks, out, 5)
