"""matmul against its twins: the dequantized matrix times x in float64, and, to the bit, the sums in their
stated order.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gguflow import packed_matmul
from gguflow.blocks import FORMATS, BlockFormat
from gguflow.errors import ShapeError, UnknownFormatError, UsageError
from gguflow.packed_matmul import FEW, SOME, matmul
from gguflow.quantization import dequantize, quantize

f32 = np.float32
Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

EVERY = [
    pytest.param(f, id=name)
    for name, f in FORMATS.items()
    if f.number_type is None or f.number_type.kind == "f"
]
FAST_NAMES = ("f32", "f16", "bf16", "q4_0", "q8_0", "q4_k", "q5_k", "q6_k", "iq4_xs", "mxfp4")
FAST = [pytest.param(FORMATS[name], id=name) for name in FAST_NAMES]
MANY = SOME + 3
TOLERANCE = 1e-5  # of the sum of |x w|


def test_the_formats_with_a_path_of_their_own() -> None:
    from gguflow.kernels import matmul as kernels

    assert {name for name in FORMATS if kernels.find(name)} == set(FAST_NAMES)


def packed_rows(block_format: BlockFormat, rows: int, n: int, highest: int = 60) -> Bytes:
    """Random bytes; below 60 they make finite weights in every format (of plain numbers: normal ones), up to
    256 NaN and infinity as well.
    """
    if block_format.block_size == 1 and highest < 256:
        return quantize(np.random.default_rng(rows + n).standard_normal((rows, n)), block_format)
    return np.random.default_rng(rows + n).integers(1, highest, (rows, block_format.row_bytes(n)), np.uint8)


def activations(*shape: int) -> Floats:
    return np.random.default_rng(5).standard_normal(shape).astype(f32)


def check_close(result: Floats, packed: Bytes, block_format: BlockFormat, x: NDArray[Any]) -> None:
    """Within TOLERANCE of the product in float64; and of half a denormal for each product, for those that are
    denormal themselves.
    """
    weights = dequantize(packed, block_format).astype(np.float64)
    wide = x.astype(f32).astype(np.float64)
    limit = TOLERANCE * (np.abs(wide) @ np.abs(weights).T) + x.shape[-1] * 2.0**-150
    assert result.dtype == f32
    assert result.shape == (*x.shape[:-1], len(packed))
    assert (np.abs(result - wide @ weights.T) <= limit).all()


def ordered_sums(packed: Bytes, block_format: BlockFormat, x: Floats) -> Floats:
    """The twin of the kernels: product i to partial sum i mod 32, then halves onto halves. x: float32[n] ->
    float32[rows].
    """
    with np.errstate(all="ignore"):
        weights = dequantize(packed, block_format).astype(f32)
        terms = weights * x
        terms = np.pad(terms, ((0, 0), (0, -terms.shape[1] % 32))).reshape(len(packed), -1, 32)
        sums = np.zeros((len(packed), 32), f32)
        for k in range(terms.shape[1]):
            sums = sums + terms[:, k]
        for half in (16, 8, 4, 2, 1):
            sums = sums[:, :half] + sums[:, half:]
    return sums[:, 0]


def lengths(block_format: BlockFormat) -> list[int]:
    """One block, an odd number of them, some; and of plain numbers, lengths that no vector divides."""
    return (
        [256, 768, 1024]
        if block_format.block_size == 256
        else [1, 31, 77, 512]
        if block_format.block_size == 1
        else [block_format.block_size * k for k in (1, 3, 8)]
    )


@pytest.mark.parametrize("block_format", EVERY)
def test_equals_the_product_in_float64(block_format: BlockFormat) -> None:
    for n, rows, shape in itertools.product(
        lengths(block_format), (1, 3, 37), ((), (1,), (FEW,), (SOME,), (MANY,), (2, 1, 5))
    ):
        packed, x = packed_rows(block_format, rows, n), activations(*shape, n)
        check_close(matmul(packed, block_format, x), packed, block_format, x)


@pytest.mark.parametrize("block_format", EVERY)
def test_sums_are_in_the_stated_order(block_format: BlockFormat) -> None:
    """To the bit, with random bytes: NaN and infinity come out where the dequantized product has them. From
    one vector to SOME.
    """
    for n in lengths(block_format):
        packed, x = packed_rows(block_format, 19, n, highest=256), activations(SOME, n)
        expected = np.stack([ordered_sums(packed, block_format, vector) for vector in x])
        for count in (1, FEW, FEW + 1, 4, 8, 9, SOME):
            np.testing.assert_array_equal(matmul(packed, block_format, x[:count]), expected[:count])


@pytest.mark.parametrize("block_format", EVERY)
def test_nan_and_infinity_propagate(block_format: BlockFormat) -> None:
    """Whatever the number of vectors, and with zeros among the activations: zero times infinity is NaN."""
    n = lengths(block_format)[-1]
    packed = packed_rows(block_format, 200, n, highest=256)
    x = activations(MANY, n)
    x[:, ::3] = 0
    x[1, 7], x[2, 7] = np.inf, np.nan
    with np.errstate(all="ignore"):
        weights = dequantize(packed, block_format).astype(f32)
        expected = np.stack([np.sum(weights.astype(np.float64) * vector, axis=1) for vector in x])
    bad = ~np.isfinite(expected)
    assert bad.any()
    for part in (slice(0, FEW), slice(0, SOME), slice(0, MANY)):
        result = matmul(packed, block_format, x[part])
        assert not np.isfinite(result[bad[part]]).any()
        np.testing.assert_array_equal(np.isnan(result[np.isnan(expected[part])]), True)


ACTIVATIONS = {
    "zeros": np.zeros((2, 512), f32),
    "negative zeros": np.full((2, 512), f32(-0.0)),
    "denormals": activations(2, 512) * f32(1e-40),
    "one not zero": np.eye(2, 512, 300, dtype=f32),
    "float16": activations(2, 512).astype(np.float16),
    "float64": activations(2, 512).astype(np.float64),
    "big-endian": activations(2, 512).astype(">f4"),
    "every other": activations(2, 1024)[:, ::2],
    "backwards": activations(2, 512)[:, ::-1],
    "transposed": activations(512, 2).T,
    "repeated": np.broadcast_to(activations(512), (MANY, 512)),
    "read-only": np.frombuffer(activations(512).tobytes(), f32),
    "list": activations(2, 512),
}


@pytest.mark.parametrize("block_format", FAST)
@pytest.mark.parametrize("x", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_activations(block_format: BlockFormat, x: NDArray[Any]) -> None:
    packed = packed_rows(block_format, 5, 512)
    check_close(matmul(packed, block_format, x), packed, block_format, x)


@pytest.mark.parametrize("count", [1, FEW, SOME, MANY])
@pytest.mark.parametrize("name", ["q4_k", "q8_0", "f32", "f64", "iq2_xs"])
def test_neither_threads_nor_pieces_change_a_bit(
    monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    packed, x = packed_rows(FORMATS[name], 101, 512), activations(count, 512)
    monkeypatch.setattr(packed_matmul, "TILE", 7 * 512)
    expected = matmul(packed, name, x)
    for threads, piece in itertools.product((1, 2, 3), (1, 5000, 1 << 20)):
        monkeypatch.setattr(packed_matmul, "PIECE", piece)
        np.testing.assert_array_equal(matmul(packed, name, x, threads=threads), expected)


@pytest.mark.parametrize("name", ["q4_k", "q4_1"])
@pytest.mark.parametrize("count", [1, SOME])
def test_the_tiles_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch, name: str, count: int) -> None:
    packed, x = packed_rows(FORMATS[name], 50, 512), activations(count, 512)
    expected = matmul(packed, name, x)
    monkeypatch.setattr(packed_matmul, "TILE", 1)
    np.testing.assert_array_equal(matmul(packed, name, x), expected)


def test_a_mapped_file_is_read_in_place(tmp_path: Path) -> None:
    packed = packed_rows(FORMATS["q8_0"], 9, 64)
    path = tmp_path / "blocks"
    path.write_bytes(b"odd" + packed.tobytes())
    mapped = np.memmap(path, np.uint8, "r", 3, packed.shape)
    x = activations(64)
    np.testing.assert_array_equal(matmul(mapped, "q8_0", x), matmul(packed, "q8_0", x))


@pytest.mark.parametrize("count", [1, MANY])
def test_out_is_filled(count: int) -> None:
    packed, x = packed_rows(FORMATS["q4_k"], 9, 256), activations(count, 256)
    out = np.full((count, 9), f32(np.nan))
    assert matmul(packed, "Q4_K", x, out=out) is out
    np.testing.assert_array_equal(out, matmul(packed, "q4_k", x))


@pytest.mark.parametrize("count", [1, MANY])
def test_out_may_be_x_itself(count: int) -> None:
    packed, x = packed_rows(FORMATS["q8_0"], 32, 32), activations(count, 32)
    expected = matmul(packed, "q8_0", x)
    np.testing.assert_array_equal(matmul(packed, "q8_0", x, out=x), expected)


EMPTY = {
    "no rows": ((0, 144), (2, 256), (2, 0)),
    "no weights": ((3, 0), (2, 0), (2, 3)),
    "no vectors": ((3, 144), (0, 256), (0, 3)),
}


@pytest.mark.parametrize(("packed", "x", "expected"), EMPTY.values(), ids=EMPTY)
def test_nothing_times_nothing(
    packed: tuple[int, int], x: tuple[int, int], expected: tuple[int, int]
) -> None:
    result = matmul(np.zeros(packed, np.uint8), "q4_k", np.ones(x, f32))
    assert result.shape == expected
    assert not result.any()


BLOCKS = np.zeros((3, 144), np.uint8)
X = np.zeros(256, f32)
ERRORS: dict[str, tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = {
    "unknown format": ((BLOCKS, "q9_9", X), {}, UnknownFormatError, "q9_9"),
    "integers": ((BLOCKS, "i32", X), {}, UsageError, "I32 stores integers"),
    "packed is not uint8": ((BLOCKS.view(np.int8), "q4_k", X), {}, ShapeError, r"not int8\[3, 144\]"),
    "packed is flat": ((BLOCKS[0], "q4_k", X), {}, ShapeError, r"not uint8\[144\]"),
    "packed is a list": (([[0]], "q4_k", X), {}, ShapeError, "not list"),
    "packed has strides": ((np.zeros((6, 144), np.uint8)[::2], "q4_k", X), {}, ShapeError, "C-contiguous"),
    "part of a block": (
        (np.zeros((3, 100), np.uint8), "q4_k", X),
        {},
        ShapeError,
        "a row of 100 bytes does not divide into Q4_K blocks of 144",
    ),
    "x too short": ((BLOCKS, "q4_k", X[:-1]), {}, ShapeError, r"takes x\[..., 256\], not x\[255\]"),
    "x is a scalar": ((BLOCKS, "q4_k", f32(1)), {}, ShapeError, r"not x\[\]"),
    "x holds integers": ((BLOCKS, "q4_k", X.astype(np.int32)), {}, ShapeError, "not int32"),
    "x holds complex numbers": ((BLOCKS, "q4_k", X.astype(np.complex64)), {}, ShapeError, "not complex64"),
    "out of another shape": (
        (BLOCKS, "q4_k", X),
        {"out": np.zeros(4, f32)},
        ShapeError,
        r"float32\[3\], not float32\[4\]",
    ),
    "out of another type": ((BLOCKS, "q4_k", X), {"out": np.zeros(3)}, ShapeError, "not float64"),
    "no threads": ((BLOCKS, "q4_k", X), {"threads": 0}, UsageError, "threads must be an integer from 1"),
}


@pytest.mark.parametrize(("arguments", "options", "error", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        matmul(*arguments, **options)
