"""Reads the header of a file on disk: maps, parses and checks it, without reading tensor data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gguflow.container import rules
from gguflow.container.header import Header, parse
from gguflow.container.limits import DEFAULT_LIMITS, Limits
from gguflow.container.mapped_file import MappedFile


@dataclass(frozen=True)
class GgufFile:
    """An open GGUF file.

    file: the bytes of the file.
    header: the header as parsed, not yet judged. Its arrays refer to the mapped file and keep it mapped.
    """

    file: MappedFile
    header: Header

    @property
    def path(self) -> Path:
        return self.file.path

    def detached(self) -> GgufFile:
        """The same file, with its header copied into memory of its own."""
        return GgufFile(self.file, self.header.detached(self.file.map_all(), str(self.path)))


def map_file(path: str | Path) -> memoryview:
    """A file's bytes, mapped read-only for as long as they are referred to.

    path: the path of the file.

    Raises InvalidError if it is not a regular file, MalformedError if it is empty, StorageError.
    """
    return MappedFile(path).map_all()


def open_file(path: str | Path, io: str = "mmap", limits: Limits = DEFAULT_LIMITS) -> GgufFile:
    """Open a GGUF file and parse its header.

    path: the path of the file.
    io: "mmap" or "pread", as in `MappedFile`.
    limits: the sizes that are accepted.

    Raises what `parse` raises if the header cannot be parsed, and what `MappedFile` raises.
    """
    file = MappedFile(path, io)
    try:
        return GgufFile(file, parse(file.map_all(), str(path), limits))
    except BaseException:
        file.close()
        raise


def read_header(path: str | Path, block_sizes: rules.BlockSizes) -> Header:
    """The header of a GGUF file, checked against the rules and the file's size.

    Arrays in the metadata are views of the mapped file and keep it mapped.

    path: the path of the file.
    block_sizes: the block sizes of the known formats.

    Raises MalformedError, InvalidError, UnsupportedError or LimitError for the first broken rule,
    StorageError if the file cannot be read.
    """
    opened = open_file(path)
    rules.raise_first(path, rules.judge(opened.header, block_sizes, opened.file.nbytes))
    return opened.header
