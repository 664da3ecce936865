"""Formats that hold weights, their rows through the scalar reference, and where packed bytes differ."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gguflow.blocks import FORMATS, BlockFormat

WEIGHT_FORMATS = {
    name: f
    for name, f in FORMATS.items()
    if f.number_type is None or f.number_type.name in ("float32", "float16")
}


def reference_encode(
    block_format: BlockFormat, x: NDArray[np.float32], importance: NDArray[np.float32] | None
) -> NDArray[np.uint8]:
    """A row through the scalar reference and the grammar, block by block."""
    size = block_format.block_size
    packed = b""
    with np.errstate(all="ignore"):
        for i in range(0, len(x), size):
            weights = None if importance is None else importance[i : i + size]
            packed += block_format.grammar.build(block_format.encode_block(x[i : i + size], weights))
    return np.frombuffer(packed, np.uint8)


def assert_same_bytes(ours: NDArray[np.uint8], theirs: NDArray[np.uint8], block_format: BlockFormat) -> None:
    """Equal, or fail with the number of bad blocks and the first of them, field by field."""
    ours, theirs = (a.reshape(-1, block_format.type_size) for a in (ours, theirs))
    bad = np.flatnonzero((ours != theirs).any(axis=1))
    if bad.size:
        first = int(bad[0])
        a, b = (block_format.grammar.parse(bytes(blocks[first])) for blocks in (ours, theirs))
        fields = [f"{key}: {a[key]} != {b[key]}" for key in a if not key.startswith("_") and a[key] != b[key]]
        pytest.fail(f"{bad.size} of {len(ours)} blocks differ; the first is {first}: {'; '.join(fields)}")
