"""Running plans: read -> decode -> quantize -> write, leaf by leaf, on several threads, into files that appear only when whole.

A leaf is 2**20 weights of one tensor. A thread takes a leaf, moves it tile by tile through the second-level cache (source bytes -> float32 ->
blocks, once for each output), writes the blocks at their place and takes the next. Nothing waits for anything else: every offset is known
before the first byte is read. So memory is `threads` times a tile's buffers for a model of any size, and an interrupted conversion goes on
from the leaves that its journal lists.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from gguflow import __version__, models, platform, recipes, sources
from gguflow.blocks import FORMATS, BlockFormat
from gguflow.container.integrity import LEAF_WEIGHTS, new_leaf_digest, shards_id, tensor_digest
from gguflow.container.shards import ShardName
from gguflow.container.writer import OutputFile, is_worth_keeping
from gguflow.errors import Finding, InvalidError, UsageError
from gguflow.imatrix import Importance
from gguflow.imatrix import read as read_imatrix
from gguflow.journal import Journal, Leaf
from gguflow.models.base import ModelTensor
from gguflow.plan import Plan, PlannedTensor, Split, make, split
from gguflow.quantization import TILE, Bytes, Floats, decode, encode, first_non_finite, kernels_digest
from gguflow.sources.base import Checkpoint
from gguflow.sources.reading import TensorReader
from gguflow.weights import leave, packed, tiles

DEFAULT_MEMORY_LIMIT = 192 << 20
"""Bytes for buffers, of all threads together."""

SMALLEST_TILE = 256
"""Weights: one block of the largest format."""


@dataclass(frozen=True)
class FormatTotal:
    """What one format has of an output."""

    n_tensors: int
    n_weights: int
    nbytes: int


@dataclass(frozen=True)
class Report:
    """What a conversion did. Sizes in bytes; source_nbytes is of the tensors that were read; resumed_nbytes were there from an earlier run.

    output: the file, or the first of its shards. files: all of them.
    """

    output: Path
    recipe: str
    n_tensors: int
    n_weights: int
    source_nbytes: int
    nbytes: int
    resumed_nbytes: int
    bits_per_weight: float
    formats: dict[str, FormatTotal]
    seconds: float
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Target:
    """One output: what its file will be, and where; several plans and paths where it is cut into shards."""

    plans: tuple[Plan, ...]
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Prepared:
    """A conversion ready to run: nothing of it is written yet. The targets hold the same tensors, in different formats."""

    checkpoint: Checkpoint
    targets: tuple[Target, ...]


Progress = Callable[[PlannedTensor, int, int], None]
"""Called from the calling thread after each leaf of each output: its tensor, its weights, its bytes."""


def prepare(
    source: str | Path,
    output: str | Path | None = None,
    *,
    type: str = "q4_k_m",
    architecture: str | None = None,
    strip_prefix: str | None = None,
    options: recipes.Options | None = None,
    imatrix: str | Path | None = None,
    shards: Split | None = None,
    integrity: bool = True,
) -> Prepared:
    """Open the source, understand the model, plan the output. Reads headers, config and tokenizer; no weights.

    output: default llama.cpp's file name for the model, in the current directory; `{type}` in it stands for the type.
    type: one, or several with commas between them, which are then written from one reading of the source.
    options: changes to what the type's recipe chooses, and to metadata. imatrix: a file with the importance of columns, llama-imatrix's.
    shards: how the output is cut into several files, whose names end in -00001-of-00003.gguf; None for one file.
    integrity: whether the output carries the keys by which it can prove itself.
    Raises UsageError, FileError, StorageError.
    """
    chosen = [recipes.resolve(name) for name in type.split(",")]
    checkpoint = sources.open_checkpoint(source)
    model = models.load(checkpoint, architecture=architecture, strip_prefix=strip_prefix)
    read = [(file.path.name, file.header_digest) for file in checkpoint.files]
    template = str(output) if output is not None else _file_name(model.file_stem)
    importance = read_imatrix(imatrix) if imatrix is not None else None
    plans = [make(model, recipe, options, importance, integrity=integrity, sources=read) for recipe in chosen]
    paths = [Path(template.replace("{type}", recipe.label)) for recipe in chosen]
    targets = tuple(_target(plan, path, shards) for plan, path in zip(plans, paths, strict=True))
    if len(set(paths)) < len(targets):
        raise UsageError(f"{len(targets)} types need as many files; put {{type}} into the output's name ({template})")
    return Prepared(checkpoint, targets)


def _target(plan: Plan, path: Path, shards: Split | None) -> Target:
    if shards is None:
        return Target((plan,), (path,))
    plans = split(plan, shards)
    stem = path.name.removesuffix(".gguf")
    return Target(plans, tuple(path.with_name(str(ShardName(stem, i, len(plans)))) for i in range(len(plans))))


def run(
    prepared: Prepared,
    *,
    threads: int | None = None,
    memory_limit: int = DEFAULT_MEMORY_LIMIT,
    overwrite: bool = False,
    resume: bool = True,
    io: str = "mmap",
    progress: Progress | None = None,
) -> list[Report]:
    """Carry out a prepared conversion; a report for each target. Whatever stops it, each output is then whole or as it was.

    threads: default, as many as this process may use. memory_limit: bytes for buffers, whatever the sizes of tensors.
    resume: go on from what an interrupted run of the same conversion left; False forgets it.
    io: "mmap", or "pread" where a source might be truncated by somebody while it is read, which kills a process that has it mapped.
    Raises UsageError (an output exists, is a source, or is being written; what was left belongs to another conversion; a tensor needs importance and
    has none), InvalidError (NaN or Inf in a tensor that is to be quantized; a source that changed while it was read), StorageError.
    """
    started = time.perf_counter()
    threads = platform.available_cpus() if threads is None else threads
    if threads < 1:
        raise UsageError(f"threads must be 1 or more, not {threads}")
    tile = _tile_weights(memory_limit, threads, len(prepared.targets))
    files = [(plan, path) for target in prepared.targets for plan, path in zip(target.plans, target.paths, strict=True)]
    for plan, path in files:
        plan.check_importance()
        if any(platform.is_same_file(path, file.path) for file in prepared.checkpoint.files):
            raise UsageError(f"{path} is a source of this conversion; choose another output")
    with ExitStack() as stack:
        reader = stack.enter_context(TensorReader(prepared.checkpoint, io))
        binding = _binding(prepared.checkpoint)
        outputs = [stack.enter_context(_Output(plan, path, binding, overwrite=overwrite, resume=resume)) for plan, path in files]
        _run_leaves(_Work(reader, outputs, tile), threads, progress)
        reader.check_unchanged()
        groups = [[outputs.pop(0) for _ in target.plans] for target in prepared.targets]
        for group in groups:
            _complete(group)
        for group in groups:
            for output in reversed(group):  # whoever finds the first shard finds them all
                output.file.commit()
        seconds = time.perf_counter() - started
    return [_report(group, seconds) for group in groups]


def convert(
    source: str | Path,
    output: str | Path | None = None,
    *,
    type: str = "q4_k_m",
    architecture: str | None = None,
    strip_prefix: str | None = None,
    options: recipes.Options | None = None,
    imatrix: str | Path | None = None,
    shards: Split | None = None,
    integrity: bool = True,
    threads: int | None = None,
    memory_limit: int = DEFAULT_MEMORY_LIMIT,
    overwrite: bool = False,
    resume: bool = True,
    io: str = "mmap",
    progress: Progress | None = None,
) -> Report:
    """Convert a checkpoint, or a GGUF file, to GGUF: `prepare`, then `run`; their arguments and errors. Of several types, the first one's report."""
    prepared = prepare(
        source,
        output,
        type=type,
        architecture=architecture,
        strip_prefix=strip_prefix,
        options=options,
        imatrix=imatrix,
        shards=shards,
        integrity=integrity,
    )
    return run(prepared, threads=threads, memory_limit=memory_limit, overwrite=overwrite, resume=resume, io=io, progress=progress)[0]


