"""The header: what is built is parsed again, the fast parser agrees with the grammar and with gguf-py, and
any bytes at all give a typed error.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from construct import ConstructError
from hypothesis import given, settings
from hypothesis import strategies as st

from gguflow.blocks import block_sizes
from gguflow.container import grammar
from gguflow.container.header import Header, TensorInfo, align, parse
from gguflow.container.metadata import (
    SCALAR_CODES,
    Metadata,
    Value,
    ValueType,
    array,
    boolean,
    f32,
    string,
    u32,
)
from gguflow.container.reader import read_header
from gguflow.container.rules import judge
from gguflow.container.strings import StringArray, encode_text
from gguflow.container.writer import build
from gguflow.errors import FileError, GguflowError, MalformedError, StorageError, UnsupportedError

METADATA: Metadata = {
    "general.architecture": string("llama"),
    "general.alignment": u32(64),
    "a.flag": boolean(True),
    "a.float": f32(0.5),
    "a.tokens": array(ValueType.STRING, ["<unk>", "▁the", ""]),
    "a.scores": array(ValueType.FLOAT32, [0.0, -1.5] * 50),
    "a.flags": array(ValueType.BOOL, [True, False] * 50),
    "a.empty": array(ValueType.INT32, []),
}
TENSORS = (
    TensorInfo("a.weight", (32, 2), 8, 0),
    TensorInfo("b.bias", (3,), 0, 128),
    TensorInfo("c.scalar", (), 0, 192),
)
FILE = build(METADATA, TENSORS, 64) + bytes(256)


def plain(value: Any) -> Any:
    """A parsed value as Python's own types."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, list | tuple | StringArray) else value


def tree(header: Header) -> Any:
    """A parsed header as comparable data."""
    values = {
        key: (value.type, value.element_type, plain(value.value)) for key, value in header.metadata.items()
    }
    return values, [(t.name, t.dims, t.type_id, t.offset) for t in header.tensors]


def grammar_tree(data: bytes) -> Any:
    """The same, by the grammar."""
    parsed = grammar.HEADER.parse(data)

    def text(s: Any) -> str:
        return bytes(s.bytes).decode("utf-8", "surrogateescape")

    def scalar(kind: int, value: Any) -> Any:
        return text(value) if kind == ValueType.STRING else bool(value) if kind == ValueType.BOOL else value

    values: dict[str, tuple[ValueType, ValueType | None, Any]] = {}
    for kv in parsed.metadata:
        if kv.type == ValueType.ARRAY:
            kind = kv.value.element_type
            values[text(kv.key)] = (
                ValueType.ARRAY,
                ValueType(kind),
                [scalar(kind, e) for e in kv.value.elements],
            )
        else:
            values[text(kv.key)] = (ValueType(kv.type), None, scalar(kv.type, kv.value))
    return values, [(text(t.name), tuple(t.dims), t.type, t.offset) for t in parsed.tensors]


def test_what_is_built_is_parsed_again() -> None:
    header = parse(FILE, "file")
    assert (header.version, header.alignment, header.data_offset, len(FILE)) == (
        3,
        64,
        len(FILE) - 256,
        header.data_offset + 256,
    )
    assert tree(header) == tree(Header(3, METADATA, TENSORS, 64, 0))
    assert list(judge(header, block_sizes, len(FILE))) == []
    assert build(header.metadata, header.tensors, 64) == FILE[: header.data_offset]


def test_the_grammar_agrees_on_a_good_file() -> None:
    assert grammar_tree(FILE) == tree(parse(FILE, "file"))


def test_gguf_py_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(FILE)
    reader = gguf.GGUFReader(path)
    header = read_header(path, block_sizes)
    assert [t.name for t in reader.tensors] == [t.name for t in header.tensors]
    assert [int(t.data_offset) for t in reader.tensors] == [
        header.data_offset + t.offset for t in header.tensors
    ]
    for key, value in header.metadata.items():
        assert plain(value.value) == reader.fields[key].contents(), key


