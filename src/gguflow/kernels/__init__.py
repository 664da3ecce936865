"""Numba kernels, one sibling for each file in `gguflow.blocks`, imported at first use: nothing outside this
package imports Numba.

What the module of a format holds, all arrays C-contiguous and one-dimensional (n blocks; inputs may be
read-only):

    quantize_blocks(x float32[n * block_size], out uint8[n * type_size]) -> done
    quantize_blocks_weighted(x, importance float32[m * block_size], out) -> done    where the format takes
    importance: block i uses entry i % m dequantize_blocks(blocks uint8[n * type_size], out float32[n *
    block_size])

done: how many weights are encoded: all, or those before a batch that holds NaN or infinity; no search ever
sees one. The number formats (a block of one weight) do not look, and return nothing. The kernels trust their
sizes: `gguflow.quantization` proves them.

`products/` multiplies packed rows with vectors without decoding them to memory; its contract is in its own
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
