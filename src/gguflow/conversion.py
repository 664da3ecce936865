"""Running a plan: read -> decode -> quantize -> write, in pieces of bounded size, on several threads, into a file that appears only when whole.

A piece is about a million weights of one tensor. A thread takes a piece, moves it tile by tile through the second-level cache (source bytes ->
float32 -> blocks), writes its blocks at their place in the file, and takes the next. Nothing waits for anything else: every offset is known
before the first byte is read. So memory is `threads` times a few megabytes for a model of any size.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gguflow import models, platform, recipes, sources
from gguflow.blocks import FORMATS, BlockFormat
from gguflow.container.writer import OutputFile
from gguflow.errors import Finding, InvalidError, UsageError
from gguflow.plan import Plan, PlannedTensor, make
from gguflow.quantization import TILE, Bytes, Floats, decode, encode, first_non_finite, pieces
from gguflow.sources.base import Checkpoint
from gguflow.sources.reading import TensorReader

PIECE = 1 << 20
"""Weights that a thread takes at a time: long enough that starting costs nothing, short enough that threads finish together."""


@dataclass(frozen=True)
class FormatTotal:
    """What one format has of an output."""

    n_tensors: int
    n_weights: int
    nbytes: int


@dataclass(frozen=True)
class Report:
    """What a conversion did. Sizes in bytes; source_nbytes is of the tensors that were read."""

    output: Path
    recipe: str
    n_tensors: int
    n_weights: int
    source_nbytes: int
    nbytes: int
    bits_per_weight: float
    formats: dict[str, FormatTotal]
    seconds: float


@dataclass(frozen=True)
class Prepared:
    """A conversion ready to run: nothing of it is written yet."""

    checkpoint: Checkpoint
    plan: Plan
    output: Path


Progress = Callable[[PlannedTensor, int, int], None]
"""Called from the calling thread after each piece: its tensor, its weights, its bytes in the output."""


def prepare(
    source: str | Path,
    output: str | Path | None = None,
    *,
    type: str = "q4_k_m",
    architecture: str | None = None,
    strip_prefix: str | None = None,
) -> Prepared:
    """Open the source, understand the model, plan the output. Reads headers, config and tokenizer; no weights.

    output: default llama.cpp's file name for the model, in the current directory.
    Raises UsageError, FileError, StorageError.
    """
    recipe = recipes.resolve(type)
    checkpoint = sources.open_checkpoint(source)
    model = models.load(checkpoint, architecture=architecture, strip_prefix=strip_prefix)
    plan = make(model, recipe)
    return Prepared(checkpoint, plan, Path(output) if output is not None else Path(model.file_stem.format(type=recipe.label) + ".gguf"))


def run(prepared: Prepared, *, threads: int | None = None, overwrite: bool = False, progress: Progress | None = None) -> Report:
    """Carry out a prepared conversion. Whatever stops it, `output` is then either whole or as it was.

    threads: default, as many as this process may use.
    Raises UsageError (the output exists, or is a source), InvalidError (NaN or Inf in a tensor that is to be quantized; a source that changed
    while it was read), StorageError.
    """
    started = time.perf_counter()
    threads = platform.available_cpus() if threads is None else threads
    if threads < 1:
        raise UsageError(f"threads must be 1 or more, not {threads}")
    checkpoint, plan = prepared.checkpoint, prepared.plan
    if any(platform.is_same_file(prepared.output, file.path) for file in checkpoint.files):
        raise UsageError(f"{prepared.output} is a source of this conversion; choose another output")
    with OutputFile(prepared.output, plan.nbytes, overwrite=overwrite) as out, TensorReader(checkpoint) as reader:
        out.write(plan.header, 0)
        work = _Work(plan, reader, out)
        _run_pieces(work, threads, progress)
        reader.check_unchanged()
        out.commit()
    return _report(prepared, time.perf_counter() - started)


def convert(
    source: str | Path,
    output: str | Path | None = None,
    *,
    type: str = "q4_k_m",
    threads: int | None = None,
    overwrite: bool = False,
    architecture: str | None = None,
    strip_prefix: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Convert a safetensors checkpoint to GGUF: `prepare`, then `run`; their arguments and errors."""
    prepared = prepare(source, output, type=type, architecture=architecture, strip_prefix=strip_prefix)
    return run(prepared, threads=threads, overwrite=overwrite, progress=progress)


class _Buffers(threading.local):
    """Scratch of one thread, reused from piece to piece."""

    def __init__(self) -> None:
        self.tile = np.empty(TILE, np.float32)
        self.blocks = np.empty(0, np.uint8)

    def blocks_of(self, nbytes: int) -> Bytes:
        if self.blocks.size < nbytes:
            self.blocks = np.empty(nbytes, np.uint8)
        return self.blocks[:nbytes]

    def tile_of(self, n: int) -> Floats:
        if self.tile.size < n:
            self.tile = np.empty(n, np.float32)
        return self.tile[:n]


