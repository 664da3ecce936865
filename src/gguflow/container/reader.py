"""Reading the header of a file on disk: mapped, parsed, judged. No tensor data is touched."""

from __future__ import annotations

import mmap
from pathlib import Path

from gguflow import platform
from gguflow.container import rules
from gguflow.container.header import MAGIC, Header, parse
from gguflow.errors import Finding, InvalidError, LimitError, MalformedError, UnsupportedError

_CLASSES: dict[str, type[InvalidError] | type[UnsupportedError] | type[LimitError]] = {
    "C-016": UnsupportedError,
    "C-023": LimitError,
}
"""The class of the error where a rule is broken; InvalidError for the others."""


def read_header(path: str | Path, block_sizes: rules.BlockSizes) -> Header:
    """The header of a GGUF file, checked against its rules and the file's size.

    Raises MalformedError, InvalidError, UnsupportedError or LimitError for the first broken rule, StorageError where the file cannot be read.
    The arrays of the metadata are views of the mapped file and keep it mapped.
    """
    with platform.storage_errors("read", path), open(path, "rb") as file:
        size = file.seek(0, 2)
        if size == 0:
            raise MalformedError(path, Finding("C-001", "an empty file", "$", 0, "0 bytes", MAGIC))
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header = parse(memoryview(mapping), str(path))
    for finding in rules.judge(header, block_sizes, size):
        if finding.severity == "error":
            raise _CLASSES.get(finding.rule, InvalidError)(path, finding)
    return header
