"""The safetensors format: a header that says where each tensor lies, and the bytes. Rules S-001 to S-019.

    bytes 0..7    N, u64 little-endian
    bytes 8..8+N  header: one JSON object, {"name": {"dtype": "BF16", "shape": [rows, n], "data_offsets":
    [begin, end]}, ...},
                  and optionally "__metadata__": {"key": "text"}
    the rest      the data that the offsets count in: every byte belongs to exactly one tensor

Source: the format's own statement in github.com/huggingface/safetensors (README.md), and its reader's checks.
The header is proved in full here, in Python's integers, before anybody maps the file: what comes out of
`read_header` lies inside the file and nowhere overlaps.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from gguflow.blocks import FORMATS
from gguflow.container.integrity import hexdigest
from gguflow.errors import FileError, Finding, InvalidError, LimitError, MalformedError, UnsupportedError
from gguflow.platform import storage_errors
from gguflow.sources import strict_json
from gguflow.sources.base import SourceFile, SourceTensor, json_path, require_regular

MAX_HEADER_NBYTES = 100_000_000
MAX_DIMENSIONS = 32
"""What the oldest supported NumPy can hold in one array."""

DTYPE_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits per weight of every dtype of the format. A block format of the same name has the same bytes."""

_PROPERTIES = {"dtype", "shape", "data_offsets"}

_LOOKS_LIKE = {
    b"version ": "a Git LFS pointer; fetch the file itself (git lfs pull)",
    b"PK\x03\x04": "a PyTorch archive; save the model as safetensors",
    b"<!DOCTYP": "a web page",
    b"<html": "a web page",
    b"GGUF": "a GGUF file",
    b"{": "JSON without the length before it",
}


def read_header(path: Path) -> tuple[SourceFile, dict[str, SourceTensor], dict[str, str]]:
    """Read and prove a header: the file as it is now, its tensors in the header's order, and its texts.

    The texts are those of `__metadata__`.

    path: the path of the file.

    Raises MalformedError, InvalidError, UnsupportedError or LimitError with the broken rule, and
    StorageError.
    """
    require_regular(path)
    with storage_errors("read", path), open(path, "rb") as opened:
        status = os.fstat(opened.fileno())
        file = SourceFile(path, status.st_size, status.st_mtime_ns)
        start = opened.read(8)
        length = _header_length(file, start)
        content = opened.read(length)
    if len(content) < length:
        _fail(
            MalformedError,
            file,
            "S-003",
            "the file ends inside its header",
            offset=8 + len(content),
            expected=8 + length,
        )
    file = replace(file, header_digest=hexdigest(start + content))
    kept = [content]
    del content  # the parser frees the bytes once it has the text
    return file, *prove(kept.pop(), file)


def prove(content: bytes, file: SourceFile) -> tuple[dict[str, SourceTensor], dict[str, str]]:
    """The tensors and the texts of a header, proved to fit a file of the given size.

    content: the header, without its length.
    file: the file that was read, or that will be written.

    Raises MalformedError, InvalidError, UnsupportedError or LimitError with the broken rule.
    """
    length = len(content)
    _check_length(length, file)
    if not content.startswith(b"{"):
        _fail(
            MalformedError,
            file,
            "S-005",
            "the header does not begin with {",
            offset=8,
            found=content[:1].decode("latin-1"),
        )
    kept = [content]
    del content
    header = strict_json.parse(kept.pop(), file.path, offset=8)
    metadata = _metadata(header.pop("__metadata__", {}), file)
    tensors = {name: _tensor(name, entry, file, 8 + length) for name, entry in header.items()}
    _check_coverage(
        tensors, {name: entry["data_offsets"][1] for name, entry in header.items()}, file, 8 + length
    )
    return tensors, metadata


def _header_length(file: SourceFile, start: bytes) -> int:
    """N, proved to lie inside the file and under the limit."""
    if len(start) < 8:
        _fail(
            MalformedError,
            file,
            "S-002",
            "too short to hold the length of a header"
            if start
            else "the file is empty, as an interrupted download leaves it; fetch it again",
            offset=0,
            found=f"{len(start)} bytes",
            expected="8 or more",
        )
    length = int.from_bytes(start, "little")
    if length > file.nbytes - 8:
        guess = next(
            (f"; this looks like {what}" for sign, what in _LOOKS_LIKE.items() if start.startswith(sign)), ""
        )
        message = f"the header passes the end of the file{guess}"
        _fail(
            MalformedError,
            file,
            "S-003",
            message,
            offset=0,
            found=f"{length} bytes",
            expected=f"at most the {file.nbytes - 8} that remain",
        )
    _check_length(length, file)
    return length


def _check_length(length: int, file: SourceFile) -> None:
    if length > MAX_HEADER_NBYTES:
        _fail(
            LimitError,
            file,
            "S-004",
            "the header is too large",
            offset=0,
            found=f"{length} bytes",
            expected=f"at most {MAX_HEADER_NBYTES}",
        )


def _metadata(entry: object, file: SourceFile) -> dict[str, str]:
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        _fail(
            InvalidError,
            file,
            "S-006",
            "__metadata__ is not a map from text to text",
            json_path("__metadata__"),
            8,
        )
    return entry


