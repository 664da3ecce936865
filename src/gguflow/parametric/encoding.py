"""Encoding: the parameters of one member of the parametric super-block family, without arrays or shapes.

A tensor in the family consists of k-bit codes in blocks, a quantizer that interprets them, scales (and zero
points or mins), which may themselves be quantized in super-blocks, separate outliers, and entropy coding. The
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
    """The parameters; those not used are zero, so that equal encodings compare equal.

    quantizer: how codes become weights.
    bits: bits of a code, 1 to 8; 0 for lossless and ternary.
    granularity: which weights share a scale or a learned codebook.
    block: weights (BLOCK) or columns (COLUMNS) that share a scale.
    codebook: where the values of a codebook come from.
    scale_type: how scales are stored.
    nesting: how scales are quantized in super-blocks.
    scale_bits: bits of a nested scale.
    super_block: number of nested scales that share a meta-scale.
    min_bits: bits of a zero point, or of a nested min.
    log_base: base of the LOG codebook.
    range: which range of the weights the codes cover.
    percentile: quantile of the magnitudes at which the range ends, in parts per million.
    clip: magnitude at which the range ends.
    outliers: share of weights stored separately, the largest of a chunk, in parts per million.
    outlier_threshold: or the magnitude above which weights are stored separately.
    entropy: how the sections of a chunk are stored.

    Raises UsageError if the parameters contradict each other.
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
        """The preset's name if these parameters have one, otherwise their canonical text (`sb:...`)."""
        # A value and its spelling know each other: names.py makes encodings, so it is imported when called.
        import gguflow.parametric.names as names

        return names.name_of(self)

    # The properties of a format that recipes and plans use, with the same meaning as in `BlockFormat`.

    @property
    def key(self) -> str:
        return self.name

    @property
    def block_size(self) -> int:
        """The number that row lengths must be a multiple of: 1, since a last block is padded."""
        return 1

    @property
    def is_quantized(self) -> bool:
        return True

    @property
    def importance(self) -> str:
        """Whether the encoder weights errors by importance: "optional" or "unused"."""
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
        """Whether codebooks are in the tables: one, or one for each column group."""
        return self.is_learned and self.granularity is not Granularity.ROW

    @property
    def has_table_scales(self) -> bool:
        """Whether scales are in the tables: one, or one for each column group."""
        return self.granularity in (Granularity.COLUMNS, Granularity.TENSOR) and not self.is_learned

    @property
    def has_chunk_scales(self) -> bool:
        """Whether scales are in the chunks: one for each block, or for each row."""
        return self.granularity is Granularity.BLOCK or (
            self.granularity is Granularity.ROW and not self.is_learned
        )

    @property
    def is_nested(self) -> bool:
        return self.nesting is not Nesting.NONE

    @property
    def needs_first_pass(self) -> bool:
        """Whether the tables depend on the whole tensor."""
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
        """Bits per weight of a large tensor before entropy coding, without tables and padding.

        Counts codes, block scales, zero points and outliers; for lossless 16, as for bf16. What belongs to a
        row, a column group or the tensor is not counted: its share goes to zero as the tensor grows.
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
        """Number of meta-scales and offsets of a super-block."""
        own = {Nesting.NONE: 0, Nesting.LINEAR: 1, Nesting.OFFSET: 2, Nesting.DYNAMIC: 1}[self.nesting]
        return own + (2 if self.is_nested and self.quantizer is Quantizer.MIN else 0)


def contradictions(e: Encoding) -> Iterator[str]:
    """The errors in these parameters, the most important first; none for a valid encoding."""
    yield from _of_codes(e)
    yield from _of_blocks(e)
    yield from _of_scales(e)
    yield from _of_range(e)
    if not 0 <= e.outliers <= MAX_OUTLIERS:
        yield f"at most {MAX_OUTLIERS} weights per million can be outliers, not {e.outliers}"
    if not (_is_binary32(e.outlier_threshold) and e.outlier_threshold >= 0):
        yield "the threshold of outliers must be a positive binary32"
    if e.outliers and e.outlier_threshold:
        yield "outliers are chosen either by a share or by a threshold, not both"
    if e.is_lossless and (e.has_outliers or e.entropy is not Entropy.ZSTD):
        yield "lossless must be entropy-coded and cannot have outliers"


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
        yield f"{e.quantizer.name.lower()} codes must have {first} to {last} bits, not {e.bits}"
    if (e.quantizer is Quantizer.CODEBOOK) != (e.codebook is not Codebook.NONE):
        yield "a codebook needs the quantizer codebook, and the reverse"
    if e.codebook is Codebook.LOG:
        if not (_is_binary32(e.log_base) and 1 < e.log_base <= 16):
            yield "the base of a logarithmic codebook must be a binary32 above 1, at most 16"
    elif e.log_base:
        yield "only a logarithmic codebook can have a base"


def _of_blocks(e: Encoding) -> Iterator[str]:
    if (e.granularity is Granularity.NONE) != e.is_lossless:
        yield "only lossless has no granularity"
    if e.granularity in (Granularity.BLOCK, Granularity.COLUMNS):
        if not (16 <= e.block <= MAX_BLOCK and e.block % 16 == 0):
            yield f"a block must be a multiple of 16, at most {MAX_BLOCK}, not {e.block}"
    elif e.block:
        yield "only blocks and column groups can have a size"


def _of_scales(e: Encoding) -> Iterator[str]:
    if (e.has_table_scales or e.is_lossless) and e.scale_type is not ScaleType.F32:
        yield "scales in the tables must be f32"
    if e.is_nested:
        if e.granularity is not Granularity.BLOCK:
            yield "only block scales can be nested"
        if not 2 <= e.super_block <= MAX_SUPER_BLOCK:
            yield f"a super-block must have 2 to {MAX_SUPER_BLOCK} sub-blocks, not {e.super_block}"
        low = 8 if e.nesting is Nesting.DYNAMIC else 2
        if not low <= e.scale_bits <= 8:
            yield f"nested scales must have {low} to 8 bits, not {e.scale_bits}"
    elif e.scale_bits or e.super_block:
        yield "only nested scales can have bits and super-blocks"
    if e.quantizer is Quantizer.AFFINE:
        if not e.bits <= e.min_bits <= 8:
            yield f"a zero point must have at least as many bits as a code, at most 8, not {e.min_bits}"
    elif e.quantizer is Quantizer.MIN and e.is_nested:
        if not 2 <= e.min_bits <= 8:
            yield f"nested mins must have 2 to 8 bits, not {e.min_bits}"
    elif e.min_bits:
        yield "only zero points and nested mins can have min_bits"


def _of_range(e: Encoding) -> Iterator[str]:
    if e.range is not Range.FULL and (
        e.is_learned or e.quantizer in (Quantizer.LOSSLESS, Quantizer.TERNARY, Quantizer.SIGN)
    ):
        yield f"the range of {e.quantizer.name.lower()} codes cannot be chosen"
    if e.range in (Range.PERCENTILE, Range.SEARCH) and e.has_table_scales:
        yield "a percentile or a search needs all weights of a scale in one chunk: blocks or rows"
    if not (e.percentile == 0 if e.range is not Range.PERCENTILE else 500_000 <= e.percentile < 1_000_000):
        yield "a percentile must be 500000 to 999999 parts per million"
    if not _is_binary32(e.clip) or (e.clip <= 0 if e.range is Range.CLIP else e.clip != 0):
        yield "the magnitude to clip at must be a positive binary32"


def _is_binary32(value: float) -> bool:
    """Whether the value is finite and exactly a binary32, as a descriptor stores it."""
    if not math.isfinite(value) or abs(value) > 3.4e38:
        return False
    (stored,) = struct.unpack("<f", struct.pack("<f", value))
    return bool(stored == value)
