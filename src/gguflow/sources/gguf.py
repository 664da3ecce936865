"""A GGUF file as a source: tensors in whatever block formats they have, metadata as it is, and the shards of a model as the one that they are.

Each file keeps the rules of spec/container.md; C-040 to C-046 are about shards and their keys.
"""

from __future__ import annotations

import os
from pathlib import Path

from gguflow import blocks
from gguflow.container import rules
from gguflow.container.header import Header, parse
from gguflow.container.integrity import hexdigest
from gguflow.container.metadata import ValueType
from gguflow.container.reader import map_file
from gguflow.container.shards import COUNT_KEY, NO_KEY, TENSORS_KEY, ShardName
from gguflow.errors import Finding, InvalidError, StorageError, UsageError
from gguflow.platform import storage_errors
from gguflow.sources.base import Checkpoint, SourceFile, SourceTensor

_INTEGERS = (ValueType.UINT8, ValueType.UINT16, ValueType.UINT32, ValueType.UINT64, ValueType.INT8, ValueType.INT16, ValueType.INT32, ValueType.INT64)


def open_gguf(path: Path) -> Checkpoint:
    """Read and judge the header of a GGUF file, and of its siblings where it is the first of several shards.

    Raises MalformedError, InvalidError, UnsupportedError or LimitError with the broken rule, UsageError for a shard that is not the first,
    StorageError.
    """
    file, header = _read(path)
    count = _integer(header, COUNT_KEY)
    if count is None or count <= 1:
        return Checkpoint(path, _tensors(file, header), (file,), metadata=header.metadata)
    shards = [(file, header)]
    shards += (_read_sibling(path.with_name(str(name)), name) for name in _siblings(path, header, count))
    tensors: dict[str, SourceTensor] = {}
    for shard, table in shards:
        for name, tensor in _tensors(shard, table).items():
            if name in tensors:
                message = f"tensor {name!r} is in {tensors[name].file.path.name} too"
                raise InvalidError(shard.path, Finding("C-046", message, "$.tensors"))
            tensors[name] = tensor
    total = _integer(header, TENSORS_KEY)
    if total != len(tensors):
        message = "the shards do not hold as many tensors as the first one says"
        raise InvalidError(path, Finding("C-045", message, rules.key_path(TENSORS_KEY), header.key_positions.get(TENSORS_KEY), len(tensors), total))
    return Checkpoint(path, tensors, tuple(shard for shard, _ in shards), metadata=header.metadata)


def _read(path: Path) -> tuple[SourceFile, Header]:
    """The file as it is, and its header, proved; the header's arrays do not refer to the file, which may be cut short later."""
    with storage_errors("read", path):
        status = os.stat(path)
    content = map_file(path)
    header = parse(content, str(path))
    for finding in rules.judge(header, _block_sizes, len(content)):
        if finding.severity == "error":
            raise rules.error_class(finding.rule)(path, finding)
    start = bytes(content[: header.data_offset])
    return SourceFile(path, status.st_size, status.st_mtime_ns, hexdigest(start)), parse(start, str(path))


def _siblings(path: Path, header: Header, count: int) -> list[ShardName]:
    """The names of all shards but the first, which `path` is proved to be."""
    number, name = _integer(header, NO_KEY), ShardName.of(path)
    if name is None or number is None or (name.number, name.count) != (number, count):
        expected = f"…-{(number or 0) + 1:05d}-of-{count:05d}.gguf"
        message = "the file's name is not that of its shard: the others are found by name"
        raise InvalidError(path, Finding("C-042", message, rules.key_path(NO_KEY), header.key_positions.get(NO_KEY), path.name, expected))
    if number:
        raise UsageError(f"{path} is shard {number + 1} of {count}; name the first: {ShardName(name.stem, 0, count)}")
    return [ShardName(name.stem, i, count) for i in range(1, count)]


def _read_sibling(path: Path, name: ShardName) -> tuple[SourceFile, Header]:
    """A shard that must be there and must be the one that its name says."""
    try:
        file, header = _read(path)
    except StorageError as error:
        raise InvalidError(path, Finding("C-043", f"shard {name.number + 1} of {name.count} is missing: {error}")) from error
    for key, expected in ((NO_KEY, name.number), (COUNT_KEY, name.count)):
        if _integer(header, key) != expected:
            message = "the shard is not the one that its name says"
            raise InvalidError(path, Finding("C-044", message, rules.key_path(key), header.key_positions.get(key), _integer(header, key), expected))
    return file, header


def _tensors(file: SourceFile, header: Header) -> dict[str, SourceTensor]:
    return {
        tensor.name: SourceTensor(
            tensor.name, block_format := blocks.by_id(tensor.type_id), tensor.shape, file, header.data_offset + tensor.offset, str(block_format)
        )
        for tensor in header.tensors
    }


def _integer(header: Header, key: str) -> int | None:
    """The integer under key, of any width; None where there is none."""
    value = header.metadata.get(key)
    return int(value.value) if value is not None and value.type in _INTEGERS else None


def _block_sizes(type_id: int) -> tuple[int, int] | None:
    block_format = blocks.by_id(type_id)
    return (block_format.block_size, block_format.type_size) if block_format else None
