"""Checks of the values in a chunk that decodes: rules E-018 to E-023."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import gguflow.parametric.chunks as chunks
import gguflow.parametric.dequantizing as dequantizing
import gguflow.parametric.outliers as outliers
import gguflow.parametric.proving as proving
import gguflow.parametric.reals as reals
from gguflow.arrays import Bytes
from gguflow.errors import FileError, Finding
from gguflow.parametric.axes import Nesting, Quantizer
from gguflow.parametric.payload import Payload


def check(payload: Payload) -> Iterator[Finding]:
    """Every rule about the chunks that a payload breaks, chunk by chunk; of one that does not decode, E-015
    to E-017.
    """
    for i in range(payload.n_chunks):
        try:
            sections = payload.sections(i)
        except FileError as error:
            yield error.finding
        else:
            yield from _check_chunk(payload, i, sections)


def _check_chunk(payload: Payload, i: int, sections: dict[str, Bytes]) -> Iterator[Finding]:
    """The broken rules of chunk i. sections: as they are before entropy coding."""
    g, e = payload.geometry, payload.encoding
    offset, _ = payload.chunk_span(i)
    where = f"$.chunks[{i}]"
    rows = g.chunk_rows(i)
    if _has_stray_bytes(payload, i):
        yield Finding("E-018", "padding must be zero", where, offset)
    if e.is_lossless:
        yield from _of_numbers(payload, i, where, offset)
        return
    if e.has_chunk_scales or e.has_row_codebooks:
        yield from _of_scales(payload, rows, sections, where, offset)
    if e.quantizer is Quantizer.AFFINE and e.has_chunk_scales:
        zeros = dequantizing.chunk_scales(g, payload.tables, sections, rows, 0, g.n_scales(rows))[1]
        if (zeros >= 1 << e.bits).any():
            yield Finding(
                "E-020",
                "a zero point is larger than every code",
                f"{where}.zeros",
                offset,
                int(zeros.max()),
                f"at most {(1 << e.bits) - 1}",
            )
    yield from _of_codes(payload, rows, sections["codes"], where, offset)
    if e.has_outliers:
        try:
            outliers.from_bytes(g, rows, sections["outliers"])
        except outliers.OutlierError as error:
            yield Finding("E-023", f"the outliers are {error}", f"{where}.outliers", offset)


def _of_numbers(payload: Payload, i: int, where: str, offset: int) -> Iterator[Finding]:
    g = payload.geometry
    first = i * g.rows_per_chunk
    raw = payload.raw_rows(first, first + g.chunk_rows(i)).reshape(-1)
    bad = proving.first_non_finite_number(payload.source_type, raw)
    if bad >= 0:
        at = first * g.columns + bad
        yield Finding("V-003", f"weights are NaN or infinite, the first is weight {at}", where, offset)


def _of_scales(
    payload: Payload, rows: int, sections: dict[str, Bytes], where: str, offset: int
) -> Iterator[Finding]:
    g, e = payload.geometry, payload.encoding
    if e.has_row_codebooks:
        values = reals.from_bytes(sections["scales"], e.scale_type).reshape(-1, 1 << e.bits)
        if not np.isfinite(values).all() or (np.diff(values, axis=1) < 0).any():
            yield Finding("E-019", "a codebook must be finite and ascending", f"{where}.scales", offset)
        return
    scales, _, mins = dequantizing.chunk_scales(g, payload.tables, sections, rows, 0, g.n_scales(rows))
    if not (np.isfinite(scales).all() and np.isfinite(mins).all()):
        yield Finding("E-019", "a scale or min is not finite", where, offset)
    elif e.nesting is not Nesting.DYNAMIC and (scales < 0).any():
        yield Finding("E-019", "a scale is negative", where, offset, float(scales.min()))


def _of_codes(payload: Payload, rows: int, section: Bytes, where: str, offset: int) -> Iterator[Finding]:
    g, e = payload.geometry, payload.encoding
    n = rows * g.columns
    if e.quantizer is Quantizer.TERNARY and (section > 242).any():
        yield Finding(
            "E-021",
            "a byte does not hold five trits",
            f"{where}.codes",
            offset,
            int(section.max()),
            "at most 242",
        )
        return
    codes = dequantizing.unpack(g, section, g.n_runs(rows))[: g.n_runs(rows) * g.run]
    if g.stored_bits > e.bits and e.quantizer is not Quantizer.TERNARY and (codes >> e.bits).any():
        yield Finding(
            "E-021", f"a code has more than {e.bits} bits", f"{where}.codes", offset, int(codes.max())
        )
    if e.quantizer is Quantizer.ABSMAX and (codes[:n] == 1 << (e.bits - 1)).any():
        yield Finding(
            "E-021",
            "the lowest code must not be used",
            f"{where}.codes",
            offset,
            -(1 << (e.bits - 1)),
            severity="warning",
        )
    if codes[n:].any() or _has_stray_bits(payload, section):
        yield Finding("E-022", "codes after the last weight must be zero", f"{where}.codes", offset)


def _has_stray_bits(payload: Payload, section: Bytes) -> bool:
    """Whether unused bits at the end of a run are set."""
    g = payload.geometry
    ends = section.reshape(-1, g.run_bytes)[:, -1]
    if payload.encoding.quantizer is Quantizer.TERNARY:
        return bool(g.run % 5) and bool((ends % 3 ** (5 - g.run % 5)).any())
    left = -g.run * g.stored_bits % 8
    return bool((ends & ((1 << left) - 1)).any())


def _has_stray_bytes(payload: Payload, i: int) -> bool:
    """Whether bytes between or after the sections are set, in a chunk that `disassemble` accepted."""
    chunk = payload.chunk(i).copy()
    for offset, nbytes in chunks.spans(payload.geometry, i, chunk):
        chunk[offset : offset + nbytes] = 0
    return bool(chunk.any())
