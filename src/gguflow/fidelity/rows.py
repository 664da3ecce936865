"""Checks that searches share: rows of weights on their way in, and blocks on their way out."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from gguflow.arrays import Bytes, Floats, as_array, non_finite, too_large
from gguflow.blocks import BlockFormat
from gguflow.errors import ShapeError
from gguflow.quantization import first_non_finite, first_unsound, look


def checked_rows(weights: ArrayLike, block_format: BlockFormat) -> Floats:
    """The weights as C-contiguous float32[..., n].

    Raises ShapeError, and NonFiniteError with the index of the first weight that is NaN or infinite.
    """
    array = as_array(weights, "weights")
    if array.dtype != np.float32 or array.ndim == 0:
        raise ShapeError(f"weights must be float32[..., n], not {array.dtype.name}{list(array.shape)}")
    block_format.row_bytes(array.shape[-1])
    array = np.ascontiguousarray(array)
    bad = first_non_finite(array.reshape(-1))
    if bad >= 0:
        raise non_finite(array.reshape(-1)[bad], bad, array.shape)
    return array


def check_held(packed: Bytes, block_format: BlockFormat, weights: Floats, at: int, of: Floats) -> None:
    """Raise NonFiniteError where blocks do not hold the weights that they were made of.

    packed: uint8, flat. weights: float32, flat.
    at: index of the first of them in the array `of`.
    """
    bad = first_unsound(look(packed, block_format), packed, block_format, weights)
    if bad >= 0:
        raise too_large(weights[bad], at + bad, of.shape, block_format.name)
