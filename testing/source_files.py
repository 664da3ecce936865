"""Safetensors files and checkpoint directories for tests, built byte by byte: valid ones, and exactly as
broken as a case asks for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = {
    "float32": "F32",
    "float16": "F16",
    "float64": "F64",
    "int64": "I64",
    "int32": "I32",
    "bool": "BOOL",
    "uint8": "U8",
}


def entry(
    dtype: str = "F32", shape: object = (2, 2), data_offsets: object = (0, 16), **more: object
) -> dict[str, object]:
    """One tensor of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": data_offsets, **more}


def file_bytes(header: object, data: bytes = b"") -> bytes:
    """A file around a header: an object that becomes JSON, or the JSON text itself."""
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(content).to_bytes(8, "little") + content + data


def safetensors_bytes(
    tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """A valid file with these tensors, in this order."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for name, array in tensors.items():
        header[name] = entry(DTYPES[array.dtype.name], array.shape, (len(data), len(data) + array.nbytes))
        data += array.tobytes()
    return file_bytes(header, data)


def weights(*names: str) -> dict[str, NDArray[Any]]:
    """Small F32 matrices, every one different."""
    return {name: np.arange(8, dtype=np.float32).reshape(2, 4) + 100 * i for i, name in enumerate(names)}


def write_checkpoint(
    directory: Path,
    shards: Mapping[str, Mapping[str, NDArray[Any]]],
    index: Mapping[str, str] | None = None,
    config: object = (),
) -> Path:
    """A checkpoint directory: files of tensors, an index (tensor -> shard) where one is given, a config ({}
    unless told; None for none).
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, tensors in shards.items():
        (directory / name).write_bytes(safetensors_bytes(tensors))
    if index is not None:
        (directory / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {"total_size": 0}, "weight_map": index})
        )
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config or {}))
    return directory
