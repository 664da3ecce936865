"""Level `values`: all blocks, padding and digests, rules V-001 to V-005, C-060 and I-006.

The file is read once, in strips: the digest brings a strip into the core's cache, then blocks are checked.

Each format lists the words that a valid block cannot contain (`BlockFormat.reserved_codes`): those whose
masked bits are all ones. One function looks for all of them in NumPy, which is fast enough, because it reads
only a few bytes of each block and memory is slower.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gguflow import blocks
from gguflow.arrays import Bytes, largest_magnitude
from gguflow.blocks import BlockFormat, reserved
from gguflow.blocks.base import ReservedCode
from gguflow.container.header import Header, TensorInfo
from gguflow.container.integrity import LEAF_WEIGHTS, has_set, new_leaf_digest, tensor_digest
from gguflow.container.rules import BlockSizes, tensor_nbytes
from gguflow.container.strings import quoted
from gguflow.container.verification import compare, tensor_leaves
from gguflow.errors import Finding
from gguflow.threads import ordered

_STRIP = 1 << 20
"""Bytes digested and checked in one call: they fit a core's cache, and a leaf of a quantized format."""

_TASK = 1 << 24
"""Bytes that a thread takes at a time: handing them over costs as much as checking half a megabyte."""


class _Piece(NamedTuple):
    """Consecutive blocks of one tensor: a leaf.

    tensor: its number in the table.
    start, end: bytes of the file, including the padding after the tensor.
    first, n_blocks: number of its first block, and how many.
    """

    tensor: int
    format: BlockFormat
    start: int
    end: int
    first: int
    n_blocks: int


class _Found(NamedTuple):
    """The result of a search: blocks with the code, the first (-1: none), largest masked word (0: none)."""

    n_bad: int = 0
    first: int = -1
    largest: int = 0

    def then(self, later: _Found) -> _Found:
        """The result for these blocks followed by those of `later`."""
        return _Found(
            self.n_bad + later.n_bad,
            self.first if self.n_bad else later.first,
            max(self.largest, later.largest),
        )


def judge_values(
    content: memoryview,
    header: Header,
    block_sizes: BlockSizes,
    *,
    strict: bool,
    digests: bool = False,
    threads: int | None = None,
) -> Iterator[Finding]:
    """Findings about blocks and padding, tensor by tensor, for a header that keeps its rules.

    strict: whether nonzero padding is an error.
    digests: whether to check the data against the key set, which `check_set` has accepted.
    threads: number of threads; None for all processors.
    """
    data = np.frombuffer(content, np.uint8)
    digests = digests and has_set(header.metadata)
    yield from _judge_padding(data, header, block_sizes, strict)
    found: dict[int, list[_Found]] = {}
    leaves: list[list[bytes]] = [[] for _ in header.tensors]

    def look(task: list[_Piece]) -> list[tuple[bytes, list[_Found]]]:
        return [_look(data, piece, digests) for piece in task]

    tasks = list(
        _tasks(
            piece
            for i, tensor in enumerate(header.tensors)
            for piece in _pieces(i, tensor, header, block_sizes)
        )
    )
    for task, looked in zip(tasks, ordered(look, tasks, threads), strict=True):
        for piece, (digest, results) in zip(task, looked, strict=True):
            so_far = found.get(piece.tensor, [_Found()] * len(results))
            found[piece.tensor] = [a.then(b) for a, b in zip(so_far, results, strict=True)]
            leaves[piece.tensor].append(digest)
    for i, results in found.items():
        tensor = header.tensors[i]
        yield from _broken(i, tensor, results, header.data_offset)
        is_silent = len(tensor.dims) > 1 and results and all(result.largest == 0 for result in results)
        if is_silent and not _has_content(data, tensor, header.data_offset, block_sizes):
            message = f"tensor {quoted(tensor.name)} is all zeros: never written, or a placeholder"
            yield Finding(
                "V-005", message, f"$.tensors[{i}]", header.data_offset + tensor.offset, severity="warning"
            )
    if digests:
        yield from compare(header, map(tensor_digest, leaves))


