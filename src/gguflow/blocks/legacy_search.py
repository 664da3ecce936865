"""How Q4_0, Q4_1, Q5_0 and Q5_1 use importance; the twin of kernels/legacy_search.py. The searches themselves
are those of the K-quants.
"""

from __future__ import annotations

import numpy as np

from gguflow.blocks.base import Floats
from gguflow.blocks.fits import Ladder, fit_scale_min, fit_symmetric, ordered_sum

__all__ = ["LADDER", "fit_scale_min", "fit_symmetric", "row_weights"]

f32 = np.float32

LADDER = Ladder(first=-0.9, step=0.05, last=36)


def row_weights(row: Floats, importance: Floats) -> Floats:
    """How much the error of each weight of a row counts: importance * sqrt(mean square of the row +
    weight**2).
    """
    mean_square = ordered_sum(row * row) / f32(len(row))
    weights: Floats = importance * np.sqrt(mean_square + row * row)
    return weights
