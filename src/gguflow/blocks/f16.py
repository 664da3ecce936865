"""F16: IEEE 754 binary16, little-endian, one number a block. Encoding rounds to nearest even; beyond 65,504
it gives infinity.
"""

from __future__ import annotations

import numpy as np
from construct import Int16ul, Struct

from gguflow.blocks.base import HALF_EXPONENT, BlockFormat, Fields, Floats, ReservedCode
from gguflow.blocks.bits import half_bits, half_value

DTYPE = np.dtype([("value", "<u2")])
GRAMMAR = Struct("value" / Int16ul)


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    return {"value": half_bits(x[0])}


def decode_block(fields: Fields) -> Floats:
    return np.array([half_value(fields["value"])], np.float32)


FORMAT = BlockFormat(
    name="F16",
    id=1,
    block_size=1,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = value",
    summary="binary16",
    snr=73.67,
    encode_block=encode_block,
    decode_block=decode_block,
    number_type=np.dtype("<f2"),
    reserved=(ReservedCode(0, 2, HALF_EXPONENT, "value"),),
)
