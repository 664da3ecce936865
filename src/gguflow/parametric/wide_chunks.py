"""Chunks of one long row, encoded in pieces: the same bytes as in one go, in memory for a few pieces.

A chunk holds whole rows, and a row may have up to 2**28 weights. Where scales are of blocks, a piece is some
blocks, and what it makes of them is a part of each section. Where a row has one scale, a first pass finds the
extremes of the row; each piece is then encoded behind a head of `HEAD` weights that holds them, so that it
gets the row's scale, and the codes of the head are dropped. Lossless weights are taken apart piece by piece
anyway.

What needs all weights of a chunk at once (outliers by their share, learned codebooks, means and searched
ranges of rows) has no pieces: then the whole chunk must fit the memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gguflow.arrays import Bytes, Floats, read_only
from gguflow.parametric.axes import Granularity, Quantizer, Range
from gguflow.parametric.geometry import WIDEST_TARGET, Geometry
from gguflow.parametric.quantizing import ChunkQuantizer, raise_non_finite

HEAD = 40
"""Weights before each piece that hold the row's extremes: whole bytes of codes of any width, or trits."""

_BYTES_PER_WEIGHT = 16
"""Memory that a weight of a piece takes at the most: packed, as float32, as a code, and in the sections."""


def is_wide(geometry: Geometry) -> bool:
    """Whether a chunk is one row, longer than any chunk of several rows."""
    return geometry.columns > WIDEST_TARGET


def piece_unit(geometry: Geometry) -> int | None:
    """Weights of which the pieces of a wide chunk are multiples, so that sections can be joined; None where
    it cannot be cut.
    """
    e = geometry.encoding
    if e.is_lossless:
        return 1
    if e.has_outliers or e.has_row_codebooks or e.has_table_codebooks or e.has_table_scales:
        return None
    if e.granularity is Granularity.BLOCK:
        scales = max(e.super_block, 1)
        whole_bytes = math.lcm(*(8 // math.gcd(8, scales * bits) for bits in (e.scale_bits, e.min_bits)))
        return e.block * scales * whole_bytes
    is_ranged = e.quantizer not in (Quantizer.TERNARY, Quantizer.SIGN) and e.range in (Range.FULL, Range.CLIP)
    return HEAD if e.granularity is Granularity.ROW and is_ranged and not e.is_nested else None


def whole_nbytes(geometry: Geometry) -> int:
    """Memory that the largest chunk takes when it is encoded in one go."""
    rows = min(geometry.rows_per_chunk, geometry.rows)
    n = rows * geometry.columns
    if geometry.encoding.is_lossless:
        return n * geometry.source_type.nbytes + 2 * geometry.chunk_nbytes(rows)
    copies = 3 if geometry.encoding.has_outliers or geometry.encoding.has_row_codebooks else 1
    return n * (4 * copies + 1) + geometry.chunk_nbytes(rows)


def piece_nbytes(n: int) -> int:
    """Memory that a piece of so many weights takes."""
    return n * _BYTES_PER_WEIGHT


def piece_weights(geometry: Geometry, nbytes: int) -> int:
    """Weights of a piece that takes at most so much memory, 0 where not even the smallest does."""
    unit = piece_unit(geometry)
    return 0 if unit is None else min(nbytes // _BYTES_PER_WEIGHT, WIDEST_TARGET) // unit * unit


class WideChunk:
    """Encodes the pieces of a chunk that is one row.

    geometry: of the tensor.
    quantizer: with the tensor's tables; None for lossless encodings.
    """

    def __init__(self, geometry: Geometry, quantizer: ChunkQuantizer | None) -> None:
        self.geometry = geometry
        self.quantizer = quantizer
        self.extremes: list[tuple[np.float32, np.float32]] = []
        self.peaks: dict[int, Floats] = {}

    @property
    def needs_extremes(self) -> bool:
        """Whether all pieces are to be shown to `observe_extremes` before the first is encoded."""
        return (
            self.geometry.encoding.granularity is Granularity.ROW and not self.geometry.encoding.is_lossless
        )

    def observe_extremes(self, x: Floats) -> None:
        """Look at a piece: float32[n]. Any order, any thread. Raises NonFiniteError, with the index in it."""
        from gguflow.kernels import block_statistics

        raise_non_finite(x)
        bottoms, tops = np.empty((2, 1), np.float32)
        block_statistics.ranges(read_only(x), x.size, bottoms, tops)
        self.extremes.append((bottoms[0], tops[0]))

    def observe_peaks(self, piece: int, x: Floats) -> None:
        """Look at piece number `piece` for the offset of nested scales. Any order, any thread.

        Raises NonFiniteError, with the index in the piece.
        """
        from gguflow.kernels import block_statistics

        raise_non_finite(x)
        peaks = np.empty(-(-x.size // self.geometry.scale_block), np.float32)
        block_statistics.peaks(read_only(x), self.geometry.scale_block, peaks)
        self.peaks[piece] = peaks

    def observed(self) -> dict[str, Any]:
        """What `tables.observed` gives of the whole chunk, after `observe_peaks` has seen all pieces."""
        each = (value for peaks in self.peaks.values() for value in peaks.tolist())
        return {"sum": math.fsum(each), "count": sum(peaks.size for peaks in self.peaks.values())}

    def sections(self, x: Floats, importance: Floats | None) -> Mapping[str, Bytes]:
        """The parts of each section that a piece makes: float32[n].

        importance: float32[n] of its columns, where the encoding takes it.
        Raises NonFiniteError, with the index in the piece.
        """
        if self.quantizer is None:
            raise ValueError("lossless weights are not quantized")
        if not self.needs_extremes:
            return self._sections_of(x, importance)
        head = np.zeros(HEAD, np.float32)
        head[:] = min(bottom for bottom, _ in self.extremes)
        head[1] = max(top for _, top in self.extremes)
        found = dict(self._sections_of(np.concatenate([head, x]), None))
        dropped = HEAD // 5 if self.geometry.stored_bits == 0 else HEAD * self.geometry.stored_bits // 8
        found["codes"] = found["codes"][dropped:]
        return found

    def planes(self, raw: Bytes) -> list[Bytes]:
        """The parts of each byte plane that a piece makes: raw little-endian bytes of its weights."""
        from gguflow.kernels import byte_planes

        size = self.geometry.source_type.nbytes
        planes = np.empty((size, raw.size // size), np.uint8)
        byte_planes.split(read_only(raw), size, planes)
        return list(planes)

    def _sections_of(self, x: Floats, importance: Floats | None) -> Mapping[str, Bytes]:
        """Sections of a chunk that holds nothing but these weights, as one row."""
        if self.quantizer is None:
            raise ValueError("lossless weights are not quantized")
        alone = Geometry(self.geometry.encoding, (x.size,), self.geometry.source_type, 1)
        return replace(self.quantizer, geometry=alone).sections(1, x, importance, None)

    def joined(self, parts: list[Mapping[str, Bytes]]) -> dict[str, Bytes]:
        """The sections but for the codes, from those of all pieces in order."""
        if self.needs_extremes:
            return {name: section for name, section in parts[0].items() if name != "codes"}
        names = [name for name in parts[0] if name != "codes"]
        return {name: np.concatenate([part[name] for part in parts]) for name in names}
