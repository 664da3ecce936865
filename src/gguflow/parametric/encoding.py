"""Encoding: one point of the parametric super-block family, as parameters. Pure: it knows neither arrays nor
shapes.

A tensor in the family is codes of k bits in blocks, a quantizer that gives them meaning, scales (and zero
points or mins) that may be quantized themselves in super-blocks, outliers kept aside, and entropy coding. The
specification is spec/blocks/parametric.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from gguflow.errors import UsageError
from gguflow.parametric.axes import Codebook, Entropy, Granularity, Nesting, Quantizer, Range, ScaleType

MAX_BLOCK = 1024
MAX_SUPER_BLOCK = 1 << 16
MAX_OUTLIERS = 100_000
"""In parts per million, as `Encoding.outliers`."""


@dataclass(frozen=True)
class Encoding:
    """The parameters; one that is not used is zero, so that equal encodings compare equal.

    bits: of a code, 1 to 8; 0 for lossless and ternary. block: weights (BLOCK) or columns (COLUMNS) that
    share a scale.
    scale_bits, super_block: of nested scales: bits per sub-scale, and how many sub-scales share a meta-scale.
    min_bits: of a zero point, or of a nested min. log_base: of the LOG codebook.
    percentile: which quantile of the magnitudes, in parts per million. clip: the largest magnitude (both: see
    Range).
    outliers: the share of weights that are kept aside, the largest of a chunk, in parts per million;
    outlier_threshold: or those that exceed it.

    Raises UsageError where the parameters contradict each other.
    """

    quantizer: Quantizer
    bits: int = 0
    granularity: Granularity = Granularity.BLOCK
    block: int = 0
    codebook: Codebook = Codebook.NONE
    scale_type: ScaleType = ScaleType.F32
    nesting: Nesting = Nesting.NONE
    scale_bits: int = 0
    super_block: int = 0
    min_bits: int = 0
    log_base: float = 0.0
    range: Range = Range.FULL
    percentile: int = 0
    clip: float = 0.0
    outliers: int = 0
    outlier_threshold: float = 0.0
    entropy: Entropy = Entropy.NONE

    def __post_init__(self) -> None:
        problem = next(contradictions(self), None)
        if problem is not None:
            raise UsageError(f"no such encoding: {problem}")

    @property
    def name(self) -> str:
        """The preset's name where these parameters have one, else their canonical text (`sb:...`)."""
        # A value and its spelling know each other: names.py makes encodings, so it is imported when called.
        import gguflow.parametric.names as names

        return names.name_of(self)

    # What recipes and plans ask of a format, answered as `BlockFormat` answers it.

    @property
    def key(self) -> str:
        return self.name

    @property
    def block_size(self) -> int:
        """Of which a row's length is a multiple: any row fits, for a last block is padded."""
        return 1

    @property
    def is_quantized(self) -> bool:
        return True

    @property
    def importance(self) -> str:
        """Whether the encoder weighs errors by importance: "optional" or "unused"."""
        return "optional" if self.range is Range.SEARCH or self.is_learned else "unused"

    def __str__(self) -> str:
        return self.name

    @property
    def is_lossless(self) -> bool:
        return self.quantizer is Quantizer.LOSSLESS

    @property
    def is_learned(self) -> bool:
        """Whether a codebook is learned from the weights."""
        return self.codebook in (Codebook.KMEANS, Codebook.QUANTILE)

    @property
    def has_row_codebooks(self) -> bool:
        return self.is_learned and self.granularity is Granularity.ROW

    @property
    def has_table_codebooks(self) -> bool:
        """Whether codebooks stand in the tables: one, or one for each column group."""
        return self.is_learned and self.granularity is not Granularity.ROW

    @property
    def has_table_scales(self) -> bool:
        """Whether scales stand in the tables: one, or one for each column group."""
        return self.granularity in (Granularity.COLUMNS, Granularity.TENSOR) and not self.is_learned

    @property
    def has_chunk_scales(self) -> bool:
        """Whether scales stand in the chunks: one for each block, or for each row."""
        return self.granularity is Granularity.BLOCK or (
            self.granularity is Granularity.ROW and not self.is_learned
        )

    @property
    def is_nested(self) -> bool:
        return self.nesting is not Nesting.NONE

    @property
    def needs_first_pass(self) -> bool:
        """Whether the tables hold what only all of the tensor can tell."""
        return self.has_table_codebooks or self.has_table_scales or self.needs_offset

    @property
    def needs_offset(self) -> bool:
        """Whether the tables hold the offset of all nested scales."""
        return self.nesting is Nesting.DYNAMIC

    @property
    def has_outliers(self) -> bool:
        return self.outliers > 0 or self.outlier_threshold > 0

    @property
    def is_fixed_size(self) -> bool:
        """Whether the size of a payload follows from the shape alone."""
        return self.entropy is Entropy.NONE and self.outlier_threshold == 0

    @property
    def code_bits(self) -> float:
        return 1.6 if self.quantizer is Quantizer.TERNARY else float(self.bits)

    @property
    def bits_per_weight(self) -> float:
        """Of a large tensor before entropy coding: codes, scales, zero points, outliers; not tables and
        padding. Lossless: 16, as of bf16.

        What belongs to a row, a column group or the tensor counts nothing: its share goes to zero as the
        tensor grows.
        """
        if self.is_lossless:
            return 16.0
        share = self._scale_share() if self.granularity is Granularity.BLOCK else 0.0
        return self.code_bits + share + self.outliers * 32 / 1e6

    def _scale_share(self) -> float:
        """Bits per weight that block scales, zero points and mins take."""
        real = 8 * self.scale_type.nbytes
        if not self.is_nested:
            return (real + (real if self.quantizer is Quantizer.MIN else self.min_bits)) / self.block
        return (self.scale_bits + self.min_bits + self.n_meta * real / self.super_block) / self.block

    @property
    def n_meta(self) -> int:
        """Meta-scales and offsets of a super-block."""
        own = {Nesting.NONE: 0, Nesting.LINEAR: 1, Nesting.OFFSET: 2, Nesting.DYNAMIC: 1}[self.nesting]
        return own + (2 if self.is_nested and self.quantizer is Quantizer.MIN else 0)


