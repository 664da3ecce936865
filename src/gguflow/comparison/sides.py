"""The two sides of a comparison: the model at each path, and names under which both have the same tensor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gguflow import models, sources
from gguflow.models.base import ModelTensor
from gguflow.models.hf_names import original_tensors
from gguflow.models.passthrough import with_original_shapes
from gguflow.sources.base import Checkpoint


@dataclass(frozen=True)
class Side:
    """One of two models.

    is_bare: whether it has only tensors, under names that only their own program knows.
    """

    checkpoint: Checkpoint
    is_bare: bool

    @classmethod
    def open(cls, path: str | Path, follow_links: bool = False) -> Side:
        """Read the headers. Raises UsageError, FileError, StorageError."""
        checkpoint = sources.open_checkpoint(path, follow_links)
        return cls(checkpoint, checkpoint.metadata is None and checkpoint.config is None)

    def by_gguf_name(self) -> dict[str, ModelTensor]:
        """The stored tensors under GGUF's names. Raises what `models.load` raises."""
        model = models.load(self.checkpoint)
        if self.checkpoint.metadata is not None:
            model = with_original_shapes(model, self.checkpoint.path)
        return _by_name(model.tensors)

    def by_original_name(self) -> dict[str, ModelTensor]:
        """The tensors under the names of a checkpoint; those of a GGUF file if its architecture is known."""
        if self.checkpoint.metadata is None:
            return _by_name(
                ModelTensor(source.name, source.shape, (source,))
                for source in self.checkpoint.tensors.values()
            )
        model = with_original_shapes(models.load(self.checkpoint), self.checkpoint.path)
        return _by_name(original_tensors(model, models.of_file(model.metadata), self.checkpoint.path))


def pairs(a: Side, b: Side) -> tuple[dict[str, ModelTensor], dict[str, ModelTensor]]:
    """The tensors of both sides under common names."""
    if a.is_bare or b.is_bare:
        return a.by_original_name(), b.by_original_name()
    return a.by_gguf_name(), b.by_gguf_name()


def _by_name(tensors: Iterable[ModelTensor]) -> dict[str, ModelTensor]:
    return {tensor.name: tensor for tensor in tensors if tensor.sources}
