"""BlockFormat: what one file of this package declares about one block format, and what follows from it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from construct import Construct
from numpy.typing import NDArray

from gguflow.errors import ShapeError

Fields = Mapping[str, Any]
"""One block taken apart: the grammar's field names and their values (integers, or lists of integers)."""

Floats = NDArray[np.float32]

Importance = Literal["unused", "optional", "required"]
"""Whether an encoder takes per-weight importance. "required" formats are too coarse to encode without it:
ggml refuses, and so do we.
"""


@dataclass(frozen=True)
class ReservedCode:
    """A bit pattern that a good block does not hold: NaN and infinity, mostly, whose exponents are all ones.

    offset: bytes from the start of the block to a little-endian word.
    width: of the word in bytes, 1, 2 or 4.
    mask: the bits that must not all be set.
    what: the field, for messages.
    tolerated: some reader gives the pattern a meaning, so it deserves a warning only.
    """

    offset: int
    width: int
    mask: int
    what: str
    tolerated: bool = False


HALF_EXPONENT = 0x7C00
"""All ones in a binary16 that is NaN or infinite."""

LARGEST_OF_HALVES = 65504.0 * 128 * 32
"""More than any block holds whose scale is a binary16: that of Q6_K, with its sub-scales and codes of 8 and 6
bits.
"""

SMALLEST_SUPER_BLOCK = 64
"""Weights: blocks of fewer have one scale."""


@dataclass(frozen=True)
class BlockFormat:
    """A block format: `block_size` weights become `type_size` bytes.

    The scalar reference (`encode_block`, `decode_block`) works on the grammar's named fields; the kernel of
    the same name in `gguflow.kernels` works on byte offsets. They are two derivations of one layout, and a
    test holds them equal to the bit.

    name: as the field writes it, upper case ("Q4_K").
    id: ggml's type number, as it stands in a file.
    block_size: weights of a block.
    dtype: NumPy's view of one packed block, little-endian, unaligned.
    grammar: construct's view of the same bytes.
    formula: one line, how a weight is made from the fields.
    summary: one line, what the block holds.
    encode_block: (x float32[block_size], importance float32[block_size] | None) -> fields.
    decode_block: fields -> float32[block_size] (number_type[1] for the integer formats and F64).
    importance: whether `encode_block` takes importance.
    weighs_rows: whether importance goes with the mean square of the whole row, so that a part of a row cannot
        be encoded alone.
    number_type: for the plain numbers that NumPy knows (all but BF16), their dtype.
    snr: signal to noise of Gaussian weights after encoding and decoding, in dB, as measured; None where
        nothing is lost.
    largest: the largest magnitude that a block can hold, infinity if its one scale overflows where it cannot;
        None for what follows from the layout, see `cut_off`.
    reserved: patterns that no good block holds; None for what follows from the layout, see `reserved_codes`.
    type_size: bytes of a block.
    """

    name: str
    id: int
    block_size: int
    dtype: np.dtype[Any]
    grammar: Construct[Any, Any]
    formula: str
    summary: str
    encode_block: Callable[[Floats, Floats | None], Fields]
    decode_block: Callable[[Fields], NDArray[Any]]
    importance: Importance = "unused"
    weighs_rows: bool = False
    number_type: np.dtype[Any] | None = None
    snr: float | None = None
    largest: float | None = None
    reserved: tuple[ReservedCode, ...] | None = None
    type_size: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "type_size", self.dtype.itemsize)
        if self.grammar.sizeof() != self.dtype.itemsize:
            raise TypeError(
                f"{self.name}: grammar has {self.grammar.sizeof()} bytes, dtype {self.dtype.itemsize}"
            )

    @property
    def key(self) -> str:
        """The name in lower case: what the command line takes, and the name of the modules."""
        return self.name.lower()

    @functools.cached_property
    def reserved_codes(self) -> tuple[ReservedCode, ...]:
        """`reserved` where it is given, else: every scale and min that is a binary16 must be finite. Those
        are the fields d, dmin and m.
        """
        if self.reserved is not None:
            return self.reserved
        halves = [
            name
            for name in ("d", "dmin", "m")
            if name in (self.dtype.names or ()) and self.dtype[name] == np.dtype("<u2")
        ]
        return tuple(
            ReservedCode(self.dtype.fields[name][1], 2, HALF_EXPONENT, name)
            for name in halves
            if self.dtype.fields
        )

    @functools.cached_property
    def cut_off(self) -> float:
        """A magnitude above which a weight is certainly not held, to within the step of the scales: a block
        whose scales look sound holds something else in its place. Infinite for blocks of one scale, whose
        overflow shows, and for plain numbers.
        """
        if self.largest is not None:
            return self.largest * (1 + 2.0**-5)
        return LARGEST_OF_HALVES if self.block_size >= SMALLEST_SUPER_BLOCK else math.inf

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.type_size / self.block_size

    @property
    def is_quantized(self) -> bool:
        """True where several weights share a block; the plain number types have a block of one."""
        return self.block_size > 1

    def row_bytes(self, n: int) -> int:
        """Bytes of a row of n weights.

        Raises ShapeError where n is no multiple of the block size.
        """
        if n % self.block_size:
            raise ShapeError(
                f"a row of {n} weights does not divide into {self.name} blocks of {self.block_size}"
            )
        return self.nbytes(n)

    def nbytes(self, n: int) -> int:
        """Bytes of n weights, n a multiple of the block size.

        The caller has proved that it is one, as `row_bytes` does.
        """
        return n // self.block_size * self.type_size

    def n_weights(self, nbytes: int) -> int:
        """Weights in `nbytes` bytes, a multiple of the type size: the caller has proved that it is one."""
        return nbytes // self.type_size * self.block_size

    def __str__(self) -> str:
        return self.name
