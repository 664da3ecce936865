"""The rules for well-formed headers: pure checks, each with its id, specified in spec/container.md."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gguflow.container.header import Header, TensorInfo, align
from gguflow.container.limits import DEFAULT_LIMITS, MAX_DIMS, Limits
from gguflow.container.metadata import Value, ValueType
from gguflow.container.row_store import is_row_store
from gguflow.container.strings import encode_text, is_text, quoted
from gguflow.errors import FileError, Finding, InvalidError, LimitError, UnsupportedError

MAX_NAME_BYTES = 63  # ggml keeps names in char[64]
MAX_KEY_BYTES = 65535
MAX_ALIGNMENT = 1 << 20
MAX_WEIGHTS = (1 << 63) - 1

REMOVED_TYPES = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}
RUNTIME_TYPES = {9: "Q8_1", 15: "Q8_K"}


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""Control characters other than tab, line feed and carriage return."""

BlockSizes = Callable[[int], tuple[int, int] | None]
"""type id -> (block_size, type_size), or None for an unknown type."""

_ERRORS: dict[str, type[FileError]] = {
    "C-016": UnsupportedError,
    "C-023": LimitError,
    "C-025": LimitError,
    "C-026": LimitError,
    "C-027": LimitError,
    "C-028": LimitError,
    "I-002": UnsupportedError,
    "R-102": UnsupportedError,
    "R-103": UnsupportedError,
}


def error_class(rule: str) -> type[FileError]:
    """The error class of a rule of this package."""
    return _ERRORS.get(rule, InvalidError)


def raise_first(path: str | Path, findings: Iterable[Finding]) -> None:
    """Raise the error for the first finding that is not a warning; the rules are those of this package."""
    for finding in findings:
        if finding.severity == "error":
            raise error_class(finding.rule)(path, finding)


def judge(
    header: Header, block_sizes: BlockSizes, file_size: int | None, limits: Limits = DEFAULT_LIMITS
) -> Iterator[Finding]:
    """The broken rules, in file order.

    header: a parsed header.
    block_sizes: the known formats.
    file_size: in bytes; None if the file is not written yet.
    limits: the sizes that are accepted.
    """
    yield from _judge_sizes(header, limits)
    for key, value in header.metadata.items():
        yield from _judge_key(key, header)
        yield from _judge_value(key, value, header, limits)
    yield from _judge_alignment(header)
    yield from _judge_keys_together(header)
    yield from _judge_tensors(header, block_sizes, file_size)


def tensor_nbytes(tensor: TensorInfo, block_sizes: BlockSizes) -> int | None:
    """Bytes of a tensor's blocks; None if its type is unknown or its rows do not divide into blocks."""
    sizes = block_sizes(tensor.type_id)
    if sizes is None or row_length(tensor) % sizes[0]:
        return None
    return tensor.n_weights // sizes[0] * sizes[1]


def row_length(tensor: TensorInfo) -> int:
    return tensor.dims[0] if tensor.dims else 1


def _judge_sizes(header: Header, limits: Limits) -> Iterator[Finding]:
    for rule, what, path, found, most in (
        ("C-025", "bytes of header", "$", header.end, limits.header_bytes),
        ("C-026", "metadata keys", "$.n_kv", len(header.metadata), limits.n_keys),
        ("C-027", "tensors", "$.n_tensors", len(header.tensors), limits.n_tensors),
    ):
        if found > most:
            yield Finding(rule, f"more {what} than the limit", path, None, found, f"{most} or fewer")


def _judge_key(key: str, header: Header) -> Iterator[Finding]:
    path, at = key_path(key), header.key_positions.get(key)
    nbytes = len(encode_text(key))
    if not 0 < nbytes <= MAX_KEY_BYTES:
        yield Finding(
            "C-009", "a metadata key of unusable length", path, at, nbytes, f"1 to {MAX_KEY_BYTES} bytes"
        )
    if not is_text(key):
        yield Finding("C-022", "a metadata key that is not UTF-8", path, at)
    yield from _judge_characters(key, "a metadata key", path, at)


