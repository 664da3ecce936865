"""Activations times packed matrices, without a dequantized copy of the matrix: the public `matmul`.

A few vectors (decoding a token) are multiplied one by one directly from the packed blocks, by the kernels of
`gguflow.kernels.matmul`. More vectors, and formats without such kernels, need decoded rows: a tile at a time,
small enough for the second-level cache, multiplied with some vectors by a kernel, with many (a prompt) by
BLAS.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gguflow.arguments import choice
from gguflow.arrays import Bytes, Floats, as_array, output_array, read_only, separate
from gguflow.blocks import FORMATS, BlockFormat
from gguflow.errors import NonFiniteError, ShapeError, UsageError
from gguflow.quantization import DECODED_PER_ENCODED, decode, encode, first_non_finite, resolve
from gguflow.threads import check as check_threads
from gguflow.threads import resolve as resolve_threads
from gguflow.threads import run

Q8_0 = FORMATS["q8_0"]
SUPER_BLOCK = 256

FEW = 2
"""The most vectors that are multiplied one by one; for more, decoding the weights once is faster."""

SOME = 16
"""The most vectors for which our own sums are as fast as BLAS, which rearranges its operands first."""

TILE = 1 << 18
"""Weights in a tile of decoded rows: 1 MiB of float32. Twice that for BLAS."""

PIECE = 1 << 20
"""Approximate bytes of packed rows that a thread takes at a time, which stay in its cache for all vectors."""

Work = Callable[[Bytes, Floats], None]
"""Multiplies some rows of the matrix into their columns of the result."""


def matmul(
    packed: Bytes,
    format: str | BlockFormat,
    x: ArrayLike,
    *,
    activations: str = "float32",
    threads: int | None = None,
    out: Floats | None = None,
) -> Floats:
    """Multiply vectors with a packed matrix: x @ dequantize(packed).T as float32[..., rows].

    Sums are in float32. Up to SOME vectors, their order is the same for all formats and machines; for more it
    is that of NumPy's BLAS. It does not depend on `threads`. NaN and infinity among scales and activations
    propagate as in the product with the dequantized matrix.

    packed: uint8[rows, row_bytes], C-contiguous; a read-only memory map is read in place.
    format: the block format of the matrix.
    x: [..., n] of float32, float16, bfloat16 (ml_dtypes) or float64, any strides.
    activations: "float32", or "int8": x rounded to eight bits in blocks as in llama.cpp (Q8_0, or Q8_K for
        super-blocks of 256; no rounding for plain numbers), and integer products for up to FEW vectors of the
        most common formats.
    threads: number of threads; None for all processors, or for one where the work is not worth more. BLAS
        has its own.
    out: the array to fill, C-contiguous float32[..., rows]; None allocates one. It may overlap the matrix
        and x.

    Raises ShapeError, UnknownFormatError, UsageError (an integer format), NonFiniteError (values that cannot
    be rounded to eight bits).
    """
    block_format = resolve(format)
    if block_format.number_type is not None and block_format.number_type.kind == "i":
        raise UsageError(f"{block_format.name} stores integers, not the weights of a matrix")
    choice(activations, "activations", ("float32", "int8"))
    check_threads(threads)
    n = _columns(packed, block_format)
    packed = as_array(packed, "packed")
    vectors = _vectors(x, n)
    result = output_array(out, (*vectors.shape[:-1], len(packed)), np.dtype(np.float32))
    if out is not None:
        vectors, packed = separate(vectors, result), separate(packed, result)
    if not n or not result.size:
        result.fill(0)
        return result
    vectors, sums = vectors.reshape(-1, n), result.reshape(-1, len(packed))
    work = _work(block_format, vectors, activations == "int8" and block_format.is_quantized)
    matrix = read_only(packed)
    threads = resolve_threads(threads, len(vectors) * len(packed) * n // DECODED_PER_ENCODED)
    step = _rows_per_piece(packed.shape, _rows_per_tile(vectors.shape), threads)

    def do(first: int, last: int) -> None:
        work(matrix[first:last], sums[:, first:last])

    run(do, [(first, min(first + step, len(packed))) for first in range(0, len(packed), step)], threads)
    return result


def _columns(packed: Bytes, block_format: BlockFormat) -> int:
    """Number of weights in a row of the matrix."""
    if not isinstance(packed, np.ndarray) or packed.dtype != np.uint8 or packed.ndim != 2:
        found = (
            f"{packed.dtype.name}{list(packed.shape)}"
            if isinstance(packed, np.ndarray)
            else type(packed).__name__
        )
        raise ShapeError(f"a packed matrix is uint8[rows, row_bytes], not {found}")
    if not packed.flags.c_contiguous:
        raise ShapeError("a packed matrix must be C-contiguous: it is read in place, not copied")
    if packed.shape[1] % block_format.type_size:
        raise ShapeError(
            f"a row of {packed.shape[1]} bytes does not divide into "
            f"{block_format.name} blocks of {block_format.type_size}"
        )
    return int(packed.shape[1]) // block_format.type_size * block_format.block_size


def _vectors(x: ArrayLike, n: int) -> Floats:
    """x as C-contiguous float32[..., n]."""
    array = as_array(x, "x")
    if array.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
        raise ShapeError(f"activations are float32, float16, bfloat16 or float64, not {array.dtype.name}")
    if array.ndim == 0 or array.shape[-1] != n:
        raise ShapeError(f"a matrix with rows of {n} weights takes x[..., {n}], not x{list(array.shape)}")
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(array, np.float32)


def _rows_per_tile(shape: tuple[int, ...]) -> int:
    """Number of rows decoded at a time for x of this shape."""
    count, n = shape
    return max(TILE * (1 if count <= SOME else 2) // n, 1)


def _rows_per_piece(shape: tuple[int, ...], tile: int, threads: int) -> int:
    """Rows for about PIECE bytes, or fewer to occupy all threads; always whole tiles."""
    rows, row_bytes = shape
    wanted = min(max(PIECE // row_bytes, 1), -(-rows // max(threads, 1)))
    return -(-wanted // tile) * tile


def _work(block_format: BlockFormat, vectors: Floats, is_int8: bool) -> Work:
    """The function that multiplies these vectors."""
    from gguflow.kernels import matmul as kernels

    kernel = kernels.find(block_format.key)
    is_few = len(vectors) <= FEW
    if is_int8:
        eight_bits = EightBits.of(vectors, block_format)
        if is_few and kernel is not None:
            return functools.partial(_integer_products, kernel, eight_bits)
        vectors = eight_bits.as_floats(vectors.shape)
    if is_few and kernel is not None:
        return functools.partial(_few, kernel, vectors)
    return functools.partial(_some if len(vectors) <= SOME else _many, block_format, vectors)


def _few(kernel: ModuleType, vectors: Floats, matrix: Bytes, sums: Floats) -> None:
    """Multiply vector by vector, from the packed blocks."""
    for vector, target in zip(vectors, sums, strict=True):
        kernel.dot_rows(matrix.reshape(-1), read_only(vector), target)


def _integer_products(kernel: ModuleType, vectors: EightBits, matrix: Bytes, sums: Floats) -> None:
    """Multiply vector by vector, from the packed blocks and activations of eight bits."""
    for codes, scales, target in zip(vectors.codes, vectors.scales, sums, strict=True):
        kernel.dot_rows_int8(matrix.reshape(-1), read_only(codes), read_only(scales), target)


def _some(block_format: BlockFormat, vectors: Floats, matrix: Bytes, sums: Floats) -> None:
    """Multiply all vectors with one tile after the other, in the kernels' order of sums."""
    from gguflow.kernels.matmul.sums import SUMS
    from gguflow.kernels.matmul.tile import dot_tile

    n = vectors.shape[1]
    padding = ((0, 0), (0, -n % SUMS))  # rows of plain numbers have any length; zeros add nothing
    x = read_only(np.pad(vectors, padding) if n % SUMS else vectors)
    for first, tile in _tiles(matrix, block_format, vectors.shape):
        weights = np.pad(tile, padding) if n % SUMS else tile
        products = np.empty((len(vectors), len(tile)), np.float32)
        dot_tile(read_only(weights).reshape(-1), x.reshape(-1), x.shape[1], products)
        sums[:, first : first + len(tile)] = products


