"""What every source gives: tensors with a name, a number format and a place in a file, and the configuration that came with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguflow.blocks import BlockFormat


@dataclass(frozen=True)
class SourceFile:
    """A file of weights as it was when its header was read, so that a later change can be noticed."""

    path: Path
    nbytes: int
    mtime_ns: int


@dataclass(frozen=True)
class SourceTensor:
    """A tensor in a source file.

    format: how its bytes hold numbers (F32, F16, BF16). shape: NumPy order, rows last. offset: from the start of the file.
    """

    name: str
    format: BlockFormat
    shape: tuple[int, ...]
    file: SourceFile
    offset: int

    @property
    def n_weights(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.n_weights // self.format.block_size * self.format.type_size


@dataclass(frozen=True)
class Checkpoint:
    """A set of tensors, proved to lie inside their files, and what was found beside them.

    path: what the user named. directory: where config, tokenizer and model card may be; None for a lone file.
    config: config.json, or None where there is none.
    """

    path: Path
    tensors: Mapping[str, SourceTensor]
    files: tuple[SourceFile, ...]
    directory: Path | None = None
    config: Mapping[str, Any] | None = field(default=None, repr=False)
