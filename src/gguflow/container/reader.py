"""Reads the header of a file on disk: maps, parses and checks it, without reading tensor data."""

from __future__ import annotations

import mmap
import stat
from pathlib import Path

from gguflow import platform
from gguflow.container import rules
from gguflow.container.header import MAGIC, Header, parse
from gguflow.errors import Finding, InvalidError, MalformedError


def map_file(path: str | Path) -> memoryview:
    """A file's bytes, mapped read-only for as long as they are referenced.

    Raises InvalidError if it is not a regular file (a pipe would block), MalformedError if it is empty,
    StorageError.
    """
    with platform.storage_errors("read", path):
        mode = Path(path).stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(
            mode
        ):  # opening a directory gives the system's own message
            raise InvalidError(path, Finding("C-035", "not a regular file"))
    with platform.storage_errors("read", path), open(path, "rb") as file:
        if file.seek(0, 2) == 0:
            raise MalformedError(path, Finding("C-001", "an empty file", "$", 0, "0 bytes", MAGIC))
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def read_header(path: str | Path, block_sizes: rules.BlockSizes) -> Header:
    """The header of a GGUF file, checked against the rules and the file's size.

    Arrays in the metadata are views of the mapped file and keep it mapped.

    path: the file.
    block_sizes: the known formats.

    Raises MalformedError, InvalidError, UnsupportedError or LimitError for the first broken rule,
    StorageError if the file cannot be read.
    """
    content = map_file(path)
    header = parse(content, str(path))
    rules.raise_first(path, rules.judge(header, block_sizes, len(content)))
    return header
