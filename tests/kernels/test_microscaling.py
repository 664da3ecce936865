"""Where the scales of MXFP4 and NVFP4 turn: against ggml, which calls log2f, and compares errors that are
rounded.
"""

from __future__ import annotations

import numpy as np

from gguflow.blocks import FORMATS
from gguflow.blocks.mxfp4 import floor_log2
from gguflow.quantization import quantize
from testing import ggml

MXFP4, NVFP4 = FORMATS["mxfp4"], FORMATS["nvfp4"]


def test_mxfp4_exponent_around_every_power_of_two() -> None:
    """log2f rounds up to the integer for up to 88 of the floats below a power of two: every one of them, and
    some on either side.
    """
    powers = np.concatenate([np.arange(1 << 23, 255 << 23, 1 << 23, dtype=np.int64), 1 << np.arange(1, 23)])
    bits = powers[:, None] + np.arange(-100, 3)
    peaks = np.unique(bits[(bits > 0) & (bits < 255 << 23)]).astype(np.uint32).view(np.float32)
    x = np.zeros((len(peaks), 32), np.float32)
    x[:, 5] = peaks
    x[:, 7] = -peaks / 3
    ours = quantize(x, MXFP4, allow_non_finite=True)
    assert (ours == ggml.quantize(x, MXFP4)).all()
    below = np.float32(np.nextafter(np.float32(2.0**-100), np.float32(0)))
    assert floor_log2(below) == -100  # the reference meets the case too
    assert floor_log2(np.nextafter(np.float32(2), np.float32(0))) == 0


def test_nvfp4_scales_of_every_size() -> None:
    """Peaks over the whole range of binary32: subnormal E4M3 scales, the jump to 448 at 256, and peaks so far
    above it that errors round to ties.
    """
    rng = np.random.default_rng(5)
    peaks = np.exp2(rng.uniform(-149, 127, (1 << 14, 1)))
    peaks[: 1 << 13] = np.exp2(rng.uniform(-14, 14, (1 << 13, 1)))
    x = (peaks * rng.uniform(-1, 1, (1 << 14, 64))).astype(np.float32)
    assert (quantize(x, NVFP4, allow_non_finite=True) == ggml.quantize(x, NVFP4)).all()


def test_fp4_midpoints() -> None:
    """Weights on, just below and just above the middle between two values, for each sign."""
    middles = np.array([0.5, 1.5, 2.5, 3.5, 5, 7, 10], np.float32)
    around = np.concatenate(
        [middles, np.nextafter(middles, np.float32(0)), np.nextafter(middles, np.float32(100)), [12]]
    ).astype(np.float32)
    x = np.zeros((21, 64), np.float32)
    for scale, row in enumerate(x):
        row[: len(around)] = around * np.float32(2.0 ** (scale - 10))
        row[32 : 32 + len(around)] = -row[: len(around)]
    for block_format in (MXFP4, NVFP4):
        assert (quantize(x, block_format, allow_non_finite=True) == ggml.quantize(x, block_format)).all(), (
            block_format.name
        )
