"""The files of row stores: creating them, opening them with their lock, closing them."""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from pathlib import Path

from gguflow import platform
from gguflow.container.output_file import OutputFile
from gguflow.container.row_store import build_header
from gguflow.errors import Finding, InvalidError, UsageError
from gguflow.rows.codec import RowCodec
from gguflow.rows.judging import keys_of


def create(path: Path, codec: RowCodec, *, overwrite: bool) -> None:
    """Create a store without rows; it appears under its name complete and on the medium (R-113).

    path: the path of the new file.
    codec: the format of its rows.
    overwrite: whether to replace an existing file.

    Raises UsageError if there is a file already, or if another process writes to the file that would be
    replaced, StorageError.
    """
    header = build_header(codec.name, codec.width, codec.type_id, codec.row_length, keys_of(codec))
    with OutputFile(path, len(header), overwrite=overwrite) as output:  # locked as R-112 says
        output.write(header, 0)
        output.commit()
    for note in output.notes:
        warnings.warn(note, stacklevel=3)


def open_file(path: Path, *, writable: bool) -> int:
    """Open a file and return its descriptor; the file is locked if it is writable (R-112).

    path: the path of the file.
    writable: whether to open it for writing.

    Raises UsageError if another process is writing it, InvalidError (C-035) if it is not a regular file,
    StorageError.
    """
    flags = (os.O_RDWR if writable else os.O_RDONLY) | getattr(os, "O_BINARY", 0)
    with platform.storage_errors("write" if writable else "read", path):
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would wait for ever
            raise InvalidError(path, Finding("C-035", "not a regular file"))
        fd = os.open(path, flags)
        try:
            if writable and not (platform.try_lock(fd, platform.BEYOND_ALL_FILES) and leads_to(path, fd)):
                raise UsageError(f"another process is writing {path}")
        except BaseException:
            os.close(fd)
            raise
    return fd


def let_go(fd: int, owner: int) -> None:
    """Close the file and give up its lock, even if a map of it is still in use or a child of fork has it too.

    Errors of the system are ignored here: what was flushed is on the medium.

    fd: the descriptor of the file.
    owner: the id of the process that opened it; in a child of it, the lock stays.
    """
    if os.getpid() == owner:
        platform.unlock(fd, platform.BEYOND_ALL_FILES)
    with contextlib.suppress(OSError):
        os.close(fd)


def leads_to(path: Path, fd: int) -> bool:
    """Whether the name still leads to the open file, which may have been replaced.

    path: the name of the file.
    fd: the descriptor of the open file.

    Raises OSError.
    """
    return os.path.samestat(os.fstat(fd), path.stat())
