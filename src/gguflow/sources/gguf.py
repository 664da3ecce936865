"""A GGUF file as a source: tensors in whatever block formats they have, metadata as it is, and the shards of
a model as the one that they are.

Each file keeps the rules of spec/container.md; C-040 to C-046 are about shards and their keys.
"""

from __future__ import annotations

import os
from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path

from gguflow import blocks
from gguflow.container import rules
from gguflow.container.header import Header, TensorInfo, parse
from gguflow.container.integrity import has_set, hexdigest, stored_digests
from gguflow.container.payload_keys import keys_of_payloads, payload_names
from gguflow.container.reader import map_file
from gguflow.container.row_store import is_row_store
from gguflow.container.shards import ShardName, judge_keys, judge_sibling, judge_together, later_shards
from gguflow.container.verification import check_set
from gguflow.errors import Finding, InvalidError, StorageError, UnsupportedError
from gguflow.parametric import descriptor
from gguflow.platform import storage_errors
from gguflow.sources.base import Checkpoint, Proof, SourceFile, SourceTensor, Stored


@dataclass(frozen=True)
class _Opened:
    """A file and its header. digests: of its tensors in order, where it has them and they are of this very
    header and length.
    """

    file: SourceFile
    header: Header
    digests: tuple[bytes, ...] | None

    def tensors(self, payloads: Container[str]) -> dict[str, SourceTensor]:
        """By name, in the order of the table. payloads: the names of those that hold one. Raises a FileError
        where such a one is none.
        """
        tensors = {tensor.name: self._tensor(tensor, i) for i, tensor in enumerate(self.header.tensors)}
        held = [name for name in tensors if name in payloads]
        content = map_file(self.file.path) if held else memoryview(b"")
        return tensors | {name: _decoded(tensors[name], content) for name in held}

    def _tensor(self, info: TensorInfo, i: int) -> SourceTensor:
        block_format = blocks.by_id(info.type_id)
        nbytes = rules.tensor_nbytes(info, blocks.block_sizes)
        is_proved = self.digests is not None and nbytes is not None
        proof = Proof(self.digests[i], -nbytes % self.header.alignment) if is_proved else None  # type: ignore[index, operator]
        start = self.header.data_offset + info.offset
        return SourceTensor(info.name, block_format, info.shape, self.file, start, str(block_format), proof)


def _decoded(tensor: SourceTensor, content: memoryview) -> SourceTensor:
    """The tensor that a payload decodes to. content: of its file. Raises a FileError with the broken rule of
    the descriptor.
    """
    geometry = descriptor.at(content, tensor.offset, f"{tensor.file.path}: {tensor.name}").geometry
    plain = blocks.FORMATS[geometry.source_type.name.lower() if geometry.encoding.is_lossless else "f32"]
    return replace(
        tensor,
        format=plain,
        shape=geometry.shape,
        dtype=geometry.encoding.name,
        stored=Stored(geometry, tensor.n_weights),
    )


def open_gguf(path: Path) -> Checkpoint:
    """Read and judge the header of a GGUF file, and of its siblings where it is the first of several shards.

    Raises MalformedError, InvalidError, UnsupportedError or LimitError with the broken rule, UsageError for a
    shard that is not the first, StorageError.
    """
    first = _open(path)
    header = first.header
    rules.raise_first(path, judge_keys(header, path))
    if is_row_store(header.metadata) and keys_of_payloads(header.metadata):
        raise UnsupportedError(
            path, Finding("R-117", "rows of the parametric family are no source; gguflow.RowStore reads them")
        )
    shards = [
        first,
        *(_open_sibling(path.with_name(str(name)), name, header) for name in later_shards(path, header)),
    ]
    if len(shards) > 1:
        rules.raise_first(path, judge_together([(shard.file.path.name, shard.header) for shard in shards]))
    payloads = payload_names(header.metadata)
    tensors = {name: tensor for shard in shards for name, tensor in shard.tensors(payloads).items()}
    return Checkpoint(path, tensors, tuple(shard.file for shard in shards), metadata=header.metadata)


def _open(path: Path) -> _Opened:
    """The file as it is, and its header, proved; the header's arrays do not refer to the file, which may be
    cut short later.
    """
    with storage_errors("read", path):
        status = os.stat(path)
    content = map_file(path)
    header = parse(content, str(path))
    rules.raise_first(path, rules.judge(header, blocks.block_sizes, len(content)))
    is_sound = has_set(header.metadata) and not any(check_set(header, content))
    start = bytes(content[: header.data_offset])
    file = SourceFile(path, status.st_size, status.st_mtime_ns, hexdigest(start))
    return _Opened(file, parse(start, str(path)), tuple(stored_digests(header)) if is_sound else None)


def _open_sibling(path: Path, name: ShardName, first: Header) -> _Opened:
    """A shard that must be there, and must be the one that its name says."""
    try:
        shard = _open(path)
    except StorageError as error:
        raise InvalidError(
            path, Finding("C-043", f"shard {name.number + 1} of {name.count} is missing: {error}")
        ) from error
    rules.raise_first(path, judge_sibling(path.name, shard.header, name.number, first))
    return shard
