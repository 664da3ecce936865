"""The axes of the family as enumerations: numbers in the descriptor, lower-case names in the text form."""

from __future__ import annotations

import enum


class Quantizer(enum.IntEnum):
    """How a code q becomes a weight."""

    LOSSLESS = 0
    """No codes: the bytes of the source, as planes."""
    ABSMAX = 1
    """scale * q, q signed"""
    AFFINE = 2
    """scale * (q - zero)"""
    MIN = 3
    """scale * q + min"""
    CODEBOOK = 4
    """scale * codebook[q]; a codebook learned from the weights themselves has no scale"""
    TERNARY = 5
    """scale * (q - 1), the scale being the mean magnitude; five codes to a byte"""
    SIGN = 6
    """-scale or scale, the scale being the mean magnitude"""


class Granularity(enum.IntEnum):
    """Which weights share a scale, or a learned codebook."""

    NONE = 0
    """lossless"""
    BLOCK = 1
    """`block` weights, in the order of the flattened chunk"""
    ROW = 2
    COLUMNS = 3
    """`block` adjacent columns, over all rows"""
    TENSOR = 4


class Codebook(enum.IntEnum):
    """Where the values of a codebook come from. NF4 to LOG are fixed, the others are learned."""

    NONE = 0
    NF4 = 1
    FP4 = 2
    AF4 = 3
    LOG = 4
    """sign and power: +-base**-j"""
    KMEANS = 5
    QUANTILE = 6


class ScaleType(enum.IntEnum):
    """How scales and mins are stored; if they are nested, how meta-scales and offsets are stored."""

    F32 = 0
    F16 = 1
    BF16 = 2

    @property
    def nbytes(self) -> int:
        return 4 if self is ScaleType.F32 else 2


class Nesting(enum.IntEnum):
    """How scales are quantized in super-blocks (double quantization)."""

    NONE = 0
    LINEAR = 1
    """scale = meta * code"""
    OFFSET = 2
    """scale = meta * code + offset, both per super-block"""
    DYNAMIC = 3
    """scale = meta * dynamic[code] + offset, the offset per tensor: as in bitsandbytes"""


class Range(enum.IntEnum):
    """Which range of the weights the codes cover; weights outside it saturate."""

    FULL = 0
    PERCENTILE = 1
    """magnitudes up to a quantile of the weights that share a scale"""
    CLIP = 2
    """magnitudes up to a given value"""
    SEARCH = 3
    """the shrunk range with the least squared error, weighted by importance"""


class Entropy(enum.IntEnum):
    """How the sections of a chunk are stored."""

    NONE = 0
    ZSTD = 1


class SourceType(enum.IntEnum):
    """The type of the weights before encoding: for lossless that of the planes, otherwise only a note."""

    F32 = 0
    F16 = 1
    BF16 = 2
    F64 = 3

    @property
    def nbytes(self) -> int:
        return {SourceType.F32: 4, SourceType.F64: 8}.get(self, 2)
