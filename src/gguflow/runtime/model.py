"""Opening a model: its file or all its shards mapped and judged, its metadata read where it lies, its tensors
by name.
"""

from __future__ import annotations

import difflib
import functools
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from gguflow.arguments import choice, file_path, flag
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
from gguflow.container.verification import compare, leaf_digest, tensor_digests
from gguflow.errors import Finding, InvalidError, UsageError, printable
from gguflow.rows.codec import PayloadRows
from gguflow.rows.judging import codec_of
from gguflow.runtime.tensor import Tensor
from gguflow.validation import error_class_of, judge_gguf

_WHILE_GROWING = ("R-001", "C-019")
"""What a row store seems to break that grows between two looks at it."""
_ATTEMPTS = 8

UNKNOWN_TYPE = "C-016"
"""The one broken rule with which a model opens: its other tensors are as good as ever."""

Place = tuple[str, str, tuple[Identity, ...]]
"""Where to find a model again: its path, its io, and the size and time of change of every file."""


def open_model(
    path: str | os.PathLike[str], *, verify: bool = False, io: str | None = None, mode: str | None = None
) -> Model:
    """Open a GGUF file (of several shards, the first), for `with` or until `close`. Metadata and tensor table
    are read, and nothing else.

    verify: hold all data against the digests in the file before anything is handed out; the time of reading
        it once.
    io: "mmap" (as it is without), or "pread" for network file systems, where a file that somebody shortens
        would kill a process that has it mapped.
    mode: the former name of io; deprecated.

    What opens is what `gguflow validate` calls valid at its first level; tensors of a type that is not known
    are listed, and refused when decoded. Raises the error of the first broken rule (MalformedError,
    InvalidError, UnsupportedError, LimitError), UsageError (a later shard, verify without digests),
    StorageError.
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
        for opened in files if verify else ():
            _verify(opened)
        return Model([opened.detached() for opened in files] if io == "pread" else files)
    except BaseException:
        for opened in files:
            opened.file.close()
        raise


class Values(Mapping[str, Any]):
    """Metadata as plain values: int, float, bool, str, and sequences of them. The strings of an array are
    decoded when they are touched.

    typed: the same with the types that the file gives.
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


class Model(Mapping[str, Tensor]):
    """The tensors of an open model by name, in the order of the file. Threads may share it.

    path: as the first file is named. metadata: of the model, by key. Arrays that it gave keep the map alive
    after `close`; tensors then refuse.
    """

    def __init__(self, files: list[GgufFile]) -> None:
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
        """The paths of all shards; of a single file, its own."""
        return [str(file.path) for file in self._files]

    @property
    def nbytes(self) -> int:
        """The size of all files together."""
        return sum(opened.file.nbytes for opened in self._files)

    @property
    def place(self) -> Place:
        """What it takes to find the model again in another process."""
        return os.path.abspath(self.path), self._files[0].file.io, self._identities

    def pickled(self, name: str, index: tuple[int, ...]) -> tuple[Any, ...]:
        """What a tensor, or an entry of it, is pickled as: a function and its arguments."""
        return _tensor_at, (self.place, name, index)

    def prefetch(self, names: Iterable[str] | None = None) -> None:
        """These tensors (all of them, unless named) will be wanted soon: have the system read them ahead, in
        large pages where it can. A hint.
        """
        for tensor in self._chosen(names):
            tensor._file.prefetch(tensor.offset, tensor.offset + tensor.nbytes)

    def release(self, names: Iterable[str] | None = None) -> None:
        """These tensors are done with for now: their pages need not count as this process's memory. A hint;
        they are read again when touched.
        """
        for tensor in self._chosen(names):
            tensor._file.release(tensor.offset, tensor.offset + tensor.nbytes)

    def close(self) -> None:
        """Let the files go. Arrays that were handed out stay good; their map goes with the last of them."""
        for opened in self._files:
            opened.file.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self._tensors[name]
        except KeyError:
            near = difflib.get_close_matches(name, self._tensors, 1) if isinstance(name, str) else []
            hint = f"; did you mean {printable(near[0])!r}?" if near else ""
            raise KeyError(f"{self.path} has no tensor {name!r}{hint}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

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
    """The model of a pickled tensor, opened once in each process. Raises InvalidError (R-001) where the files
    are others now.
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


def _verify(opened: GgufFile) -> None:
    """Hold all tensors against their digests. Raises InvalidError (I-006), UsageError without any."""
    header = opened.header
    if not has_set(header.metadata):
        raise UsageError(
            f"{opened.path} holds no digests: there is nothing to verify it by; open it without verify, "
            "or convert it anew"
        )
    digest_leaf = functools.partial(leaf_digest, opened.file.map_all())
    _refuse(opened.path, compare(header, tensor_digests(header, block_sizes, digest_leaf)))
