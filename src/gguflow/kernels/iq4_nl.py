"""IQ4_NL on lanes: 16 blocks at a time, one in each lane."""

from __future__ import annotations

import numpy as np

from gguflow.kernels.bits import load_half, store_half
from gguflow.kernels.finite import is_finite
from gguflow.kernels.iq4 import VALUES, error_weights, fit_scale, inverse_or_zero, store_codes
from gguflow.kernels.lanes import load, lookup16, splat, store, store_onward, transpose16
from gguflow.kernels.nibbles import load_nibbles
from gguflow.kernels.policy import kernel
from gguflow.kernels.types import F32s, U8s

f32 = np.float32

BLOCK_SIZE = 32
TYPE_SIZE = 18
BATCH = 16


@kernel
def quantize_blocks(x: F32s, out: U8s) -> int:
    return _encode(x, x, False, out)


@kernel
def quantize_blocks_weighted(x: F32s, importance: F32s, out: U8s) -> int:
    return _encode(x, importance, True, out)


@kernel
def _encode(x: F32s, importance: F32s, weighted: bool, out: U8s) -> int:
    n_blocks = x.size // BLOCK_SIZE
    natural = np.zeros(BATCH * BLOCK_SIZE, f32)
    lanes = np.empty(BATCH * BLOCK_SIZE, f32)
    w = np.empty(BATCH * BLOCK_SIZE, f32)
    d = np.empty(BATCH, f32)
    for first in range(0, n_blocks, BATCH):
        count = min(BATCH, n_blocks - first)
        if not is_finite(x, first * BLOCK_SIZE, count * BLOCK_SIZE):
            return first * BLOCK_SIZE
        for i in range(0, count * BLOCK_SIZE, 16):
            store(natural, i, load(x, first * BLOCK_SIZE + i))
        _to_lanes(natural, lanes)
        if weighted:
            for k in range(count):
                entry = (first + k) % (importance.size // BLOCK_SIZE)
                for i in range(0, BLOCK_SIZE, 16):
                    store(natural, k * BLOCK_SIZE + i, load(importance, entry * BLOCK_SIZE + i))
            _to_lanes(natural, w)
        total_square = splat(f32(0))
        for i in range(BLOCK_SIZE):
            v = load(lanes, 16 * i)
            total_square = total_square + v * v
        for i in range(BLOCK_SIZE):
            v = load(lanes, 16 * i)
            u = v * v
            if weighted:
                u = error_weights(v, load(w, 16 * i), total_square, f32(2 / BLOCK_SIZE))
            store(w, 16 * i, u)
        scale = fit_scale(lanes, w)
        store(d, 0, scale)
        for k in range(count):
            store_half(out, (first + k) * TYPE_SIZE, d[k])
        store_codes(lanes, inverse_or_zero(scale), w, out, first * TYPE_SIZE + 2, TYPE_SIZE, count)
    return x.size


@kernel
def _to_lanes(natural: F32s, lanes: F32s) -> None:
    transpose16(natural, 0, BLOCK_SIZE, lanes, 0)
    transpose16(natural, 16, BLOCK_SIZE, lanes, 16)


@kernel
def dequantize_blocks(blocks: U8s, out: F32s) -> None:
    values = load(VALUES, 0)
    for block in range(out.size // BLOCK_SIZE):
        d = load_half(blocks, block * TYPE_SIZE)
        low, high = load_nibbles(blocks, block * TYPE_SIZE + 2)
        store_onward(out, block * BLOCK_SIZE, d * lookup16(values, low))
        store_onward(out, block * BLOCK_SIZE + 16, d * lookup16(values, high))
