"""Opens a model: maps and judges its files, reads its metadata in place, and gives its tensors by name."""

from __future__ import annotations

import difflib
import functools
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from gguflow.arguments import choice, file_path, flag, shown
from gguflow.blocks import block_sizes, by_id
from gguflow.blocks.families import family_at, part
from gguflow.container.header import TensorInfo
from gguflow.container.integrity import has_set
from gguflow.container.limits import DEFAULT_LIMITS
from gguflow.container.mapped_file import IO_MODES, Identity
from gguflow.container.metadata import Metadata
from gguflow.container.payload_keys import payload_names
from gguflow.container.reader import GgufFile, open_file
from gguflow.container.row_store import is_row_store
from gguflow.container.shards import RaiseFirst, open_shards
from gguflow.container.verification import check_set, compare, leaf_digest, stale, tensor_digests
from gguflow.errors import FileWarning, Finding, InvalidError, UsageError, printable, warn
from gguflow.rows.codec import PayloadRows
from gguflow.rows.judging import codec_of
from gguflow.runtime.tensor import Tensor
from gguflow.validation import error_class_of, judge_gguf

_WHILE_GROWING = ("R-001", "C-019")
"""The rules that a row store seems to break if it grows between two reads of it."""
_ATTEMPTS = 8

UNKNOWN_TYPE = "C-016"
"""The only broken rule with which a model still opens: its other tensors can be used."""

Place = tuple[str, str, tuple[Identity, ...]]
"""What finds a model again: its path, its io, and the size and time of change of every file."""


def open_model(
    path: str | os.PathLike[str], *, verify: bool = False, io: str | None = None, mode: str | None = None
) -> Model:
    """Open a GGUF file (the first, if there are several shards), for `with` or until `close`.

    Only the metadata and the tensor table are read. A file opens if `gguflow validate` calls it valid at its
    first level; tensors of an unknown type are listed, and refused when decoded.

    path: the file.
    verify: whether to check all data against the digests in the file first, which reads all of it once.
    io: "mmap" (the default), or "pread" for network file systems: a file that is shortened by another process
        would kill a process that has it mapped.
    mode: the former name of io; deprecated.

    Raises the error of the first broken rule (MalformedError, InvalidError, UnsupportedError, LimitError),
    UsageError (a later shard, verify without digests), StorageError.
    """
    if mode is not None:
        if io is not None:
            raise UsageError(f"io and mode are one option: io={io!r} and mode={mode!r} cannot both be given")
        warnings.warn("mode is called io now: gguflow.open(path, io=...)", DeprecationWarning, stacklevel=2)
        io = mode
    flag(verify, "verify")
    chosen = choice("mmap" if io is None else io, "io", IO_MODES)
    return _open_files(file_path(path, "path"), verify, chosen)


def _open_files(path: Path, verify: bool, io: str) -> Model:
    files: list[GgufFile] = []
    try:
        open_one = functools.partial(_open_file, io=io)
        for opened in open_shards(open_one(path), open_one, RaiseFirst(_refuse)):
            files.append(opened)
        doubts = tuple(filter(None, map(_stale_set, files)))
        for doubt in doubts:
            warn(doubt.file, doubt.finding)
        for opened in files if verify else ():
            _verify(opened)
        return Model([opened.detached() for opened in files] if io == "pread" else files, doubts)
    except BaseException:
        for opened in files:
            opened.file.close()
        raise


class Values(Mapping[str, Any]):
    """Metadata as plain values: int, float, bool, str, and sequences of them.

    The strings of an array are decoded when they are accessed.

    typed: the same metadata with the types that the file gives.
    """

    def __init__(self, metadata: Metadata) -> None:
        self.typed = metadata

    def __getitem__(self, key: str) -> Any:
        return self.typed[key].value

    def __iter__(self) -> Iterator[str]:
        return iter(self.typed)

    def __len__(self) -> int:
        return len(self.typed)

    def __repr__(self) -> str:
        return f"<{len(self)} metadata keys: {', '.join(map(printable, self))}>"


_LONGEST_NAME = 100
"""Characters of a name for which a similar one is looked for."""


class _NoSuchTensor(UsageError, KeyError):
    """No tensor has this name."""


