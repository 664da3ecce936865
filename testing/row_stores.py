"""Row stores for tests: vectors, a store that was closed, and the rules that a file breaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import gguflow
from gguflow.rows import RowStore

Floats = NDArray[np.float32]


def vectors(n: int, width: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)


def store_of(path: Path, n: int = 10, format: str = "q8_0", width: int = 64) -> Path:
    """A file that was closed as it should be."""
    with RowStore(path, format, width, overwrite=True) as store:
        store.append(vectors(n, width))
    return path


def rules_of(path: Path, level: str = "structure") -> set[str]:
    return {finding.rule for finding in gguflow.validate(path, level)}
