"""The safetensors header: every rule of spec/sources.md, sections 1 and 2, with files that break it; and the
official library as oracle.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gguflow.errors import FileError, GguflowError, InvalidError, LimitError, MalformedError, UnsupportedError
from gguflow.sources import TensorReader, open_checkpoint
from gguflow.sources.safetensors import DTYPE_BITS, MAX_HEADER_NBYTES, read_header
from testing.source_files import entry, file_bytes, safetensors_bytes, weights

DATA = bytes(16)
GOOD = json.dumps({"w": entry()})

Case = tuple[str, type[FileError], bytes]

BROKEN: dict[str, Case] = {
    "empty file": ("S-002", MalformedError, b""),
    "seven bytes": ("S-002", MalformedError, bytes(7)),
    "header passes the end by one": ("S-003", MalformedError, (3).to_bytes(8, "little") + b"{}"),
    "header length of all ones": ("S-003", MalformedError, b"\xff" * 8 + b"{}"),
    "header length wraps with eight": ("S-003", MalformedError, (2**64 - 8).to_bytes(8, "little") + b"{}"),
    "header of no bytes": ("S-005", MalformedError, bytes(8)),
    "header begins with space": ("S-005", MalformedError, file_bytes(b" {}")),
    "header is a list": ("S-005", MalformedError, file_bytes(b"[]")),
    "header begins with a byte order mark": ("S-005", MalformedError, file_bytes(b"\xef\xbb\xbf{}")),
    "metadata is a list": ("S-006", InvalidError, file_bytes({"__metadata__": []})),
    "metadata holds a number": ("S-006", InvalidError, file_bytes({"__metadata__": {"format": 1}})),
    "metadata holds null": ("S-006", InvalidError, file_bytes({"__metadata__": {"format": None}})),
    "tensor is a list": ("S-007", InvalidError, file_bytes({"w": []})),
    "tensor is null": ("S-007", InvalidError, file_bytes({"w": None})),
    "no dtype": ("S-007", InvalidError, file_bytes({"w": {"shape": [4], "data_offsets": [0, 16]}}, DATA)),
    "no shape": ("S-007", InvalidError, file_bytes({"w": {"dtype": "F32", "data_offsets": [0, 16]}}, DATA)),
    "no offsets": ("S-007", InvalidError, file_bytes({"w": {"dtype": "F32", "shape": [4]}}, DATA)),
    "dtype is a number": ("S-007", InvalidError, file_bytes({"w": {**entry(), "dtype": 5}}, DATA)),
    "one property more": ("S-008", UnsupportedError, file_bytes({"w": entry(strides=[2, 1])}, DATA)),
    "unknown dtype": ("S-009", UnsupportedError, file_bytes({"w": entry("F31")}, DATA)),
    "dtype in lower case": ("S-009", UnsupportedError, file_bytes({"w": entry("f32")}, DATA)),
    "shape is a number": ("S-010", InvalidError, file_bytes({"w": entry(shape=4)}, DATA)),
    "shape is text": ("S-010", InvalidError, file_bytes({"w": entry(shape="22")}, DATA)),
    "negative dimension": ("S-010", InvalidError, file_bytes({"w": entry(shape=[-2, -2])}, DATA)),
    "dimension 1.0": ("S-010", InvalidError, file_bytes(GOOD.replace("[2, 2]", "[1.0, 4]").encode(), DATA)),
    "dimension 4e0": ("S-010", InvalidError, file_bytes(GOOD.replace("[2, 2]", "[4e0]").encode(), DATA)),
    "dimension -0": ("S-010", InvalidError, file_bytes(GOOD.replace("[2, 2]", "[-0]").encode(), DATA)),
    "dimension true": ("S-010", InvalidError, file_bytes({"w": entry(shape=[True, 4])}, DATA)),
    "dimension null": ("S-010", InvalidError, file_bytes({"w": entry(shape=[None])}, DATA)),
    "dimension 2**63": ("S-010", InvalidError, file_bytes({"w": entry(shape=[2**63])}, DATA)),
    "offset 2**64": ("S-010", InvalidError, file_bytes({"w": entry(data_offsets=[0, 2**64 + 16])}, DATA)),
    "offsets are an object": (
        "S-010",
        InvalidError,
        file_bytes({"w": entry(data_offsets={"0": 0, "1": 16})}, DATA),
    ),
    "33 dimensions": (
        "S-011",
        LimitError,
        file_bytes({"w": entry(shape=[1] * 33, data_offsets=[0, 4])}, DATA[:4]),
    ),
    "product wraps to 0 in 64 bits": (
        "S-012",
        InvalidError,
        file_bytes({"w": entry(shape=[2**32, 2**32], data_offsets=[0, 0])}),
    ),
    "bits wrap to 128 in 64 bits": (
        "S-015",
        InvalidError,
        file_bytes({"w": entry(shape=[2**59 + 4], data_offsets=[0, 16])}, DATA),
    ),
    "too large, then a zero": (
        "S-012",
        InvalidError,
        file_bytes({"w": entry(shape=[2**62, 2**62, 0], data_offsets=[0, 0])}),
    ),
    "one offset": ("S-013", InvalidError, file_bytes({"w": entry(data_offsets=[16])}, DATA)),
    "three offsets": ("S-013", InvalidError, file_bytes({"w": entry(data_offsets=[0, 8, 16])}, DATA)),
    "begin after end": ("S-013", InvalidError, file_bytes({"w": entry(data_offsets=[16, 0])}, DATA)),
    "data cut by one byte": ("S-014", InvalidError, file_bytes({"w": entry()}, DATA[:15])),
    "no data at all": ("S-014", InvalidError, file_bytes({"w": entry()})),
    "end far away": ("S-014", InvalidError, file_bytes({"w": entry(data_offsets=[0, 2**62])}, DATA)),
    "shape needs more bytes": ("S-015", InvalidError, file_bytes({"w": entry(shape=[2, 3])}, DATA)),
    "shape needs fewer bytes": ("S-015", InvalidError, file_bytes({"w": entry(shape=[3])}, DATA)),
    "empty tensor with bytes": ("S-015", InvalidError, file_bytes({"w": entry(shape=[2, 0])}, DATA)),
    "half a byte": ("S-015", InvalidError, file_bytes({"w": entry("F4", [3], [0, 2])}, DATA[:2])),
    "same bytes twice": ("S-016", InvalidError, file_bytes({"a": entry(), "b": entry()}, DATA)),
    "overlap by one byte": (
        "S-016",
        InvalidError,
        file_bytes({"a": entry("U8", [9], [0, 9]), "b": entry("U8", [8], [8, 16])}, DATA),
    ),
    "empty tensor inside another": (
        "S-016",
        InvalidError,
        file_bytes({"a": entry(), "b": entry(shape=[0], data_offsets=[8, 8])}, DATA),
    ),
    "hole before the first": (
        "S-017",
        InvalidError,
        file_bytes({"w": entry(data_offsets=[4, 20])}, bytes(20)),
    ),
    "hole between": (
        "S-017",
        InvalidError,
        file_bytes({"a": entry("U8", [8], [0, 8]), "b": entry("U8", [7], [9, 16])}, DATA),
    ),
    "empty tensor behind a hole": (
        "S-017",
        InvalidError,
        file_bytes({"a": entry(), "b": entry(shape=[0], data_offsets=[17, 17])}, bytes(17)),
    ),
    "a byte after the last": ("S-018", InvalidError, file_bytes({"w": entry()}, bytes(17))),
    "data without tensors": ("S-018", InvalidError, file_bytes({}, DATA)),
    "archive appended": ("S-018", InvalidError, safetensors_bytes(weights("w")) + b"PK\x05\x06" + bytes(18)),
    "header is not UTF-8": ("J-001", MalformedError, file_bytes(b'{"\xff": 1}')),
    "header is UTF-16": ("S-005", MalformedError, file_bytes("{}".encode("utf-16"))),
    "surrogate as UTF-8 bytes": ("J-001", MalformedError, file_bytes(b'{"\xed\xa0\x80": 1}')),
    "header is cut": ("J-002", MalformedError, file_bytes(GOOD[:-1].encode(), DATA)),
    "two objects": ("J-002", MalformedError, file_bytes(b"{}{}")),
    "NUL after the object": ("J-002", MalformedError, file_bytes(b"{}\0")),
    "trailing comma": ("J-002", MalformedError, file_bytes(b'{"__metadata__": {},}')),
    "comment": ("J-002", MalformedError, file_bytes(b"{/**/}")),
    "line end in a name": ("J-002", MalformedError, file_bytes(b'{"a\nb": 1}')),
    "NaN": ("J-002", MalformedError, file_bytes(GOOD.replace("[2, 2]", "[NaN]").encode(), DATA)),
    "tensor twice": (
        "J-003",
        MalformedError,
        file_bytes(f'{{"w": {json.dumps(entry())}, "w": {json.dumps(entry())}}}'.encode(), DATA),
    ),
    "tensor twice, once escaped": ("J-003", MalformedError, file_bytes(b'{"w": 1, "\\u0077": 1}')),
    "offsets twice": (
        "J-003",
        MalformedError,
        file_bytes(GOOD.replace('"shape"', '"data_offsets": [0, 4], "shape"').encode(), DATA),
    ),
    "number of 5000 digits": (
        "J-004",
        LimitError,
        file_bytes(GOOD.replace("[2, 2]", f"[{'9' * 5000}]").encode(), DATA),
    ),
    "1e400": ("J-004", LimitError, file_bytes(GOOD.replace("[2, 2]", "[1e400]").encode(), DATA)),
    "nested 100000 deep": (
        "J-005",
        LimitError,
        file_bytes(b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ),
    "half a surrogate pair in a name": ("J-006", MalformedError, file_bytes(b'{"\\ud800": 1}')),
    "half a surrogate pair in metadata": (
        "J-006",
        MalformedError,
        file_bytes(b'{"__metadata__": {"a": "\\udc00"}}'),
    ),
}


@pytest.mark.parametrize(("rule", "error", "content"), BROKEN.values(), ids=BROKEN)
def test_broken_files_are_refused_by_rule(
    tmp_path: Path, rule: str, error: type[FileError], content: bytes
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(error) as caught:
        read_header(path)
    assert caught.value.finding.rule == rule
    assert str(path) in str(caught.value)
    assert type(caught.value) is error
    assert len(str(caught.value)) < 1000 + len(str(path))


def test_header_over_the_limit(tmp_path: Path) -> None:
    """S-004, on a file that is long enough to hold such a header (and sparse)."""
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((MAX_HEADER_NBYTES + 1).to_bytes(8, "little") + b"{")
        file.truncate(MAX_HEADER_NBYTES + 1 + 8)
    with pytest.raises(LimitError) as caught:
        read_header(path)
    assert caught.value.finding.rule == "S-004"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(InvalidError) as caught:
        read_header(tmp_path / "model.safetensors")
    assert caught.value.finding.rule == "S-001"


@pytest.mark.parametrize(
    ("start", "hint"),
    [
        pytest.param(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "Git LFS", id="pointer"
        ),
        pytest.param(b"PK\x03\x04" + bytes(60), "PyTorch", id="zip"),
        pytest.param(b"<!DOCTYPE html><html></html>", "web page", id="html"),
        pytest.param(b"GGUF\x03\0\0\0" * 3, "GGUF", id="gguf"),
        pytest.param(b'{"w": {"dtype": "F32"}}', "JSON", id="bare json"),
    ],
)
def test_the_message_says_what_the_file_looks_like(tmp_path: Path, start: bytes, hint: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(start)
    with pytest.raises(MalformedError, match=hint) as caught:
        read_header(path)
    assert caught.value.finding.rule == "S-003"


VALID: dict[str, tuple[bytes, dict[str, tuple[int, ...]]]] = {
    "no tensors": (file_bytes({}), {}),
    "metadata only": (file_bytes({"__metadata__": {"format": "pt"}}), {}),
    "padded with spaces": (file_bytes(GOOD.encode() + b"    ", DATA), {"w": (2, 2)}),
    "names in another order than bytes": (
        file_bytes({"b": entry("U8", [8], [8, 16]), "a": entry("U8", [8], [0, 8])}, DATA),
        {"b": (8,), "a": (8,)},
    ),
    "scalar": (file_bytes({"w": entry(shape=[], data_offsets=[0, 4])}, DATA[:4]), {"w": ()}),
    "empty tensors at one place": (
        file_bytes(
            {
                "a": entry(shape=[0, 3], data_offsets=[0, 0]),
                "b": entry(shape=[0], data_offsets=[0, 0]),
                "w": entry(),
            },
            DATA,
        ),
        {"a": (0, 3), "b": (0,), "w": (2, 2)},
    ),
    "32 dimensions": (
        file_bytes({"w": entry(shape=[1] * 32, data_offsets=[0, 4])}, DATA[:4]),
        {"w": (1,) * 32},
    ),
    "unaligned": (
        file_bytes({"a": entry("U8", [1], [0, 1]), "w": entry(data_offsets=[1, 17])}, bytes(17)),
        {"a": (1,), "w": (2, 2)},
    ),
    "name with a surrogate pair": (
        file_bytes(b'{"\\ud83d\\ude00": ' + json.dumps(entry()).encode() + b"}", DATA),
        {"\U0001f600": (2, 2)},
    ),
    "name that is a metadata word of Python": (
        file_bytes({"__class__": entry()}, DATA),
        {"__class__": (2, 2)},
    ),
}


@pytest.mark.parametrize(("content", "shapes"), VALID.values(), ids=VALID)
def test_valid_files(tmp_path: Path, content: bytes, shapes: dict[str, tuple[int, ...]]) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    file, tensors, _ = read_header(path)
    assert {name: tensor.shape for name, tensor in tensors.items()} == shapes
    assert list(tensors) == list(shapes)
    assert (file.path, file.nbytes) == (path, len(content))


@pytest.mark.parametrize("dtype", DTYPE_BITS)
def test_every_dtype_is_laid_out_and_refused_only_when_wanted(tmp_path: Path, dtype: str) -> None:
    nbytes = DTYPE_BITS[dtype]  # of 8 weights
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_bytes({"w": entry(dtype, [8], [0, nbytes])}, bytes(nbytes)))
    tensor = read_header(path)[1]["w"]
    assert tensor.dtype == dtype
    if tensor.format is None:
        with pytest.raises(UnsupportedError, match=dtype) as caught:
            tensor.require_format()
        assert caught.value.finding.rule == "S-019"
    else:
        assert (tensor.format.name, tensor.nbytes) == (dtype, nbytes)


def test_the_formats_that_models_come_in_can_be_converted(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(
        file_bytes(
            {d: entry(d, [1], [i * 4, i * 4 + DTYPE_BITS[d] // 8]) for i, d in enumerate(["F32"])}, bytes(4)
        )
    )
    assert read_header(path)[1]["F32"].require_format().name == "F32"
    for dtype in ("F16", "BF16"):
        path.write_bytes(file_bytes({"w": entry(dtype, [2], [0, 4])}, bytes(4)))
        assert read_header(path)[1]["w"].require_format().name == dtype


def test_metadata_is_returned(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes(weights("w"), {"format": "pt"}))
    assert read_header(path)[2] == {"format": "pt"}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_same_bytes_as_the_official_library(tmp_path: Path, dtype: str) -> None:
    """Files that it writes, read here; tensors, shapes and bytes equal."""
    rng = np.random.default_rng(3)
    shapes: list[tuple[int, ...]] = [(3, 5), (7,), (), (2, 0), (1, 2, 3), (64, 33)]
    arrays: dict[str, NDArray[Any]] = {
        f"layer.{i}": rng.standard_normal(shape).astype(dtype) for i, shape in enumerate(shapes)
    }
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(arrays, path, metadata={"format": "np"})
    checkpoint = open_checkpoint(path)
    theirs = safetensors.numpy.load_file(path)
    assert checkpoint.tensors.keys() == theirs.keys()
    with TensorReader(checkpoint) as reader:
        for name, tensor in checkpoint.tensors.items():
            assert tensor.shape == theirs[name].shape
            assert reader.read(tensor, 0, tensor.n_weights).tobytes() == theirs[name].tobytes()


_NAMES = st.text(max_size=8)
_NUMBERS = st.one_of(st.integers(0, 40), st.integers(-(2**70), 2**70), st.floats(), st.none(), st.booleans())
_ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.one_of(st.sampled_from(list(DTYPE_BITS)), _NAMES),
        "shape": st.one_of(st.lists(_NUMBERS, max_size=4), _NUMBERS),
        "data_offsets": st.one_of(st.lists(_NUMBERS, max_size=3), _NUMBERS),
    }
)
_HEADERS = st.dictionaries(
    _NAMES, st.one_of(_ENTRIES, st.recursive(_NUMBERS, st.lists, max_leaves=4)), max_size=4
)


def check_total(path: Path, content: bytes) -> None:
    """A typed error; or tensors that lie inside the file and fill it, in a file that the official library
    takes too.
    """
    path.write_bytes(content)
    try:
        file, tensors, _ = read_header(path)
    except GguflowError:
        return
    sizes = {name: tensor.n_weights * DTYPE_BITS[tensor.dtype] // 8 for name, tensor in tensors.items()}
    theirs = safetensors.deserialize(content)  # type: ignore[no-untyped-call]
    assert {name for name, _ in theirs} == tensors.keys()
    start = 8 + int.from_bytes(content[:8], "little")
    assert sum(sizes.values()) == file.nbytes - start
    assert all(
        start <= tensor.offset and tensor.offset + sizes[name] <= file.nbytes
        for name, tensor in tensors.items()
    )


@settings(max_examples=300, deadline=None)
@given(header=_HEADERS, data=st.binary(max_size=40))
def test_random_headers_give_tensors_or_typed_errors(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any], data: bytes
) -> None:
    check_total(tmp_path_factory.getbasetemp() / "random.safetensors", file_bytes(header, data))


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_mutated_files_give_tensors_or_typed_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Bytes changed, removed or inserted in a valid file, mostly in its header."""
    content = bytearray(
        safetensors_bytes({**weights("a", "b"), "c": np.zeros(3, np.float16)}, {"format": "pt"})
    )
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        change = data.draw(st.sampled_from(["set", "insert", "delete"]))
        if change == "set":
            content[position] = data.draw(st.integers(0, 255))
        elif change == "insert":
            content.insert(position, data.draw(st.sampled_from(b'09-.e"\\[]{},: \xff')))
        else:
            del content[position]
    check_total(tmp_path_factory.getbasetemp() / "mutated.safetensors", bytes(content))
