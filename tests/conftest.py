"""Of the whole run: Ctrl-C interrupts, whoever started it."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Shells without job control start background jobs with Ctrl-C ignored, and programs that tests start
    would inherit that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