scalars = st.sampled_from(sorted(SCALAR_CODES)).flatmap(
    lambda kind: st.builds(
        Value,
        st.just(kind),
        st.booleans()
        if kind is ValueType.BOOL
        else st.floats(width=32 if kind is ValueType.FLOAT32 else 64, allow_nan=False)
        if kind in (ValueType.FLOAT32, ValueType.FLOAT64)
        else st.integers(
            *(
                (0, 256 ** struct.calcsize(SCALAR_CODES[kind]) - 1)
                if SCALAR_CODES[kind].isupper()
                else (
                    -(256 ** struct.calcsize(SCALAR_CODES[kind])) // 2,
                    256 ** struct.calcsize(SCALAR_CODES[kind]) // 2 - 1,
                )
            )
        ),
    )
)
strings = st.builds(string, st.text())
arrays = st.one_of(
    st.builds(array, st.just(ValueType.STRING), st.lists(st.text(), max_size=5)),
    st.builds(array, st.just(ValueType.INT16), st.lists(st.integers(-(2**15), 2**15 - 1), max_size=200)),
)
tensor_infos = st.builds(
    TensorInfo,
    st.text(max_size=8),
    st.lists(st.integers(0, 2**64 - 1), max_size=5).map(tuple),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.text(), st.one_of(scalars, strings, arrays), max_size=5),
    st.lists(tensor_infos, max_size=4),
)
def test_any_header_survives(metadata: Metadata, tensors: list[TensorInfo]) -> None:
    metadata = {key: value for key, value in metadata.items() if key != "general.alignment"}
    data = build(metadata, tensors)
    header = parse(data, "file")
    assert tree(header) == tree(Header(3, metadata, tuple(tensors), 32, 0)) == grammar_tree(data)
    assert build(header.metadata, header.tensors) == data
    list(judge(header, block_sizes, len(data)))


@settings(max_examples=500, deadline=None)
@given(st.integers(0, len(FILE) - 1), st.binary(min_size=1, max_size=9), st.integers(0, 40))
def test_mutated_files_give_the_grammars_verdict(position: int, patch: bytes, cut: int) -> None:
    data = FILE[:position] + patch + FILE[position + len(patch) : len(FILE) - cut * 16]
    try:
        ours = tree(parse(data, "file"))
    except FileError:
        with pytest.raises((ConstructError, OverflowError)):
            grammar_tree(data)
        return
    assert repr(grammar_tree(data)) == repr(ours)  # repr: NaN equals itself
    list(judge(parse(data, "file"), block_sizes, len(data)))


@given(st.binary(max_size=200))
def test_any_bytes_give_a_typed_error(data: bytes) -> None:
    with pytest.raises(FileError):
        parse(data, "file")


def header_bytes(n_tensors: int = 0, n_kv: int = 0, version: int = 3, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, n_tensors, n_kv)


