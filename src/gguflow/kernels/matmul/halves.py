"""Half precision by the processor where it can, in integer arithmetic elsewhere: the same values (see
../bits.py).
"""

from __future__ import annotations

import numpy as np

from gguflow.kernels import bits
from gguflow.kernels.lanes import extend_half, has_half_conversion, load_half_word, load_i32, load_u16, store
from gguflow.kernels.policy import helper
from gguflow.kernels.types import F32s, F32x16, I32s, I32x16, Int, U8s

f32 = np.float32


@helper
def half_to_float(words: I32x16) -> F32x16:
    """Lanes of 16-bit half patterns to float lanes."""
    return extend_half(words) if has_half_conversion() else bits.half_to_float(words)


@helper
def load_half(blocks: U8s, i: Int) -> f32:
    """The float32 value of the little-endian half at byte i of a flat uint8 array."""
    word = load_half_word(blocks, i)
    return extend_half(word) if has_half_conversion() else bits.half_to_float_scalar(word)


@helper
def load_halves(blocks: U8s, i: Int) -> F32x16:
    """The float32 values of 16 little-endian halves from byte i, as lanes."""
    return half_to_float(load_u16(blocks, i))


@helper
def load_scales(blocks: U8s, start: Int, stride: int, n_blocks: int, words: I32s, scales: F32s) -> None:
    """The halves that begin n_blocks blocks of `stride` bytes each, the first at byte `start`, as float32
    into scales.

    words: int32, scratch.
    scales: float32, written; both hold n_blocks rounded up to 16.

    Kernels read a scale back from memory into all lanes, which costs nothing; out of a register it would take
    a shuffle.
    """
    for block in range(n_blocks):
        words[block] = load_half_word(blocks, start + stride * block)
    for block in range(0, n_blocks, 16):
        store(scales, block, half_to_float(load_i32(words, block)))
