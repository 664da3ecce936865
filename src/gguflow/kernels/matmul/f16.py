"""F16 times a vector; see numbers.py."""

from __future__ import annotations

from typing import Any

from gguflow.kernels.matmul import numbers
from gguflow.kernels.matmul.numbers import F16
from gguflow.kernels.policy import kernel


@kernel
def dot_rows(blocks: Any, x: Any, out: Any) -> None:
    numbers.dot_rows(blocks, x, out, F16)
