"""How a source has a tensor of the family: in a payload, or in parts that make one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gguflow.parametric.encoding import Encoding
from gguflow.parametric.geometry import Geometry
from gguflow.parametric.views import View
from gguflow.sources.base import SourceTensor


@dataclass(frozen=True)
class Parts:
    """A tensor of the family that another program, such as bitsandbytes, stores in parts, each in a separate
    tensor.

    codes: packed, high nibble first.
    scales: float32, or the codes of nested scales.
    meta: the meta-scales of nested scales, float32; None for plain scales.
    offset: of nested scales.
    book: the numbers that the codes of nested scales mean, if they are not those of the family: then the
        scales are read as plain ones. Otherwise empty.
    super_block: number of blocks that share a meta-scale, if there is a book.
    """

    codes: SourceTensor
    scales: SourceTensor
    meta: SourceTensor | None = None
    offset: float = 0.0
    book: tuple[float, ...] = ()
    super_block: int = 0


@dataclass(frozen=True)
class Stored:
    """A payload, or a view of one, in a source: a `gguflow.sources.base.StoredPayload`.

    geometry: of the payload, or of the one that the parts make.
    nbytes: size in the file.
    view: what part of the payload the tensor shows.
    first: number of items of the view before those of the tensor: of a stack, the other matrices.
    parts: the parts, if the file does not have it as a payload.
    """

    geometry: Geometry
    nbytes: int
    view: View = View.WEIGHTS
    first: int = 0
    parts: Parts | None = None

    @property
    def encoding(self) -> Encoding:
        return self.geometry.encoding

    @property
    def is_whole(self) -> bool:
        return self.view is View.WEIGHTS

    @property
    def is_in_parts(self) -> bool:
        return self.parts is not None

    @property
    def kept_nbytes(self) -> int:
        g = self.geometry
        size = g.source_type.nbytes if g.encoding.is_lossless else 4
        return min(g.rows_per_chunk, g.rows) * g.columns * size

    def beginning_at(self, first: int) -> Stored:
        return replace(self, first=first)


def encoding_of(source: SourceTensor) -> Encoding | None:
    """The encoding of a source tensor of the family; None for any other."""
    return source.stored.encoding if isinstance(source.stored, Stored) else None


def stored_of(source: SourceTensor) -> Stored:
    """How a source tensor of the family is stored.

    Raises ValueError for any other tensor.
    """
    if not isinstance(source.stored, Stored):
        raise ValueError(f"{source.name} is not of the parametric family")
    return source.stored
