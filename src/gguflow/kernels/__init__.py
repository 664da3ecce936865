"""Numba kernels, one sibling for each file in `gguflow.blocks`, imported at first use: nothing outside this package imports Numba.

What the module of a format holds, all arrays C-contiguous and one-dimensional (n blocks; inputs may be read-only):

    quantize_blocks(x float32[n * block_size], out uint8[n * type_size])
    quantize_blocks_weighted(x, importance float32[m * block_size], out)    where the format takes importance: block i uses entry i % m
    dequantize_blocks(blocks uint8[n * type_size], out float32[n * block_size])

The kernels trust their sizes and that x is finite: `gguflow.quantization` proves both.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from gguflow.blocks import BlockFormat


def load(block_format: BlockFormat) -> ModuleType:
    """The kernels of a format. The first call imports Numba (a quarter of a second); compiling waits for the first run."""
    return importlib.import_module(f"{__name__}.{block_format.key}")
