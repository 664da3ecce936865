"""The descriptor: the first 256 bytes of a payload, which describe the rest. Its formal twin is `grammar`.

    byte    0  magic "gguflowP" | 8 version u16 | 10 dimensions u8
           11  quantizer u8 | 12 bits u8 | 13 granularity u8 | 14 codebook u8
           15  scale_type u8 | 16 nesting u8 | 17 scale_bits u8 | 18 min_bits u8
           19  range u8 | 20 entropy u8 | 21 source_type u8 | 22 zeros[2]
           24  block u32 | 28 super_block u32 | 32 log_base f32 | 36 clip f32
           40  percentile u32 | 44 outliers u32 | 48 outlier_threshold f32 | 52 zeros[4]
           56  payload_nbytes u64 | 64 shape u64[8] | 128 rows_per_chunk u64 | 136 n_chunks u64
          144  tables: offset u64, nbytes u64 | 160 index: the same | 176 chunks: the same
          192  zeros[48] | 240 digest[16]

Little-endian. Offsets are from the start of the payload. The digest is XXH3-128 of everything before the
first chunk, with its own bytes as zeros.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import xxhash

from gguflow.errors import (
    FileError,
    Finding,
    GguflowError,
    InvalidError,
    LimitError,
    MalformedError,
    UnsupportedError,
)
from gguflow.parametric.axes import (
    Codebook,
    Entropy,
    Granularity,
    Nesting,
    Quantizer,
    Range,
    ScaleType,
    SourceType,
)
from gguflow.parametric.encoding import Encoding
from gguflow.parametric.geometry import DESCRIPTOR_BYTES, MAX_CHUNK_WEIGHTS, MAX_DIMENSIONS, Geometry

MAGIC = b"gguflowP"
VERSION = 1
LAYOUT = struct.Struct("<8sH12B2sIIffIIf4sQ8Q2Q6Q48s16s")
DIGEST_OFFSET = 240
DIGEST_BYTES = 16

E = TypeVar("E", bound=enum.IntEnum)

VERDICTS: dict[str, type[FileError]] = {
    "E-001": MalformedError,
    "E-002": MalformedError,
    "E-003": UnsupportedError,
    "E-008": LimitError,
    "E-011": MalformedError,
    "E-103": UnsupportedError,
}
"""The error class of each rule whose violation is something other than InvalidError."""


def raise_finding(
    file: str,
    rule: str,
    message: str,
    path: str,
    offset: int | None = None,
    found: object = None,
    expected: object = None,
) -> NoReturn:
    """Raise the error for a broken rule; offset counts from the start of the payload."""
    finding = Finding(rule, message, path, offset, found, expected)
    raise VERDICTS.get(rule, InvalidError)(file, finding)


@dataclass(frozen=True)
class Descriptor:
    """What a descriptor says, checked for consistency; the geometry gives the rest of the layout."""

    geometry: Geometry
    payload_nbytes: int


def digest(prefix: bytes | memoryview) -> bytes:
    """The digest of a prefix: of all its bytes, with those of the digest as zeros."""
    state = xxhash.xxh3_128(prefix[:DIGEST_OFFSET])
    state.update(bytes(DIGEST_BYTES))
    state.update(prefix[DIGEST_OFFSET + DIGEST_BYTES :])
    return bytes(state.digest())


def build(geometry: Geometry, payload_nbytes: int) -> bytes:
    """The descriptor with its digest still zero: see `sealed`."""
    e = geometry.encoding
    parameters = (
        e.quantizer,
        e.bits,
        e.granularity,
        e.codebook,
        e.scale_type,
        e.nesting,
        e.scale_bits,
        e.min_bits,
        e.range,
        e.entropy,
    )
    numbers = (e.block, e.super_block, e.log_base, e.clip, e.percentile, e.outliers, e.outlier_threshold)
    shape = geometry.shape + (0,) * (MAX_DIMENSIONS - len(geometry.shape))
    head = (MAGIC, VERSION, len(geometry.shape), *parameters, geometry.source_type, b"")
    return LAYOUT.pack(
        *head,
        *numbers,
        b"",
        payload_nbytes,
        *shape,
        geometry.rows_per_chunk,
        geometry.n_chunks,
        *_sections(geometry, payload_nbytes),
        b"",
        b"",
    )


def sealed(prefix: bytes) -> bytes:
    """The prefix with its digest filled in."""
    return prefix[:DIGEST_OFFSET] + digest(prefix) + prefix[DIGEST_OFFSET + DIGEST_BYTES :]


def _sections(geometry: Geometry, payload_nbytes: int) -> tuple[int, ...]:
    """Offset and size of tables, index and chunks; zeros for those that are absent."""
    tables = (DESCRIPTOR_BYTES, geometry.tables_nbytes) if geometry.tables_nbytes else (0, 0)
    index = (geometry.index_offset, geometry.index_nbytes) if geometry.index_nbytes else (0, 0)
    return *tables, *index, geometry.prefix_nbytes, payload_nbytes - geometry.prefix_nbytes


def at(content: memoryview, offset: int, file: str = "") -> Descriptor:
    """The descriptor of a payload that begins at `offset` of a file's content; raises what `parse` raises."""
    return parse(bytes(content[offset : offset + DESCRIPTOR_BYTES]), file)


