"""TQ1_0: ternary codes, five in a byte, one scale for 256 weights.

    byte   0 ............... 31 | 32 .............. 47 | 48 ............... 51 | 52 53
    field  qs[48]               |                      | qh[4]                 | d
           weight m + 32 n      | weight 160 + m + 16 n | weight 240 + m + 4 n  | f16
           n = 0 ... 4          | n = 0 ... 4          | n = 0 ... 3           |

The digits t[0] ... t[4] of a byte (0, 1, 2; a fifth digit of qh is 0) make the number N = 81 t[0] + 27 t[1] +
9 t[2] + 3 t[3] + t[4], and the byte is ceil(256 N / 243): a fraction in base 256, so that multiplying by 3
carries the digits out one by one.
weight i = d * (t - 1). 1.6875 bits per weight. Source of the layout: `block_tq1_0` in ggml's ggml-common.h;
see spec/blocks/ternary.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from construct import Array, Int8ul, Int16ul, Struct

from gguflow.blocks.base import BlockFormat, Fields, Floats
from gguflow.blocks.bits import half_bits, half_value
from gguflow.blocks.ternary import ternary_codes

f32 = np.float32

DTYPE = np.dtype([("qs", "u1", 48), ("qh", "u1", 4), ("d", "<u2")])
GRAMMAR = Struct("qs" / Array(48, Int8ul), "qh" / Array(4, Int8ul), "d" / Int16ul)

POWERS = (1, 3, 9, 27, 81)
DIGITS = [
    *([m + 32 * n for n in range(5)] for m in range(32)),
    *([160 + m + 16 * n for n in range(5)] for m in range(16)),
]
"""The weights whose digits the bytes of qs hold."""
LAST_DIGITS = [[240 + m + 4 * n for n in range(4)] for m in range(4)]
"""The weights whose digits the bytes of qh hold."""


def pack_digits(digits: Sequence[int]) -> int:
    """Up to five ternary digits, the first the most significant, as a byte."""
    number = sum(digit * POWERS[4 - n] for n, digit in enumerate(digits))
    return -(-256 * number // 243)


def unpack_digit(byte: int, n: int) -> int:
    """Digit n of a byte; of any byte, though an encoder writes only 243 of them."""
    return (byte * POWERS[n] & 255) * 3 >> 8


def encode_block(x: Floats, importance: Floats | None = None) -> Fields:
    """The largest magnitude is the scale; every weight is rounded to the nearest of -d, 0, d."""
    d, codes = ternary_codes(x)
    qs, qh = (
        [pack_digits([codes[i] for i in weights]) for weights in part] for part in (DIGITS, LAST_DIGITS)
    )
    return {"qs": qs, "qh": qh, "d": half_bits(d)}


def decode_block(fields: Fields) -> Floats:
    d = half_value(fields["d"])
    x = np.empty(256, f32)
    for part, packed in ((DIGITS, fields["qs"]), (LAST_DIGITS, fields["qh"])):
        for weights, byte in zip(part, packed, strict=True):
            for n, i in enumerate(weights):
                x[i] = f32(unpack_digit(byte, n) - 1) * d
    return x


FORMAT = BlockFormat(
    name="TQ1_0",
    id=34,
    block_size=256,
    dtype=DTYPE,
    grammar=GRAMMAR,
    formula="w = d * (t - 1)",
    summary="ternary codes, five in a byte, one f16 scale per 256 weights",
    snr=1.85,
    largest=math.inf,
    encode_block=encode_block,
    decode_block=decode_block,
)
