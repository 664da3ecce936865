"""Codes and scales of a payload as separate arrays, so that they move between containers unchanged.

This works if they alone determine the weights: codes of 4 or 8 bits with a scale for each block or row, no
zero points, no outliers. An item of a view is a byte of codes, a scale, the code of a nested scale, or a
meta-scale; the items of a tensor are numbered across its chunks, without the padding at the end of a chunk.
"""

from __future__ import annotations

import enum
from dataclasses import replace

import numpy as np

import gguflow.parametric.dequantizing as dequantizing
from gguflow.arrays import Bytes
from gguflow.parametric.axes import Entropy, Granularity, Nesting, Quantizer, ScaleType
from gguflow.parametric.encoding import Encoding
from gguflow.parametric.geometry import Geometry
from gguflow.parametric.payload import Payload


class View(enum.Enum):
    """What a view contains."""

    WEIGHTS = "weights"
    CODES = "codes"
    """Packed codes: uint8."""
    SCALES = "scales"
    """float32; nested scales are decoded."""
    SCALE_CODES = "scale codes"
    """Codes of nested scales: uint8."""
    META = "meta"
    """Meta-scales of nested scales: float32."""


def has_views(encoding: Encoding) -> bool:
    """Whether codes and scales alone determine the weights, in whole bytes."""
    is_plain = encoding.quantizer in (Quantizer.ABSMAX, Quantizer.CODEBOOK) and not encoding.is_learned
    return is_plain and encoding.bits in (4, 8) and encoding.has_chunk_scales and not encoding.has_outliers


def has_nested_views(encoding: Encoding) -> bool:
    """Whether scales are nested as in bitsandbytes: byte codes, a meta-scale per super-block, one offset."""
    return (
        has_views(encoding) and encoding.nesting is Nesting.DYNAMIC and encoding.scale_type is ScaleType.F32
    )


def plain(encoding: Encoding) -> Encoding:
    """The encoding with the same codes and plain binary32 scales, which can hold any stored scale."""
    return replace(
        encoding,
        nesting=Nesting.NONE,
        scale_bits=0,
        super_block=0,
        scale_type=ScaleType.F32,
        entropy=Entropy.NONE,
    )


def holds(target: Encoding, source: Encoding) -> bool:
    """Whether moving codes and scales turns payloads of `source` into `target` with equal values."""
    wanted, given = replace(target, entropy=Entropy.NONE), replace(source, entropy=Entropy.NONE)
    return has_views(source) and (wanted == given or wanted == plain(given))


def weights_per_item(geometry: Geometry, view: View) -> int:
    """The number of adjacent weights, in the flattened tensor, that an item of a view covers."""
    e = geometry.encoding
    if view is View.CODES:
        return 8 // e.bits
    if view is View.WEIGHTS:
        return 1
    return geometry.scale_block * (e.super_block if view is View.META else 1)


def are_continuous(geometry: Geometry, view: View) -> bool:
    """Whether items of a view continue across chunk boundaries without a gap, and codes fill whole bytes."""
    if geometry.encoding.granularity is Granularity.ROW and geometry.columns % weights_per_item(
        geometry, View.CODES
    ):
        return False
    return (
        geometry.n_chunks == 1
        or geometry.rows_per_chunk * geometry.columns % weights_per_item(geometry, view) == 0
    )


def content(payload: Payload, i: int, view: View) -> Bytes:
    """The items of chunk i as bytes; raises what `Payload.sections` raises."""
    g = payload.geometry
    rows, sections = g.chunk_rows(i), payload.sections(i)
    n_items = -(-rows * g.columns // weights_per_item(g, view))
    if view is View.CODES:
        return sections["codes"][:n_items]
    if view is View.SCALES:
        scales = dequantizing.chunk_scales(g, payload.tables, sections, rows, 0, n_items)[0]
        return np.ascontiguousarray(scales, "<f4").view(np.uint8)
    if view is View.SCALE_CODES:
        return sections["scales"][:n_items]
    if view is View.META:
        return sections["meta"][: 4 * n_items]
    raise ValueError("weights have no stored form to view; decode them")
