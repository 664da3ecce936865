"""The parametric family on lanes: one encoder for all of its points (and one decoder, in
`parametric_decoding`).

The parameters are arguments: what depends on them is decided once a block, so the loops over weights hold
none of it. A group of blocks (a super-block where scales are nested) is fitted, its scales are settled as
they will be stored, then its codes follow from what a reader will see; its weights are still in the cache by
then. The order of operations is that of `gguflow.parametric.reference`.

Arrays are flat. Codes are a byte each here; `bit_packing` packs them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gguflow.kernels.bits import nearest_int
from gguflow.kernels.block_statistics import bottom_and_top_of, peak_of, sum_of_magnitudes
from gguflow.kernels.finite import is_finite
from gguflow.kernels.lanes import (
    gather,
    load,
    load_first,
    load_i32,
    lookup16,
    prefetch,
    splat,
    store_u8,
    unowned,
    where,
)
from gguflow.kernels.nested_scales import affine_scale, clamped_code, nest, nest_dynamic, stored
from gguflow.kernels.policy import helper, kernel
from gguflow.kernels.types import F32s, F32x16, I32s, I32x16, Int, U8s

f32 = np.float32
i32 = np.int32

ABSMAX, AFFINE, MIN, CODEBOOK, TERNARY, SIGN = 1, 2, 3, 4, 5, 6
"""As gguflow.parametric.axes.Quantizer."""
UNNESTED, LINEAR, OFFSET, DYNAMIC = 0, 1, 2, 3
"""As Nesting."""

AHEAD = 8192
"""Weights, 32 KiB: what is fetched into the cache while codes are made. About the next group, which is fitted
then.
"""
SMALLEST_PEAK = f32(1e-38)
"""What a peak counts as, at least, where weights are divided by it: as in bitsandbytes."""


class Parameters(NamedTuple):
    """Of an encoding, what the encoder asks: numbers as in the descriptor.

    group: blocks that are settled together (a super-block, if nested).
    """

    quantizer: int
    bits: int
    block: int
    scale_type: int
    nesting: int
    scale_bits: int
    min_bits: int
    group: int


class Books(NamedTuple):
    """Codebooks for encoding: block b uses number b % n.

    bounds: float32[n * stride], what a value must exceed to be nearer to the next entry; infinite from the
        last entry on.
    order: int32[n * stride], the codes, by rank.
    stride: entries of one, 2**bits, at least 16.
    """

    bounds: F32s
    order: I32s
    stride: int


class Nested(NamedTuple):
    """The dynamic codebook.

    book: float32[256], its values.
    places: uint8[65536], the code of each place from -1 to 1.
    offset: float32, the tensor's.
    """

    book: F32s
    places: U8s
    offset: f32


class Scales(NamedTuple):
    """Where scales go, an entry per block. `encode_given` reads scales, zeros and mins.

    scales, mins: float32, values as a reader will see them.
    scale_codes: uint8, codes of nested scales.
    zeros: uint8, zero points or codes of mins.
    meta: float32, of each super-block.
    """

    scales: F32s
    mins: F32s
    scale_codes: U8s
    zeros: U8s
    meta: F32s


@helper
def extremes(x: F32s, start: int, stop: int, quantizer: int, limit: f32) -> tuple[f32, f32]:
    """Bottom and top of the range of a block, which for absmax and codebooks begins at 0 and is NaN where a
    weight is no number.

    limit: the largest magnitude that counts.
    """
    if quantizer in (ABSMAX, CODEBOOK):
        peak = peak_of(x, start, stop)
        return f32(0), min(peak, limit) if peak < f32(np.inf) else f32(np.nan)
    first = f32(0) if quantizer == AFFINE else x[start]
    bottom, top = bottom_and_top_of(x, start, stop, first, first)
    return max(bottom, -limit), min(top, limit)


@helper
def asked_scale(quantizer: int, bottom: f32, top: f32, q_max: f32, shrink: f32) -> tuple[f32, f32]:
    """The scale that a range asks for, and its lowest weight. shrink: the part that is covered, the middle
    one of `min`, else shrunk towards 0.
    """
    if quantizer == MIN and shrink < f32(1):
        cut = f32(f32(top - bottom) * f32(f32(f32(1) - shrink) * f32(0.5)))
        bottom, top = f32(bottom + cut), f32(top - cut)
    elif shrink < f32(1):
        bottom, top = f32(bottom * shrink), f32(top * shrink)
    if quantizer in (ABSMAX, CODEBOOK):
        return f32(top / q_max), f32(0)
    # adding 0: of zeros of both signs, the order would decide which was found
    bottom, top = f32(bottom + f32(0)), f32(top + f32(0))
    return affine_scale(bottom, top, q_max), bottom


@helper
def fit_block(
    x: F32s, start: int, stop: int, quantizer: int, q_max: f32, limit: f32, shrink: f32
) -> tuple[f32, f32]:
    """The scale that a block asks for, and its lowest weight."""
    if quantizer in (TERNARY, SIGN):
        return f32(sum_of_magnitudes(x, start, stop) / f32(stop - start)), f32(0)
    bottom, top = extremes(x, start, stop, quantizer, limit)
    return asked_scale(quantizer, bottom, top, q_max, shrink)


@helper
def lanes_at(x: F32s, i: int) -> F32x16:
    """16 weights from i on; zeros after the last one."""
    if i + 16 <= x.size:
        return load(x, i)
    return load_first(x, i, x.size - i)


@helper
def rounded_within(v: F32x16, low: f32, high: f32) -> I32x16:
    """The nearest integers, ties to even, within low and high (small whole floats)."""
    v = where(v > low, v, low)
    return nearest_int(where(v < high, v, high))


@helper
def code_affine(
    x: F32s,
    start: int,
    stop: int,
    scale: f32,
    zero: Int,
    shift: f32,
    low: f32,
    high: f32,
    mask: int,
    codes: U8s,
) -> None:
    """round((x - shift) / scale) within low and high, plus zero, in the bits of the mask. Where the scale is
    0 the quotient counts as 0.
    """
    if not scale > f32(0):
        shift, scale = f32(0), f32(np.inf)
    for i in range(start, stop, 16):
        prefetch(x, i + AHEAD)
        store_u8(codes, i, (rounded_within((lanes_at(x, i) - shift) / scale, low, high) + zero) & mask)


@helper
def ranks(v: F32x16, books: Books, base: int, bits: int) -> I32x16:
    """How many bounds of the codebook that begins at `base` the lanes of v exceed."""
    rank = splat(i32(0))
    step = 1 << (bits - 1)
    while step > 0:
        bound = gather(books.bounds, rank + (base + step - 1))
        rank = rank + where(v > bound, splat(i32(step)), splat(i32(0)))
        step >>= 1
    return rank


@helper
def ranks16(v: F32x16, sixteen: F32x16) -> I32x16:
    """The same for at most sixteen bounds, which are held in lanes."""
    rank = where(v > lookup16(sixteen, splat(i32(7))), splat(i32(8)), splat(i32(0)))
    rank = rank + where(v > lookup16(sixteen, rank + 3), splat(i32(4)), splat(i32(0)))
    rank = rank + where(v > lookup16(sixteen, rank + 1), splat(i32(2)), splat(i32(0)))
    return rank + where(v > lookup16(sixteen, rank), splat(i32(1)), splat(i32(0)))


@helper
def code_book(
    x: F32s, start: int, stop: int, inverse: f32, books: Books, base: int, bits: int, codes: U8s
) -> None:
    """The rank of x * inverse among the bounds of the codebook that begins at `base`, through its order."""
    if bits <= 4:
        sixteen = load(books.bounds, base)
        names = load_i32(books.order, base)
        for i in range(start, stop, 16):
            prefetch(x, i + AHEAD)
            store_u8(codes, i, lookup16(names, ranks16(lanes_at(x, i) * inverse, sixteen)))
        return
    for i in range(start, stop, 16):
        store_u8(codes, i, gather(books.order, ranks(lanes_at(x, i) * inverse, books, base, bits) + base))


@helper
def code_sign(x: F32s, start: int, stop: int, codes: U8s) -> None:
    for i in range(start, stop, 16):
        prefetch(x, i + AHEAD)
        store_u8(codes, i, where(lanes_at(x, i) >= f32(0), splat(i32(1)), splat(i32(0))))


@helper
def code_blocks(
    x: F32s, p: Parameters, first: int, last: int, fitted: F32s, books: Books, out: Scales, codes: U8s
) -> None:
    """The codes of blocks first to last - 1. fitted: float32, from the first block on, the scales that
    codebooks divide by.

    Up to 15 bytes behind each block are overwritten too: by the next block, at the end in room that the
    caller has.
    """
    top = f32((1 << p.bits) - 1)
    half = f32((1 << (p.bits - 1)) - 1)
    for b in range(first, last):
        start = b * p.block
        stop = min(start + p.block, x.size)
        scale = out.scales[b]
        if p.quantizer == ABSMAX:
            code_affine(x, start, stop, scale, i32(0), f32(0), -half, half, (1 << p.bits) - 1, codes)
        elif p.quantizer == AFFINE:
            zero = i32(out.zeros[b])
            code_affine(x, start, stop, scale, zero, f32(0), f32(-zero), top - f32(zero), 255, codes)
        elif p.quantizer == MIN:
            code_affine(x, start, stop, scale, i32(0), out.mins[b], f32(0), top, 255, codes)
        elif p.quantizer == TERNARY:
            code_affine(x, start, stop, scale, i32(1), f32(0), f32(-1), f32(1), 255, codes)
        elif p.quantizer == SIGN:
            code_sign(x, start, stop, codes)
        else:
            n_books = books.bounds.size // books.stride
            inverse = f32(f32(1) / max(fitted[b - first], SMALLEST_PEAK))
            code_book(x, start, stop, inverse, books, b % n_books * books.stride, p.bits, codes)


@helper
def settle(p: Parameters, first: int, last: int, nested: Nested, out: Scales) -> None:
    """The scales and mins of a group as a reader will see them, and the zero points that follow."""
    if p.nesting == UNNESTED:
        for b in range(first, last):
            out.scales[b] = stored(out.scales[b], p.scale_type)
    elif p.nesting == DYNAMIC:
        nest_dynamic(
            out.scales,
            first,
            last,
            nested.offset,
            nested.places,
            nested.book,
            out.scale_codes,
            out.meta,
            first // p.group,
        )
    else:
        n_meta = (1 if p.nesting == LINEAR else 2) + (2 if p.quantizer == MIN else 0)
        at = first // p.group * n_meta
        nest(
            out.scales,
            first,
            last,
            p.nesting == OFFSET,
            p.scale_bits,
            p.scale_type,
            out.scale_codes,
            out.meta,
            at,
        )
        if p.quantizer == MIN:
            nest(out.mins, first, last, True, p.min_bits, p.scale_type, out.zeros, out.meta, at + n_meta - 2)
    if p.quantizer == MIN and p.nesting == UNNESTED:
        for b in range(first, last):
            out.mins[b] = stored(out.mins[b], p.scale_type)
    if p.quantizer == AFFINE:
        q_max = (1 << p.bits) - 1
        for b in range(first, last):
            scale = out.scales[b]
            zero = clamped_code(f32(-out.mins[b] / scale), q_max) if scale > f32(0) else i32(0)
            out.zeros[b] = np.uint8(zero)


@helper
def are_finite(x: F32s, start: int, stop: int) -> bool:
    """Whether some weights are numbers, all of them."""
    whole = (stop - start) // 16 * 16
    if not is_finite(x, start, whole):
        return False
    good = True
    for i in range(start + whole, stop):
        good = good and np.isfinite(x[i])
    return good


@kernel
def fit_and_encode(
    x: F32s, p: Parameters, limits: F32s, shrinks: F32s, books: Books, nested: Nested, out: Scales, codes: U8s
) -> Int:
    """Blocks with scales of their own. Returns -1, or the place from which on there is a NaN or infinity: the
    codes are then not whole.

    x: float32, the weights.
    limits, shrinks: float32, a magnitude at which the range of each block ends, and a factor of it; or one
        for all.
    out: written.
    codes: uint8, 16 longer than x at least, written.
    """
    x, codes, limits, shrinks = unowned(x), unowned(codes), unowned(limits), unowned(shrinks)
    books = Books(unowned(books.bounds), unowned(books.order), books.stride)
    out = Scales(
        unowned(out.scales),
        unowned(out.mins),
        unowned(out.scale_codes),
        unowned(out.zeros),
        unowned(out.meta),
    )
    if p.quantizer == CODEBOOK:
        q_max = f32(1)
    else:
        q_max = f32((1 << (p.bits - 1)) - 1) if p.quantizer == ABSMAX else f32((1 << p.bits) - 1)
    n_blocks = out.scales.size
    limit_step, shrink_step = min(limits.size - 1, 1), min(shrinks.size - 1, 1)
    fitted = np.empty(p.group, np.float32)
    for first in range(0, n_blocks, p.group):
        last = min(first + p.group, n_blocks)
        if p.quantizer not in (ABSMAX, CODEBOOK) and not are_finite(
            x, first * p.block, min(last * p.block, x.size)
        ):
            return first * p.block
        for b in range(first, last):
            start = b * p.block
            stop = min(start + p.block, x.size)
            scale, bottom = fit_block(
                x, start, stop, p.quantizer, q_max, limits[b * limit_step], shrinks[b * shrink_step]
            )
            if np.isnan(scale):
                return start
            out.scales[b] = scale
            out.mins[b] = bottom
            fitted[b - first] = scale
        settle(p, first, last, nested, out)
        if p.nesting != DYNAMIC:
            fitted[: last - first] = out.scales[first:last]
        code_blocks(x, p, first, last, fitted, books, out, codes)
    return -1


@kernel
def encode_given(x: F32s, p: Parameters, books: Books, out: Scales, codes: U8s) -> Int:
    """Blocks whose scales (zero points, mins) are given in `out`; codes, and what is returned: as above."""
    x, codes = unowned(x), unowned(codes)
    books = Books(unowned(books.bounds), unowned(books.order), books.stride)
    out = Scales(
        unowned(out.scales),
        unowned(out.mins),
        unowned(out.scale_codes),
        unowned(out.zeros),
        unowned(out.meta),
    )
    n_blocks = out.scales.size
    for first in range(0, n_blocks, p.group):
        last = min(first + p.group, n_blocks)
        if not are_finite(x, first * p.block, min(last * p.block, x.size)):
            return first * p.block
        code_blocks(x, p, first, last, out.scales[first:last], books, out, codes)
    return -1
