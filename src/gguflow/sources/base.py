"""What every source gives: tensors with a name, a number format and a place in a file, and the configuration
that came with them.
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from gguflow.arrays import Bytes
from gguflow.blocks import FORMATS, BlockFormat
from gguflow.blocks.families import Encoding
from gguflow.container.mapped_file import Identity
from gguflow.container.metadata import Metadata
from gguflow.errors import Finding, InvalidError, UnsupportedError
from gguflow.platform import storage_errors
from gguflow.sources.links import is_there


@dataclass(frozen=True)
class SourceFile:
    """A file of weights as it was when its header was read, so that a later change can be noticed.

    path: the path of the file.
    nbytes: its size in bytes.
    mtime_ns: its time of change in nanoseconds.
    header_digest: the digest of the bytes before its data, by `container.integrity.hexdigest`; an output
        names it as its origin.
    """

    path: Path
    nbytes: int
    mtime_ns: int
    header_digest: str = ""

    @property
    def identity(self) -> Identity:
        return self.nbytes, self.mtime_ns


@dataclass(frozen=True)
class Proof:
    """What a file states about the bytes of one of its tensors.

    digest: their digest (`container.integrity.tensor_digest`), which includes the padding behind them.
    padding: the number of padding bytes.
    """

    digest: bytes
    padding: int


ReadStored = Callable[[SourceFile, int, int], Bytes]
"""Bytes [start, stop) of a file."""


class PayloadReader(Protocol):
    """Reads the payloads of one family, for many threads."""

    def read(self, tensor: SourceTensor, first: int, last: int) -> Bytes:
        """Weights of the flattened tensor as the bytes of its plain format.

        tensor: the tensor to read.
        first: the first weight.
        last: the end of the range, exclusive.

        Raises a FileError if the payload is broken, UsageError if the range is not in the tensor, and what
        reading raises.
        """


class StoredPayload(Protocol):
    """How a tensor is stored that is in an encoding of a family (`gguflow.blocks.families`)."""

    @property
    def encoding(self) -> Encoding:
        """The encoding."""

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""

    @property
    def is_whole(self) -> bool:
        """Whether the tensor is what the payload decodes to, and not its codes or scales."""

    @property
    def is_in_parts(self) -> bool:
        """Whether the file holds several tensors that make up the payload, instead of the payload itself."""

    @property
    def kept_nbytes(self) -> int:
        """Bytes of memory that each thread takes that reads it: the largest chunk, decoded."""

    def beginning_at(self, first: int) -> StoredPayload:
        """The same for a tensor that begins inside the payload, such as a matrix of a stack.

        first: the weight of the payload at which the tensor begins.
        """


@dataclass(frozen=True)
class SourceTensor:
    """A tensor in a source file.

    name: its name in the source.
    format: how its bytes hold numbers (F32, F16, BF16; in a GGUF file any block format), or None if no block
        format matches (BOOL, F8_E4M3): such a tensor may be skipped, and is refused when its weights are
        needed.
    shape: its dimensions in NumPy order, rows last.
    file: the file that holds it.
    offset: its position in bytes from the start of the file.
    dtype: the number type as the source writes it.
    proof: the digest of its bytes, if the file has digests and they are valid for it; else None.
    stored: how it is stored, for a payload; shape and format are then those of what the payload decodes to,
        or of a view of it.
    """

    name: str
    format: BlockFormat | None
    shape: tuple[int, ...]
    file: SourceFile
    offset: int
    dtype: str = ""
    proof: Proof | None = field(default=None, repr=False, compare=False)
    stored: StoredPayload | None = None

    @property
    def encoding(self) -> Encoding | None:
        """The encoding of a payload, None if the tensor is stored in its format."""
        return self.stored.encoding if self.stored is not None else None

    @property
    def is_in_parts(self) -> bool:
        """Whether it is in an encoding, and its file has the parts instead of a payload."""
        return self.stored is not None and self.stored.is_in_parts

    @property
    def n_weights(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the file.

        Raises UnsupportedError if there is no format.
        """
        if self.stored is not None and self.stored.is_whole:
            return self.stored.nbytes
        return self.require_format().nbytes(self.n_weights)

    @property
    def format_name(self) -> str:
        """How its weights are stored.

        Raises UnsupportedError if there is no format.
        """
        return self.encoding.name if self.encoding is not None else self.require_format().name

    @property
    def is_lossy(self) -> bool:
        """Whether its weights have been quantized.

        Raises UnsupportedError if there is no format.
        """
        return (
            not self.encoding.is_lossless if self.encoding is not None else self.require_format().is_quantized
        )

    def as_stored(self) -> SourceTensor:
        """Its stored bytes: for a payload, an I8 tensor; else the tensor itself.

        Not for a tensor stored in parts.
        """
        if self.stored is None:
            return self
        return replace(self, format=FORMATS["i8"], shape=(self.stored.nbytes,), stored=None)

    def require_format(self) -> BlockFormat:
        """The format, for a caller that is about to read weights.

        Raises UnsupportedError (S-019), which names tensor and dtype, if there is no format.
        """
        if self.format is None:
            finding = Finding(
                "S-019",
                f"tensors of dtype {self.dtype} cannot be converted; --skip-tensor leaves them out, "
                "or save the model in BF16",
                json_path(self.name, "dtype"),
                found=self.dtype,
            )
            raise UnsupportedError(self.file.path, finding)
        return self.format


@dataclass(frozen=True)
class Checkpoint:
    """A set of tensors, proved to lie inside their files, and what was found beside them.

    path: the path that the user named.
    tensors: the tensors by name.
    files: the files of weights.
    directory: where config, tokenizer and model card may be; None for a single file.
    config: the content of config.json, or None if there is none.
    metadata: the metadata of a GGUF file, None for anything else.
    config_name: the name of the file with the configuration.
    """

    path: Path
    tensors: Mapping[str, SourceTensor]
    files: tuple[SourceFile, ...]
    directory: Path | None = None
    config: Mapping[str, Any] | None = field(default=None, repr=False)
    metadata: Metadata | None = field(default=None, repr=False)
    config_name: str = "config.json"


def require_regular(path: Path) -> None:
    """Prove that a path leads to a regular file (S-001) before it is opened.

    Opening a pipe would wait forever, and a device would never end.

    path: the path to check.

    Raises InvalidError (also H-019: a link that leads to nothing), StorageError.
    """
    is_there(path)
    with storage_errors("read", path):
        mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise InvalidError(path, Finding("S-001", "not a regular file"))


def json_path(*keys: str) -> str:
    """A place in a JSON document, for a Finding: `$["model.norm.weight"].shape`.

    keys: the keys that lead to it; they come from untrusted files, so they are escaped, and cut if long.
    """
    parts = (key if len(key) <= 120 else key[:120] + "…" for key in keys)
    return "$" + "".join(f".{part}" if part.isidentifier() else f"[{json.dumps(part)}]" for part in parts)