def _many(block_format: BlockFormat, vectors: Floats, matrix: Bytes, sums: Floats) -> None:
    """Multiply all vectors with one tile after the other, by BLAS."""
    for first, tile in _tiles(matrix, block_format, vectors.shape):
        with np.errstate(all="ignore"):  # NaN and infinity are results
            np.matmul(vectors, tile.T, out=sums[:, first : first + len(tile)])


def _tiles(matrix: Bytes, block_format: BlockFormat, shape: tuple[int, ...]) -> Iterator[tuple[int, Floats]]:
    """Tiles of decoded rows for x of this shape: first row, and float32[rows, n], valid until the next."""
    n = shape[1]
    step = _rows_per_tile(shape)
    scratch = np.empty(min(step, len(matrix)) * n, np.float32)
    for first in range(0, len(matrix), step):
        packed = matrix[first : first + step].reshape(-1)
        tile = scratch[: len(packed) // block_format.type_size * block_format.block_size]
        if block_format.key == "f64":
            with np.errstate(all="ignore"):
                tile[:] = packed.view("<f8")
        else:
            decode(packed, block_format, tile)
        yield first, tile.reshape(-1, n)


class EightBits(NamedTuple):
    """Vectors rounded to eight bits, followed by zeros.

    codes: int8 codes as uint8[vectors, n + 32].
    scales: float32[vectors, blocks + 32].
    """

    codes: Bytes
    scales: Floats
    block_size: int

    @classmethod
    def of(cls, vectors: Floats, block_format: BlockFormat) -> EightBits:
        """Round as llama.cpp rounds activations for this format. Raises NonFiniteError."""
        from gguflow.kernels.matmul import int8

        count, n = vectors.shape
        block_size = SUPER_BLOCK if block_format.block_size == SUPER_BLOCK else Q8_0.block_size
        codes = np.zeros((count, n + int8.PADDING), np.uint8)
        scales = np.zeros((count, n // block_size + int8.PADDING), np.float32)
        if block_size == SUPER_BLOCK:
            bad = first_non_finite(vectors.reshape(-1))
            for vector, its_codes, its_scales in zip(vectors, codes, scales, strict=True):
                int8.quantize_q8_k(read_only(vector), its_codes, its_scales)
        else:
            blocks = np.empty((count, n // block_size), Q8_0.dtype)
            bad = encode(vectors.reshape(-1), Q8_0, blocks.reshape(-1).view(np.uint8))
            codes[:, :n] = blocks["qs"].reshape(count, n).view(np.uint8)
            scales[:, : n // block_size] = blocks["d"].view("<f2")
        if bad >= 0:
            at, i = divmod(bad, n)
            raise NonFiniteError(
                f"{vectors[at, i]} at weight {i} of vector {at} of x cannot be rounded to eight bits", bad
            )
        return cls(codes, scales, block_size)

    def as_floats(self, shape: tuple[int, ...]) -> Floats:
        """The rounded vectors, float32[vectors, n]."""
        count, n = shape
        codes = self.codes[:, :n].view(np.int8).reshape(count, -1, self.block_size)
        return (codes * self.scales[:, : n // self.block_size, None]).reshape(shape)
