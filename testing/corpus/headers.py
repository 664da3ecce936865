"""Cases about the first bytes, the counts, and the metadata as bytes."""

from __future__ import annotations

import struct

from testing.corpus.bytes import (
    ARCHITECTURE,
    ARRAY,
    BOOL,
    CODES,
    F32,
    F64,
    I32,
    STRING,
    U8,
    U16,
    U32,
    U64,
    Tensor,
    array,
    fill,
    gguf,
    header_only,
    key_value,
    preamble,
    raw_key_value,
    string,
    tensor_info,
)
from testing.corpus.case import Case, invalid, limit, malformed, unsupported, valid

GOOD = gguf(tensors=[Tensor("a.weight")])
EVERY_TYPE = [
    ARCHITECTURE,
    *(key_value(f"type.{kind}", kind, 1) for kind in CODES),
    key_value("type.string", STRING, "text"),
    *(array(f"array.{kind}", kind, [0, 1, 1]) for kind in CODES),
    array("array.string", STRING, ["", "a", "ü"]),
]
WEB_PAGE = (
    b"<!DOCTYPE html>\n<html><head><title>Access denied</title></head>"
    b"<body>Log in to download this file.</body></html>\n"
)
LFS = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:"
    + b"0123456789abcdef" * 4
    + b"\nsize 4661211808\n"
)

HEADER: list[Case] = [
    malformed("H01-empty", "H01", b"", "C-001"),
    malformed("H02-one-byte", "H02", b"G"),
    malformed("H02-magic-only", "H02", b"GGUF", note="CVE-2024-39720: four bytes ended a server"),
    malformed("H03-web-page", "H03", WEB_PAGE, "C-001"),
    malformed("H03-lfs-pointer", "H03", LFS, "C-001"),
    malformed("H03-json-error", "H03", b'{"error":"Repository not found"}', "C-001"),
    malformed("H03-zip", "H03", b"PK\x03\x04" + bytes(40), "C-001"),
    malformed("H03-zeros", "H03", bytes(64), "C-001"),
    malformed("H04-ggml", "H04", b"lmgg" + bytes(28), "C-001"),
    malformed("H04-ggmf", "H04", b"fmgg" + struct.pack("<I", 1) + bytes(28), "C-001"),
    malformed("H04-ggjt", "H04", b"tjgg" + struct.pack("<I", 3) + bytes(28), "C-001"),
    malformed("H05-reversed-magic", "H05", preamble(magic=b"FUGG"), "C-001", upstream="HEADER_BAD_MAGIC"),
    unsupported("H06-version-0", "H06", preamble(version=0), "C-002", upstream="HEADER_BAD_VERSION_0"),
    unsupported("H07-version-1", "H07", preamble(version=1), "C-002", upstream="HEADER_BAD_VERSION_1"),
    valid("H07-version-2", "H07", gguf(version=2), note="the layout of version 3"),
    unsupported("H08-version-4", "H08", preamble(version=4), "C-002", upstream="HEADER_BAD_VERSION_FUTURE"),
    unsupported("H09-big-endian", "H09", b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "C-003"),
    malformed("H10-half-a-version", "H10", b"GGUF\3\0"),
    malformed("H10-no-counts", "H10", preamble()[:8]),
    malformed("H10-half-a-count", "H10", preamble()[:20]),
    malformed(
        "H11-n-tensors-all-ones", "H11", preamble(n_tensors=2**64 - 1), upstream="HEADER_BAD_N_TENSORS"
    ),
    malformed("H11-n-tensors-2-63", "H11", preamble(n_tensors=2**63) + bytes(64)),
    malformed("H12-n-kv-all-ones", "H12", preamble(n_kv=2**64 - 1), upstream="HEADER_BAD_N_KV"),
    malformed("H12-n-kv-2-63", "H12", preamble(n_kv=2**63) + bytes(64)),
    malformed(
        "H12-hostile-43-bytes",
        "H12",
        preamble(n_kv=2**60) + bytes(19),
        note="PR #27188: gguf-py grows by 120 MB a second",
    ),
    malformed("H13-n-tensors-just-too-many", "H13", preamble(n_tensors=3) + bytes(3 * 24 - 1)),
    malformed("H13-n-kv-just-too-many", "H13", preamble(n_kv=3) + bytes(3 * 13 - 1)),
    limit(
        "H14-keys-over",
        "H14",
        gguf([ARCHITECTURE, key_value("a", U8, 1), key_value("b", U8, 1)]),
        "C-026",
        limits={"n_keys": 2},
    ),
    valid("H14-keys-at", "H14", gguf([ARCHITECTURE, key_value("a", U8, 1)]), limits={"n_keys": 2}),
    limit(
        "H14-tensors-over", "H14", gguf(tensors=[Tensor("a"), Tensor("b")]), "C-027", limits={"n_tensors": 1}
    ),
    valid("H14-tensors-at", "H14", gguf(tensors=[Tensor("a")]), limits={"n_tensors": 1}),
    valid("H15-nothing", "H15", preamble(), "G-001", upstream="HEADER_EMPTY"),
    valid("H15-nothing-padded", "H15", fill(preamble(), 32), "G-001"),
    valid(
        "H16-metadata-only",
        "H16",
        preamble(n_kv=1) + ARCHITECTURE,
        note="no tensors: the padding may be missing",
    ),
    valid("H16-metadata-only-padded", "H16", gguf()),
    limit("H17-header-over", "H17", GOOD, "C-025", limits={"header_bytes": 110}),
    valid("H17-header-at", "H17", GOOD, limits={"header_bytes": 111}),
    invalid("H18-two-files", "H18", GOOD + GOOD, "C-020"),
    invalid("H18-one-byte-more", "H18", GOOD + b"\0", "C-020"),
    invalid("H18-tail-without-tensors", "H18", gguf() + b"\0", "C-020"),
    invalid("H19-zip-behind", "H19", GOOD + b"PK\x05\x06" + bytes(18), "C-020"),
    malformed("H20-byte-order-mark", "H20", b"\xef\xbb\xbf" + GOOD, "C-001"),
    malformed("H20-newline-first", "H20", b"\n" + GOOD, "C-001"),
]

