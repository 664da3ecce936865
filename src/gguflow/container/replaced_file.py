"""The file that an output takes the place of: locked against those who write to it, so that nothing they
have written is lost, until the new file has its name.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from gguflow import platform
from gguflow.errors import UsageError


class ReplacedFile:
    """What stands under a name that a new file will take; nothing, mostly.

    path: the name.
    is_allowed: whether something may stand there.
    """

    def __init__(self, path: Path, *, is_allowed: bool) -> None:
        self.path = path
        self.is_allowed = is_allowed
        self._fd = -1
        self._is_closed_to_us = False
        self._pid = os.getpid()

    def hold(self) -> None:
        """Prove that the name may be taken, and lock the file that has it now.

        Raises UsageError where something has it that must not be replaced, or that another process writes to
        (R-120); StorageError.
        """
        with platform.storage_errors("write", self.path):
            mode = platform.mode_of(self.path)
            if mode is not None and stat.S_ISDIR(mode):
                raise UsageError(f"{self.path} is a directory; name a file")
            if mode is not None and not stat.S_ISREG(mode):
                raise UsageError(
                    f"{self.path} is not a regular file (a device or a pipe, say), and is not replaced; "
                    "name a file, or pass --dry-run to convert to see what would be written"
                )
            if platform.is_descriptor(self.path):
                raise UsageError(
                    f"{self.path} is a stream or another open file of a process, and not the name of a file; "
                    "name a file, such as model.gguf"
                )
            if not self.is_allowed and (mode is not None or self.path.is_symlink()):
                raise UsageError(f"{self.path} exists; pass --overwrite (overwrite=True) to replace it")
            if self._fd >= 0 and platform.leads_to(self.path, self._fd):
                return
            self.let_go()
            self._lock()

    def hand_down(self, fd: int) -> list[str]:
        """Give the new file the attributes of the old one; what is not as it was, in sentences.

        fd: of the new file.
        """
        if self._fd < 0 and not self._is_closed_to_us:
            return []
        with platform.storage_errors("write", self.path):
            old = self._fd if self._fd >= 0 else self.path
            lost = platform.copy_attributes(old, fd)
            n_names = os.stat(old).st_nlink
        said = [f"{self.path} was replaced, and could not keep {', '.join(lost)}"] if lost else []
        if n_names > 1:
            said.append(
                f"{self.path} was replaced; the old file still has {n_names - 1} other "
                f"{'name' if n_names == 2 else 'names'} (hard links), which lead to the old content"
            )
        return said

    def let_go(self) -> None:
        """Others may write to the old file again, if anybody still finds it."""
        if self._fd >= 0:
            if self._pid == os.getpid():  # a child of fork has the lock of its parent
                platform.unlock(self._fd, platform.BEYOND_ALL_FILES)
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1

    def _lock(self) -> None:
        """Open and lock what has the name; a link there is replaced itself, and nobody locks it."""
        self._pid = os.getpid()
        self._is_closed_to_us = False
        flags = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        for access in (os.O_RDWR, os.O_RDONLY):  # network file systems lock what is open for writing
            try:
                if self.path.is_symlink():
                    return
                self._fd = os.open(self.path, access | flags)
                break
            except FileNotFoundError:
                return
            except PermissionError:  # who may not open it does not write to it either
                continue
        else:
            self._is_closed_to_us = True
            return
        if not (
            platform.try_lock(self._fd, platform.BEYOND_ALL_FILES) and platform.leads_to(self.path, self._fd)
        ):
            os.close(self._fd)
            self._fd = -1
            raise UsageError(f"another process is writing {self.path}")
