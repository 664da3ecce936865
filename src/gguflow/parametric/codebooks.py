"""The values of codebooks, and the bounds between neighbours that an encoder compares with."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gguflow.arrays import Floats
from gguflow.parametric.axes import Codebook
from gguflow.parametric.encoding import Encoding

f32 = np.float32

LOOKUP = 16
"""The least number of entries of a codebook in the kernels' arrays, so that one vector holds it."""

NF4 = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    f32,
)  # fmt: skip
"""NormalFloat4 (QLoRA, arXiv 2305.14314): quantiles of the normal distribution and zero, as bitsandbytes."""

FP4 = np.array(
    [sign * f32(v) / f32(12) for sign in (1, -1) for v in (0, 0.0625, 8, 12, 4, 6, 2, 3)], f32
) + f32(0)
"""bitsandbytes' 4-bit float: a sign and three bits (not E2M1), divided by the largest value.

Codes 0 and 8 both mean positive zero.
"""

AF4 = np.array(
    [
        1.0, 0.72424863, 0.55496234, 0.42563882, 0.31675666, 0.21961274, 0.12934483, 0.04273164,
        0.0, -0.04934812, -0.14982478, -0.25607552, -0.3736951, -0.51243739, -0.69441008, -1.0,
    ],
    f32,
)  # fmt: skip
"""AbnormalFloat4 for blocks of 64 (arXiv 2306.06965), in the order of bitsandbytes: descending."""


def log_values(base: float, bits: int) -> Floats:
    """base**-j and -base**-j by repeated division in binary32; a code is a sign bit and an exponent j."""
    magnitudes = [f32(1)]
    while len(magnitudes) < 1 << (bits - 1):
        magnitudes.append(f32(magnitudes[-1] / f32(base)))
    positive = np.array(magnitudes, f32)
    return np.concatenate([positive, -positive])


@functools.cache
def dynamic() -> Floats:
    """bitsandbytes' signed dynamic 8-bit map (arXiv 1511.04561): 256 ascending values from -0.993 to 1.

    For i = 0 to 6: the means of neighbours among 2**i + 1 evenly spaced numbers from 0.1 to 1, times
    10**(i - 6), and their negatives; also 0 and 1. The numbers are spaced from the nearer end, with one
    rounding of end + step * count; mean and product are in binary32.
    """
    values: list[float] = [0.0, 1.0]
    for i in range(7):
        n = 2**i + 1
        first, last = f32(0.1), f32(1)
        step = f32((last - first) / f32(n - 1))
        count = np.arange(n)
        spaced = np.where(
            count < n // 2,
            np.float64(first) + np.float64(step) * count,
            np.float64(last) - np.float64(step) * (n - 1 - count),
        )
        ends = spaced.astype(f32)
        means = f32(10.0 ** (i - 6)) * ((ends[:-1] + ends[1:]) / f32(2))
        values += [*means.tolist(), *(-means).tolist()]
    return np.array(sorted(values), f32)


def fixed_values(encoding: Encoding) -> Floats:
    """The 2**bits values of a fixed codebook, by code."""
    if encoding.codebook is Codebook.LOG:
        return log_values(encoding.log_base, encoding.bits)
    return {Codebook.NF4: NF4, Codebook.FP4: FP4, Codebook.AF4: AF4}[encoding.codebook]


class Bounded(NamedTuple):
    """Codebooks in the form that the encoder takes; both arrays flat, `stride` entries for each codebook.

    bounds: what a value must exceed for the next rank; infinite at the end.
    order: the code of each rank.
    stride: entries for each codebook.
    """

    bounds: Floats
    order: NDArray[np.int32]
    stride: int


def with_bounds(books: Floats) -> Bounded:
    """Codebooks float32[n, 2**bits], with their bounds.

    A bound is half the sum of two neighbouring values, in binary32; a value equal to it takes the smaller.
    """
    n, size = books.shape
    stride = max(size, LOOKUP)
    order = np.argsort(books, axis=1, kind="stable").astype(np.int32)
    ascending = np.take_along_axis(books, order, axis=1)
    bounds = np.full((n, stride), np.inf, f32)
    with np.errstate(over="ignore"):
        bounds[:, : size - 1] = (ascending[:, :-1] + ascending[:, 1:]) / f32(2)
    names = np.zeros((n, stride), np.int32)
    names[:, :size] = order
    return Bounded(bounds.reshape(-1), names.reshape(-1), stride)


def pad(books: Floats) -> tuple[Floats, int]:
    """Codebooks in the form that the decoder takes: flat, and the stride from one to the next."""
    n, size = books.shape
    stride = max(size, LOOKUP)
    table = np.zeros((n, stride), f32)
    table[:, :size] = books
    return table.reshape(-1), stride


NO_BOOKS = Bounded(np.full(LOOKUP, np.inf, f32), np.zeros(LOOKUP, np.int32), LOOKUP)


@functools.cache
def ascending(encoding: Encoding) -> Floats:
    """The values of a fixed codebook by rank, in sixteen entries; zeros if the encoding has none."""
    values = np.zeros(max(LOOKUP, 1 << encoding.bits), f32)
    if encoding.codebook is not Codebook.NONE:
        values[: 1 << encoding.bits] = np.sort(fixed_values(encoding))
    return values


@functools.cache
def fixed_bounds(encoding: Encoding) -> Bounded:
    return with_bounds(fixed_values(encoding)[None])


@functools.cache
def dynamic_places() -> NDArray[np.uint8]:
    """The code in the dynamic map for each of 65,536 evenly spaced values from -1 to 1."""
    bounds = with_bounds(dynamic()[None]).bounds[:255]
    places = f32(-1) + (2 * np.arange(1 << 16)).astype(f32) / f32(65535)
    return np.searchsorted(bounds, places, side="left").astype(np.uint8)
