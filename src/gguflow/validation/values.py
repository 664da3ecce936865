"""Level `values`: every block of every tensor, the padding between them, and the digests. Rules V-001 to V-005, C-060 and I-006.

All of it in one reading, leaf by leaf: a leaf's digest brings it into the core's cache, and its blocks are looked at there.

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
from gguflow.container.integrity import LEAF_WEIGHTS, has_set, tensor_digest
from gguflow.container.rules import BlockSizes, tensor_nbytes
from gguflow.container.strings import quoted
from gguflow.container.verification import compare, leaf_digest, tensor_leaves
from gguflow.errors import Finding
from gguflow.platform import available_cpus

_STRIP = 1 << 20
"""Bytes that NumPy looks at in one call: what stays in a core's cache."""

_WORD: dict[int, np.dtype[Any]] = {1: np.dtype("u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4")}

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class _Piece:
    """Consecutive blocks of one tensor: a leaf. index: of the tensor in the table. start, end: bytes of the file, the padding behind the tensor
    included. first, n_blocks: of its blocks, and how many.
    """

    index: int
    format: BlockFormat
    start: int
    end: int
    first: int
    n_blocks: int


@dataclass(frozen=True)
class _Found:
    """What a search found: how many blocks hold the code, the first of them (-1 for none), the largest masked word (0: none above subnormal)."""

    n_bad: int = 0
    first: int = -1
    largest: int = 0

    def __add__(self, later: _Found) -> _Found:
        return _Found(self.n_bad + later.n_bad, self.first if self.n_bad else later.first, max(self.largest, later.largest))


def judge_values(
    content: memoryview, header: Header, block_sizes: BlockSizes, *, strict: bool, digests: bool = False, threads: int | None = None
) -> Iterator[Finding]:
    """Findings about blocks and padding, tensor by tensor. The header's own rules hold: every tensor lies inside the file.

    digests: hold the data against the key set too, in which `check_set` has found nothing wrong.
    """
    data = np.frombuffer(content, np.uint8)
    digests = digests and has_set(header.metadata)
    yield from _judge_padding(data, header, block_sizes, strict)
    found: dict[int, list[_Found]] = {}
    leaves: list[list[bytes]] = [[] for _ in header.tensors]

    def look(piece: _Piece) -> tuple[bytes, list[_Found]]:
        return leaf_digest(content, piece.start, piece.end) if digests else b"", _search(data, piece)

    pieces = [piece for i, tensor in enumerate(header.tensors) for piece in _pieces(i, tensor, header, block_sizes)]
    with ThreadPoolExecutor(threads or available_cpus()) as pool:
        for piece, (digest, results) in zip(pieces, pool.map(look, pieces), strict=True):
            so_far = found.get(piece.index, [_Found()] * len(results))
            found[piece.index] = [a + b for a, b in zip(so_far, results, strict=True)]
            leaves[piece.index].append(digest)
    for i, results in found.items():
        tensor = header.tensors[i]
        yield from _broken(i, tensor, results, header.data_offset)
        is_silent = len(tensor.dims) > 1 and results and all(result.largest == 0 for result in results)
        if is_silent and not _has_content(data, tensor, header.data_offset, block_sizes):
            message = f"tensor {quoted(tensor.name)} is all zeros: never written, or a placeholder"
            yield Finding("V-005", message, f"$.tensors[{i}]", header.data_offset + tensor.offset, severity="warning")
    if digests:
        yield from compare(header, map(tensor_digest, leaves))


def first_reserved(packed: Bytes, block_format: BlockFormat, code: ReservedCode) -> int:
    """The first of the packed blocks uint8[n * type_size] that holds the code, or -1."""
    results = _search(packed, _Piece(0, block_format, 0, len(packed), 0, len(packed) // block_format.type_size))
    return results[block_format.reserved_codes.index(code)].first


def _pieces(i: int, tensor: TensorInfo, header: Header, block_sizes: BlockSizes) -> Iterator[_Piece]:
    """The leaves of a tensor whose format is known."""
    block_format = blocks.by_id(tensor.type_id)
    if block_format is None:
        return
    n_blocks = tensor.n_weights // block_format.block_size
    step = LEAF_WEIGHTS // block_format.block_size
    for k, (start, end) in enumerate(tensor_leaves(header, tensor, block_sizes)):
        yield _Piece(i, block_format, start, end, k * step, min(step, n_blocks - k * step))


def _search(data: Bytes, piece: _Piece) -> list[_Found]:
    """Look for each reserved code of the format, a strip of blocks at a time, so that the second code finds the first one's cache lines."""
    stride, codes = piece.format.type_size, piece.format.reserved_codes
    step = max(_STRIP // stride, 1)
    found = [_Found()] * len(codes)
    if not piece.n_blocks:
        return found
    words = [np.ndarray((piece.n_blocks,), _WORD[code.width], data.data, piece.start + code.offset, (stride,)) for code in codes]
    for i in range(0, piece.n_blocks, step):
        for k, code in enumerate(codes):
            masked = words[k][i : i + step] & _WORD[code.width].type(code.mask)
            largest = int(masked.max())
            if largest == code.mask:
                bad = np.flatnonzero(masked == code.mask)
                found[k] += _Found(len(bad), piece.first + i + int(bad[0]), largest)
            elif largest > found[k].largest:
                found[k] += _Found(largest=largest)
    return found


def _broken(i: int, tensor: TensorInfo, results: list[_Found], data_offset: int) -> Iterator[Finding]:
    """A finding for each code that some block of the tensor holds."""
    block_format = blocks.by_id(tensor.type_id)
    if block_format is None:
        return
    for code, result in zip(block_format.reserved_codes, results, strict=True):
        if not result.n_bad:
            continue
        name, first = quoted(tensor.name), result.first
        many = f"{result.n_bad} of {tensor.n_weights // block_format.block_size}"
        if not block_format.is_quantized:
            rule, message = "V-003", f"{many} weights of {name} are NaN or infinite, the first is weight {first}"
        elif code.tolerated:
            rule, message = "V-004", f"the scale {code.what} in {many} blocks of {name} is the pattern of NaN, which ggml takes for zero"
        elif code.width == 1:
            rule, message = "V-002", f"the scale {code.what} in {many} blocks of {name} is the code for NaN, the first is block {first}"
        else:
            rule, message = "V-001", f"the scale {code.what} in {many} blocks of {name} is NaN or infinite, the first is block {first}"
        at = data_offset + tensor.offset + first * block_format.type_size + code.offset
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