class _Work:
    """The pieces of a plan and how one is done."""

    def __init__(self, plan: Plan, reader: TensorReader, out: OutputFile) -> None:
        self.plan = plan
        self.reader = reader
        self.out = out
        self.buffers = _Buffers()

    def pieces(self) -> Iterator[tuple[PlannedTensor, int, int]]:
        for planned in self.plan.tensors:
            row = planned.shape[-1] if planned.shape else 1
            for first, last in pieces(planned.tensor.n_weights, row, planned.format.block_size, PIECE):
                yield planned, first, last

    def do(self, planned: PlannedTensor, first: int, last: int) -> int:
        """Convert weights [first, last) of a tensor and write them; the number of bytes written."""
        start, stop = (weight // planned.format.block_size * planned.format.type_size for weight in (first, last))
        blocks = self.buffers.blocks_of(stop - start)
        row = planned.shape[-1] if planned.shape else 1
        for tile_first, tile_last in pieces(last - first, min(row, last - first), planned.format.block_size, TILE):
            a, b = (weight // planned.format.block_size * planned.format.type_size for weight in (tile_first, tile_last))
            self._convert(planned, first + tile_first, first + tile_last, blocks[a:b])
        self.out.write(blocks, self.plan.data_offset + planned.offset + start)
        if planned.tensor.source is not None and planned.tensor.row_order is None:
            self.reader.release(planned.tensor.source, first, last)
        return stop - start

    def _convert(self, planned: PlannedTensor, first: int, last: int, blocks: Bytes) -> None:
        """Weights [first, last), whole rows or a part of one, into flat `blocks`."""
        tensor = planned.tensor
        if tensor.source is None:
            values = tensor.values if tensor.values is not None else np.empty(0, np.float32)
            tile = np.ascontiguousarray(values, np.float32).reshape(-1)[first:last]
        else:
            raw = self._source_bytes(planned, first, last)
            source_format = tensor.source.require_format()
            if source_format is planned.format:
                blocks[:] = raw
                return
            tile = self.buffers.tile_of(last - first)
            decode(raw, source_format, tile)
        if planned.format.is_quantized or planned.format is FORMATS["f16"]:
            _check_finite(planned, first, tile)
        encode(tile, planned.format, blocks)

    def _source_bytes(self, planned: PlannedTensor, first: int, last: int) -> Bytes:
        tensor = planned.tensor
        if tensor.source is None:
            raise ValueError("a tensor of given values has no source")
        if tensor.row_order is None:
            return self.reader.read(tensor.source, first, last)
        row = tensor.n_weights // tensor.shape[0]  # of a vector (a bias of Q or K), the rows are its weights
        n_rows = tensor.n_weights // row
        first_row, last_row = first // row, -(-last // row)
        rows = self.reader.read_rows(tensor.source, tensor.row_order.source_rows(first_row, last_row, n_rows)).reshape(-1)
        size = tensor.source.require_format().type_size
        return rows[(first - first_row * row) * size : (last - first_row * row) * size]


def _check_finite(planned: PlannedTensor, first: int, tile: Floats) -> None:
    """Raise for NaN and Inf, and where F16 is wanted, for what would become Inf."""
    bad = first_non_finite(tile)
    what = "cannot be quantized"
    if bad < 0 and planned.format is FORMATS["f16"]:
        too_large = np.abs(tile) >= np.float32(65520)
        bad = int(too_large.argmax()) if too_large.any() else -1
        what = "does not fit F16 (choose bf16)"
    if bad >= 0:
        source = planned.tensor.source
        index = [int(i) for i in np.unravel_index(first + bad, planned.shape)]
        message = f"tensor {planned.name!r} holds {tile[bad]} at index {index}, which {what}"
        raise InvalidError(source.file.path if source else "the model", Finding("M-100", message, f"$.tensors[{planned.name!r}]"))


def _run_pieces(work: _Work, threads: int, progress: Progress | None) -> None:
    """All pieces, on a pool of threads, with a few waiting; the first error ends the rest."""
    pending: dict[Future[int], tuple[PlannedTensor, int, int]] = {}
    with ThreadPoolExecutor(threads, thread_name_prefix="gguflow") as pool:

        def collect(keep: int) -> None:
            while len(pending) > keep:
                for done in wait(pending, return_when=FIRST_COMPLETED).done:
                    planned, first, last = pending.pop(done)
                    nbytes = done.result()
                    if progress is not None:
                        progress(planned, last - first, nbytes)

        try:
            for piece in work.pieces():
                pending[pool.submit(work.do, *piece)] = piece
                collect(keep=2 * threads)
            collect(keep=0)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _report(prepared: Prepared, seconds: float) -> Report:
    plan = prepared.plan
    by_format: dict[BlockFormat, list[PlannedTensor]] = {}
    for planned in sorted(plan.tensors, key=lambda p: -p.format.bits_per_weight):
        by_format.setdefault(planned.format, []).append(planned)
    return Report(
        output=prepared.output,
        recipe=plan.recipe,
        n_tensors=len(plan.tensors),
        n_weights=plan.n_weights,
        source_nbytes=sum(p.tensor.source.nbytes for p in plan.tensors if p.tensor.source),
        nbytes=plan.nbytes,
        bits_per_weight=plan.bits_per_weight,
        formats={
            f.name: FormatTotal(len(group), sum(p.tensor.n_weights for p in group), sum(p.nbytes for p in group)) for f, group in by_format.items()
        },
        seconds=seconds,
    )
