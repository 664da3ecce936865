"""What a conversion asks of a family of encodings: the protocol of its module `engine`."""

from __future__ import annotations

from typing import Protocol, cast

from gguflow.blocks.families import Encoding, part
from gguflow.conversion.engine import Jobs
from gguflow.conversion.output import Output
from gguflow.conversion.plan import PlannedTensor
from gguflow.models.reading import ModelReader


class Engine(Protocol):
    """Encodes payloads."""

    def check_memory(self, planned: PlannedTensor, limit: int, threads: int) -> int:
        """How much memory one chunk of a payload, or one piece of a chunk, may take.

        limit: bytes, of all threads together.
        Raises UsageError where not even one at a time stays under the limit.
        """

    def jobs(self, reader: ModelReader, output: Output, i: int, most_nbytes: int) -> Jobs:
        """The jobs that write payload i of an output, whose place is known.

        most_nbytes: what `check_memory` gave.
        """


def engine_of(encoding: Encoding) -> Engine:
    """The engine of an encoding's family."""
    return cast(Engine, part(encoding.family, "stages.engine"))
