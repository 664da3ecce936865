"""E2M1, the 4-bit float of MXFP4 and NVFP4; the twin of kernels/fp4.py.

Source of the table: `kvalues_fp4` in ggml's ggml-common.h, the values of E2M1 (OCP Microscaling Formats, 1.0)
doubled, so that they are integers.
"""

from __future__ import annotations

import numpy as np

from gguflow.blocks.base import Floats

f32 = np.float32

VALUES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def nearest_code(v: np.float32, d: np.float32) -> int:
    """The first code with the smallest |value * d - v|, product and difference rounded to binary32."""
    errors = [abs(f32(value) * d - v) for value in VALUES]
    return errors.index(min(errors))


def decode(codes: list[int], d: np.float32) -> Floats:
    return np.array([f32(VALUES[code]) * d for code in codes], f32)
