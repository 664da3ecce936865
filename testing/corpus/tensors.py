"""Cases about the tensor table, the layout of the data, and the blocks."""

from __future__ import annotations

from testing.corpus.bytes import (
    ARCHITECTURE,
    SIZES,
    STRING,
    U32,
    Tensor,
    fill,
    gguf,
    header_only,
    key_value,
    preamble,
    tensor_info,
)
from testing.corpus.case import Case, invalid, malformed, unsupported, valid

VERSION_2_BLOCKS = key_value("general.quantization_version", U32, 2)
QUANTIZED = [ARCHITECTURE, VERSION_2_BLOCKS]


def one(
    name: str | bytes = "t",
    dims: tuple[int, ...] = (32,),
    kind: int = 0,
    offset: int = 0,
    nbytes: int = 128,
    **more: int,
) -> bytes:
    """A file with one tensor, whose entry is what the case wants and whose data are nbytes of ones."""
    return header_only(QUANTIZED, [tensor_info(name, dims, kind, offset, **more)], fill(b"\1" * nbytes, 32))


def two(
    first: tuple[tuple[int, ...], int, int], second: tuple[tuple[int, ...], int, int], nbytes: int = 256
) -> bytes:
    """A file with tensors a and b, each given by dims, type and offset."""
    return header_only(QUANTIZED, [tensor_info("a", *first), tensor_info("b", *second)], b"\1" * nbytes)


HUGE = 0x7FFFFFFFFFFFFFC0

TABLE: list[Case] = [
    malformed("T01-name-length-all-ones", "T01", one(name_length=2**64 - 1)),
    malformed(
        "T01-name-too-long-for-the-file", "T01", preamble(1) + tensor_info("t", (1,), 0, 0, name_length=40)
    ),
    invalid("T02-name-64-bytes", "T02", one("n" * 64), "C-012", note="gguf.md says 64; ggml holds 63"),
    invalid(
        "T02-name-90-bytes",
        "T02",
        one("my_tensor_with_a_long_name" * 4),
        "C-012",
        upstream="TENSORS_BAD_NAME_SIZE",
    ),
    valid("T02-name-63-bytes", "T02", one("n" * 63)),
    invalid("T03-empty-name", "T03", one(""), "C-029"),
    invalid("T04-name-not-utf-8", "T04", one(b"t\xff"), "C-022"),
    invalid("T04-name-with-nul", "T04", one("a\0b"), "C-030"),
    valid("T04-name-with-escape", "T04", one("a\x1b[31m"), "C-031"),
    valid(
        "T04-name-like-a-path",
        "T04",
        one("../../etc/passwd"),
        note="a name is no path: who makes one of it must not",
    ),
    invalid(
        "T05-duplicate-name",
        "T05",
        gguf(tensors=[Tensor("t"), Tensor("t")]),
        "C-013",
        upstream="TENSORS_DUPLICATE_NAME",
    ),
    valid("T06-rank-0", "T06", one(dims=(), nbytes=4), note="one number"),
    invalid("T06-rank-0-quantized", "T06", one(dims=(), kind=8), "C-017"),
    invalid("T07-rank-5", "T07", one(dims=(2, 2, 2, 2, 2)), "C-014", upstream="TENSORS_BAD_N_DIMS"),
    invalid("T07-rank-5-of-ones", "T07", one(dims=(1, 1, 1, 1, 1), nbytes=4), "C-014"),
    malformed("T07-rank-all-ones", "T07", one(n_dims=2**32 - 1)),
    valid("T07-rank-4", "T07", one(dims=(2, 2, 2, 2), nbytes=64)),
    valid("T08-dimension-0", "T08", one(dims=(0,), nbytes=0), upstream="TENSORS_ZERO_DIM"),
    valid("T08-dimension-0-among-others", "T08", two(((4, 0, 3), 0, 0), ((32,), 0, 0), 128)),
    valid("T08-row-of-0-quantized", "T08", one(dims=(0, 3), kind=8, nbytes=0)),
    invalid(
        "T08-dimension-0-beside-huge",
        "T08",
        one(dims=(0, 2**62, 4), nbytes=0),
        "C-015",
        note="what only a zero makes small cannot be held",
    ),
    invalid("T09-dimension-2-63", "T09", one(dims=(2**63,)), "C-015", upstream="TENSORS_BAD_SHAPE"),
    invalid("T09-dimension-all-ones", "T09", one(dims=(2**64 - 1,)), "C-015"),
    invalid("T10-product-2-63", "T10", one(dims=(2**32, 2**31)), "C-015", upstream="TENSORS_NE_TOO_BIG"),
    invalid("T11-product-wraps-to-0", "T11", one(dims=(2**32, 2**32)), "C-015", note="llama.cpp #27203"),
    invalid("T11-product-wraps-to-less-than-0", "T11", one(dims=(2**63 - 1, 2), kind=24), "C-015"),
    invalid(
        "T11-product-wraps-to-4",
        "T11",
        one(dims=(4194305, 4194305, 211106198978564)),
        "C-015",
        note="gguf-py's np.prod says 4",
    ),
    invalid(
        "T12-bytes-over-2-63", "T12", one(dims=(2**62,), kind=28), "C-015", upstream="TENSORS_NBYTES_TOO_BIG"
    ),
    invalid(
        "T13-bytes-2-64-less-16",
        "T13",
        one(dims=(4, 2**30 - 1, 2**30 + 1)),
        "C-015",
        upstream="TENSORS_NBYTES_PAD_WRAP",
    ),
    invalid("T14-sum-wraps", "T14", two(((HUGE,), 24, 0), ((HUGE,), 24, HUGE)), "C-019"),
    invalid(
        "T15-sum-and-overhead-wrap",
        "T15",
        two(((HUGE,), 24, 0), ((HUGE,), 24, HUGE)) + bytes(32),
        "C-019",
        upstream="DATA_MEM_SIZE_OVERFLOW",
        note="GHSA-3p4r-fq3f-q74v",
    ),
    invalid("T16-row-of-33-in-blocks-of-32", "T16", one(dims=(33,), kind=8), "C-017"),
    invalid(
        "T16-row-of-16-twice",
        "T16",
        one(dims=(16, 2), kind=8),
        "C-017",
        note="32 weights, but no row is a block",
    ),
    unsupported("T17-type-43", "T17", one(kind=43), "C-016", upstream="TENSORS_BAD_TYPE"),
    unsupported("T17-type-all-ones", "T17", one(kind=2**32 - 1), "C-016"),
    *(
        unsupported(f"T18-removed-type-{kind}", "T18", one(kind=kind), "C-016")
        for kind in (4, 5, 31, 32, 33, 36, 37, 38)
    ),
    valid("T19-nvfp4", "T19", gguf(QUANTIZED, [Tensor("t", (64,), 40)]), note="in ggml.h, not in gguf.md"),
    valid("T19-q1-0", "T19", gguf(QUANTIZED, [Tensor("t", (128,), 41)])),
    unsupported("T20-q8-1", "T20", one(kind=9), "C-016"),
    unsupported("T20-q8-k", "T20", one(dims=(256,), kind=15, nbytes=292), "C-016"),
    valid("T21-last-dimensions-of-1", "T21", one(dims=(32, 1, 1))),
    invalid("T21-last-dimensions-of-1-strict", "T21", one(dims=(32, 1, 1)), "C-064", level="strict"),
    malformed("T22-table-ends-early", "T22", preamble(2) + tensor_info("t", (32,), 0, 0)),
    malformed("T22-table-ends-in-dims", "T22", preamble(1) + tensor_info("t", (32,), 0, 0)[:-14]),
    malformed("T22-table-ends-in-offset", "T22", preamble(1) + tensor_info("t", (32,), 0, 0)[:-1]),
    valid(
        "several-formats",
        "",
        gguf(QUANTIZED, [Tensor(f"t{kind}", (256, 2), kind) for kind in SIZES]),
        upstream="TENSORS_SUCCESS",
    ),
    valid(
        "rank-4-and-data",
        "",
        gguf(QUANTIZED, [Tensor("a", (32, 2, 3, 2), 8), Tensor("b", (7,))]),
        level="values",
        upstream="DATA_SUCCESS",
    ),
]

