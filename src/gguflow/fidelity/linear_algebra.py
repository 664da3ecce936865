"""Matrix products on one thread of BLAS, so that threads can take rows, and so that a product does not depend
on how many threads there are.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_lock = threading.Lock()
_users = 0
_limits: Any = None


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, and until the last user of several threads leaves, BLAS computes on the calling thread only.
    The limit is the process's: it also holds for others that use BLAS meanwhile.
    """
    global _users, _limits
    import threadpoolctl

    with _lock:
        _users += 1
        if _users == 1:
            _limits = threadpoolctl.threadpool_limits(1, user_api="blas")
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _limits.restore_original_limits()
                _limits = None


def description() -> str:
    """The libraries of BLAS that are loaded, and the kernels they chose: what the results of `feedback` may
    depend on.
    """
    import threadpoolctl

    found = {
        f"{info['internal_api']} {info.get('version') or '?'} {info.get('architecture') or '?'}"
        for info in threadpoolctl.threadpool_info()
        if info["user_api"] == "blas"
    }
    return ", ".join(sorted(found)) or "unknown"
