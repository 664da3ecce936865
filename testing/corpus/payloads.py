"""Cases about payloads of the parametric family (spec/blocks/parametric.md) and the keys that announce
them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from gguflow.container.payload_keys import MUST_UNDERSTAND_KEY, PAYLOADS_KEY
from gguflow.parametric import Geometry, ScaleType, SourceType, find
from testing.corpus.bytes import ARCHITECTURE, STRING, U32, Tensor, array, gguf, key_value
from testing.corpus.case import Case, invalid, limit, malformed, unsupported, valid
from testing.corpus.payload_bytes import Section, chunk_of, frame, payload, put, reals, sealed

I8 = 24
VERDICTS = {
    "E-001": malformed,
    "E-002": malformed,
    "E-003": unsupported,
    "E-008": limit,
    "E-011": malformed,
    "E-103": unsupported,
}
ABSMAX, ZSTD, NAN = "int4_b128", "int4_b128+zstd", math.nan


def keys(encodings: Sequence[str], names: Sequence[str] = ("t",)) -> list[bytes]:
    return [ARCHITECTURE, array(MUST_UNDERSTAND_KEY, STRING, encodings), array(PAYLOADS_KEY, STRING, names)]


def file(content: bytes, name: str, dims: tuple[int, ...] | None = None) -> bytes:
    return gguf(keys([name]), [Tensor("t", dims or (len(content),), I8, content)])


def bad(id: str, rule: str, content: bytes, name: str = ABSMAX) -> Case:
    """A file whose only tensor breaks one rule. What is in chunks is judged at the level that looks at
    values.
    """
    make = VERDICTS.get(rule, invalid)
    level = "values" if "E-015" <= rule <= "E-023" else "structure"
    return make(f"{rule.replace('-', '')}-{id}", "E", file(content, name), rule, level=level)


def field(
    id: str,
    rule: str,
    offset: int,
    kind: str,
    *values: object,
    name: str = ABSMAX,
    shape: tuple[int, ...] = (4, 128),
) -> Case:
    """One field of the descriptor (or a table behind it) is another; the digest is right."""
    good = payload(name, shape)
    return bad(
        id, rule, sealed(put(good, offset, kind, *values), Geometry(find(name), shape).prefix_nbytes), name
    )


def in_chunk(
    id: str,
    rule: str,
    offset: int,
    kind: str,
    *values: object,
    name: str = ABSMAX,
    shape: tuple[int, ...] = (4, 128),
) -> Case:
    """Other bytes in the first chunk of a payload of a fixed size."""
    return bad(
        id,
        rule,
        put(payload(name, shape), Geometry(find(name), shape).prefix_nbytes + offset, kind, *values),
        name,
    )


def framed(id: str, stored: bytes, decoded: int = 256) -> Case:
    """The codes of a chunk, 256 bytes, stored as something else."""
    return bad(
        id, "E-017", payload(ZSTD, chunk=lambda sections: chunk_of([(stored, decoded), *sections[1:]])), ZSTD
    )


def headed(id: str, index: int, value: int, name: str = ZSTD) -> Case:
    """A number of a chunk's header is another."""
    return bad(
        id,
        "E-016",
        payload(name, chunk=lambda sections: put(chunk_of(sections), 4 * index, "I", value)),
        name,
    )


def two_chunks(sections: list[Section]) -> bytes:
    return chunk_of(sections) + bytes(64)


SIZES = 256 + 16
"""Codes and scales of 4 x 128 weights in int4_b128."""
LARGE = put(put(payload(ABSMAX), 64, "QQ", 1 << 22, 128), 128, "QQ", 1 << 22, 1)
ENUMERATIONS = {
    "quantizer": (11, 7),
    "granularity": (13, 5),
    "codebook": (14, 7),
    "scale-type": (15, 3),
    "nesting": (16, 4),
    "range": (19, 4),
}