def _judge_value(key: str, value: Value, header: Header, limits: Limits) -> Iterator[Finding]:
    path, at = key_path(key), header.key_positions.get(key)
    if value.type is ValueType.ARRAY and len(value.value) > limits.n_elements:
        yield Finding(
            "C-028",
            "an array over the limit",
            path,
            at,
            len(value.value),
            f"{limits.n_elements} elements or fewer",
        )
    if value.type is ValueType.STRING:
        if not is_text(value.value):
            yield Finding("C-022", "a string that is not UTF-8", path, at, severity="warning")
        nbytes = len(encode_text(value.value))
        if nbytes > limits.string_bytes:
            yield Finding(
                "C-023", "a string over the limit", path, at, nbytes, f"{limits.string_bytes} bytes or fewer"
            )
        if control := _CONTROL.search(value.value):
            yield Finding(
                "C-034",
                "a string with a control character, which is escaped in all output",
                path,
                at,
                repr(control[0]),
                severity="warning",
            )
    elif not _is_finite(value):
        yield Finding("C-032", "a number that is not finite", path, at, severity="warning")


def _judge_alignment(header: Header) -> Iterator[Finding]:
    alignment = header.metadata.get("general.alignment")
    if alignment is None:
        return
    path, at = key_path("general.alignment"), header.key_positions.get("general.alignment")
    if alignment.type is not ValueType.UINT32:
        yield Finding(
            "C-011", "general.alignment has the wrong type", path, at, alignment.type.name, "UINT32"
        )
    elif not 0 < alignment.value <= MAX_ALIGNMENT or alignment.value & (alignment.value - 1):
        yield Finding(
            "C-011",
            "an unusable alignment",
            path,
            at,
            alignment.value,
            f"a power of two up to {MAX_ALIGNMENT}",
        )


def _judge_keys_together(header: Header) -> Iterator[Finding]:
    usual = [key for key in header.metadata if len(key) <= MAX_KEY_BYTES]  # C-009 names the others
    folded = Counter(key.casefold() for key in usual)
    for key in usual:
        if folded[key.casefold()] > 1:
            message = "a metadata key that differs from another only in case"
            yield Finding("C-033", message, key_path(key), header.key_positions.get(key), severity="warning")


def _judge_tensors(header: Header, block_sizes: BlockSizes, file_size: int | None) -> Iterator[Finding]:
    seen: set[str] = set()
    expected_offset: int | None = 0
    end = 0
    cut: list[tuple[int, int]] = []  # (bytes of file needed, index of the tensor)
    for i, tensor in enumerate(header.tensors):
        yield from _judge_name(i, tensor, seen)
        seen.add(tensor.name)
        wrong = _first_wrong_size(i, tensor, block_sizes)
        nbytes = None if wrong else tensor_nbytes(tensor, block_sizes)  # a wrong one has no size to compute
        if wrong:
            yield wrong
        if nbytes is None:
            expected_offset = None
            continue
        path, at = f"$.tensors[{i}].offset", tensor.position or None
        if tensor.offset % header.alignment:
            yield Finding(
                "C-024",
                "an offset that is not aligned",
                path,
                at,
                tensor.offset,
                f"a multiple of {header.alignment}",
            )
        if expected_offset is not None and tensor.offset != expected_offset:
            what = "leaves a hole" if tensor.offset > expected_offset else "overlaps the tensor before"
            yield Finding("C-018", f"an offset that {what}", path, at, tensor.offset, expected_offset)
        expected_offset = align(tensor.offset + nbytes, header.alignment)
        end = max(end, expected_offset)
        if file_size is not None and header.data_offset + tensor.offset + nbytes > file_size:
            cut.append((header.data_offset + tensor.offset + nbytes, i))
    if cut:
        needed = max(needed for needed, _ in cut)
        first = cut[0][1]
        message = (
            f"truncated: needs {needed} bytes, has {file_size}; {len(cut)} tensors are cut or missing, "
            f"the first is {quoted(header.tensors[first].name)}"
        )
        yield Finding(
            "C-019", message, f"$.tensors[{first}]", header.tensors[first].position, file_size, needed
        )
    total = header.data_offset + end
    if (
        file_size is not None
        and expected_offset is not None
        and file_size > total
        and not is_row_store(header.metadata)
    ):
        yield Finding(
            "C-020",
            "bytes after the last tensor",
            "$",
            total,
            f"{file_size - total} bytes",
            "the end of the file",
        )


