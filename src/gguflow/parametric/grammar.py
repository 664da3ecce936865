"""The payload in construct: the formal twin of `descriptor`, `chunks` and the kernels' packing.

Parsing with it gives named fields, which the scalar reference uses. Their values are checked by `descriptor`
and `judging`.
"""

from __future__ import annotations

from typing import Any

from construct import (
    Aligned,
    Array,
    BitsInteger,
    Bitwise,
    Bytes,
    Const,
    Construct,
    Float16l,
    Float32l,
    Int8ul,
    Int16ul,
    Int32ul,
    Int64ul,
    Struct,
)

from gguflow.parametric.axes import Quantizer, ScaleType
from gguflow.parametric.descriptor import MAGIC
from gguflow.parametric.geometry import (
    CHUNK_ALIGNMENT,
    MAX_DIMENSIONS,
    OUTLIER_GROUP,
    SECTION_ALIGNMENT,
    Geometry,
)

SPAN = Struct("offset" / Int64ul, "nbytes" / Int64ul)

DESCRIPTOR = Struct(
    "magic" / Const(MAGIC),
    "version" / Int16ul,
    "n_dimensions" / Int8ul,
    "quantizer" / Int8ul,
    "bits" / Int8ul,
    "granularity" / Int8ul,
    "codebook" / Int8ul,
    "scale_type" / Int8ul,
    "nesting" / Int8ul,
    "scale_bits" / Int8ul,
    "min_bits" / Int8ul,
    "range" / Int8ul,
    "entropy" / Int8ul,
    "source_type" / Int8ul,
    "zeros_1" / Const(bytes(2)),
    "block" / Int32ul,
    "super_block" / Int32ul,
    "log_base" / Float32l,
    "clip" / Float32l,
    "percentile" / Int32ul,
    "outliers" / Int32ul,
    "outlier_threshold" / Float32l,
    "zeros_2" / Const(bytes(4)),
    "payload_nbytes" / Int64ul,
    "shape" / Array(MAX_DIMENSIONS, Int64ul),
    "rows_per_chunk" / Int64ul,
    "n_chunks" / Int64ul,
    "tables" / SPAN,
    "index" / SPAN,
    "chunks" / SPAN,
    "zeros_3" / Const(bytes(48)),
    "digest" / Bytes(16),
)

INDEX_ENTRY = Struct("offset" / Int64ul, "nbytes" / Int64ul, "digest" / Bytes(16))

SECTION_HEADER = Struct("stored" / Int32ul, "decoded" / Int32ul)
"""One for each section, at the start of a chunk of variable size."""


def prefix(geometry: Geometry) -> Construct[Any, Any]:
    """Everything before the first chunk."""
    tables = Struct(*(name / Array(count, Float32l) for name, count in geometry.table_sizes.items()))
    index = Array(0 if geometry.encoding.is_fixed_size else geometry.n_chunks, INDEX_ENTRY)
    whole = Struct("descriptor" / DESCRIPTOR, "tables" / Aligned(SECTION_ALIGNMENT, tables), "index" / index)
    return Aligned(CHUNK_ALIGNMENT, whole)


def chunk(geometry: Geometry, rows: int) -> Construct[Any, Any]:
    """A chunk of `rows` rows, of fixed size."""
    present = sections(geometry, rows)
    return Aligned(
        CHUNK_ALIGNMENT,
        Struct(*(name / Aligned(SECTION_ALIGNMENT, section) for name, section in present.items())),
    )


def sections(geometry: Geometry, rows: int, n_outliers: int | None = None) -> dict[str, Construct[Any, Any]]:
    """The sections of a chunk by name, in order, before entropy coding.

    n_outliers: the number of outliers, if a threshold chose them.
    """
    if geometry.encoding.is_lossless:
        return {
            f"plane {k}": Array(rows * geometry.columns, Int8ul) for k in range(geometry.source_type.nbytes)
        }
    kinds = {
        "codes": Array(geometry.n_runs(rows), run(geometry)),
        "scales": scales(geometry, rows),
        "zeros": zeros(geometry, rows),
        "meta": Array(
            geometry.n_super_blocks(rows), Array(geometry.encoding.n_meta, real(geometry.encoding.scale_type))
        ),
        "outliers": outliers(geometry, rows, geometry.n_outliers(rows) if n_outliers is None else n_outliers),
    }
    return {section.name: kinds[section.name] for section in geometry.sections(rows)}


def bit_fields(count: int, bits: int) -> Construct[Any, Any]:
    """`count` codes of `bits` bits, most significant bit first, padded with zeros to a whole byte."""
    return Bitwise(Aligned(8, Array(count, BitsInteger(bits))))


def run(geometry: Geometry) -> Construct[Any, Any]:
    """The codes of a run; ternary codes as bytes that hold five each."""
    if geometry.encoding.quantizer is Quantizer.TERNARY:
        return Array(geometry.run_bytes, Int8ul)
    return bit_fields(geometry.run, geometry.stored_bits)


def real(scale_type: ScaleType) -> Construct[Any, Any]:
    """One scale; a bfloat16 as its 16 bits."""
    return {ScaleType.F32: Float32l, ScaleType.F16: Float16l, ScaleType.BF16: Int16ul}[scale_type]


def scales(geometry: Geometry, rows: int) -> Construct[Any, Any]:
    """Scales, codes of nested scales, or row codebooks."""
    e, n = geometry.encoding, geometry.n_scales(rows)
    if e.has_row_codebooks:
        return Array(n, Array(1 << e.bits, real(e.scale_type)))
    return bit_fields(n, e.scale_bits) if e.is_nested else Array(n, real(e.scale_type))


def zeros(geometry: Geometry, rows: int) -> Construct[Any, Any]:
    """Zero points, codes of nested mins, or mins."""
    e, n = geometry.encoding, geometry.n_scales(rows)
    return bit_fields(n, e.min_bits) if e.min_bits else Array(n, real(e.scale_type))


def outliers(geometry: Geometry, rows: int, count: int) -> Construct[Any, Any]:
    n_groups = -(-rows * geometry.columns // OUTLIER_GROUP)
    return Struct(
        "counts" / Array(n_groups, Int32ul),
        "places" / Array(count, Int16ul),
        "values" / Array(count, Float16l),
    )