class Model(Mapping[str, Tensor]):
    """The tensors of an open model by name, in the order of the file. Threads may share it.

    Arrays that it gave keep the map alive after `close`; tensors then refuse to be read.

    path: the path of the first file, as it was named.
    warnings: what is doubtful about the files, such as digests that no longer match them.
    metadata: the metadata of the model, by key.
    """

    def __init__(self, files: list[GgufFile], warnings: tuple[FileWarning, ...] = ()) -> None:
        self.warnings = warnings
        self.path = str(files[0].path)
        self.metadata = Values(files[0].header.metadata)
        self._files = files
        payloads = payload_names(files[0].header.metadata)
        self._tensors = {
            info.name: self._tensor(file, info, info.name in payloads)
            for file in files
            for info in file.header.tensors
        }

    def _tensor(self, file: GgufFile, info: TensorInfo, is_payload: bool) -> Tensor:
        codec = codec_of(file.header) if is_row_store(file.header.metadata) else None
        if isinstance(codec, PayloadRows):
            rows: Tensor = part(codec.encoding.family, "stages.tensors").RowsTensor(self, file, info, codec)
            return rows
        if is_payload:
            start = file.header.data_offset + info.offset
            family = family_at(bytes(file.file.read(start, start + min(info.n_weights, 16))))
            payload: Tensor = part(family.name, "stages.tensors").PayloadTensor(self, file, info)
            return payload
        return Tensor(self, file, info, by_id(info.type_id))

    @property
    def files(self) -> list[str]:
        """The paths of all shards, or of the single file."""
        return [str(file.path) for file in self._files]

    @property
    def nbytes(self) -> int:
        """The size of all files together."""
        return sum(opened.file.nbytes for opened in self._files)

    @property
    def place(self) -> Place:
        """What another process needs to find the model again."""
        return os.path.abspath(self.path), self._files[0].file.io, self._identities

    def pickled(self, name: str, index: tuple[int, ...]) -> tuple[Any, ...]:
        """What a tensor, or an entry of it, is pickled as: a function and its arguments.

        name: the name of the tensor.
        index: the indices that lead to the entry; () for the tensor itself.
        """
        return _tensor_at, (self.place, name, index)

    def prefetch(self, names: Iterable[str] | None = None) -> None:
        """Hint that tensors will be read soon: the system reads them ahead, in large pages if it can.

        names: the names of the tensors; None for all.
        """
        for tensor in self._chosen(names):
            tensor._file.prefetch(tensor.offset, tensor.offset + tensor.nbytes)

    def release(self, names: Iterable[str] | None = None) -> None:
        """Hint that tensors are not needed for now: their pages need not count as this process's memory.

        They are read again when accessed.

        names: the names of the tensors; None for all.
        """
        for tensor in self._chosen(names):
            tensor._file.release(tensor.offset, tensor.offset + tensor.nbytes)

    def close(self) -> None:
        """Close the files.

        Arrays that were handed out stay valid; the map is removed with the last of them.
        """
        for opened in self._files:
            opened.file.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getitem__(self, name: str) -> Tensor:
        """Raises UsageError, which is a KeyError here too."""
        if isinstance(name, str) and name in self._tensors:
            return self._tensors[name]
        is_name = isinstance(name, str) and len(name) <= _LONGEST_NAME
        near = difflib.get_close_matches(name, self._tensors, 1) if is_name else []
        hint = f"; did you mean {printable(near[0])!r}?" if near else ""
        raise _NoSuchTensor(f"{self.path} has no tensor {shown(name)}{hint}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._tensors

    def __repr__(self) -> str:
        architecture = printable(str(self.metadata.get("general.architecture", "?")))
        return f"<Model {self.path} ({architecture}): {len(self)} tensors, {self.nbytes} bytes>"

    @property
    def _identities(self) -> tuple[Identity, ...]:
        return tuple(opened.file.identity for opened in self._files)

    def _chosen(self, names: Iterable[str] | None) -> list[Tensor]:
        tensors = self.values() if names is None else [self[name] for name in names]
        return [tensor for tensor in tensors if tensor.format is not None]


def _tensor_at(place: Place, name: str, index: tuple[int, ...]) -> Tensor:
    """What a pickled tensor becomes, in whatever process."""
    tensor = _reopen(*place)[name]
    for i in index:
        tensor = tensor[i]
    return tensor


@functools.lru_cache(maxsize=8)
def _reopen(path: str, io: str, identities: tuple[Identity, ...]) -> Model:
    """The model of a pickled tensor, opened once in each process.

    Raises InvalidError (R-001) if the files have changed.
    """
    model = open_model(path, io=io)
    found = model._identities
    if found != identities:
        model.close()
        raise InvalidError(
            path,
            Finding(
                "R-001",
                "the file changed after a tensor of it was pickled",
                found=found,
                expected=f"(bytes, ns) {identities}",
            ),
        )
    return model


def _open_file(path: Path, io: str) -> GgufFile:
    """Mapped and judged. A row store that grew between the one and the other is opened again."""
    for _ in range(_ATTEMPTS):
        try:
            return _open_judged(path, io)
        except InvalidError as error:
            if error.finding.rule not in _WHILE_GROWING or not is_row_store(open_file(path).header.metadata):
                raise
    return _open_judged(path, io)


def _open_judged(path: Path, io: str) -> GgufFile:
    opened = open_file(path, io)
    try:
        content = opened.file.map_all()
        _refuse(path, judge_gguf(path, content, opened.header, "structure", DEFAULT_LIMITS, None))
    except BaseException:
        opened.file.close()
        raise
    return opened


def _refuse(path: Path, findings: Iterable[Finding]) -> None:
    """Raise the error of the first finding that a reader cannot live with."""
    for finding in findings:
        if finding.severity == "error" and finding.rule != UNKNOWN_TYPE:
            raise error_class_of(finding.rule)(path, finding)


def _stale_set(opened: GgufFile) -> FileWarning | None:
    found = stale(check_set(opened.header, opened.file.map_all()))
    return None if found is None else FileWarning(str(opened.path), found)


def _verify(opened: GgufFile) -> None:
    """Check all tensors against their digests.

    Raises InvalidError (I-006, or for a set that is stale), UsageError if there are none.
    """
    header = opened.header
    if not has_set(header.metadata):
        raise UsageError(
            f"{opened.path} holds no digests: there is nothing to verify it by; open it without verify, "
            "or convert it anew"
        )
    for finding in check_set(header, opened.file.map_all()):
        raise InvalidError(opened.path, finding)
    digest_leaf = functools.partial(leaf_digest, opened.file.map_all())
    _refuse(opened.path, compare(header, tensor_digests(header, block_sizes, digest_leaf)))
