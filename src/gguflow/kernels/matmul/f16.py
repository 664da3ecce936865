"""F16 times a vector; see numbers.py."""

from __future__ import annotations

from gguflow.kernels.matmul import numbers
from gguflow.kernels.matmul.numbers import F16
from gguflow.kernels.policy import kernel
from gguflow.kernels.types import F32s, U8s


@kernel
def dot_rows(blocks: U8s, x: F32s, out: F32s) -> None:
    numbers.dot_rows(blocks, x, out, F16)
