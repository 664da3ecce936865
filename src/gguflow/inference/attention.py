"""Grouped-query attention: several query heads share the keys and values of one."""

from __future__ import annotations

import math

import numpy as np

from gguflow.arrays import Floats


def attend(queries: Floats, keys: Floats, values: Floats) -> Floats:
    """Causal softmax(q k^T / sqrt(d)) v for the last n tokens of a sequence: float32[n, n_heads, d].

    queries: float32[n, n_heads, d], of the last n tokens.
    keys: float32[length, n_kv_heads, d], of all tokens.
    values: float32[length, n_kv_heads, d], of all tokens.
    """
    n, n_heads, head_dim = queries.shape
    length, n_kv_heads, _ = keys.shape
    group = n_heads // n_kv_heads
    grouped = (
        queries.reshape(n, n_kv_heads, group, head_dim)
        .transpose(1, 2, 0, 3)
        .reshape(n_kv_heads, group * n, head_dim)
    )
    scores = grouped @ keys.transpose(1, 2, 0) * np.float32(1 / math.sqrt(head_dim))
    scores = scores.reshape(n_kv_heads, group, n, length)
    if n > 1:
        is_later = np.arange(length) > np.arange(length - n, length)[:, None]
        scores = np.where(is_later, np.float32(-np.inf), scores)
    weights = softmax(scores).reshape(n_kv_heads, group * n, length)
    attended = weights @ values.transpose(1, 0, 2)
    return (
        attended.reshape(n_kv_heads, group, n, head_dim).transpose(2, 0, 1, 3).reshape(n, n_heads, head_dim)
    )


def softmax(x: Floats) -> Floats:
    """Softmax over the last axis."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    weights: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return weights