KEYS: list[Case] = [
    malformed(
        "K01-key-length-all-ones",
        "K01",
        preamble(n_kv=1) + key_value("key", U8, 1, key_length=2**64 - 1),
        upstream="KV_BAD_KEY_SIZE",
    ),
    malformed("K01-key-one-byte-too-long", "K01", preamble(n_kv=1) + string("key", 17) + bytes(13)),
    invalid(
        "K02-empty-key", "K02", gguf([ARCHITECTURE, key_value("", U8, 1)]), "C-009", upstream="KV_EMPTY_KEY"
    ),
    invalid("K03-key-65536-bytes", "K03", gguf([ARCHITECTURE, key_value("k" * 65536, U8, 1)]), "C-009"),
    valid("K03-key-65535-bytes", "K03", gguf([ARCHITECTURE, key_value("k" * 65535, U8, 1)])),
    invalid("K04-key-not-utf-8", "K04", gguf([ARCHITECTURE, key_value(b"k\xff", U8, 1)]), "C-022"),
    valid("K04-key-not-ascii", "K04", gguf([ARCHITECTURE, key_value("schlüssel", U8, 1)])),
    invalid("K05-key-with-nul", "K05", gguf([ARCHITECTURE, key_value("a\0b", U8, 1)]), "C-030"),
    valid("K05-key-with-escape", "K05", gguf([ARCHITECTURE, key_value("a\x1b[2J", U8, 1)]), "C-031"),
    valid("K05-key-with-newline", "K05", gguf([ARCHITECTURE, key_value("a\nb", U8, 1)]), "C-031"),
    valid(
        "K05-key-with-direction-override", "K05", gguf([ARCHITECTURE, key_value("a\u202eb", U8, 1)]), "C-031"
    ),
    valid("K06-key-in-capitals", "K06", gguf([ARCHITECTURE, key_value("Vendor.Key", U8, 1)])),
    invalid(
        "K06-key-in-capitals-strict",
        "K06",
        gguf([ARCHITECTURE, key_value("Vendor.Key", U8, 1)]),
        "C-062",
        level="strict",
    ),
    malformed(
        "K07-duplicate-key", "K07", gguf([ARCHITECTURE, ARCHITECTURE]), "C-010", upstream="KV_DUPLICATE_KEY"
    ),
    valid(
        "K08-keys-by-case",
        "K08",
        gguf([ARCHITECTURE, key_value("a.b", U8, 1), key_value("A.b", U8, 1)]),
        "C-033",
        "C-033",
    ),
    invalid(
        "K08-keys-by-nul",
        "K08",
        gguf([ARCHITECTURE, key_value("a", U8, 1), key_value("a\0", U8, 1)]),
        "C-030",
    ),
    valid(
        "K09-proto-key",
        "K09",
        gguf([ARCHITECTURE, key_value("__proto__", STRING, "x"), key_value("constructor", U8, 1)]),
    ),
    malformed("K10-ends-in-key", "K10", preamble(n_kv=1) + ARCHITECTURE[:15]),
    malformed("K10-ends-in-type", "K10", preamble(n_kv=1) + ARCHITECTURE[:30]),
    malformed("K10-ends-in-value", "K10", preamble(n_kv=1) + ARCHITECTURE[:-1]),
    malformed("K10-ends-before-scalar", "K10", preamble(n_kv=1) + key_value("some.key", U64, 1)[:-1]),
    invalid(
        "K11-alignment-i32",
        "K11",
        gguf([ARCHITECTURE, key_value("general.alignment", I32, 32)]),
        "C-011",
        upstream="KV_WRONG_TYPE_ALIGN",
    ),
    invalid(
        "K11-alignment-string",
        "K11",
        gguf([ARCHITECTURE, key_value("general.alignment", STRING, "32")]),
        "C-011",
    ),
    invalid("K11-architecture-u32", "K11", gguf([key_value("general.architecture", U32, 1)]), "G-001"),
    invalid(
        "K12-alignment-array", "K12", gguf([ARCHITECTURE, array("general.alignment", U32, [32])]), "C-011"
    ),
    valid(
        "K13-vendor-namespace",
        "K13",
        gguf([ARCHITECTURE, key_value("vendor.tool.setting", STRING, "anything")]),
    ),
]

