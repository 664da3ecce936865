"""Leaf by leaf: how 2**20 weights of a tensor are read, encoded and written, and what an output knows of the leaves that it has.

A thread takes a leaf, moves it tile by tile through the second-level cache (source bytes -> float32 -> blocks, once for each output), writes the
blocks at their place and takes the next. Nothing waits for anything else: every offset is known before the first byte is read.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType

import numpy as np

from gguflow.blocks import FORMATS, BlockFormat
from gguflow.container.integrity import LEAF_WEIGHTS, new_leaf_digest, tensor_digest
from gguflow.container.writer import OutputFile, is_worth_keeping
from gguflow.errors import Finding, InvalidError, UsageError
from gguflow.imatrix import Importance
from gguflow.journal import Journal, Leaf
from gguflow.models.base import ModelTensor
from gguflow.plan import Plan, PlannedTensor
from gguflow.proofs import Proofs
from gguflow.quantization import Bytes, Floats, decode, encode, first_non_finite
from gguflow.sources.reading import TensorReader
from gguflow.weights import leave, packed, tiles

Progress = Callable[[PlannedTensor, int, int], None]
"""Called from the calling thread after each leaf of each output: its tensor, its weights, its bytes."""


class Output:
    """A file being written: its journal, and the digests of the leaves that are there. Leaves count the tensors of all shards."""

    def __init__(self, plan: Plan, path: Path, binding: str, *, overwrite: bool, resume: bool) -> None:
        self.plan = plan
        self.file = OutputFile(path, plan.nbytes, overwrite=overwrite, resume=resume)
        plan_digest = hashlib.sha256(plan.header).hexdigest()
        self.journal = Journal(path.with_name(f".{path.name}.journal"), f"{binding} {plan_digest} {plan.imatrix_digest}")
        self.digests: dict[Leaf, bytes] = {}
        self.resumed_nbytes = 0

    def __enter__(self) -> Output:
        self.file.__enter__()
        try:
            try:
                claims = self.journal.claims() if self.file.found else {}
            except UsageError:
                self.file.keep()
                raise
            self.digests = {leaf: digest for leaf, digest in claims.items() if self._is_there(leaf, digest)}
            self.resumed_nbytes = sum(self.leaf_nbytes(leaf) for leaf in self.digests)
            if self.file.found and not self.digests:
                self.file.clear()
            self.journal.open(anew=not self.digests)
        except BaseException as error:
            self.file.__exit__(None, error, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        keep = is_worth_keeping(error) and bool(self.digests)
        if keep:
            self.file.keep()
        self.journal.close(remove=not keep)
        self.file.__exit__(kind, error, traceback)

    def offset(self, planned: PlannedTensor, weight: int) -> int:
        """Of a weight at the start of a block, from the start of the file."""
        return self.plan.data_offset + planned.offset + weight // planned.format.block_size * planned.format.type_size

    def record(self, leaf: Leaf, digest: bytes) -> None:
        """A leaf is written."""
        self.digests[leaf] = digest
        self.journal.record(leaf, digest)

    def planned(self, i: int) -> PlannedTensor:
        """Tensor i, counted over all shards, which must be in this one."""
        return self.plan.tensors[i - self.plan.first_tensor]

    def tensors(self) -> range:
        """The numbers of its tensors."""
        return range(self.plan.first_tensor, self.plan.first_tensor + len(self.plan.tensors))

    def lacks(self, leaf: Leaf) -> bool:
        return leaf[0] in self.tensors() and leaf not in self.digests

    def tensor_digests(self) -> list[bytes]:
        """Of its tensors in order, now that all leaves are known."""
        return [tensor_digest(self.digests[i, leaf] for leaf in range(_n_leaves(self.planned(i)))) for i in self.tensors()]

    def padding(self, planned: PlannedTensor, last: int) -> bytes:
        """The zero bytes behind a leaf that ends at weight `last`: those behind the tensor where it is the last leaf."""
        return b"\0" * planned.padding if last == planned.tensor.n_weights else b""

    def leaf_nbytes(self, leaf: Leaf) -> int:
        """Of its blocks, without padding."""
        planned = self.planned(leaf[0])
        first, last = _leaf_range(planned, leaf[1])
        return self.offset(planned, last) - self.offset(planned, first)

    def _is_there(self, leaf: Leaf, digest: bytes) -> bool:
        """Whether the partial file really holds a leaf that the journal claims."""
        if leaf[0] not in self.tensors() or leaf[1] >= _n_leaves(self.planned(leaf[0])):
            return False
        planned = self.planned(leaf[0])
        first, last = _leaf_range(planned, leaf[1])
        content = self.file.read(self.leaf_nbytes(leaf), self.offset(planned, first))
        found = new_leaf_digest()
        found.update(content)
        found.update(self.padding(planned, last))
        return bool(found.digest() == digest)


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

    def leaves(self) -> Iterator[Leaf]:
        """Every leaf that some output lacks."""
        for i in range(max(output.tensors().stop for output in self.outputs)):
            holders = [output for output in self.outputs if i in output.tensors()]
            for leaf in range(_n_leaves(holders[0].planned(i))):
                if any(output.lacks((i, leaf)) for output in holders):
                    yield i, leaf

    def resumed(self) -> Iterator[tuple[PlannedTensor, int, int]]:
        """The leaves that an earlier run has done: tensor, weights, bytes."""
        for output in self.outputs:
            for leaf in output.digests:
                planned = output.planned(leaf[0])
                first, last = _leaf_range(planned, leaf[1])
                yield planned, last - first, output.leaf_nbytes(leaf)

    def do(self, leaf: Leaf) -> list[tuple[PlannedTensor, int, int]]:
        """Convert a leaf for every output that lacks it, and write it; for each, its tensor, weights and bytes."""
        lacking = [(output, output.planned(leaf[0]), new_leaf_digest()) for output in self.outputs if output.lacks(leaf)]
        formats = [planned.format for _, planned, _ in lacking]
        tensor = lacking[0][1].tensor
        first, last = _leaf_range(lacking[0][1], leaf[1])
        proof = self.proofs.begin(leaf, last)
        for start, stop in tiles(first, last, tensor.shape[-1] if tensor.shape else 1, self.tile):
            raw = packed(self.reader, tensor, start, stop)
            if proof is not None and raw is not None:
                proof.update(raw)
            weights = self._weights(tensor, raw, start, stop, formats)
            for output, planned, digest in lacking:
                blocks = self._blocks(planned, start, raw, weights)
                output.file.write(blocks, output.offset(planned, start))
                digest.update(blocks)
        leave(self.reader, tensor, first, last)
        if proof is not None:
            self.proofs.end(leaf, proof)
        for output, planned, digest in lacking:
            digest.update(output.padding(planned, last))
            output.record(leaf, digest.digest())
        return [(planned, last - first, output.leaf_nbytes(leaf)) for output, planned, _ in lacking]

    def _weights(self, tensor: ModelTensor, raw: Bytes | None, first: int, last: int, formats: Sequence[BlockFormat]) -> Floats | None:
        """The weights [first, last) as float32, checked for what F16 cannot hold; None where every format is the source's own."""
        if raw is None or tensor.source is None:
            if tensor.values is None:
                raise ValueError(f"{tensor.name} has neither a source nor values")
            weights = np.ascontiguousarray(tensor.values, np.float32).reshape(-1)[first:last]
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
        """The tile that begins at weight `start` in its format: encoded, or the source's own bytes where that is its format."""
        if weights is None or not planned.is_encoded:
            if raw is None:
                raise ValueError(f"{planned.name} has nothing to write")
            return raw
        blocks = self.buffers.blocks_of(_nbytes(planned.format, weights.size))
        if planned.importance is None:
            _encode(planned, start, weights, blocks)
        else:
            self._encode_weighted(planned, planned.importance, start, weights, blocks)
        return blocks

    def _encode_weighted(self, planned: PlannedTensor, importance: Importance, start: int, weights: Floats, blocks: Bytes) -> None:
        """Encode a tile with the importance of its columns: the rows of one matrix at a time, and the parts of rows at either end alone."""
        row, position = planned.shape[-1], 0
        matrix_size = row * (planned.shape[-2] if len(planned.shape) > 1 else 1)
        while position < weights.size:
            at = start + position
            within, rest = at % row, weights.size - position
            whole = min(rest // row * row, matrix_size - at % matrix_size) if within == 0 else 0
            n = whole or min(row - within, rest)
            columns = importance.of_matrix(at // matrix_size, row)
            part, out = weights[position : position + n], blocks[_nbytes(planned.format, position) : _nbytes(planned.format, position + n)]
            if whole:
                _encode(planned, at, part, out, columns)
            elif planned.format.weighs_rows:
                out[:] = self._encoded_row(planned, at - within, columns)[_nbytes(planned.format, within) :][: out.size]
            else:
                _encode(planned, at, part, out, columns[within : within + n])
            position += n

    def _encoded_row(self, planned: PlannedTensor, first: int, importance: Floats) -> Bytes:
        """The blocks of the row that begins at weight `first`, in memory of its own."""
        row = planned.shape[-1]
        raw = packed(self.reader, planned.tensor, first, first + row)
        weights = np.empty(row, np.float32)
        if raw is None or planned.tensor.source is None:
            weights[:] = np.ascontiguousarray(planned.tensor.values, np.float32).reshape(-1)[first : first + row]
        else:
            decode(raw, planned.tensor.source.require_format(), weights)
        blocks = np.empty(_nbytes(planned.format, row), np.uint8)
        _encode(planned, first, weights, blocks, importance)
        return blocks


def run_leaves(work: Work, threads: int, progress: Progress | None) -> None:
    """All leaves, on a pool of threads, with a few waiting; the first error ends the rest."""
    pending: set[Future[list[tuple[PlannedTensor, int, int]]]] = set()
    if progress is not None:
        for planned, n_weights, nbytes in work.resumed():
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
            for leaf in work.leaves():
                pending.add(pool.submit(work.do, leaf))
                collect(keep=2 * threads)
            collect(keep=0)
            work.proofs.finish(work.reader)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _nbytes(block_format: BlockFormat, n: int) -> int:
    """Bytes of n weights, whole blocks."""
    return n // block_format.block_size * block_format.type_size


def _n_leaves(planned: PlannedTensor) -> int:
    return -(-planned.tensor.n_weights // LEAF_WEIGHTS)


def _leaf_range(planned: PlannedTensor, leaf: int) -> tuple[int, int]:
    """The weights [first, last) of a leaf."""
    return leaf * LEAF_WEIGHTS, min((leaf + 1) * LEAF_WEIGHTS, planned.tensor.n_weights)


def _encode(planned: PlannedTensor, first: int, weights: Floats, out: Bytes, importance: Floats | None = None) -> None:
    """Encode the weights from number `first` on; raises InvalidError for NaN and infinity where the format is a quantized one."""
    bad = encode(weights, planned.format, out, importance)
    if bad >= 0:
        raise _refused(planned.tensor, first + bad, weights[bad], "cannot be quantized")


def _check_f16(tensor: ModelTensor, first: int, weights: Floats) -> None:
    """Raise InvalidError for NaN, infinity, and what would become infinity."""
    bad = first_non_finite(weights)
    if bad >= 0:
        raise _refused(tensor, first + bad, weights[bad], "cannot be quantized")
    too_large = np.abs(weights) >= np.float32(65520)
    if too_large.any():
        bad = int(too_large.argmax())
        raise _refused(tensor, first + bad, weights[bad], "does not fit F16 (choose bf16)")


def _refused(tensor: ModelTensor, i: int, weight: np.float32, why: str) -> InvalidError:
    """The error that names weight i of a tensor."""
    index = [int(k) for k in np.unravel_index(i, tensor.shape)]
    message = f"tensor {tensor.name!r} holds {weight} at index {index}, which {why}"
    return InvalidError(tensor.source.file.path if tensor.source else "the model", Finding("M-100", message, f"$.tensors[{tensor.name!r}]"))
