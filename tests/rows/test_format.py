"""Row stores as files: what a row is, and what the header of a file that grows may say."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflow
from gguflow import parametric, sources
from gguflow.cli import main
from gguflow.container import row_store as layout
from gguflow.container.header import Header, TensorInfo, parse
from gguflow.container.metadata import Metadata, ValueType, array, string, u32, u64
from gguflow.container.payload_keys import MUST_UNDERSTAND_KEY, PAYLOADS_KEY
from gguflow.container.writer import build
from gguflow.editing import edit
from gguflow.errors import (
    FileError,
    GguflowError,
    InvalidError,
    NonFiniteError,
    ShapeError,
    UnknownFormatError,
    UnsupportedError,
    UsageError,
)
from gguflow.rows import RowStore, find_codec, judge_rows
from gguflow.validation import examine
from testing.fuzzing.mutation import mutated
from testing.row_stores import rules_of, store_of, vectors

ROOT = Path(__file__).resolve().parents[2]

BLOCKS = [("q8_0", 96), ("q4_0", 32), ("q4_k", 512), ("iq4_nl", 64), ("f16", 7), ("bf16", 5), ("f32", 1)]
CHUNKS = [
    *(
        ("int8_row", 128),
        ("int8_row", 1),
        ("affine4_b64", 128),
        ("affine4_b64", 100),
        ("nf4_b64", 192),
        ("nf4_b64", 5),
        ("int4_b128", 256),
    ),
    *(
        ("sign_b128", 130),
        ("affine3_b32", 32),
        ("affine4_b64_dq", 128),
        ("sb:bits=3,block=16,super=4,scale_bits=6,min_bits=6", 64),
    ),
    *(("sb:bits=3,block=16,super=2,scale_bits=5", 64), ("kmeans4_row", 100)),
]
REFUSED = {"nf4_b64_dq", "ternary_absmean", "quantile4_b256", "lossless"}


@pytest.mark.parametrize(("format", "width"), BLOCKS)
def test_a_row_in_a_block_format_is_what_quantize_gives(tmp_path: Path, format: str, width: int) -> None:
    x = vectors(23, width)
    with RowStore(tmp_path / "x.gguf", format, width) as store:
        assert [store.append(x[:20]), store.append(x[20]), store.append(x[21:].astype(np.float64))] == [
            range(20),
            range(20, 21),
            range(21, 23),
        ]
        packed = gguflow.quantize(x, format)
        np.testing.assert_array_equal(store.raw(), packed)
        np.testing.assert_array_equal(store.rows(), gguflow.dequantize(packed, format))
    assert examine(tmp_path / "x.gguf", "strict") == ("valid", [])


@pytest.mark.parametrize(("format", "width"), CHUNKS)
def test_a_row_in_the_family_is_the_chunk_of_a_tensor_of_one_row(
    tmp_path: Path, format: str, width: int
) -> None:
    """Whether rows are encoded many at a time or one by one."""
    x = vectors(9, width)
    payloads = [parametric.Payload(gguflow.quantize(row[None], format)) for row in x]
    with RowStore(tmp_path / "x.gguf", format, width) as store:
        store.append(x[:8])
        store.append(x[8])
        for payload, row in zip(payloads, store.raw(), strict=True):
            chunk = payload.chunk(0)
            np.testing.assert_array_equal(row, chunk[: len(row)])
            assert not chunk[len(row) :].any() and len(row) % 8 == 0 and len(chunk) - len(row) < 64
        np.testing.assert_array_equal(
            store.rows(), np.concatenate([payload.decode_rows() for payload in payloads])
        )
    assert examine(tmp_path / "x.gguf", "strict") == ("valid", [])


@pytest.mark.parametrize("name", parametric.presets())
def test_presets_hold_rows_or_say_why_not(name: str) -> None:
    if name in REFUSED:
        with pytest.raises(UsageError, match="one by one"):
            find_codec(name, 128)
    else:
        codec = find_codec(name, 4096)
        assert 0 <= 8 * codec.row_nbytes / 4096 - parametric.find(name).bits_per_weight < 0.15


def test_many_rows_are_taken_in_pieces() -> None:
    """More numbers than one piece; the first that cannot be kept is named wherever it stands."""
    x = vectors(3000, 512)
    for name in ("q8_0", "int8_row"):
        codec = find_codec(name, 512)
        packed, decoded = codec.encode(x), np.empty_like(x)
        np.testing.assert_array_equal(packed[2990:], codec.encode(x[2990:]))
        codec.decode(packed, decoded)
        assert 10 * np.log10(np.square(x).sum() / np.square(x - decoded).sum()) > 40
    x[2500, 77] = np.inf
    with pytest.raises(NonFiniteError, match=r"\[2500, 77\]") as refused:
        codec.encode(x)
    assert refused.value.index == 2500 * 512 + 77


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    {
        "another width": (np.zeros((2, 63), np.float32), ShapeError, "63"),
        "three dimensions": (np.zeros((1, 2, 64), np.float32), ShapeError, "float"),
        "a scalar": (np.float32(1), ShapeError, "float"),
        "integers": (np.zeros((2, 64), np.int32), ShapeError, "int32"),
        "NaN": (np.full((2, 64), np.nan, np.float32), NonFiniteError, "nan"),
        "infinite in float32": (np.full((2, 64), 1e39), NonFiniteError, "inf"),
        "no scale for it": (np.full((2, 64), 1e38, np.float32), NonFiniteError, "too large"),
    }.values(),
)
def test_what_cannot_be_appended(tmp_path: Path, wrong: Any, error: type[GguflowError], match: str) -> None:
    with RowStore(tmp_path / "x.gguf", "q8_0", 64) as store:
        store.append(vectors(3, 64))
        with pytest.raises(error, match=match):
            store.append(wrong)
        assert store.append(np.zeros((0, 64), np.float32)) == range(3, 3)
        assert store.append(vectors(1, 64)) == range(3, 4)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("q9_9", 64), UnknownFormatError),
        (("q8_0", 63), ShapeError),
        (("q8_0", 0), ShapeError),
        (("q8_0", 1 << 40), ShapeError),
        (("q8_0", "64"), ShapeError),
        (("int8_row", 0), ShapeError),
        (("i8", 64), UsageError),
        (("f64", 64), UsageError),
        (("iq2_xxs", 256), UsageError),
        (("int8_row+outliers=1%", 64), UsageError),
        (("int4_b128+zstd", 64), UsageError),
        (("sb:bits=4,per=tensor,codebook=kmeans", 64), UsageError),
        ((None, 64), UsageError),
        (("q8_0", None), UsageError),
    ],
)
def test_stores_that_cannot_be(tmp_path: Path, arguments: Any, error: type[GguflowError]) -> None:
    with pytest.raises(error):
        RowStore(tmp_path / "x.gguf", *arguments)
    assert list(tmp_path.iterdir()) == []


Change = Callable[[Metadata, list[TensorInfo]], None]


def changed(path: Path, format: str, change: Change) -> Path:
    """A store of four rows with another header; the count lies where it lies."""
    content = store_of(path, 4, format).read_bytes()
    header = parse(content, "")
    metadata, tensors = dict(header.metadata), list(header.tensors)
    change(metadata, tensors)
    path.write_bytes(build(metadata, tensors, header.alignment) + content[header.data_offset :])
    return path


def setting(key: str, value: Any) -> Change:
    return lambda metadata, tensors: metadata.update({key: value})


def removing(key: str) -> Change:
    return lambda metadata, tensors: metadata.__delitem__(key)


def tensor(**fields: Any) -> Change:
    return lambda metadata, tensors: tensors.__setitem__(0, replace(tensors[0], **fields))


BROKEN: dict[str, tuple[str, str, Change]] = {
    "no format": ("R-101", "q8_0", removing(layout.FORMAT_KEY)),
    "no width": ("R-101", "q8_0", removing(layout.WIDTH_KEY)),
    "no filler": ("R-101", "q8_0", removing(layout.FILLER_KEY)),
    "a width of another type": ("R-101", "q8_0", setting(layout.WIDTH_KEY, u32(64))),
    "a version of another type": ("R-101", "q8_0", setting(layout.VERSION_KEY, u64(1))),
    "version 2": ("R-102", "q8_0", setting(layout.VERSION_KEY, u32(2))),
    "an unknown format": ("R-103", "q8_0", setting(layout.FORMAT_KEY, string("q9_9"))),
    "a text form that does not parse": ("R-103", "q8_0", setting(layout.FORMAT_KEY, string("sb:bits=99"))),
    "a format of entropy-coded rows": (
        "R-103",
        "int8_row",
        setting(layout.FORMAT_KEY, string("int8_row+zstd")),
    ),
    "a width that does not divide": ("R-103", "q8_0", setting(layout.WIDTH_KEY, u64(65))),
    "a width beyond all": ("R-103", "int8_row", setting(layout.WIDTH_KEY, u64(1 << 62))),
    "two tensors": (
        "R-104",
        "q8_0",
        lambda metadata, tensors: tensors.append(TensorInfo("more", (0, 1), 0, 4 * 2 * 34 + 16)),
    ),
    "no tensor": ("R-104", "q8_0", lambda metadata, tensors: tensors.clear()),
    "another name": ("R-104", "q8_0", tensor(name="row")),
    "another width than the tensor's": ("R-104", "q8_0", setting(layout.WIDTH_KEY, u64(32))),
    "another type than the tensor's": ("R-104", "q8_0", setting(layout.FORMAT_KEY, string("q4_0"))),
    "one dimension": ("R-104", "q8_0", tensor(dims=(256,))),
    "three dimensions": ("R-104", "q8_0", tensor(dims=(64, 2, 2))),
    "bytes for blocks": ("R-104", "q8_0", setting(layout.FORMAT_KEY, string("int8_row"))),
    "nothing that must be understood": ("R-105", "int8_row", removing(MUST_UNDERSTAND_KEY)),
    "something that must be understood": (
        "R-105",
        "q8_0",
        setting(MUST_UNDERSTAND_KEY, array(ValueType.STRING, ["int8_row"])),
    ),
    "another encoding to understand": (
        "R-105",
        "int8_row",
        setting(MUST_UNDERSTAND_KEY, array(ValueType.STRING, ["nf4_b64"])),
    ),
    "no array to understand": ("R-105", "int8_row", setting(MUST_UNDERSTAND_KEY, string("int8_row"))),
    "rows that pass for a payload": (
        "R-105",
        "int8_row",
        setting(PAYLOADS_KEY, array(ValueType.STRING, ["rows"])),
    ),
}


@pytest.mark.parametrize(("rule", "format", "change"), BROKEN.values(), ids=BROKEN)
def test_headers_that_are_refused(tmp_path: Path, rule: str, format: str, change: Change) -> None:
    path = changed(tmp_path / "x.gguf", format, change)
    verdict, findings = examine(path, "values")
    assert (verdict, findings[0].rule) == ("unsupported" if rule in ("R-102", "R-103") else "invalid", rule)
    for opening in (
        lambda: RowStore.open(path),
        lambda: RowStore(path, mode="a"),
        lambda: gguflow.open(path),
    ):
        with pytest.raises(FileError, match=rule) as refused:
            opening()
        assert isinstance(refused.value, UnsupportedError if verdict == "unsupported" else InvalidError)
    assert main(["inspect", str(path)]) in (0, 3)


def test_the_tail_is_for_row_stores_only(tmp_path: Path) -> None:
    """C-020 holds for every other file."""
    path = changed(tmp_path / "x.gguf", "q8_0", removing(layout.VERSION_KEY))
    path.write_bytes(path.read_bytes() + b"tail" * 100)
    assert rules_of(path) == {"C-020"}


@pytest.mark.parametrize("n_more", range(8))
def test_the_count_lies_at_a_multiple_of_eight(tmp_path: Path, n_more: int) -> None:
    """R-107: in every store that is made; one that was edited is read and gone on with all the same."""
    path = tmp_path / "x.gguf"
    RowStore(path, "sb:bits=3,block=16" if n_more % 2 else "q8_0", 32).close()
    edit(path, [("general.name", string("n" * n_more))])
    position = layout.count_position(parse(path.read_bytes(), ""))
    assert rules_of(path) == ({"R-107"} if position % 8 else set())
    reader = RowStore.open(path)
    with RowStore(path, mode="a") as store:
        store.append(vectors(3, 32))
    assert (reader.refresh(), rules_of(path, "values")) == (3, {"R-107"} if position % 8 else set())


def header_of(format: str, width: int) -> Header:
    codec = find_codec(format, width)
    return parse(layout.build_header(codec.name, width, codec.type_id, codec.row_length, {}), "")


@pytest.mark.parametrize("format", ["q8_0", "f16", "q4_k", "iq4_nl"])
@pytest.mark.parametrize("width", [256, 1 << 20])
def test_new_headers_have_an_aligned_count(format: str, width: int) -> None:
    header = header_of(format, width)
    assert layout.count_position(header) % 8 == 0
    assert not list(judge_rows(header, header.data_offset))


ROW = 64 + 8
"""Bytes of a row of 64 in int8_row: codes, the scale, four zeros."""

UNSOUND = {
    "a byte behind the sections": (2 * ROW + 70, b"\1", "E-018"),
    "a scale that is NaN": (3 * ROW + 64, np.float32(np.nan).tobytes(), "E-019"),
    "a negative scale": (1 * ROW + 64, np.float32(-1).tobytes(), "E-019"),
}


@pytest.mark.parametrize(("at", "patch", "rule"), UNSOUND.values(), ids=UNSOUND)
def test_rows_are_judged_at_the_level_values(tmp_path: Path, at: int, patch: bytes, rule: str) -> None:
    """R-108."""
    path = store_of(tmp_path / "x.gguf", 6, "int8_row")
    start = parse(path.read_bytes(), "").data_offset
    with path.open("r+b") as file:
        file.seek(start + at)
        file.write(patch)
    assert rules_of(path) == set()
    (found,) = gguflow.validate(path, "values")
    assert (found.rule, found.path, found.offset) == (
        rule,
        f"$.tensors[0].rows[{at // ROW}]",
        start + at // ROW * ROW,
    )


def test_mutated_files_raise_nothing_of_their_own(tmp_path: Path) -> None:
    """A file is read, or refused with a rule; and what its judge calls valid can be decoded."""
    path, rng = tmp_path / "mutated.gguf", random.Random(0)
    seeds = [
        store_of(tmp_path / f"{i}.gguf", 3, *kind).read_bytes()
        for i, kind in enumerate([("q8_0", 32), ("affine4_b64", 64), ("f16", 3)])
    ]
    n_read = 0
    for _ in range(1500):
        path.write_bytes(mutated(seeds, rng))
        is_valid = not any(finding.severity == "error" for finding in gguflow.validate(path, "values"))
        try:
            with RowStore.open(path) as store:
                assert np.isfinite(store.rows()).all() or not is_valid
            n_read += 1
        except GguflowError:
            assert not is_valid or not layout.is_row_store(parse(path.read_bytes(), "").metadata)
    assert n_read > 50


def test_rows_of_the_family_are_no_source(tmp_path: Path) -> None:
    """R-117; those in a block format are."""
    with pytest.raises(UnsupportedError, match="R-117"):
        sources.open_checkpoint(store_of(tmp_path / "x.gguf", format="int8_row"))
    path = gguflow.convert(store_of(tmp_path / "y.gguf"), tmp_path / "z.gguf", type="copy").output
    assert not any(key.startswith("gguflow.rows") for key in parse(path.read_bytes(), "").metadata)
    with gguflow.open(path) as model, RowStore.open(tmp_path / "y.gguf") as store:
        np.testing.assert_array_equal(model["rows"].dequantize(), store.rows())


def test_rules_are_those_of_the_specification() -> None:
    """About bytes: in the code, and broken by a test; about behaviour: named by a test."""
    text = (ROOT / "spec" / "rows.md").read_text(encoding="utf-8")
    of_bytes = set(re.findall(r"^\| (R-10\d) \|.*\| \w+ \|$", text, re.MULTILINE))
    of_behaviour = set(re.findall(r"^\| (R-1[12]\d) \|", text, re.MULTILINE))
    mine = "\n".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("*.py"))
    code = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "src" / "gguflow" / "rows").glob("*.py")
    )
    assert len(of_bytes) == 8 and {rule for rule in of_bytes if rule not in code} == set()
    assert of_behaviour and {rule for rule in of_bytes | of_behaviour if rule not in mine} == set()
    assert set(re.findall(r"R-1\d\d", code)) <= of_bytes | of_behaviour
