"""One suite for all block formats: layout, reference, kernel and ggml agree to the bit.

A new format is picked up by being there; it adds cases only where it is peculiar.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from gguflow.blocks import FORMATS, BlockFormat
from gguflow.errors import NonFiniteError, ShapeError, UsageError
from gguflow.quantization import SMALLEST_PIECE, dequantize, quantize
from testing import ggml
from testing.cases import adversarial, importances
from testing.encoding import assert_same_bytes, reference_encode


def formats(wanted: Callable[[BlockFormat], bool]) -> pytest.MarkDecorator:
    """Parametrize a test over the formats that `wanted` admits, named in its ids."""
    chosen = {name: f for name, f in FORMATS.items() if wanted(f)}
    return pytest.mark.parametrize("block_format", chosen.values(), ids=chosen)


def holds_floats(block_format: BlockFormat) -> bool:
    return block_format.number_type is None or block_format.number_type.name in ("float32", "float16")


all_formats = formats(lambda f: True)
float_formats = formats(holds_floats)
ggml_formats = formats(lambda f: holds_floats(f) and f.name != "F32")  # ggml has no conversion for F32
weighted_formats = formats(lambda f: f.importance != "unused")


GGML_STOPS = {"near float max": ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")}
"""Rows on which ggml's encoder ends the process: error weights overflow, and it asserts that some neighbour
is at a finite distance.

