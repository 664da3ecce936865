"""A GGUF file as a source: tensors in whatever block formats they have, metadata as it is, and the shards of
a model as the one that they are.

Each file keeps the rules of spec/container.md; C-040 to C-046 are about shards and their keys.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from gguflow import blocks
from gguflow.container import rules
from gguflow.container.header import Header, TensorInfo
from gguflow.container.integrity import has_set, hexdigest, stored_digests
from gguflow.container.payload_keys import keys_of_payloads, payload_names
from gguflow.container.reader import map_file, open_file
from gguflow.container.row_store import is_row_store
from gguflow.container.shards import RaiseFirst, judge_keys, open_shards
from gguflow.container.verification import check_set, stale
from gguflow.errors import Finding, UnsupportedError, warn
from gguflow.sources.base import Checkpoint, Proof, SourceFile, SourceTensor
from gguflow.sources.payloads import decoded


@dataclass(frozen=True)
class _Opened:
    """A file and its header.

    file: the file as it was when it was read.
    header: its header.
    digests: the digests of its tensors in order, or None if it has none that match this header and length.
    """

    file: SourceFile
    header: Header
    digests: tuple[bytes, ...] | None

    @property
    def path(self) -> Path:
        return self.file.path

    def tensors(self, payloads: Container[str]) -> dict[str, SourceTensor]:
        """The tensors by name, in the order of the table.

        payloads: the names of the tensors that hold a payload.

        Raises a FileError if one of these does not hold a payload.
        """
        tensors = {tensor.name: self._tensor(tensor, i) for i, tensor in enumerate(self.header.tensors)}
        held = [name for name in tensors if name in payloads]
        content = map_file(self.file.path) if held else memoryview(b"")
        return tensors | {name: decoded(tensors[name], content) for name in held}

    def _tensor(self, info: TensorInfo, i: int) -> SourceTensor:
        block_format = blocks.by_id(info.type_id)
        nbytes = rules.tensor_nbytes(info, blocks.block_sizes)
        is_proved = self.digests is not None and nbytes is not None
        proof = Proof(self.digests[i], -nbytes % self.header.alignment) if is_proved else None  # type: ignore[index, operator]
        start = self.header.data_offset + info.offset
        return SourceTensor(info.name, block_format, info.shape, self.file, start, str(block_format), proof)


def open_gguf(path: Path) -> Checkpoint:
    """Read and judge the header of a GGUF file, and the headers of all shards if it is the first of several.

    path: the path of the file.

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
    shards = list(open_shards(first, _open, RaiseFirst(rules.raise_first)))
    payloads = payload_names(header.metadata)
    tensors = {name: tensor for shard in shards for name, tensor in shard.tensors(payloads).items()}
    return Checkpoint(path, tensors, tuple(shard.file for shard in shards), metadata=header.metadata)


def _open(path: Path) -> _Opened:
    """The file as it is, and its header, proved.

    The header's arrays do not refer to the file, which may be shortened later.
    """
    opened = open_file(path)
    header, content = opened.header, opened.file.map_all()
    rules.raise_first(path, rules.judge(header, blocks.block_sizes, len(content)))
    of_set = list(check_set(header, content))
    if (doubt := stale(of_set)) is not None:
        warn(path, doubt)
    is_sound = has_set(header.metadata) and not of_set
    file = SourceFile(path, *opened.file.identity, hexdigest(content[: header.data_offset]))
    digests = tuple(stored_digests(header)) if is_sound else None
    return _Opened(file, header.detached(content, str(path)), digests)
