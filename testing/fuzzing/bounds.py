"""What one execution of a fuzzer may use: address space and processor time."""

from __future__ import annotations

import contextlib
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

MEMORY_MIB = 256
SECONDS = 2.0


@contextlib.contextmanager
def bounded(mebibytes: int = MEMORY_MIB, seconds: float = SECONDS) -> Iterator[None]:
    """Let what is done inside fail where it uses too much.

    mebibytes: of address space, beyond what the process has; even what is never touched counts.
    seconds: of processor time.

    Raises MemoryError, TimeoutError. Only in the main thread, and only where there is /proc.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (mebibytes << 20), before[1]))
    handler = signal.signal(signal.SIGPROF, _hanging)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    began = time.process_time()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)
    if time.process_time() - began > seconds:
        raise TimeoutError(f"an execution took more than {seconds} s of processor time")


def _hanging(signum: int, frame: object) -> NoReturn:
    raise TimeoutError("an execution hangs")
