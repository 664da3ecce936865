"""Leaf by leaf: how 2**20 weights of a tensor are read, encoded and written, as a job of the engine.

A leaf goes from source bytes to float32 to blocks, once for each output, whose blocks are written at their
place: every offset is known before the first byte is read. What is moved at a time is a whole leaf where
memory allows it: in smaller tiles threads spend more on handing each other the interpreter's lock than they
gain.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gguflow.blocks import BlockFormat
from gguflow.blocks.reserved import Look
from gguflow.container.integrity import LEAF_WEIGHTS, leaf_weights, n_leaves, new_leaf_digest
from gguflow.conversion.engine import Event, Jobs
from gguflow.conversion.imatrix import Importance
from gguflow.conversion.output import Output, WrittenLeaf
from gguflow.conversion.plan import PlannedTensor
from gguflow.conversion.proving import prove, weight_error
from gguflow.conversion.source_digests import SourceDigests
from gguflow.errors import InvalidError
from gguflow.fidelity import search
from gguflow.models.base import ModelTensor
from gguflow.models.reading import ModelReader, tile_ranges
from gguflow.quantization import Bytes, Floats, encode_and_look, look

LEAVES_TOGETHER = 4
"""Leaves that are recorded together at most, or half the number of threads if that is more: the system calls
for each leaf take more time than the record.
"""

LEAVES_AHEAD = 8
"""Leaves that the system is told to fetch in one call."""

SECONDS_TOGETHER = 0.02
"""The longest time that a finished leaf waits to be recorded together with the next ones."""


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


class Leaves:
    """The leaves of some tensors on their way into one or several outputs, which share each reading.

    reader: of the source.
    outputs: all of them have the same tensors, or some of the tensors if they are shards.
    tile: weights that a thread moves at a time, a multiple of every block size; if it is several leaves, a
        job converts as many.
    threads: number of threads that do the jobs.
    """

    def __init__(self, reader: ModelReader, outputs: Sequence[Output], tile: int, threads: int) -> None:
        self.reader = reader
        self.outputs = outputs
        self.tile = tile
        self._most_leaves = max(tile // LEAF_WEIGHTS, 1)
        self._most_finished = max(LEAVES_TOGETHER, threads // 2)
        self.buffers = _Buffers()
        self.digests = SourceDigests(
            {i: output.planned(i).tensor for output in outputs for i in output.tensors()}
        )
        self._finished: list[LeafJob] = []
        self._noted_at = time.monotonic()

    def jobs(self, i: int) -> Jobs:
        """The jobs for the leaves of tensor i that at least one output lacks; call `note` after the last one.

        i: number of the tensor, over all shards.
        """
        holders = [output for output in self.outputs if i in output.tensors()]
        whole = _Task(self, i, holders)
        n, fetched, number = whole.tensor.n_weights, 0, 0
        while number < n_leaves(n):
            lacking = _lacking(holders, i, number)
            if not lacking:
                number += 1
                continue
            if number >= fetched:
                fetched = number + max(LEAVES_AHEAD, self._most_leaves)
                self.reader.prefetch(whole.tensor, leaf_weights(number, n)[0], min(fetched * LEAF_WEIGHTS, n))
            end = number + 1
            while end < min(number + self._most_leaves, n_leaves(n)) and _lacking(holders, i, end) == lacking:
                end += 1
            task = whole if len(lacking) == len(holders) else _Task(self, i, lacking)
            yield LeafJob(task, number, end)
            number = end

    def finish(self, job: LeafJob) -> None:
        """Record that a job has written its leaves, together with the next jobs, after a short time.

        job: the job, performed.
        """
        self._finished.append(job)
        if len(self._finished) >= self._most_finished or time.monotonic() - self._noted_at > SECONDS_TOGETHER:
            self.note()

    def note(self) -> None:
        """Check that the sources have not changed, and record in the journals what is written.

        Raises InvalidError (R-002), StorageError.
        """
        finished, self._finished = self._finished, []
        self._noted_at = time.monotonic()
        for tensor, first, last in _joined(finished):
            self.reader.done(tensor, first, last)
        written: dict[Output, list[WrittenLeaf]] = {}
        for job in finished:
            for target, leaves in zip(job.task.targets, job.written, strict=True):
                written.setdefault(target.output, []).extend(leaves)
        for output, leaves in written.items():
            output.record_leaves(leaves)


def _lacking(outputs: Sequence[Output], i: int, number: int) -> list[Output]:
    """The outputs that lack a leaf of tensor i."""
    return [output for output in outputs if (i, number) not in output.digests]


def _joined(finished: Sequence[LeafJob]) -> list[tuple[ModelTensor, int, int]]:
    """The ranges of weights that leaves have read, adjacent ones as one."""
    ranges: list[tuple[ModelTensor, int, int]] = []
    for job in finished:
        tensor = job.task.tensor
        if ranges and ranges[-1][0] is tensor and ranges[-1][2] == job.first:
            ranges[-1] = tensor, ranges[-1][1], job.last
        else:
            ranges.append((tensor, job.first, job.last))
    return ranges


class _Target(NamedTuple):
    """A tensor in an output.

    start: of the tensor, from the start of the file.
    format: of its blocks.
    is_encoded: whether weights are encoded, not copied.
    """

    output: Output
    planned: PlannedTensor
    start: int
    format: BlockFormat
    is_encoded: bool


class _Task:
    """What the leaves of a tensor have in common that are written to the same outputs."""

    def __init__(self, leaves: Leaves, i: int, outputs: Sequence[Output]) -> None:
        planned = [output.planned(i) for output in outputs]
        self.leaves = leaves
        self.i = i
        self.tensor = planned[0].tensor
        self.targets = [
            _Target(output, p, output.start(i), p.blocks, p.is_encoded)
            for output, p in zip(outputs, planned, strict=True)
        ]
        has_importance = any(p.importance is not None for p in planned)
        self.row = self.tensor.shape[-1] if has_importance else 1
        self.needs_floats = any(target.is_encoded for target in self.targets)
        self.events = [(p, target.format.nbytes) for p, target in zip(planned, self.targets, strict=True)]


class LeafJob:
    """Adjacent leaves of a tensor, weights [first, last), for every output that lacks them.

    task: what the leaves of the tensor have in common.
    number: the first leaf.
    end: the leaf after the last one.
    """

    __slots__ = ("first", "last", "number", "task", "written")

    held_nbytes = 0

    def __init__(self, task: _Task, number: int, end: int) -> None:
        self.task = task
        self.number = number
        self.first = number * LEAF_WEIGHTS
        self.last = min(end * LEAF_WEIGHTS, task.tensor.n_weights)
        self.written: list[list[WrittenLeaf]] = []
        """Of each target, when the job is performed."""

    def prefetch(self) -> None:
        """Nothing: `Leaves.jobs` has the system fetch several leaves at once."""

    def perform(self) -> None:
        """Convert the leaves for each output, and write them.

        Raises InvalidError, StorageError.
        """
        task, leaves = self.task, self.task.leaves
        sources = [leaves.digests.begin(task.i, last) for _, last in self._leaves()]
        digests = [[new_leaf_digest() for _ in sources] for _ in task.targets]
        for start, stop in tile_ranges(self.first, self.last, task.row, leaves.tile):
            raw = leaves.reader.read(task.tensor, start, stop)
            if raw is not None and sources[0] is not None and task.tensor.source is not None:
                self._feed(sources, raw, task.tensor.source.require_format(), start, stop)
            weights = self._weights(raw, start, stop)
            for target, of_target in zip(task.targets, digests, strict=True):
                blocks = self._blocks(target, start, raw, weights)
                target.output.file.write(blocks, target.start + target.format.nbytes(start))
                self._feed(of_target, blocks, target.format, start, stop)
        for number, digest in enumerate(sources, self.number):
            if digest is not None:
                leaves.digests.end(task.i, number, digest)
        self._note_written(digests)

    def finish(self) -> list[Event]:
        self.task.leaves.finish(self)
        n = self.last - self.first
        return [(planned, n, nbytes(n)) for planned, nbytes in self.task.events]

    def _leaves(self) -> list[tuple[int, int]]:
        """The weights [first, last) of each leaf."""
        starts = range(self.first, self.last, LEAF_WEIGHTS)
        return [(start, min(start + LEAF_WEIGHTS, self.last)) for start in starts]

    def _feed(
        self, digests: Sequence[Any], content: Bytes, block_format: BlockFormat, start: int, stop: int
    ) -> None:
        """Give the bytes of weights [start, stop) to the digests of the leaves that they belong to."""
        if len(digests) == 1:
            digests[0].update(content)
            return
        for digest, (first, last) in zip(digests, self._leaves(), strict=True):
            if start < last and first < stop:
                begin, end = (block_format.nbytes(w - start) for w in (max(start, first), min(stop, last)))
                digest.update(content[begin:end])

    def _note_written(self, digests: Sequence[Sequence[Any]]) -> None:
        task = self.task
        for target, of_target in zip(task.targets, digests, strict=True):
            if self.last == task.tensor.n_weights:
                of_target[-1].update(bytes(target.planned.padding))
            nbytes = target.format.nbytes
            self.written.append(
                [
                    WrittenLeaf((task.i, number), digest.digest(), target.start + nbytes(a), nbytes(b - a))
                    for number, (digest, (a, b)) in enumerate(
                        zip(of_target, self._leaves(), strict=True), self.number
                    )
                ]
            )

    def _weights(self, raw: Bytes | None, first: int, last: int) -> Floats | None:
        """The weights [first, last) as float32; None where every output takes the source's bytes."""
        task = self.task
        if not task.needs_floats or (raw is not None and task.tensor.source is None):
            return None
        leaves = task.leaves
        out = leaves.buffers.weights_of(last - first) if raw is not None else None
        return leaves.reader.floats(task.tensor, first, last, raw, out)

    def _blocks(self, target: _Target, start: int, raw: Bytes | None, weights: Floats | None) -> Bytes:
        """The tile that begins at weight `start`, proved: encoded, or the source's bytes if these have the
        format.
        """
        planned, output = target.planned, target.output
        encoded, found = weights if target.is_encoded else None, None
        if encoded is not None:
            blocks = self.task.leaves.buffers.blocks_of(target.format.nbytes(encoded.size))
            if planned.importance is None:
                found = _encode(planned, start, encoded, blocks)
            else:
                self._encode_weighted(planned, planned.importance, start, encoded, blocks)
        elif raw is not None:
            blocks = raw
        else:
            raise ValueError(f"{planned.name} has nothing to write")
        seen = look(blocks, target.format) if found is None else found
        allow = output.allow_non_finite
        prove(planned, self.task.i, start, blocks, encoded, seen, output.marks, allow_non_finite=allow)
        return blocks

    def _encode_weighted(
        self, planned: PlannedTensor, importance: Importance, start: int, weights: Floats, blocks: Bytes
    ) -> None:
        """Encode a tile with the importance of its columns: the rows of one matrix at a time, and parts of
        rows at either end alone.
        """
        nbytes = planned.blocks.nbytes
        row, position = planned.shape[-1], 0
        matrix_size = row * (planned.shape[-2] if len(planned.shape) > 1 else 1)
        while position < weights.size:
            at = start + position
            within, rest = at % row, weights.size - position
            whole = min(rest // row * row, matrix_size - at % matrix_size) if within == 0 else 0
            n = whole or min(row - within, rest)
            columns = importance.of_matrix(at // matrix_size, row)
            if planned.method == "search":
                columns = search.floored(columns, row)
            part = weights[position : position + n]
            out = blocks[nbytes(position) : nbytes(position + n)]
            if whole:
                _encode(planned, at, part, out, columns)
            elif planned.blocks.weighs_rows:
                encoded = self._encoded_row(planned, at - within, columns)
                out[:] = encoded[nbytes(within) : nbytes(within) + out.size]
            else:
                _encode(planned, at, part, out, columns[within : within + n])
            position += n

    def _encoded_row(self, planned: PlannedTensor, first: int, importance: Floats) -> Bytes:
        """The blocks of the row that begins at weight `first`, in memory of its own."""
        weights = self.task.leaves.reader.floats(planned.tensor, first, first + planned.shape[-1])
        blocks = np.empty(planned.blocks.nbytes(weights.size), np.uint8)
        _encode(planned, first, weights, blocks, importance)
        return blocks


def _encode(
    planned: PlannedTensor, first: int, weights: Floats, out: Bytes, importance: Floats | None = None
) -> Look:
    """Encode the weights of a tensor from a given number on. Returns what a look at the blocks found.

    planned: the tensor.
    first: number of the first of the weights.
    weights: float32[n].
    out: where to put the blocks, flat.
    importance: of the columns, or None; for a search as `search.floored` gives it.

    Raises InvalidError for NaN and infinity if the format is quantized.
    """
    encoder = search.encode_and_look if planned.method == "search" else encode_and_look
    bad, found = encoder(weights, planned.blocks, out, importance)
    if bad >= 0:
        raise non_finite_error(planned.tensor, first + bad, weights[bad])
    return found


def non_finite_error(tensor: ModelTensor, i: int, weight: np.float32) -> InvalidError:
    """The error that names a weight that is NaN or infinite and was to be quantized.

    tensor: the tensor.
    i: number of the weight in the flattened tensor.
    weight: its value.
    """
    return weight_error("M-100", tensor, i, weight, "which cannot be quantized")
