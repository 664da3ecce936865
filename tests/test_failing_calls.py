"""Calls of the system that fail under a process: a few of those that `tools/faults calls` tries."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not (shutil.which("gcc") or shutil.which("cc")),
    reason="needs Linux and a C compiler",
)

FEW = {
    "leaves": ["write", "close", "rename"],
    "payloads": ["fsync"],
    "edit": ["write", "rename"],
    "rows": ["write", "fsync"],
}


@pytest.mark.parametrize("job", FEW)
def test_a_few_calls(job: str) -> None:
    """The old file or the new one, no traceback, and the same bytes from the same command again."""
    calls = [word for call in FEW[job] for word in ("--call", call)]
    command = [sys.executable, str(ROOT / "tools" / "faults"), "calls", "-n", "1", "--errors", "1", *calls]
    done = subprocess.run([*command, "--only", job], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["refused"] >= (2 if len(FEW[job]) > 1 else 1)
    assert figures["short writes: done all the same"] >= 1
    assert figures["strange temporary file refused"] >= 3