class _Output:
    """A file being written: its journal, and the digests of the leaves that are there. Leaves count the tensors of all shards."""

    def __init__(self, plan: Plan, path: Path, binding: str, *, overwrite: bool, resume: bool) -> None:
        self.plan = plan
        self.file = OutputFile(path, plan.nbytes, overwrite=overwrite, resume=resume)
        plan_digest = hashlib.sha256(plan.header).hexdigest()
        self.journal = Journal(path.with_name(f".{path.name}.journal"), f"{binding} {plan_digest} {plan.imatrix_digest}")
        self.digests: dict[Leaf, bytes] = {}
        self.resumed_nbytes = 0

    def __enter__(self) -> _Output:
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


class _Work:
    """The leaves of all outputs, and how one is done."""

    def __init__(self, reader: TensorReader, outputs: Sequence[_Output], tile: int) -> None:
        self.reader = reader
        self.outputs = outputs
        self.tile = tile
        self.buffers = _Buffers()

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
        for start, stop in tiles(first, last, tensor.shape[-1] if tensor.shape else 1, self.tile):
            raw = packed(self.reader, tensor, start, stop)
            weights = self._weights(tensor, raw, start, stop, formats)
            for output, planned, digest in lacking:
                blocks = self._blocks(planned, start, raw, weights)
                output.file.write(blocks, output.offset(planned, start))
                digest.update(blocks)
        leave(self.reader, tensor, first, last)
        for output, planned, digest in lacking:
            digest.update(output.padding(planned, last))
            output.record(leaf, digest.digest())
        return [(planned, last - first, output.leaf_nbytes(leaf)) for output, planned, _ in lacking]

    def _weights(self, tensor: ModelTensor, raw: Bytes | None, first: int, last: int, formats: Sequence[BlockFormat]) -> Floats | None:
        """The weights [first, last) as float32, checked for what the formats cannot hold; None where every format is the source's own."""
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
        if any(block_format.is_quantized or block_format is FORMATS["f16"] for block_format in formats):
            _check_finite(tensor, first, weights, FORMATS["f16"] in formats)
        return weights

    def _blocks(self, planned: PlannedTensor, start: int, raw: Bytes | None, weights: Floats | None) -> Bytes:
        """The tile that begins at weight `start` in its format: encoded, or the source's own bytes where that is its format."""
        if weights is None or not planned.is_encoded:
            if raw is None:
                raise ValueError(f"{planned.name} has nothing to write")
            return raw
        blocks = self.buffers.blocks_of(_nbytes(planned.format, weights.size))
        if planned.importance is None:
            encode(weights, planned.format, blocks)
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
                encode(part, planned.format, out, columns)
            elif planned.format.weighs_rows:
                out[:] = self._encoded_row(planned, at - within, columns)[_nbytes(planned.format, within) :][: out.size]
            else:
                encode(part, planned.format, out, columns[within : within + n])
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
        _check_finite(planned.tensor, first, weights, must_fit_f16=False)
        blocks = np.empty(_nbytes(planned.format, row), np.uint8)
        encode(weights, planned.format, blocks, importance)
        return blocks


