"""Learned codebooks: k-means and quantile buckets, of rows or of histograms over a tensor.

All sums are of integers (see `kernels.clustering`). Values become integers of 20 bits, so that the largest
magnitude is 2**20. Importance becomes integers too: 256 for a column of mean importance, at most 65,535.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import gguflow.parametric.reals as reals
from gguflow.arrays import Floats, Integers
from gguflow.parametric.axes import Codebook
from gguflow.parametric.encoding import Encoding
from gguflow.parametric.geometry import Geometry

f32 = np.float32

ONE = 1 << 20
ROUNDS = {Codebook.KMEANS: 100, Codebook.QUANTILE: 0}
"""The most rounds after the initial buckets of equal weight."""


def integer_importance(importance: Floats | None, columns: int) -> Integers:
    """Integer importance of each column, or of each column of each row; ones if it is None or all zero."""
    if importance is None or not importance.any():
        return np.ones(columns, np.int64)
    means = importance.astype(np.float64).mean(axis=-1, keepdims=True)
    relative = np.divide(importance, means, out=np.ones(importance.shape), where=means > 0)
    weights: Integers = np.minimum(np.rint(relative * 256), 65535).astype(np.int64)
    return weights


def of_rows(encoding: Encoding, matrix: Floats, importance: Floats | None) -> Floats:
    """A codebook for each row of float32[rows, columns]: float32[rows, 2**bits], in the scale type."""
    from gguflow.kernels import clustering

    order = np.argsort(matrix, axis=1, kind="stable") if importance is not None else None
    ascending = np.sort(matrix, axis=1) if order is None else np.take_along_axis(matrix, order, axis=1)
    peaks = np.abs(matrix).max(axis=1, keepdims=True).astype(np.float64)
    weights = np.broadcast_to(integer_importance(importance, matrix.shape[1]), matrix.shape)
    if order is not None:
        weights = np.take_along_axis(weights, order, axis=1)
    centres = np.empty((matrix.shape[0], 1 << encoding.bits), np.int64)
    clustering.learn_rows(
        _integers(ascending, peaks), np.ascontiguousarray(weights), ROUNDS[encoding.codebook], centres
    )
    return reals.round_to_type(_floats(centres, peaks), encoding.scale_type)


def new_counts(geometry: Geometry) -> Integers:
    """An empty histogram for each codebook of the tables."""
    return np.zeros((geometry.n_groups, 1 << 16), np.int64)


def count(geometry: Geometry, x: Floats, importance: Floats | None, counts: Integers) -> None:
    """Add flat x, a chunk, to the histograms, divided by the peaks of its blocks if these have scales."""
    from gguflow.kernels import block_statistics, clustering

    block = geometry.scale_block
    factors = np.ones(1, f32)
    if geometry.encoding.has_chunk_scales:
        peaks = np.empty(-(-x.size // block), f32)
        block_statistics.peaks(x, block, peaks)
        factors = (f32(1) / np.maximum(peaks, f32(1e-38))).astype(f32)
    clustering.count(x, block, factors, integer_importance(importance, geometry.columns).reshape(-1), counts)


def of_counts(encoding: Encoding, counts: Integers) -> Floats:
    """The codebooks learned from the histograms, concatenated: float32[groups * 2**bits]."""
    from gguflow.kernels import clustering

    keys = np.arange(1 << 16, dtype=np.uint32)
    words = np.where(keys & 0x8000, keys ^ 0x8000, keys ^ 0xFFFF)
    values = (words << 16).astype(np.uint32).view(f32)
    books = []
    for histogram in counts:
        found = np.flatnonzero(histogram)
        if not found.size:  # no weight has importance: a codebook of zeros
            found = np.array([0x8000])
        peak = np.abs(values[found]).max(keepdims=True).astype(np.float64)
        centres = np.empty(1 << encoding.bits, np.int64)
        clustering.learn(
            _integers(values[found], peak),
            np.maximum(histogram[found], 1),
            ROUNDS[encoding.codebook],
            centres,
        )
        books.append(_floats(centres, peak))
    return np.concatenate(books)


def _integers(values: Floats, peaks: NDArray[np.float64]) -> Integers:
    """Values divided by their peak, times ONE."""
    return np.rint(values.astype(np.float64) * (ONE / np.maximum(peaks, 1e-300))).astype(np.int64)


def _floats(centres: Integers, peaks: NDArray[np.float64]) -> Floats:
    return (centres * (peaks / ONE)).astype(f32)
