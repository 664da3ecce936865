"""The grids of the I-quants: the tables are ggml's, the encoders' neighbour lists are the definition's, and
what is peculiar to a format.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gguflow.blocks import FORMATS
from gguflow.blocks.grids import SHAPES, even_signs, grid
from gguflow.quantization import dequantize, quantize
from testing import ggml

ROOT = Path(__file__).resolve().parents[2]
NAMES = pytest.mark.parametrize("name", SHAPES)


def test_grid_tables_are_what_ggml_decodes() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/make_grids"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@NAMES
def test_points_are_distinct_combinations_of_levels(name: str) -> None:
    points = grid(name)
    assert len(points.index) == len(points.codes) == SHAPES[name][0]
    assert points.levels.max() == len(points.values) - 1
    assert [points.pack(levels) for levels in points.levels] == list(points.codes)


@NAMES
def test_neighbour_lists_of_the_kernels_are_those_of_the_definition(name: str) -> None:
    from gguflow.kernels.grid_search import tables

    points, table = grid(name), tables(name)
    rng = np.random.default_rng(0)
    off_grid = 0
    for _ in range(300):
        code = points.pack(rng.integers(0, len(points.values), points.group))
        first, last = table.starts[code], table.starts[code + 1]
        if code in points.index:
            assert (table.point[code], first) == (points.index[code], last)
        else:
            off_grid += 1
            assert table.point[code] == -1
            assert list(table.neighbours[first:last]) == list(points.codes[points.neighbours(code)])
    assert off_grid > 100


@pytest.mark.parametrize("bits", [0b0000000, 0b0000001, 0b1000000, 0b1010101, 0b1111111])
def test_eight_signs_have_an_even_number_of_minuses(bits: int) -> None:
    assert even_signs(bits) & 127 == bits
    assert even_signs(bits).bit_count() % 2 == 0


def test_zero_sub_block_of_iq3_s_shifts_those_after_it() -> None:
    """ggml writes the indices and signs after a sub-block of zeros one place too early; with equal bytes goes
    that the block decodes wrongly.
    """
    iq3_s = FORMATS["iq3_s"]
    x = np.random.default_rng(1).standard_normal(256).astype(np.float32)
    x[64:96] = 0
    packed = quantize(x, iq3_s)
    assert (packed == ggml.quantize(x[None], iq3_s)[0]).all()
    error = np.abs(dequantize(packed, iq3_s) - x).reshape(8, 32).max(axis=1)
    assert error[:2].max() < 0.5 < error[3:].max()
    assert (packed[2 + 56 : 66] == 0).all() and (packed[74 + 28 : 106] == 0).all()
