"""What a plan asks of the family of an encoding: the protocol of its module `planning`."""

from __future__ import annotations

from typing import Protocol, cast

from gguflow.blocks.families import Encoding, Format, part, parts
from gguflow.models.base import ModelTensor


class Planner(Protocol):
    """Knows the payloads of a family before they are made."""

    def versions(self) -> str:
        """What decides the bytes of payloads beside this package."""

    def encoding_of(self, tensor: ModelTensor) -> Encoding | None:
        """The encoding whose codes and scales a tensor could keep, or None."""

    def keeps(self, wanted: Format, given: Encoding) -> bool:
        """Whether what `given` holds can be held in `wanted`, to the bit."""

    def exact(self, tensor: ModelTensor, wanted: Encoding) -> Encoding | None:
        """The encoding in which a tensor keeps its codes where `wanted` is asked for, or None."""

    def payload_nbytes(self, encoding: Encoding, tensor: ModelTensor) -> int:
        """Bytes of a tensor's payload: exact for fixed sizes, else the most it can take.

        Raises UsageError where the encoding cannot hold the tensor.
        """

    def uncoded_nbytes(self, encoding: Encoding, tensor: ModelTensor) -> int:
        """Bytes of a payload without its entropy coding: of a lossless one as they were in the source."""


def planner_of(encoding: Encoding) -> Planner:
    """The planner of an encoding's family."""
    return cast(Planner, part(encoding.family, "stages.planning"))


def encoding_of(tensor: ModelTensor) -> Encoding | None:
    """The encoding whose codes and scales a tensor could keep in its order of rows, or None."""
    given = tensor.sources[0].encoding if tensor.sources else None
    return None if given is None else planner_of(given).encoding_of(tensor)


def versions() -> str:
    """What decides the bytes of payloads beside this package, of all families."""
    return " ".join(planner.versions() for planner in cast(list[Planner], parts("stages.planning")))
