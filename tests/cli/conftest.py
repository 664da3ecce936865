"""What the tests of several commands need."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguflow.cli import main
from testing.checkpoints import tiny_llama


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small GGUF file."""
    path = tmp_path / "model.gguf"
    assert (
        main(["convert", str(tiny_llama(tmp_path / "checkpoint")), "-o", str(path), "-t", "q8_0", "-q"]) == 0
    )
    return path