def first_reserved(packed: Bytes, block_format: BlockFormat, code: ReservedCode) -> int:
    """The number of the first packed block in uint8[n * type_size] that contains the code, or -1."""
    _, results = _look(
        packed,
        _Piece(0, block_format, 0, len(packed), 0, len(packed) // block_format.type_size),
        digests=False,
    )
    return results[block_format.reserved_codes.index(code)].first


def _pieces(i: int, tensor: TensorInfo, header: Header, block_sizes: BlockSizes) -> Iterator[_Piece]:
    """The leaves of a tensor of known format."""
    block_format = blocks.by_id(tensor.type_id)
    if block_format is None:
        return
    n_blocks = tensor.n_weights // block_format.block_size
    step = LEAF_WEIGHTS // block_format.block_size
    for k, (start, end) in enumerate(tensor_leaves(header, tensor, block_sizes)):
        yield _Piece(i, block_format, start, end, k * step, min(step, n_blocks - k * step))


def _tasks(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    """The pieces in order, in groups of about _TASK bytes."""
    task: list[_Piece] = []
    for piece in pieces:
        task.append(piece)
        if piece.end - task[0].start >= _TASK:
            yield task
            task = []
    if task:
        yield task


def _look(data: Bytes, piece: _Piece, digests: bool) -> tuple[bytes, list[_Found]]:
    """The digest of a piece (b"" if not wanted), and what was found for each reserved code of its format."""
    codes, size = piece.format.reserved_codes, piece.format.type_size
    step = max(_STRIP // size, 1)
    found = [_Found()] * len(codes)
    words = (
        [reserved.words(data, piece.start, piece.n_blocks, piece.format, code) for code in codes]
        if piece.n_blocks
        else []
    )
    digest = new_leaf_digest() if digests else None
    for i in range(0, piece.n_blocks, step):
        if digest is not None:
            digest.update(data[piece.start + i * size : piece.start + min(i + step, piece.n_blocks) * size])
        for k, code in enumerate(codes):
            found[k] = _search(words[k][i : i + step], code.mask, piece.first + i, found[k])
    if digest is None:
        return b"", found
    digest.update(data[piece.start + piece.n_blocks * size : piece.end])
    return bytes(digest.digest()), found


def _search(words: NDArray[Any], mask: int, first: int, found: _Found) -> _Found:
    """`found`, extended by the words of the blocks from number `first` on."""
    largest = (
        largest_magnitude(words) & mask
        if words.strides == (words.itemsize,)
        else int((words & words.dtype.type(mask)).max())
    )
    if largest == mask:
        bad = np.flatnonzero((words & words.dtype.type(mask)) == mask)
        return found.then(_Found(len(bad), first + int(bad[0]), largest))
    return found if largest <= found.largest else found.then(_Found(largest=largest))


def _broken(i: int, tensor: TensorInfo, results: list[_Found], data_offset: int) -> Iterator[Finding]:
    """A finding for each reserved code that occurs in a tensor."""
    block_format = blocks.by_id(tensor.type_id)
    if block_format is None:
        return
    for code, result in zip(block_format.reserved_codes, results, strict=True):
        if not result.n_bad:
            continue
        name, first = quoted(tensor.name), result.first
        many = f"{result.n_bad} of {tensor.n_weights // block_format.block_size}"
        if not block_format.is_quantized:
            rule, message = (
                "V-003",
                f"{many} weights of {name} are NaN or infinite, the first is weight {first}",
            )
        elif code.tolerated:
            rule, message = (
                "V-004",
                f"the scale {code.what} in {many} blocks of {name} is the pattern of NaN, "
                "which ggml reads as zero",
            )
        elif code.width == 1:
            rule, message = (
                "V-002",
                f"the scale {code.what} in {many} blocks of {name} is the code for NaN, "
                f"the first is block {first}",
            )
        else:
            rule, message = (
                "V-001",
                f"the scale {code.what} in {many} blocks of {name} is NaN or infinite, "
                f"the first is block {first}",
            )
        at = data_offset + tensor.offset + first * block_format.type_size + code.offset
        yield Finding(
            rule,
            message,
            f"$.tensors[{i}].data[{first}].{code.what}",
            at,
            severity="warning" if code.tolerated else "error",
        )


def _has_content(data: Bytes, tensor: TensorInfo, data_offset: int, block_sizes: BlockSizes) -> bool:
    """Whether a tensor has a nonzero byte."""
    start = data_offset + tensor.offset
    return bool(data[start : start + (tensor_nbytes(tensor, block_sizes) or 0)].any())


def _judge_padding(data: Bytes, header: Header, block_sizes: BlockSizes, strict: bool) -> Iterator[Finding]:
    """Check that the bytes before, between and after tensors are zero; if not, an error only if `strict`."""
    severity = "error" if strict else "warning"
    regions = [("$.padding", header.end, header.data_offset)]
    for i, tensor in enumerate(header.tensors):
        end = header.data_offset + tensor.offset + (tensor_nbytes(tensor, block_sizes) or 0)
        regions.append(
            (
                f"$.tensors[{i}].padding",
                end,
                -(-(end - header.data_offset) // header.alignment) * header.alignment + header.data_offset,
            )
        )
    for path, first, last in regions:
        bad = np.flatnonzero(data[first:last])
        if bad.size:
            yield Finding(
                "C-060",
                "padding that is not zero",
                path,
                first + int(bad[0]),
                int(data[first + bad[0]]),
                0,
                severity=severity,
            )
