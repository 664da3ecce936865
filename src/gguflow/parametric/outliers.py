"""Outliers of a chunk: the weights of largest magnitude, stored as binary16 with their positions.

The codes hold zeros in their place.

counts   u32 for each group of 65,536 weights of the chunk; the last group may be shorter
places   u16 for each outlier: its position in the group, ascending within a group
values   f16 for each
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gguflow.arrays import Bytes, Floats
from gguflow.parametric.geometry import OUTLIER_GROUP, Geometry

f32 = np.float32
LARGEST_HALF = f32(65504)


class Outliers(NamedTuple):
    """The outliers of a chunk.

    places: int64[n], positions in the flattened chunk, ascending.
    values: float32[n], exactly representable in binary16.
    """

    places: NDArray[np.int64]
    values: Floats


class OutlierError(ValueError):
    """An outlier section is inconsistent."""


def choose(geometry: Geometry, rows: int, x: Floats) -> Outliers:
    """The outliers of flat x: above the threshold, or the share of largest magnitude (first of equals)."""
    magnitudes = np.abs(x)
    if geometry.encoding.outlier_threshold:
        places = np.flatnonzero(magnitudes > f32(geometry.encoding.outlier_threshold))
    else:
        count = geometry.n_outliers(rows)
        least = np.partition(magnitudes, x.size - count)[x.size - count]
        above = np.flatnonzero(magnitudes > least)
        places = np.sort(np.concatenate([above, np.flatnonzero(magnitudes == least)[: count - above.size]]))
    values = np.clip(x[places], -LARGEST_HALF, LARGEST_HALF).astype(np.float16).astype(f32)
    return Outliers(places.astype(np.int64), values)


def to_bytes(geometry: Geometry, rows: int, outliers: Outliers) -> Bytes:
    n_groups = -(-rows * geometry.columns // OUTLIER_GROUP)
    counts = np.bincount(outliers.places // OUTLIER_GROUP, minlength=n_groups).astype("<u4")
    places = (outliers.places % OUTLIER_GROUP).astype("<u2")
    return np.concatenate(
        [counts.view(np.uint8), places.view(np.uint8), outliers.values.astype("<f2").view(np.uint8)]
    )


def from_bytes(geometry: Geometry, rows: int, section: Bytes) -> Outliers:
    """The inverse of `to_bytes`. Raises OutlierError if counts, places or values are not valid."""
    n_weights = rows * geometry.columns
    n_groups = -(-n_weights // OUTLIER_GROUP)
    if section.size < 4 * n_groups:
        raise OutlierError("shorter than the counts of its groups")
    counts = np.frombuffer(section[: 4 * n_groups].tobytes(), "<u4")
    total = sum(counts.tolist())
    if section.size != geometry.outlier_bytes(rows, total):
        raise OutlierError(
            f"{section.size} bytes long, but {total} outliers take {geometry.outlier_bytes(rows, total)}"
        )
    rest = section[4 * n_groups :].tobytes()
    places = np.frombuffer(rest[: 2 * total], "<u2").astype(np.int64) + np.repeat(
        np.arange(n_groups) * OUTLIER_GROUP, counts
    )
    values = np.frombuffer(rest[2 * total :], "<f2").astype(f32)
    if total and (places[-1] >= n_weights or (np.diff(places) <= 0).any()):
        raise OutlierError("out of order, or beyond the last weight")
    if not np.isfinite(values).all():
        raise OutlierError("not finite")
    return Outliers(places, values)
