"""The scalar twin of the encoding kernels: fields of a chunk from weights, one at a time, in binary32.

Written to be read beside spec/blocks/parametric.md; a test holds kernels and reference equal to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gguflow.parametric.codebooks as codebooks
from gguflow.arrays import Floats
from gguflow.parametric.axes import Codebook, Nesting, Quantizer, Range, ScaleType
from gguflow.parametric.encoding import Encoding
from gguflow.parametric.geometry import Geometry
from gguflow.parametric.reference_decoding import Scaled, decode_one, from_tables

f32 = np.float32
Fields = dict[str, Any]

SMALLEST_PEAK = f32(1e-38)


def encode(geometry: Geometry, rows: int, x: Floats, tables: Mapping[str, Floats]) -> Fields:
    """The fields of a chunk (see `grammar.chunk`) for flat, finite x without its outliers."""
    e = geometry.encoding
    blocks = [x[i : i + geometry.scale_block] for i in range(0, x.size, geometry.scale_block)]
    fields: Fields = {}
    if e.has_chunk_scales:
        scaled = [fit(e, block) for block in blocks]
        fields |= store_scales(e, scaled, tables)
    else:
        scaled = from_tables(e, tables, len(blocks))
    if e.has_row_codebooks:
        rows_of_x = [x[i : i + geometry.columns] for i in range(0, x.size, geometry.columns)]
        learned = [learn(e, row) for row in rows_of_x]
        fields["scales"] = [[real_field(value, e.scale_type) for value in book] for book in learned]
        books = [bounds_of(book) for book in learned]
    else:
        books = encoder_books(e, tables, geometry.n_groups)
    codes = [
        code
        for b, block in enumerate(blocks)
        for code in encode_block(e, block, scaled[b], books[b % len(books)])
    ]
    codes += [0] * (geometry.n_runs(rows) * geometry.run - len(codes))
    fields["codes"] = [codes[i : i + geometry.run] for i in range(0, len(codes), geometry.run)]
    if e.quantizer is Quantizer.TERNARY:
        fields["codes"] = [pack_trits(run) for run in fields["codes"]]
    return fields


def fit(e: Encoding, block: Floats) -> Scaled:
    """The scale (and lowest weight) that covers a block."""
    if e.quantizer in (Quantizer.TERNARY, Quantizer.SIGN):
        return Scaled(f32(sum_of_magnitudes(block) / f32(block.size)))
    if e.range is not Range.SEARCH:
        return fit_shrunk(e, block, f32(1))
    trials = [fit_shrunk(e, block, f32(1 - j / 64)) for j in range(32)]
    return min(trials, key=lambda trial: squared_error(e, block, trial))  # the first of equal ones


def limit_of(e: Encoding, block: Floats) -> np.float32:
    """The magnitude at which the range of a block ends."""
    if e.range is Range.CLIP:
        return f32(e.clip)
    if e.range is Range.PERCENTILE:
        return f32(np.sort(np.abs(block))[max(-(-e.percentile * block.size // 1_000_000) - 1, 0)])
    return f32(np.inf)


def fit_shrunk(e: Encoding, block: Floats, shrink: np.float32) -> Scaled:
    """The scale of a part of the range: the middle part for `min`, otherwise shrunk towards 0."""
    limit = limit_of(e, block)
    if e.quantizer in (Quantizer.ABSMAX, Quantizer.CODEBOOK):
        steps = f32(1) if e.quantizer is Quantizer.CODEBOOK else f32((1 << (e.bits - 1)) - 1)
        return Scaled(f32(f32(min(np.max(np.abs(block)), limit) * shrink) / steps))
    bottom, top = np.min(block), np.max(block)
    if e.quantizer is Quantizer.AFFINE:
        bottom, top = min(bottom, f32(0)), max(top, f32(0))
    bottom, top = f32(max(bottom, -limit)), f32(min(top, limit))
    if e.quantizer is Quantizer.MIN and shrink < 1:
        cut = f32(f32(top - bottom) * f32(f32(f32(1) - shrink) * f32(0.5)))
        bottom, top = f32(bottom + cut), f32(top - cut)
    else:
        bottom, top = f32(bottom * shrink), f32(top * shrink)
    bottom, top = f32(bottom + f32(0)), f32(top + f32(0))  # never a negative zero
    return Scaled(step_of(bottom, top, (1 << e.bits) - 1), bottom)


def squared_error(e: Encoding, block: Floats, trial: Scaled) -> np.float32:
    """The squared error of a block with the trial's rounded scale, in sixteen sums; infinity for NaN."""
    s = Scaled(round_to_type(trial.scale, e.scale_type), round_to_type(trial.minimum, e.scale_type))
    if e.quantizer is Quantizer.AFFINE and s.scale > 0:
        s.zero = clamp(f32(-trial.minimum / s.scale), (1 << e.bits) - 1)
    s.fitted = s.scale
    is_book = e.quantizer is Quantizer.CODEBOOK
    values = codebooks.fixed_values(e) if is_book else np.zeros(0, f32)
    codes = encode_block(e, block, s, bounds_of(values) if is_book else (values, np.zeros(0, np.int32)))
    sums = [f32(0)] * 16
    for i, (v, code) in enumerate(zip(block, codes, strict=True)):
        d = f32(v - decode_one(e, code, s, values))
        sums[i % 16] = f32(sums[i % 16] + f32(d * d))
    total = f32(0)
    for one in sums:
        total = f32(total + one)
    return total if total == total else f32(np.inf)


