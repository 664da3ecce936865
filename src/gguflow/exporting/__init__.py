"""Export from GGUF to safetensors, with the engine of conversions and the header of a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from gguflow import conversion, models, platform, sources
from gguflow.arguments import choice, file_path, shown
from gguflow.conversion import DEFAULT_MEMORY_LIMIT, Prepared, Report, Target
from gguflow.conversion.engine import Progress
from gguflow.conversion.plan import Plan, PlannedTensor
from gguflow.errors import Finding, InvalidError, UsageError
from gguflow.exporting import absmax, bitsandbytes
from gguflow.exporting.entries import NUMBERS, Entry, numbers
from gguflow.exporting.safetensors_header import build_header
from gguflow.models.base import ModelTensor
from gguflow.models.hf_names import original_tensors
from gguflow.models.passthrough import with_original_shapes
from gguflow.models.reading import ModelReader
from gguflow.sources import safetensors
from gguflow.sources.base import Checkpoint, SourceFile, json_path

FORMS = {
    "safetensors": "all weights decoded",
    "bnb": "what is in nf4 or fp4 in blocks of 32 to 1024, as bitsandbytes keeps it; all else decoded",
    "safetensors-quantized": "what is in absmax codes of 4 or 8 bits, as codes and scales; all else decoded",
}
"""What each form writes."""


def prepare(
    source: str | Path, output: str | Path, *, dtype: str = "bf16", form: str = "safetensors"
) -> Prepared:
    """Open a GGUF file and plan its export; reads headers, but no weights.

    source: the file, or the first of its shards.
    output: a *.safetensors file, or a directory (created if missing) for model.safetensors.
    dtype: type of decoded weights; tensors of integers and of F64 keep their type.
    form: one of FORMS.

    Raises UsageError, FileError, StorageError.
    """
    source, output = file_path(source, "source"), file_path(output, "output")
    if not isinstance(dtype, str) or dtype.lower() not in NUMBERS:
        raise UsageError(f"weights can be exported as {', '.join(NUMBERS)}, not {shown(dtype)}")
    choice(form, "form", FORMS)
    checkpoint = sources.open_checkpoint(source)
    if checkpoint.metadata is None:
        raise UsageError(f"{source} is not a GGUF file; only those can be exported")
    if not checkpoint.tensors:
        raise UsageError(f"{source} has no tensors: there is nothing to export")
    model = with_original_shapes(models.load(checkpoint), checkpoint.path)
    tensors = original_tensors(model, models.of_file(model.metadata), checkpoint.path)
    entries, metadata = _entries(form, tensors, checkpoint, dtype.lower())
    is_file = output.suffix == ".safetensors"
    path = output if is_file else output / "model.safetensors"
    recipe = dtype.lower() if form == "safetensors" else form
    plan = _plan(path, model.architecture, entries, metadata, recipe)
    if not is_file:
        with platform.storage_errors("create", output):
            if platform.mode_of(output) is not None and not output.is_dir():
                raise UsageError(f"{output} is neither a directory nor a name that ends in .safetensors")
            output.mkdir(parents=True, exist_ok=True)
    return Prepared(checkpoint, (Target((plan,), (path,)),))


def export(
    source: str | Path,
    output: str | Path,
    *,
    dtype: str = "bf16",
    form: str = "safetensors",
    threads: int | None = None,
    memory_limit: int = DEFAULT_MEMORY_LIMIT,
    overwrite: bool = False,
    resume: bool = True,
    io: str = "mmap",
    progress: Progress | None = None,
) -> Report:
    """Write the weights of a GGUF file as safetensors; for arguments and errors see `prepare` and `run`."""
    conversion.check_settings(threads, memory_limit, overwrite=overwrite, resume=resume, io=io)
    prepared = prepare(source, output, dtype=dtype, form=form)
    return conversion.run(
        prepared,
        threads=threads,
        memory_limit=memory_limit,
        overwrite=overwrite,
        resume=resume,
        io=io,
        progress=progress,
    )[0]


def _entries(
    form: str, tensors: Sequence[ModelTensor], checkpoint: Checkpoint, dtype: str
) -> tuple[list[Entry], dict[str, str]]:
    """The tensors of the file, and its `__metadata__`. Raises UsageError if no tensor has that form."""
    metadata = {"format": "pt"}
    if form == "safetensors":
        return [numbers(tensor, dtype) for tensor in tensors], metadata
    is_meant = bitsandbytes.is_meant if form == "bnb" else absmax.is_meant
    meant = {tensor.name for tensor in tensors if is_meant(tensor)}
    if not meant:
        raise UsageError(f"{checkpoint.path} has no tensor for --to {form}: {FORMS[form]}")
    found: list[Entry] = []
    with ModelReader(checkpoint) as reader:
        for tensor in tensors:
            if tensor.name not in meant:
                found.append(numbers(tensor, dtype))
            else:
                found += (
                    bitsandbytes.entries(tensor, reader, dtype) if form == "bnb" else absmax.entries(tensor)
                )
    if form == "safetensors-quantized":
        metadata["quantization"] = json.dumps(
            {tensor.name: absmax.description(tensor) for tensor in tensors if tensor.name in meant}
        )
    return found, metadata


def _plan(
    path: Path, architecture: str, entries: Sequence[Entry], metadata: Mapping[str, str], form: str
) -> Plan:
    """Plan the file: numbers of the largest size first, then by name, so that all tensors are aligned.

    Raises InvalidError, LimitError or MalformedError if the file would break a rule of safetensors.
    """
    _check_names(path, entries)
    placed: list[PlannedTensor] = []
    header: list[tuple[str, str, tuple[int, ...], int, int]] = []
    offset = 0
    for entry in sorted(entries, key=lambda entry: (-entry.format.type_size, entry.tensor.name)):
        placed.append(PlannedTensor(entry.tensor, entry.format, offset, entry.nbytes, form, alignment=1))
        header.append((entry.tensor.name, entry.dtype, entry.shape, offset, offset + entry.nbytes))
        offset += entry.nbytes
    start = build_header(header, metadata)
    safetensors.prove(start[8:], SourceFile(path, len(start) + offset, 0))
    return Plan(architecture, form, {}, tuple(placed), (), 1, start, len(start) + offset)


def _check_names(path: Path, entries: Sequence[Entry]) -> None:
    """A name stands once: two tensors of a GGUF file may have the same in a checkpoint."""
    first: dict[str, Entry] = {}
    for entry in entries:
        name = entry.tensor.name
        if name == "__metadata__":
            message = "a tensor cannot have this name in a safetensors file; rename it"
            raise InvalidError(path, Finding("S-006", message, json_path(name)))
        other = first.setdefault(name, entry)
        if other is not entry:
            both = " and ".join(repr(_source_name(one)) for one in (other, entry))
            message = f"two tensors would have one name in the file, those of {both}; rename or leave out one"
            raise InvalidError(path, Finding("J-003", message, json_path(name)))


def _source_name(entry: Entry) -> str:
    """The tensor of the source that an entry comes from."""
    return entry.tensor.sources[0].name if entry.tensor.sources else entry.tensor.name
