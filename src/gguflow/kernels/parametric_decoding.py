"""The parametric family on lanes: the decoder, for all points of it."""

from __future__ import annotations

import numpy as np

from gguflow.kernels.lanes import gather, load, load_u8, lookup16, store, store_first, to_float, unowned
from gguflow.kernels.parametric import ABSMAX, AFFINE, MIN, SIGN, TERNARY
from gguflow.kernels.policy import helper, kernel
from gguflow.kernels.types import F32s, F32x16, Int, U8s

f32 = np.float32
i32 = np.int32


@helper
def store_lanes(out: F32s, i: int, v: F32x16) -> None:
    """16 weights from i on, as far as there is room; what lies beyond a block is overwritten by the next."""
    if i + 16 <= out.size:
        store(out, i, v)
    else:
        store_first(out, i, v, out.size - i)


@helper
def decode_book(
    codes: U8s, start: int, stop: int, scale: f32, table: F32s, base: int, bits: int, out: F32s
) -> None:
    if bits <= 4:
        sixteen = load(table, base)
        for i in range(start, stop, 16):
            store_lanes(out, i, lookup16(sixteen, load_u8(codes, i)) * scale)
        return
    mask = (1 << bits) - 1
    for i in range(start, stop, 16):
        store_lanes(out, i, gather(table, (load_u8(codes, i) & mask) + base) * scale)


@helper
def decode_with_min(codes: U8s, start: int, stop: int, scale: f32, minimum: f32, out: F32s) -> None:
    """scale * q + minimum"""
    for i in range(start, stop, 16):
        store_lanes(out, i, to_float(load_u8(codes, i)) * scale + minimum)


@helper
def decode_integers(
    codes: U8s,
    start: int,
    stop: int,
    scale: f32,
    factor: int,
    zero: Int,
    bits: int,
    is_signed: bool,
    out: F32s,
) -> None:
    """scale * (factor * q - zero); q of `bits` bits, signed or not."""
    sign = i32(1) << i32(bits - 1) if is_signed else i32(0)
    for i in range(start, stop, 16):
        q = ((load_u8(codes, i) ^ sign) - sign) * factor - zero
        store_lanes(out, i, to_float(q) * scale)


@kernel
def decode(
    codes: U8s,
    quantizer: int,
    bits: int,
    block: int,
    table: F32s,
    stride: int,
    scales: F32s,
    zeros: U8s,
    mins: F32s,
    out: F32s,
) -> None:
    """Weights from codes, from the start of a block on.

    codes: uint8, a byte each, 16 longer than out at least.
    table: codebooks of `stride` entries, used in turn.
    scales, zeros, mins: of each block, used in turn.
    """
    codes, out, table = unowned(codes), unowned(out), unowned(table)
    n = scales.size
    n_books = table.size // stride
    for b in range(-(-out.size // block)):
        start = b * block
        stop = min(start + block, out.size)
        scale = scales[b % n]
        if quantizer == ABSMAX:
            decode_integers(codes, start, stop, scale, 1, i32(0), bits, True, out)
        elif quantizer == AFFINE:
            decode_integers(codes, start, stop, scale, 1, i32(zeros[b % n]), bits, False, out)
        elif quantizer == MIN:
            decode_with_min(codes, start, stop, scale, mins[b % n], out)
        elif quantizer == TERNARY:
            decode_integers(codes, start, stop, scale, 1, i32(1), 2, False, out)
        elif quantizer == SIGN:
            decode_integers(codes, start, stop, scale, 2, i32(1), 1, False, out)
        else:
            decode_book(codes, start, stop, scale, table, b % n_books * stride, bits, out)
