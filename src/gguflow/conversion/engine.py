"""Leaf by leaf: how 2**20 weights of a tensor are read, encoded and written.

A thread takes a leaf, moves it from source bytes to float32 to blocks, once for each output, writes the
blocks at their place and takes the next. Nothing waits for anything else: every offset is known before the
first byte is read. A tile, what is moved at a time, is a whole leaf where memory allows it: in smaller ones,
that stay in the second-level cache, threads spend more on handing each other the interpreter's lock than they
gain.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import numpy as np

from gguflow.arrays import largest_magnitude
from gguflow.blocks import FORMATS, BlockFormat
from gguflow.container.integrity import new_leaf_digest
from gguflow.conversion.imatrix import Importance
from gguflow.conversion.journal import Leaf
from gguflow.conversion.output import Output, leaf_range, n_leaves
from gguflow.conversion.plan import PlannedTensor
from gguflow.conversion.source_digests import Proofs
from gguflow.errors import Finding, InvalidError
from gguflow.models.base import ModelTensor
from gguflow.models.reading import expect, leave, packed, tiles
from gguflow.quantization import Bytes, Floats, decode, encode, first_non_finite
from gguflow.sources.reading import TensorReader

Progress = Callable[[PlannedTensor, int, int], None]
"""Called from the calling thread after each leaf of each output: its tensor, its weights, its bytes."""


class _Buffers(threading.local):
    """Scratch of one thread, reused from tile to tile."""

    def __init__(self) -> None:
        self.weights = np.empty(0, np.float32)
        self.blocks = np.empty(0, np.uint8)

    def weights_of(self, n: int) -> Floats:
        if self.weights.size < n:
            self.weights = np.empty(n, np.float32)
        return self.weights[:n]

    def blocks_of(self, nbytes: int) -> Bytes:
        if self.blocks.size < nbytes:
            self.blocks = np.empty(nbytes, np.uint8)
        return self.blocks[:nbytes]


class Work:
    """The leaves of all outputs, and how one is done."""

    def __init__(self, reader: TensorReader, outputs: Sequence[Output], tile: int) -> None:
        self.reader = reader
        self.outputs = outputs
        self.tile = tile
        self.buffers = _Buffers()
        self.proofs = Proofs({i: output.planned(i).tensor for output in outputs for i in output.tensors()})

    def tensors(self) -> range:
        """The numbers of all tensors."""
        return range(max(output.tensors().stop for output in self.outputs))

    def leaves(self, tensors: Iterable[int]) -> Iterator[Leaf]:
        """Every leaf of these tensors that some output lacks."""
        for i in tensors:
            holders = [output for output in self.outputs if i in output.tensors()]
            for leaf in range(n_leaves(holders[0].planned(i))):
                if any(output.lacks((i, leaf)) for output in holders):
                    yield i, leaf

    def resumed(self, tensors: Container[int]) -> Iterator[tuple[PlannedTensor, int, int]]:
        """The leaves of these tensors that an earlier run has done: tensor, weights, bytes."""
        for output in self.outputs:
            for leaf in [leaf for leaf in output.digests if leaf[0] in tensors]:
                planned = output.planned(leaf[0])
                first, last = leaf_range(planned, leaf[1])
                yield planned, last - first, output.leaf_nbytes(leaf)

    def expect(self, leaf: Leaf) -> None:
        """A leaf will be done soon."""
        planned = next(output.planned(leaf[0]) for output in self.outputs if output.lacks(leaf))
        expect(self.reader, planned.tensor, *leaf_range(planned, leaf[1]))

    def do(self, leaf: Leaf) -> list[tuple[PlannedTensor, int, int]]:
        """Convert a leaf for every output that lacks it, and write it; for each, its tensor, weights and
        bytes.
        """
        lacking = [
            (output, output.planned(leaf[0]), new_leaf_digest())
            for output in self.outputs
            if output.lacks(leaf)
        ]
        formats = [planned.blocks for _, planned, _ in lacking]
        tensor = lacking[0][1].tensor
        first, last = leaf_range(lacking[0][1], leaf[1])
        proof = self.proofs.begin(leaf, last)
        row = tensor.shape[-1] if any(planned.importance is not None for _, planned, _ in lacking) else 1
        for start, stop in tiles(first, last, row, self.tile):
            raw = packed(self.reader, tensor, start, stop)
            if proof is not None and raw is not None:
                proof.update(raw)
            weights = self._weights(tensor, raw, start, stop, formats)
            for output, planned, digest in lacking:
                blocks = self._blocks(planned, start, raw, weights)
                output.file.write(blocks, output.offset(leaf[0], start))
                digest.update(blocks)
        leave(self.reader, tensor, first, last)
        if proof is not None:
            self.proofs.end(leaf, proof)
        for output, planned, digest in lacking:
            digest.update(output.padding(planned, last))
            output.record(leaf, digest.digest())
        return [(planned, last - first, output.leaf_nbytes(leaf)) for output, planned, _ in lacking]

    def _weights(
        self, tensor: ModelTensor, raw: Bytes | None, first: int, last: int, formats: Sequence[BlockFormat]
    ) -> Floats | None:
        """The weights [first, last) as float32, checked for what F16 cannot hold; None where every format is
        the source's own.
        """
        if raw is None:
            if tensor.values is None:
                raise ValueError(f"{tensor.name} has neither a source nor values")
            weights = np.ascontiguousarray(tensor.values, np.float32).reshape(-1)[first:last]
        elif tensor.source is None:
            return None
        else:
            source_format = tensor.source.require_format()
            if all(block_format is source_format for block_format in formats):
                return None
            weights = self.buffers.weights_of(last - first)
            decode(raw, source_format, weights)
        if FORMATS["f16"] in formats:
            _check_f16(tensor, first, weights)
        return weights

    def _blocks(self, planned: PlannedTensor, start: int, raw: Bytes | None, weights: Floats | None) -> Bytes:
        """The tile that begins at weight `start` in its format: encoded, or the source's own bytes where that
        is its format.
        """
        if weights is None or not planned.is_encoded:
            if raw is None:
                raise ValueError(f"{planned.name} has nothing to write")
            return raw
        blocks = self.buffers.blocks_of(_nbytes(planned.blocks, weights.size))
        if planned.importance is None:
            _encode(planned, start, weights, blocks)
        else:
            self._encode_weighted(planned, planned.importance, start, weights, blocks)
        return blocks

    def _encode_weighted(
        self, planned: PlannedTensor, importance: Importance, start: int, weights: Floats, blocks: Bytes
    ) -> None:
        """Encode a tile with the importance of its columns: the rows of one matrix at a time, and the parts
        of rows at either end alone.
        """
        row, position = planned.shape[-1], 0
        matrix_size = row * (planned.shape[-2] if len(planned.shape) > 1 else 1)
        while position < weights.size:
            at = start + position
            within, rest = at % row, weights.size - position
            whole = min(rest // row * row, matrix_size - at % matrix_size) if within == 0 else 0
            n = whole or min(row - within, rest)
            columns = importance.of_matrix(at // matrix_size, row)
            part, out = (
                weights[position : position + n],
                blocks[_nbytes(planned.blocks, position) : _nbytes(planned.blocks, position + n)],
            )
            if whole:
                _encode(planned, at, part, out, columns)
            elif planned.blocks.weighs_rows:
                out[:] = self._encoded_row(planned, at - within, columns)[_nbytes(planned.blocks, within) :][
                    : out.size
                ]
            else:
                _encode(planned, at, part, out, columns[within : within + n])
            position += n

    def _encoded_row(self, planned: PlannedTensor, first: int, importance: Floats) -> Bytes:
        """The blocks of the row that begins at weight `first`, in memory of its own."""
        row = planned.shape[-1]
        raw = packed(self.reader, planned.tensor, first, first + row)
        weights = np.empty(row, np.float32)
        if raw is None or planned.tensor.source is None:
            weights[:] = np.ascontiguousarray(planned.tensor.values, np.float32).reshape(-1)[
                first : first + row
            ]
        else:
            decode(raw, planned.tensor.source.require_format(), weights)
        blocks = np.empty(_nbytes(planned.blocks, row), np.uint8)
        _encode(planned, first, weights, blocks, importance)
        return blocks


def run_leaves(work: Work, tensors: range, threads: int, progress: Progress | None) -> None:
    """All leaves of these tensors, on a pool of threads, with a few waiting; the first error ends the rest."""
    pending: set[Future[list[tuple[PlannedTensor, int, int]]]] = set()
    if progress is not None:
        for planned, n_weights, nbytes in work.resumed(tensors):
            progress(planned, n_weights, nbytes)

    def collect(keep: int) -> None:
        while len(pending) > keep:
            for done in wait(pending, return_when=FIRST_COMPLETED).done:
                pending.remove(done)
                for planned, n_weights, nbytes in done.result():
                    if progress is not None:
                        progress(planned, n_weights, nbytes)

    with ThreadPoolExecutor(threads, thread_name_prefix="gguflow") as pool:
        try:
            for leaf in work.leaves(tensors):
                work.expect(leaf)
                pending.add(pool.submit(work.do, leaf))
                collect(keep=2 * threads)
            collect(keep=0)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _nbytes(block_format: BlockFormat, n: int) -> int:
    """Bytes of n weights, whole blocks."""
    return n // block_format.block_size * block_format.type_size


def _encode(
    planned: PlannedTensor, first: int, weights: Floats, out: Bytes, importance: Floats | None = None
) -> None:
    """Encode the weights from number `first` on; raises InvalidError for NaN and infinity where the format is
    a quantized one.
    """
    bad = encode(weights, planned.blocks, out, importance)
    if bad >= 0:
        raise refused(planned.tensor, first + bad, weights[bad], "cannot be quantized")


def _check_f16(tensor: ModelTensor, first: int, weights: Floats) -> None:
    """Raise InvalidError for NaN, infinity, and what would become infinity."""
    if largest_magnitude(weights.view(np.uint32)) < np.float32(65520).view(np.uint32):
        return
    bad = first_non_finite(weights)
    if bad >= 0:
        raise refused(tensor, first + bad, weights[bad], "cannot be quantized")
    bad = int((np.abs(weights) >= np.float32(65520)).argmax())
    raise refused(tensor, first + bad, weights[bad], "does not fit F16 (choose bf16)")


def refused(tensor: ModelTensor, i: int, weight: np.float32, why: str) -> InvalidError:
    """The error that names weight i of a tensor."""
    index = [int(k) for k in np.unravel_index(i, tensor.shape)]
    message = f"tensor {tensor.name!r} holds {weight} at index {index}, which {why}"
    return InvalidError(
        tensor.source.file.path if tensor.source else "the model",
        Finding("M-100", message, f"$.tensors[{tensor.name!r}]"),
    )
