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
    """A read-only view, as of mapped files: with a single signature, a kernel is compiled only once."""
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array


def largest_magnitude(words: NDArray[Any]) -> int:
    """The bits of the largest |x|, without sign, in floats given as unsigned integers; 0 if there are none.

    Bits of equal sign are in the order of magnitudes; those of infinity and NaN come after all others.
    """
    sign = 1 << 8 * words.itemsize - 1
    return max(int(words.view(f"<i{words.itemsize}").max(initial=0)), int(words.max(initial=0)) % sign)


def output_array(out: NDArray[Any] | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The caller's `out` if it has this shape and dtype, or a new array if it is None. Raises ShapeError."""
    if out is None:
        try:
            return np.empty(shape, dtype)
        except ValueError as error:  # a file may say 0 x 2**62
            raise ShapeError(f"an array cannot have the shape {list(shape)}: {error}") from error
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous or not out.flags.writeable:
        raise ShapeError(
            f"out must be writable, C-contiguous {dtype.name}{list(shape)}, "
            f"not {out.dtype.name}{list(out.shape)}"
        )
    return out


def importance_of_columns(importance: ArrayLike, n: int) -> NDArray[np.float32]:
    """Importance as C-contiguous float32[n].

    Raises ShapeError, and UsageError if a value is negative or not finite.
    """
    weights = np.ascontiguousarray(importance, np.float32)
    if weights.shape != (n,):
        raise ShapeError(f"importance has shape {list(weights.shape)}; rows of {n} weights need [{n}]")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise UsageError("importance must be finite and not negative")
    return weights


def non_finite(value: Any, index: int, shape: tuple[int, ...]) -> NonFiniteError:
    """The error for a weight that is NaN or infinite, at `index` of the flattened array of this shape."""
    where = ", ".join(str(int(i)) for i in np.unravel_index(index, shape))
    return NonFiniteError(f"{value} at index [{where}] cannot be quantized", index)


def too_large(value: Any, index: int, shape: tuple[int, ...], format_name: str) -> NonFiniteError:
    """The error for finite weights whose block would decode to NaN, infinity or nothing. index: of the
    largest.
    """
    where = ", ".join(str(int(i)) for i in np.unravel_index(index, shape))
    return NonFiniteError(
        f"{value} at index [{where}] does not fit {format_name}: its block would be read as NaN, infinity or "
        "zeros; choose a wider format, or a smaller importance",
        index,
    )
