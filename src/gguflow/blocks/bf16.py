"""BF16: the upper 16 bits of a binary32, little-endian, one number a block. Encoding rounds to nearest even;
a NaN becomes quiet.
"""

from __future__ import annotations

import numpy as np
from construct import Int16ul, Struct

from gguflow.blocks.base import BlockFormat, Fields, Floats, ReservedCode

DTYPE = np.dtype([("value", "<u2")])
GRAMMAR = Struct("value" / Int16ul)


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    bits = int(np.float32(x[0]).view(np.uint32))
    if bits & 0x7FFFFFFF > 0x7F800000:
        return {"value": bits >> 16 | 64}
    return {"value": (bits + 0x7FFF + (bits >> 16 & 1)) >> 16}


def decode_block(fields: Fields) -> Floats:
    return np.array([fields["value"] << 16], np.uint32).view(np.float32)


FORMAT = BlockFormat(
    name="BF16",
    id=30,
    block_size=1,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = value",
    summary="bfloat16",
    snr=55.59,
    encode_block=encode_block,
    decode_block=decode_block,
    reserved=(ReservedCode(0, 2, 0x7F80, "value"),),
)
