"""A look at packed blocks, without decoding them: words that no good block holds (NaN and infinity, mostly),
and blocks whose scales are all zero.

Only the words that a format reserves are read (`BlockFormat.reserved_codes`), a few bytes of each block.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gguflow.arrays import Bytes, largest_magnitude
from gguflow.blocks.base import HALF_EXPONENT, BlockFormat, ReservedCode

WORDS: dict[int, np.dtype[Any]] = {1: np.dtype("u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4")}
"""The dtype of the words of reserved codes, by their width in bytes."""

_STRIP = 1 << 16
"""Plain numbers that are looked at in one call, so that they stay in the first-level cache between passes."""

_HALF_MAGNITUDE = 0x7FFF


def half_places(block_format: BlockFormat) -> tuple[int, int] | None:
    """The places of the one or two binary16 scales of a block, in 16-bit words (the same twice if there is
    one); None if the format's reserved codes are not of this kind.

    block_format: the format.
    """
    codes = block_format.reserved_codes
    if block_format.is_quantized and 1 <= len(codes) <= 2 and block_format.type_size % 2 == 0:
        places = [code.offset // 2 for code in codes if _is_half(code) and code.offset % 2 == 0]
        if len(places) == len(codes):
            return places[0], places[-1]
    return None


def _is_half(code: ReservedCode) -> bool:
    return code.mask == HALF_EXPONENT and code.width == 2


class Look(NamedTuple):
    """What a look at some blocks found.

    code: the reserved code that occurs first, or None; codes that a reader tolerates do not count.
    block: number of the block with this code; -1 if there is none.
    zeros: numbers of the blocks whose scales are all zero, so that they probably hold only zeros: int64[n].
    """

    code: ReservedCode | None
    block: int
    zeros: NDArray[np.int64]


_NO_BLOCKS = np.zeros(0, np.int64)

NOTHING = Look(None, -1, _NO_BLOCKS)
"""A look at blocks with sound scales, none of them zero."""


def words(data: Bytes, start: int, n_blocks: int, block_format: BlockFormat, code: ReservedCode) -> Any:
    """The words of a code in consecutive blocks, as a view: [n_blocks].

    data: flat bytes.
    start: where the first block begins, in bytes.
    n_blocks: number of blocks, 1 or more.
    block_format: their format.
    code: one of its reserved codes.
    """
    return np.ndarray(
        (n_blocks,), WORDS[code.width], data.data, start + code.offset, (block_format.type_size,)
    )


def look(packed: Bytes, block_format: BlockFormat) -> Look:
    """Look at flat packed blocks.

    packed: uint8[n * type_size], contiguous.
    block_format: their format.
    """
    n_blocks = packed.size // block_format.type_size
    codes = block_format.reserved_codes
    if not n_blocks or not codes:
        return Look(None, -1, _NO_BLOCKS)
    if codes[0].width == block_format.type_size:
        return _look_at_numbers(words(packed, 0, n_blocks, block_format, codes[0]), codes[0])
    found, first = None, n_blocks
    union: Any = None
    for code in codes:
        scales = words(packed, 0, n_blocks, block_format, code)
        scales = scales & scales.dtype.type(_HALF_MAGNITUDE if _is_half(code) else code.mask)
        if not code.tolerated and int(scales.max()) >= code.mask:
            bad = int((scales >= code.mask).argmax())
            if bad < first:
                found, first = code, bad
        union = scales if union is None else union | scales
    zeros = np.flatnonzero(union == 0) if int(union.min()) == 0 else _NO_BLOCKS
    return Look(found, first if found is not None else -1, zeros)


def _look_at_numbers(numbers: NDArray[Any], code: ReservedCode) -> Look:
    """Look at plain numbers: all are zeros, or none counts as one."""
    is_silent = True
    for i in range(0, len(numbers), _STRIP):
        strip = numbers[i : i + _STRIP]
        largest = largest_magnitude(strip)
        is_silent = is_silent and largest == 0
        if largest >= code.mask:
            bad = (strip & strip.dtype.type(code.mask)) == code.mask
            return Look(code, i + int(bad.argmax()), _NO_BLOCKS)
    return Look(None, -1, np.arange(len(numbers)) if is_silent else _NO_BLOCKS)
