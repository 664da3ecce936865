"""The plain numbers that pass through unchanged: I8, I16, I32, I64, F64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gguflow.blocks import FORMATS, BlockFormat
from gguflow.errors import NonFiniteError, ShapeError
from gguflow.quantization import dequantize, quantize

UNCHANGED = ["i8", "i16", "i32", "i64", "f64"]
INTEGERS = UNCHANGED[:-1]


def extremes(dtype: np.dtype[Any]) -> list[Any]:
    if dtype.kind == "i":
        return [np.iinfo(dtype).min, -1, 0, 1, np.iinfo(dtype).max]
    return [-1.7976931348623157e308, -0.0, 5e-324, 0.1, 1.7976931348623157e308]


@pytest.mark.parametrize("name", UNCHANGED)
def test_bytes_are_those_of_the_numbers(name: str) -> None:
    block_format = FORMATS[name]
    dtype = block_format.number_type
    assert dtype is not None and block_format.type_size == dtype.itemsize
    x = np.array([extremes(dtype), extremes(dtype)[::-1]], dtype)
    packed = quantize(x, name)
    assert packed.dtype == np.uint8 and packed.shape == (2, 5 * dtype.itemsize)
    assert packed.tobytes() == x.astype(dtype.newbyteorder("<")).tobytes()
    back = dequantize(packed, name)
    assert back.dtype == dtype and back.tobytes() == x.tobytes()


@pytest.mark.parametrize("name", UNCHANGED)
def test_reference_agrees(name: str) -> None:
    block_format = FORMATS[name]
    assert block_format.number_type is not None
    x = np.array(extremes(block_format.number_type), block_format.number_type)
    packed = b"".join(
        block_format.grammar.build(block_format.encode_block(x[i : i + 1], None)) for i in range(len(x))
    )
    assert packed == quantize(x, name).tobytes()
    size = block_format.type_size
    for i, value in enumerate(x):
        decoded = block_format.decode_block(block_format.grammar.parse(packed[i * size : (i + 1) * size]))
        assert decoded.dtype == block_format.number_type and decoded.tobytes() == value.tobytes()


@pytest.mark.parametrize("name", UNCHANGED)
def test_strides_and_out(name: str) -> None:
    dtype = FORMATS[name].number_type
    x = np.arange(48).reshape(4, 12).astype(dtype)
    out = np.empty((4, 6 * FORMATS[name].type_size), np.uint8)
    assert quantize(x[:, ::2], name, out=out) is out
    assert (dequantize(out, name) == x[:, ::2]).all()
    assert quantize(np.empty((0, 3), dtype), name).shape == (0, 3 * FORMATS[name].type_size)
    assert quantize(np.empty((3, 0), dtype), name).shape == (3, 0)


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("dtype", ["float32", "uint8", "int8", "int64"])
def test_integers_take_only_their_own_type(name: str, dtype: str) -> None:
    """No silent wrapping, rounding or reinterpretation."""
    x = np.ones((2, 4), dtype)
    if FORMATS[name].number_type == x.dtype:
        assert (dequantize(quantize(x, name), name) == 1).all()
    else:
        with pytest.raises(ShapeError, match=f"not {dtype}"):
            quantize(x, name)


@pytest.mark.parametrize("name", ["i16", "i32", "i64", "f64"])
def test_a_row_of_bytes_must_divide(name: str) -> None:
    with pytest.raises(ShapeError, match="does not divide"):
        dequantize(np.zeros((2, FORMATS[name].type_size * 3 - 1), np.uint8), name)


@pytest.mark.parametrize("name", ["i16", "i32", "i64"])
def test_big_endian_integers_become_little_endian(name: str) -> None:
    dtype = FORMATS[name].number_type
    assert dtype is not None
    x = np.array([1, 2, -3], dtype.newbyteorder(">"))
    assert quantize(x, name).tobytes() == x.astype(dtype).tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_f64_refuses_what_is_not_finite(bad: float) -> None:
    x = np.ones((3, 4))
    x[1, 2] = x[2, 0] = bad
    with pytest.raises(NonFiniteError, match=r"at index \[1, 2\]") as caught:
        quantize(x, "f64")
    assert caught.value.index == 6


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_f64_takes_narrower_floats(dtype: str) -> None:
    x = np.array([[0.1, -65504]], dtype)
    assert (dequantize(quantize(x, "f64"), "f64") == x.astype(np.float64)).all()


def test_layout_of_a_known_block() -> None:
    formats: list[tuple[BlockFormat, Any, bytes]] = [
        (FORMATS["i16"], -2, b"\xfe\xff"),
        (FORMATS["i32"], 0x01020304, b"\x04\x03\x02\x01"),
        (FORMATS["f64"], 1.0, b"\0\0\0\0\0\0\xf0\x3f"),
    ]
    for block_format, value, packed in formats:
        assert quantize(np.array([value], block_format.number_type), block_format).tobytes() == packed
