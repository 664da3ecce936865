"""What a conversion needs from a family of encodings: the protocol of its module `engine`."""

from __future__ import annotations

from typing import Protocol, cast

from gguflow.blocks.families import Encoding, part
from gguflow.conversion.engine import Jobs
from gguflow.conversion.output import Output
from gguflow.conversion.plan import PlannedTensor
from gguflow.models.reading import ModelReader


class Engine(Protocol):
    """Encodes the payloads of a family."""

    def check_memory(self, planned: PlannedTensor, limit: int, threads: int) -> int:
        """The memory that one chunk of a payload, or one piece of a chunk, may take, in bytes.

        planned: the tensor of the payload.
        limit: bytes, for all threads together.
        threads: number of threads.

        Raises UsageError if not even one at a time stays under the limit.
        """

    def jobs(self, reader: ModelReader, output: Output, i: int, most_nbytes: int) -> Jobs:
        """The jobs that write a payload of an output, whose place is known.

        reader: of the source.
        output: the file.
        i: number of the tensor.
        most_nbytes: what `check_memory` returned.
        """


def engine_of(encoding: Encoding) -> Engine:
    """The engine of an encoding's family."""
    return cast(Engine, part(encoding.family, "stages.engine"))