def parse(head: bytes, file: str = "") -> Descriptor:
    """The descriptor at the start of `head`.

    Only these 256 bytes are read, and nothing is allocated.

    Raises a FileError with the first broken rule (E-001 to E-010).
    """
    if len(head) < DESCRIPTOR_BYTES:
        raise_finding(
            file,
            "E-001",
            "the payload is shorter than a descriptor",
            "$",
            0,
            len(head),
            f"{DESCRIPTOR_BYTES} bytes or more",
        )
    magic, version, n_dimensions, *rest = LAYOUT.unpack_from(head)
    if magic != MAGIC:
        raise_finding(
            file, "E-002", "this is not a payload of the parametric family", "$.magic", 0, magic, MAGIC
        )
    if version != VERSION:
        raise_finding(file, "E-003", "unknown version of the descriptor", "$.version", 8, version, VERSION)
    parameters, source_code, zeros_1 = rest[:10], rest[10], rest[11]
    block, super_block, log_base, clip, percentile, outliers, threshold, zeros_2, payload_nbytes = rest[12:21]
    shape, (rows_per_chunk, n_chunks), sections, (zeros_3, _) = (
        rest[21:29],
        rest[29:31],
        tuple(rest[31:37]),
        rest[37:39],
    )
    quantizer = _member(file, Quantizer, parameters[0], 11)
    granularity = _member(file, Granularity, parameters[2], 13)
    codebook = _member(file, Codebook, parameters[3], 14)
    scale_type = _member(file, ScaleType, parameters[4], 15)
    nesting = _member(file, Nesting, parameters[5], 16)
    range_mode = _member(file, Range, parameters[8], 19)
    entropy = _member(file, Entropy, parameters[9], 20)
    source_type = _member(file, SourceType, source_code, 21)
    if zeros_1.strip(b"\0") or zeros_2.strip(b"\0") or zeros_3.strip(b"\0"):
        raise_finding(file, "E-006", "reserved bytes must be zero", "$.zeros")
    try:
        encoding = Encoding(
            quantizer, parameters[1], granularity, block, codebook, scale_type, nesting, parameters[6],
            super_block, parameters[7], log_base, range_mode, percentile, clip, outliers, threshold, entropy,
        )  # fmt: skip
    except GguflowError as error:
        raise_finding(file, "E-005", f"the parameters contradict each other: {error}", "$")
    if not 1 <= n_dimensions <= MAX_DIMENSIONS or any(shape[n_dimensions:]):
        raise_finding(
            file,
            "E-007",
            "a shape must have 1 to 8 dimensions, followed by zeros",
            "$.shape",
            10,
            [n_dimensions, *shape],
        )
    try:
        geometry = Geometry(encoding, tuple(shape[:n_dimensions]), source_type, rows_per_chunk)
    except GguflowError as error:
        raise_finding(file, "E-007", str(error), "$.shape", 64)
    if not 1 <= rows_per_chunk <= geometry.rows:
        raise_finding(
            file,
            "E-009",
            "a chunk must have between one row and all rows",
            "$.rows_per_chunk",
            128,
            rows_per_chunk,
            f"1 to {geometry.rows}",
        )
    if rows_per_chunk * geometry.columns > MAX_CHUNK_WEIGHTS:
        found = rows_per_chunk * geometry.columns
        raise_finding(
            file,
            "E-008",
            "a chunk has too many weights",
            "$.rows_per_chunk",
            128,
            found,
            f"at most {MAX_CHUNK_WEIGHTS}",
        )
    if n_chunks != geometry.n_chunks:
        raise_finding(
            file,
            "E-009",
            "the number of chunks does not match the rows",
            "$.n_chunks",
            136,
            n_chunks,
            geometry.n_chunks,
        )
    expected = _sections(geometry, payload_nbytes)
    if sections != expected:
        raise_finding(
            file,
            "E-010",
            "the sections are not where the parameters put them",
            "$.sections",
            144,
            sections,
            expected,
        )
    low, high = geometry.prefix_nbytes, geometry.payload_nbytes
    if payload_nbytes != high if encoding.is_fixed_size else not low < payload_nbytes <= high:
        raise_finding(
            file,
            "E-010",
            "the payload's size does not match its encoding and shape",
            "$.payload_nbytes",
            56,
            payload_nbytes,
            high,
        )
    return Descriptor(geometry, payload_nbytes)


def _member(file: str, kind: type[E], code: int, offset: int) -> E:
    """The member of an enumeration for the number at byte `offset` of the descriptor."""
    try:
        return kind(code)
    except ValueError:
        raise_finding(
            file,
            "E-004",
            f"no {kind.__name__} has this number",
            f"$.{kind.__name__}",
            offset,
            code,
            f"0 to {max(kind)}",
        )
