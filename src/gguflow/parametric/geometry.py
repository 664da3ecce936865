"""Geometry: the layout of the payload for an encoding and a shape, in Python integers; it reads no bytes.

    payload   descriptor | tables | index (if chunk sizes vary) | chunk 0 | chunk 1 | ...
    chunk     header (if sizes vary) | section | section | ...

A chunk holds whole rows. It is encoded and decoded on its own, and an interrupted conversion repeats whole
chunks. Its sections are codes, scales, zeros (zero points or mins), meta (of super-blocks) and outliers, or
the byte planes of lossless weights; absent ones have no bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gguflow.errors import ShapeError
from gguflow.parametric.axes import Entropy, Granularity, Quantizer, SourceType
from gguflow.parametric.encoding import Encoding

DESCRIPTOR_BYTES = 256
INDEX_ENTRY_BYTES = 32
SECTION_HEADER_BYTES = 8
CHUNK_ALIGNMENT = 64
SECTION_ALIGNMENT = 8
MAX_DIMENSIONS = 8
MAX_CHUNK_WEIGHTS = 1 << 28
TARGET_WEIGHTS = 1 << 19
"""Approximate number of weights in a chunk: 2 MiB of float32."""
WIDEST_TARGET = 1 << 20
"""The most weights that a chunk takes in order to hold whole super-blocks."""
OUTLIER_GROUP = 1 << 16
"""Number of weights whose outliers are counted together, so that a position fits in 16 bits."""
OUTLIER_BYTES = 4


@dataclass(frozen=True)
class Section:
    """One section of a chunk before entropy coding.

    name: "codes", "scales", "zeros", "meta", "outliers" or "plane N".
    offset: from the start of the decoded chunk.
    nbytes: bytes.
    """

    name: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Geometry:
    """The layout of a payload.

    encoding: the encoding of the tensor.
    shape: of the tensor, in NumPy's order.
    source_type: the type of the weights before encoding.
    rows_per_chunk: as given by a descriptor; 0 lets the encoder choose.
    columns: length of the last dimension.
    rows: product of the others.

    Raises ShapeError for shapes that the encoding does not support.
    """

    encoding: Encoding
    shape: tuple[int, ...]
    source_type: SourceType = SourceType.F32
    rows_per_chunk: int = 0
    columns: int = field(init=False)
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        e = self.encoding
        if not 1 <= len(self.shape) <= MAX_DIMENSIONS or any(not 1 <= n < 1 << 63 for n in self.shape):
            raise ShapeError(
                f"a tensor of the family must have 1 to {MAX_DIMENSIONS} dimensions, none empty; "
                f"found {list(self.shape)}"
            )
        object.__setattr__(self, "columns", self.shape[-1])
        object.__setattr__(self, "rows", math.prod(self.shape[:-1]))
        if e.granularity is Granularity.COLUMNS and self.columns % e.block:
            raise ShapeError(f"rows of {self.columns} weights do not divide into column groups of {e.block}")
        if self.columns > MAX_CHUNK_WEIGHTS:
            raise ShapeError(
                f"a row of {self.columns} weights is longer than a chunk can be ({MAX_CHUNK_WEIGHTS})"
            )
        if self.rows_per_chunk == 0:
            object.__setattr__(self, "rows_per_chunk", self._choose_rows())

    def _choose_rows(self) -> int:
        """Rows for about TARGET_WEIGHTS: whole super-blocks, or else whole blocks, if they fit WIDEST_TARGET.

        Then only the end of the tensor has a short block.
        """
        e = self.encoding
        target = max(1, TARGET_WEIGHTS // self.columns)
        if e.granularity is Granularity.BLOCK:
            for unit in (e.block * max(e.super_block, 1), e.block):
                step = unit // math.gcd(self.columns, unit)
                if step * self.columns <= WIDEST_TARGET:
                    target = max(step, target // step * step)
                    break
        return min(target, self.rows)

    @property
    def n_weights(self) -> int:
        return self.rows * self.columns

    @property
    def n_chunks(self) -> int:
        return -(-self.rows // self.rows_per_chunk)

    def chunk_rows(self, i: int) -> int:
        """Number of rows in chunk i; the last chunk may have fewer."""
        return min(self.rows_per_chunk, self.rows - i * self.rows_per_chunk)

    # --- codes

    @property
    def run(self) -> int:
        """Number of codes stored together, beginning at a byte boundary: a block or a row."""
        return self.encoding.block if self.encoding.granularity is Granularity.BLOCK else self.columns

    def n_runs(self, rows: int) -> int:
        return -(-rows * self.columns // self.run)

    @property
    def stored_bits(self) -> int:
        """Bits per stored code: those of the encoding, or 8 if zstd would otherwise see split codes.

        0 means five trits in a byte.
        """
        bits = self.encoding.bits
        return bits if self.encoding.entropy is Entropy.NONE or bits in (0, 1, 2, 4) else 8

    @property
    def run_bytes(self) -> int:
        return (
            -(-self.run // 5)
            if self.encoding.quantizer is Quantizer.TERNARY
            else -(-self.run * self.stored_bits // 8)
        )

    def packed_run(self, n_runs: int) -> int:
        """Number of codes packed in one call: those of all n_runs if every run ends at a byte boundary."""
        return self.run if self.run * self.stored_bits % 8 else max(n_runs, 1) * self.run

    @property
    def scale_block(self) -> int:
        """Adjacent weights of a chunk that share a scale; scales repeat if blocks outnumber them."""
        return self.encoding.block or self.columns

    # --- scales

    def n_scales(self, rows: int) -> int:
        """Number of scales (or row codebooks) in a chunk."""
        e = self.encoding
        return self.n_runs(rows) if e.has_chunk_scales else rows if e.has_row_codebooks else 0

    def n_super_blocks(self, rows: int) -> int:
        return -(-self.n_scales(rows) // self.encoding.super_block) if self.encoding.is_nested else 0

    @property
    def n_groups(self) -> int:
        """Number of column groups with their own entry in the tables; 1 if the tensor has a single entry."""
        return self.columns // self.encoding.block if self.encoding.granularity is Granularity.COLUMNS else 1

    def n_outliers(self, rows: int) -> int:
        """Number of outliers of a chunk, the share rounded up; with a threshold, the most there can be."""
        e = self.encoding
        n = rows * self.columns
        return n if e.outlier_threshold else -(-n * e.outliers // 1_000_000)

    # --- sections and sizes

    def sections(self, rows: int) -> list[Section]:
        """The sections of a chunk of `rows` rows before entropy coding, with the most outliers possible."""
        sizes = self._lossless_sizes(rows) if self.encoding.is_lossless else self._quantized_sizes(rows)
        found, at = [], 0
        for name, nbytes in sizes:
            if nbytes:
                found.append(Section(name, at, nbytes))
                at += aligned(nbytes, SECTION_ALIGNMENT)
        return found

    def _lossless_sizes(self, rows: int) -> list[tuple[str, int]]:
        return [(f"plane {k}", rows * self.columns) for k in range(self.source_type.nbytes)]

    def _quantized_sizes(self, rows: int) -> list[tuple[str, int]]:
        e = self.encoding
        real = e.scale_type.nbytes
        n = self.n_scales(rows)
        if e.has_row_codebooks:
            scales, zeros = n * real << e.bits, 0
        else:
            scales = -(-n * e.scale_bits // 8) if e.is_nested else n * real
            zeros = n * real if e.quantizer is Quantizer.MIN and not e.is_nested else -(-n * e.min_bits // 8)
        return [
            ("codes", self.n_runs(rows) * self.run_bytes),
            ("scales", scales),
            ("zeros", zeros),
            ("meta", self.n_super_blocks(rows) * e.n_meta * real),
            ("outliers", self.outlier_bytes(rows, self.n_outliers(rows)) if e.has_outliers else 0),
        ]

    def outlier_bytes(self, rows: int, count: int) -> int:
        """Bytes of the outlier section of a chunk: counts of its groups, then positions and values."""
        return 4 * -(-rows * self.columns // OUTLIER_GROUP) + OUTLIER_BYTES * count

    def chunk_nbytes(self, rows: int) -> int:
        """Bytes of a chunk, padding included: exact for fixed sizes, otherwise an upper bound."""
        sections = self.sections(rows)
        header = 0 if self.encoding.is_fixed_size else SECTION_HEADER_BYTES * len(sections)
        return aligned(
            header + sum(aligned(section.nbytes, SECTION_ALIGNMENT) for section in sections), CHUNK_ALIGNMENT
        )

    @property
    def table_sizes(self) -> dict[str, int]:
        """Names of the tables, in order, and how many float32 each holds; empty if there are none."""
        e = self.encoding
        sizes = {
            "codebooks": self.n_groups << e.bits if e.has_table_codebooks else 0,
            "scales": self.n_groups if e.has_table_scales else 0,
            "zeros": self.n_groups
            if e.has_table_scales and e.quantizer in (Quantizer.AFFINE, Quantizer.MIN)
            else 0,
            "offset": 1 if e.needs_offset else 0,
        }
        return {name: n for name, n in sizes.items() if n}

    @property
    def tables_nbytes(self) -> int:
        return 4 * sum(self.table_sizes.values())

    @property
    def index_offset(self) -> int:
        return aligned(DESCRIPTOR_BYTES + self.tables_nbytes, SECTION_ALIGNMENT)

    @property
    def index_nbytes(self) -> int:
        return 0 if self.encoding.is_fixed_size else INDEX_ENTRY_BYTES * self.n_chunks

    @property
    def prefix_nbytes(self) -> int:
        """Bytes before the first chunk; they depend on the encoding and shape only."""
        return aligned(self.index_offset + self.index_nbytes, CHUNK_ALIGNMENT)

    @property
    def payload_nbytes(self) -> int:
        """Bytes of the payload: exact for fixed sizes, otherwise an upper bound."""
        whole = self.rows // self.rows_per_chunk
        rest = self.rows - whole * self.rows_per_chunk
        return (
            self.prefix_nbytes
            + whole * self.chunk_nbytes(self.rows_per_chunk)
            + (self.chunk_nbytes(rest) if rest else 0)
        )

    def fixed_offset(self, i: int) -> int:
        """Offset of chunk i, for fixed sizes: every chunk but the last is as long as the first."""
        return self.prefix_nbytes + i * self.chunk_nbytes(self.rows_per_chunk)


def aligned(n: int, alignment: int) -> int:
    return -(-n // alignment) * alignment
