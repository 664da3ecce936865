"""Tensors of the parametric family in a conversion: chunk by chunk into a payload whose size may be known
only at its end.

Files with payloads are written tensor by tensor, in the order of the table: a place is known when all before
it are written. Chunks of one payload are encoded on threads and written in order by the calling thread; each
is journaled with its size, so that an interrupted payload goes on behind the chunks that are there. The
prefix is written last, for it has the index.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from gguflow.blocks import FORMATS
from gguflow.container.integrity import LEAF_WEIGHTS, new_leaf_digest, tensor_digest
from gguflow.conversion.engine import Progress, Work, refused, run_leaves
from gguflow.conversion.output import Output
from gguflow.conversion.plan import PlannedTensor, geometry_of
from gguflow.errors import NonFiniteError
from gguflow.models.base import ModelTensor
from gguflow.models.reading import expect, leave, packed
from gguflow.parametric import Encoder, Encoding, chunk_digest, transcoding
from gguflow.parametric.chunks import assemble
from gguflow.quantization import Bytes, Floats, decode

T = TypeVar("T")


def run_tensors(work: Work, output: Output, threads: int, progress: Progress | None) -> None:
    """Every tensor of an output whose plan has payloads: leaves where the format is a block format, chunks
    where it is an encoding.
    """
    for i in output.tensors():
        output.settle(i)
        if output.planned(i).encoding is None:
            run_leaves(work, range(i, i + 1), threads, progress)
        else:
            with ThreadPoolExecutor(threads, thread_name_prefix="gguflow") as pool:
                _PayloadWork(work, output, i, pool, threads).run(progress)


class _PayloadWork:
    """One payload on its way into an output."""

    def __init__(self, work: Work, output: Output, i: int, pool: ThreadPoolExecutor, threads: int) -> None:
        self.work = work
        self.output = output
        self.i = i
        self.planned = output.planned(i)
        self.tensor = self.planned.tensor
        self.encoding = _encoding(self.planned)
        geometry = geometry_of(self.encoding, self.tensor)
        self.is_carried = transcoding.exact(self.tensor, self.encoding) == self.encoding
        given = (
            {"offset": transcoding.offset(work.reader, self.tensor)}
            if self.is_carried and self.encoding.needs_offset
            else None
        )
        self.encoder = Encoder(self.encoding, geometry.shape, geometry.source_type, given)
        self.geometry = self.encoder.geometry
        self.pool = pool
        self.ahead = 2 * threads
        self.sizes: list[int] = []
        self.digests: list[bytes] = []

    def run(self, progress: Progress | None) -> None:
        """Write the payload, and let the output know its size and digest."""
        if self.encoding.needs_first_pass and not self.is_carried:
            for _ in self._in_order(0, self._observed):
                pass
            self.encoder.finish_observing()
        start = self.output.start(self.i)
        at = start + self.encoder.prefix_nbytes
        for nbytes, digest in self._there(at):
            at += self._count(nbytes, digest, progress)
            self.output.resumed_nbytes += nbytes
        for number, (chunk, digest) in self._in_order(len(self.sizes), self._encoded):
            self.output.write_chunk(self.i, number, chunk, digest, at)
            at += self._count(chunk.size, digest, progress)
        prefix = self.encoder.prefix(self.sizes, self.digests)
        self.output.file.write(prefix, start)
        self.output.finish_payload(self.i, at - start, self._tensor_digest(start, at))

    def _count(self, nbytes: int, digest: bytes, progress: Progress | None) -> int:
        """One more chunk is in the file."""
        number = len(self.sizes)
        self.sizes.append(nbytes)
        self.digests.append(digest)
        if progress is not None:
            progress(self.planned, self.geometry.chunk_rows(number) * self.geometry.columns, nbytes)
        return nbytes

    def _there(self, at: int) -> Iterator[tuple[int, bytes]]:
        """Size and digest of the chunks, from the first on, that the journal claims and the partial file
        holds. at: where the first would be.
        """
        for number in range(self.geometry.n_chunks):
            digest, nbytes = self.output.claims.chunks.get((self.i, number), (b"", 0))
            if not 0 < nbytes <= self.geometry.chunk_nbytes(self.geometry.chunk_rows(number)):
                return
            if chunk_digest(np.frombuffer(self.output.file.read(nbytes, at), np.uint8)) != digest:
                return
            yield nbytes, digest
            at += nbytes

    def _in_order(self, first: int, action: Callable[[int], T]) -> Iterator[tuple[int, T]]:
        """Chunks from `first` on, done on threads, a few ahead of whoever takes them."""
        pending: deque[tuple[int, Future[T]]] = deque()
        try:
            for number in range(first, self.geometry.n_chunks):
                expect(self.work.reader, self.tensor, *self._range(number))
                pending.append((number, self.pool.submit(action, number)))
                if len(pending) > self.ahead:
                    done, future = pending.popleft()
                    yield done, future.result()
            while pending:
                done, future = pending.popleft()
                yield done, future.result()
        finally:
            for _, future in pending:
                future.cancel()

    def _observed(self, number: int) -> None:
        first, last = self._range(number)
        weights = self._weights(first, last)
        with self._refusing(first, weights):
            self.encoder.observe(weights, number, self._importance(first, last))
        leave(self.work.reader, self.tensor, first, last)

    def _encoded(self, number: int) -> tuple[Bytes, bytes]:
        """A chunk's bytes, and their digest. Raises InvalidError for NaN and infinity, but where the encoding
        is lossless.
        """
        first, last = self._range(number)
        if self.is_carried:
            sections = transcoding.sections(self.work.reader, self.tensor, self.geometry, number)
            rows = self.geometry.chunk_rows(number)
            room = (
                np.empty(self.geometry.chunk_nbytes(rows), np.uint8) if self.encoding.is_fixed_size else None
            )
            chunk = assemble(self.geometry, rows, sections, room)
        else:
            chunk = self._anew(number, first, last)
        leave(self.work.reader, self.tensor, first, last)
        return chunk, chunk_digest(chunk)

    def _anew(self, number: int, first: int, last: int) -> Bytes:
        """A chunk of weights that are encoded."""
        if self.encoding.is_lossless:
            return self.encoder.encode_chunk(number, self._raw(first, last))
        weights = self._weights(first, last)
        with self._refusing(first, weights):
            return self.encoder.encode_chunk(number, weights, self._importance(first, last))

    def _importance(self, first: int, last: int) -> Floats | None:
        """Of the columns; where the weights [first, last) lie in several matrices of a stack, of the columns
        of each row.
        """
        if self.planned.importance is None:
            return None
        columns = self.geometry.columns
        rows_per_matrix = self.geometry.shape[-2] if len(self.geometry.shape) > 1 else 1
        matrices = np.arange(first // columns, last // columns) // rows_per_matrix
        found = [
            self.planned.importance.of_matrix(int(i), columns) for i in range(matrices[0], matrices[-1] + 1)
        ]
        if (
            self.geometry.rows > rows_per_matrix
        ):  # of a matrix that was never used, all columns count the same, beside the others
            found = [one if one.any() else np.ones_like(one) for one in found]
        return found[0] if len(found) == 1 else np.stack(found)[matrices - matrices[0]]

    @contextlib.contextmanager
    def _refusing(self, first: int, weights: Floats) -> Iterator[None]:
        """A weight that the encoder refuses is named as one of the tensor. first: the number of the first of
        them.
        """
        try:
            yield
        except NonFiniteError as error:
            raise refused(
                self.tensor, first + error.index, weights[error.index], "cannot be quantized"
            ) from None

    def _range(self, number: int) -> tuple[int, int]:
        """The weights of a chunk."""
        first = number * self.geometry.rows_per_chunk * self.geometry.columns
        return first, first + self.geometry.chunk_rows(number) * self.geometry.columns

    def _raw(self, first: int, last: int) -> Bytes:
        raw = packed(self.work.reader, self.tensor, first, last)
        return _values(self.tensor, first, last).view(np.uint8) if raw is None else raw

    def _weights(self, first: int, last: int) -> Floats:
        raw = packed(self.work.reader, self.tensor, first, last)
        if raw is None:
            weights = _values(self.tensor, first, last)
        else:
            source = self.tensor.sources[0].require_format()
            weights = np.empty(last - first, np.float32)
            if source is FORMATS["f64"]:
                weights[:] = raw.view("<f8")
            else:
                decode(raw, source, weights)
        return weights

    def _tensor_digest(self, start: int, stop: int) -> bytes:
        """Of the payload as an I8 tensor, read back: its prefix came last."""
        stop += -(stop - start) % self.planned.alignment

        def digest(first: int) -> Bytes:
            found = new_leaf_digest()
            found.update(self.output.file.read(min(LEAF_WEIGHTS, stop - first), first))
            return np.frombuffer(found.digest(), np.uint8)

        nbytes = sum(self.sizes) + self.encoder.prefix_nbytes
        return tensor_digest(
            leaf.tobytes() for leaf in self.pool.map(digest, range(start, start + nbytes, LEAF_WEIGHTS))
        )


def _encoding(planned: PlannedTensor) -> Encoding:
    if planned.encoding is None:
        raise ValueError(f"{planned.name} is no payload")
    return planned.encoding


def _values(tensor: ModelTensor, first: int, last: int) -> Floats:
    return np.ascontiguousarray(tensor.values, np.float32).reshape(-1)[first:last]
