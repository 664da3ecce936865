"""A recipe's checkpoint through gguflow, against the record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import gguflow
from gguflow import blocks
from gguflow.blocks import block_sizes
from gguflow.container.metadata import Value
from gguflow.container.reader import map_file, read_header
from gguflow.models.differences import idle, unexplained
from testing.golden import checkpoint
from testing.golden.recipes import Recipe
from testing.golden.records import FileRecord, differences, tensor_record

NATIVE = "--mistral-format"
DENSE = "--sentence-transformers-dense-modules"


def unexplained_differences(
    recipe: Recipe, dtype: str, peer: FileRecord, work: Path
) -> tuple[dict[str, str], Path]:
    """What no intended difference explains (and each of those that changed nothing), by key, tensor or id;
    and our file.

    recipe: of the checkpoint.
    dtype: BF16, F16 or F32: of the checkpoint and of the output.
    peer: its record.
    work: an empty directory for the checkpoint and the output.
    """
    output, applied = converted(recipe, dtype, work)
    found = differences(read(output), peer)
    kept = {name: found[name] for name in unexplained(found, applied)}
    kept |= dict.fromkeys(idle(found, applied), "is said to apply, but nothing differs")
    return kept, output


def converted(recipe: Recipe, dtype: str, work: Path) -> tuple[Path, tuple[str, ...]]:
    """Our file, and the intended differences from the peer that apply to it.

    recipe: of the checkpoint.
    dtype: BF16, F16 or F32: of the checkpoint and of the output.
    work: an empty directory for the checkpoint and the output.
    """
    directory = checkpoint.write(recipe, dtype, work)
    output = work / f"{recipe.cls}.{dtype}.gguf"
    if unknown := set(recipe.options) - {"--no-mtp", DENSE, NATIVE}:
        raise ValueError(f"{recipe.cls}: options of the peer's that gguflow lacks: {unknown}")
    next_tokens = "--no-mtp" not in recipe.options
    report = gguflow.convert(
        directory,
        output,
        type=dtype.lower(),
        next_tokens=next_tokens,
        dense_modules=DENSE in recipe.options,
        mistral_format=NATIVE in recipe.options,
        threads=1,
        overwrite=True,
        resume=False,
    )
    return output, report.differences


def read(path: Path) -> FileRecord:
    """The record of a GGUF file, with whole arrays.

    path: of the file.
    """
    header, content = read_header(path, block_sizes), np.frombuffer(map_file(path), np.uint8)
    architecture = str(header.metadata["general.architecture"].value)
    tensors = {}
    for tensor in header.tensors:
        block_format = blocks.by_id(tensor.type_id)
        if block_format is None:
            raise ValueError(f"{path}: {tensor.name} is of type {tensor.type_id}")
        start = header.data_offset + tensor.offset
        nbytes = tensor.n_weights // block_format.block_size * block_format.type_size
        tensors[tensor.name] = tensor_record(
            tensor.name,
            architecture,
            tensor.type_id,
            tensor.dims,
            content[start : start + nbytes].tobytes(),
        )
    return FileRecord({key: _typed(value) for key, value in header.metadata.items()}, tensors)


def _typed(value: Value) -> tuple[str, Any]:
    kind = value.type.name if value.element_type is None else f"ARRAY[{value.element_type.name}]"
    content = value.value
    if isinstance(content, np.ndarray):
        return kind, content.tolist()
    if isinstance(content, Sequence) and not isinstance(content, str | bytes):
        return kind, [_text(element) for element in content]
    return kind, _text(content)


def _text(value: Any) -> Any:
    """Bytes that are no UTF-8 as records have them."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
