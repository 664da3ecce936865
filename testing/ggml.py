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


VecDot = ctypes.CFUNCTYPE(
    None,
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
)
"""(n, result, -, packed row, -, activations as vec_dot_type, -, 1): `ggml_vec_dot_t` (ggml-cpu.h)."""


class CpuTraits(ctypes.Structure):
    """`struct ggml_type_traits_cpu` (ggml-cpu.h)."""

    _fields_ = (
        ("from_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("vec_dot", VecDot),
        ("vec_dot_type", ctypes.c_int),
        ("nrows", ctypes.c_int64),
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
    ggml.ggml_get_type_traits_cpu.restype = ctypes.POINTER(CpuTraits)
    ggml.ggml_get_type_traits_cpu.argtypes = [ctypes.c_int]
    ggml.ggml_cpu_init()
    return ggml


def quantize(
    x: NDArray[np.float32], block_format: BlockFormat, importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """x float32[rows, n] -> uint8[rows, row_bytes] by ggml_quantize_chunk."""
    x = np.ascontiguousarray(x, np.float32)
    out = np.zeros((x.shape[0], block_format.row_bytes(x.shape[1])), np.uint8)
    weights = None if importance is None else np.ascontiguousarray(importance, np.float32)
    pointer = None if weights is None else weights.ctypes.data
    written = library().ggml_quantize_chunk(
        block_format.id, x.ctypes.data, out.ctypes.data, 0, *x.shape, pointer
    )
    if written != out.nbytes:
        raise RuntimeError(f"ggml wrote {written} bytes of {block_format.name}, expected {out.nbytes}")
    return out


def dequantize(packed: NDArray[np.uint8], block_format: BlockFormat) -> NDArray[np.float32]:
    """uint8[rows, row_bytes] -> float32[rows, n] by the to_float of ggml's type traits."""
    packed = np.ascontiguousarray(packed)
    out = np.empty(
        (packed.shape[0], packed.shape[1] // block_format.type_size * block_format.block_size), np.float32
    )
    library().ggml_get_type_traits(block_format.id).contents.to_float(
        packed.ctypes.data, out.ctypes.data, out.size
    )
    return out


def cpu_traits(block_format: BlockFormat) -> CpuTraits:
    """How ggml's processor backend multiplies rows of this format."""
    traits: CpuTraits = library().ggml_get_type_traits_cpu(block_format.id).contents
    return traits


def activations(x: NDArray[np.float32], block_format: BlockFormat) -> NDArray[np.uint8]:
    """float32[n] in the format in which ggml multiplies activations with this one: its bytes, with room
    behind them.
    """
    packed = np.zeros(x.size * 5, np.uint8)
    kind = cpu_traits(block_format).vec_dot_type
    library().ggml_get_type_traits_cpu(kind).contents.from_float(x.ctypes.data, packed.ctypes.data, x.size)
    return packed


def vec_dot(
    packed: NDArray[np.uint8], block_format: BlockFormat, x: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """uint8[rows, row_bytes] times the bytes of `activations` -> float32[rows], row by row."""
    n = packed.shape[1] // block_format.type_size * block_format.block_size
    out = np.zeros(len(packed), np.float32)
    for i in range(len(packed)):
        cpu_traits(block_format).vec_dot(
            n, out[i:].ctypes.data, 0, packed[i].ctypes.data, 0, x.ctypes.data, 0, 1
        )
    return out
