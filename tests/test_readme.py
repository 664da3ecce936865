"""The README's Python runs as it is written, block after block, beside a checkpoint."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from testing.checkpoints import TINY

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_python_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(TINY, "checkpoint")
    names: dict[str, Any] = {}
    for i, block in enumerate(BLOCKS):
        if "torch" not in block:  # tests/torch runs those
            exec(compile(block, f"README.md, block {i}", "exec"), names)
    assert names["y"].shape == (3, 256)