def _tensor(name: str, entry: object, file: SourceFile, data_start: int) -> SourceTensor:
    """One entry of the header, proved by itself: known dtype, whole shape, offsets inside the file that fit
    the shape.
    """
    if not isinstance(entry, dict) or not entry.keys() >= _PROPERTIES or not isinstance(entry["dtype"], str):
        _fail(
            InvalidError,
            file,
            "S-007",
            "a tensor is not an object with dtype, shape and data_offsets",
            json_path(name),
            8,
        )
    if len(entry) > len(_PROPERTIES):
        extra = next(key for key in entry if key not in _PROPERTIES)
        _fail(
            UnsupportedError,
            file,
            "S-008",
            "a tensor has a property that this version does not know",
            json_path(name, extra),
            8,
        )
    dtype = entry["dtype"]
    if dtype not in DTYPE_BITS:
        _fail(UnsupportedError, file, "S-009", "unknown dtype", json_path(name, "dtype"), 8, found=dtype)
    shape = _whole_numbers(entry["shape"], file, name, "shape")
    if len(shape) > MAX_DIMENSIONS:
        _fail(
            LimitError,
            file,
            "S-011",
            f"{len(shape)} dimensions",
            json_path(name, "shape"),
            8,
            expected=f"at most {MAX_DIMENSIONS}",
        )
    n_bits = _n_bits(shape, dtype, file, name)
    begin, end = _range(entry["data_offsets"], file, name, data_start)
    if n_bits != 8 * (end - begin):
        needed = f"{n_bits // 8} for" if n_bits % 8 == 0 else f"a whole number, not {n_bits} bits of"
        path = json_path(name, "data_offsets")
        message = "the bytes do not fit the shape"
        _fail(
            InvalidError,
            file,
            "S-015",
            message,
            path,
            data_start + begin,
            f"{end - begin} bytes",
            f"{needed} {dtype}{list(shape)}",
        )
    return SourceTensor(name, FORMATS.get(dtype.lower()), shape, file, data_start + begin, dtype)


def _whole_numbers(value: object, file: SourceFile, name: str, key: str) -> tuple[int, ...]:
    """A list of integers from 0 to 2**63 - 1; true is none, nor are -0 and 1.0."""
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 2**63 for item in value):
        _fail(
            InvalidError,
            file,
            "S-010",
            "not a list of integers from 0 to 2**63 - 1",
            json_path(name, key),
            8,
            found=value,
        )
    return tuple(value)


def _n_bits(shape: tuple[int, ...], dtype: str, file: SourceFile, name: str) -> int:
    """Bits of the tensor. Zeros are left out of the check of its size, as in GGUF (C-015): an array that only
    a zero makes small can be held by nobody.
    """
    n_weights = math.prod(dimension or 1 for dimension in shape)
    if n_weights >= 2**63 or n_weights * DTYPE_BITS[dtype] >= 8 * 2**63:
        _fail(
            InvalidError,
            file,
            "S-012",
            "a shape of 2**63 weights or bytes, or more",
            json_path(name, "shape"),
            8,
            found=list(shape),
        )
    return 0 if 0 in shape else n_weights * DTYPE_BITS[dtype]


def _range(value: object, file: SourceFile, name: str, data_start: int) -> tuple[int, int]:
    """The pair [begin, end), counted from the start of the data, proved to lie inside the file."""
    pair = _whole_numbers(value, file, name, "data_offsets")
    if len(pair) != 2 or pair[0] > pair[1]:
        path, message = json_path(name, "data_offsets"), "not a pair [begin, end] with begin <= end"
        _fail(InvalidError, file, "S-013", message, path, 8, found=value)
    begin, end = pair
    remain = file.nbytes - data_start
    if end > remain:
        message = f"the tensor ends {end} bytes into the data, of which the file has {remain}"
        _fail(InvalidError, file, "S-014", message, json_path(name, "data_offsets"), data_start + begin)
    return begin, end


def _check_coverage(
    tensors: dict[str, SourceTensor], ends: dict[str, int], file: SourceFile, data_start: int
) -> None:
    """Every byte of the data belongs to one tensor. ends: of each tensor, from the start of the data."""
    position, previous = data_start, ""
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, ends[tensor.name])):
        if tensor.offset != position:
            path = json_path(tensor.name, "data_offsets")
        if tensor.offset < position:
            message = f"the tensor overlaps {json_path(previous)}"
            _fail(
                InvalidError,
                file,
                "S-016",
                message,
                path,
                tensor.offset,
                tensor.offset - data_start,
                position - data_start,
            )
        if tensor.offset > position:
            message = f"{tensor.offset - position} bytes before the tensor belong to none"
            _fail(
                InvalidError,
                file,
                "S-017",
                message,
                path,
                position,
                tensor.offset - data_start,
                position - data_start,
            )
        position, previous = data_start + ends[tensor.name], tensor.name
    if position != file.nbytes:
        _fail(
            InvalidError,
            file,
            "S-018",
            f"{file.nbytes - position} bytes after the last tensor belong to none",
            offset=position,
        )


def _fail(
    error: type[FileError],
    file: SourceFile,
    rule: str,
    message: str,
    path: str = "$",
    offset: int | None = None,
    found: object = None,
    expected: object = None,
) -> NoReturn:
    raise error(file.path, Finding(rule, message, path, offset, found, expected))
