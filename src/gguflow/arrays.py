"""Array types and argument checks that the array functions share: importance, `out`, read-only views."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gguflow.errors import NonFiniteError, ShapeError, UsageError

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """The same memory, not writable: mapped files are, and one signature for both means that a kernel is
    compiled once.
    """
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array


def largest_magnitude(words: NDArray[Any]) -> int:
    """Of floats, given as their bits in unsigned integers: those of the largest |x|, without the sign; 0
    where there are none.

    Among the positive, and among the negative, bits are in the order of the magnitudes; those of infinity and
    of NaN come after all others.
    """
    sign = 1 << 8 * words.itemsize - 1
    return max(int(words.view(f"<i{words.itemsize}").max(initial=0)), int(words.max(initial=0)) % sign)


def output_array(out: NDArray[Any] | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The caller's `out` where it fits, a new array where there is none. Raises ShapeError."""
    if out is None:
        try:
            return np.empty(shape, dtype)
        except ValueError as error:  # a file may say 0 x 2**62
            raise ShapeError(f"{list(shape)} is more than an array can be: {error}") from error
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous or not out.flags.writeable:
        raise ShapeError(
            f"out must be writable, C-contiguous {dtype.name}{list(shape)}, not {out.dtype.name}{list(out.shape)}"
        )
    return out


def importance_of_columns(importance: ArrayLike, n: int) -> NDArray[np.float32]:
    """float32[n], C-contiguous. Raises ShapeError, UsageError where a value is negative or not finite."""
    weights = np.ascontiguousarray(importance, np.float32)
    if weights.shape != (n,):
        raise ShapeError(f"importance has shape {list(weights.shape)}; rows of {n} weights need [{n}]")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise UsageError("importance must be finite and not negative")
    return weights


def non_finite(value: Any, index: int, shape: tuple[int, ...]) -> NonFiniteError:
    """The error for a weight that is NaN or infinite. index: over the flattened array of this shape."""
    where = ", ".join(str(int(i)) for i in np.unravel_index(index, shape))
    return NonFiniteError(f"{value} at index [{where}] cannot be quantized", index)
