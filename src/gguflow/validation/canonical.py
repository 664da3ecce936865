"""Level `strict`: the canonical form of a header, rules C-061 to C-066 (C-060 is checked with values)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gguflow.container.header import VERSION, Header, align
from gguflow.container.rules import BlockSizes, key_path, tensor_nbytes
from gguflow.container.writer import build
from gguflow.errors import Finding

_KEY = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_ARCHITECTURE = "general.architecture"


def judge_canonical(content: memoryview, header: Header, block_sizes: BlockSizes) -> Iterator[Finding]:
    """Findings about the canonical form, for a header that keeps its other rules."""
    if header.version != VERSION:
        yield Finding("C-061", "not the current version", "$.version", 4, header.version, VERSION)
    for key in header.metadata:
        if not _KEY.fullmatch(key):
            yield Finding(
                "C-062",
                "a key that does not consist of lower-case words and dots",
                key_path(key),
                header.key_positions.get(key),
                key,
            )
    if _ARCHITECTURE in header.metadata and next(iter(header.metadata)) != _ARCHITECTURE:
        yield Finding(
            "C-063",
            f"{_ARCHITECTURE} is not the first key",
            key_path(_ARCHITECTURE),
            header.key_positions.get(_ARCHITECTURE),
        )
    for i, tensor in enumerate(header.tensors):
        if len(tensor.dims) > 1 and tensor.dims[-1] == 1:
            message = "a last dimension of 1, which is left out"
            yield Finding("C-064", message, f"$.tensors[{i}].dims", tensor.position, list(tensor.dims))
    if header.tensors:
        last = header.tensors[-1]
        end = header.data_offset + align(
            last.offset + (tensor_nbytes(last, block_sizes) or 0), header.alignment
        )
        if len(content) < end:
            yield Finding(
                "C-065",
                "the last tensor is not padded",
                "$",
                len(content),
                f"{len(content)} bytes",
                f"{end} bytes",
            )
    yield from _judge_grammar(content, header)


def _judge_grammar(content: memoryview, header: Header) -> Iterator[Finding]:
    """Check that the parser's formal twin accepts the header, and that building it gives equal bytes."""
    from gguflow.container import grammar

    head = bytes(content[: header.end])
    if complaint := grammar.complaint(head):
        yield Finding("C-066", f"the grammar does not accept what the parser accepts: {complaint}", "$")
    again = build(header.metadata, header.tensors, header.alignment)[: header.end]
    if header.version == VERSION and again != head:
        at = next(
            (i for i, (a, b) in enumerate(zip(again, head, strict=False)) if a != b),
            min(len(again), len(head)),
        )
        yield Finding("C-066", "building the parsed header again gives other bytes", "$", at)
