"""MXFP4: 4-bit floats (E2M1), one power of two (E8M0) for 32 weights.

    byte   0    | 1 ............... 16
    field  e    | qs[16]
           E8M0 | weight j low half, weight j + 16 high half

weight i = 2**(e - 128) * value(q), value one of 0, 1, 2, 3, 4, 6, 8, 12 and their negatives. 4.25 bits per
weight.
Source of the layout: `block_mxfp4` in ggml's ggml-common.h; see spec/blocks/microscaling.md.
"""

from __future__ import annotations

import numpy as np
from construct import Array, Int8ul, Struct

from gguflow.blocks import fp4
from gguflow.blocks.base import BlockFormat, Fields, Floats, ReservedCode
from gguflow.blocks.nibbles import pack_nibbles, unpack_nibbles

f32 = np.float32

DTYPE = np.dtype([("e", "u1"), ("qs", "u1", 16)])
GRAMMAR = Struct("e" / Int8ul, "qs" / Array(16, Int8ul))


def floor_log2(v: np.float32) -> int:
    """floor(log2f(v)) for a correctly rounded log2f: the logarithm in binary64, rounded to binary32."""
    return int(np.floor(f32(np.log2(np.float64(v)))))


def half_step(e: int) -> np.float32:
    """2**(e - 128), as the values are doubled."""
    return f32(np.ldexp(1.0, e - 128))


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    """The largest magnitude gets the top binade of E2M1. For magnitudes below 2**-125 the exponent wraps to a
    large one and every code is 0.
    """
    peak = np.max(np.abs(x))
    e = (floor_log2(peak) - 2 + 127) & 255 if peak > 0 else 0
    with np.errstate(over="ignore"):
        return {"e": e, "qs": pack_nibbles([fp4.nearest_code(v, half_step(e)) for v in x])}


def decode_block(fields: Fields) -> Floats:
    return fp4.decode(unpack_nibbles(fields["qs"]), half_step(fields["e"]))


FORMAT = BlockFormat(
    name="MXFP4",
    id=39,
    block_size=32,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = 2**(e - 128) * value(q)",
    summary="E2M1 floats, one E8M0 scale per 32 weights",
    snr=18.79,
    encode_block=encode_block,
    decode_block=decode_block,
    reserved=(ReservedCode(0, 1, 0xFF, "e"),),  # the NaN of E8M0
)
