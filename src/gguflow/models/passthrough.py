"""Checkpoints whose meaning is not known here: names are kept, the caller says the architecture."""

from __future__ import annotations

from dataclasses import replace

from gguflow.container.metadata import string
from gguflow.errors import Finding, InvalidError
from gguflow.models.base import Model, ModelTensor
from gguflow.sources.base import Checkpoint, SourceTensor, json_path


def pass_through(checkpoint: Checkpoint, architecture: str) -> Model:
    """Every tensor under its own name, with `general.architecture` and `general.name` as the only keys.

    Tools for diffusion models and the like read such files: they know the tensors by the names of the original.
    """
    name = checkpoint.path.resolve().name if checkpoint.path.is_dir() else checkpoint.path.name.partition(".")[0]
    return Model(
        architecture=architecture,
        metadata={"general.architecture": string(architecture), "general.name": string(name)},
        tensors=tuple(ModelTensor(source.name, source.shape, source) for source in checkpoint.tensors.values()),
        file_stem=f"{name.replace('{', '-').replace('}', '-') or 'model'}-{{type}}",
    )


def strip(checkpoint: Checkpoint, prefix: str) -> Checkpoint:
    """The same checkpoint without `prefix` on the names that have it. Raises InvalidError (M-013) where two names become one."""
    tensors: dict[str, SourceTensor] = {}
    for source in checkpoint.tensors.values():
        name = source.name.removeprefix(prefix)
        if name in tensors:
            message = f"without the prefix {prefix!r} two tensors are called {name!r}"
            raise InvalidError(source.file.path, Finding("M-013", message, json_path(source.name)))
        tensors[name] = replace(source, name=name)
    return replace(checkpoint, tensors=tensors)