VALUES: list[Case] = [
    malformed(
        "V01-value-type-13", "V01", gguf([raw_key_value("k", 13, bytes(8))]), "C-006", upstream="KV_BAD_TYPE"
    ),
    malformed("V01-value-type-all-ones", "V01", gguf([raw_key_value("k", 2**32 - 1, bytes(8))]), "C-006"),
    malformed(
        "V02-string-length-all-ones", "V02", gguf([raw_key_value("k", STRING, string("x", 2**64 - 1))])
    ),
    malformed(
        "V02-string-one-byte-too-long",
        "V02",
        preamble(n_kv=1) + raw_key_value("k", STRING, string("text", 5)),
    ),
    limit(
        "V02-string-over",
        "V02",
        gguf([ARCHITECTURE, key_value("k", STRING, "x" * 33)]),
        "C-023",
        limits={"string_bytes": 32},
    ),
    valid(
        "V02-string-at",
        "V02",
        gguf([ARCHITECTURE, key_value("k", STRING, "x" * 32)]),
        limits={"string_bytes": 32},
    ),
    valid("V03-string-not-utf-8", "V03", gguf([ARCHITECTURE, key_value("k", STRING, b"\xc3\x28")]), "C-022"),
    valid(
        "V03-token-not-utf-8",
        "V03",
        gguf([ARCHITECTURE, array("k", STRING, [b"\xe2\x96", b"\xff"])]),
        note="tokens are bytes",
    ),
    valid("V04-string-with-nul", "V04", gguf([ARCHITECTURE, key_value("k", STRING, "a\0b")]), "C-034"),
    malformed("V05-bool-2", "V05", gguf([raw_key_value("k", BOOL, b"\2")]), "C-008"),
    malformed("V05-bool-2-in-array", "V05", gguf([array("k", BOOL, [1, 0, 2])]), "C-008"),
    malformed("V05-bool-255-in-long-array", "V05", gguf([array("k", BOOL, [1] * 100 + [255])]), "C-008"),
    malformed(
        "V06-element-type-13",
        "V06",
        gguf([raw_key_value("k", ARRAY, struct.pack("<IQ", 13, 1) + bytes(8))]),
        "C-006",
    ),
    malformed("V07-array-too-long", "V07", gguf([array("k", U32, [1, 2, 3], count=40)])),
    malformed("V07-array-size-wraps", "V07", gguf([array("k", U64, [1], count=2**61)])),
    malformed("V07-array-size-wraps-to-less", "V07", gguf([array("k", U64, [1], count=2**61 + 1)])),
    malformed("V08-string-array-too-long", "V08", gguf([array("k", STRING, ["a"], count=2**40)])),
    malformed(
        "V08-string-array-ends-early",
        "V08",
        preamble(n_kv=1) + array("k", STRING, ["abc", "d" * 20], count=4),
    ),
    limit(
        "V09-array-over",
        "V09",
        gguf([ARCHITECTURE, array("k", U8, [1] * 9)]),
        "C-028",
        limits={"n_elements": 8},
    ),
    valid("V09-array-at", "V09", gguf([ARCHITECTURE, array("k", U8, [1] * 8)]), limits={"n_elements": 8}),
    malformed(
        "V10-nested-array",
        "V10",
        gguf([raw_key_value("k", ARRAY, struct.pack("<IQ", ARRAY, 1) + struct.pack("<IQB", U8, 1, 7))]),
        "C-007",
    ),
    malformed(
        "V11-deeply-nested",
        "V11",
        gguf([raw_key_value("k", ARRAY, struct.pack("<IQ", ARRAY, 1) * 500)]),
        "C-007",
    ),
    malformed(
        "V12-many-empty-arrays",
        "V12",
        gguf([raw_key_value("k", ARRAY, struct.pack("<IQ", ARRAY, 99) + struct.pack("<IQ", U8, 0) * 99)]),
        "C-007",
    ),
    valid(
        "V13-empty-arrays",
        "V13",
        gguf([ARCHITECTURE, *(array(f"empty.{kind}", kind, []) for kind in (*CODES, STRING))]),
    ),
    malformed(
        "V14-empty-array-of-nothing",
        "V14",
        gguf([raw_key_value("k", ARRAY, struct.pack("<IQ", 99, 0))]),
        "C-006",
    ),
    malformed(
        "V14-empty-array-of-arrays",
        "V14",
        gguf([raw_key_value("k", ARRAY, struct.pack("<IQ", ARRAY, 0))]),
        "C-007",
    ),
    valid("V15-nan", "V15", gguf([ARCHITECTURE, key_value("k", F32, float("nan"))]), "C-032"),
    valid(
        "V15-infinity-in-array", "V15", gguf([ARCHITECTURE, array("k", F64, [1.0, float("-inf")])]), "C-032"
    ),
    valid(
        "V25-terminal-escapes",
        "V25",
        gguf([ARCHITECTURE, key_value("general.url", STRING, "https://x\x1b]0;owned\x07")]),
        "C-034",
    ),
    valid("every-type", "", gguf(EVERY_TYPE), upstream="KV_SUCCESS"),
    valid(
        "long-strings",
        "",
        gguf([ARCHITECTURE, array("k", STRING, ["a"] * 50 + ["x" * 300, "", "\0" * 20] + ["b"] * 50)]),
    ),
    valid(
        "text-in-all-planes", "", gguf([ARCHITECTURE, key_value("k", STRING, "\u00e9\u4e2d\U0001f600\ufeff")])
    ),
]

