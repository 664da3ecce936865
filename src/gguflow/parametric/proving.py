"""Chunks that were just encoded, held against their weights where these are so large that something could
have overflowed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

import gguflow.parametric.chunks as chunks
import gguflow.parametric.dequantizing as dequantizing
from gguflow.arrays import Bytes, Floats, largest_magnitude
from gguflow.blocks import FORMATS, reserved
from gguflow.errors import NonFiniteError
from gguflow.parametric.axes import ScaleType, SourceType
from gguflow.parametric.encoding import Encoding
from gguflow.parametric.geometry import Geometry

_HARMLESS = np.float32(65504)
"""Up to this magnitude no scale and no step can overflow, in any type of scales."""

_LARGEST_HALF = 0x7BFF
"""The bits of 65504 in binary16: rounding a larger scale stops there, and cuts weights off."""


def check_chunk(geometry: Geometry, tables: Mapping[str, Floats], i: int, x: Floats, chunk: Bytes) -> None:
    """Prove that a chunk decodes to numbers, and that its scales hold its weights.

    geometry: the layout of the payload.
    tables: the tables of the tensor.
    i: number of the chunk.
    x: its weights, flat float32.
    chunk: its bytes.

    Raises NonFiniteError, with the index in the chunk of the weight that is to blame.
    """
    if _is_harmless(x) or geometry.encoding.is_lossless:
        return
    sections = chunks.disassemble(geometry, i, chunk)
    check_sections(geometry.encoding, x, sections)
    decoded = np.empty(x.size, np.float32)
    with np.errstate(all="ignore"):
        dequantizing.decode(geometry, tables, sections, i, 0, geometry.chunk_rows(i), decoded)
    bad = np.flatnonzero(~np.isfinite(decoded))
    if bad.size:
        index = int(bad[0])
        raise NonFiniteError(
            f"{x[index]} at index {index} of a chunk would be read as {decoded[index]} from "
            f"{geometry.encoding.name}",
            index,
        )


def check_numbers(source_type: SourceType, raw: Bytes) -> None:
    """Prove that numbers that are kept as they are, are finite.

    source_type: of the numbers.
    raw: their little-endian bytes.

    Raises NonFiniteError, with the index of the first that is not.
    """
    bad = first_non_finite_number(source_type, raw)
    if bad >= 0:
        raise NonFiniteError(f"the number at index {bad} of a chunk is NaN or infinite", bad)


def first_non_finite_number(source_type: SourceType, raw: Bytes) -> int:
    """The index of the first NaN or infinity among numbers, or -1.

    source_type: of the numbers.
    raw: their little-endian bytes.
    """
    return reserved.look(raw, FORMATS[source_type.name.lower()]).block


def check_sections(e: Encoding, x: Floats, sections: Mapping[str, Bytes]) -> None:
    """Prove that the scales of some weights are not cut off at the end of binary16.

    e: the encoding.
    x: the weights, flat float32.
    sections: their sections, before entropy coding.

    Raises NonFiniteError, with the index of the largest weight.
    """
    if e.scale_type is not ScaleType.F16 or _is_harmless(x):
        return
    real = {"meta"} if e.is_nested else {"scales"} if e.min_bits else {"scales", "zeros"}
    for name in real & sections.keys():
        if largest_magnitude(sections[name].view("<u2")) >= _LARGEST_HALF:
            index = int(np.abs(x).argmax())
            raise NonFiniteError(
                f"{x[index]} at index {index} of a chunk does not fit {e.name}: its scales are binary16",
                index,
            )


def _is_harmless(x: Floats) -> bool:
    return largest_magnitude(x.view(np.uint32)) < int(_HARMLESS.view(np.uint32))
