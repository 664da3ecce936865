"""GGUF files for tests: what is in one, and one of a single tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gguflow.blocks import FORMATS, BlockFormat, by_id
from gguflow.cli.inspect import inspect_file
from gguflow.container.header import TensorInfo, align
from gguflow.container.metadata import Metadata, string
from gguflow.container.writer import build


def tensors_of(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every tensor of a GGUF file: format, NumPy shape, bytes."""
    header = inspect_file(path)
    data = path.read_bytes()
    found = {}
    for tensor in header.tensors:
        block_format = by_id(tensor.type_id)
        assert block_format is not None
        start = header.data_offset + tensor.offset
        nbytes = tensor.n_weights // block_format.block_size * block_format.type_size
        found[tensor.name] = (block_format.key, tensor.shape, data[start : start + nbytes])
    return found


def one_tensor(path: Path, block_format: BlockFormat, shape: tuple[int, ...], content: bytes) -> Path:
    header = build(
        {"general.architecture": string("gguflow-test")}, [TensorInfo("t", shape[::-1], block_format.id, 0)]
    )
    path.write_bytes(header + content.ljust(align(len(content), 32), b"\0"))
    return path


def array_file(path: Path, metadata: Metadata, tensors: dict[str, np.ndarray[Any, Any]]) -> Path:
    """A GGUF file of float32, float16, float64 and integer arrays."""
    names = {
        "float32": "f32",
        "float16": "f16",
        "float64": "f64",
        "int8": "i8",
        "int16": "i16",
        "int32": "i32",
        "int64": "i64",
    }
    infos, data = [], b""
    for name, x in tensors.items():
        infos.append(TensorInfo(name, x.shape[::-1], FORMATS[names[x.dtype.name]].id, len(data)))
        data += x.tobytes() + bytes(-x.nbytes % 32)
    path.write_bytes(build(metadata, infos) + data)
    return path
