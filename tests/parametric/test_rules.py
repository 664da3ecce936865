"""Payloads that break a rule of spec/blocks/parametric.md: every one is refused, by the right rule, and none
takes memory for what it promises.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard

import gguflow
from gguflow.errors import FileError
from gguflow.parametric import Payload, chunk_digest, judging
from gguflow.parametric.descriptor import VERDICTS, sealed
from gguflow.parametric.geometry import DESCRIPTOR_BYTES

ROOT = Path(__file__).resolve().parents[2]
SPECIFICATION = (ROOT / "spec" / "blocks" / "parametric.md").read_text(encoding="utf-8")
RULES: dict[str, str] = dict(re.findall(r"^\| (E-0\d{2}) \|.*\| (\w+) \|$", SPECIFICATION, re.MULTILINE))

Change = Callable[[bytearray], bytearray]


def payload_of(name: str, shape: tuple[int, ...] = (40, 96)) -> bytearray:
    x = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    return bytearray(gguflow.quantize(x, name).tobytes())


def put(offset: int, kind: str, *values: object) -> Change:
    """Write values of a struct kind at a byte."""

    def change(payload: bytearray) -> bytearray:
        struct.pack_into(f"<{kind}", payload, offset, *values)
        return payload

    return change


def in_chunk(offset: int, *values: int) -> Change:
    """Write bytes into the first chunk."""

    def change(payload: bytearray) -> bytearray:
        start = Payload(bytes(payload)).chunk_span(0)[0] + offset
        payload[start : start + len(values)] = bytes(values)
        return payload

    return change


def in_section(name: str, offset: int, *values: int) -> Change:
    """Write bytes into a section of the first chunk, counted from its end where the offset is negative. For
    fixed sizes.
    """

    def change(payload: bytearray) -> bytearray:
        geometry = Payload(bytes(payload)).geometry
        section = next(
            section for section in geometry.sections(geometry.chunk_rows(0)) if section.name == name
        )
        at = section.offset + (offset if offset >= 0 else section.nbytes + offset)
        return in_chunk(at, *values)(payload)

    return change


def refilled(chunk: Callable[[bytes], bytes]) -> Change:
    """Replace the only chunk of a payload whose sizes vary, and keep index, digests and sizes right."""

    def change(payload: bytearray) -> bytearray:
        read = Payload(bytes(payload))
        start, nbytes = read.chunk_span(0)
        new = chunk(bytes(payload[start : start + nbytes]))
        new += bytes(-len(new) % 64)
        payload[start:] = new
        index = read.geometry.index_offset
        struct.pack_into("<Q", payload, index + 8, len(new))
        payload[index + 16 : index + 32] = chunk_digest(np.frombuffer(new, np.uint8))
        struct.pack_into("<Q", payload, 56, len(payload))
        struct.pack_into("<Q", payload, 184, len(new))
        return payload

    return change


def with_frame(frame: Callable[[bytes, int], bytes], decoded: int | None = None) -> Change:
    """Replace the frame of the first section: given the frame there and the section's size."""

    def chunk(old: bytes) -> bytes:
        stored, size = struct.unpack_from("<2I", old)
        n_sections = 2  # codes and scales
        rest = old[8 * n_sections + -(-stored // 8) * 8 :]
        new = frame(old[8 * n_sections : 8 * n_sections + stored], size)
        second = old[8 : 8 * n_sections]
        return (
            struct.pack("<2I", len(new), size if decoded is None else decoded)
            + second
            + new
            + bytes(-len(new) % 8)
            + rest
        )

    return refilled(chunk)


BOMB = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 26))
"""64 MiB in a few kilobytes."""