def contradictions(e: Encoding) -> Iterator[str]:
    """What is wrong with these parameters, first things first; nothing where they are an encoding."""
    yield from _of_codes(e)
    yield from _of_blocks(e)
    yield from _of_scales(e)
    yield from _of_range(e)
    if not 0 <= e.outliers <= MAX_OUTLIERS:
        yield f"at most {MAX_OUTLIERS} outliers in a million, not {e.outliers}"
    if not (_is_binary32(e.outlier_threshold) and e.outlier_threshold >= 0):
        yield "the threshold of outliers is a positive binary32"
    if e.outliers and e.outlier_threshold:
        yield "outliers are either a share or those above a threshold"
    if e.is_lossless and (e.has_outliers or e.entropy is not Entropy.ZSTD):
        yield "lossless has no outliers, and is entropy-coded"


def _of_codes(e: Encoding) -> Iterator[str]:
    first, last = {
        Quantizer.LOSSLESS: (0, 0),
        Quantizer.TERNARY: (0, 0),
        Quantizer.SIGN: (1, 1),
        Quantizer.ABSMAX: (2, 8),
    }.get(e.quantizer, (1, 8))
    if e.codebook in (Codebook.NF4, Codebook.FP4, Codebook.AF4):
        first = last = 4
    elif e.codebook is Codebook.LOG:
        first = 2
    if not first <= e.bits <= last:
        yield f"{e.quantizer.name.lower()} codes have {first} to {last} bits, not {e.bits}"
    if (e.quantizer is Quantizer.CODEBOOK) != (e.codebook is not Codebook.NONE):
        yield "a codebook goes with the quantizer codebook, and with no other"
    if e.codebook is Codebook.LOG:
        if not (_is_binary32(e.log_base) and 1 < e.log_base <= 16):
            yield "the base of a logarithmic codebook is a binary32 above 1, at most 16"
    elif e.log_base:
        yield "only a logarithmic codebook has a base"


def _of_blocks(e: Encoding) -> Iterator[str]:
    if (e.granularity is Granularity.NONE) != e.is_lossless:
        yield "only lossless has no granularity"
    if e.granularity in (Granularity.BLOCK, Granularity.COLUMNS):
        if not (16 <= e.block <= MAX_BLOCK and e.block % 16 == 0):
            yield f"a block is a multiple of 16, at most {MAX_BLOCK}, not {e.block}"
    elif e.block:
        yield "only blocks and column groups have a size"


def _of_scales(e: Encoding) -> Iterator[str]:
    if (e.has_table_scales or e.is_lossless) and e.scale_type is not ScaleType.F32:
        yield "scales in the tables are f32"
    if e.is_nested:
        if e.granularity is not Granularity.BLOCK:
            yield "only block scales are nested"
        if not 2 <= e.super_block <= MAX_SUPER_BLOCK:
            yield f"a super-block has 2 to {MAX_SUPER_BLOCK} sub-blocks, not {e.super_block}"
        low = 8 if e.nesting is Nesting.DYNAMIC else 2
        if not low <= e.scale_bits <= 8:
            yield f"nested scales have {low} to 8 bits, not {e.scale_bits}"
    elif e.scale_bits or e.super_block:
        yield "only nested scales have bits and super-blocks"
    if e.quantizer is Quantizer.AFFINE:
        if not e.bits <= e.min_bits <= 8:
            yield f"a zero point has as many bits as a code or more, at most 8, not {e.min_bits}"
    elif e.quantizer is Quantizer.MIN and e.is_nested:
        if not 2 <= e.min_bits <= 8:
            yield f"nested mins have 2 to 8 bits, not {e.min_bits}"
    elif e.min_bits:
        yield "only zero points and nested mins have bits of their own"


def _of_range(e: Encoding) -> Iterator[str]:
    if e.range is not Range.FULL and (
        e.is_learned or e.quantizer in (Quantizer.LOSSLESS, Quantizer.TERNARY, Quantizer.SIGN)
    ):
        yield f"the range of {e.quantizer.name.lower()} codes is not chosen"
    if e.range in (Range.PERCENTILE, Range.SEARCH) and e.has_table_scales:
        yield "a percentile or a search needs the weights of a scale at hand: blocks or rows"
    if not (e.percentile == 0 if e.range is not Range.PERCENTILE else 500_000 <= e.percentile < 1_000_000):
        yield "a percentile is 500000 to 999999 parts in a million"
    if not _is_binary32(e.clip) or (e.clip <= 0 if e.range is Range.CLIP else e.clip != 0):
        yield "the magnitude to clip at is a positive binary32"


def _is_binary32(value: float) -> bool:
    """Whether the value is finite and stands in a descriptor as it is."""
    if not math.isfinite(value) or abs(value) > 3.4e38:
        return False
    (stored,) = struct.unpack("<f", struct.pack("<f", value))
    return bool(stored == value)
