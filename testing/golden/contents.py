"""The numbers of a checkpoint's tensors: a function of a tensor's name, shape and number type alone.

They come from integer arithmetic of our own (splitmix64), and from exact operations on float64, so that they
are the same for every version of NumPy and on every machine.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOATS = ("BF16", "F16", "F32")
"""The number types in which each checkpoint is written."""

_INTEGERS = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "u1"}
_FP8 = ("F8_E4M3", "F8_E5M2", "F8_E8M0")

FILLS = ("random", "zeros", "ones", "arange")

_BIG = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def values(
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    fill: str = "random",
    low: int | None = None,
    high: int | None = None,
) -> bytes:
    """A tensor's little-endian bytes, in row-major order.

    name: decides the numbers; a norm's weights are around 1, everything else is around 0.
    shape: any.
    dtype: of safetensors.
    fill: one of `FILLS`.
    low, high: bounds of random integers (and of the codes of 8-bit numbers), high not included.
    """
    n = int(np.prod(shape, dtype=np.int64))
    if dtype in FLOATS:
        return _encoded(_floats(name, n, fill, is_norm=_is_norm(name, shape)), dtype)
    if dtype not in _INTEGERS and dtype not in _FP8:
        raise ValueError(f"{name}: no numbers of type {dtype}")
    if fill == "random":
        first, end = _bounds(dtype, low, high)
        drawn = (_bits(name, n) >> np.uint64(33)) % np.uint64(end - first)
        integers = drawn.astype(np.int64) + first
    elif fill == "arange":
        integers = np.arange(n, dtype=np.int64)
    else:
        integers = np.full(n, int(fill == "ones"), np.int64)
    return integers.astype(_INTEGERS.get(dtype, "u1")).tobytes()


def bf16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounded to the nearest bfloat16 (ties to even), as bit patterns; x is finite."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + np.uint64(0x7FFF) + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return rounded.astype(np.uint16)


def _encoded(x: NDArray[np.float32], dtype: str) -> bytes:
    array: NDArray[Any] = bf16(x) if dtype == "BF16" else x.astype("<f2" if dtype == "F16" else "<f4")
    return array.tobytes()


def _floats(name: str, n: int, fill: str, *, is_norm: bool) -> NDArray[np.float32]:
    """Multiples of 2^-24 between -2 and 2; a few zeros of both signs, and a few that F16 has as subnormal
    numbers only.
    """
    if fill != "random":
        return np.arange(n, dtype=np.float32) if fill == "arange" else np.full(n, fill == "ones", np.float32)
    bits = _bits(name, n)
    unit = (bits >> np.uint64(40)).astype(np.float64) * 2.0**-24 - 0.5
    if is_norm:
        return (1.0 + unit * 0.5).astype(np.float32)
    choice = bits & np.uint64(0xFF)
    x = np.where(choice < np.uint64(16), unit * 4.0, unit * 0.375)
    x = np.where(choice == np.uint64(0xFF), unit * 2.0**-14, x)
    x = np.where(choice == np.uint64(0xFE), 0.0, x)
    x = np.where(choice == np.uint64(0xFD), -0.0, x)
    return x.astype(np.float32)


def _is_norm(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor multiplies what has been normalized."""
    return len(shape) == 1 and not name.endswith("bias") and ("norm" in name.lower() or "ln_" in name)


def _bounds(dtype: str, low: int | None, high: int | None) -> tuple[int, int]:
    """Of random codes: small integers; of 8-bit numbers what is finite and of moderate size."""
    first, end = {
        "U8": (0, 256),
        "BOOL": (0, 2),
        "F8_E4M3": (0x20, 0x48),
        "F8_E5M2": (0x30, 0x42),
        "F8_E8M0": (120, 130),
    }.get(dtype, (0, 7))
    return first if low is None else low, end if high is None else high


def _bits(name: str, n: int) -> NDArray[np.uint64]:
    """n numbers of splitmix64, seeded by the CRC-32 of the name."""
    seed = np.uint64(zlib.crc32(name.encode()))
    with np.errstate(over="ignore"):
        x = (np.arange(1, n + 1, dtype=np.uint64) + (seed << np.uint64(32))) * _BIG
        x = (x ^ (x >> np.uint64(30))) * _FIRST
        x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))