CASES: dict[str, tuple[str, str, Change]] = {
    "empty": ("E-001", "int4_b128", lambda p: p[:0]),
    "cut in the descriptor": ("E-001", "int4_b128", lambda p: p[:255]),
    "wrong magic": ("E-002", "int4_b128", put(0, "8s", b"gguflowQ")),
    "version 0": ("E-003", "int4_b128", put(8, "H", 0)),
    "version 2": ("E-003", "int4_b128", put(8, "H", 2)),
    "unknown quantizer": ("E-004", "int4_b128", put(11, "B", 7)),
    "unknown granularity": ("E-004", "int4_b128", put(13, "B", 5)),
    "unknown codebook": ("E-004", "nf4_b64", put(14, "B", 7)),
    "unknown scale type": ("E-004", "int4_b128", put(15, "B", 3)),
    "unknown nesting": ("E-004", "int4_b128", put(16, "B", 4)),
    "unknown range": ("E-004", "int4_b128", put(19, "B", 4)),
    "unknown entropy coding": ("E-004", "int4_b128", put(20, "B", 2)),
    "unknown source type": ("E-004", "int4_b128", put(21, "B", 4)),
    "no bits": ("E-005", "int4_b128", put(12, "B", 0)),
    "nine bits": ("E-005", "int4_b128", put(12, "B", 9)),
    "a codebook of absmax": ("E-005", "int4_b128", put(14, "B", 1)),
    "an odd block": ("E-005", "int4_b128", put(24, "I", 129)),
    "an empty block": ("E-005", "int4_b128", put(24, "I", 0)),
    "a huge block": ("E-005", "int4_b128", put(24, "I", 1 << 31)),
    "an empty super-block": ("E-005", "affine4_b64_dq", put(28, "I", 0)),
    "bits of scales that are not nested": ("E-005", "int4_b128", put(17, "B", 8)),
    "a zero point smaller than the codes": ("E-005", "affine4_b64", put(18, "B", 3)),
    "a base that is NaN": ("E-005", "log4_b64", put(32, "f", float("nan"))),
    "a base below one": ("E-005", "log4_b64", put(32, "f", 0.5)),
    "an unused base": ("E-005", "int4_b128", put(32, "f", 2.0)),
    "an infinite clip": ("E-005", "sb:bits=4,block=32,clip=2", put(36, "f", float("inf"))),
    "a percentile of a million": ("E-005", "sb:bits=4,block=32,percentile=99.5", put(40, "I", 1_000_000)),
    "too many outliers": ("E-005", "int4_b128+outliers=1%", put(44, "I", 100_001)),
    "a share of outliers and a threshold": ("E-005", "int4_b128+outliers=1%", put(48, "f", 1.0)),
    "reserved bytes 22": ("E-006", "int4_b128", put(22, "B", 1)),
    "reserved bytes 52": ("E-006", "int4_b128", put(52, "B", 1)),
    "reserved bytes 192": ("E-006", "int4_b128", put(239, "B", 1)),
    "padding behind the tables": ("E-006", "nf4_b64_dq", put(DESCRIPTOR_BYTES + 4, "B", 1)),
    "no dimensions": ("E-007", "int4_b128", put(10, "B", 0)),
    "nine dimensions": ("E-007", "int4_b128", put(10, "B", 9)),
    "an empty dimension": ("E-007", "int4_b128", put(64, "Q", 0)),
    "something behind the shape": ("E-007", "int4_b128", put(80, "Q", 1)),
    "a dimension of 2**64 - 1": ("E-007", "int4_b128", put(64, "Q", (1 << 64) - 1)),
    "a row of 2**40": ("E-007", "int4_b128", put(72, "Q", 1 << 40)),
    "column groups that do not divide": ("E-007", "sb:bits=4,block=16,per=columns", put(72, "Q", 90)),
    "a chunk of 2**40 rows": (
        "E-008",
        "int4_b128",
        lambda p: put(128, "Q", 1 << 40)(put(64, "Q", 1 << 40)(p)),
    ),
    "no rows in a chunk": ("E-009", "int4_b128", put(128, "Q", 0)),
    "more rows in a chunk than there are": ("E-009", "int4_b128", put(128, "Q", 41)),
    "one chunk more": ("E-009", "int4_b128", put(136, "Q", 2)),
    "chunks elsewhere": ("E-010", "int4_b128", put(176, "Q", 512)),
    "tables where there are none": ("E-010", "int4_b128", put(144, "Q", 256)),
    "an index where there is none": ("E-010", "int4_b128", put(160, "Q", 256)),
    "another size": ("E-010", "int4_b128", lambda p: put(184, "Q", 64)(put(56, "Q", 320)(p))),
    "a size beyond what it can be": (
        "E-010",
        "int4_b128+zstd",
        lambda p: put(184, "Q", (1 << 62) - 320)(put(56, "Q", 1 << 62)(p)),
    ),
    "an index of 2**50 entries": (
        "E-010",
        "int4_b128+zstd",
        lambda p: put(136, "Q", 1 << 50)(put(128, "Q", 1)(put(64, "Q", 1 << 50)(p))),
    ),
    "cut at the end": ("E-011", "int4_b128", lambda p: p[:-1]),
    "something behind the end": ("E-011", "int4_b128", lambda p: p + b"\0"),
    "cut in the prefix": ("E-011", "int4_b128", lambda p: p[:260]),
    "a wrong digest": ("E-012", "int4_b128", put(240, "B", 0)),
    "a chunk that begins elsewhere": ("E-013", "int4_b128+zstd", put(DESCRIPTOR_BYTES, "Q", 256)),
    "a chunk of no bytes": ("E-013", "int4_b128+zstd", put(DESCRIPTOR_BYTES + 8, "Q", 0)),
    "a chunk that ends elsewhere": ("E-013", "int4_b128+zstd", put(DESCRIPTOR_BYTES + 8, "Q", 64)),
    "an infinite offset in the tables": ("E-014", "nf4_b64_dq", put(DESCRIPTOR_BYTES, "f", float("inf"))),
    "a negative scale in the tables": ("E-014", "ternary_absmean", put(DESCRIPTOR_BYTES, "f", -1.0)),
    "a zero point that is no code": (
        "E-014",
        "sb:bits=4,per=tensor,quantizer=affine,min_bits=4",
        put(DESCRIPTOR_BYTES + 4, "f", 16.0),
    ),
    "a codebook that descends": ("E-014", "quantile4_b256", put(DESCRIPTOR_BYTES, "f", 1e6)),
    "a chunk that was changed": ("E-015", "int4_b128+zstd", in_chunk(40, 255)),
    "a section of another size": (
        "E-016",
        "int4_b128+zstd",
        refilled(lambda c: c[:4] + struct.pack("<I", 1 << 31) + c[8:]),
    ),
    "a section that is larger stored": (
        "E-016",
        "int4_b128+zstd",
        refilled(lambda c: struct.pack("<I", 1 << 31) + c[4:]),
    ),
    "sections that do not fill the chunk": ("E-016", "int4_b128+zstd", refilled(lambda c: c + bytes(64))),
    "compressed where nothing is": (
        "E-016",
        "int4_b128+outliers=>2.5",
        refilled(lambda c: struct.pack("<I", 8) + c[4:]),
    ),
    "no frame": ("E-017", "int4_b128+zstd", with_frame(lambda frame, size: bytes(len(frame)))),
    "a frame that is cut": ("E-017", "int4_b128+zstd", with_frame(lambda frame, size: frame[:-3])),
    "a frame and something behind it": (
        "E-017",
        "int4_b128+zstd",
        with_frame(lambda frame, size: frame + b"\0"),
    ),
    "two frames": (
        "E-017",
        "int4_b128+zstd",
        with_frame(lambda _, size: 2 * zstandard.compress(bytes(size // 2))),
    ),
    "a frame that does not say its size": (
        "E-017",
        "int4_b128+zstd",
        with_frame(
            lambda frame, size: zstandard.ZstdCompressor(write_content_size=False).compress(bytes(size))
        ),
    ),
    "a bomb": ("E-017", "int4_b128+zstd", with_frame(lambda frame, size: BOMB[:512])),
    "padding in a chunk": ("E-018", "int4_b128", in_chunk(-1 + 40 * 96 // 2 + 30 * 4 + 8, 1)),
    "a NaN scale": ("E-019", "int4_b128", in_section("scales", 0, 0, 0, 0xC0, 0x7F)),
    "an infinite scale": ("E-019", "sign_b128", in_section("scales", 0, 0, 0x7C)),
    "a negative scale": ("E-019", "nf4_b64", in_section("scales", 3, 0xBF)),
    "an infinite meta-scale": ("E-019", "affine4_b64_dq", in_section("meta", 0, 0, 0, 0x80, 0x7F)),
    "a NaN min": ("E-019", "sb:bits=4,block=32,quantizer=min", in_section("zeros", 0, 0, 0, 0xC0, 0x7F)),
    "a row codebook that descends": ("E-019", "kmeans4_row", in_section("scales", 0, 0, 0x7B)),
    "a zero point above the codes": ("E-020", "affine4_b64", in_section("zeros", 0, 16)),
    "a byte that is no trits": ("E-021", "ternary_absmean", in_section("codes", 0, 243)),
    "the lowest code": ("E-021", "int4_b128", in_section("codes", 0, 0x88)),
    "codes behind the last weight": ("E-022", "sb:bits=4,block=1024", in_section("codes", -1, 1)),
    "bits behind a run": ("E-022", "sb:bits=3,per=row", in_section("codes", 37, 255)),
    "outliers that are more than there are": (
        "E-023",
        "int4_b128+outliers=1%",
        in_section("outliers", 0, 255),
    ),
    "outliers out of order": ("E-023", "int4_b128+outliers=1%", in_section("outliers", 4, 255, 255)),
    "an infinite outlier": ("E-023", "int4_b128+outliers=1%", in_section("outliers", -2, 0x00, 0x7C)),
}

RESEALED = {rule for rule in RULES if rule not in ("E-001", "E-011", "E-012")}
"""Rules that are reached only past a right digest."""


def broken_rules(payload: bytes) -> list[str]:
    """What is found: the one rule that opening breaks, or all that judging finds."""
    try:
        return [finding.rule for finding in judging.check(Payload(payload))]
    except FileError as error:
        rule = error.finding.rule
        return [rule if error.verdict == RULES[rule] else f"{rule} as {error.verdict}"]


@pytest.mark.parametrize(("rule", "name", "change"), CASES.values(), ids=CASES)
def test_broken_payloads_are_judged_right(rule: str, name: str, change: Change) -> None:
    shape = (40, 100) if name == "sb:bits=3,per=row" else (40, 96)
    payload = payload_of(name, shape)
    assert broken_rules(bytes(payload)) == []
    payload = change(payload)
    if rule in RESEALED:
        size = Payload(payload_of(name, shape)).geometry.prefix_nbytes
        payload[:size] = sealed(bytes(payload[:size]))
    assert broken_rules(bytes(payload)) == [rule]


def test_every_rule_is_in_code_specification_and_cases() -> None:
    code = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "src" / "gguflow" / "parametric").glob("*.py")
    )
    in_code = set(re.findall(r'"(E-0\d{2})"', code))
    assert in_code == RULES.keys() == {rule for rule, _, _ in CASES.values()}
    assert {rule: VERDICTS[rule].verdict for rule in VERDICTS if rule in RULES} == {
        rule: verdict for rule, verdict in RULES.items() if verdict != "invalid"
    }


@pytest.mark.parametrize(
    "name",
    [
        "int4_b128",
        "nf4_b64_dq",
        "int4_b128+zstd",
        "lossless",
        "affine3_b64_dq+outliers=1%+zstd",
        "kmeans4_row",
    ],
)
def test_any_changed_byte_ends_in_a_rule_or_in_values(name: str) -> None:
    """Damaged payloads, resealed so that the digest does not hide them: typed errors only."""
    found = set()
    rng = np.random.default_rng(7)
    whole = payload_of(name)
    size = Payload(bytes(whole)).geometry.prefix_nbytes
    for _ in range(400):
        payload = bytearray(whole)
        for place in rng.integers(0, len(payload) if rng.integers(2) else size, rng.integers(1, 4)):
            payload[place] = rng.integers(256)
        if rng.integers(4):
            payload[:size] = sealed(bytes(payload[:size]))
        try:
            read = Payload(bytes(payload))
            list(judging.check(read))
            with np.errstate(all="ignore"):
                read.decode_rows(0, min(4, read.geometry.rows))
        except FileError as error:
            found.add(error.finding.rule)
    assert found and found <= RULES.keys()


def test_rows_are_decoded_from_their_chunks_alone() -> None:
    """All other chunks are damaged beyond use."""
    x = np.random.default_rng(3).standard_normal((3000, 700)).astype(np.float32)
    for name in ("affine4_b64", "int4_b128+zstd", "lossless"):
        packed = gguflow.quantize(x, name)
        payload = Payload(packed)
        expected = payload.decode_rows(1500, 1510)
        step = payload.geometry.rows_per_chunk
        assert payload.n_chunks == 5 and 1500 // step == 1509 // step
        start, nbytes = payload.chunk_span(1500 // step)
        packed[payload.geometry.prefix_nbytes : start] = 0xFF
        packed[start + nbytes :] = 0xFF
        assert (payload.decode_rows(1500, 1510) == expected).all()
