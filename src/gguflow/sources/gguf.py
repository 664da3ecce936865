"""A GGUF file as a source: tensors in whatever block formats they have, metadata as it is, and the shards of a model as the one that they are.

Each file keeps the rules of spec/container.md; C-040 to C-046 are about shards and their keys.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from gguflow import blocks
from gguflow.container import rules
from gguflow.container.header import Header, parse
from gguflow.container.integrity import hexdigest
from gguflow.container.reader import map_file
from gguflow.container.shards import ShardName, judge_keys, judge_sibling, judge_together, later_shards, n_shards
from gguflow.errors import Finding, InvalidError, StorageError
from gguflow.platform import storage_errors
from gguflow.sources.base import Checkpoint, SourceFile, SourceTensor


def open_gguf(path: Path) -> Checkpoint:
    """Read and judge the header of a GGUF file, and of its siblings where it is the first of several shards.

    Raises MalformedError, InvalidError, UnsupportedError or LimitError with the broken rule, UsageError for a shard that is not the first,
    StorageError.
    """
    file, header = _read(path)
    _refuse(path, judge_keys(header, path))
    if n_shards(header) == 1:
        return Checkpoint(path, _tensors(file, header), (file,), metadata=header.metadata)
    shards = [(file, header), *(_read_sibling(path.with_name(str(name)), name, header) for name in later_shards(path, header))]
    _refuse(path, judge_together([(shard.path.name, table) for shard, table in shards]))
    tensors = {name: tensor for shard, table in shards for name, tensor in _tensors(shard, table).items()}
    return Checkpoint(path, tensors, tuple(shard for shard, _ in shards), metadata=header.metadata)


def _refuse(path: Path, findings: Iterable[Finding]) -> None:
    """Raise the error of the first finding that is more than a warning."""
    for finding in findings:
        if finding.severity == "error":
            raise rules.error_class(finding.rule)(path, finding)


def _read(path: Path) -> tuple[SourceFile, Header]:
    """The file as it is, and its header, proved; the header's arrays do not refer to the file, which may be cut short later."""
    with storage_errors("read", path):
        status = os.stat(path)
    content = map_file(path)
    header = parse(content, str(path))
    _refuse(path, rules.judge(header, _block_sizes, len(content)))
    start = bytes(content[: header.data_offset])
    return SourceFile(path, status.st_size, status.st_mtime_ns, hexdigest(start)), parse(start, str(path))


def _read_sibling(path: Path, name: ShardName, first: Header) -> tuple[SourceFile, Header]:
    """A shard that must be there, and must be the one that its name says."""
    try:
        file, header = _read(path)
    except StorageError as error:
        raise InvalidError(path, Finding("C-043", f"shard {name.number + 1} of {name.count} is missing: {error}")) from error
    _refuse(path, judge_sibling(path.name, header, name.number, first))
    return file, header


def _tensors(file: SourceFile, header: Header) -> dict[str, SourceTensor]:
    return {
        tensor.name: SourceTensor(
            tensor.name, block_format := blocks.by_id(tensor.type_id), tensor.shape, file, header.data_offset + tensor.offset, str(block_format)
        )
        for tensor in header.tensors
    }


def _block_sizes(type_id: int) -> tuple[int, int] | None:
    block_format = blocks.by_id(type_id)
    return (block_format.block_size, block_format.type_size) if block_format else None
