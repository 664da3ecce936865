"""Bit-level arithmetic of the kernels, against NumPy: all 65,536 halves, boundary and random floats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gguflow.blocks.bits import half_bits, half_value, nearest_int
from gguflow.kernels import bits
from gguflow.kernels.lanes import dot4, load, load_i32, load_u32, store, store_i32
from gguflow.kernels.matmul import halves
from gguflow.kernels.policy import kernel


@kernel
def nearest_ints(x: Any, lanes: Any, scalars: Any) -> None:
    for i in range(0, x.size, 16):
        store_i32(lanes, i, bits.nearest_int(load(x, i)))
    for i in range(x.size):
        scalars[i] = bits.nearest_int_scalar(x[i])


@kernel
def hardware_halves(patterns: Any, lanes: Any, scalars: Any) -> None:
    for i in range(0, lanes.size, 16):
        store(lanes, i, halves.load_halves(patterns, 2 * i))
    for i in range(scalars.size):
        scalars[i] = halves.load_half(patterns, 2 * i)


@kernel
def dots(start: Any, unsigned: Any, signed: Any, out: Any) -> None:
    for i in range(0, out.size, 16):
        store_i32(out, i, dot4(load_i32(start, i), load_u32(unsigned, 4 * i), load_u32(signed, 4 * i)))


def interesting_floats() -> NDArray[np.float32]:
    """Every half and its neighbours halfway, powers of two and what is beside them, random bit patterns; a
    multiple of 16.
    """
    rng = np.random.default_rng(0)
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    finite = np.unique(halves[np.isfinite(halves)])
    midpoints = (finite[:-1] + finite[1:]) / np.float32(2)
    edges = np.array(
        [
            65504,
            65519.996,
            65520,
            65536,
            1e30,
            np.inf,
            -np.inf,
            np.nan,
            2**-24,
            2**-25,
            2**-26,
            1e-45,
            0,
            -0.0,
        ],
        np.float32,
    )
    near = [np.nextafter(midpoints, np.float32(s), dtype=np.float32) for s in (np.inf, -np.inf)]
    random = rng.integers(0, 2**32, 1 << 20, np.uint32).view(np.float32)
    values = np.concatenate([halves, midpoints, *near, edges, -edges, random])
    return np.resize(values, values.size // 16 * 16 + 16)


@pytest.mark.parametrize("n", [None, 5], ids=["lanes", "scalars"])
def test_half_to_float(n: int | None) -> None:
    from gguflow.kernels import f16

    patterns = np.arange(65536, dtype=np.uint16)
    out = np.empty(65536, np.float32)
    for first in range(0, 65536, n or 65536):
        piece = patterns[first : first + (n or 65536)]
        f16.dequantize_blocks(piece.view(np.uint8), out[first : first + len(piece)])
    expected = patterns.view(np.float16).astype(np.float32)
    is_nan = np.isnan(expected)
    assert (out.view(np.uint32)[~is_nan] == expected.view(np.uint32)[~is_nan]).all()
    assert np.isnan(out[is_nan]).all()
    assert (out.view(np.uint32) == [np.asarray(half_value(int(p))).view(np.uint32) for p in patterns]).all()


def test_halves_by_the_processor() -> None:
    """Where it has no conversion of its own, this is the integer arithmetic again (test_machine_code.py
    runs both).
    """
    patterns = np.arange(65536, dtype=np.uint16)
    lanes, scalars = np.empty((2, 65536), np.float32)
    hardware_halves(patterns.view(np.uint8), lanes, scalars)
    expected = [np.asarray(half_value(int(p))).view(np.uint32) for p in patterns]
    assert (lanes.view(np.uint32) == expected).all()
    assert (scalars.view(np.uint32) == expected).all()


def test_dot4() -> None:
    """Random bytes, and the largest products of either sign."""
    rng = np.random.default_rng(4)
    unsigned = np.concatenate([rng.integers(0, 256, 1 << 16, np.uint8), np.full(128, 255, np.uint8)])
    signed = np.concatenate(
        [rng.integers(-128, 128, 1 << 16, np.int8), np.repeat(np.array([-128, 127], np.int8), 64)]
    )
    start = rng.integers(-(2**31), 2**31, unsigned.size // 4, np.int32)
    out = np.empty_like(start)
    dots(start, unsigned, signed.view(np.uint8), out)
    sums = (unsigned.astype(np.int64) * signed).reshape(-1, 4).sum(axis=1)
    assert (out == (start + sums).astype(np.int32)).all()


@pytest.mark.parametrize("n", [None, 5], ids=["lanes", "scalars"])
def test_float_to_half(n: int | None) -> None:
    from gguflow.kernels import f16

    x = interesting_floats() if n is None else np.ascontiguousarray(interesting_floats()[::97][:20000])
    out = np.empty(x.size, np.uint16)
    for first in range(0, x.size, n or x.size):
        f16.quantize_blocks(
            x[first : first + (n or x.size)], out[first : first + (n or x.size)].view(np.uint8)
        )
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16).view(np.uint16)
    expected[np.isnan(x)] = np.where(np.signbit(x[np.isnan(x)]), 0xFE00, 0x7E00)
    assert (out == expected).all()
    assert (out[::1009] == [half_bits(v) for v in x[::1009]]).all()


def test_nearest_int() -> None:
    rng = np.random.default_rng(1)
    ties = np.arange(-4096, 4096, dtype=np.float32) + np.float32(0.5)
    wide = rng.uniform(-(2**22) + 1, 2**22 - 1, 1 << 16).astype(np.float32)
    x = np.concatenate([ties, wide, np.array([np.inf, -np.inf, np.nan, 1e30] * 4, np.float32)])
    lanes, scalars = np.empty((2, x.size), np.int32)
    nearest_ints(x, lanes, scalars)
    assert (lanes == scalars).all()
    assert (lanes[:-16] == np.rint(x[:-16])).all()
    with np.errstate(invalid="ignore"):
        assert (lanes[-16:] == [nearest_int(v) for v in x[-16:]]).all()
