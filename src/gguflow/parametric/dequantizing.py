"""Weights from the sections of a chunk, by rows; the kernels do the work."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

import gguflow.parametric.codebooks as codebooks
import gguflow.parametric.outliers as outliers
import gguflow.parametric.reals as reals
from gguflow.arrays import Bytes, Floats
from gguflow.parametric.axes import Codebook, Nesting, Quantizer
from gguflow.parametric.geometry import Geometry
from gguflow.parametric.quantizing import SPARE, scratch, table_scales

f32 = np.float32


def decode(
    geometry: Geometry,
    tables: Mapping[str, Floats],
    sections: Mapping[str, Bytes],
    i: int,
    first: int,
    last: int,
    out: Floats,
) -> None:
    """Decode rows [first, last) of chunk i into flat `out`; only the runs that hold them are unpacked.

    Raises OutlierError.
    """
    from gguflow.kernels import parametric_decoding

    g, e = geometry, geometry.encoding
    rows = g.chunk_rows(i)
    begin, end = first * g.columns, last * g.columns
    run_first, run_last = begin // g.run, -(-end // g.run)
    codes = unpack(
        g, sections["codes"][run_first * g.run_bytes : run_last * g.run_bytes], run_last - run_first
    )
    scales, zeros, mins = chunk_scales(g, tables, sections, rows, run_first, run_last)
    table, stride = _books(g, tables, sections, first, last)
    start = run_first * g.run
    stop = min(run_last * g.run, rows * g.columns)
    is_whole = start == begin and stop == end
    target = out if is_whole else np.empty(stop - start, f32)
    parametric_decoding.decode(
        codes, int(e.quantizer), e.bits, g.scale_block, table, stride, scales, zeros, mins, target
    )
    if not is_whole:
        out[:] = target[begin - start : end - start]
    if e.has_outliers:
        kept = outliers.from_bytes(g, rows, sections["outliers"])
        inside = slice(*np.searchsorted(kept.places, (begin, end)).tolist())
        out[kept.places[inside] - begin] = kept.values[inside]


def unpack(geometry: Geometry, packed: Bytes, n_runs: int) -> Bytes:
    """The codes of whole runs, a byte each, with spare bytes after them, in the thread's own buffer."""
    from gguflow.kernels import bit_packing

    codes = scratch(n_runs * geometry.run + SPARE)
    if geometry.encoding.quantizer is Quantizer.TERNARY:
        bit_packing.unpack_trits(packed, geometry.run, codes)
    else:
        bit_packing.unpack(packed, geometry.packed_run(n_runs), geometry.stored_bits, codes)
    return codes


@np.errstate(all="ignore")
def chunk_scales(
    geometry: Geometry,
    tables: Mapping[str, Floats],
    sections: Mapping[str, Bytes],
    rows: int,
    first: int,
    last: int,
) -> tuple[Floats, Bytes, Floats]:
    """Scales, zero points and mins of blocks (or rows) [first, last) of a chunk, or else of the tables.

    Nested scales and mins are decoded.
    """
    e, n = geometry.encoding, geometry.n_scales(rows)
    if not e.has_chunk_scales:
        return table_scales(e, tables)
    zeros, mins = np.zeros(1, np.uint8), np.zeros(1, f32)
    if e.is_nested:
        meta = reals.from_bytes(sections["meta"], e.scale_type).reshape(-1, e.n_meta)[
            np.arange(first, last) // e.super_block
        ]
        codes = _unpacked_run(sections["scales"], n, e.scale_bits)[first:last]
        if e.nesting is Nesting.DYNAMIC:
            scales = codebooks.dynamic()[codes] * meta[:, 0] + tables["offset"][0]
        else:
            scales = meta[:, 0] * codes.astype(f32) + (meta[:, 1] if e.nesting is Nesting.OFFSET else f32(0))
    else:
        real = e.scale_type.nbytes
        scales = reals.from_bytes(sections["scales"][first * real : last * real], e.scale_type)
    if e.quantizer is Quantizer.AFFINE:
        zeros = _unpacked_run(sections["zeros"], n, e.min_bits)[first:last]
    elif e.quantizer is Quantizer.MIN and e.is_nested:
        mins = (
            meta[:, -2] * _unpacked_run(sections["zeros"], n, e.min_bits)[first:last].astype(f32)
            + meta[:, -1]
        )
    elif e.quantizer is Quantizer.MIN:
        mins = reals.from_bytes(sections["zeros"][first * real : last * real], e.scale_type)
    pad = np.zeros(last - first, f32)
    return (
        scales,
        zeros if zeros.size == last - first else pad.astype(np.uint8),
        mins if mins.size == last - first else pad,
    )


def _books(
    geometry: Geometry, tables: Mapping[str, Floats], sections: Mapping[str, Bytes], first: int, last: int
) -> tuple[Floats, int]:
    """Codebooks of rows [first, last), or those of the whole tensor, and the stride from one to the next."""
    e = geometry.encoding
    if e.has_row_codebooks:
        values = reals.from_bytes(sections["scales"], e.scale_type).reshape(-1, 1 << e.bits)
        return codebooks.pad(values[first:last])
    if e.has_table_codebooks:
        return codebooks.pad(tables["codebooks"].reshape(geometry.n_groups, -1))
    if e.codebook is Codebook.NONE:
        return codebooks.NO_BOOKS.bounds, codebooks.LOOKUP
    return codebooks.pad(codebooks.fixed_values(e)[None])


def _unpacked_run(section: Bytes, n: int, bits: int) -> Bytes:
    from gguflow.kernels import bit_packing

    codes = np.empty(n, np.uint8)
    bit_packing.unpack(section, n, bits, codes)
    return codes
