"""From GGUF back to safetensors: the same engine as a conversion, with a plan whose header is that of a safetensors file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gguflow import conversion, models, platform, sources
from gguflow.blocks import FORMATS, BlockFormat
from gguflow.conversion import DEFAULT_MEMORY_LIMIT, Prepared, Report, Target
from gguflow.errors import UsageError
from gguflow.leaves import Progress
from gguflow.models.base import ModelTensor
from gguflow.models.original import original_tensors
from gguflow.plan import Plan, PlannedTensor
from gguflow.sources.safetensors import build_header

DTYPES = ("f32", "f16", "bf16")


def prepare(source: str | Path, output: str | Path, *, dtype: str = "bf16") -> Prepared:
    """Open a GGUF file (the first of its shards) and plan its export. Reads headers; no weights.

    output: a file *.safetensors, or a directory, made where it is missing, in which it will be model.safetensors.
    dtype: of all weights; tensors of integers and of F64 stay as they are.
    Raises UsageError, FileError, StorageError.
    """
    if dtype.lower() not in DTYPES:
        raise UsageError(f"weights are exported as {', '.join(DTYPES)}, not {dtype!r}")
    checkpoint = sources.open_checkpoint(source)
    if checkpoint.metadata is None:
        raise UsageError(f"{source} is no GGUF file; only those are exported")
    model = models.load(checkpoint)
    tensors = original_tensors(model, models.by_name(model.architecture), checkpoint.path)
    path = Path(output)
    if path.suffix != ".safetensors":
        with platform.storage_errors("create", path):
            path.mkdir(parents=True, exist_ok=True)
        path = path / "model.safetensors"
    return Prepared(checkpoint, (Target((_plan(model.architecture, tensors, dtype.lower()),), (path,)),))


def export(
    source: str | Path,
    output: str | Path,
    *,
    dtype: str = "bf16",
    threads: int | None = None,
    memory_limit: int = DEFAULT_MEMORY_LIMIT,
    overwrite: bool = False,
    resume: bool = True,
    io: str = "mmap",
    progress: Progress | None = None,
) -> Report:
    """Write the weights of a GGUF file as safetensors: `prepare`, then `conversion.run`; their arguments and errors."""
    prepared = prepare(source, output, dtype=dtype)
    return conversion.run(prepared, threads=threads, memory_limit=memory_limit, overwrite=overwrite, resume=resume, io=io, progress=progress)[0]


def _plan(architecture: str, tensors: Sequence[ModelTensor], dtype: str) -> Plan:
    """Large numbers first, then by name: so every tensor is aligned to its numbers, as safetensors' own writer has it."""
    formats = {tensor.name: _format(tensor, dtype) for tensor in tensors}
    placed: list[PlannedTensor] = []
    offset = 0
    for tensor in sorted(tensors, key=lambda tensor: (-formats[tensor.name].type_size, tensor.name)):
        nbytes = tensor.n_weights * formats[tensor.name].type_size
        placed.append(PlannedTensor(tensor, formats[tensor.name], offset, nbytes, dtype, alignment=1))
        offset += nbytes
    entries = [(p.name, p.format.name, p.shape, p.offset, p.offset + p.nbytes) for p in placed]
    header = build_header(entries, {"format": "pt"})
    return Plan(architecture, dtype, {}, tuple(placed), (), 1, header, len(header) + offset)


def _format(tensor: ModelTensor, dtype: str) -> BlockFormat:
    own = tensor.sources[0].require_format()
    is_weights = own.is_quantized or own.key in DTYPES
    return FORMATS[dtype] if is_weights else own
