"""What kernels take and give, for readers and type checkers; Numba infers its own types and sees none of
these.

Arrays are C-contiguous and flat, unless a docstring says otherwise. A binary32 number is `f32`, NumPy's; a
size, place or bit set is `int`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

F32s: TypeAlias = NDArray[np.float32]
U8s: TypeAlias = NDArray[np.uint8]
U16s: TypeAlias = NDArray[np.uint16]
U32s: TypeAlias = NDArray[np.uint32]
I32s: TypeAlias = NDArray[np.int32]
I64s: TypeAlias = NDArray[np.int64]

Int: TypeAlias = Any
"""An integer of any width, in a register: codes, words, bits."""

# Lanes exist in compiled code only (see lanes.py), so to a type checker they are Any.
F32x16: TypeAlias = Any
"""A binary32 in each of 16 lanes."""
I32x16: TypeAlias = Any
"""A 32-bit integer in each of 16 lanes."""
Mask16: TypeAlias = Any
"""True or false in each of 16 lanes."""
