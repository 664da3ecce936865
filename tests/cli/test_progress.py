"""Progress of a conversion, on a terminal and elsewhere."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from gguflow import conversion
from gguflow.cli import progress
from testing.checkpoints import TINY


def test_a_terminal_gets_a_bar(tmp_path: Path) -> None:
    """Under a pseudo-terminal: tensors, bytes, rate, time left."""
    terminal, end = os.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [
        sys.executable,
        "-m",
        "gguflow",
        "convert",
        str(TINY),
        "-t",
        "q8_0",
        "-o",
        str(tmp_path / "out.gguf"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=end)
    os.close(end)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while data := os.read(terminal, 4096):
            shown += data
    os.close(terminal)
    assert process.wait() == 0, shown.decode()
    assert re.search(rb"\d+/75 tensors: +\d+%.*B/s", shown), shown.decode()


def test_elsewhere_there_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PLAIN_INTERVAL", 0.0)
    (target,) = conversion.prepare(TINY, "out.gguf", type="q8_0").targets
    stream = io.StringIO()
    with progress.shown(target.plans, stream) as update:
        for plan in target.plans:
            for planned in plan.tensors:
                update(planned, planned.tensor.n_weights, planned.nbytes)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 75
    assert re.fullmatch(r"75/75 tensors, (\S+ MiB) of \1, \S+ \w+/s, 0 s left", lines[-1])
