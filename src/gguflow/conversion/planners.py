"""What a plan needs from the family of an encoding: the protocol of its module `planning`."""

from __future__ import annotations

from typing import Protocol, cast

from gguflow.blocks.families import Encoding, Format, part, parts
from gguflow.models.base import ModelTensor


class Planner(Protocol):
    """Computes sizes and encodings of a family's payloads before they are made."""

    def versions(self) -> str:
        """What decides the bytes of payloads in addition to this package."""

    def encoding_of(self, tensor: ModelTensor) -> Encoding | None:
        """The encoding whose codes and scales a tensor could keep, or None."""

    def keeps(self, wanted: Format, given: Encoding) -> bool:
        """Whether an encoding can hold exactly what another one holds.

        wanted: the format that is to hold it.
        given: the encoding that holds it now.
        """

    def exact(self, tensor: ModelTensor, wanted: Encoding) -> Encoding | None:
        """The encoding in which a tensor keeps its codes, or None if it cannot.

        tensor: a tensor of the model.
        wanted: the encoding that is wanted.
        """

    def payload_nbytes(self, encoding: Encoding, tensor: ModelTensor) -> int:
        """Bytes of a tensor's payload: exact for fixed sizes, otherwise the most that it can take.

        encoding: of the payload.
        tensor: what it holds.

        Raises UsageError if the encoding cannot hold the tensor.
        """

    def uncoded_nbytes(self, encoding: Encoding, tensor: ModelTensor) -> int:
        """Bytes of a payload without its entropy coding; of a lossless one, bytes in the source.

        encoding: of the payload.
        tensor: what it holds.
        """


def planner_of(encoding: Encoding) -> Planner:
    """The planner of an encoding's family."""
    return cast(Planner, part(encoding.family, "stages.planning"))


def encoding_of(tensor: ModelTensor) -> Encoding | None:
    """The encoding whose codes and scales a tensor could keep in its order of rows, or None."""
    given = tensor.sources[0].encoding if tensor.sources else None
    return None if given is None else planner_of(given).encoding_of(tensor)


def versions() -> str:
    """What decides the bytes of payloads in addition to this package, of all families."""
    return " ".join(planner.versions() for planner in cast(list[Planner], parts("stages.planning")))