TRUNCATABLE = gguf(QUANTIZED, [Tensor("a", (256, 2), 12), Tensor("b", (32, 4), 8), Tensor("c", (3,))])

LAYOUT: list[Case] = [
    invalid("D01-offset-not-aligned", "D01", two(((3,), 0, 0), ((3,), 0, 12)), "C-024", "C-018", "C-020"),
    invalid(
        "D02-offset-all-ones",
        "D02",
        one(offset=2**64 - 1),
        "C-024",
        "C-018",
        "C-019",
        upstream="TENSORS_BAD_OFFSET",
    ),
    invalid(
        "D02-offset-wraps-to-header",
        "D02",
        one(offset=2**64 - 32),
        "C-018",
        "C-019",
        note="gguf-py: the tensor is the header",
    ),
    invalid("D03-one-byte-short", "D03", TRUNCATABLE[: -32 + 12 - 1], "C-019"),
    invalid(
        "D03-half", "D03", TRUNCATABLE[: len(TRUNCATABLE) // 2 + 80], "C-019", upstream="DATA_NOT_ENOUGH_DATA"
    ),
    invalid("D03-no-data", "D03", TRUNCATABLE[:-480], "C-019"),
    invalid("D07-offset-to-magic", "D07", one(offset=2**64 - 192), "C-018", "C-019"),
    invalid("D04-same-place", "D04", two(((32,), 0, 0), ((32,), 0, 0), 128), "C-018"),
    invalid("D04-partial-overlap", "D04", two(((32,), 0, 0), ((32,), 0, 96), 224), "C-018"),
    invalid("D05-hole", "D05", two(((32,), 0, 0), ((16,), 0, 160), 224), "C-018"),
    invalid("D05-hole-in-front", "D05", one(offset=32, nbytes=160), "C-018"),
    invalid("D06-not-in-table-order", "D06", two(((32,), 0, 128), ((32,), 0, 0)), "C-018", "C-018"),
    valid("D08-empty-tensor-at-the-end", "D08", two(((32,), 0, 0), ((0,), 0, 128), 128)),
    valid(
        "D08-empty-tensor-at-a-page",
        "D08",
        header_only(
            [ARCHITECTURE, key_value("pad", STRING, "x" * 3960)],
            [tensor_info("t", (0,), 0, 0)],
            alignment=4096,
        ),
    ),
    valid(
        "D09-never-written",
        "D09",
        gguf(QUANTIZED, [Tensor("t", (256, 2), 12, bytes(288))]),
        "V-005",
        level="values",
    ),
]


def with_half(kind: int, at: int, half: int, dims: tuple[int, ...], width: int = 2) -> bytes:
    """A tensor with a word of its second block (or weight) changed."""
    good = Tensor("t", dims, kind)
    data = bytearray(good.payload())
    position = good.type_size + at
    data[position : position + width] = half.to_bytes(width, "little")
    return gguf(QUANTIZED, [Tensor("t", dims, kind, bytes(data))])


INFINITY, NAN = 0x7C00, 0xFE01

BLOCKS: list[Case] = [
    invalid("B01-q8-0-infinity", "B01", with_half(8, 0, INFINITY, (64,)), "V-001", level="values"),
    invalid("B01-q8-0-nan", "B01", with_half(8, 0, NAN, (64,)), "V-001", level="values"),
    invalid("B01-q4-0-minus-infinity", "B01", with_half(2, 0, 0xFC00, (64,)), "V-001", level="values"),
    invalid("B01-q4-k-dmin-nan", "B01", with_half(12, 2, NAN, (512,)), "V-001", level="values"),
    valid("B01-q8-0-largest-half", "B01", with_half(8, 0, 0x7BFF, (64,)), level="values"),
    valid("B01-not-looked-at", "B01", with_half(8, 0, NAN, (64,)), note="structure reads no blocks"),
    invalid("B02-mxfp4-nan", "B02", with_half(39, 0, 0xFF, (64,), 1), "V-002", level="values"),
    valid("B02-mxfp4-largest", "B02", with_half(39, 0, 0xFE, (64,), 1), level="values"),
    invalid("B03-f16-infinity", "B03", with_half(1, 0, INFINITY, (32,)), "V-003", level="values"),
    invalid("B03-bf16-nan", "B03", with_half(30, 0, 0x7FC0, (32,)), "V-003", level="values"),
    invalid("B03-f32-nan", "B03", with_half(0, 0, 0x7F800001, (32,), 4), "V-003", level="values"),
    invalid("B04-f64-infinity", "B04", with_half(28, 4, 0x7FF00000, (32,), 4), "V-003", level="values"),
    valid("B04-f64-large", "B04", with_half(28, 4, 0x7FEFFFFF, (32,), 4), level="values"),
    valid(
        "B05-minus-zero-codes",
        "B05",
        gguf(QUANTIZED, [Tensor("t", (64,), 39, (b"\x80" + b"\x88" * 16) * 2)]),
        level="values",
        note="E2M1 has two zeros",
    ),
    valid("B06-subnormal-and-negative-scales", "B06", with_half(8, 0, 0x8001, (64,)), level="values"),
    valid(
        "B07-nvfp4-nan",
        "B07",
        with_half(40, 2, 0x7F, (128,), 1),
        "V-004",
        level="values",
        note="ggml decodes it as zero",
    ),
    valid(
        "small-scales",
        "D09",
        gguf(QUANTIZED, [Tensor("t", (256, 2), 12, (b"\1\0\1\0" + b"\x11" * 140) * 2)]),
        level="values",
        note="subnormal",
    ),
    valid(
        "zero-vector",
        "",
        gguf(tensors=[Tensor("bias", (32,), 0, bytes(128))]),
        level="values",
        note="a bias may well be zero",
    ),
    invalid("strict-version-2", "", gguf(version=2), "C-061", level="strict"),
    invalid(
        "strict-architecture-not-first",
        "",
        gguf([key_value("a", STRING, "x"), ARCHITECTURE]),
        "C-063",
        level="strict",
    ),
    valid("strict-good", "", TRUNCATABLE, level="strict"),
    valid("no-quantization-version", "V18", gguf([ARCHITECTURE], [Tensor("t", (32,), 8)]), "G-002"),
    invalid(
        "quantization-version-string",
        "V18",
        gguf([ARCHITECTURE, key_value("general.quantization_version", STRING, "2")], [Tensor("t", (32,), 8)]),
        "G-002",
    ),
    valid(
        "another-quantization-version",
        "",
        gguf([ARCHITECTURE, key_value("general.quantization_version", U32, 3)], [Tensor("t", (32,), 8)]),
        "G-002",
    ),
    valid(
        "file-type-without-its-format",
        "",
        gguf([ARCHITECTURE, key_value("general.file_type", U32, 7)], [Tensor("t", (32, 2), 1)]),
        "G-008",
    ),
    valid(
        "file-type-that-fits-no-row",
        "",
        gguf([ARCHITECTURE, key_value("general.file_type", U32, 15)], [Tensor("t", (32, 2), 1)]),
    ),
]
CASES = TABLE + LAYOUT + BLOCKS
