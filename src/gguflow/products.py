"""Activations times packed matrices, without a dequantized copy of the matrix: the public `matmul`.

Two ways, by the number of vectors in x. A few (a token is decoded) are multiplied one by one straight from the packed blocks, by the kernels of
`gguflow.kernels.products`; a format that has none is decoded tile by tile. Many (a prompt) are multiplied by BLAS with tiles of decoded rows, small
enough for the second-level cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from gguflow.blocks import BlockFormat
from gguflow.errors import ShapeError, UsageError
from gguflow.parallel import run
from gguflow.quantization import Bytes, Floats, decode, output_array, read_only, resolve

FEW = 4
"""Vectors up to which each is multiplied on its own: more, and decoding the weights once pays."""

TILE = 1 << 18
"""Weights in a tile of decoded rows: 1 MiB of float32."""

PIECE = 1 << 20
"""Bytes of packed rows that a thread takes at a time, about: they stay in its cache while the vectors are multiplied one by one."""


def matmul(
    packed: Bytes, format: str | BlockFormat, x: ArrayLike, *, activations: str = "float32", threads: int = 1, out: Floats | None = None
) -> Floats:
    """Multiply vectors with a packed matrix: x float32[..., n] -> float32[..., rows], x @ dequantize(packed).T.

    packed: uint8[rows, row_bytes], C-contiguous; a read-only memory map is read in place. x: float32, float16, bfloat16 (ml_dtypes) or float64, any
    strides. out: where to put the result, C-contiguous.

    Sums are in float32. For up to FEW vectors their order is one for all formats and machines, for more it is that of NumPy's BLAS; it does not
    change with `threads`. NaN and infinity among scales and activations propagate as in the product with the dequantized matrix.
    Raises ShapeError, UnknownFormatError, UsageError (a format of integers).
    """
    block_format = resolve(format)
    number_type = block_format.number_type
    if number_type is not None and number_type.kind == "i":
        raise UsageError(f"{block_format.name} stores integers, not the weights of a matrix")
    n = _columns(packed, block_format)
    vectors = _vectors(x, n)
    result = output_array(out, (*vectors.shape[:-1], len(packed)), np.dtype(np.float32))
    if np.may_share_memory(result, vectors):
        vectors = vectors.copy()
    if not n or not result.size:
        result.fill(0)
        return result
    flat, sums = vectors.reshape(-1, n), result.reshape(-1, len(packed))
    matrix = read_only(packed)
    work = _few if len(flat) <= FEW else _many
    step = _rows_per_piece(packed.shape, n, threads)

    def do(first: int, last: int) -> None:
        work(matrix[first:last], block_format, flat, sums[:, first:last])

    run(do, [(first, min(first + step, len(packed))) for first in range(0, len(packed), step)], threads)
    return result


def _columns(packed: Bytes, block_format: BlockFormat) -> int:
    """Weights in a row of the matrix."""
    if not isinstance(packed, np.ndarray) or packed.dtype != np.uint8 or packed.ndim != 2:
        found = f"{packed.dtype.name}{list(packed.shape)}" if isinstance(packed, np.ndarray) else type(packed).__name__
        raise ShapeError(f"a packed matrix is uint8[rows, row_bytes], not {found}")
    if not packed.flags.c_contiguous:
        raise ShapeError("a packed matrix must be C-contiguous: it is read in place, not copied")
    if packed.shape[1] % block_format.type_size:
        raise ShapeError(f"a row of {packed.shape[1]} bytes does not divide into {block_format.name} blocks of {block_format.type_size}")
    return int(packed.shape[1]) // block_format.type_size * block_format.block_size


def _vectors(x: ArrayLike, n: int) -> Floats:
    """x as C-contiguous float32[..., n]."""
    array = np.asarray(x)
    if array.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
        raise ShapeError(f"activations are float32, float16, bfloat16 or float64, not {array.dtype.name}")
    if array.ndim == 0 or array.shape[-1] != n:
        raise ShapeError(f"a matrix with rows of {n} weights takes x[..., {n}], not x{list(array.shape)}")
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(array, np.float32)


def _rows_per_piece(shape: tuple[int, ...], n: int, threads: int) -> int:
    """About PIECE bytes, less where a thread would have nothing to do. Whole tiles: so they are the same however many threads there are."""
    rows, row_bytes = shape
    wanted = min(max(PIECE // row_bytes, 1), -(-rows // max(threads, 1)))
    tile = max(TILE // n, 1)
    return -(-wanted // tile) * tile


def _few(matrix: Bytes, block_format: BlockFormat, vectors: Floats, sums: Floats) -> None:
    """sums[v, row] of some rows, vector by vector."""
    from gguflow.kernels import products
    from gguflow.kernels.products import f32

    kernel = products.find(block_format.key)
    if kernel is not None:
        for vector, target in zip(vectors, sums, strict=True):
            kernel.dot_rows(matrix.reshape(-1), read_only(vector), target)
        return
    for first, tile in _tiles(matrix, block_format, vectors.shape[1]):
        as_bytes = read_only(tile.reshape(-1).view(np.uint8))
        for vector, target in zip(vectors, sums[:, first : first + len(tile)], strict=True):
            f32.dot_rows(as_bytes, read_only(vector), target)


def _many(matrix: Bytes, block_format: BlockFormat, vectors: Floats, sums: Floats) -> None:
    """sums[v, row] of some rows, tile by tile."""
    for first, tile in _tiles(matrix, block_format, vectors.shape[1]):
        with np.errstate(all="ignore"):  # NaN and infinity are results
            np.matmul(vectors, tile.T, out=sums[:, first : first + len(tile)])


def _tiles(matrix: Bytes, block_format: BlockFormat, n: int) -> Iterator[tuple[int, Floats]]:
    """The decoded rows, some at a time: the number of the first, and float32[rows, n], valid until the next."""
    step = max(TILE // n, 1)
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
