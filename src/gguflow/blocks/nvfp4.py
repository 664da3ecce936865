"""NVFP4: 4-bit floats (E2M1), an unsigned 8-bit float (E4M3) for each of four sub-blocks of 16 weights.

    byte   0 ... 3      | 4 .............................. 35
    field  d[4]         | qs[32]
           E4M3, bit 7  | byte 8 s + j: weight 16 s + j low half,
           ignored      | weight 16 s + j + 8 high half

weight i of sub-block s = scale(d[s]) / 2 * value(q), value one of 0, 1, 2, 3, 4, 6, 8, 12 and their
negatives. 4.5 bits per weight. Models store a further float32 scale for the whole tensor beside it. Source of
the layout: `block_nvfp4` in ggml's ggml-common.h; see spec/blocks/microscaling.md.
"""

from __future__ import annotations

import numpy as np
from construct import Array, Int8ul, Struct

from gguflow.blocks import fp4
from gguflow.blocks.base import BlockFormat, Fields, Floats, ReservedCode

f32 = np.float32

DTYPE = np.dtype([("d", "u1", 4), ("qs", "u1", 32)])
GRAMMAR = Struct("d" / Array(4, Int8ul), "qs" / Array(32, Int8ul))


def to_ue4m3(v: np.float32) -> int:
    """v >= 0 to the nearest E4M3 (bias 7, 3 bits of fraction), ties away from zero. From 256 on always 448,
    the largest, as ggml does.
    """
    if v < 2.0**-6:
        return min(int(v * f32(512) + f32(0.5)), 7)
    # v = fraction * 2**exponent, 0.5 <= fraction < 1
    fraction, exponent = np.frexp(np.float64(min(v, f32(448))))
    code = (int(exponent) - 1 + 7) * 8 + int(fraction * 16 + 0.5) - 8
    return code if code < 0x78 else 0x7E


def half_of_ue4m3(code: int) -> np.float32:
    """Half the value of an E4M3 byte, as the E2M1 values are doubled. The pattern of E4M3's NaN, 0x7F, is
    zero.
    """
    exponent, fraction = code >> 3 & 15, code & 7
    if code == 0x7F:
        return f32(0)
    return f32(np.ldexp(fraction, -10) if exponent == 0 else np.ldexp(8 + fraction, exponent - 7 - 4))


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    """Each sub-block's largest magnitude becomes 6, the largest E2M1."""
    scales, qs = [], []
    for s in range(4):
        sub_block = x[16 * s : 16 * s + 16]
        scales.append(to_ue4m3(np.max(np.abs(sub_block)) / f32(6)))
        codes = [fp4.nearest_code(v, half_of_ue4m3(scales[-1])) for v in sub_block]
        qs += [codes[j] | codes[j + 8] << 4 for j in range(8)]
    return {"d": scales, "qs": qs}


def decode_block(fields: Fields) -> Floats:
    sub_blocks = []
    for s in range(4):
        qs = fields["qs"][8 * s : 8 * s + 8]
        sub_blocks.append(
            fp4.decode([byte & 15 for byte in qs] + [byte >> 4 for byte in qs], half_of_ue4m3(fields["d"][s]))
        )
    return np.concatenate(sub_blocks)


FORMAT = BlockFormat(
    name="NVFP4",
    id=40,
    block_size=64,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = scale(d) / 2 * value(q)",
    summary="E2M1 floats, one unsigned E4M3 scale per 16 weights",
    snr=20.43,
    largest=448 * 6,
    encode_block=encode_block,
    decode_block=decode_block,
    reserved=tuple(
        ReservedCode(s, 1, 0x7F, f"d[{s}]", tolerated=True) for s in range(4)
    ),  # the NaN of E4M3, which ggml takes for 0
)
