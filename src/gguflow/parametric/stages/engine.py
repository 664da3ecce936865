"""Payloads in a conversion: the chunks of a tensor as jobs of the engine, written in their order.

A payload's size may be known only at its end, so a chunk gets its place when it is finished. Each is
journaled with its size: an interrupted payload goes on behind the chunks that are there. The prefix is
written last, for it has the index. Chunks that are one long row are encoded in pieces (`wide_chunks.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguflow.arrays import Bytes, Floats
from gguflow.blocks import FORMATS
from gguflow.container.integrity import LEAF_WEIGHTS, new_leaf_digest, tensor_digest
from gguflow.conversion.engine import DRAIN, Event, Jobs, Resumed
from gguflow.conversion.leaf_jobs import non_finite_error
from gguflow.conversion.output import Output
from gguflow.conversion.plan import PlannedTensor
from gguflow.conversion.proving import not_finite_error, numbers_of
from gguflow.errors import NonFiniteError, UsageError
from gguflow.models.reading import ModelReader
from gguflow.parametric import Encoder, Encoding, chunk_digest, entropy, proving, wide_chunks
from gguflow.parametric.axes import Entropy
from gguflow.parametric.chunks import assemble
from gguflow.parametric.geometry import (
    CHUNK_ALIGNMENT,
    SECTION_ALIGNMENT,
    SECTION_HEADER_BYTES,
    aligned,
)
from gguflow.parametric.stages import transcoding
from gguflow.parametric.stages.planning import geometry_of
from gguflow.quantization import look

READ_BACK = 1 << 20
"""Bytes that are read back from the file at a time."""

_FEW = 4096
"""Weights of which nearly always one is not zero."""


def jobs(reader: ModelReader, output: Output, i: int, most_nbytes: int) -> Jobs:
    """The jobs that write a payload of an output, whose place is known.

    reader: of the source.
    output: the file.
    i: number of the tensor, over all shards.
    most_nbytes: what `check_memory` returned.
    """
    return _Payload(reader, output, i, most_nbytes).jobs()


class _Payload:
    """One payload on its way into an output.

    reader: of the source.
    output: the file; tensor i has its place there.
    most_nbytes: memory that a chunk, or a piece of one, may take.
    """

    def __init__(self, reader: ModelReader, output: Output, i: int, most_nbytes: int) -> None:
        self.reader = reader
        self.output = output
        self.i = i
        self.most_nbytes = most_nbytes
        self.planned = output.planned(i)
        self.tensor = self.planned.tensor
        self.encoding = _encoding(self.planned)
        self.keeps_codes = transcoding.exact(self.tensor, self.encoding) == self.encoding
        self.geometry = geometry_of(self.encoding, self.tensor)
        self.sizes: list[int] = []
        self.digests: list[bytes] = []
        self.start = output.start(i)
        self.position = self.start + self.geometry.prefix_nbytes
        self._leaf_digests = _StreamDigests(self.geometry.prefix_nbytes)

    def jobs(self) -> Jobs:
        """What is left to do of the payload; the last job lets the output know its size and digest."""
        given = None
        if self.keeps_codes and self.encoding.needs_offset:
            given = {"offset": transcoding.offset(self.reader, self.tensor)}
        self.encoder = Encoder(self.encoding, self.geometry.shape, self.geometry.source_type, given)
        self.geometry = self.encoder.geometry
        if self.encoding.needs_first_pass and not self.keeps_codes:
            yield from self._first_pass()
            yield DRAIN
            self.encoder.finish_observing()
        yield Resumed(list(self._resume()))
        n_resumed = len(self.sizes)
        if self.encoding.is_lossless:
            for number in range(n_resumed):
                yield from self._look_at(number)
        for number in range(n_resumed, self.geometry.n_chunks):
            if self._is_in_pieces:
                yield from _WideChunkJobs(self, number).jobs()
            else:
                yield _ChunkJob(self, number)
        yield _LastJob(self)

    @property
    def _is_in_pieces(self) -> bool:
        return not self.keeps_codes and is_in_pieces(self.planned)

    def weights_of(self, number: int) -> tuple[int, int]:
        """The weights [first, last) of a chunk."""
        first = number * self.geometry.rows_per_chunk * self.geometry.columns
        return first, first + self.geometry.chunk_rows(number) * self.geometry.columns

    def importance_of(self, first: int, last: int) -> Floats | None:
        """Of the columns; where weights [first, last) lie in several matrices of a stack, of the columns of
        each row.
        """
        if self.planned.importance is None:
            return None
        columns = self.geometry.columns
        rows_per_matrix = self.geometry.shape[-2] if len(self.geometry.shape) > 1 else 1
        matrices = np.arange(first // columns, -(-last // columns)) // rows_per_matrix
        found = [
            self.planned.importance.of_matrix(int(i), columns) for i in range(matrices[0], matrices[-1] + 1)
        ]
        if self.geometry.rows > rows_per_matrix:  # all columns of a matrix that was never used count the same
            found = [one if one.any() else np.ones_like(one) for one in found]
        return found[0] if len(found) == 1 else np.stack(found)[matrices - matrices[0]]

    @contextlib.contextmanager
    def refusing(self, first: int, weights: Floats) -> Iterator[None]:
        """Name a weight that the encoder refuses as one of the tensor. first: the number of the first of
        them.
        """
        try:
            yield
        except NonFiniteError as error:
            bad = weights[error.index]
            raise non_finite_error(self.tensor, first + error.index, bad) from None

    def raw(self, first: int, last: int) -> Bytes:
        """The little-endian bytes of weights [first, last), for lossless encodings, proved to be finite, or
        marked as not.

        Raises InvalidError (M-100) unless NaN and infinity are allowed.
        """
        packed = self.reader.read(self.tensor, first, last)
        if packed is None:
            packed = self.reader.floats(self.tensor, first, last).view(np.uint8)
        numbers = FORMATS[self.geometry.source_type.name.lower()]
        bad = look(packed, numbers).block
        if bad >= 0:
            if not self.output.allow_non_finite:
                number = packed[bad * numbers.type_size :][: numbers.type_size].copy()
                raise not_finite_error(self.tensor, first + bad, numbers_of(number, numbers)[0])
            self.output.marks.non_finite.add(self.i)
        return packed

    def record(self, nbytes: int, digest: bytes) -> list[Event]:
        """The next chunk is written at `position`."""
        number = len(self.sizes)
        self.output.record_chunk(self.i, number, nbytes, digest, self.position)
        return [self._count(nbytes, digest)]

    def mark(self, *content: NDArray[Any]) -> None:
        """Note whether the tensor holds something else than zeros."""
        marked = self.output.marks.with_content
        if self.i not in marked and any(part[:_FEW].any() or part.any() for part in content):
            marked.add(self.i)

    def feed(self, content: Bytes) -> None:
        """The next bytes of the payload, for its digest."""
        self._leaf_digests.update(content)

    def complete(self) -> None:
        """Write the prefix, now that every chunk is there, and let the output know size and digest."""
        prefix = self.encoder.prefix(self.sizes, self.digests)
        self.output.file.write(prefix, self.start)
        nbytes = self.position - self.start
        first = self.output.file.read(min(self._leaf_digests.read_back, nbytes), self.start)
        padding = -nbytes % self.planned.alignment
        self.output.finish_payload(self.i, nbytes, self._leaf_digests.digest(first, padding))

    def _count(self, nbytes: int, digest: bytes) -> Event:
        number = len(self.sizes)
        self.sizes.append(nbytes)
        self.digests.append(digest)
        self.position += nbytes
        return self.planned, self.geometry.chunk_rows(number) * self.geometry.columns, nbytes

    def _first_pass(self) -> Jobs:
        for number in range(self.geometry.n_chunks):
            if not self._is_in_pieces:
                yield _ObserveJob(self, number)
                continue
            wide, (start, _) = self.encoder.wide_chunk(), self.weights_of(number)
            for k, (first, last) in enumerate(pieces_of(self.planned, self.most_nbytes)):
                yield _PieceJob(self, start + first, start + last, _observe_peaks(wide, k), None)
            yield DRAIN
            self.encoder.observe_wide(wide, number)

    def _look_at(self, number: int) -> Jobs:
        """A look at the weights of a lossless chunk that an earlier run wrote, perhaps with other options."""
        start, stop = self.weights_of(number)
        pieces = pieces_of(self.planned, self.most_nbytes) if self._is_in_pieces else [(0, stop - start)]
        for first, last in pieces:
            yield _PieceJob(self, start + first, start + last, _look, None)

    def _resume(self) -> Iterator[Event]:
        """Take over the chunks, from the first on, that the journal claims and the partial file holds."""
        for number in range(self.geometry.n_chunks):
            digest, nbytes = self.output.claims.chunks.get((self.i, number), (b"", 0))
            if not 0 < nbytes <= self.geometry.chunk_nbytes(self.geometry.chunk_rows(number)):
                return
            if self.digest_back(nbytes) != digest:
                return
            for content in self._read_back(nbytes):
                self.feed(content)
            self.output.resumed_nbytes += nbytes
            self.output.marks.with_content.add(self.i)  # what it holds is not looked at again
            yield self._count(nbytes, digest)

    def digest_back(self, nbytes: int) -> bytes:
        """The digest of the next chunk, of so many bytes, as it is in the file."""
        found = new_leaf_digest()
        for content in self._read_back(nbytes):
            found.update(content)
        return bytes(found.digest())

    def _read_back(self, nbytes: int) -> Iterator[Bytes]:
        for start in range(self.position, self.position + nbytes, READ_BACK):
            stop = min(start + READ_BACK, self.position + nbytes)
            yield np.frombuffer(self.output.file.read(stop - start, start), np.uint8)

    def finish_wide(self, nbytes: int) -> list[Event]:
        """The next chunk was written in pieces: its digest is that of what is in the file."""
        for content in self._read_back(nbytes):
            self.feed(content)
        return self.record(nbytes, self.digest_back(nbytes))


class _StreamDigests:
    """The digests of a payload's leaves, fed with the bytes behind its prefix, which comes last.

    A leaf here is 2**20 bytes: the payload is a tensor of I8.
    """

    def __init__(self, prefix_nbytes: int) -> None:
        self.read_back = -(-prefix_nbytes // LEAF_WEIGHTS) * LEAF_WEIGHTS
        """Bytes from the start whose leaves hold some of the prefix."""
        self._position = prefix_nbytes
        self._digest, self._filled = new_leaf_digest(), 0
        self._leaves: list[bytes] = []

    def update(self, content: Bytes) -> None:
        rest = content[max(self.read_back - self._position, 0) :]
        self._position += content.size
        while rest.size:
            if self._filled == LEAF_WEIGHTS:
                self._end_leaf()
            part = rest[: LEAF_WEIGHTS - self._filled]
            self._digest.update(part)
            self._filled += part.size
            rest = rest[part.size :]

    def digest(self, first: bytes, padding: int) -> bytes:
        """The digest of the tensor.

        first: its first `read_back` bytes, or as many as there are.
        padding: zero bytes behind it.
        """
        leaves = [first[at : at + LEAF_WEIGHTS] for at in range(0, len(first), LEAF_WEIGHTS)]
        if self._filled:
            self._digest.update(bytes(padding))
            self._end_leaf()
        else:
            leaves[-1] += bytes(padding)
        return tensor_digest([*map(_digest_of, leaves), *self._leaves])

    def _end_leaf(self) -> None:
        self._leaves.append(bytes(self._digest.digest()))
        self._digest, self._filled = new_leaf_digest(), 0


def _digest_of(content: bytes) -> bytes:
    digest = new_leaf_digest()
    digest.update(content)
    return bytes(digest.digest())


class _LastJob(Resumed):
    """The end of a payload."""

    def __init__(self, payload: _Payload) -> None:
        super().__init__([])
        self.payload = payload

    def finish(self) -> list[Event]:
        self.payload.complete()
        return self.events


class _ObserveJob:
    """The look at one chunk before the first is encoded."""

    def __init__(self, payload: _Payload, number: int) -> None:
        self.payload = payload
        self.number = number
        self.first, self.last = payload.weights_of(number)
        self.held_nbytes = wide_chunks.whole_nbytes(payload.geometry)

    def prefetch(self) -> None:
        self.payload.reader.prefetch(self.payload.tensor, self.first, self.last)

    def perform(self) -> None:
        payload = self.payload
        weights = payload.reader.floats(payload.tensor, self.first, self.last)
        with payload.refusing(self.first, weights):
            importance = payload.importance_of(self.first, self.last)
            payload.encoder.observe(weights, self.number, importance)
        payload.reader.done(payload.tensor, self.first, self.last)

    def finish(self) -> list[Event]:
        return []


class _ChunkJob(_ObserveJob):
    """A chunk that is encoded in one go."""

    chunk: Bytes
    digest: bytes

    def perform(self) -> None:
        """Raises InvalidError for NaN and infinity; a lossless encoding keeps them if that is allowed."""
        self.chunk = self._source_codes() if self.payload.keeps_codes else self._encoded()
        self.payload.reader.done(self.payload.tensor, self.first, self.last)
        self.digest = chunk_digest(self.chunk)

    def finish(self) -> list[Event]:
        payload = self.payload
        payload.output.file.write(self.chunk, payload.position)
        payload.feed(self.chunk)
        nbytes = self.chunk.size
        del self.chunk
        return payload.record(nbytes, self.digest)

    def _source_codes(self) -> Bytes:
        """Codes and scales as the source has them."""
        payload = self.payload
        sections = transcoding.sections(payload.reader, payload.tensor, payload.geometry, self.number)
        payload.mark(*sections.values())
        rows = payload.geometry.chunk_rows(self.number)
        is_fixed = payload.encoding.is_fixed_size
        room = np.empty(payload.geometry.chunk_nbytes(rows), np.uint8) if is_fixed else None
        return assemble(payload.geometry, rows, sections, room)

    def _encoded(self) -> Bytes:
        payload = self.payload
        if payload.encoding.is_lossless:
            raw = payload.raw(self.first, self.last)
            payload.mark(raw)
            return payload.encoder.encode_chunk(self.number, raw)
        weights = payload.reader.floats(payload.tensor, self.first, self.last)
        with payload.refusing(self.first, weights):
            importance = payload.importance_of(self.first, self.last)
            chunk = payload.encoder.encode_chunk(self.number, weights, importance)
            proving.check_chunk(payload.geometry, payload.encoder.tables, self.number, weights, chunk)
        payload.mark(weights)
        return chunk


class _PieceJob:
    """A piece of a wide chunk: weights [first, last) of the tensor.

    action: what is done with them, on any thread: its result goes to `take`, in the order of the pieces.
    """

    def __init__(
        self,
        payload: _Payload,
        first: int,
        last: int,
        action: Callable[[_Payload, int, int], Mapping[str, Bytes]],
        take: Callable[[Mapping[str, Bytes]], None] | None,
    ) -> None:
        self.payload = payload
        self.first = first
        self.last = last
        self.action = action
        self.take = take
        self.held_nbytes = wide_chunks.piece_nbytes(last - first)
        self.result: Mapping[str, Bytes] = {}

    def prefetch(self) -> None:
        self.payload.reader.prefetch(self.payload.tensor, self.first, self.last)

    def perform(self) -> None:
        self.result = self.action(self.payload, self.first, self.last)
        self.payload.reader.done(self.payload.tensor, self.first, self.last)

    def finish(self) -> list[Event]:
        if self.take is not None:
            self.take(self.result)
        self.result = {}
        return []


class _WideChunkJobs:
    """A chunk of one long row, encoded and written in pieces."""

    def __init__(self, payload: _Payload, number: int) -> None:
        self.payload = payload
        self.wide = payload.encoder.wide_chunk()
        self.start, _ = payload.weights_of(number)
        self.pieces = pieces_of(payload.planned, payload.most_nbytes)
        self.layout = payload.geometry.sections(1)
        self.at = 0
        self.frame: entropy.Frame | None = None
        self.kept: list[Mapping[str, Bytes]] = []
        self.counts: list[tuple[int, int]] = []

    def jobs(self) -> Jobs:
        encoding = self.payload.encoding
        if self.wide.needs_extremes:
            yield from self._each(_observe_extremes(self.wide), None)
            yield DRAIN
        yield DRAIN  # the chunk's place is known when all before it are written
        self.at = 0 if encoding.is_fixed_size else SECTION_HEADER_BYTES * len(self.layout)
        if encoding.is_lossless:
            for k in range(len(self.layout)):
                yield from self._section(k, _plane(self.wide, k))
        else:
            yield from self._section(0, _sections(self.wide))
            self._write_small(self.wide.joined(self.kept))
        yield DRAIN
        yield Resumed(self._end())

    def _each(
        self,
        action: Callable[[_Payload, int, int], Mapping[str, Bytes]],
        take: Callable[[Mapping[str, Bytes]], None] | None,
    ) -> Jobs:
        for first, last in self.pieces:
            yield _PieceJob(self.payload, self.start + first, self.start + last, action, take)

    def _section(self, k: int, action: Callable[[_Payload, int, int], Mapping[str, Bytes]]) -> Jobs:
        """The pieces of a large section, compressed where that makes it smaller."""
        section = self.layout[k]
        begin = self.at
        self.kept = []
        if self.payload.encoding.entropy is Entropy.ZSTD and self._is_compressible(k, action):
            if section.nbytes <= entropy.LARGEST_AT_ONCE:
                whole: list[Bytes] = []
                yield from self._each(action, lambda parts: self._keep_whole(parts, whole))
                yield DRAIN
                self._write_one(np.concatenate(whole))
                return
            self.frame = entropy.Frame(section.nbytes)
            yield from self._each(action, self._take_compressed)
            yield DRAIN
            self._write(np.frombuffer(self.frame.end(), np.uint8))
            if self.at - begin < section.nbytes:
                self._end_section(begin, section.nbytes)
                return
            self.at, self.kept = begin, []
        yield from self._each(action, self._take_plain)
        yield DRAIN
        self._end_section(begin, section.nbytes)

    def _keep_whole(self, parts: Mapping[str, Bytes], whole: list[Bytes]) -> None:
        self.kept.append({name: part for name, part in parts.items() if name != "codes"})
        whole.append(parts["codes"])

    def _take_compressed(self, parts: Mapping[str, Bytes]) -> None:
        self.kept.append({name: part for name, part in parts.items() if name != "codes"})
        if self.frame is not None:
            self._write(np.frombuffer(self.frame.add(np.ascontiguousarray(parts["codes"])), np.uint8))

    def _take_plain(self, parts: Mapping[str, Bytes]) -> None:
        self.kept.append({name: part for name, part in parts.items() if name != "codes"})
        self._write(parts["codes"])

    def _write(self, content: Bytes) -> None:
        payload = self.payload
        payload.output.file.write(np.ascontiguousarray(content), payload.position + self.at)
        self.at += content.size

    def _write_one(self, section: Bytes) -> None:
        """A section that is whole."""
        begin = self.at
        self._write(entropy.compress(section))
        self._end_section(begin, section.size)

    def _write_small(self, sections: Mapping[str, Bytes]) -> None:
        """The sections behind the codes."""
        is_coded = self.payload.encoding.entropy is Entropy.ZSTD
        for section in self.layout[1:]:
            content = sections[section.name]
            if is_coded:
                self._write_one(content)
            else:
                begin = self.at
                self._write(content)
                self._end_section(begin, content.size)

    def _end_section(self, begin: int, decoded: int) -> None:
        """Note how large a section is, and pad it."""
        self.counts.append((self.at - begin, decoded))
        padding = -self.at % SECTION_ALIGNMENT
        if padding:
            self._write(np.zeros(padding, np.uint8))

    def _end(self) -> list[Event]:
        payload = self.payload
        nbytes = aligned(self.at, CHUNK_ALIGNMENT)
        self._write(np.zeros(nbytes - self.at, np.uint8))
        if not payload.encoding.is_fixed_size:
            header = np.array(self.counts, "<u4").reshape(-1).view(np.uint8)
            payload.output.file.write(header, payload.position)
        return payload.finish_wide(nbytes)

    def _is_compressible(self, k: int, action: Callable[[_Payload, int, int], Mapping[str, Bytes]]) -> bool:
        """Whether the middle of a section shrinks, as `entropy.compress` judges it."""
        nbytes = self.layout[k].nbytes
        if nbytes <= 4 * entropy.SAMPLE:
            return True
        wanted = entropy.middle(nbytes)
        found, at = [], 0
        for first, last in self.pieces:
            size = self._nbytes(k, last) - self._nbytes(k, first)
            if at < wanted.stop and wanted.start < at + size:
                part = action(self.payload, self.start + first, self.start + last)["codes"]
                found.append(part[max(wanted.start - at, 0) : wanted.stop - at])
            at += size
        return entropy.is_compressible(np.concatenate(found))

    def _nbytes(self, k: int, weight: int) -> int:
        """Bytes of section k before a weight that begins a piece."""
        geometry = self.payload.geometry
        if geometry.encoding.is_lossless:
            return weight
        if weight == geometry.columns:
            return self.layout[k].nbytes
        if geometry.run == geometry.columns:
            return weight // 5 if geometry.stored_bits == 0 else weight * geometry.stored_bits // 8
        return weight // geometry.run * geometry.run_bytes


def _observe_peaks(
    wide: wide_chunks.WideChunk, k: int
) -> Callable[[_Payload, int, int], Mapping[str, Bytes]]:
    def action(payload: _Payload, first: int, last: int) -> Mapping[str, Bytes]:
        weights = payload.reader.floats(payload.tensor, first, last)
        with payload.refusing(first, weights):
            wide.observe_peaks(k, weights)
        return {}

    return action


def _observe_extremes(wide: wide_chunks.WideChunk) -> Callable[[_Payload, int, int], Mapping[str, Bytes]]:
    def action(payload: _Payload, first: int, last: int) -> Mapping[str, Bytes]:
        weights = payload.reader.floats(payload.tensor, first, last)
        with payload.refusing(first, weights):
            wide.observe_extremes(weights)
        return {}

    return action


def _sections(wide: wide_chunks.WideChunk) -> Callable[[_Payload, int, int], Mapping[str, Bytes]]:
    def action(payload: _Payload, first: int, last: int) -> Mapping[str, Bytes]:
        weights = payload.reader.floats(payload.tensor, first, last)
        importance = payload.importance_of(first, last)
        column = first % payload.geometry.columns
        of_piece = None if importance is None else importance[column : column + last - first]
        with payload.refusing(first, weights):
            found = wide.sections(weights, of_piece)
            proving.check_sections(payload.encoding, weights, found)
        payload.mark(weights)
        return found

    return action


def _look(payload: _Payload, first: int, last: int) -> Mapping[str, Bytes]:
    payload.raw(first, last)
    return {}


def _plane(wide: wide_chunks.WideChunk, k: int) -> Callable[[_Payload, int, int], Mapping[str, Bytes]]:
    def action(payload: _Payload, first: int, last: int) -> Mapping[str, Bytes]:
        raw = payload.raw(first, last)
        payload.mark(raw)
        return {"codes": wide.planes(raw)[k]}

    return action


def is_in_pieces(planned: PlannedTensor) -> bool:
    """Whether the chunks of a payload are encoded in pieces.

    planned: the tensor of the payload.
    """
    geometry = geometry_of(_encoding(planned), planned.tensor)
    return wide_chunks.is_wide(geometry) and wide_chunks.piece_unit(geometry) is not None


def pieces_of(planned: PlannedTensor, most_nbytes: int) -> list[tuple[int, int]]:
    """The weights [first, last) of each piece of a row.

    planned: the tensor of the payload.
    most_nbytes: bytes of memory that a piece may take.
    """
    geometry = geometry_of(_encoding(planned), planned.tensor)
    columns = geometry.columns
    step = wide_chunks.piece_weights(geometry, most_nbytes)
    return [(first, min(first + step, columns)) for first in range(0, columns, step)]


def check_memory(planned: PlannedTensor, limit: int, threads: int) -> int:
    """The memory that one chunk of a payload, or one piece of a chunk, may take, in bytes.

    planned: the tensor of the payload.
    limit: bytes, for all threads together.
    threads: number of threads.

    Raises UsageError if not even one chunk, or one piece for each thread, stays under the limit.
    """
    geometry = geometry_of(_encoding(planned), planned.tensor)
    keeps_codes = transcoding.exact(planned.tensor, _encoding(planned)) == planned.encoding
    if keeps_codes or not is_in_pieces(planned):
        needed, share = wide_chunks.whole_nbytes(geometry), limit
    else:
        at_once = threads + 1  # one of them waits for its turn to be written
        needed = at_once * wide_chunks.piece_nbytes(wide_chunks.piece_unit(geometry) or 1)
        share = limit // at_once
    if needed > limit:
        raise UsageError(
            f"{planned.name} as {_encoding(planned).name} has rows of {geometry.columns} weights, and needs "
            f"{needed} bytes for them where payloads may take {limit}; pass a larger --memory-limit, or "
            "fewer threads"
        )
    return share


def _encoding(planned: PlannedTensor) -> Encoding:
    if not isinstance(planned.encoding, Encoding):
        raise ValueError(f"{planned.name} is no payload of the family")
    return planned.encoding