ALIGNMENT: list[Case] = [
    invalid("A01-alignment-0", "A01", gguf([ARCHITECTURE, key_value("general.alignment", U32, 0)]), "C-011"),
    invalid(
        "A02-alignment-13",
        "A02",
        gguf([ARCHITECTURE, key_value("general.alignment", U32, 13)], alignment=13),
        "C-011",
        upstream="KV_BAD_ALIGN",
    ),
    invalid(
        "A02-alignment-24",
        "A02",
        gguf([ARCHITECTURE, key_value("general.alignment", U32, 24)], alignment=24),
        "C-011",
        note="gguf.md allows it",
    ),
    invalid(
        "A02-alignment-13-with-tensors",
        "A02",
        gguf(
            [ARCHITECTURE, key_value("general.alignment", U32, 13)],
            [Tensor("a"), Tensor("b", (5,))],
            alignment=13,
        ),
        "C-011",
        upstream="TENSORS_BAD_ALIGN",
    ),
    invalid(
        "A02-alignment-13-with-data",
        "A02",
        gguf(
            [ARCHITECTURE, key_value("general.alignment", U32, 13)],
            [Tensor("a", (7,)), Tensor("b", (5,))],
            alignment=13,
        ),
        "C-011",
        upstream="DATA_BAD_ALIGN",
    ),
    *(
        valid(
            f"A03-alignment-{n}",
            "A03",
            gguf(
                [ARCHITECTURE, key_value("general.alignment", U32, n)],
                [Tensor("a", (3,)), Tensor("b")],
                alignment=n,
            ),
        )
        for n in (1, 2, 4, 8, 16, 4096)
    ),
    invalid(
        "A04-alignment-2-21",
        "A04",
        gguf([ARCHITECTURE, key_value("general.alignment", U32, 1 << 21)]),
        "C-011",
    ),
    invalid(
        "A04-alignment-2-31",
        "A04",
        gguf([ARCHITECTURE, key_value("general.alignment", U32, 1 << 31)]),
        "C-011",
    ),
    valid(
        "A04-alignment-2-20",
        "A04",
        gguf([ARCHITECTURE, key_value("general.alignment", U32, 1 << 20)], alignment=1),
    ),
    invalid(
        "A05-alignment-u16", "A05", gguf([ARCHITECTURE, key_value("general.alignment", U16, 32)]), "C-011"
    ),
    invalid(
        "A05-alignment-u64", "A05", gguf([ARCHITECTURE, key_value("general.alignment", U64, 32)]), "C-011"
    ),
    invalid(
        "A06-ends-in-the-padding",
        "A06",
        header_only([ARCHITECTURE], [tensor_info("a", (0,), 0, 0)], alignment=1),
        "C-019",
    ),
    valid(
        "A07-header-padding-ones",
        "A07",
        gguf(tensors=[Tensor("a", (3,))], pad=b"\1"),
        "C-060",
        "C-060",
        level="values",
    ),
    invalid(
        "A07-padding-ones-strict",
        "A07",
        gguf(tensors=[Tensor("a", (3,))], pad=b"\1"),
        "C-060",
        "C-060",
        level="strict",
    ),
    valid(
        "A07-padding-not-looked-at",
        "A07",
        gguf(tensors=[Tensor("a", (3,))], pad=b"\1"),
        note="structure reads no padding",
    ),
    valid("A08-no-final-padding", "A08", gguf(tensors=[Tensor("a", (3,))], padded_end=False)),
    invalid(
        "A08-no-final-padding-strict",
        "A08",
        gguf(tensors=[Tensor("a", (3,))], padded_end=False),
        "C-065",
        level="strict",
    ),
    invalid(
        "A09-aligned-to-another",
        "A09",
        gguf(
            [ARCHITECTURE, key_value("general.alignment", U32, 64)],
            [Tensor("a", (3,)), Tensor("b")],
            alignment=32,
        ),
        "C-024",
        "C-018",
        upstream="TENSORS_INCONSISTENT_ALIGN",
    ),
    invalid(
        "A09-aligned-to-1",
        "A09",
        gguf(
            [ARCHITECTURE],
            [Tensor("a", (3,), 24), Tensor("b", (5,), 24), Tensor("c", (64,), 24)],
            alignment=1,
        ),
        "C-024",
        "C-018",
        "C-024",
        "C-018",
        "C-019",
        upstream="DATA_INCONSISTENT_ALIGN",
    ),
    valid(
        "alignment-1-with-tensors",
        "",
        gguf(
            [ARCHITECTURE, key_value("general.alignment", U32, 1)],
            [Tensor("a", (3,)), Tensor("b", (5,))],
            alignment=1,
        ),
        upstream="TENSORS_CUSTOM_ALIGN",
    ),
    valid(
        "alignment-1-with-data",
        "",
        gguf(
            [ARCHITECTURE, key_value("general.alignment", U32, 1)],
            [Tensor("a", (7,), 24), Tensor("b", (33,))],
            alignment=1,
        ),
        level="values",
        upstream="DATA_CUSTOM_ALIGN",
    ),
]
CASES = HEADER + KEYS + VALUES + ALIGNMENT
