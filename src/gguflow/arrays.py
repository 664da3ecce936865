"""Array types and argument checks that the array functions share: importance, `out`, read-only views."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gguflow.arguments import shown
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


MOST_IMPORTANCE = float(1 << 64)
"""The largest importance: with more, the sums of weighted squares in a search leave the range of float32."""


def as_array(value: ArrayLike, name: str) -> NDArray[Any]:
    """An argument that is an array, or becomes one.

    value: what was passed.
    name: of the argument.

    Raises ShapeError for what has no shape (lists of different lengths), and for masked entries, which have
    no value.
    """
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ShapeError(
            f"{name} has masked entries, and those have no value; {name}.filled(...) gives them one"
        )
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise ShapeError(f"{name} must be an array: {error}") from error


def separate(array: NDArray[Any], out: NDArray[Any]) -> NDArray[Any]:
    """The array, or a copy where it lies in memory that is written while it is read."""
    return array.copy() if np.may_share_memory(array, out) else array


def output_array(out: NDArray[Any] | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The caller's `out` if it has this shape and dtype, or a new array if it is None.

    out: an array; of a subclass (np.memmap), its plain view.
    shape: that the result has.
    dtype: that the result has.

    Raises ShapeError.
    """
    if out is None:
        try:
            return np.empty(shape, dtype)
        except ValueError as error:  # a file may say 0 x 2**62
            raise ShapeError(f"an array cannot have the shape {list(shape)}: {error}") from error
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        found = "a masked array" if isinstance(out, np.ma.MaskedArray) else shown(out)
        raise ShapeError(f"out must be a NumPy array, {dtype.name}{list(shape)}, not {found}")
    out = np.asarray(out)
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous or not out.flags.writeable:
        raise ShapeError(
            f"out must be writable, C-contiguous {dtype.name}{list(shape)}, "
            f"not {out.dtype.name}{list(out.shape)}"
        )
    return out


def importance_of_columns(importance: ArrayLike, n: int) -> NDArray[np.float32]:
    """Importance as C-contiguous float32[n].

    importance: numbers, one for each column.
    n: the number of columns.

    Raises ShapeError, and UsageError for a value that is negative, not finite, or above MOST_IMPORTANCE.
    """
    array = as_array(importance, "importance")
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise ShapeError(f"importance must be float32[{n}], not {array.dtype.name}{list(array.shape)}")
    if array.shape != (n,):
        raise ShapeError(f"importance has shape {list(array.shape)}; rows of {n} weights need [{n}]")
    with np.errstate(over="ignore"):
        weights = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise UsageError("importance must be finite and not negative")
    if (weights > MOST_IMPORTANCE).any():
        raise UsageError(
            f"importance must not be above {MOST_IMPORTANCE:g}; only ratios count: divide all by one number"
        )
    return weights


def non_finite(value: Any, index: int, shape: tuple[int, ...]) -> NonFiniteError:
    """The error for a weight that is NaN or infinite, at `index` of the flattened array of this shape."""
    where = ", ".join(str(int(i)) for i in np.unravel_index(index, shape))
    return NonFiniteError(f"{value} at index [{where}] cannot be quantized", index)


def too_large(value: Any, index: int, shape: tuple[int, ...], format_name: str) -> NonFiniteError:
    """The error for finite weights whose block would decode to NaN, infinity or nothing, or that would be cut
    off. index: of the largest.
    """
    where = ", ".join(str(int(i)) for i in np.unravel_index(index, shape))
    return NonFiniteError(
        f"{value} at index [{where}] does not fit {format_name}: its block would be read as NaN, infinity, "
        "zeros or much smaller numbers; choose a wider format, or a smaller importance",
        index,
    )
