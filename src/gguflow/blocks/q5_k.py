"""Q5_K: 5-bit codes in eight sub-blocks of 32: Q4_K with a fifth bit.

    byte   0  1 | 2  3 | 4 ....... 15 | 16 ..... 47 | 48 .... 175
    field  d    | dmin | scales[12]   | qh[32]      | qs[128]
           f16  | f16  | as in Q4_K   | fifth bits  | low nibbles, as in Q4_K

    qh      byte i       bit j is the fifth bit of code i of sub-block j

weight i of sub-block j = d * sj * code - dmin * mj. 5.5 bits per weight. Source of the layout: `block_q5_K`
in ggml's ggml-common.h; see spec/blocks/k-quants.md.
"""

from __future__ import annotations

import numpy as np
from construct import Array, Int8ul, Int16ul, Struct

from gguflow.blocks.base import BlockFormat, Fields, Floats
from gguflow.blocks.fits import Ladder
from gguflow.blocks.q4_k import BLOCK_SIZE, N_SUB_BLOCKS, fit_block, pack_nibbles, sub_steps, unpack_nibbles

f32 = np.float32

DTYPE = np.dtype([("d", "<u2"), ("dmin", "<u2"), ("scales", "u1", 12), ("qh", "u1", 32), ("qs", "u1", 128)])
GRAMMAR = Struct(
    "d" / Int16ul,
    "dmin" / Int16ul,
    "scales" / Array(12, Int8ul),
    "qh" / Array(32, Int8ul),
    "qs" / Array(128, Int8ul),
)

_BITS = np.arange(N_SUB_BLOCKS).reshape(N_SUB_BLOCKS, 1)  # sub-block j has bit j of qh


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    """ggml's search: 17 trials per sub-block without importance, 38 with."""
    fit = fit_block(x, importance, 31, Ladder(-0.5, 0.1, 15), widest=63)
    qh = np.sum(fit.codes >> 4 << _BITS, axis=0)
    return {
        "d": fit.d,
        "dmin": fit.dmin,
        "scales": fit.scales,
        "qh": qh.tolist(),
        "qs": pack_nibbles(fit.codes & 15),
    }


def decode_block(fields: Fields) -> Floats:
    codes = unpack_nibbles(fields["qs"]) | (np.array(fields["qh"]) >> _BITS & 1) << 4
    subs = zip(codes.astype(f32), sub_steps(fields), strict=True)
    return np.concatenate([step * sub - offset for sub, (step, offset) in subs])


FORMAT = BlockFormat(
    name="Q5_K",
    id=13,
    block_size=BLOCK_SIZE,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = d * scale * q - dmin * min",
    summary="5-bit codes, eight sub-blocks of 32 with 6-bit scale and min",
    snr=28.83,
    encode_block=encode_block,
    decode_block=decode_block,
    importance="optional",
)
