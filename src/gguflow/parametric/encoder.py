"""Encoder: the chunks of one tensor, in any order and on any thread, and the prefix that goes before them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gguflow.parametric.chunks as chunks
import gguflow.parametric.codebooks as codebooks
import gguflow.parametric.descriptor as descriptor
import gguflow.parametric.learning as learning
import gguflow.parametric.outliers as outliers
import gguflow.parametric.reals as reals
import gguflow.parametric.tables as tables
from gguflow.errors import NonFiniteError, UsageError
from gguflow.parametric.axes import Codebook, Quantizer, Range, SourceType
from gguflow.parametric.codebooks import Bounded
from gguflow.parametric.encoding import Encoding
from gguflow.parametric.geometry import Geometry

f32 = np.float32
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

SPARE = 16
"""Codes that the kernels may write behind the last one."""
_of_thread = threading.local()

UNNESTED_GROUP = 256
"""Blocks that are fitted before their codes are made where there is no super-block: a matter of speed."""


class Encoder:
    """Encodes one tensor.

    Where the encoding `needs_first_pass`, show every chunk to `observe`, then call `finish_observing`; or give them. Then `encode_chunk` each,
    and at last ask for the `prefix`, which goes before them and whose size is known beforehand.

    shape: in NumPy's order. source_type: what the weights were ("f32", "f16", "bf16", "f64"): for lossless the type of the raw bytes, else a remark.
    given: float32 arrays by name, as `Payload.tables`: a codebook, scales or an offset from elsewhere.

    Raises ShapeError, UsageError.
    """

    def __init__(
        self, encoding: Encoding, shape: Sequence[int], source_type: SourceType | str = "f32", given: Mapping[str, Any] | None = None
    ) -> None:
        if isinstance(source_type, str):
            if source_type.upper() not in SourceType.__members__:
                raise UsageError(f"weights of type {source_type} have no encoding; there are f32, f16, bf16, f64")
            source_type = SourceType[source_type.upper()]
        self.encoding = encoding
        self.geometry = Geometry(encoding, tuple(int(n) for n in shape), source_type)
        self.tables: tables.Tables = {}
        self._observed: dict[int, dict[str, Any]] = {}
        self._counts: NDArray[np.int64] | None = None
        self._lock = threading.Lock()
        self._bounded: Bounded | None = None
        if given is not None:
            self._settle({name: np.ascontiguousarray(values, f32).reshape(-1) for name, values in given.items()})
        elif not encoding.needs_first_pass:
            self._settle({})

    @property
    def prefix_nbytes(self) -> int:
        """Bytes before the first chunk; known from the shape."""
        return self.geometry.prefix_nbytes

    # --- the first pass ---------------------------------------------------------------------------------------------------------------------------

    def observe(self, x: Floats, i: int, importance: Floats | None = None) -> None:
        """Look at chunk i for the tables. x: float32[rows, columns]. Each chunk once, in any order, from any thread.

        importance: float32[columns], the same for all chunks: what codebooks are learned with.

        Raises NonFiniteError, with the index in the flattened chunk.
        """
        raise_non_finite(_flat(x))
        if not self.encoding.has_table_codebooks:
            self._observed[i] = tables.observed(self.geometry, _flat(x))
            return
        counts = learning.new_counts(self.geometry)
        learning.count(self.geometry, _flat(x), importance, counts)
        with self._lock:
            self._counts = counts if self._counts is None else self._counts + counts
            self._observed[i] = {}

    def finish_observing(self) -> None:
        """Make the tables of what was seen. Raises UsageError where a chunk is missing."""
        if not self.encoding.needs_first_pass:
            return
        if len(self._observed) != self.geometry.n_chunks:
            raise UsageError(f"{self.encoding.name} learns from all {self.geometry.n_chunks} chunks; {len(self._observed)} were observed")
        if self._counts is not None:
            self._settle({"codebooks": learning.of_counts(self.encoding, self._counts)})
        else:
            self._settle(tables.joined(self.geometry, self._observed))

    def _settle(self, found: tables.Tables) -> None:
        sizes = {name: values.size for name, values in found.items()}
        if sizes != self.geometry.table_sizes:
            raise UsageError(f"the tables of {self.encoding.name} are {self.geometry.table_sizes}, not {sizes}")
        self.tables = found
        if "codebooks" in found:
            self._bounded = codebooks.bounded(found["codebooks"].reshape(self.geometry.n_groups, -1))
        elif self.encoding.codebook is not Codebook.NONE and not self.encoding.is_learned:
            self._bounded = codebooks.fixed_bounds(self.encoding)
        else:
            self._bounded = codebooks.NO_BOOKS

    # --- chunks -----------------------------------------------------------------------------------------------------------------------------------

    def encode_chunk(self, i: int, x: NDArray[Any], importance: Floats | None = None, out: Bytes | None = None) -> Bytes:
        """The bytes of chunk i, padding included. Pure: any order, any thread.

        x: float32[rows, columns] of the chunk; for lossless the raw little-endian bytes, of any values.
        importance: float32[columns], how much the error of a column matters, where the encoding searches or learns.
        out: where to put it, uint8[nbytes of the chunk], where sizes are fixed.

        Raises NonFiniteError, with the index in the flattened chunk.
        """
        rows = self.geometry.chunk_rows(i)
        chunk = out
        if self.encoding.is_fixed_size and out is None:
            chunk = np.empty(self.geometry.chunk_nbytes(rows), np.uint8)
        if self.encoding.is_lossless:
            sections = self._planes(rows, x)
        else:
            if self._bounded is None:
                raise UsageError(f"{self.encoding.name} needs its tables before its chunks: observe, then finish_observing")
            flat = _flat(x)
            if flat.size != rows * self.geometry.columns:
                raise UsageError(f"chunk {i} has {rows} rows of {self.geometry.columns} weights, not {flat.size} weights")
            sections = self._sections(rows, flat, importance, chunk)
        return chunks.assembled(self.geometry, rows, sections, chunk)

    def _planes(self, rows: int, raw: NDArray[Any]) -> dict[str, Bytes]:
        from gguflow.kernels import byte_planes

        size = self.geometry.source_type.nbytes
        raw = np.ascontiguousarray(raw).reshape(-1).view(np.uint8)
        if raw.size != rows * self.geometry.columns * size:
            raise UsageError(f"{rows} rows of {self.geometry.columns} weights are {rows * self.geometry.columns * size} bytes, not {raw.size}")
        planes = np.empty((size, raw.size // size), np.uint8)
        byte_planes.split(read_only(raw), size, planes)
        return {f"plane {k}": planes[k] for k in range(size)}

    def _sections(self, rows: int, x: Floats, importance: Floats | None, chunk: Bytes | None) -> dict[str, Bytes]:
        """The sections by name. The codes, which are nearly all, are packed where they belong in the chunk, if there is one."""
        sections = {}
        e = self.encoding
        if e.has_outliers or e.has_row_codebooks or e.range is Range.PERCENTILE:
            raise_non_finite(x)
        if e.has_outliers:
            kept = outliers.chosen(self.geometry, rows, x)
            sections["outliers"] = outliers.to_bytes(self.geometry, rows, kept)
            x = x.copy()
            x[kept.places] = 0
        codes = self._room_for_codes(rows, chunk)
        if e.has_row_codebooks:
            books = learning.of_rows(self.encoding, x.reshape(rows, -1), importance)
            sections["scales"] = reals.to_bytes(books.reshape(-1), e.scale_type)
            self._encode_given(x, codebooks.bounded(books), codes)
        elif self.geometry.n_scales(rows):
            sections |= self._fit(rows, x, importance, codes)
        else:
            self._encode_given(x, self._bounded or codebooks.NO_BOOKS, codes)
        codes[x.size :] = 0
        sections["codes"] = self._packed(rows, codes, chunk)
        return sections

    def _fit(self, rows: int, x: Floats, importance: Floats | None, codes: Bytes) -> dict[str, Bytes]:
        """Scales of the chunk's own, and the codes."""
        from gguflow.kernels import parametric as kernels

        e, n = self.encoding, self.geometry.n_scales(rows)
        bounded = self._bounded or codebooks.NO_BOOKS
        meta = np.zeros(self.geometry.n_super_blocks(rows) * e.n_meta, f32)
        found = kernels.Scales(np.zeros(n, f32), np.zeros(n, f32), np.zeros(n, np.uint8), np.zeros(n, np.uint8), meta)
        offset = self.tables["offset"][0] if e.needs_offset else f32(0)
        nested = kernels.Nested(codebooks.dynamic(), codebooks.dynamic_places(), offset)
        limits, shrinks = self._limits(x), np.ones(1, f32)
        bad = kernels.fit_and_encode(read_only(x), self._parameters(), limits, shrinks, kernels.Books(*bounded), nested, found, codes)
        if bad >= 0:
            raise_non_finite(x, int(bad))
        if e.is_nested:
            sections = {"scales": _packed_run(found.scale_codes, e.scale_bits), "meta": reals.to_bytes(found.meta, e.scale_type)}
        else:
            sections = {"scales": reals.to_bytes(found.scales, e.scale_type)}
        if e.min_bits:
            sections["zeros"] = _packed_run(found.zeros, e.min_bits)
        elif e.quantizer is Quantizer.MIN:
            sections["zeros"] = reals.to_bytes(found.mins, e.scale_type)
        return sections

    def _encode_given(self, x: Floats, books: Bounded, codes: Bytes) -> None:
        """Codes with the scales of the tables, or with none."""
        from gguflow.kernels import parametric as kernels

        scales, zeros, mins = table_scales(self.encoding, self.tables)
        given = kernels.Scales(scales, mins, np.zeros(1, np.uint8), zeros, np.zeros(1, f32))
        bad = kernels.encode_given(read_only(x), self._parameters(), kernels.Books(*books), given, codes)
        if bad >= 0:
            raise_non_finite(x, int(bad))

    def _parameters(self) -> Any:
        from gguflow.kernels import parametric as kernels

        e = self.encoding
        group = e.super_block or UNNESTED_GROUP
        block = self.geometry.scale_block
        return kernels.Parameters(int(e.quantizer), e.bits, block, int(e.scale_type), int(e.nesting), e.scale_bits, e.min_bits, group)

    def _limits(self, x: Floats) -> Floats:
        """The magnitude at which the range of each block ends; one for all where it is given."""
        e = self.encoding
        if e.range is Range.CLIP:
            return np.full(1, e.clip, f32)
        if e.range is not Range.PERCENTILE:
            return np.full(1, np.inf, f32)
        block = self.geometry.scale_block
        whole = np.abs(x[: x.size // block * block]).reshape(-1, block)
        limits = np.partition(whole, _rank(e.percentile, block), axis=1)[:, _rank(e.percentile, block)]
        rest = np.abs(x[whole.size :])
        if rest.size:
            limits = np.append(limits, np.partition(rest, _rank(e.percentile, rest.size))[_rank(e.percentile, rest.size)])
        return np.ascontiguousarray(limits, f32)

    def _room_for_codes(self, rows: int, chunk: Bytes | None) -> Bytes:
        """Memory for the codes, a byte each: codes of a byte go straight to their place, where the kernels may write behind them."""
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
        if self.encoding.quantizer is Quantizer.TERNARY:
            bit_packing.pack_trits(codes, g.run, packed)
        else:
            bit_packing.pack(codes, g.packed_run(g.n_runs(rows)), g.stored_bits, packed)
        return packed

    # --- the prefix -------------------------------------------------------------------------------------------------------------------------------

    def prefix(self, chunk_sizes: Sequence[int] | None = None, chunk_digests: Sequence[bytes] | None = None) -> bytes:
        """What goes before the chunks: descriptor, tables, index; `prefix_nbytes` long.

        chunk_sizes, chunk_digests: of each chunk in order, as `encode_chunk` gave it; not needed where sizes are fixed. See `chunk_digest`.
        """
        g = self.geometry
        if self.encoding.is_fixed_size:
            chunk_sizes, index = [], b""
            payload_nbytes = g.payload_nbytes
        else:
            if chunk_sizes is None or chunk_digests is None or not len(chunk_sizes) == len(chunk_digests) == g.n_chunks:
                raise UsageError(f"the index of {self.encoding.name} needs the sizes and digests of all {g.n_chunks} chunks")
            entries, at = [], g.prefix_nbytes
            for size, digest in zip(chunk_sizes, chunk_digests, strict=True):
                entries.append(at.to_bytes(8, "little") + size.to_bytes(8, "little") + digest)
                at += size
            index, payload_nbytes = b"".join(entries), at
        content = descriptor.build(g, payload_nbytes) + b"".join(self.tables[name].astype("<f4").tobytes() for name in g.table_sizes)
        content = content.ljust(g.index_offset, b"\0") + index
        return descriptor.sealed(content.ljust(g.prefix_nbytes, b"\0"))


def table_scales(e: Encoding, tables: Mapping[str, Floats]) -> tuple[Floats, Bytes, Floats]:
    """Scales, zero points and mins from the tables, as the kernels take them; neutral where codebooks hold the weights themselves."""
    scales = tables.get("scales", np.ones(1, f32))
    zeros = tables.get("zeros", np.zeros(scales.size, f32))
    if e.quantizer is Quantizer.MIN:
        return scales, np.zeros(scales.size, np.uint8), zeros
    return scales, zeros.astype(np.uint8), np.zeros(scales.size, f32)


def _rank(percentile: int, n: int) -> int:
    """Which of n ascending magnitudes is the percentile: at least that share of them is no larger."""
    return max(-(-percentile * n // 1_000_000) - 1, 0)


def _packed_run(codes: Bytes, bits: int) -> Bytes:
    from gguflow.kernels import bit_packing

    packed = np.empty(-(-codes.size * bits // 8), np.uint8)
    bit_packing.pack(codes, codes.size, bits, packed)
    return packed


def scratch(size: int) -> Bytes:
    """Memory that a thread uses again for its next chunk: new pages would cost as much as the codes in them. What is in it is left from before."""
    if getattr(_of_thread, "codes", np.empty(0)).size < size:
        _of_thread.codes = np.empty(size, np.uint8)
    codes: Bytes = _of_thread.codes[:size]
    return codes


def _flat(x: NDArray[Any]) -> Floats:
    return np.ascontiguousarray(x, f32).reshape(-1)


def raise_non_finite(x: Floats, start: int = 0) -> None:
    """Raise NonFiniteError for the first NaN or infinity from place `start` on, if there is one."""
    from gguflow.kernels import finite

    bad = int(finite.first_non_finite(read_only(x[start:])))
    if bad >= 0:
        raise NonFiniteError(f"{x[start + bad]} at index {start + bad} of a chunk cannot be quantized", start + bad)


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """The same memory, not writable: mapped files are, and one signature for both means that a kernel is compiled once."""
    view = array.view()
    view.flags.writeable = False
    return view