We take the first neighbour there; that reference and kernel agree on it is tested like everything else."""


def default_importance(block_format: BlockFormat, n: int) -> NDArray[np.float32] | None:
    """What to pass where a format cannot do without."""
    return importances(n)["random"] if block_format.importance == "required" else None


def generator(block_format: BlockFormat) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(block_format.name.encode()))


def random_blocks(block_format: BlockFormat, n: int) -> NDArray[np.uint8]:
    """uint8[n, type_size], any bytes: NaN, Inf and denormal scales come by themselves."""
    return generator(block_format).integers(0, 256, (n, block_format.type_size), np.uint8)


def assert_same_floats(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> None:
    """Equal to the bit, NaN included: any NaN equals any NaN."""
    same = (ours.view(np.uint32) == theirs.view(np.uint32)) | (np.isnan(ours) & np.isnan(theirs))
    bad = np.flatnonzero(~same)
    if bad.size:
        i = int(bad[0])
        pytest.fail(
            f"{bad.size} of {ours.size} weights differ; the first is {i}: {ours.flat[i]!r} != "
            f"{theirs.flat[i]!r}"
        )


@all_formats
def test_layout_is_declared_once(block_format: BlockFormat) -> None:
    """Grammar and dtype: the same fields in the same order, the same bytes; whatever the grammar parses it
    builds again.
    """
    assert block_format.dtype.itemsize == block_format.grammar.sizeof() == block_format.type_size
    names = [sub.name for sub in block_format.grammar.subcons]
    assert names == list(block_format.dtype.names or ())
    for block in random_blocks(block_format, 20):
        parsed = block_format.grammar.parse(bytes(block))
        if block_format.number_type is None or not np.isnan(block.view(block_format.number_type)).any():
            assert block_format.grammar.build(parsed) == bytes(block)


@float_formats
def test_decode_reference_equals_kernel(block_format: BlockFormat) -> None:
    packed = random_blocks(block_format, 24)
    with np.errstate(all="ignore"):
        expected = np.concatenate(
            [block_format.decode_block(block_format.grammar.parse(bytes(block))) for block in packed]
        )
    assert_same_floats(dequantize(packed.reshape(1, -1), block_format)[0], expected.astype(np.float32))


@ggml_formats
def test_decode_equals_ggml(block_format: BlockFormat) -> None:
    packed = random_blocks(block_format, 1024).reshape(1, -1)
    assert_same_floats(dequantize(packed, block_format), ggml.dequantize(packed, block_format))


@float_formats
def test_encode_reference_equals_kernel(block_format: BlockFormat) -> None:
    n = max(block_format.block_size, 32)
    for name, row in adversarial(n).items():
        importance = default_importance(block_format, n)
        expected = reference_encode(block_format, row, importance)
        ours = quantize(row, block_format, importance, allow_non_finite=True)
        assert (ours == expected).all(), name


@ggml_formats
def test_encode_equals_ggml_on_adversarial_rows(block_format: BlockFormat) -> None:
    n = 512
    rows = adversarial(n)
    importance = default_importance(block_format, n)
    for name, row in rows.items():
        if block_format.name in GGML_STOPS.get(name, ()):
            continue
        ours = quantize(row[None], block_format, importance, allow_non_finite=True)
        theirs = ggml.quantize(row[None], block_format, importance)
        assert (ours == theirs).all(), name


@ggml_formats
@pytest.mark.parametrize("distribution", ["gaussian", "student"])
def test_encode_equals_ggml_on_random_rows(block_format: BlockFormat, distribution: str) -> None:
    rng = generator(block_format)
    shape = (64, 1536)
    x = (rng.standard_normal(shape) if distribution == "gaussian" else rng.standard_t(3, shape)).astype(
        np.float32
    ) * np.float32(0.02)
    importance = default_importance(block_format, shape[1])
    assert_same_bytes(
        quantize(x, block_format, importance), ggml.quantize(x, block_format, importance), block_format
    )


@weighted_formats
def test_weighted_encode_equals_ggml(block_format: BlockFormat) -> None:
    n = 768
    x = generator(block_format).standard_normal((8, n)).astype(np.float32)
    for name, importance in importances(n).items():
        ours = quantize(x, block_format, importance, allow_non_finite=True)
        assert (ours == ggml.quantize(x, block_format, importance)).all(), name
        row, part = x[0, : block_format.block_size], importance[: block_format.block_size]
        ours = quantize(row, block_format, part, allow_non_finite=True)
        assert (ours == reference_encode(block_format, row, part)).all(), name


@float_formats
def test_result_does_not_depend_on_pieces_or_threads(block_format: BlockFormat) -> None:
    n = 1280
    x = generator(block_format).standard_normal((SMALLEST_PIECE // n * 2 + 3, n)).astype(np.float32)
    if block_format.importance == "required":
        x = x[:6]
    importance = default_importance(block_format, n)
    whole = quantize(x, block_format, importance)
    assert (quantize(x, block_format, importance, threads=2) == whole).all()
    assert (np.stack([quantize(row, block_format, importance) for row in x[:6]]) == whole[:6]).all()
    assert_same_floats(dequantize(whole, block_format, threads=2), dequantize(whole, block_format))


@float_formats
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_weights_are_refused(block_format: BlockFormat, bad: float) -> None:
    x = np.ones((3, 512), np.float32)
    x[1, 300] = x[2, 5] = bad
    with pytest.raises(NonFiniteError, match=r"at index \[1, 300\]") as caught:
        quantize(x, block_format, default_importance(block_format, 512))
    assert caught.value.index == 512 + 300


@float_formats
def test_non_finite_weights_are_found_anywhere(block_format: BlockFormat) -> None:
    """The last weight of a batch of 16 blocks, the first of the next, the last of all in a batch that is not
    full; with importance too.
    """
    n = 18 * max(block_format.block_size, 16)
    end_of_batch = 16 * n // 18
    for index in (0, end_of_batch - 1, end_of_batch, n - 1):
        x = np.ones(n, np.float32)
        x[index] = np.nan
        for importance in (default_importance(block_format, n), importances(n)["random"]):
            with pytest.raises(NonFiniteError) as caught:
                quantize(x, block_format, importance)
            assert caught.value.index == index


@float_formats
def test_shapes_and_memory(block_format: BlockFormat) -> None:
    """Any leading dimensions, strides, read-only and unaligned memory; rows that do not divide are a typed
    error.
    """
    n = 512
    x = generator(block_format).standard_normal((4, 3, n)).astype(np.float32)
    importance = default_importance(block_format, n)
    expected = quantize(x, block_format, importance)
    assert expected.shape == (4, 3, block_format.row_bytes(n))
    wide = np.empty((4, 3, 2 * n), np.float32)
    wide[..., ::2] = x
    assert (quantize(wide[..., ::2], block_format, importance) == expected).all()
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view("<f4").reshape(x.shape)
    assert not unaligned.flags.aligned and not unaligned.flags.writeable
    assert (quantize(unaligned, block_format, importance) == expected).all()
    assert quantize(np.empty((0, n), np.float32), block_format, importance).shape == (
        0,
        block_format.row_bytes(n),
    )
    assert dequantize(np.empty((2, 0), np.uint8), block_format).shape == (2, 0)
    if block_format.block_size > 1:
        with pytest.raises(ShapeError, match="does not divide"):
            quantize(x[..., :-1], block_format, importance)
        with pytest.raises(ShapeError, match="does not divide"):
            dequantize(expected[..., :-1], block_format)
    with pytest.raises(ShapeError):
        quantize(np.float32(1), block_format)
    if block_format.importance == "required":
        with pytest.raises(UsageError, match="importance"):
            quantize(x, block_format)


@float_formats
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_source_dtypes(block_format: BlockFormat, dtype: str) -> None:
    x = generator(block_format).standard_normal((2, 512)).astype(dtype)
    importance = default_importance(block_format, 512)
    assert (
        quantize(x, block_format, importance) == quantize(x.astype(np.float32), block_format, importance)
    ).all()


@formats(lambda f: f.snr is not None)
def test_declared_error_is_the_measured_one(block_format: BlockFormat) -> None:
    """`snr`, on a few rows of Gaussian weights; uniform importance where a format cannot do without."""
    x = np.random.default_rng(0).standard_normal((16, 4096)).astype(np.float32)
    importance = np.ones(4096, np.float32) if block_format.importance == "required" else None
    error = x.astype(np.float64) - dequantize(quantize(x, block_format, importance), block_format)
    measured = 10 * np.log10((x.astype(np.float64) ** 2).sum() / (error**2).sum())
    assert measured == pytest.approx(block_format.snr, abs=0.15)
