"""Payloads of the parametric family put together byte by byte, good ones and broken ones: no encoder, no
compressor, the same bytes for ever.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from gguflow.parametric import Geometry, ScaleType, SourceType, chunk_digest, descriptor, find
from gguflow.parametric.geometry import OUTLIER_GROUP

Section = tuple[bytes, int]
"""A section of a chunk whose size varies: as it is stored, and how many bytes it decodes to."""


def frame(size: int, byte: int = 0x11, declared: int | None = None) -> bytes:
    """A zstd frame of one block: `size` times a byte. Source: RFC 8878, sections 3.1.1.1 (single segment,
    sizes of 8 bytes) and 3.1.1.2 (RLE).
    """
    return (
        b"\x28\xb5\x2f\xfd\xe0"
        + struct.pack("<Q", size if declared is None else declared)
        + (3 | size << 3).to_bytes(3, "little")
        + bytes([byte])
    )


def reals(values: Sequence[float], scale_type: ScaleType = ScaleType.F32) -> bytes:
    if scale_type is ScaleType.BF16:
        return b"".join(struct.pack("<f", value)[2:] for value in values)
    return struct.pack(f"<{len(values)}{'f' if scale_type is ScaleType.F32 else 'e'}", *values)


def section(geometry: Geometry, rows: int, name: str, nbytes: int) -> bytes:
    """What a section of a good payload holds."""
    e = geometry.encoding
    real = e.scale_type.nbytes
    if name == "outliers":
        count = geometry.n_outliers(rows)
        counts = [min(count, OUTLIER_GROUP), *[0] * (-(-rows * geometry.columns // OUTLIER_GROUP) - 1)]
        return (
            struct.pack(f"<{len(counts)}I", *counts)
            + struct.pack(f"<{count}H", *range(count))
            + reals([8.0] * count, ScaleType.F16)
        )
    if name == "scales" and e.has_row_codebooks:
        return reals([k / 8 for k in range(1 << e.bits)], e.scale_type) * rows
    if name == "meta" or (name == "scales" and not e.is_nested) or (name == "zeros" and not e.min_bits):
        return reals([0.5], e.scale_type) * (nbytes // real)
    return b"\x01" * nbytes if name == "zeros" else b"\x11" * nbytes


def tables(geometry: Geometry, given: Mapping[str, Sequence[float]]) -> bytes:
    good = {"codebooks": [k / 8 for k in range(1 << geometry.encoding.bits)] * geometry.n_groups}
    return b"".join(
        reals(given.get(name, good.get(name, [0.5 if name != "zeros" else 1.0] * count)))
        for name, count in geometry.table_sizes.items()
    )


def chunk_of(sections: Sequence[Section]) -> bytes:
    """A chunk whose size varies."""
    header = b"".join(struct.pack("<2I", len(stored), decoded) for stored, decoded in sections)
    return padded(header + b"".join(padded(stored, 8) for stored, _ in sections), 64)


def payload(
    name: str,
    shape: tuple[int, ...] = (4, 128),
    *,
    rows_per_chunk: int = 0,
    source_type: SourceType = SourceType.F32,
    table: Mapping[str, Sequence[float]] | None = None,
    chunk: Callable[[list[Section]], bytes] = chunk_of,
    **changed: bytes,
) -> bytes:
    """A payload, its digests right. table: other tables. chunk: what is made of the sections of each chunk,
    where sizes vary.

    changed: the content of sections by name ("plane_0" for plane 0), in every chunk.
    """
    g = Geometry(find(name), shape, source_type, rows_per_chunk)
    chunks = []
    for i in range(g.n_chunks):
        rows = g.chunk_rows(i)
        layout = [
            (s, changed.get(s.name.replace(" ", "_"), section(g, rows, s.name, s.nbytes)))
            for s in g.sections(rows)
        ]
        if g.encoding.is_fixed_size:
            content = b"".join(padded(part, 8) for _, part in layout)
            chunks.append(padded(content, 64))
        else:
            is_coded = g.encoding.entropy.name == "ZSTD"
            chunks.append(
                chunk(
                    [
                        (frame(len(part), part[0]) if is_coded and is_long(part) else part, len(part))
                        for _, part in layout
                    ]
                )
            )
    index, at = b"", g.prefix_nbytes
    for content in chunks:
        index += struct.pack("<2Q", at, len(content)) + chunk_digest(np.frombuffer(content, np.uint8))
        at += len(content)
    total = g.payload_nbytes if g.encoding.is_fixed_size else at
    head = descriptor.build(g, total) + tables(g, table or {})
    head = head.ljust(g.index_offset, b"\0") + (b"" if g.encoding.is_fixed_size else index)
    return descriptor.sealed(head.ljust(g.prefix_nbytes, b"\0")) + b"".join(chunks)


def is_long(part: bytes) -> bool:
    """Whether a frame of one repeated byte is shorter than the section that it makes."""
    return len(set(part)) == 1 and len(part) > len(frame(0))


def put(content: bytes, offset: int, kind: str, *values: object) -> bytes:
    """The same bytes with others at an offset, written by struct."""
    new = struct.pack("<" + kind, *values)
    return content[:offset] + new + content[offset + len(new) :]


def sealed(content: bytes, prefix_nbytes: int) -> bytes:
    """The payload with the digest of its first bytes made anew."""
    return descriptor.sealed(content[:prefix_nbytes]) + content[prefix_nbytes:]


def padded(content: bytes, alignment: int) -> bytes:
    return content + bytes(-len(content) % alignment)
