"""Tables of a tensor, found in a first pass: learned codebooks, scales outside of chunks, nesting offset.

Partial results are kept by chunk and joined in the order of the chunks, with exactly rounded sums, so that
the tables do not depend on threads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gguflow.arrays import Floats
from gguflow.parametric.axes import Quantizer, Range
from gguflow.parametric.geometry import Geometry

f32 = np.float32
Tables = dict[str, Floats]

LARGEST = float(np.finfo(np.float32).max)


def observe(geometry: Geometry, x: Floats) -> dict[str, Any]:
    """The contribution of one chunk, flat x, to all tables but codebooks (for these see `learning`)."""
    from gguflow.kernels import block_statistics as kernels

    e = geometry.encoding
    block = geometry.scale_block
    n = -(-x.size // block)
    if e.needs_offset:
        peaks = np.empty(n, f32)
        kernels.peaks(x, block, peaks)
        return {"sum": math.fsum(peaks.tolist()), "count": n}
    groups = (-1, geometry.n_groups)
    if e.quantizer in (Quantizer.TERNARY, Quantizer.SIGN):
        sums = np.empty(n, f32)
        kernels.magnitude_sums(x, block, sums)
        return {
            "sums": [math.fsum(column) for column in sums.reshape(groups).T.tolist()],
            "count": x.size // geometry.n_groups,
        }
    bottoms, tops = np.empty(n, f32), np.empty(n, f32)
    kernels.ranges(x, block, bottoms, tops)
    return {"bottoms": bottoms.reshape(groups).min(axis=0), "tops": tops.reshape(groups).max(axis=0)}


def join(geometry: Geometry, partial: Mapping[int, Mapping[str, Any]]) -> Tables:
    """The tables from the contributions of all chunks."""
    e = geometry.encoding
    parts = [partial[i] for i in sorted(partial)]
    if e.needs_offset:
        return {
            "offset": np.array([math.fsum(p["sum"] for p in parts) / sum(p["count"] for p in parts)], f32)
        }
    if e.quantizer in (Quantizer.TERNARY, Quantizer.SIGN):
        count = sum(p["count"] for p in parts)
        means = [math.fsum(sums) / count for sums in zip(*(p["sums"] for p in parts), strict=True)]
        return {"scales": np.array([min(mean, LARGEST) for mean in means], f32)}
    limit = f32(e.clip if e.range is Range.CLIP else np.inf)
    bottoms = np.maximum(np.min([p["bottoms"] for p in parts], axis=0), -limit)
    tops = np.minimum(np.max([p["tops"] for p in parts], axis=0), limit)
    return _scales_of_ranges(geometry, bottoms, tops)


def _scales_of_ranges(geometry: Geometry, bottoms: Floats, tops: Floats) -> Tables:
    e = geometry.encoding
    if e.quantizer in (Quantizer.ABSMAX, Quantizer.CODEBOOK):
        steps = f32(1) if e.quantizer is Quantizer.CODEBOOK else f32((1 << (e.bits - 1)) - 1)
        return {"scales": (np.maximum(-bottoms, tops) / steps).astype(f32)}
    q_max = f32((1 << e.bits) - 1)
    if e.quantizer is Quantizer.AFFINE:
        bottoms, tops = np.minimum(bottoms, f32(0)), np.maximum(tops, f32(0))
    with np.errstate(over="ignore"):
        span = tops - bottoms
        scales = np.where(np.isfinite(span), span / q_max, tops / q_max - bottoms / q_max)
    if e.quantizer is Quantizer.MIN:
        return {"scales": scales.astype(f32), "zeros": bottoms}
    with np.errstate(divide="ignore", invalid="ignore"):
        zeros = np.where(scales > 0, np.clip(np.rint(-bottoms / scales), f32(0), q_max), f32(0))
    return {"scales": scales.astype(f32), "zeros": zeros.astype(f32)}
