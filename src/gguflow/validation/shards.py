"""The files of a model as one: rules C-043 to C-046, and what all of them say together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gguflow.container.header import Header
from gguflow.container.metadata import integer_under
from gguflow.container.reader import open_file
from gguflow.container.shards import NO_KEY, ReportAll, n_shards, open_shards
from gguflow.errors import Finding
from gguflow.validation.model import Facts


@dataclass(frozen=True)
class Shard:
    """A file of a model, and its content."""

    path: Path
    header: Header
    content: memoryview


def is_first(header: Header) -> bool:
    """Whether the file is the only one, or the shard with the metadata of all."""
    return n_shards(header) == 1 or integer_under(header.metadata, NO_KEY) == 0


def judge_shards(first: Shard) -> tuple[list[Finding], list[Shard], Facts]:
    """Open the siblings of the first shard: the findings, the files that can be read, and the model as all of
    them describe it; without tensors where one cannot be read.

    first: its keys are good, and agree with its name.
    """
    header, policy = first.header, ReportAll()
    shards = list(open_shards(first, _open, policy))
    if len(shards) < n_shards(header):
        return policy.findings, shards, Facts(header.metadata, {}, header.key_positions)
    tensors = {
        tensor.name: (tensor, f"{shard.path.name}:$.tensors[{i}]")
        for shard in shards
        for i, tensor in enumerate(shard.header.tensors)
    }
    return policy.findings, shards, Facts(header.metadata, tensors, header.key_positions)


def _open(path: Path) -> Shard:
    opened = open_file(path)
    return Shard(path, opened.header, opened.file.map_all())
