"""Encoder: the chunks of one tensor, in any order and on any thread, and the prefix that precedes them."""

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
import gguflow.parametric.tables as tables
from gguflow.arrays import Bytes, Floats, read_only
from gguflow.errors import UsageError
from gguflow.parametric.axes import Codebook, SourceType
from gguflow.parametric.encoding import Encoding
from gguflow.parametric.geometry import Geometry
from gguflow.parametric.quantizing import ChunkQuantizer, raise_non_finite
from gguflow.parametric.wide_chunks import WideChunk

f32 = np.float32


class Encoder:
    """Encodes one tensor.

    If the encoding `needs_first_pass`, pass every chunk to `observe`, then call `finish_observing`; or give
    the tables. Then call `encode_chunk` for each chunk, and finally `prefix`, whose size is known in advance
    and which precedes the chunks.

    encoding: the encoding to use.
    shape: of the tensor, in NumPy's order.
    source_type: type of the weights ("f32", "f16", "bf16", "f64"); for lossless the type of the raw bytes,
        otherwise only a note.
    given: float32 arrays by name, as in `Payload.tables`: a codebook, scales or an offset from elsewhere.

    Raises ShapeError, UsageError.
    """

    def __init__(
        self,
        encoding: Encoding,
        shape: Sequence[int],
        source_type: SourceType | str = "f32",
        given: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(source_type, str):
            if source_type.upper() not in SourceType.__members__:
                raise UsageError(
                    f"cannot encode weights of type {source_type}; known are f32, f16, bf16, f64"
                )
            source_type = SourceType[source_type.upper()]
        self.encoding = encoding
        self.geometry = Geometry(encoding, tuple(int(n) for n in shape), source_type)
        self.tables: tables.Tables = {}
        self._observed: dict[int, dict[str, Any]] = {}
        self._counts: NDArray[np.int64] | None = None
        self._lock = threading.Lock()
        self._quantizer: ChunkQuantizer | None = None
        if given is not None:
            self._set_tables(
                {name: np.ascontiguousarray(values, f32).reshape(-1) for name, values in given.items()}
            )
        elif not encoding.needs_first_pass:
            self._set_tables({})

    @property
    def prefix_nbytes(self) -> int:
        """Bytes before the first chunk; known from the shape."""
        return self.geometry.prefix_nbytes

    # --- the first pass

    def observe(self, x: Floats, i: int, importance: Floats | None = None) -> None:
        """Add chunk i to the statistics for the tables: each chunk once, in any order, from any thread.

        x: float32[rows, columns].
        i: number of the chunk.
        importance: as in `encode_chunk`; it weights learned codebooks.

        Raises NonFiniteError, with the index in the flattened chunk.
        """
        raise_non_finite(_flat(x))
        if not self.encoding.has_table_codebooks:
            self._observed[i] = tables.observe(self.geometry, _flat(x))
            return
        counts = learning.new_counts(self.geometry)
        learning.count(self.geometry, _flat(x), importance, counts)
        with self._lock:
            self._counts = counts if self._counts is None else self._counts + counts
            self._observed[i] = {}

    def observe_wide(self, wide: WideChunk, i: int) -> None:
        """As `observe`, of a chunk whose pieces have been shown to `wide`."""
        self._observed[i] = wide.observed()

    def wide_chunk(self) -> WideChunk:
        """What encodes a chunk of one long row in pieces; where `wide_chunks.piece_unit` finds some."""
        return WideChunk(self.geometry, self._quantizer)

    def finish_observing(self) -> None:
        """Compute the tables from the observed chunks.

        Raises UsageError if a chunk is missing.
        """
        if not self.encoding.needs_first_pass:
            return
        if len(self._observed) != self.geometry.n_chunks:
            raise UsageError(
                f"{self.encoding.name} learns from all {self.geometry.n_chunks} chunks; "
                f"{len(self._observed)} were observed"
            )
        if self._counts is not None:
            self._set_tables({"codebooks": learning.of_counts(self.encoding, self._counts)})
        else:
            self._set_tables(tables.join(self.geometry, self._observed))

    def _set_tables(self, found: tables.Tables) -> None:
        sizes = {name: values.size for name, values in found.items()}
        if sizes != self.geometry.table_sizes:
            raise UsageError(
                f"the tables of {self.encoding.name} are {self.geometry.table_sizes}, not {sizes}"
            )
        self.tables = found
        if "codebooks" in found:
            bounded = codebooks.with_bounds(found["codebooks"].reshape(self.geometry.n_groups, -1))
        elif self.encoding.codebook is not Codebook.NONE and not self.encoding.is_learned:
            bounded = codebooks.fixed_bounds(self.encoding)
        else:
            bounded = codebooks.NO_BOOKS
        self._quantizer = ChunkQuantizer(self.geometry, found, bounded)

    # --- chunks

    def encode_chunk(
        self, i: int, x: NDArray[Any], importance: Floats | None = None, out: Bytes | None = None
    ) -> Bytes:
        """The bytes of chunk i, padding included; a pure function, for any order and any thread.

        i: number of the chunk.
        x: float32[rows, columns] of the chunk; for lossless the raw little-endian bytes, of any values.
        importance: float32[columns], or [rows, columns] if rows differ: the weight of errors, used only by
            encodings that search or learn.
        out: the buffer to fill, uint8[nbytes of the chunk]; only if sizes are fixed.

        Raises NonFiniteError, with the index in the flattened chunk.
        """
        rows = self.geometry.chunk_rows(i)
        chunk = out
        if self.encoding.is_fixed_size and out is None:
            chunk = np.empty(self.geometry.chunk_nbytes(rows), np.uint8)
        if self.encoding.is_lossless:
            sections = self._planes(rows, x)
        else:
            if self._quantizer is None:
                raise UsageError(
                    f"{self.encoding.name} needs its tables before its chunks: observe, then finish_observing"
                )
            flat = _flat(x)
            if flat.size != rows * self.geometry.columns:
                raise UsageError(
                    f"chunk {i} has {rows} rows of {self.geometry.columns} weights, not {flat.size} weights"
                )
            sections = self._quantizer.sections(rows, flat, importance, chunk)
        return chunks.assemble(self.geometry, rows, sections, chunk)

    def _planes(self, rows: int, raw: NDArray[Any]) -> dict[str, Bytes]:
        from gguflow.kernels import byte_planes

        size = self.geometry.source_type.nbytes
        raw = np.ascontiguousarray(raw).reshape(-1).view(np.uint8)
        if raw.size != rows * self.geometry.columns * size:
            raise UsageError(
                f"{rows} rows of {self.geometry.columns} weights are "
                f"{rows * self.geometry.columns * size} bytes, not {raw.size}"
            )
        planes = np.empty((size, raw.size // size), np.uint8)
        byte_planes.split(read_only(raw), size, planes)
        return {f"plane {k}": planes[k] for k in range(size)}

    # --- the prefix

    def prefix(
        self, chunk_sizes: Sequence[int] | None = None, chunk_digests: Sequence[bytes] | None = None
    ) -> bytes:
        """The bytes before the chunks: descriptor, tables and index, `prefix_nbytes` long.

        chunk_sizes: size in bytes of each chunk, in order; not needed if sizes are fixed.
        chunk_digests: the `chunk_digest` of each; not needed if sizes are fixed.
        """
        g = self.geometry
        if self.encoding.is_fixed_size:
            chunk_sizes, index = [], b""
            payload_nbytes = g.payload_nbytes
        else:
            if (
                chunk_sizes is None
                or chunk_digests is None
                or not len(chunk_sizes) == len(chunk_digests) == g.n_chunks
            ):
                raise UsageError(
                    f"the index of {self.encoding.name} needs sizes and digests of all {g.n_chunks} chunks"
                )
            entries, at = [], g.prefix_nbytes
            for size, digest in zip(chunk_sizes, chunk_digests, strict=True):
                entries.append(at.to_bytes(8, "little") + size.to_bytes(8, "little") + digest)
                at += size
            index, payload_nbytes = b"".join(entries), at
        content = descriptor.build(g, payload_nbytes) + b"".join(
            self.tables[name].astype("<f4").tobytes() for name in g.table_sizes
        )
        content = content.ljust(g.index_offset, b"\0") + index
        return descriptor.sealed(content.ljust(g.prefix_nbytes, b"\0"))


def _flat(x: NDArray[Any]) -> Floats:
    return np.ascontiguousarray(x, f32).reshape(-1)
