"""What a conversion needs from a family of encodings: the protocol of its module `engine`, and the look at
payloads that are copied.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, cast

import numpy as np

from gguflow.blocks.families import Encoding, part
from gguflow.container.reader import map_file
from gguflow.conversion.engine import Event, Jobs
from gguflow.conversion.output import Output
from gguflow.conversion.plan import PlannedTensor
from gguflow.errors import Finding, InvalidError
from gguflow.models.reading import ModelReader
from gguflow.validation.payloads import rules_at


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


_NOT_FINITE = "V-003"


class CopiedPayloadJob:
    """A look at a payload that is copied as it is: what a validator would find in it stops the conversion.

    output: the file.
    i: number of the tensor, which is in a GGUF file.
    """

    held_nbytes = 0

    def __init__(self, output: Output, i: int) -> None:
        self.output = output
        self.i = i

    def prefetch(self) -> None:
        """Nothing: the leaves of the tensor are fetched when they are copied."""

    def perform(self) -> None:
        """Judge the payload.

        Raises InvalidError and its siblings with the first broken rule.
        """
        tensor = self.output.planned(self.i).tensor
        source = tensor.sources[0]
        content = map_file(source.file.path)
        raw = np.frombuffer(content, np.uint8, tensor.n_weights, source.offset)
        for finding in rules_at(content, source.offset).open_payload(raw).judge():
            if finding.severity != "error":
                continue
            if finding.rule == _NOT_FINITE and self.output.allow_non_finite:
                self.output.marks.non_finite.add(self.i)
                continue
            raise InvalidError(source.file.path, _about(finding, tensor.name))

    def finish(self) -> list[Event]:
        return []


def _about(finding: Finding, name: str) -> Finding:
    remedy = "; --allow-non-finite keeps them" if finding.rule == _NOT_FINITE else ""
    where = finding.path.removeprefix("$")
    message = f"tensor {name!r}: {finding.message}{remedy}"
    return replace(finding, message=message, path=f"$.tensors[{name!r}]{where}", offset=None)