def step_of(bottom: np.float32, top: np.float32, n_steps: int) -> np.float32:
    """(top - bottom) / n_steps, dividing first if the difference overflows."""
    with np.errstate(over="ignore"):
        span = f32(top - bottom)
    return (
        f32(span / f32(n_steps))
        if np.isfinite(span)
        else f32(f32(top / f32(n_steps)) - f32(bottom / f32(n_steps)))
    )


def sum_of_magnitudes(block: Floats) -> np.float32:
    """Sixteen sums over the whole groups of sixteen, added in order, then the rest."""
    whole = block.size // 16 * 16
    sums = [f32(0)] * 16
    for i in range(whole):
        sums[i % 16] = f32(sums[i % 16] + abs(block[i]))
    total = f32(0)
    for value in (*sums, *np.abs(block[whole:])):
        total = f32(total + value)
    return total


def store_scales(e: Encoding, scaled: Sequence[Scaled], tables: Mapping[str, Floats]) -> Fields:
    """Scales, zeros and meta as fields; sets `scaled` to the values that a reader decodes."""
    fields: Fields = {"scales": [], "zeros": [], "meta": []}
    for s in scaled:
        s.fitted = s.scale
    size = e.super_block or len(scaled)
    for first in range(0, len(scaled), size):
        group = scaled[first : first + size]
        meta: list[Any] = []
        codes: list[Any]
        if e.nesting is Nesting.DYNAMIC:
            codes, values, meta = nest_dynamic([s.scale for s in group], tables["offset"][0])
        elif e.is_nested:
            codes, values, meta = nest(
                [s.scale for s in group], e.scale_bits, e.nesting is Nesting.OFFSET, e.scale_type
            )
        else:
            values = [round_to_type(s.scale, e.scale_type) for s in group]
            codes = [real_field(value, e.scale_type) for value in values]
        fields["scales"] += codes
        for s, value in zip(group, values, strict=True):
            s.scale = value
        if e.quantizer is Quantizer.MIN:
            if e.is_nested:
                codes, values, more = nest([s.minimum for s in group], e.min_bits, True, e.scale_type)
                meta += more
            else:
                values = [round_to_type(s.minimum, e.scale_type) for s in group]
                codes = [real_field(value, e.scale_type) for value in values]
            fields["zeros"] += codes
            for s, value in zip(group, values, strict=True):
                s.minimum = value
        elif e.quantizer is Quantizer.AFFINE:
            for s in group:
                s.zero = clamp(f32(-s.minimum / s.scale), (1 << e.bits) - 1) if s.scale > 0 else 0
            fields["zeros"] += [s.zero for s in group]
        fields["meta"].append([real_field(f32(value), e.scale_type) for value in meta])
    return {name: values for name, values in fields.items() if values and values != [[]]}


def nest(
    values: list[np.float32], bits: int, with_offset: bool, scale_type: ScaleType
) -> tuple[list[int], list[np.float32], list[np.float32]]:
    """Codes, the values that they decode to, and meta-scale (and offset) of one super-block."""
    n_steps = (1 << bits) - 1
    offset = round_to_type(min(values) if with_offset else f32(0), scale_type)
    step = round_to_type(step_of(offset, max(max(values), offset), n_steps), scale_type)
    codes = [clamp(f32(f32(value - offset) / step), n_steps) if step > 0 else 0 for value in values]
    return (
        codes,
        [f32(f32(step * f32(code)) + offset) for code in codes],
        [step, offset] if with_offset else [step],
    )


def nest_dynamic(
    values: list[np.float32], offset: np.float32
) -> tuple[list[int], list[np.float32], list[np.float32]]:
    """As bitsandbytes on the CPU: round the quotient to one of 65,536 values, then find its code."""
    book, bounds = codebooks.dynamic(), bounds_of(codebooks.dynamic())[0]
    distances = [f32(value - offset) for value in values]
    peak = f32(max(abs(distance) for distance in distances))
    codes = []
    for distance in distances:
        if peak == 0:
            codes.append(0)
            continue
        v = min(max(f32(distance * f32(f32(1) / peak)), f32(-1)), f32(1))
        place = int(f32(f32(f32(f32(v + f32(1)) * f32(0.5)) * f32(65535)) + f32(0.5)))
        v = f32(f32(-1) + f32(f32(2 * place) / f32(65535)))
        codes.append(sum(1 for bound in bounds if v > bound))
    return codes, [f32(f32(book[code] * peak) + offset) for code in codes], [peak]


