"""Opens the siblings of a first shard: rule C-043. `gguflow.container.shards` checks their content."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from gguflow.container.header import Header, parse
from gguflow.container.metadata import integer_under
from gguflow.container.reader import map_file
from gguflow.container.rules import key_path
from gguflow.container.shards import COUNT_KEY, NO_KEY, ShardName, judge_sibling, judge_together, n_shards
from gguflow.errors import FileError, Finding, StorageError
from gguflow.validation.model import Facts


def is_first(header: Header) -> bool:
    """Whether the file is the only one, or the shard with the metadata of all."""
    return n_shards(header) == 1 or integer_under(header.metadata, NO_KEY) == 0


def judge_siblings(header: Header, path: Path) -> tuple[list[Finding], Facts]:
    """Open the siblings of the first shard: findings, and the model, without tensors if one is unreadable.

    header, path: of the first shard, whose keys are valid and agree with its name.
    """
    first = ShardName.of(path)
    if first is None:
        return [], Facts.of(header)
    findings: list[Finding] = []
    shards = [(path.name, header)]
    for number in range(1, n_shards(header)):
        name = str(ShardName(first.stem, number, first.count))
        try:
            sibling = parse(map_file(path.with_name(name)), name)
        except (StorageError, FileError) as error:
            why = (
                f"is {error.verdict}: {error.finding.message}"
                if isinstance(error, FileError)
                else f"cannot be read: {error}"
            )
            findings.append(
                Finding(
                    "C-043", f"shard {number + 1} of {first.count} {why}", key_path(COUNT_KEY), expected=name
                )
            )
            continue
        findings += judge_sibling(name, sibling, number, header)
        shards.append((name, sibling))
    if len(shards) < n_shards(header):
        return findings, Facts(header.metadata, {}, header.key_positions)
    tensors = {
        tensor.name: (tensor, f"{name}:$.tensors[{i}]")
        for name, shard in shards
        for i, tensor in enumerate(shard.tensors)
    }
    return [*findings, *judge_together(shards)], Facts(header.metadata, tensors, header.key_positions)


def siblings(header: Header, path: Path) -> Iterator[tuple[Header, memoryview]]:
    """The later shards that are readable, with their content."""
    first = ShardName.of(path)
    for number in range(1, n_shards(header) if first is not None else 1):
        with contextlib.suppress(StorageError, FileError):
            name = str(ShardName(first.stem, number, first.count)) if first is not None else ""
            content = map_file(path.with_name(name))
            yield parse(content, name), content
