"""How the 4- and 5-bit formats of 32 weights lay out their codes, and how they find a block's signed peak;
the twin of kernels/nibbles.py.

Byte j of `qs` holds the code of weight j in its low half and of weight j + 16 in its high half. Bit i of `qh`
is the fifth bit of weight i.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gguflow.blocks.base import Floats

f32 = np.float32


def pack_nibbles(codes: Sequence[int]) -> list[int]:
    """32 codes to 16 bytes; only their low four bits."""
    return [codes[j] & 15 | (codes[j + 16] & 15) << 4 for j in range(16)]


def unpack_nibbles(qs: Sequence[int]) -> list[int]:
    """16 bytes to 32 codes of four bits."""
    return [byte & 15 for byte in qs] + [byte >> 4 for byte in qs]


def pack_fifth_bits(codes: Sequence[int]) -> int:
    """Bit 4 of 32 codes, as one 32-bit number."""
    return sum((code >> 4 & 1) << i for i, code in enumerate(codes))


def unpack_five_bits(qh: int, qs: Sequence[int]) -> list[int]:
    """32 codes of five bits."""
    return [code | (qh >> i & 1) << 4 for i, code in enumerate(unpack_nibbles(qs))]


def signed_peak(x: Floats) -> np.float32:
    """The first weight of the largest magnitude, with its sign; +0 where all are zeros."""
    peak = f32(x[np.argmax(np.abs(x))])
    return peak if peak else f32(0)


def first_extremes(x: Floats) -> tuple[np.float32, np.float32]:
    """The smallest and the largest weight: of equal ones the first, which decides the sign of a zero."""
    return f32(x[np.argmin(x)]), f32(x[np.argmax(x)])