def _nbytes(block_format: BlockFormat, n: int) -> int:
    """Bytes of n weights, whole blocks."""
    return n // block_format.block_size * block_format.type_size


def _n_leaves(planned: PlannedTensor) -> int:
    return -(-planned.tensor.n_weights // LEAF_WEIGHTS)


def _leaf_range(planned: PlannedTensor, leaf: int) -> tuple[int, int]:
    """The weights [first, last) of a leaf."""
    return leaf * LEAF_WEIGHTS, min((leaf + 1) * LEAF_WEIGHTS, planned.tensor.n_weights)


def _tile_weights(memory_limit: int, threads: int, n_targets: int) -> int:
    """The largest tile whose buffers fit: source bytes, float32 and blocks, each of at most 4 bytes a weight, for every thread.

    Raises UsageError where not even the smallest does.
    """
    each = 4 + 4 + 4
    fitting = memory_limit // threads // each // SMALLEST_TILE * SMALLEST_TILE
    if fitting < SMALLEST_TILE:
        needed = threads * each * SMALLEST_TILE
        raise UsageError(f"a memory limit of {memory_limit} bytes is too small for {threads} threads: they need {needed}, or fewer threads")
    return min(fitting, TILE)


def _file_name(stem: str) -> str:
    """A model's default file name: its stem comes from untrusted metadata, and must name a file of this directory."""
    safe = "".join("-" if c in "/\\:\0" or not c.isprintable() else c for c in stem)
    return f"{safe.lstrip('.') or 'model-{type}'}.gguf"


def _binding(checkpoint: Checkpoint) -> str:
    """What decides the bytes of an output beside its plan: the version of the program, and the sources as they are."""
    digest = hashlib.sha256()
    for file in checkpoint.files:
        with platform.storage_errors("read", file.path), file.path.open("rb") as opened:
            digest.update(repr((str(file.path.resolve()), file.nbytes, file.mtime_ns)).encode() + opened.read(1 << 20))
    return f"gguflow {__version__} {kernels_digest()} {digest.hexdigest()}"


def _check_finite(tensor: ModelTensor, first: int, weights: Floats, must_fit_f16: bool) -> None:
    """Raise for NaN and Inf, and where F16 is wanted, for what would become Inf."""
    bad = first_non_finite(weights)
    what = "cannot be quantized"
    if bad < 0 and must_fit_f16:
        too_large = np.abs(weights) >= np.float32(65520)
        bad = int(too_large.argmax()) if too_large.any() else -1
        what = "does not fit F16 (choose bf16)"
    if bad >= 0:
        index = [int(i) for i in np.unravel_index(first + bad, tensor.shape)]
        message = f"tensor {tensor.name!r} holds {weights[bad]} at index {index}, which {what}"
        raise InvalidError(tensor.source.file.path if tensor.source else "the model", Finding("M-100", message, f"$.tensors[{tensor.name!r}]"))


def _complete(shards: Sequence[_Output]) -> None:
    """Write the headers, now that all digests are known, and make the files durable; their names are still free after that."""
    digests = [output.tensor_digests() for output in shards]
    common = shards_id([digest for each in digests for digest in each])
    for output, own in zip(shards, digests, strict=True):
        output.file.write(output.plan.completed_header(own, common), 0)
        output.file.flush()


def _run_leaves(work: _Work, threads: int, progress: Progress | None) -> None:
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
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _report(shards: Sequence[_Output], seconds: float) -> Report:
    tensors = [planned for output in shards for planned in output.plan.tensors]
    n_weights = sum(planned.tensor.n_weights for planned in tensors)
    by_format: dict[BlockFormat, list[PlannedTensor]] = {}
    for planned in sorted(tensors, key=lambda p: -p.format.bits_per_weight):
        by_format.setdefault(planned.format, []).append(planned)
    return Report(
        output=shards[0].file.path,
        recipe=shards[0].plan.recipe,
        n_tensors=len(tensors),
        n_weights=n_weights,
        source_nbytes=sum(source.nbytes for p in tensors for source in p.tensor.sources),
        nbytes=sum(output.plan.nbytes for output in shards),
        resumed_nbytes=sum(output.resumed_nbytes for output in shards),
        bits_per_weight=8 * sum(p.nbytes for p in tensors) / max(n_weights, 1),
        formats={
            f.name: FormatTotal(len(group), sum(p.tensor.n_weights for p in group), sum(p.nbytes for p in group)) for f, group in by_format.items()
        },
        seconds=seconds,
        files=tuple(output.file.path for output in shards),
    )
