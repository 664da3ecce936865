"""Half precision by the processor where it can, in integer arithmetic elsewhere: the same values (see ../bits.py)."""

from __future__ import annotations

from typing import Any

from gguflow.kernels import bits
from gguflow.kernels.policy import helper
from gguflow.lanes import extend_half, has_half_conversion, load_half_word, load_u16


@helper
def load_half(blocks: Any, i: Any) -> Any:
    """The float32 value of the little-endian half at byte i of a flat uint8 array."""
    if has_half_conversion():
        return extend_half(load_half_word(blocks, i))
    return bits.half_to_float_scalar(load_half_word(blocks, i))


@helper
def load_halves(blocks: Any, i: Any) -> Any:
    """The float32 values of 16 little-endian halves from byte i, as lanes."""
    if has_half_conversion():
        return extend_half(load_u16(blocks, i))
    return bits.half_to_float(load_u16(blocks, i))
