"""Payload: the bytes of one encoded tensor, read: checked cheaply when opened, decoded by rows, judged throughout by `check_values`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import gguflow.parametric.chunks as chunks
import gguflow.parametric.codebooks as codebooks
import gguflow.parametric.descriptor as descriptor
import gguflow.parametric.outliers as outliers
import gguflow.parametric.reals as reals
from gguflow.errors import FileError, Finding, UsageError
from gguflow.parametric.axes import Codebook, Nesting, Quantizer, SourceType
from gguflow.parametric.descriptor import refuse
from gguflow.parametric.encoder import SPARE, read_only, scratch, table_scales
from gguflow.parametric.encoding import Encoding
from gguflow.parametric.geometry import CHUNK_ALIGNMENT, DESCRIPTOR_BYTES, INDEX_ENTRY_BYTES, Geometry

f32 = np.float32
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Slices(Protocol):
    """Bytes that are read when they are sliced."""

    @property
    def size(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Bytes: ...


def _sliceable(buffer: Any) -> Slices:
    if isinstance(buffer, np.ndarray):
        return buffer.reshape(-1).view(np.uint8)
    return np.frombuffer(buffer, np.uint8) if isinstance(buffer, (bytes, bytearray, memoryview)) else buffer


class Payload:
    """One encoded tensor.

    buffer: its bytes, no more and no fewer: uint8 in memory or mapped, or `Slices` of a file; nothing is copied, and only descriptor, tables and
    index are read here.
    file: named in errors.

    Raises a FileError (MalformedError, InvalidError, UnsupportedError, LimitError) with the first rule broken, E-001 to E-014.
    """

    def __init__(self, buffer: Any, file: str = "payload") -> None:
        self._bytes = _sliceable(buffer)
        self._file = file
        head = descriptor.parse(self._bytes[:DESCRIPTOR_BYTES].tobytes(), file)
        self.geometry: Geometry = head.geometry
        if self._bytes.size != head.payload_nbytes:
            refuse(file, "E-011", "the payload has another length than it says", "$.payload_nbytes", 56, self._bytes.size, head.payload_nbytes)
        prefix = self._bytes[: self.geometry.prefix_nbytes].tobytes()
        if descriptor.digest(prefix) != prefix[descriptor.DIGEST_OFFSET : DESCRIPTOR_BYTES]:
            refuse(file, "E-012", "the digest of descriptor, tables and index does not match", "$.digest", descriptor.DIGEST_OFFSET)
        self._index = self._read_index(prefix)
        self.tables: dict[str, Floats] = dict(self._read_tables(prefix))

    @property
    def encoding(self) -> Encoding:
        return self.geometry.encoding

    @property
    def shape(self) -> tuple[int, ...]:
        """In NumPy's order."""
        return self.geometry.shape

    @property
    def source_type(self) -> SourceType:
        return self.geometry.source_type

    @property
    def n_chunks(self) -> int:
        return self.geometry.n_chunks

    @property
    def nbytes(self) -> int:
        return int(self._bytes.size)

    def chunk_span(self, i: int) -> tuple[int, int]:
        """Where chunk i lies: offset from the start of the payload, and bytes."""
        if not 0 <= i < self.n_chunks:
            raise UsageError(f"there are {self.n_chunks} chunks, no chunk {i}")
        if self.encoding.is_fixed_size:
            return self.geometry.fixed_offset(i), self.geometry.chunk_nbytes(self.geometry.chunk_rows(i))
        offset, nbytes, _ = self._index[i]
        return offset, nbytes

    def chunk(self, i: int) -> Bytes:
        """The bytes of chunk i as they are stored, padding included; a view."""
        offset, nbytes = self.chunk_span(i)
        return self._bytes[offset : offset + nbytes]

    # --- opening ----------------------------------------------------------------------------------------------------------------------------------

    def _read_index(self, prefix: bytes) -> list[tuple[int, int, bytes]]:
        """Offset, size and digest of each chunk; they follow each other without a gap, and end with the payload."""
        g = self.geometry
        if g.encoding.is_fixed_size:
            return []
        entries, at = [], g.prefix_nbytes
        for i in range(g.n_chunks):
            start = g.index_offset + INDEX_ENTRY_BYTES * i
            entry = prefix[start : start + INDEX_ENTRY_BYTES]
            offset, nbytes = int.from_bytes(entry[:8], "little"), int.from_bytes(entry[8:16], "little")
            most = g.chunk_nbytes(g.chunk_rows(i))
            if offset != at or not 0 < nbytes <= most or nbytes % CHUNK_ALIGNMENT:
                message = "a chunk lies elsewhere, or has a size that it cannot have"
                refuse(self._file, "E-013", message, f"$.index[{i}]", start, (offset, nbytes), (at, most))
            entries.append((offset, nbytes, entry[16:]))
            at += nbytes
        if at != self.nbytes:
            refuse(self._file, "E-013", "the chunks do not fill the payload", "$.index", g.index_offset, at, self.nbytes)
        return entries

    def _read_tables(self, prefix: bytes) -> Iterator[tuple[str, Floats]]:
        at, e = DESCRIPTOR_BYTES, self.encoding
        for name, count in self.geometry.table_sizes.items():
            values = np.frombuffer(prefix[at : at + 4 * count], "<f4").astype(f32, copy=False)
            problem = ""
            if not np.isfinite(values).all():
                problem = "a value is not finite"
            elif name in ("scales", "offset") and (values < 0).any():
                problem = "a scale is negative"
            elif name == "zeros" and e.quantizer is Quantizer.AFFINE and ((values != np.rint(values)) | (values < 0) | (values >= 1 << e.bits)).any():
                problem = "a zero point is no code"
            elif name == "codebooks" and (np.diff(values.reshape(self.geometry.n_groups, -1), axis=1) < 0).any():
                problem = "a learned codebook is not ascending"
            if problem:
                refuse(self._file, "E-014", problem, f"$.tables.{name}", at)
            yield name, values
            at += 4 * count
        if any(prefix[at : self.geometry.index_offset]) or any(prefix[self.geometry.index_offset + self.geometry.index_nbytes :]):
            refuse(self._file, "E-006", "padding is zero", "$.padding", at)

    # --- decoding ---------------------------------------------------------------------------------------------------------------------------------

    def decode_rows(self, first: int = 0, last: int | None = None, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows [first, last) of the tensor seen as a matrix of its last dimension: float32 (float64 of lossless f64), touching only their chunks.

        out: where to put them, C-contiguous [last - first, columns] of that type.

        Raises UsageError (no such rows), InvalidError (E-015 to E-017, E-023: a chunk that does not decode).
        """
        last = self.geometry.rows if last is None else last
        if not 0 <= first <= last <= self.geometry.rows:
            raise UsageError(f"there are {self.geometry.rows} rows, not {first} to {last}")
        dtype = np.dtype(np.float64 if self.encoding.is_lossless and self.source_type is SourceType.F64 else np.float32)
        if out is None:
            out = np.empty((last - first, self.geometry.columns), dtype)
        step = self.geometry.rows_per_chunk
        for i in range(first // step, -(-last // step)):
            start, stop = max(first, i * step), min(last, (i + 1) * step)
            target = out[start - first : stop - first].reshape(-1)
            if self.encoding.is_lossless:
                self._lossless_values(i, start - i * step, stop - i * step, target)
            else:
                self._decode_chunk(i, start - i * step, stop - i * step, target)
        return out

    def raw_rows(self, first: int = 0, last: int | None = None) -> Bytes:
        """Rows [first, last) of a lossless tensor as the bytes that they were: uint8[rows, bytes of a row]."""
        if not self.encoding.is_lossless:
            raise UsageError(f"{self.encoding.name} does not keep the bytes of its source")
        last = self.geometry.rows if last is None else last
        if not 0 <= first <= last <= self.geometry.rows:
            raise UsageError(f"there are {self.geometry.rows} rows, not {first} to {last}")
        step = self.geometry.rows_per_chunk
        row_bytes = self.geometry.columns * self.source_type.nbytes
        raw = np.empty((last - first, row_bytes), np.uint8)
        for i in range(first // step, -(-last // step)):
            start, stop = max(first, i * step), min(last, (i + 1) * step)
            raw[start - first : stop - first] = self._raw_chunk(i, start - i * step, stop - i * step).reshape(-1, row_bytes)
        return raw

    def sections(self, i: int) -> dict[str, Bytes]:
        """The sections of chunk i as they are before entropy coding. Raises InvalidError (E-015 to E-017)."""
        chunk = self.chunk(i)
        if self._index and chunks.digest(chunk) != self._index[i][2]:
            refuse(self._file, "E-015", "the digest of a chunk does not match", f"$.chunks[{i}]", self.chunk_span(i)[0])
        return chunks.taken_apart(self.geometry, i, chunk, self._file)

    def _planes(self, i: int, first: int, last: int) -> tuple[Bytes, ...]:
        """Rows of a chunk of a lossless tensor, as byte planes."""
        columns = self.geometry.columns
        sections = self.sections(i)
        return tuple(read_only(sections[f"plane {k}"][first * columns : last * columns]) for k in range(self.source_type.nbytes))

    def _raw_chunk(self, i: int, first: int, last: int) -> Bytes:
        """The same as raw bytes."""
        from gguflow.kernels import byte_planes

        planes = self._planes(i, first, last)
        raw = np.empty(planes[0].size * len(planes), np.uint8)
        byte_planes.merge(planes, raw)
        return raw

    def _lossless_values(self, i: int, first: int, last: int, out: NDArray[Any]) -> None:
        """The same as numbers, into flat `out`; exact."""
        from gguflow.kernels import byte_planes

        if self.source_type is SourceType.BF16:
            byte_planes.bfloat16_values(self._planes(i, first, last), out)
        else:
            dtype = {SourceType.F32: "<f4", SourceType.F16: "<f2", SourceType.F64: "<f8"}[self.source_type]
            out[:] = self._raw_chunk(i, first, last).view(dtype)

    def _decode_chunk(self, i: int, first: int, last: int, out: Floats) -> None:
        """Rows of a chunk into flat `out`: the runs that hold them are unpacked and decoded, the rest is left alone."""
        from gguflow.kernels import parametric_decoding

        g, e = self.geometry, self.encoding
        sections = self.sections(i)
        rows = g.chunk_rows(i)
        begin, end = first * g.columns, last * g.columns
        run_first, run_last = begin // g.run, -(-end // g.run)
        codes = self.unpacked(sections["codes"][run_first * g.run_bytes : run_last * g.run_bytes], run_last - run_first)
        scales, zeros, mins = self.chunk_scales(sections, rows, run_first, run_last)
        table, stride = self._books(sections, first, last)
        start = run_first * g.run
        stop = min(run_last * g.run, rows * g.columns)
        exact = start == begin and stop == end
        target = out if exact else np.empty(stop - start, f32)
        parametric_decoding.decode(codes, int(e.quantizer), e.bits, g.scale_block, table, stride, scales, zeros, mins, target)
        if not exact:
            out[:] = target[begin - start : end - start]
        if e.has_outliers:
            kept = self._outliers(i, rows, sections["outliers"])
            inside = slice(*np.searchsorted(kept.places, (begin, end)).tolist())
            out[kept.places[inside] - begin] = kept.values[inside]

    def unpacked(self, packed: Bytes, n_runs: int) -> Bytes:
        """The codes of whole runs, a byte each, and some room behind them; in memory that the thread uses again for the next."""
        from gguflow.kernels import bit_packing

        codes = scratch(n_runs * self.geometry.run + SPARE)
        if self.encoding.quantizer is Quantizer.TERNARY:
            bit_packing.unpack_trits(packed, self.geometry.run, codes)
        else:
            bit_packing.unpack(packed, self.geometry.packed_run(n_runs), self.geometry.stored_bits, codes)
        return codes

    @np.errstate(all="ignore")
    def chunk_scales(self, sections: dict[str, Bytes], rows: int, first: int, last: int) -> tuple[Floats, Bytes, Floats]:
        """Scales, zero points and mins of the blocks (or rows) first to last of a chunk, nested ones made whole; else those of the tables."""
        e, n = self.encoding, self.geometry.n_scales(rows)
        if not e.has_chunk_scales:
            return table_scales(e, self.tables)
        zeros, mins = np.zeros(1, np.uint8), np.zeros(1, f32)
        if e.is_nested:
            meta = reals.from_bytes(sections["meta"], e.scale_type).reshape(-1, e.n_meta)[np.arange(first, last) // e.super_block]
            codes = _unpacked_run(sections["scales"], n, e.scale_bits)[first:last]
            if e.nesting is Nesting.DYNAMIC:
                scales = codebooks.dynamic()[codes] * meta[:, 0] + self.tables["offset"][0]
            else:
                scales = meta[:, 0] * codes.astype(f32) + (meta[:, 1] if e.nesting is Nesting.OFFSET else f32(0))
        else:
            real = e.scale_type.nbytes
            scales = reals.from_bytes(sections["scales"][first * real : last * real], e.scale_type)
        if e.quantizer is Quantizer.AFFINE:
            zeros = _unpacked_run(sections["zeros"], n, e.min_bits)[first:last]
        elif e.quantizer is Quantizer.MIN and e.is_nested:
            mins = meta[:, -2] * _unpacked_run(sections["zeros"], n, e.min_bits)[first:last].astype(f32) + meta[:, -1]
        elif e.quantizer is Quantizer.MIN:
            mins = reals.from_bytes(sections["zeros"][first * real : last * real], e.scale_type)
        pad = np.zeros(last - first, f32)
        return scales, zeros if zeros.size == last - first else pad.astype(np.uint8), mins if mins.size == last - first else pad

    def _books(self, sections: dict[str, Bytes], first: int, last: int) -> tuple[Floats, int]:
        e = self.encoding
        if e.has_row_codebooks:
            values = reals.from_bytes(sections["scales"], e.scale_type).reshape(-1, 1 << e.bits)
            return codebooks.padded(values[first:last])
        if e.has_table_codebooks:
            return codebooks.padded(self.tables["codebooks"].reshape(self.geometry.n_groups, -1))
        if e.codebook is Codebook.NONE:
            return codebooks.NO_BOOKS.bounds, codebooks.LOOKUP
        return codebooks.padded(codebooks.fixed_values(e)[None])

    def _outliers(self, i: int, rows: int, section: Bytes) -> outliers.Outliers:
        try:
            return outliers.from_bytes(self.geometry, rows, section)
        except outliers.OutlierError as error:
            refuse(self._file, "E-023", f"the outliers are {error}", f"$.chunks[{i}].outliers", self.chunk_span(i)[0])

    # --- judging ----------------------------------------------------------------------------------------------------------------------------------

    def check_values(self) -> Iterator[Finding]:
        """Every rule about the chunks that this payload breaks, chunk by chunk."""
        import gguflow.parametric.judging as judging

        for i in range(self.n_chunks):
            try:
                sections = self.sections(i)
            except FileError as error:
                yield error.finding
            else:
                yield from judging.findings(self, i, sections)


def _unpacked_run(section: Bytes, n: int, bits: int) -> Bytes:
    from gguflow.kernels import bit_packing

    codes = np.empty(n, np.uint8)
    bit_packing.unpack(section, n, bits, codes)
    return codes
