"""What can be read: where tensors and configuration come from."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from gguflow.errors import StorageError, UsageError
from gguflow.platform import storage_errors
from gguflow.sources import advice, gguf, huggingface, quantized
from gguflow.sources.base import Checkpoint, SourceFile, SourceTensor
from gguflow.sources.links import FollowedPath
from gguflow.sources.reading import TensorReader
from gguflow.sources.weights import SUFFIX, is_index

__all__ = [
    "Checkpoint",
    "SourceFile",
    "SourceTensor",
    "TensorReader",
    "open_checkpoint",
    "refuse_lone_shard",
]

_ACCEPTED = "a checkpoint directory, a .safetensors file, a .safetensors.index.json, or a .gguf file"


def open_checkpoint(
    path: str | os.PathLike[str], follow_links: bool = False, *, weights: bool = True, mistral: bool = False
) -> Checkpoint:
    """Open a checkpoint directory, its index, a single .safetensors file, or a GGUF file.

    Reads headers only, no weights. The first of several shards stands for all of them: of GGUF, and of
    safetensors without an index. A single .safetensors file is tensors without a model: neither config.json
    nor anything else beside it is read. Tensors that bitsandbytes stores in parts become one tensor each.

    path: the path that the user named.
    follow_links: whether config, tokenizer and model card may be links to any place.
    mistral: whether it is a directory in Mistral's own form: params.json and consolidated*.safetensors.
    weights: whether its weights are opened; without them it must be a directory, in which they may be absent.

    Raises UsageError if the path is not a supported source, a FileError with the broken rule, or
    StorageError.
    """
    path = FollowedPath(path) if follow_links else Path(path)
    try:
        with storage_errors("read", path):
            path.stat()
    except StorageError as error:
        raise advice.missing(path, error) from error
    if (mistral or not weights) and not path.is_dir():
        what = (
            "Mistral's own form is a directory" if mistral else "a vocabulary is made of a directory's files"
        )
        raise UsageError(f"{path}: {what}; name the directory of the checkpoint")
    if not weights:
        return huggingface.open_directory(path, with_weights=False, mistral=mistral)
    if path.suffix == ".gguf" and not path.is_dir():
        return gguf.open_gguf(path)
    found = huggingface.open_directory(path, mistral=True) if mistral else _open_safetensors(path)
    return replace(found, tensors=quantized.grouped(found.tensors))


def refuse_lone_shard(checkpoint: Checkpoint) -> None:
    """Raise InvalidError (H-017) if only one of several shards was opened.

    checkpoint: the result of `open_checkpoint`.
    """
    error = advice.lone_shard(checkpoint.path) if checkpoint.directory is None else None
    if error is not None and len(checkpoint.files) == 1 and checkpoint.metadata is None:
        raise error


def _open_safetensors(path: Path) -> Checkpoint:
    """What the headers say, tensor by tensor."""
    if path.is_dir():
        return huggingface.open_directory(path)
    if is_index(path.name):
        return huggingface.open_index(path)
    if path.suffix == SUFFIX:
        return huggingface.open_file(path)
    raise UsageError(f"{path}: not a source; what is read: {_ACCEPTED}")