DESCRIPTOR: list[Case] = [
    bad("empty", "E-001", b""),
    bad("half-a-descriptor", "E-001", payload(ABSMAX)[:128]),
    bad("one-byte-short", "E-001", payload(ABSMAX)[:255]),
    bad("magic", "E-002", b"gguflowQ" + payload(ABSMAX)[8:]),
    bad("zeros", "E-002", bytes(512)),
    field("version-0", "E-003", 8, "H", 0),
    field("version-2", "E-003", 8, "H", 2),
    *(field(name, "E-004", offset, "B", value) for name, (offset, value) in ENUMERATIONS.items()),
    field("entropy", "E-004", 20, "B", 2),
    field("source-type", "E-004", 21, "B", 4),
    field("source-type-all-ones", "E-004", 21, "B", 255),
    field("bits-0", "E-005", 12, "B", 0),
    field("bits-9", "E-005", 12, "B", 9),
    field("nf4-of-3-bits", "E-005", 12, "B", 3, name="nf4_b64"),
    field("codebook-of-absmax", "E-005", 14, "B", 1),
    field("scale-bits-not-nested", "E-005", 17, "B", 8),
    field("min-bits-of-absmax", "E-005", 18, "B", 4),
    field("zero-point-of-9-bits", "E-005", 18, "B", 9, name="affine4_b64"),
    field("range-clip-without-clip", "E-005", 19, "B", 2),
    field("block-0", "E-005", 24, "I", 0),
    field("block-100", "E-005", 24, "I", 100),
    field("block-2048", "E-005", 24, "I", 2048),
    field("super-block-not-nested", "E-005", 28, "I", 256),
    field("super-block-1", "E-005", 28, "I", 1, name="nf4_b64_dq"),
    field("log-base-without-codebook", "E-005", 32, "f", 2.0),
    field("log-base-nan", "E-005", 32, "f", NAN, name="log4_b64"),
    field("clip-infinite", "E-005", 36, "f", math.inf, name="sb:bits=4,block=64,clip=1"),
    field("percentile-without-range", "E-005", 40, "I", 990_000),
    field("outliers-over-a-tenth", "E-005", 44, "I", 100_001),
    field("outlier-threshold-negative", "E-005", 48, "f", -1.0),
    field("outlier-threshold-nan", "E-005", 48, "f", NAN),
    field("lossless-without-zstd", "E-005", 20, "B", 0, name="lossless"),
    field("reserved-byte-22", "E-006", 22, "B", 1),
    field("reserved-byte-52", "E-006", 52, "B", 1),
    field("reserved-byte-239", "E-006", 239, "B", 1),
    field("padding-behind-tables", "E-006", 319, "B", 1, name="ternary_absmean", shape=(4, 40)),
    field("dimensions-0", "E-007", 10, "B", 0),
    field("dimensions-9", "E-007", 10, "B", 9),
    field("dimension-0", "E-007", 64, "Q", 0),
    field("dimension-2-63", "E-007", 64, "Q", 1 << 63),
    field("dimension-behind-the-last", "E-007", 80, "Q", 1),
    field("columns-not-in-groups", "E-007", 72, "Q", 100, name="sb:bits=4,block=64,per=columns"),
    bad("chunk-of-2-29-weights", "E-008", sealed(LARGE, 256)),
    field("no-rows-in-a-chunk", "E-009", 128, "Q", 0),
    field("more-rows-in-a-chunk", "E-009", 128, "Q", 5),
    field("rows-all-ones", "E-009", 128, "Q", (1 << 64) - 1),
    field("chunks-2", "E-009", 136, "Q", 2),
    field("chunks-all-ones", "E-009", 136, "Q", (1 << 64) - 1),
    field("tables-where-none-are", "E-010", 144, "QQ", 256, 4),
    field("index-where-none-is", "E-010", 160, "QQ", 256, 32),
    field("chunks-elsewhere", "E-010", 176, "Q", 320),
    field("chunks-of-another-size", "E-010", 184, "Q", 64),
    field("another-size", "E-010", 56, "Q", 1 << 40),
    field("larger-than-uncompressed", "E-010", 56, "Q", 1 << 20, name=ZSTD),
    bad("cut", "E-011", payload(ABSMAX)[:-64]),
    bad("bytes-behind", "E-011", payload(ABSMAX) + bytes(64)),
    bad("flipped-bit-in-digest", "E-012", put(payload(ABSMAX), 240, "B", payload(ABSMAX)[240] ^ 1)),
    bad(
        "other-table-same-digest",
        "E-012",
        put(payload("ternary_absmean", (4, 40)), 256, "f", 2.0),
        "ternary_absmean",
    ),
]
INDEX: list[Case] = [
    field("gap", "E-013", 256, "Q", 384, name=ZSTD),
    field("offset-all-ones", "E-013", 256, "Q", (1 << 64) - 1, name=ZSTD),
    field("chunk-of-0-bytes", "E-013", 264, "Q", 0, name=ZSTD),
    field("chunk-not-aligned", "E-013", 264, "Q", 65, name=ZSTD),
    field("chunk-too-large", "E-013", 264, "Q", 1 << 40, name=ZSTD),
    bad(
        "chunks-end-early",
        "E-013",
        sealed(put(put(payload(ZSTD) + bytes(64), 56, "Q", 448), 184, "Q", 128), 320),
        ZSTD,
    ),
    field("scale-nan", "E-014", 256, "f", NAN, name="ternary_absmean", shape=(4, 40)),
    field("scale-negative", "E-014", 256, "f", -1.0, name="ternary_absmean", shape=(4, 40)),
    field("offset-infinite", "E-014", 256, "f", math.inf, name="nf4_b64_dq"),
    field("zero-point-16", "E-014", 260, "f", 16.0, name="sb:bits=4,per=tensor,quantizer=affine,min_bits=4"),
    field(
        "zero-point-of-a-half",
        "E-014",
        260,
        "f",
        0.5,
        name="sb:bits=4,per=tensor,quantizer=affine,min_bits=4",
    ),
    field("codebook-descends", "E-014", 256, "f", 9.0, name="quantile4_b256", shape=(4, 256)),
]
CHUNKS: list[Case] = [
    bad("flipped-bit", "E-015", payload(ZSTD)[:-1] + b"\1", ZSTD),
    headed("decoded-size", 1, 255),
    headed("decoded-size-all-ones", 1, (1 << 32) - 1),
    headed("stored-beyond-the-chunk", 0, 200),
    headed("stored-larger-than-decoded", 2, 17),
    headed("stored-all-ones", 0, (1 << 32) - 1),
    headed("compressed-without-zstd", 0, 8, name="int4_b128+outliers=>4"),
    bad("bytes-behind-sections", "E-016", payload(ZSTD, chunk=two_chunks), ZSTD),
    framed("no-frame", bytes(17)),
    framed("bomb", frame(256, declared=1 << 40)),
    framed("declares-less", frame(256, declared=255)),
    framed("holds-less", frame(255, declared=256)),
    framed("holds-more", frame(257, declared=256)),
    framed("truncated", frame(256)[:-1]),
    framed("ends-in-its-header", frame(256)[:7]),
    framed("byte-behind", frame(256) + b"\0"),
    framed("two-frames", frame(128) * 2),
    framed("no-declared-size", b"\x28\xb5\x2f\xfd\x00\x58" + frame(256)[13:]),
    framed("dictionary", b"\x28\xb5\x2f\xfd\xe1\x07" + frame(256)[5:]),
    framed("reserved-block", frame(256)[:13] + (7 | 256 << 3).to_bytes(3, "little") + b"\x11"),
    in_chunk("behind-sections", "E-018", SIZES, "B", 1),
    in_chunk(
        "between-sections",
        "E-018",
        30,
        "B",
        1,
        name="sb:bits=4,block=16,quantizer=min,scale=f16",
        shape=(1, 48),
    ),
    bad(
        "between-coded-sections",
        "E-018",
        payload(ZSTD, chunk=lambda sections: put(chunk_of(sections), 16 + 17, "B", 1)),
        ZSTD,
    ),
    in_chunk("scale-nan", "E-019", 256, "f", NAN),
    in_chunk("scale-infinite", "E-019", 260, "f", math.inf),
    in_chunk("scale-negative", "E-019", 264, "f", -0.5),
    bad(
        "scale-nan-f16",
        "E-019",
        payload("sign_b128", scales=reals([NAN, 1, 1, 1], ScaleType.F16)),
        "sign_b128",
    ),
    bad("meta-scale-infinite", "E-019", payload("nf4_b64_dq", meta=reals([math.inf])), "nf4_b64_dq"),
    bad(
        "min-nan",
        "E-019",
        payload("sb:bits=4,block=128,quantizer=min", zeros=reals([NAN] * 4)),
        "sb:bits=4,block=128,quantizer=min",
    ),
    bad(
        "row-codebook-descends",
        "E-019",
        payload("kmeans4_row", (1, 128), scales=reals(range(16, 0, -1), ScaleType.F16)),
        "kmeans4_row",
    ),
    bad("zero-point-16", "E-020", payload("affine4_b64", zeros=bytes([16]) * 8), "affine4_b64"),
    bad("no-trits", "E-021", payload("ternary_absmean", (1, 40), codes=bytes([243]) * 8), "ternary_absmean"),
    bad(
        "code-of-4-bits",
        "E-021",
        payload("sb:bits=3,block=128+zstd", codes=bytes([8]) * 512),
        "sb:bits=3,block=128+zstd",
    ),
    valid(
        "E021-lowest-code",
        "E",
        file(payload(ABSMAX, codes=b"\x81" * 256), ABSMAX),
        "E-021",
        level="values",
        note="unusual, and decodes",
    ),
    bad("codes-behind-the-last", "E-022", payload(ABSMAX, (1, 100)), ABSMAX),
    bad(
        "bits-behind-a-run",
        "E-022",
        payload("sb:bits=3,per=row", (1, 17), codes=bytes(6) + b"\1"),
        "sb:bits=3,per=row",
    ),
    bad(
        "trits-behind-a-run",
        "E-022",
        payload("ternary_absmean", (1, 38), codes=bytes(7) + b"\1"),
        "ternary_absmean",
    ),
]


