"""Sums of products of packed rows and a vector, one sibling for each format that has a path of its own.

What the module of a format holds:

    dot_rows(blocks, x, out)
    dot_rows_int8(blocks, codes, scales, out)    with activations of eight bits: see int8.py

All arrays are C-contiguous and one-dimensional; inputs may be read-only.

blocks: uint8[rows * row_bytes], the packed rows of n weights each.
x: float32[n], the vector.
codes: uint8[n + 32], the vector in eight bits.
scales: float32[n / 32 + 32], or n / 256 + 32 for super-blocks, the scales of those codes.
out: float32[rows], written.

In `dot_rows` the weights are decoded in registers, to exactly what `dequantize_blocks` gives, and summed in
one order that all formats share (see sums.py): so the result is that of decoding and then `f32.dot_rows`, to
the bit, NaN and infinity too. Formats without a module, and more than a few vectors, take decoded rows:
tile.py.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from types import ModuleType


@functools.cache
def find(key: str) -> ModuleType | None:
    """The products of the format of this key, or None where it has none of its own. Compiling waits for the
    first run.
    """
    name = f"{__name__}.{key}"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None
