"""A model in several files: `NAME-00001-of-00003.gguf` and its siblings, as llama.cpp's gguf-split names them and its loader expects them.

The first file has the metadata of the model; every file has the three keys below, and the tensor table and data of its own tensors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gguflow.container.metadata import Metadata, Value, ValueType, i32

NO_KEY = "split.no"
COUNT_KEY = "split.count"
TENSORS_KEY = "split.tensors.count"

MAX_SHARDS = (1 << 16) - 1
"""split.count is a u16."""

_NAME = re.compile(r"(.*)-(\d{5,})-of-(\d{5,})\.gguf", re.DOTALL)


@dataclass(frozen=True)
class ShardName:
    """A shard's file name taken apart. number: counted from 0, as split.no is; the name itself counts from 1."""

    stem: str
    number: int
    count: int

    @classmethod
    def of(cls, path: Path) -> ShardName | None:
        match = _NAME.fullmatch(path.name)
        return cls(match[1], int(match[2]) - 1, int(match[3])) if match else None

    def __str__(self) -> str:
        return f"{self.stem}-{self.number + 1:05d}-of-{self.count:05d}.gguf"


def shard_metadata(number: int, count: int, n_tensors: int) -> Metadata:
    """The three keys of shard `number` (from 0) of `count`. n_tensors: of all shards together."""
    return {NO_KEY: _u16(number), COUNT_KEY: _u16(count), TENSORS_KEY: i32(n_tensors)}


def _u16(value: int) -> Value:
    return Value(ValueType.UINT16, value)
