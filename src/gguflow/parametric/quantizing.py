"""Sections from the weights of a chunk: separate outliers, fit scales, make and pack codes, by kernels."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import gguflow.parametric.codebooks as codebooks
import gguflow.parametric.learning as learning
import gguflow.parametric.outliers as outliers
import gguflow.parametric.reals as reals
from gguflow.arrays import Bytes, Floats, read_only
from gguflow.errors import NonFiniteError
from gguflow.parametric.axes import Quantizer, Range
from gguflow.parametric.codebooks import Bounded
from gguflow.parametric.encoding import Encoding
from gguflow.parametric.geometry import Geometry

f32 = np.float32

SPARE = 16
"""Number of codes that the kernels may write after the last one."""
GROUP_WEIGHTS = 8192
"""Weights fitted before their codes are made, without super-blocks: 32 KiB, to stay in the L1 cache."""

_of_thread = threading.local()


@dataclass(frozen=True)
class ChunkQuantizer:
    """Makes the sections of chunks; any thread may call it.

    geometry: the layout of the payload.
    tables: the tables of the tensor.
    bounded: its codebooks, unless rows have their own.
    """

    geometry: Geometry
    tables: Mapping[str, Floats]
    bounded: Bounded

    def sections(
        self, rows: int, x: Floats, importance: Floats | None, chunk: Bytes | None
    ) -> dict[str, Bytes]:
        """The sections by name; codes are packed into `chunk` directly if it is given."""
        sections = {}
        e = self.geometry.encoding
        if e.has_outliers or e.has_row_codebooks or e.range is Range.PERCENTILE:
            raise_non_finite(x)
        if e.has_outliers:
            kept = outliers.choose(self.geometry, rows, x)
            sections["outliers"] = outliers.to_bytes(self.geometry, rows, kept)
            x = x.copy()
            x[kept.places] = 0
        codes = self._room_for_codes(rows, chunk)
        if e.has_row_codebooks:
            books = learning.of_rows(self.geometry.encoding, x.reshape(rows, -1), importance)
            sections["scales"] = reals.to_bytes(books.reshape(-1), e.scale_type)
            self._encode_given(x, codebooks.with_bounds(books), codes)
        elif self.geometry.n_scales(rows):
            sections |= self._fit(rows, x, importance, codes)
        else:
            self._encode_given(x, self.bounded, codes)
        codes[x.size :] = 0
        sections["codes"] = self._packed(rows, codes, chunk)
        return sections

    def _fit(self, rows: int, x: Floats, importance: Floats | None, codes: Bytes) -> dict[str, Bytes]:
        """Fit the scales of the chunk, and write its codes."""
        from gguflow.kernels import parametric as kernels

        e, n = self.geometry.encoding, self.geometry.n_scales(rows)
        meta = np.zeros(self.geometry.n_super_blocks(rows) * e.n_meta, f32)
        found = kernels.Scales(
            np.zeros(n, f32), np.zeros(n, f32), np.zeros(n, np.uint8), np.zeros(n, np.uint8), meta
        )
        offset = self.tables["offset"][0] if e.needs_offset else f32(0)
        nested = kernels.Nested(codebooks.dynamic(), codebooks.dynamic_places(), offset)
        limits, shrinks = self._limits(x), self._shrinks(x, n, importance)
        bad = kernels.fit_and_encode(
            read_only(x),
            self._parameters(),
            limits,
            shrinks,
            kernels.Books(*self.bounded),
            nested,
            found,
            codes,
        )
        if bad >= 0:
            raise_non_finite(x, int(bad))
        if e.is_nested:
            sections = {
                "scales": _packed_run(found.scale_codes, e.scale_bits),
                "meta": reals.to_bytes(found.meta, e.scale_type),
            }
        else:
            sections = {"scales": reals.to_bytes(found.scales, e.scale_type)}
        if e.min_bits:
            sections["zeros"] = _packed_run(found.zeros, e.min_bits)
        elif e.quantizer is Quantizer.MIN:
            sections["zeros"] = reals.to_bytes(found.mins, e.scale_type)
        return sections

    def _encode_given(self, x: Floats, books: Bounded, codes: Bytes) -> None:
        """Write codes with the scales of the tables, or without scales."""
        from gguflow.kernels import parametric as kernels

        n = -(-x.size // self.geometry.scale_block)
        scales, zeros, mins = (
            np.resize(values, n) for values in table_scales(self.geometry.encoding, self.tables)
        )
        given = kernels.Scales(scales, mins, np.zeros(1, np.uint8), zeros, np.zeros(1, f32))
        bad = kernels.encode_given(read_only(x), self._parameters(), kernels.Books(*books), given, codes)
        if bad >= 0:
            raise_non_finite(x, int(bad))

    def _parameters(self) -> Any:
        from gguflow.kernels import parametric as kernels

        e = self.geometry.encoding
        group = e.super_block or max(1, GROUP_WEIGHTS // self.geometry.scale_block)
        block = self.geometry.scale_block
        return kernels.Parameters(
            int(e.quantizer),
            e.bits,
            block,
            int(e.scale_type),
            int(e.nesting),
            e.scale_bits,
            e.min_bits,
            group,
        )

    def _limits(self, x: Floats) -> Floats:
        """The magnitude at which the range of each block ends; a single one if the encoding gives it."""
        e = self.geometry.encoding
        if e.range is Range.CLIP:
            return np.full(1, e.clip, f32)
        if e.range is not Range.PERCENTILE:
            return np.full(1, np.inf, f32)
        block = self.geometry.scale_block
        whole = np.abs(x[: x.size // block * block]).reshape(-1, block)
        limits = np.partition(whole, _rank(e.percentile, block), axis=1)[:, _rank(e.percentile, block)]
        rest = np.abs(x[whole.size :])
        if rest.size:
            limits = np.append(
                limits, np.partition(rest, _rank(e.percentile, rest.size))[_rank(e.percentile, rest.size)]
            )
        return np.ascontiguousarray(limits, f32)

    def _shrinks(self, x: Floats, n: int, importance: Floats | None) -> Floats:
        """The part of its range that each of n blocks covers: all of it, or the best of several trials."""
        if self.geometry.encoding.range is not Range.SEARCH:
            return np.ones(1, f32)
        from gguflow.kernels import parametric as kernels
        from gguflow.kernels import range_search

        values = codebooks.ascending(self.geometry.encoding)
        weights = (
            np.zeros(0, f32)
            if importance is None
            else np.tile(importance.reshape(-1), x.size // importance.size)
        )
        shrinks = np.empty(n, f32)
        range_search.search(
            read_only(x), weights, self._parameters(), kernels.Books(*self.bounded), values, shrinks
        )
        return shrinks

    def _room_for_codes(self, rows: int, chunk: Bytes | None) -> Bytes:
        """Memory for the codes, a byte each: the chunk itself if codes are bytes and spare bytes follow."""
        n_codes = self.geometry.n_runs(rows) * self.geometry.run
        if chunk is not None and self.geometry.stored_bits == 8 and chunk.size >= n_codes + SPARE:
            return chunk[: n_codes + SPARE]
        return scratch(n_codes + SPARE)

    def _packed(self, rows: int, codes: Bytes, chunk: Bytes | None) -> Bytes:
        from gguflow.kernels import bit_packing

        g = self.geometry
        nbytes = g.n_runs(rows) * g.run_bytes
        if chunk is not None and np.may_share_memory(codes, chunk):
            return codes[:nbytes]
        packed = np.empty(nbytes, np.uint8) if chunk is None else chunk[:nbytes]
        if self.geometry.encoding.quantizer is Quantizer.TERNARY:
            bit_packing.pack_trits(codes, g.run, packed)
        else:
            bit_packing.pack(codes, g.packed_run(g.n_runs(rows)), g.stored_bits, packed)
        return packed


def table_scales(e: Encoding, tables: Mapping[str, Floats]) -> tuple[Floats, Bytes, Floats]:
    """Scales, zero points and mins from the tables, for the kernels; neutral if codebooks hold weights."""
    scales = tables.get("scales", np.ones(1, f32))
    zeros = tables.get("zeros", np.zeros(scales.size, f32))
    if e.quantizer is Quantizer.MIN:
        return scales, np.zeros(scales.size, np.uint8), zeros
    return scales, zeros.astype(np.uint8), np.zeros(scales.size, f32)


def _rank(percentile: int, n: int) -> int:
    """Index of the percentile in n ascending magnitudes: at least that share of them is not larger."""
    return max(-(-percentile * n // 1_000_000) - 1, 0)


def _packed_run(codes: Bytes, bits: int) -> Bytes:
    from gguflow.kernels import bit_packing

    packed = np.empty(-(-codes.size * bits // 8), np.uint8)
    bit_packing.pack(codes, codes.size, bits, packed)
    return packed


def scratch(size: int) -> Bytes:
    """A buffer that the thread reuses, with stale contents: new pages cost as much as making the codes."""
    if getattr(_of_thread, "codes", np.empty(0)).size < size:
        _of_thread.codes = np.empty(size, np.uint8)
    codes: Bytes = _of_thread.codes[:size]
    return codes


def raise_non_finite(x: Floats, start: int = 0) -> None:
    """Raise NonFiniteError for the first NaN or infinity at or after index `start`, if there is one."""
    from gguflow.kernels import finite

    bad = int(finite.first_non_finite(read_only(x[start:])))
    if bad >= 0:
        raise NonFiniteError(
            f"{x[start + bad]} at index {start + bad} of a chunk cannot be quantized", start + bad
        )
