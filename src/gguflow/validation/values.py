"""Level `values`: every block of every tensor, and the padding between them. Rules V-001 to V-005 and C-060.

What a good block does not hold is data of its format (`BlockFormat.reserved_codes`): a word whose masked bits are all ones. One function looks for
all of them, and it need not be fast in itself: it touches a few bytes of each block of the mapped file, and memory is slower than NumPy's loops.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguflow import blocks
from gguflow.blocks import BlockFormat
from gguflow.blocks.base import ReservedCode
from gguflow.container.header import Header, TensorInfo
from gguflow.container.rules import BlockSizes, tensor_nbytes
from gguflow.container.strings import quoted
from gguflow.errors import Finding
from gguflow.platform import available_cpus

_PIECE = 1 << 24
"""Bytes that a thread takes at a time."""
_STRIP = 1 << 18
"""Bytes that NumPy looks at in one call: what stays in a core's cache."""

_WORD: dict[int, np.dtype[Any]] = {1: np.dtype("u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4")}

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class _Piece:
    """Consecutive blocks of one tensor. index: of the tensor in the table. start, n_blocks: in the file, and how many. first: of its blocks."""

    index: int
    format: BlockFormat
    code: ReservedCode
    start: int
    first: int
    n_blocks: int


@dataclass(frozen=True)
class _Found:
    """What a search found: how many blocks hold the code, the first of them (-1 for none), the largest masked word (0: none above subnormal)."""

    n_bad: int
    first: int
    largest: int


def judge_values(content: memoryview, header: Header, block_sizes: BlockSizes, *, strict: bool, threads: int | None = None) -> Iterator[Finding]:
    """Findings about blocks and padding, tensor by tensor. The header's own rules hold: every tensor lies inside the file."""
    data = np.frombuffer(content, np.uint8)
    yield from _judge_padding(data, header, block_sizes, strict)
    pieces = [piece for i, tensor in enumerate(header.tensors) for piece in _pieces(i, tensor, header.data_offset)]
    with ThreadPoolExecutor(threads or available_cpus()) as pool:
        found = list(pool.map(lambda piece: _search(data, piece), pieces))
    results_of: dict[tuple[int, BlockFormat, ReservedCode], list[_Found]] = {}
    for piece, result in zip(pieces, found, strict=True):
        results_of.setdefault((piece.index, piece.format, piece.code), []).append(result)
    silent: dict[int, bool] = {}
    for (i, block_format, code), results in results_of.items():
        yield from _broken(i, block_format, code, results, header)
        silent[i] = silent.get(i, True) and max(result.largest for result in results) == 0
    for i, is_silent in silent.items():
        tensor = header.tensors[i]
        if is_silent and len(tensor.dims) > 1 and not _has_content(data, tensor, header.data_offset, block_sizes):
            message = f"tensor {quoted(tensor.name)} is all zeros: never written, or a placeholder"
            yield Finding("V-005", message, f"$.tensors[{i}]", header.data_offset + tensor.offset, severity="warning")


def first_reserved(packed: Bytes, block_format: BlockFormat, code: ReservedCode) -> int:
    """The first of the packed blocks uint8[n * type_size] that holds the code, or -1."""
    return _search(packed, _Piece(0, block_format, code, 0, 0, len(packed) // block_format.type_size)).first


def _pieces(i: int, tensor: TensorInfo, data_offset: int) -> Iterator[_Piece]:
    block_format = blocks.by_id(tensor.type_id)
    if block_format is None:
        return
    n_blocks = tensor.n_weights // block_format.block_size
    step = max(_PIECE // block_format.type_size, 1)
    for code in block_format.reserved_codes:
        for first in range(0, n_blocks, step):
            start = data_offset + tensor.offset + first * block_format.type_size
            yield _Piece(i, block_format, code, start, first, min(step, n_blocks - first))


def _search(data: Bytes, piece: _Piece) -> _Found:
    """Look at one word of each block of a piece."""
    stride, mask = piece.format.type_size, piece.code.mask
    dtype = _WORD[piece.code.width]
    words = np.ndarray((piece.n_blocks,), dtype, data.data, piece.start + piece.code.offset, (stride,)) if piece.n_blocks else np.empty(0, dtype)
    step = max(_STRIP // stride, 1)
    n_bad, first, largest = 0, -1, 0
    for i in range(0, piece.n_blocks, step):
        masked = words[i : i + step] & dtype.type(mask)
        most = int(masked.max())
        largest = max(largest, most)
        if most == mask:
            bad = np.flatnonzero(masked == mask)
            n_bad += len(bad)
            first = piece.first + i + int(bad[0]) if first < 0 else first
    return _Found(n_bad, first, largest)


def _broken(i: int, block_format: BlockFormat, code: ReservedCode, results: list[_Found], header: Header) -> Iterator[Finding]:
    n_bad = sum(result.n_bad for result in results)
    if not n_bad:
        return
    tensor = header.tensors[i]
    first = next(result.first for result in results if result.n_bad)
    at = header.data_offset + tensor.offset + first * block_format.type_size + code.offset
    many = f"{n_bad} of {tensor.n_weights // block_format.block_size}"
    if not block_format.is_quantized:
        rule, message = "V-003", f"{many} weights of {quoted(tensor.name)} are NaN or infinite, the first is weight {first}"
    elif code.tolerated:
        rule, message = "V-004", f"the scale {code.what} in {many} blocks of {quoted(tensor.name)} is the pattern of NaN, which ggml takes for zero"
    elif code.width == 1:
        rule, message = "V-002", f"the scale {code.what} in {many} blocks of {quoted(tensor.name)} is the code for NaN, the first is block {first}"
    else:
        rule, message = "V-001", f"the scale {code.what} in {many} blocks of {quoted(tensor.name)} is NaN or infinite, the first is block {first}"
    yield Finding(rule, message, f"$.tensors[{i}].data[{first}].{code.what}", at, severity="warning" if code.tolerated else "error")


def _has_content(data: Bytes, tensor: TensorInfo, data_offset: int, block_sizes: BlockSizes) -> bool:
    """Whether any byte of a tensor is not zero."""
    start = data_offset + tensor.offset
    return bool(data[start : start + (tensor_nbytes(tensor, block_sizes) or 0)].any())


def _judge_padding(data: Bytes, header: Header, block_sizes: BlockSizes, strict: bool) -> Iterator[Finding]:
    """The bytes between tensors (and before the first) belong to nobody: they should be zero, and in a canonical file they are, to the last."""
    severity = "error" if strict else "warning"
    regions = [("$.padding", header.end, header.data_offset)]
    for i, tensor in enumerate(header.tensors):
        end = header.data_offset + tensor.offset + (tensor_nbytes(tensor, block_sizes) or 0)
        regions.append((f"$.tensors[{i}].padding", end, -(-(end - header.data_offset) // header.alignment) * header.alignment + header.data_offset))
    for path, first, last in regions:
        bad = np.flatnonzero(data[first:last])
        if bad.size:
            yield Finding("C-060", "padding that is not zero", path, first + int(bad[0]), int(data[first + bad[0]]), 0, severity=severity)