def _judge_name(i: int, tensor: TensorInfo, seen: set[str]) -> Iterator[Finding]:
    path, at = f"$.tensors[{i}].name", tensor.position or None
    nbytes = len(encode_text(tensor.name))
    if nbytes > MAX_NAME_BYTES:
        message = f"tensor name {quoted(tensor.name)} is too long for ggml"
        yield Finding("C-012", message, path, at, f"{nbytes} bytes", f"{MAX_NAME_BYTES} or fewer")
    if not nbytes:
        yield Finding("C-029", "a tensor without a name", path, at)
    if not is_text(tensor.name):
        yield Finding("C-022", "a tensor name that is not UTF-8", path, at)
    yield from _judge_characters(tensor.name, "a tensor name", path, at)
    if tensor.name in seen:
        yield Finding("C-013", f"duplicate tensor name {quoted(tensor.name)}", path, at)


def _judge_characters(text: str, what: str, path: str, at: int | None) -> Iterator[Finding]:
    """Reject NUL, at which C cuts a name, and unprintable characters, which make listings misleading."""
    if "\0" in text:
        yield Finding("C-030", f"{what} with a NUL in it", path, at, text)
    elif not text.isprintable() and is_text(text):
        yield Finding(
            "C-031", f"{what} with characters that cannot be printed", path, at, text, severity="warning"
        )


def _first_wrong_size(i: int, tensor: TensorInfo, block_sizes: BlockSizes) -> Finding | None:
    """The finding that prevents computing the tensor's size, or None."""
    path, at = f"$.tensors[{i}]", tensor.position or None
    if len(tensor.dims) > MAX_DIMS:
        return Finding(
            "C-014", "too many dimensions", path + ".n_dims", at, len(tensor.dims), f"{MAX_DIMS} or fewer"
        )
    if (
        math.prod(dim or 1 for dim in tensor.dims) > MAX_WEIGHTS
    ):  # a zero does not excuse other dimensions that are too large
        return Finding(
            "C-015",
            "more weights than can be addressed",
            path + ".dims",
            at,
            list(tensor.dims),
            "a product below 2**63",
        )
    sizes = block_sizes(tensor.type_id)
    if sizes is None:
        return Finding(
            "C-016",
            f"tensor {quoted(tensor.name)} has {_type_in_words(tensor.type_id)}",
            path + ".type",
            at,
            tensor.type_id,
        )
    row = row_length(tensor)
    if row % sizes[0]:
        return Finding(
            "C-017",
            "rows that do not divide into blocks",
            path + ".dims",
            at,
            row,
            f"a multiple of {sizes[0]}",
        )
    if math.prod(dim or 1 for dim in tensor.dims) // sizes[0] * sizes[1] > MAX_WEIGHTS:
        return Finding(
            "C-015",
            "more bytes than can be addressed",
            path + ".dims",
            at,
            list(tensor.dims),
            "a size below 2**63",
        )
    return None


def _type_in_words(type_id: int) -> str:
    if type_id in REMOVED_TYPES:
        return f"the type {REMOVED_TYPES[type_id]}, which has been removed from the format"
    if type_id in RUNTIME_TYPES:
        return f"the type {RUNTIME_TYPES[type_id]}, which is for memory, not for files"
    return "a type unknown to this version"


def _is_finite(value: Value) -> bool:
    """Whether a number, or every number of an array, is finite; an integer in its place is, of any size."""
    kind: Any = value.element_type if value.type is ValueType.ARRAY else value.type
    if kind not in (ValueType.FLOAT32, ValueType.FLOAT64) or isinstance(value.value, int):
        return True
    return bool(np.isfinite(value.value).all())


def key_path(key: str) -> str:
    """The path of a metadata key for a Finding, shortened and escaped."""
    return f"$.metadata[{quoted(key)}]"
