"""Numba kernels, one sibling for each file in `gguflow.blocks`, imported at first use: nothing outside this
package imports Numba.

What the module of a format holds:

    quantize_blocks(x, out) -> done
    quantize_blocks_weighted(x, importance, out) -> done    where the format takes importance
    dequantize_blocks(blocks, out)

All arrays are C-contiguous and one-dimensional; inputs may be read-only. Of n blocks:

x: float32[n * block_size], the weights to encode.
importance: float32[m * block_size]; block i uses entry i % m.
blocks: uint8[n * type_size], the blocks to decode.
out: uint8[n * type_size] or float32[n * block_size], written.
done: how many weights are encoded: all, or those before a batch that holds NaN or infinity; no search ever
    sees one. F32, F16 and BF16 do not look, and return nothing. Where a module says WATCHES_SCALES,
    `quantize_blocks` returns -1 (scale_words.LOOK) if all are encoded and a scale is zero, infinite or NaN.

The kernels trust their sizes: `gguflow.quantization` proves them.

`matmul/` multiplies packed rows with vectors without decoding them to memory; its contract is in its own
`__init__.py`.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from gguflow.blocks import BlockFormat


def load(block_format: BlockFormat) -> ModuleType:
    """The kernels of a format. The first call imports Numba (a quarter of a second); compiling waits for the
    first run.
    """
    return importlib.import_module(f"{__name__}.{block_format.key}")