def outliers(id: str, counts: int, places: Sequence[int], values: Sequence[float]) -> Case:
    """Three of 2 x 128 weights."""
    name = "int4_b128+outliers=1%"
    content = struct.pack(f"<I{len(places)}H", counts, *places) + reals(values, ScaleType.F16)
    return bad(f"outliers-{id}", "E-023", payload(name, (2, 128), outliers=content), name)


OUTLIERS: list[Case] = [
    outliers("too-many", 4, (1, 2, 3), (1, 1, 1)),
    outliers("count-all-ones", (1 << 32) - 1, (1, 2, 3), (1, 1, 1)),
    outliers("out-of-order", 3, (1, 3, 2), (1, 1, 1)),
    outliers("twice", 3, (1, 2, 2), (1, 1, 1)),
    outliers("beyond-the-last", 3, (1, 2, 256), (1, 1, 1)),
    outliers("nan", 3, (1, 2, 3), (1, NAN, 1)),
    bad(
        "outliers-without-counts",
        "E-023",
        payload("int4_b128+outliers=>4", outliers=b"\0\0"),
        "int4_b128+outliers=>4",
    ),
]


def keyed(id: str, rule: str, metadata: Sequence[bytes], tensors: Sequence[Tensor] | None = None) -> Case:
    make = VERDICTS.get(rule, invalid)
    there = [Tensor("t", (len(payload(ABSMAX)),), I8, payload(ABSMAX))] if tensors is None else tensors
    return make(f"{rule.replace('-', '')}-{id}", "E", gguf([ARCHITECTURE, *metadata], there), rule)


