"""A model as the rest of the package sees it: GGUF metadata, and GGUF tensors with their sources.

spec/models.md has the rules for checkpoints (M-002 to M-030), each with the verdict if it is broken.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from numpy.typing import NDArray

from gguflow.blocks import BlockFormat
from gguflow.container.limits import MAX_DIMS
from gguflow.container.metadata import Metadata
from gguflow.errors import FileWarning
from gguflow.models.views import View
from gguflow.sources.base import SourceTensor


@dataclass(frozen=True)
class ModelTensor:
    """An output tensor, with either its source tensors or its values.

    name: GGUF name.
    shape: in NumPy order.
    sources: usually one; several are stacked along the leading axis (the experts of a layer), in one format.
    values: float32 or int32, or flat uint8 for bytes that are written unchanged.
    view: how the weights are made of the sources, where these are not simply one after the other; else None.
    keeps_ones: whether dimensions of one at the front are stored; otherwise they are left out, as ggml does.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[SourceTensor, ...] = ()
    values: NDArray[Any] | None = field(default=None, repr=False, compare=False)
    view: View | None = field(default=None, repr=False, compare=False)
    keeps_ones: bool = False

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape in a GGUF file, in NumPy order."""
        shape = self.shape
        while shape[:1] == (1,) and len(shape) > (MAX_DIMS if self.keeps_ones else 1):
            shape = shape[1:]
        return shape

    @property
    def source(self) -> SourceTensor | None:
        """The first source, which has the same format as the others, unless there is a view."""
        return self.sources[0] if self.sources else None

    @property
    def source_format(self) -> BlockFormat | None:
        """The format of its weights as they are read; None if there is no source.

        Raises UnsupportedError (S-019) if a source has none.
        """
        if self.view is not None:
            return self.view.format
        return self.sources[0].require_format() if self.sources else None

    def parts(self, first: int, last: int) -> Iterator[tuple[SourceTensor, int, int]]:
        """The sources of weights [first, last), each with a range of its weights; not with a view."""
        i = bisect_right(self._ends, first)
        while first < last:
            source, end = self.sources[i], self._ends[i]
            start, stop = end - source.n_weights, min(last, end)
            if first < stop:
                yield source, first - start, stop - start
            first, i = stop, i + 1

    @cached_property
    def _ends(self) -> list[int]:
        """The end of each source, in weights of this tensor."""
        return list(itertools.accumulate(source.n_weights for source in self.sources))

    @property
    def n_weights(self) -> int:
        return math.prod(self.shape)


class Sizes(NamedTuple):
    """The sizes of a model that recipes and exports need: its architecture, and numbers, 0 if unknown."""

    architecture: str
    n_layers: int = 0
    n_heads: int = 0
    n_kv_heads: int = 0
    n_experts: int = 0


@dataclass(frozen=True)
class Model:
    """A checkpoint in GGUF's terms.

    architecture: `general.architecture` ("llama").
    metadata: all keys but those that depend on the recipe (general.file_type, general.quantization_version).
    tensors: in the order of the file.
    n_layers, n_heads, n_kv_heads, n_experts: for recipes; 0 if unknown.
    is_final: whether the tensors come from a GGUF file, so that those not quantized are copied unchanged.
    file_stem: the default output name without suffix, with "{type}" for the type.
    differences: the ids of the intended differences from llama.cpp (`models.differences`) that applied.
    source_class: the class that config.json names; "" without one.
    warnings: what is doubtful about the checkpoint, from `gguflow.errors.warn`.
    """

    architecture: str
    metadata: Metadata
    tensors: tuple[ModelTensor, ...]
    n_layers: int = 0
    n_heads: int = 0
    n_kv_heads: int = 0
    n_experts: int = 0
    is_final: bool = False
    file_stem: str = "model-{type}"
    warnings: tuple[FileWarning, ...] = ()
    differences: tuple[str, ...] = ()
    source_class: str = ""

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.architecture, self.n_layers, self.n_heads, self.n_kv_heads, self.n_experts)
