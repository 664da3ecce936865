"""Q5_1 on lanes: a scale and a minimum, codes of five bits; see legacy.py and, with importance,
legacy_search.py.
"""

from __future__ import annotations

from typing import Any

from gguflow.kernels import legacy, legacy_search
from gguflow.kernels.policy import kernel


@kernel
def quantize_blocks(x: Any, out: Any) -> Any:
    return legacy.quantize_affine(x, out, 5)


@kernel
def quantize_blocks_weighted(x: Any, importance: Any, out: Any) -> Any:
    return legacy_search.quantize_affine(x, importance, out, 5)


@kernel
def dequantize_blocks(blocks: Any, out: Any) -> None:
    legacy.dequantize_affine(blocks, out, 5)
