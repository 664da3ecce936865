"""Sums of products of packed rows and a vector, one sibling for each format that has a path of its own.

What the module of a format holds, all arrays C-contiguous and one-dimensional (inputs may be read-only):

    dot_rows(blocks uint8[rows * row_bytes], x float32[n], out float32[rows])

The weights are decoded in registers, to exactly what `dequantize_blocks` gives, and summed in one order that all formats share (see sums.py): so the
result is that of decoding and then `f32.dot_rows`, to the bit, NaN and infinity too. Formats without a module are computed that way.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from gguflow.blocks import BlockFormat

FORMATS = frozenset({"f32", "q4_k"})
"""The keys of the formats that have a module here."""


def load(block_format: BlockFormat) -> ModuleType:
    """The products of a format of FORMATS. The first call imports Numba; compiling waits for the first run."""
    return importlib.import_module(f"{__name__}.{block_format.key}")
