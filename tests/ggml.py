"""The third party: ggml itself, out of the xllamacpp wheel, through ctypes."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguflow.blocks import BlockFormat


class _TypeTraits(ctypes.Structure):
    """The head of `struct ggml_type_traits` (ggml.h)."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


@functools.cache
def library() -> Any:
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("the tests need the xllamacpp wheel: pip install -e '.[test]'")
    ggml = ctypes.CDLL(str(pathlib.Path(spec.submodule_search_locations[0]) / "xllamacpp.abi3.so"))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]
    ggml.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
    ggml.ggml_get_type_traits.argtypes = [ctypes.c_int]
    ggml.ggml_quantize_init.argtypes = [ctypes.c_int]
    return ggml


def quantize(x: NDArray[np.float32], block_format: BlockFormat, importance: NDArray[np.float32] | None = None) -> NDArray[np.uint8]:
    """x float32[rows, n] -> uint8[rows, row_bytes] by ggml_quantize_chunk."""
    x = np.ascontiguousarray(x, np.float32)
    out = np.zeros((x.shape[0], block_format.row_bytes(x.shape[1])), np.uint8)
    weights = None if importance is None else np.ascontiguousarray(importance, np.float32)
    pointer = None if weights is None else weights.ctypes.data
    written = library().ggml_quantize_chunk(block_format.id, x.ctypes.data, out.ctypes.data, 0, *x.shape, pointer)
    if written != out.nbytes:
        raise RuntimeError(f"ggml wrote {written} bytes of {block_format.name}, expected {out.nbytes}")
    return out


def dequantize(packed: NDArray[np.uint8], block_format: BlockFormat) -> NDArray[np.float32]:
    """uint8[rows, row_bytes] -> float32[rows, n] by the to_float of ggml's type traits."""
    packed = np.ascontiguousarray(packed)
    out = np.empty((packed.shape[0], packed.shape[1] // block_format.type_size * block_format.block_size), np.float32)
    library().ggml_get_type_traits(block_format.id).contents.to_float(packed.ctypes.data, out.ctypes.data, out.size)
    return out
