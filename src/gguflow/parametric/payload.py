"""Payload: the bytes of one encoded tensor, read: checked cheaply when opened, decoded by rows; what its
chunks hold is judged by `judging.check`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import gguflow.parametric.chunks as chunks
import gguflow.parametric.dequantizing as dequantizing
import gguflow.parametric.descriptor as descriptor
import gguflow.parametric.outliers as outliers
from gguflow.arrays import Bytes, Floats, read_only
from gguflow.errors import UsageError
from gguflow.parametric.axes import Quantizer, SourceType
from gguflow.parametric.descriptor import raise_finding
from gguflow.parametric.encoding import Encoding
from gguflow.parametric.geometry import CHUNK_ALIGNMENT, DESCRIPTOR_BYTES, INDEX_ENTRY_BYTES, Geometry

f32 = np.float32


class Slices(Protocol):
    """Bytes that are read when sliced."""

    @property
    def size(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Bytes: ...


class StoredBytes:
    """The bytes of a payload inside a file; slicing reads only the slice.

    read: returns bytes [start, stop) of the file.
    """

    def __init__(self, read: Callable[[int, int], Bytes], offset: int, nbytes: int) -> None:
        self.size = nbytes
        self._read = read
        self._offset = offset

    def __getitem__(self, part: slice) -> Bytes:
        start, stop, _ = part.indices(self.size)
        return self._read(self._offset + start, self._offset + max(start, stop))


def _sliceable(buffer: Any) -> Slices:
    if isinstance(buffer, np.ndarray):
        return buffer.reshape(-1).view(np.uint8)
    return np.frombuffer(buffer, np.uint8) if isinstance(buffer, (bytes, bytearray, memoryview)) else buffer


class Payload:
    """One encoded tensor; only its descriptor, tables and index are read at opening, and nothing is copied.

    buffer: exactly its bytes: uint8 in memory or mapped, or `Slices` of a file.
    file: named in errors.

    Raises a FileError (MalformedError, InvalidError, UnsupportedError, LimitError) with the first broken
    rule, E-001 to E-014.
    """

    def __init__(self, buffer: Any, file: str = "payload") -> None:
        self._bytes = _sliceable(buffer)
        self._file = file
        head = descriptor.parse(self._bytes[:DESCRIPTOR_BYTES].tobytes(), file)
        self.geometry: Geometry = head.geometry
        if self._bytes.size != head.payload_nbytes:
            raise_finding(
                file,
                "E-011",
                "the payload's length differs from the one in its descriptor",
                "$.payload_nbytes",
                56,
                self._bytes.size,
                head.payload_nbytes,
            )
        prefix = self._bytes[: self.geometry.prefix_nbytes].tobytes()
        if descriptor.digest(prefix) != prefix[descriptor.DIGEST_OFFSET : DESCRIPTOR_BYTES]:
            raise_finding(
                file,
                "E-012",
                "the digest of descriptor, tables and index does not match",
                "$.digest",
                descriptor.DIGEST_OFFSET,
            )
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
        """Offset of chunk i from the start of the payload, and its size in bytes."""
        if not 0 <= i < self.n_chunks:
            raise UsageError(f"there are {self.n_chunks} chunks, no chunk {i}")
        if self.encoding.is_fixed_size:
            return self.geometry.fixed_offset(i), self.geometry.chunk_nbytes(self.geometry.chunk_rows(i))
        offset, nbytes, _ = self._index[i]
        return offset, nbytes

    def chunk(self, i: int) -> Bytes:
        """The stored bytes of chunk i, padding included; a view."""
        offset, nbytes = self.chunk_span(i)
        return self._bytes[offset : offset + nbytes]

    # --- opening

    def _read_index(self, prefix: bytes) -> list[tuple[int, int, bytes]]:
        """Offset, size and digest of each chunk; chunks must fill the payload without gaps."""
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
                message = "a chunk has a wrong offset or an impossible size"
                raise_finding(
                    self._file, "E-013", message, f"$.index[{i}]", start, (offset, nbytes), (at, most)
                )
            entries.append((offset, nbytes, entry[16:]))
            at += nbytes
        if at != self.nbytes:
            raise_finding(
                self._file,
                "E-013",
                "the chunks do not fill the payload",
                "$.index",
                g.index_offset,
                at,
                self.nbytes,
            )
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
            elif (
                name == "zeros"
                and e.quantizer is Quantizer.AFFINE
                and ((values != np.rint(values)) | (values < 0) | (values >= 1 << e.bits)).any()
            ):
                problem = "a zero point is not a valid code"
            elif (
                name == "codebooks"
                and (np.diff(values.reshape(self.geometry.n_groups, -1), axis=1) < 0).any()
            ):
                problem = "a learned codebook is not ascending"
            if problem:
                raise_finding(self._file, "E-014", problem, f"$.tables.{name}", at)
            yield name, values
            at += 4 * count
        if any(prefix[at : self.geometry.index_offset]) or any(
            prefix[self.geometry.index_offset + self.geometry.index_nbytes :]
        ):
            raise_finding(self._file, "E-006", "padding must be zero", "$.padding", at)

    # --- decoding

    def decode_rows(
        self, first: int = 0, last: int | None = None, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Decode rows [first, last), reading only their chunks: float32 (float64 for lossless f64).

        first, last: rows of the tensor seen as a matrix of its last dimension; None is the end.
        out: the array to fill, C-contiguous [last - first, columns] of that type; None allocates one.

        Raises UsageError (no such rows), InvalidError (E-015 to E-017, E-023: a chunk that does not decode).
        """
        last = self.geometry.rows if last is None else last
        if not 0 <= first <= last <= self.geometry.rows:
            raise UsageError(f"there are {self.geometry.rows} rows, not {first} to {last}")
        dtype = np.dtype(
            np.float64 if self.encoding.is_lossless and self.source_type is SourceType.F64 else np.float32
        )
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
        """The original bytes of rows [first, last) of a lossless tensor: uint8[rows, bytes of a row]."""
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
            raw[start - first : stop - first] = self._raw_chunk(i, start - i * step, stop - i * step).reshape(
                -1, row_bytes
            )
        return raw

    def sections(self, i: int) -> dict[str, Bytes]:
        """The sections of chunk i after entropy decoding. Raises InvalidError (E-015 to E-017)."""
        chunk = self.chunk(i)
        if self._index and chunks.digest(chunk) != self._index[i][2]:
            raise_finding(
                self._file,
                "E-015",
                "the digest of a chunk does not match",
                f"$.chunks[{i}]",
                self.chunk_span(i)[0],
            )
        return chunks.disassemble(self.geometry, i, chunk, self._file)

    def _planes(self, i: int, first: int, last: int) -> tuple[Bytes, ...]:
        """Rows [first, last) of chunk i of a lossless tensor, as byte planes."""
        columns = self.geometry.columns
        sections = self.sections(i)
        return tuple(
            read_only(sections[f"plane {k}"][first * columns : last * columns])
            for k in range(self.source_type.nbytes)
        )

    def _raw_chunk(self, i: int, first: int, last: int) -> Bytes:
        """Rows [first, last) of chunk i of a lossless tensor, as raw bytes."""
        from gguflow.kernels import byte_planes

        planes = self._planes(i, first, last)
        raw = np.empty(planes[0].size * len(planes), np.uint8)
        byte_planes.merge(planes, raw)
        return raw

    def _lossless_values(self, i: int, first: int, last: int, out: NDArray[Any]) -> None:
        """Rows [first, last) of chunk i of a lossless tensor, as exact numbers into flat `out`."""
        from gguflow.kernels import byte_planes

        if self.source_type is SourceType.BF16:
            byte_planes.bfloat16_values(self._planes(i, first, last), out)
        else:
            dtype = {SourceType.F32: "<f4", SourceType.F16: "<f2", SourceType.F64: "<f8"}[self.source_type]
            out[:] = self._raw_chunk(i, first, last).view(dtype)

    def _decode_chunk(self, i: int, first: int, last: int, out: Floats) -> None:
        try:
            dequantizing.decode(self.geometry, self.tables, self.sections(i), i, first, last, out)
        except outliers.OutlierError as error:
            raise_finding(
                self._file,
                "E-023",
                f"the outliers are {error}",
                f"$.chunks[{i}].outliers",
                self.chunk_span(i)[0],
            )
