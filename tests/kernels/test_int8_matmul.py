"""matmul with activations of eight bits: their rounding against a scalar reference, the integer products
against float64, and both against ggml.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from gguflow import packed_matmul
from gguflow.blocks import FORMATS, BlockFormat
from gguflow.blocks.bits import half_value, nearest_int
from gguflow.blocks.q8_0 import encode_block
from gguflow.errors import NonFiniteError, UsageError
from gguflow.kernels import matmul as kernels
from gguflow.packed_matmul import FEW, SOME, EightBits, matmul
from gguflow.quantization import dequantize
from testing import ggml
from testing.cases import adversarial

f32 = np.float32
Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Reference = Callable[[Floats], tuple[np.float32, list[int]]]

INTEGER_PRODUCTS = ("q4_0", "q8_0", "q4_k", "q5_k", "q6_k", "iq4_xs", "mxfp4")
OTHERS = ("q5_1", "nvfp4", "q2_k", "iq3_s", "tq2_0", "q1_0")
TOLERANCE = 1e-5  # of the sum of |x w|


def rows_of(name: str, rows: int, n: int) -> Bytes:
    """Random bytes that make finite weights in every format."""
    return np.random.default_rng(rows + n).integers(1, 60, (rows, FORMATS[name].row_bytes(n)), np.uint8)


def activations(*shape: int) -> Floats:
    return np.random.default_rng(5).standard_normal(shape).astype(f32)


def q8_k(x: Floats) -> tuple[np.float32, list[int]]:
    """The scale and the codes of 256 activations: the twin of `int8.quantize_q8_k`."""
    peak = x[np.argmax(np.abs(x))]
    with np.errstate(all="ignore"):
        inverse = f32(-127) / peak
    if np.isinf(inverse):
        return f32(0), [0] * 256
    return f32(1) / inverse, [min(nearest_int(inverse * v), 127) for v in x]


def q8_0(x: Floats) -> tuple[np.float32, list[int]]:
    fields = encode_block(x)
    return half_value(fields["d"]), fields["qs"]


@pytest.mark.parametrize(
    ("name", "size", "reference"),
    [("q4_0", 32, q8_0), ("nvfp4", 32, q8_0), ("q4_k", 256, q8_k), ("tq2_0", 256, q8_k)],
)
@pytest.mark.parametrize("x", adversarial(512).values(), ids=adversarial(512))
def test_activations_are_rounded_like_the_reference(
    name: str, size: int, reference: Reference, x: Floats
) -> None:
    with np.errstate(over="ignore"):
        found = EightBits.of(x[np.newaxis], FORMATS[name])
        expected = [reference(part) for part in x.reshape(-1, size)]
    assert found.block_size == size
    assert found.scales[0, : 512 // size].tolist() == [scale for scale, _ in expected]
    assert found.codes[0, :512].view(np.int8).tolist() == [code for _, codes in expected for code in codes]
    assert not found.codes[0, 512:].any()
    assert not found.scales[0, 512 // size :].any()


@pytest.mark.parametrize("name", INTEGER_PRODUCTS + OTHERS)
def test_equals_the_product_of_rounded_activations(name: str) -> None:
    """Which differs from that of the activations themselves."""
    block_format = FORMATS[name]
    for blocks, rows, count in itertools.product((1, 3, 8), (1, 37), (1, FEW, SOME, SOME + 3)):
        n = blocks * block_format.block_size
        packed, x = rows_of(name, rows, n), activations(count, n)
        result = matmul(packed, name, x, activations="int8")
        rounded = EightBits.of(x, block_format).as_floats(x.shape).astype(np.float64)
        weights = dequantize(packed, block_format).astype(np.float64)
        assert result.dtype == f32
        assert (
            np.abs(result - rounded @ weights.T) <= TOLERANCE * (np.abs(rounded) @ np.abs(weights).T)
        ).all()
        assert (np.abs(rounded - x) <= np.abs(x).max() / 100).all()
        assert (result != matmul(packed, name, x)).any()


@pytest.mark.parametrize("name", INTEGER_PRODUCTS)
def test_every_code(name: str) -> None:
    """All bytes but those of the scales at random, activations at the ends of their codes: no sum may
    overflow.
    """
    block_format = FORMATS[name]
    n = 4 * block_format.block_size
    packed = np.random.default_rng(6).integers(0, 256, (64, block_format.row_bytes(n)), np.uint8)
    blocks = packed.view(block_format.dtype)
    for field in {"d", "dmin"} & set(block_format.dtype.names or ()):
        blocks[field] = 0x3C00
    if name == "mxfp4":
        blocks["e"] = 127
    x = np.where(np.random.default_rng(7).random(n) < 0.5, f32(-1), f32(1))
    weights = dequantize(packed, block_format).astype(np.float64)
    rounded = EightBits.of(x[np.newaxis], block_format).as_floats((1, n))[0].astype(np.float64)
    result = matmul(packed, name, x, activations="int8")
    assert (np.abs(result - weights @ rounded) <= TOLERANCE * (np.abs(weights) @ np.abs(rounded))).all()


def from_ggml(packed: Bytes, n: int, block_format: BlockFormat) -> EightBits:
    """ggml's activations (`block_q8_0`, `block_q8_K`) as ours."""
    size = 256 if block_format.block_size == 256 else 32
    dtype = np.dtype(
        [("d", "<f4"), ("qs", "i1", 256), ("bsums", "<i2", 16)]
        if size == 256
        else [("d", "<f2"), ("qs", "i1", 32)]
    )
    blocks = packed[: n // size * dtype.itemsize].view(dtype)
    codes, scales = np.zeros((1, n + 32), np.uint8), np.zeros((1, n // size + 32), f32)
    codes[0, :n], scales[0, : n // size] = blocks["qs"].reshape(-1).view(np.uint8), blocks["d"]
    return EightBits(codes, scales, size)


@pytest.mark.parametrize("name", INTEGER_PRODUCTS)
def test_equals_ggml(name: str) -> None:
    """Its vec_dot on its own activations: the same integers, other rounding of sums. And the activations: a
    tie may be rounded elsewhere.
    """
    block_format = FORMATS[name]
    n = 1024
    packed, x = rows_of(name, 37, n), activations(n)
    theirs = ggml.activations(x, block_format)
    eight_bits = from_ggml(theirs, n, block_format)
    kernel = kernels.find(name)
    assert kernel is not None
    result = np.empty(37, f32)
    kernel.dot_rows_int8(packed.reshape(-1), eight_bits.codes[0], eight_bits.scales[0], result)
    limit = TOLERANCE * (np.abs(dequantize(packed, name)) @ np.abs(x))
    assert (np.abs(result - ggml.vec_dot(packed, block_format, theirs)) <= limit).all()
    ours = EightBits.of(x[np.newaxis], block_format)
    np.testing.assert_array_equal(ours.scales, eight_bits.scales)
    difference = ours.codes.view(np.int8).astype(int) - eight_bits.codes.view(np.int8)
    assert np.abs(difference).max() <= 1
    assert np.count_nonzero(difference) <= (0 if block_format.block_size == 256 else n // 500)


@pytest.mark.parametrize("name", ["f32", "f16", "bf16", "f64"])
def test_plain_numbers_meet_activations_as_they_are(name: str) -> None:
    x = activations(2, 64)
    packed = np.random.default_rng(8).integers(1, 60, (5, FORMATS[name].row_bytes(64)), np.uint8)
    np.testing.assert_array_equal(matmul(packed, name, x, activations="int8"), matmul(packed, name, x))


@pytest.mark.parametrize("name", ["q8_0", "q4_k"])
def test_neither_threads_nor_pieces_change_a_bit(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    packed, x = rows_of(name, 101, 512), activations(FEW, 512)
    expected = matmul(packed, name, x, activations="int8")
    monkeypatch.setattr(packed_matmul, "TILE", 7 * 512)
    for threads, piece in itertools.product((1, 2, 3), (1, 5000, 1 << 20)):
        monkeypatch.setattr(packed_matmul, "PIECE", piece)
        np.testing.assert_array_equal(matmul(packed, name, x, activations="int8", threads=threads), expected)


@pytest.mark.parametrize("scale", [0x7C00, 0xFC00, 0x7E00], ids=["infinity", "minus infinity", "nan"])
@pytest.mark.parametrize("name", [name for name in INTEGER_PRODUCTS if name != "mxfp4"])
def test_scales_that_are_not_finite_propagate(name: str, scale: int) -> None:
    packed = rows_of(name, 3, 768)
    packed.view(FORMATS[name].dtype)["d"][1, -1] = scale
    for x in (activations(768), np.zeros(768, f32)):
        result = matmul(packed, name, x, activations="int8")
        assert np.isfinite(result).tolist() == [True, False, True]


@pytest.mark.parametrize("name", INTEGER_PRODUCTS + OTHERS)
def test_zeros_give_zero(name: str) -> None:
    assert not matmul(rows_of(name, 3, 768), name, np.zeros(768, f32), activations="int8").any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["q8_0", "q4_k", "iq3_s"])
def test_what_is_not_finite_is_refused(name: str, bad: float) -> None:
    x = activations(3, 256)
    x[1, 7] = bad
    with pytest.raises(NonFiniteError, match="at weight 7 of vector 1") as caught:
        matmul(rows_of(name, 2, 256), name, x, activations="int8")
    assert caught.value.index == 256 + 7


def test_other_activations_are_refused() -> None:
    with pytest.raises(UsageError, match="float32 or int8, not 'int4'"):
        matmul(rows_of("q8_0", 2, 32), "q8_0", activations(32), activations="int4")