MUST, NAMES = array(MUST_UNDERSTAND_KEY, STRING, [ABSMAX]), array(PAYLOADS_KEY, STRING, ["t"])
KEYS: list[Case] = [
    keyed("names-missing", "E-101", [MUST]),
    keyed("encodings-missing", "E-101", [NAMES]),
    keyed("encodings-a-number", "E-101", [key_value(MUST_UNDERSTAND_KEY, U32, 1), NAMES]),
    keyed("names-numbers", "E-101", [MUST, array(PAYLOADS_KEY, U32, [1])]),
    keyed("no-such-tensor", "E-102", [MUST, array(PAYLOADS_KEY, STRING, ["t", "u"])]),
    keyed("tensor-of-f32", "E-102", [MUST, NAMES], [Tensor("t", (144,))]),
    keyed(
        "two-dimensions",
        "E-102",
        [MUST, NAMES],
        [Tensor("t", (len(payload(ABSMAX)) // 2, 2), I8, payload(ABSMAX))],
    ),
    keyed("unknown-encoding", "E-103", [array(MUST_UNDERSTAND_KEY, STRING, [ABSMAX, "nf9_b64"]), NAMES]),
    keyed(
        "encoding-that-contradicts-itself",
        "E-103",
        [array(MUST_UNDERSTAND_KEY, STRING, ["sb:bits=9,block=64"]), NAMES],
    ),
    keyed("another-encoding", "E-104", [array(MUST_UNDERSTAND_KEY, STRING, ["nf4_b64"]), NAMES]),
    keyed("one-encoding-too-many", "E-104", [array(MUST_UNDERSTAND_KEY, STRING, [ABSMAX, "nf4_b64"]), NAMES]),
]

GOOD = {
    **dict.fromkeys(
        (
            "int8_b128",
            "int8_row",
            "int4_b128",
            "affine4_b64",
            "affine4_b64_dq",
            "nf4_b64",
            "nf4_b64_dq",
            "fp4_b64",
        ),
        (4, 256),
    ),
    **dict.fromkeys(
        (
            "af4_b64",
            "log4_b64",
            "kmeans4_row",
            "quantile4_b256",
            "sign_b128",
            "int4_b128+zstd",
            "int4_b128+outliers=1%",
        ),
        (4, 256),
    ),
    "ternary_absmean": (4, 40),
    "lossless": (2, 3, 32),
    "sb:bits=3,block=16,super=512,scale_bits=6,min_bits=6": (1, 256),
}
VALID: list[Case] = [
    *(
        valid(
            f"payload-{name.translate(str.maketrans(':,=+%', '-----'))}",
            "E",
            file(payload(name, s), name),
            level="values",
        )
        for name, s in GOOD.items()
    ),
    valid(
        "payload-of-three-chunks",
        "E",
        file(payload("nf4_b64", (5, 64), rows_per_chunk=2), "nf4_b64"),
        level="values",
    ),
    valid(
        "payload-lossless-f64",
        "E",
        file(payload("lossless", (4, 32), source_type=SourceType.F64), "lossless"),
        level="values",
    ),
    valid(
        "payload-that-nobody-announces",
        "E",
        gguf([ARCHITECTURE], [Tensor("t", (512,), I8, payload(ABSMAX)[:512])]),
        note="an I8 tensor",
    ),
]

CASES: list[Case] = [*DESCRIPTOR, *INDEX, *CHUNKS, *OUTLIERS, *KEYS, *VALID]