def key_value(key: bytes, kind: int, payload: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + payload


MALFORMED = {
    "empty": (b"", "C-004"),
    "another magic": (b"GGML" + bytes(20), "C-001"),
    "version 1": (header_bytes(version=1), "C-002"),
    "version 4": (header_bytes(version=4), "C-002"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "C-003"),
    "no counts": (b"GGUF\3\0\0\0", "C-004"),
    "more tensors than bytes": (header_bytes(n_tensors=2**63) + bytes(100), "C-004"),
    "more keys than bytes": (header_bytes(n_kv=2**40) + bytes(100), "C-004"),
    "key longer than the file": (header_bytes(n_kv=1) + struct.pack("<Q", 2**62) + bytes(50), "C-004"),
    "unknown value type": (header_bytes(n_kv=1) + key_value(b"k", 13, bytes(8)), "C-006"),
    "unknown element type": (header_bytes(n_kv=1) + key_value(b"k", 9, struct.pack("<IQ", 99, 0)), "C-006"),
    "array of arrays": (
        header_bytes(n_kv=1) + key_value(b"k", 9, struct.pack("<IQ", 9, 1) + bytes(20)),
        "C-007",
    ),
    "bool of 2": (header_bytes(n_kv=1) + key_value(b"k", 7, b"\2"), "C-008"),
    "bool of 2 in an array": (
        header_bytes(n_kv=1) + key_value(b"k", 9, struct.pack("<IQ", 7, 2) + b"\0\2"),
        "C-008",
    ),
    "bool of 2 in a long array": (
        header_bytes(n_kv=1) + key_value(b"k", 9, struct.pack("<IQ", 7, 99) + b"\2" * 99),
        "C-008",
    ),
    "duplicate key": (header_bytes(n_kv=2) + key_value(b"k", 4, bytes(4)) * 2, "C-010"),
    "array longer than the file": (
        header_bytes(n_kv=1) + key_value(b"k", 9, struct.pack("<IQ", 10, 2**61) + bytes(20)),
        "C-004",
    ),
    "strings longer than the file": (
        header_bytes(n_kv=1)
        + key_value(b"k", 9, struct.pack("<IQ", 8, 2) + struct.pack("<Q", 90) + bytes(9)),
        "C-004",
    ),
    "second string without a length": (
        header_bytes(n_kv=1) + key_value(b"k", 9, struct.pack("<IQ", 8, 2) + struct.pack("<Q", 7) + bytes(9)),
        "C-004",
    ),
    "dimensions past the end": (
        header_bytes(n_tensors=1) + struct.pack("<Q", 1) + b"t" + struct.pack("<I", 2**32 - 1) + bytes(30),
        "C-004",
    ),
}


@pytest.mark.parametrize(("data", "rule"), MALFORMED.values(), ids=MALFORMED)
def test_malformed(data: bytes, rule: str) -> None:
    with pytest.raises((MalformedError, UnsupportedError)) as caught:
        parse(data, "file")
    assert caught.value.finding.rule == rule
    with pytest.raises((ConstructError, OverflowError)):
        grammar.HEADER.parse(data)


def rules_broken(
    metadata: Metadata | None = None, tensors: tuple[TensorInfo, ...] = (), extra: int = 0
) -> list[str]:
    metadata = metadata or {}
    header = parse(build(metadata, tensors), "file")
    nbytes = 0
    for tensor in header.tensors:
        sizes = block_sizes(tensor.type_id)
        if sizes and tensor.n_weights < 2**40:
            nbytes = max(
                nbytes, align(tensor.offset + tensor.n_weights // sizes[0] * sizes[1], header.alignment)
            )
    return [finding.rule for finding in judge(header, block_sizes, header.data_offset + nbytes + extra)]


def info(name: str = "t", dims: tuple[int, ...] = (32,), type_id: int = 0, offset: int = 0) -> TensorInfo:
    return TensorInfo(name, dims, type_id, offset)


INVALID: dict[str, tuple[Metadata, tuple[TensorInfo, ...], int, list[str]]] = {
    "nothing wrong": ({}, (info(),), 0, []),
    "empty key": ({"": u32(1)}, (), 0, ["C-009"]),
    "key of 65,535 bytes": ({"k" * 65535: u32(1)}, (), 0, []),
    "key of 65,536 bytes": ({"k" * 65536: u32(1)}, (), 0, ["C-009"]),
    "key not UTF-8": ({"k\udcff": u32(1)}, (), 0, ["C-022"]),
    "string not UTF-8": ({"k": string("\udcff")}, (), 0, ["C-022"]),
    "alignment of the wrong type": ({"general.alignment": string("32")}, (), 0, ["C-011"]),
    "alignment zero": ({"general.alignment": u32(0)}, (), 0, ["C-011"]),
    "alignment 48": ({"general.alignment": u32(48)}, (), 0, ["C-011"]),
    "alignment too large": ({"general.alignment": u32(1 << 21)}, (), 0, ["C-011"]),
    "name of 63 bytes": ({}, (info("n" * 63),), 0, []),
    "name of 64 bytes": ({}, (info("n" * 64),), 0, ["C-012"]),
    "name twice": ({}, (info(), info(offset=128)), 0, ["C-013"]),
    "four dimensions": ({}, (info(dims=(2, 2, 2, 2)),), 0, []),
    "five dimensions": ({}, (info(dims=(1, 1, 1, 1, 1)),), 0, ["C-014"]),
    "a zero dimension": ({}, (info(dims=(0, 4)),), 0, []),
    "product over 2**63": ({}, (info(dims=(2**32, 2**32)),), 0, ["C-015"]),
    "unknown type": ({}, (info(type_id=999),), 0, ["C-016"]),
    "a removed type": ({}, (info(type_id=4),), 0, ["C-016"]),
    "row of 33 in blocks of 32": ({}, (info(dims=(33,), type_id=8),), 0, ["C-017"]),
    "offset not aligned": ({}, (info(), info("u", offset=130)), 0, ["C-024", "C-018"]),
    "a hole": ({}, (info(), info("u", offset=160)), 0, ["C-018"]),
    "overlap": ({}, (info(), info("u", offset=96)), 0, ["C-018"]),
    "truncated": ({}, (info(),), -1, ["C-019"]),
    "trailing byte": ({}, (info(),), 1, ["C-020"]),
}


@pytest.mark.parametrize(("metadata", "tensors", "extra", "expected"), INVALID.values(), ids=INVALID)
def test_rules(metadata: Metadata, tensors: tuple[TensorInfo, ...], extra: int, expected: list[str]) -> None:
    assert rules_broken(metadata, tensors, extra) == expected


def first_complaint(data: bytes) -> str:
    """The rule that a file breaks first, "" for none."""
    try:
        return next((finding.rule for finding in judge(parse(data, "file"), block_sizes, len(data))), "")
    except FileError as error:
        return error.finding.rule


def test_truncation_anywhere_is_noticed() -> None:
    end = len(FILE) - 64 + 4  # the last tensor is one float; the padding behind it may be missing
    assert {first_complaint(FILE[:length]) for length in range(4, end)} == {"C-004", "C-019"}
    assert first_complaint(FILE[:end]) == first_complaint(FILE) == ""


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"", MalformedError), (b"GGUF", MalformedError), (None, StorageError)],
    ids=["empty", "magic", "none"],
)
def test_unreadable_files(tmp_path: Path, content: bytes | None, error: type[GguflowError]) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error):
        read_header(path, block_sizes)


def test_strings_that_are_not_text_keep_their_bytes() -> None:
    data = build({"k": string(b"\xff\xfe".decode("utf-8", "surrogateescape"))}, ())
    assert encode_text(parse(data, "file").metadata["k"].value) == b"\xff\xfe"