def round_to_type(value: np.float32, scale_type: ScaleType) -> np.float32:
    """Round to the type, ties to even, and clamp to its largest finite value."""
    if scale_type is ScaleType.F16:
        return f32(np.float16(min(max(value, f32(-65504)), f32(65504))))
    if scale_type is ScaleType.BF16:
        bits = int(f32(value).view(np.uint32))
        rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
        if rounded & 0x7FFFFFFF == 0x7F800000:
            rounded -= 0x10000
        result: np.float32 = np.uint32(rounded).view(np.float32)
        return result
    return f32(min(value, np.finfo(f32).max))


def real_field(value: np.float32, scale_type: ScaleType) -> float | int:
    """A value that the type represents, in the form that the grammar uses."""
    return int(f32(value).view(np.uint32)) >> 16 if scale_type is ScaleType.BF16 else float(value)


def clamp(v: np.float32, q_max: int) -> int:
    """The nearest integer, ties to even, clamped to 0 to q_max."""
    return int(np.rint(min(max(v, f32(0)), f32(q_max))))


def encode_block(e: Encoding, block: Floats, s: Scaled, book: tuple[Floats, NDArray[np.int32]]) -> list[int]:
    """The codes of a block."""
    if e.quantizer is Quantizer.SIGN:
        return [int(v >= 0) for v in block]
    if e.quantizer is Quantizer.CODEBOOK:
        bounds, order = book
        inverse = f32(f32(1) / max(s.fitted if e.nesting is Nesting.DYNAMIC else s.scale, SMALLEST_PEAK))
        return [int(order[np.sum(f32(v * inverse) > bounds)]) for v in block]
    zero, low, high = code_range(e, s.zero)
    codes = []
    for v in block:
        with np.errstate(over="ignore"):
            quotient = (
                f32(f32(v - (s.minimum if e.quantizer is Quantizer.MIN else f32(0))) / s.scale)
                if s.scale > 0
                else f32(0)
            )
        codes.append(int(np.rint(min(max(quotient, f32(low)), f32(high)))) + zero & 255)
    return [code & ((1 << e.bits) - 1) for code in codes] if e.quantizer is Quantizer.ABSMAX else codes


def code_range(e: Encoding, zero: int) -> tuple[int, int, int]:
    """The number added to a rounded quotient, and the quotient's least and greatest value."""
    if e.quantizer is Quantizer.ABSMAX:
        half = (1 << (e.bits - 1)) - 1
        return 0, -half, half
    if e.quantizer is Quantizer.TERNARY:
        return 1, -1, 1
    top = (1 << e.bits) - 1
    return (zero, -zero, top - zero) if e.quantizer is Quantizer.AFFINE else (0, 0, top)


def encoder_books(
    e: Encoding, tables: Mapping[str, Floats], n_groups: int
) -> list[tuple[Floats, NDArray[np.int32]]]:
    """Bounds and order of the codebooks, which blocks use cyclically."""
    if e.codebook is Codebook.NONE:
        return [(np.zeros(0, f32), np.zeros(1, np.int32))]
    values = (
        tables["codebooks"].reshape(n_groups, -1)
        if e.has_table_codebooks
        else codebooks.fixed_values(e)[None]
    )
    return [bounds_of(book) for book in values]


def bounds_of(book: Floats) -> tuple[Floats, NDArray[np.int32]]:
    """The bounds that a value must exceed for the next rank, and the code of each rank."""
    order = np.array(sorted(range(book.size), key=lambda i: (book[i], i)), np.int32)
    return np.array([f32(a + b) / f32(2) for a, b in pairwise(book[order])], f32), order


def learn(e: Encoding, row: Floats) -> Floats:
    """The codebook of a row, without importance, in integers of 20 bits.

    It starts from buckets of equal numbers of weights; k-means then runs Lloyd's algorithm.
    """
    k, n = 1 << e.bits, row.size
    peak = float(np.max(np.abs(row)))
    values = sorted(int(np.rint(float(v) * (2**20 / max(peak, 1e-300)))) for v in row)
    edges = [-(-n * c // k) for c in range(k + 1)]
    centres: list[int] = []
    for _ in range(101 if e.codebook is Codebook.KMEANS else 1):
        runs = [values[first:last] for first, last in pairwise(edges)]
        means = [
            sum(run) // len(run) if run else values[min(first, n - 1)]
            for run, first in zip(runs, edges, strict=False)
        ]
        if means == centres:
            break
        centres = means
        edges = [0, *(sum(1 for v in values if v <= (a + b) // 2) for a, b in pairwise(centres)), n]
    return np.array([round_to_type(f32(centre * (peak / 2**20)), e.scale_type) for centre in centres], f32)


def pack_trits(run: Sequence[int]) -> list[int]:
    padded = [*run, *[0] * (-len(run) % 5)]
    return [int("".join(map(str, padded[i : i + 5])), 3) for i in range(0, len(padded), 5)]
