"""Codes of 1 to 8 bits into bytes and back, most significant bit first; and five trits to a byte.

The first code of a run stands in the highest bits of its first byte, so four-bit codes go high nibble first;
a run begins with a byte, and the bits that are left in its last byte are zero. So the codes of a run are the
digits of one long number, which is how the grammar reads them.
"""

from __future__ import annotations

import numpy as np

from gguflow.kernels.lanes import (
    even_lanes,
    interleave_high,
    interleave_low,
    load_i32,
    load_u8,
    odd_lanes,
    store_i32,
    store_u8,
    unowned,
)
from gguflow.kernels.policy import helper, kernel
from gguflow.kernels.types import I32s, I32x16, Int, U8s

u8 = np.uint8
u64 = np.uint64


@helper
def pack_word(codes: U8s, i: int, count: int, bits: int) -> Int:
    """Up to eight codes as the high 8 * bits bits of a word; those that are missing are zero."""
    word = u64(0)
    for k in range(count):
        word = (word << u64(bits)) | u64(codes[i + k])
    return word << u64(bits * (8 - count))


@helper
def pack_64(codes: U8s, i: int, bits: int, quads: I32s, out: U8s, o: int) -> None:
    """64 codes into 8 * bits bytes. Neighbours are joined in pairs, pairs in fours, on lanes; fours in
    eights, which are whole bytes, one by one.

    quads: int32[16], overwritten.
    """
    low = joined_pairs(load_u8(codes, i), load_u8(codes, i + 16), bits)
    high = joined_pairs(load_u8(codes, i + 32), load_u8(codes, i + 48), bits)
    store_i32(quads, 0, joined_pairs(low, high, 2 * bits))
    for k in range(8):
        word = (u64(quads[2 * k]) << u64(4 * bits)) | u64(quads[2 * k + 1])
        for byte in range(bits):
            out[o + bits * k + byte] = u8(word >> u64(8 * (bits - 1 - byte)))


@helper
def joined_pairs(a: I32x16, b: I32x16, bits: int) -> I32x16:
    """Neighbouring lanes of a, then of b, side by side in one: the first above the second, which has `bits`
    bits.
    """
    return (even_lanes(a, b) << bits) | odd_lanes(a, b)


@helper
def unpack_64(packed: U8s, o: int, bits: int, quads: I32s, codes: U8s, i: int) -> None:
    """The inverse of `pack_64`."""
    mask = u64((1 << (4 * bits)) - 1)
    for k in range(8):
        word = u64(0)
        for byte in range(bits):
            word = (word << u64(8)) | u64(packed[o + bits * k + byte])
        quads[2 * k] = word >> u64(4 * bits)
        quads[2 * k + 1] = word & mask
    fours = load_i32(quads, 0)
    first, second = fours >> (2 * bits), fours & ((1 << (2 * bits)) - 1)
    for half in range(2):
        pairs = interleave_low(first, second) if half == 0 else interleave_high(first, second)
        a, b = pairs >> bits, pairs & ((1 << bits) - 1)
        store_u8(codes, i + 32 * half, interleave_low(a, b))
        store_u8(codes, i + 32 * half + 16, interleave_high(a, b))


@helper
def pack_run(codes: U8s, i: int, n: int, bits: int, quads: I32s, out: U8s, o: int) -> None:
    """One run of n codes from codes[i] to out[o]; eight codes are `bits` bytes."""
    if bits == 4:
        while n >= 32:
            a = load_u8(codes, i)
            b = load_u8(codes, i + 16)
            store_u8(out, o, (even_lanes(a, b) << 4) | odd_lanes(a, b))
            i, o, n = i + 32, o + 16, n - 32
    elif bits == 8:
        while n >= 16:
            store_u8(out, o, load_u8(codes, i))
            i, o, n = i + 16, o + 16, n - 16
    else:
        while n >= 64:
            pack_64(codes, i, bits, quads, out, o)
            i, o, n = i + 64, o + 8 * bits, n - 64
    while n >= 8:
        word = pack_word(codes, i, 8, bits)
        for k in range(bits):
            out[o + k] = u8(word >> u64(8 * (bits - 1 - k)))
        i, o, n = i + 8, o + bits, n - 8
    if n > 0:
        word = pack_word(codes, i, n, bits)
        for k in range((n * bits + 7) // 8):
            out[o + k] = u8(word >> u64(8 * (bits - 1 - k)))


@kernel
def pack(codes: U8s, run: int, bits: int, out: U8s) -> None:
    """Whole runs of codes, a byte each and below 2**bits, into runs of whole bytes."""
    codes, out = unowned(codes), unowned(out)
    quads = np.empty(16, np.int32)
    run_bytes = (run * bits + 7) // 8
    for r in range(out.size // run_bytes):
        pack_run(codes, r * run, run, bits, quads, out, r * run_bytes)


@helper
def unpack_run(packed: U8s, o: int, n: int, bits: int, quads: I32s, codes: U8s, i: int) -> None:
    mask = u64((1 << bits) - 1)
    if bits == 4:
        while n >= 32:
            pairs = load_u8(packed, o)
            store_u8(codes, i, interleave_low(pairs >> 4, pairs & 15))
            store_u8(codes, i + 16, interleave_high(pairs >> 4, pairs & 15))
            i, o, n = i + 32, o + 16, n - 32
    elif bits == 8:
        while n >= 16:
            store_u8(codes, i, load_u8(packed, o))
            i, o, n = i + 16, o + 16, n - 16
    else:
        while n >= 64:
            unpack_64(packed, o, bits, quads, codes, i)
            i, o, n = i + 64, o + 8 * bits, n - 64
    while n > 0:
        count = min(n, 8)
        n_bytes = (count * bits + 7) // 8
        word = u64(0)
        for k in range(n_bytes):
            word |= u64(packed[o + k]) << u64(8 * (bits - 1 - k))
        for k in range(count):
            codes[i + k] = u8((word >> u64(bits * (7 - k))) & mask)
        i, o, n = i + count, o + n_bytes, n - count


@kernel
def unpack(packed: U8s, run: int, bits: int, codes: U8s) -> None:
    """The inverse of `pack`, for as many runs as `packed` holds."""
    packed, codes = unowned(packed), unowned(codes)
    quads = np.empty(16, np.int32)
    run_bytes = (run * bits + 7) // 8
    for r in range(packed.size // run_bytes):
        unpack_run(packed, r * run_bytes, run, bits, quads, codes, r * run)


@kernel
def pack_trits(codes: U8s, run: int, out: U8s) -> None:
    """Whole runs of codes 0, 1, 2: five to a byte as the digits of a number below 243, the first the highest;
    missing ones are zero.
    """
    run_bytes = (run + 4) // 5
    for r in range(out.size // run_bytes):
        for k in range(run_bytes):
            value = 0
            for j in range(5):
                at = 5 * k + j
                value = 3 * value + (int(codes[r * run + at]) if at < run else 0)
            out[r * run_bytes + k] = u8(value)


@kernel
def unpack_trits(packed: U8s, run: int, codes: U8s) -> None:
    """The inverse of `pack_trits`. Bytes above 242 give some trits too: the digits of the byte modulo 243."""
    run_bytes = (run + 4) // 5
    for r in range(packed.size // run_bytes):
        for k in range(run_bytes):
            value = int(packed[r * run_bytes + k])
            for j in range(4, -1, -1):
                at = 5 * k + j
                if at < run:
                    codes[r * run + at] = u8(value % 3)
                value //= 3
