"""Chunks from sections, and back: a fixed layout, or a header and entropy-coded sections if sizes vary.

The header of a chunk of variable size has two 32-bit counts for each section: bytes stored and bytes decoded.
If they are equal, the section is stored as it is; otherwise it is one zstd frame.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xxhash

import gguflow.parametric.entropy as entropy
from gguflow.arrays import Bytes
from gguflow.parametric.axes import Entropy
from gguflow.parametric.descriptor import raise_finding
from gguflow.parametric.geometry import (
    CHUNK_ALIGNMENT,
    SECTION_ALIGNMENT,
    SECTION_HEADER_BYTES,
    Geometry,
    aligned,
)


def digest(chunk: Bytes) -> bytes:
    """XXH3-128 of a stored chunk, padding included."""
    return bytes(xxhash.xxh3_128_digest(chunk.data))


def assemble(geometry: Geometry, rows: int, sections: Mapping[str, Bytes], chunk: Bytes | None) -> Bytes:
    """The bytes of a chunk, padded to the next boundary, from its sections by name.

    geometry: the layout of the payload.
    rows: rows in this chunk.
    sections: the bytes of each section before entropy coding, by name.
    chunk: the buffer to fill if sizes are fixed, which may already hold a section; otherwise None.
    """
    layout = geometry.sections(rows)
    if chunk is not None:
        end = 0
        for section in layout:
            chunk[end : section.offset] = 0
            end = section.offset + section.nbytes
            if not np.may_share_memory(sections[section.name], chunk):
                chunk[section.offset : end] = sections[section.name]
        chunk[end:] = 0
        return chunk
    is_coded = geometry.encoding.entropy is Entropy.ZSTD
    stored = [
        entropy.compress(sections[section.name]) if is_coded else sections[section.name] for section in layout
    ]
    header = np.array(
        [[part.size, sections[section.name].size] for part, section in zip(stored, layout, strict=True)],
        "<u4",
    )
    at = header.nbytes
    chunk = np.zeros(
        aligned(at + sum(aligned(part.size, SECTION_ALIGNMENT) for part in stored), CHUNK_ALIGNMENT), np.uint8
    )
    chunk[:at] = header.reshape(-1).view(np.uint8)
    for part in stored:
        chunk[at : at + part.size] = part
        at += aligned(part.size, SECTION_ALIGNMENT)
    return chunk


def disassemble(geometry: Geometry, i: int, chunk: Bytes, file: str = "") -> dict[str, Bytes]:
    """The sections of chunk i by name, after entropy decoding; views if they are stored as they are.

    geometry: the layout of the payload.
    i: number of the chunk.
    chunk: its stored bytes.
    file: named in errors.

    Raises InvalidError (E-016, E-017) if the header or a frame is wrong, before memory is allocated for it.
    """
    layout = geometry.sections(geometry.chunk_rows(i))
    if geometry.encoding.is_fixed_size:
        return {section.name: chunk[section.offset : section.offset + section.nbytes] for section in layout}
    where = f"$.chunks[{i}]"
    at = SECTION_HEADER_BYTES * len(layout)
    if chunk.size < at:
        raise_finding(
            file, "E-016", "the chunk is shorter than its header", where, found=chunk.size, expected=at
        )
    header = np.frombuffer(chunk[:at].tobytes(), "<u4").reshape(-1, 2).tolist()
    sections = {}
    for section, (stored, decoded) in zip(layout, header, strict=True):
        is_open = section.name == "outliers" and geometry.encoding.outlier_threshold > 0
        if decoded > section.nbytes if is_open else decoded != section.nbytes:
            raise_finding(
                file,
                "E-016",
                f"the section {section.name} has a wrong size",
                where,
                found=decoded,
                expected=section.nbytes,
            )
        most = min(decoded, chunk.size - at)
        if stored > most:
            raise_finding(
                file,
                "E-016",
                f"the section {section.name} does not fit",
                where,
                found=stored,
                expected=f"at most {most}",
            )
        part = chunk[at : at + stored]
        if stored != decoded:
            if geometry.encoding.entropy is not Entropy.ZSTD:
                raise_finding(
                    file,
                    "E-016",
                    f"the section {section.name} is not entropy-coded",
                    where,
                    found=stored,
                    expected=decoded,
                )
            try:
                part = entropy.decompress(part, decoded)
            except entropy.FrameError as error:
                raise_finding(file, "E-017", f"the section {section.name} is {error}", where)
        sections[section.name] = part
        at += aligned(stored, SECTION_ALIGNMENT)
    if aligned(at, CHUNK_ALIGNMENT) != chunk.size:
        raise_finding(
            file,
            "E-016",
            "the sections do not fill the chunk",
            where,
            found=aligned(at, CHUNK_ALIGNMENT),
            expected=chunk.size,
        )
    return sections


def spans(geometry: Geometry, i: int, chunk: Bytes) -> list[tuple[int, int]]:
    """Where the header and the sections of chunk i lie as they are stored: offset from its start, and bytes.
    Of a chunk that was taken apart.
    """
    layout = geometry.sections(geometry.chunk_rows(i))
    if geometry.encoding.is_fixed_size:
        return [(section.offset, section.nbytes) for section in layout]
    at = SECTION_HEADER_BYTES * len(layout)
    found = [(0, at)]
    for stored in np.frombuffer(chunk[:at].tobytes(), "<u4")[::2].tolist():
        found.append((at, stored))
        at += aligned(stored, SECTION_ALIGNMENT)
    return found
