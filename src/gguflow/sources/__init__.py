"""What can be read: where tensors and configuration come from."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from gguflow.errors import UsageError
from gguflow.platform import storage_errors
from gguflow.sources import gguf, huggingface, quantized, safetensors
from gguflow.sources.base import Checkpoint, SourceFile, SourceTensor
from gguflow.sources.reading import TensorReader

__all__ = ["Checkpoint", "SourceFile", "SourceTensor", "TensorReader", "open_checkpoint"]

_ACCEPTED = "a checkpoint directory, a .safetensors file, a .safetensors.index.json, or a .gguf file"


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open what the user named: a checkpoint directory, the index of one, a lone .safetensors file, or a GGUF
    file.

    Headers only; no weights are read. A GGUF file that is the first of several shards stands for all of them.
    A lone .safetensors file is tensors without a model: neither config.json nor anything else beside it is
    looked at. Tensors that bitsandbytes keeps in parts are one tensor each. Raises UsageError (nothing that
    is read), a FileError with the broken rule, or StorageError.
    """
    path = Path(path)
    with storage_errors("read", path):
        path.stat()
    if path.suffix == ".gguf" and not path.is_dir():
        return gguf.open_gguf(path)
    found = _open_safetensors(path)
    return replace(found, tensors=quantized.grouped(found.tensors))


def _open_safetensors(path: Path) -> Checkpoint:
    """What the headers say, tensor by tensor."""
    if path.is_dir():
        return huggingface.open_directory(path)
    if path.name.endswith(".index.json"):
        return huggingface.open_index(path)
    if path.suffix == ".safetensors":
        file, tensors, _ = safetensors.read_header(path)
        return Checkpoint(path, tensors, (file,))
    raise UsageError(f"{path}: not a source; what is read: {_ACCEPTED}")
