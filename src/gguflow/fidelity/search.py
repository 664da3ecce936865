"""Better scales at the same bytes: each block's scales and codes are fitted to its weights, or to the weights
and the importance of their columns, without a calibration.

The bytes are the same on every machine: binary32 operations in a stated order, one rounding each. The scalar
twin is `reference_search`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gguflow.arrays import Bytes, Floats, importance_of_columns, read_only
from gguflow.blocks import BlockFormat
from gguflow.blocks.reserved import NOTHING, Look
from gguflow.fidelity.grids import GRIDS, Grid, grid_of
from gguflow.fidelity.lattices import LATTICES, find_stored, taken
from gguflow.fidelity.packing import Scaled, pack
from gguflow.fidelity.rows import check_held, checked_rows
from gguflow.quantization import as_floats, first_non_finite, look
from gguflow.quantization import encode_and_look as encode_as_ggml
from gguflow.threads import check as check_threads
from gguflow.threads import pieces, run

PIECE = 1 << 17
"""Weights that a thread takes at a time."""

SCRATCH_PER_WEIGHT = 12
"""Bytes that `encode_and_look` takes for each weight of a piece, at most: decoded weights, codes twice, two
packings, scales.
"""

LEAST_IMPORTANCE = 2.0**-20
"""Of the largest: what an unimportant column counts all the same, so that no weight is given up."""


def encode(
    weights: ArrayLike,
    format: str | BlockFormat,
    importance: ArrayLike | None = None,
    threads: int | None = None,
) -> Bytes:
    """Quantize rows: float32[..., n] -> uint8[..., row_bytes].

    Blocks that lie on the grid already are reproduced (see `lattices`). No other has a larger weighted
    squared error than in ggml's encoding (with the same importance, where the format takes it). The bytes do
    not depend on `threads`, nor on the machine.

    weights: float32, finite.
    format: one of `grids.GRIDS`.
    importance: float32[n], the weight of squared errors in each column; None for ones.
    threads: number of threads; None for all processors.

    Raises UnknownFormatError, ShapeError (n is no multiple of the block size), NonFiniteError (with the index
    of a weight that is NaN or infinite, or that the format cannot hold), UsageError.
    """
    check_threads(threads)
    grid = grid_of(format)
    block_format = grid.block_format
    array = checked_rows(weights, block_format)
    n = array.shape[-1]
    columns = floored(None if importance is None else importance_of_columns(importance, n), n)
    out = np.empty((*array.shape[:-1], block_format.row_bytes(n)), np.uint8)
    flat, target = array.reshape(-1), out.reshape(-1)

    def work(first: int, last: int) -> None:
        part = flat[first:last]
        packed = _best_of_both(part, grid, columns, weighted=importance is not None)
        check_held(packed, block_format, part, first, array)
        target[block_format.nbytes(first) : block_format.nbytes(last)] = packed

    run(work, list(pieces(flat.size, n, n, max(PIECE, n))), threads)
    return out


def encode_and_look(
    weights: Floats, block_format: BlockFormat, out: Bytes, importance: Floats | None = None
) -> tuple[int, Look]:
    """As `quantization.encode_and_look`, with the blocks of `encode`, in this thread, piece by piece. They
    do not depend on what else is in the tensor, save the rest of a row where the format weighs rows.

    weights: float32[n * block_size], flat; whole rows if there is importance.
    block_format: one of `grids.GRIDS`.
    out: uint8, flat: where to put the blocks.
    importance: of the columns, as `floored` gives it for a whole row; None for ones. A part of a row goes
        with its part of the importance.

    Returns the index of the first NaN or infinity, in which case `out` is not written, or -1; and what a look
    at the blocks found.
    """
    bad = first_non_finite(weights)
    if bad >= 0:
        return bad, NOTHING
    grid = GRIDS[block_format.key]
    columns = np.ones(block_format.block_size, np.float32) if importance is None else importance
    step = max(PIECE // columns.size, 1) * columns.size
    for first in range(0, weights.size, step):
        part = weights[first : first + step]
        start = block_format.nbytes(first)
        packed = _best_of_both(part, grid, columns, weighted=importance is not None)
        out[start : start + packed.size] = packed
    return -1, look(out, block_format)


def fit(weights: Floats, grid: Grid, importance: Floats | None = None) -> Scaled:
    """The scales and codes that the search finds, by itself.

    weights: float32[n * size], flat, finite.
    grid: the format's.
    importance: float32[m * size], not negative; block i uses entry i % m. None for ones.
    """
    from gguflow.kernels import scale_search

    n, n_sub = weights.size // grid.size, grid.n_sub_blocks
    batches = -(-n // 16)
    d, dmin = np.empty(16 * batches, np.float32), np.empty(16 * batches, np.float32)
    scales, mins = (np.empty(16 * batches * n_sub, np.int32) for _ in range(2))
    codes = np.empty(16 * batches * grid.size, np.uint8)
    w = np.ones(grid.size, np.float32) if importance is None else np.ascontiguousarray(importance)
    scale_search.search(
        read_only(np.ascontiguousarray(weights)),
        read_only(w),
        grid.for_kernels(),
        d,
        dmin,
        scales,
        mins,
        codes,
    )

    def in_order(values: NDArray[Any], width: int) -> NDArray[Any]:
        return values.reshape(batches, width, 16).transpose(0, 2, 1).reshape(-1, width)[:n]

    return Scaled(d[:n], dmin[:n], in_order(scales, n_sub), in_order(mins, n_sub), in_order(codes, grid.size))


def floored(importance: Floats | None, n: int) -> Floats:
    """Importance in which every column counts at least a little: float32[n]."""
    if importance is None or not importance.any():
        return np.ones(n, np.float32)
    floor: np.float32 = importance.max() * np.float32(LEAST_IMPORTANCE)
    return np.maximum(importance, floor)


def _best_of_both(weights: Floats, grid: Grid, importance: Floats, *, weighted: bool) -> Bytes:
    """Of each block its place on the grid, if it lies there already; else the encoding with the smaller
    error: what the search found, or ggml's.
    """
    block_format = grid.block_format
    packed = np.empty(block_format.nbytes(weights.size), np.uint8)
    takes = weighted and block_format.importance != "unused"
    encode_as_ggml(weights, block_format, packed, importance if takes else None)
    theirs = block_errors(weights, as_floats(packed, block_format), importance, block_format.block_size)
    scaled = fit(weights, grid, importance)
    lattice = find_stored(weights, grid) if grid.format in LATTICES else None
    if lattice is not None and lattice.is_on.any():
        scaled = taken(scaled, lattice)
    found = pack(grid, scaled)
    ours = block_errors(weights, as_floats(found, block_format), importance, block_format.block_size)
    is_better = ~(theirs <= ours) & np.isfinite(ours)
    if lattice is not None:
        is_better |= np.all(lattice.is_on.reshape(len(is_better), -1), axis=1)
    found = found.reshape(-1, block_format.type_size)
    packed.reshape(-1, block_format.type_size)[is_better] = found[is_better]
    return packed


def block_errors(weights: Floats, approximation: Floats, importance: Floats, size: int) -> Floats:
    """float32[n]: the weighted squared error of each block of `size` weights, summed in their order.

    importance: float32[m * size]; block i uses entry i % m.
    """
    from gguflow.kernels import scale_search

    errors = np.empty(weights.size // size, np.float32)
    scale_search.block_errors(
        read_only(weights), read_only(importance), read_only(approximation.reshape(-1)), size, errors
    )
    return errors
