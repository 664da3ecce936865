"""From a source to files: prepare (understand and plan), then run the plan on several threads, into files
that appear only when whole.

The work is done leaf by leaf (`engine.py`). So memory is `threads` times a tile's buffers for a model of any
size, and an interrupted conversion goes on from the leaves that its journal lists.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from gguflow import models, platform, recipes, sources
from gguflow._version import __version__
from gguflow.arguments import (
    MAX_SIZE,
    callback,
    choice,
    file_path,
    flag,
    instance,
    integer,
    optional_text,
    texts,
)
from gguflow.container.integrity import shards_id
from gguflow.container.mapped_file import IO_MODES
from gguflow.container.shards import ShardName
from gguflow.conversion import engine, planners
from gguflow.conversion.engine import Progress
from gguflow.conversion.imatrix import Imatrix
from gguflow.conversion.imatrix import read as read_imatrix
from gguflow.conversion.jobs import Memory, jobs_of
from gguflow.conversion.judging import check_header, check_meaning
from gguflow.conversion.output import Output
from gguflow.conversion.plan import METHODS, Plan, PlannedTensor, make
from gguflow.conversion.skipping import without
from gguflow.conversion.splitting import Split, split
from gguflow.errors import FileWarning, UsageError, gathered_warnings, warn
from gguflow.models.dense_modules import with_dense_layers
from gguflow.models.differences import Difference, by_id
from gguflow.models.general import overridden
from gguflow.models.output_name import file_name
from gguflow.models.overrides import Overrides
from gguflow.models.reading import ModelReader
from gguflow.quantization import kernels_digest
from gguflow.sources.base import Checkpoint
from gguflow.threads import resolve as resolve_threads

DEFAULT_MEMORY_LIMIT = 192 << 20
"""Bytes for buffers, of all threads together."""

DEFAULT_TYPE = "q4_k_m"
"""The type of an output for which the user names none."""

_VOCABULARY_TYPE = "f16"
"""What llama.cpp's converter writes as the type of a file without weights."""

_OPEN_FILES = 3
"""For each output: the partial file, its journal, and the file that it replaces."""


@dataclass(frozen=True)
class FormatTotal:
    """The tensors of one format in an output.

    n_tensors: number of tensors.
    n_weights: number of their weights.
    nbytes: bytes of their blocks or payloads, without padding.
    """

    n_tensors: int
    n_weights: int
    nbytes: int


