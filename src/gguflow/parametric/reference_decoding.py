"""The scalar twin of the decoding kernels: weights from fields of a chunk, one at a time, in binary32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import gguflow.parametric.codebooks as codebooks
from gguflow.arrays import Floats
from gguflow.parametric.axes import Codebook, Nesting, Quantizer, ScaleType
from gguflow.parametric.encoding import Encoding
from gguflow.parametric.geometry import Geometry

f32 = np.float32


@dataclass
class Scaled:
    """The decoding parameters of one block, as a reader decodes them.

    scale, minimum, zero: of the block.
    fitted: the scale before it was rounded to be stored.
    """

    scale: np.float32
    minimum: np.float32 = field(default_factory=lambda: f32(0))
    zero: int = 0
    fitted: np.float32 = field(default_factory=lambda: f32(0))


def decode(geometry: Geometry, rows: int, fields: Mapping[str, Any], tables: Mapping[str, Floats]) -> Floats:
    """The weights of a chunk, flat, without its outliers, from the fields that `grammar.chunk` parses."""
    e = geometry.encoding
    n = rows * geometry.columns
    codes = [
        code
        for run in fields["codes"]
        for code in (unpack_trits(run, geometry.run) if e.quantizer is Quantizer.TERNARY else run)
    ][:n]
    n_blocks = -(-n // geometry.scale_block)
    scaled = (
        from_fields(e, fields, n_blocks, tables) if e.has_chunk_scales else from_tables(e, tables, n_blocks)
    )
    books = decoder_books(e, fields, tables, geometry.n_groups)
    weights = [
        decode_one(e, code, scaled[i // geometry.scale_block], books[i // geometry.scale_block % len(books)])
        for i, code in enumerate(codes)
    ]
    return np.array(weights, f32)


def decode_one(e: Encoding, code: int, s: Scaled, book: Floats) -> np.float32:
    if e.quantizer is Quantizer.CODEBOOK:
        return f32(book[code] * s.scale)
    if e.quantizer is Quantizer.ABSMAX:
        return f32(f32(code - (code >> (e.bits - 1) << e.bits)) * s.scale)
    if e.quantizer is Quantizer.AFFINE:
        return f32(f32(code - s.zero) * s.scale)
    if e.quantizer is Quantizer.MIN:
        return f32(f32(f32(code) * s.scale) + s.minimum)
    if e.quantizer is Quantizer.TERNARY:
        return f32(f32(code - 1) * s.scale)
    return f32(f32(2 * code - 1) * s.scale)


def decoder_books(
    e: Encoding, fields: Mapping[str, Any], tables: Mapping[str, Floats], n_groups: int
) -> list[Floats]:
    """The values of the codebooks, which blocks use cyclically."""
    if e.codebook is Codebook.NONE:
        return [np.zeros(0, f32)]
    if e.has_row_codebooks:
        return [
            np.array([real_value(value, e.scale_type) for value in book], f32) for book in fields["scales"]
        ]
    return (
        list(tables["codebooks"].reshape(n_groups, -1))
        if e.has_table_codebooks
        else [codebooks.fixed_values(e)]
    )


def real_value(value: float | int, scale_type: ScaleType) -> np.float32:
    if scale_type is ScaleType.BF16:
        result: np.float32 = np.uint32(int(value) << 16).view(np.float32)
        return result
    return f32(value)


def from_fields(e: Encoding, fields: Mapping[str, Any], n: int, tables: Mapping[str, Floats]) -> list[Scaled]:
    """Scales, mins and zero points of the blocks of a chunk."""
    scaled = []
    for b in range(n):
        scale = fields["scales"][b]
        minimum, zero = f32(0), 0
        if e.is_nested:
            meta = [real_value(value, e.scale_type) for value in fields["meta"][b // e.super_block]]
            if e.nesting is Nesting.DYNAMIC:
                scale = f32(f32(codebooks.dynamic()[scale] * meta[0]) + tables["offset"][0])
            else:
                scale = f32(f32(meta[0] * f32(scale)) + (meta[1] if e.nesting is Nesting.OFFSET else f32(0)))
        else:
            scale = real_value(scale, e.scale_type)
        if e.quantizer is Quantizer.AFFINE:
            zero = fields["zeros"][b]
        elif e.quantizer is Quantizer.MIN:
            minimum = fields["zeros"][b]
            minimum = (
                f32(f32(meta[-2] * f32(minimum)) + meta[-1])
                if e.is_nested
                else real_value(minimum, e.scale_type)
            )
        scaled.append(Scaled(scale, minimum, zero))
    return scaled


def from_tables(e: Encoding, tables: Mapping[str, Floats], n: int) -> list[Scaled]:
    """The same from the tables, used cyclically; neutral if codebooks hold the weights themselves."""
    scales = tables.get("scales", np.ones(1, f32))
    zeros = tables.get("zeros", np.zeros(scales.size, f32))
    is_min = e.quantizer is Quantizer.MIN
    one = [
        Scaled(f32(s), f32(z) if is_min else f32(0), 0 if is_min else int(z), f32(s))
        for s, z in zip(scales, zeros, strict=True)
    ]
    return [one[b % len(one)] for b in range(n)]


def unpack_trits(packed: Sequence[int], n: int) -> list[int]:
    return [byte // 3**k % 3 for byte in packed for k in (4, 3, 2, 1, 0)][:n]