@dataclass(frozen=True)
class Report:
    """What a conversion did.

    output: the file, or the first of its shards.
    recipe: name of the recipe.
    n_tensors: number of tensors that were written, in all shards.
    n_weights: number of their weights.
    source_nbytes: bytes of the tensors that were read.
    nbytes: bytes of the files.
    resumed_nbytes: bytes that were there from an earlier run.
    bits_per_weight: of blocks and payloads, without headers and padding.
    formats: by the name of the format, the widest first.
    seconds: duration of `run`.
    files: the output, or all of its shards.
    coded: bytes of the entropy-coded payloads, before and after coding; None if there are none.
    differences: ids of the intended differences from llama.cpp that applied.
    warnings: what is doubtful about the source, as in `Prepared`, and what only its weights could show.
    notes: in sentences, what could not be kept of replaced files (their owner, their other names).
    method: how scales and codes were chosen, as in `prepare`.
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
    coded: tuple[int, int] | None = None
    differences: tuple[str, ...] = ()
    warnings: tuple[FileWarning, ...] = ()
    notes: tuple[str, ...] = ()
    method: str = "ggml"


@dataclass(frozen=True)
class Target:
    """One output: what its file will be, and its path; several plans and paths if it is cut into shards.

    plans: the plan of each file, in the order of the shards.
    paths: the path of each file, in the same order.
    """

    plans: tuple[Plan, ...]
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Prepared:
    """A conversion that is ready to run; nothing is written yet.

    checkpoint: the source, without the tensors that are skipped.
    targets: the outputs: the same tensors, in different formats.
    differences: the intended differences from llama.cpp that apply to this checkpoint.
    warnings: what is doubtful about the source.
    allow_non_finite: as in `prepare`.
    """

    checkpoint: Checkpoint
    targets: tuple[Target, ...]
    differences: tuple[Difference, ...] = ()
    warnings: tuple[FileWarning, ...] = ()
    allow_non_finite: bool = False


def prepare(
    source: str | Path,
    output: str | Path | None = None,
    *,
    type: str | None = None,
    architecture: str | None = None,
    strip_prefix: str | None = None,
    next_tokens: bool = True,
    dense_modules: bool = False,
    skip_tensors: Sequence[str] = (),
    follow_links: bool = False,
    options: recipes.Options | None = None,
    imatrix: str | Path | None = None,
    include_weights: Sequence[str] = (),
    exclude_weights: Sequence[str] = (),
    shards: Split | None = None,
    integrity: bool = True,
    allow_non_finite: bool = False,
    model_name: str | None = None,
    metadata_file: str | Path | None = None,
    vocab_only: bool = False,
    mistral_format: bool = False,
    method: str = "ggml",
) -> Prepared:
    """Open the source, understand the model, plan the output. Reads headers, configuration and tokenizer, but
    no weights.

    source: a checkpoint or a GGUF file.
    output: path of the output, in which `{type}` stands for the type; None for llama.cpp's file name for the
        model, in the current directory.
    type: one type, or several separated by commas, which are written from a single reading of the source;
        None for q4_k_m.
    architecture: value for `general.architecture`, instead of what the configuration says.
    strip_prefix: removed from the names of tensors that start with it.
    next_tokens: whether blocks that predict further tokens (MTP) are written.
    dense_modules: whether the dense layers are written that sentence-transformers has behind an encoder.
    skip_tensors: regular expressions; a tensor is left out if one of them matches anywhere in its name in the
        source.
    follow_links: whether configuration, tokenizer and model card may be links to any place; otherwise they
        may only lead to a file of the checkpoint, or into a Hugging Face cache.
    options: changes to what the type's recipe chooses, and to metadata.
    imatrix: a file of llama-imatrix with the importance of columns.
    include_weights: texts; only entries of the imatrix with one of them in their names are used.
    exclude_weights: texts; only entries of the imatrix with none of them in their names are used.
    shards: how the output is cut into several files (NAME-00001-of-00003.gguf); None for one file.
    integrity: whether the output carries the keys with which it can be verified.
    allow_non_finite: keep NaN and infinity in tensors that are copied, or stored as F32, F16 or BF16; the
        report then names them. Weights that are NaN or infinite are never quantized.
    model_name: value for `general.name`, instead of what the model's files say.
    metadata_file: a JSON object with more such values, by their keys (`general.author`).
    vocab_only: write the keys and the tokenizer without any tensors, as llama.cpp's tools take a vocabulary.
        The source is a checkpoint's directory, whose weights may be absent.
    mistral_format: whether the source is a directory in Mistral's own form: params.json, tekken.json,
        consolidated*.safetensors. What else is in it is not read.
    method: "ggml" for the bytes of ggml's encoder; "search" for blocks of the same size with smaller errors,
        in the formats of `gguflow.fidelity.grids.GRIDS`. Other formats keep ggml's encoder.

    Raises UsageError, FileError, StorageError.
    """
    source = file_path(source, "source")
    output = None if output is None else file_path(output, "output")
    imatrix = None if imatrix is None else file_path(imatrix, "imatrix")
    metadata_file = None if metadata_file is None else file_path(metadata_file, "metadata_file")
    for name, is_set in (
        ("follow_links", follow_links),
        ("next_tokens", next_tokens),
        ("dense_modules", dense_modules),
        ("integrity", integrity),
        ("allow_non_finite", allow_non_finite),
        ("vocab_only", vocab_only),
        ("mistral_format", mistral_format),
    ):
        flag(is_set, name)
    architecture = optional_text(architecture, "architecture")
    strip_prefix = optional_text(strip_prefix, "strip_prefix")
    options = None if options is None else instance(options, "options", recipes.Options)
    shards = None if shards is None else instance(shards, "shards", Split)
    skip_tensors = texts(skip_tensors, "skip_tensors")
    method = choice(method, "method", METHODS)
    if vocab_only:
        asked = None if method == "ggml" else method
        about_tensors = (type, architecture, strip_prefix, imatrix, shards, asked, *skip_tensors)
        _check_vocabulary(any(each is not None for each in about_tensors))
    default = _VOCABULARY_TYPE if vocab_only else DEFAULT_TYPE
    chosen = [recipes.resolve(name) for name in recipes.split_names(default if type is None else type)]
    overrides = Overrides.read(metadata_file, model_name)
    with gathered_warnings() as warnings:
        checkpoint = sources.open_checkpoint(
            source, follow_links, weights=not vocab_only, mistral=mistral_format
        )
        sources.refuse_lone_shard(checkpoint)
        if dense_modules:
            checkpoint = with_dense_layers(checkpoint)
        checkpoint = without(checkpoint, skip_tensors)
        model = models.load(
            checkpoint,
            architecture=architecture,
            strip_prefix=strip_prefix,
            next_tokens=next_tokens,
            vocab_only=vocab_only,
        )
        if overrides.fields:
            model = overridden(model, None if architecture else checkpoint.directory, overrides)
    read = [(file.path.name, file.header_digest) for file in checkpoint.files]
    template = str(output) if output is not None else file_name(model.file_stem)
    importance = _importance(
        imatrix, texts(include_weights, "include_weights"), texts(exclude_weights, "exclude_weights")
    )
    plans = [
        make(model, recipe, options, importance, integrity=integrity, sources=read, method=method)
        for recipe in chosen
    ]
    is_understood = checkpoint.config is not None and architecture is None
    doubts = [
        doubt
        for plan in plans
        for doubt in check_meaning(plan, model, options, checkpoint.path, is_understood=is_understood)
    ]
    paths = [Path(template.replace("{type}", "vocab" if vocab_only else recipe.label)) for recipe in chosen]
    targets = tuple(_target(plan, path, shards) for plan, path in zip(plans, paths, strict=True))
    if len(set(paths)) < len(targets):
        raise UsageError(
            f"{len(targets)} types need as many files; put {{type}} into the output's name ({template})"
        )
    applied = tuple(map(by_id, model.differences))
    return Prepared(
        checkpoint, targets, applied, _once(*warnings, *model.warnings, *doubts), allow_non_finite
    )


def _check_vocabulary(has_tensor_options: bool) -> None:
    """Raise UsageError if something is asked about tensors of an output that has none."""
    if has_tensor_options:
        raise UsageError(
            "a vocabulary has no tensors (--vocab-only): there is nothing to choose a type for (-t), to name "
            "(--arch, --strip-prefix), to skip, to split, to weigh (--imatrix), or to encode (--method)"
        )


def _once(*warnings: FileWarning) -> tuple[FileWarning, ...]:
    """Warnings, each of them once; as such, whatever their severity was in the source."""
    found: list[FileWarning] = []
    for warning in warnings:
        mild = replace(warning, finding=replace(warning.finding, severity="warning"))
        found += [mild] if mild not in found else []
    return tuple(found)


def _importance(path: Path | None, included: Sequence[str], excluded: Sequence[str]) -> Imatrix | None:
    if path is None:
        if included or excluded:
            raise UsageError("--include-weights and --exclude-weights are for the entries of --imatrix")
        return None
    return read_imatrix(path).only(included, excluded)


def _target(plan: Plan, path: Path, shards: Split | None) -> Target:
    if shards is None:
        return Target((plan,), (path,))
    plans = split(plan, shards)
    stem = path.name.removesuffix(".gguf")
    return Target(
        plans, tuple(path.with_name(str(ShardName(stem, i, len(plans)))) for i in range(len(plans)))
    )


def run(
    prepared: Prepared,
    *,
    threads: int | None = None,
    memory_limit: int = DEFAULT_MEMORY_LIMIT,
    overwrite: bool = False,
    resume: bool = True,
    io: str = "mmap",
    progress: Progress | None = None,
    allow_non_finite: bool = False,
) -> list[Report]:
    """Carry out a prepared conversion; one report for each target. If it is stopped, each output is either
    whole or as it was.

    prepared: what `prepare` returned.
    threads: number of threads; None for as many as this process may use.
    memory_limit: bytes for buffers, whatever the sizes of tensors.
    overwrite: whether an existing output may be replaced.
    resume: continue what an interrupted run of the same conversion left; False discards it.
    io: "mmap", or "pread" if another program might truncate a source while it is read, which kills a process
        that has it mapped.
    progress: called as `Progress` says; None for no calls.
    allow_non_finite: as in `prepare`; it is enough if one of the two is True.

    Raises UsageError (an output exists, is a source, or is being written; what was left belongs to another
    conversion; a tensor needs importance and has none), InvalidError (NaN or Inf in a tensor; weights that
    would become NaN, Inf or nothing; a source that changed while it was read), StorageError.
    """
    started = time.perf_counter()
    callback(progress, "progress")
    flag(allow_non_finite, "allow_non_finite")
    threads = check_settings(threads, memory_limit, overwrite=overwrite, resume=resume, io=io)
    files = [file for target in prepared.targets for file in zip(target.plans, target.paths, strict=True)]
    for plan, path in files:
        plan.check_importance()
        if any(platform.is_same_file(path, file.path) for file in prepared.checkpoint.files):
            raise UsageError(f"{path} is a source of this conversion; choose another output")
    platform.allow_open_files(_OPEN_FILES * len(files) + len(prepared.checkpoint.files))
    binding = _binding(prepared.checkpoint)
    allow = allow_non_finite or prepared.allow_non_finite
    with gathered_warnings() as warnings, ExitStack() as stack:
        memory = Memory.shared([plan for plan, _ in files], memory_limit, threads)
        reader = stack.enter_context(ModelReader(prepared.checkpoint, io))
        targets = [
            [
                stack.enter_context(
                    Output(plan, path, binding, overwrite=overwrite, resume=resume, allow_non_finite=allow)
                )
                for plan, path in zip(target.plans, target.paths, strict=True)
            ]
            for target in prepared.targets
        ]
        outputs = [output for target in targets for output in target]
        engine.run(jobs_of(reader, outputs, memory), memory.threads, memory.held, progress)
        reader.check_unchanged()
        for target in targets:
            _complete(target)
            _warn(prepared.checkpoint, target)
        for target in targets:
            for output in reversed(target):  # whoever finds the first shard finds them all
                output.file.commit()
    seconds = time.perf_counter() - started
    differences = tuple(difference.id for difference in prepared.differences)
    said = (*prepared.warnings, *warnings)
    return [_report(target, seconds, differences, said) for target in targets]


def check_settings(threads: int | None, memory_limit: int, *, overwrite: bool, resume: bool, io: str) -> int:
    """Check these arguments of `run`, and give the number of threads.

    threads: number of threads, or None.
    memory_limit: bytes, 0 or more.
    overwrite: True or False.
    resume: True or False.
    io: "mmap" or "pread".

    Raises UsageError.
    """
    integer(memory_limit, "memory_limit", 0, MAX_SIZE)
    flag(overwrite, "overwrite")
    flag(resume, "resume")
    choice(io, "io", IO_MODES)
    return resolve_threads(threads)


def convert(
    source: str | Path,
    output: str | Path | None = None,
    *,
    type: str | None = None,
    architecture: str | None = None,
    strip_prefix: str | None = None,
    next_tokens: bool = True,
    dense_modules: bool = False,
    skip_tensors: Sequence[str] = (),
    follow_links: bool = False,
    options: recipes.Options | None = None,
    imatrix: str | Path | None = None,
    include_weights: Sequence[str] = (),
    exclude_weights: Sequence[str] = (),
    shards: Split | None = None,
    integrity: bool = True,
    threads: int | None = None,
    memory_limit: int = DEFAULT_MEMORY_LIMIT,
    overwrite: bool = False,
    resume: bool = True,
    io: str = "mmap",
    progress: Progress | None = None,
    allow_non_finite: bool = False,
    model_name: str | None = None,
    metadata_file: str | Path | None = None,
    vocab_only: bool = False,
    mistral_format: bool = False,
    method: str = "ggml",
) -> Report:
    """Convert a checkpoint, or a GGUF file, to GGUF: `prepare`, then `run`, with their arguments and errors.

    Returns the report; if there are several types, that of the first.
    """
    check_settings(threads, memory_limit, overwrite=overwrite, resume=resume, io=io)
    prepared = prepare(
        source,
        output,
        type=type,
        architecture=architecture,
        strip_prefix=strip_prefix,
        next_tokens=next_tokens,
        dense_modules=dense_modules,
        skip_tensors=skip_tensors,
        follow_links=follow_links,
        options=options,
        imatrix=imatrix,
        include_weights=include_weights,
        exclude_weights=exclude_weights,
        shards=shards,
        integrity=integrity,
        allow_non_finite=allow_non_finite,
        model_name=model_name,
        metadata_file=metadata_file,
        vocab_only=vocab_only,
        mistral_format=mistral_format,
        method=method,
    )
    return run(
        prepared,
        threads=threads,
        memory_limit=memory_limit,
        overwrite=overwrite,
        resume=resume,
        io=io,
        progress=progress,
    )[0]


def _binding(checkpoint: Checkpoint) -> str:
    """What decides the bytes of an output beside its plan: the versions of the program and of libzstd, and
    the sources as they are.
    """
    files = [
        (str(file.path.resolve()), file.nbytes, file.mtime_ns, file.header_digest)
        for file in checkpoint.files
    ]
    sources_digest = hashlib.sha256(repr(files).encode()).hexdigest()
    return f"gguflow {__version__} {kernels_digest()} {planners.versions()} {sources_digest}"


def _complete(shards: Sequence[Output]) -> None:
    """Write the headers, now that all digests are known, and make the files durable; their names are still
    free after that.
    """
    digests = [output.tensor_digests() for output in shards]
    common = shards_id([digest for each in digests for digest in each])
    for output, own in zip(shards, digests, strict=True):
        output.plan = output.final_plan()
        header = output.plan.completed_header(own, common)
        check_header(output.plan, header, output.file.path)
        output.file.write(header, 0)
        output.file.shorten(output.plan.nbytes)
        output.file.flush()


def _warn(checkpoint: Checkpoint, shards: Sequence[Output]) -> None:
    """Say what is odd about the weights that were written."""
    for output in shards:
        for finding in output.warnings():
            warn(checkpoint.path if finding.rule == "V-005" else output.file.path, finding)


def _report(
    shards: Sequence[Output],
    seconds: float,
    differences: tuple[str, ...],
    warnings: tuple[FileWarning, ...],
) -> Report:
    tensors = [planned for output in shards for planned in output.plan.tensors]
    n_weights = sum(planned.tensor.n_weights for planned in tensors)
    by_format: dict[recipes.Format, list[PlannedTensor]] = {}
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
            f.name: FormatTotal(
                len(group), sum(p.tensor.n_weights for p in group), sum(p.nbytes for p in group)
            )
            for f, group in by_format.items()
        },
        seconds=seconds,
        files=tuple(output.file.path for output in shards),
        notes=tuple(note for output in shards for note in output.file.notes),
        coded=_coded(tensors),
        differences=differences,
        warnings=warnings,
        method=shards[0].plan.method,
    )


def _coded(tensors: Sequence[PlannedTensor]) -> tuple[int, int] | None:
    """What entropy coding made of the payloads that have it: bytes before and after."""
    coded = [(p.encoding, p) for p in tensors if p.encoding is not None and p.encoding.is_coded]
    before = sum(planners.planner_of(encoding).uncoded_nbytes(encoding, p.tensor) for encoding, p in coded)
    return (before, sum(p.nbytes for _, p in coded)) if coded else None
