"""Checks a file against its key set (`integrity.py`): rules I-001 to I-007 of spec/integrity.md.

`check_set` checks only the header. If it finds nothing, the digests in the header can be trusted, and
`compare` compares them with those of the data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from gguflow.container.header import Header, TensorInfo
from gguflow.container.integrity import (
    HEADER_KEY,
    KEY_SET,
    LENGTH_KEY,
    METHOD_KEY,
    RECIPE_KEY,
    RECIPE_VERSION_KEY,
    SHARDS_KEY,
    SOURCE_DIGESTS_KEY,
    SOURCE_FILES_KEY,
    TENSORS_KEY,
    UNKNOWN,
    VERSION,
    VERSION_KEY,
    has_set,
    hexdigest,
    leaf_ranges,
    new_leaf_digest,
    stored_digests,
    tensor_digest,
)
from gguflow.container.metadata import Value, ValueType
from gguflow.container.rules import BlockSizes, key_path
from gguflow.errors import Finding
from gguflow.threads import ordered

_REWRITTEN = "rewritten by another tool, or damaged"

_RENEWAL = (
    "the set is stale, and the weights cannot be verified by it; `gguflow edit FILE --renew-integrity` (or "
    "`gguflow convert FILE -t copy`) computes it anew from the file as it is"
)

_TYPES: dict[str, tuple[ValueType, ValueType | None]] = {
    RECIPE_KEY: (ValueType.STRING, None),
    RECIPE_VERSION_KEY: (ValueType.STRING, None),
    METHOD_KEY: (ValueType.STRING, None),
    SOURCE_FILES_KEY: (ValueType.ARRAY, ValueType.STRING),
    SOURCE_DIGESTS_KEY: (ValueType.ARRAY, ValueType.STRING),
    VERSION_KEY: (ValueType.UINT32, None),
    LENGTH_KEY: (ValueType.UINT64, None),
    HEADER_KEY: (ValueType.STRING, None),
    TENSORS_KEY: (ValueType.ARRAY, ValueType.UINT64),
    SHARDS_KEY: (ValueType.STRING, None),
}
_DIGEST = re.compile(r"[0-9a-f]{32}")

LeafDigest = Callable[[int, int], bytes]
"""Computes the digest of bytes [first, last) of a file."""


def check_set(header: Header, content: memoryview) -> Iterator[Finding]:
    """Findings about a key set that is incomplete or of another file; none for a file without a set.

    Such a set is stale, and the findings are warnings: the file may be as good as ever. Only a version of the
    keys that is not known is an error.

    header: of the file.
    content: the whole file; its data section is not read.
    """
    if not has_set(header.metadata):
        return
    malformed = [*_check_presence(header), *_check_types(header)]
    version = header.metadata.get(VERSION_KEY)
    if version is not None and version.type is ValueType.UINT32 and version.value != VERSION:
        path, at = _where(header, VERSION_KEY)
        yield Finding("I-002", "an unknown version of the integrity keys", path, at, version.value, VERSION)
        return
    yield from malformed
    if not malformed:
        yield from _check_agreement(header, content)


def stale(findings: Iterable[Finding]) -> Finding | None:
    """One warning for all that `check_set` found, with what to do about it; None where that is nothing."""
    first = next((finding for finding in findings if finding.severity == "warning"), None)
    return None if first is None else replace(first, message=f"{first.message}; {_RENEWAL}")


def compare(header: Header, digests: Iterable[bytes]) -> Iterator[Finding]:
    """Compare the digests of the tensors' data, in table order, with a key set that `check_set` accepted."""
    for i, (tensor, found, expected) in enumerate(
        zip(header.tensors, digests, stored_digests(header), strict=True)
    ):
        if found != expected:
            message = f"damaged data: tensor {tensor.name!r} is not as it was written"
            yield Finding(
                "I-006",
                message,
                f"$.tensors[{i}].data",
                header.data_offset + tensor.offset,
                found.hex(),
                expected.hex(),
            )


def tensor_digests(
    header: Header, block_sizes: BlockSizes, digest_leaf: LeafDigest, threads: int | None = None
) -> Iterator[bytes]:
    """The digests of all tensors in table order, computed leaf by leaf on threads."""
    leaves = [tensor_leaves(header, tensor, block_sizes) for tensor in header.tensors]
    every = chain.from_iterable(leaves)
    digests = ordered(lambda leaf: digest_leaf(*leaf), every, threads)
    for own in leaves:
        yield tensor_digest(islice(digests, len(own)))


def _check_presence(header: Header) -> Iterator[Finding]:
    there = next(key for key in (*KEY_SET, SHARDS_KEY) if key in header.metadata)
    for key in KEY_SET:
        if key not in header.metadata:
            message = f"{key} is missing, and {there} is there: {_REWRITTEN}"
            yield _warning("I-001", message, key_path(key))
    count = header.metadata.get("split.count")
    is_shard = count is not None and isinstance(count.value, int) and count.value > 1
    if is_shard and SHARDS_KEY not in header.metadata:
        yield _warning(
            "I-007",
            f"{SHARDS_KEY} is missing, and the model is in several files: {_REWRITTEN}",
            key_path(SHARDS_KEY),
        )


def _check_types(header: Header) -> Iterator[Finding]:
    for key, expected in _TYPES.items():
        value = header.metadata.get(key)
        if value is None:
            continue
        path, at = _where(header, key)
        if (value.type, value.element_type) != expected:
            yield _warning(
                "I-003",
                f"{key} has the wrong type",
                path,
                at,
                _type_name(value.type, value.element_type),
                _type_name(*expected),
            )
        elif key in (HEADER_KEY, SHARDS_KEY) and not _DIGEST.fullmatch(value.value):
            yield _warning("I-003", f"{key} is not a digest", path, at, value.value, "32 hexadecimal digits")
        elif key == SOURCE_DIGESTS_KEY:
            yield from _check_sources(header, value)


def _check_sources(header: Header, digests: Value) -> Iterator[Finding]:
    path, at = _where(header, SOURCE_DIGESTS_KEY)
    files = header.metadata.get(SOURCE_FILES_KEY)
    if (
        files is not None
        and files.element_type is ValueType.STRING
        and len(files.value) != len(digests.value)
    ):
        message = f"{SOURCE_DIGESTS_KEY} does not have one digest for each of {SOURCE_FILES_KEY}"
        yield _warning("I-003", message, path, at, len(digests.value), len(files.value))
    wrong = next((digest for digest in digests.value if not _DIGEST.fullmatch(digest)), None)
    if wrong is not None:
        yield _warning(
            "I-003",
            f"{SOURCE_DIGESTS_KEY} contains something other than digests",
            path,
            at,
            wrong,
            "32 hexadecimal digits",
        )


def _check_agreement(header: Header, content: memoryview) -> Iterator[Finding]:
    """Findings about a well-formed set that does not match its file."""
    path, at = _where(header, LENGTH_KEY)
    length = header.metadata[LENGTH_KEY].value
    if length != len(content):
        yield _warning(
            "I-004",
            f"{_REWRITTEN}: the file does not have the length that it was written with",
            path,
            at,
            len(content),
            length,
        )
    path, at = _where(header, TENSORS_KEY)
    n_words = len(header.metadata[TENSORS_KEY].value)
    if n_words != 2 * len(header.tensors):
        yield _warning(
            "I-004",
            f"{_REWRITTEN}: the digests are of another tensor table",
            path,
            at,
            f"{n_words} numbers",
            f"{2 * len(header.tensors)}",
        )
    path, at = _where(header, HEADER_KEY)
    found, stored = header_digest(header, content), header.metadata[HEADER_KEY].value
    if found != stored:
        yield _warning("I-005", f"{_REWRITTEN}: the header is not as it was written", path, at, found, stored)


def header_digest(header: Header, content: memoryview) -> str:
    """The digest of the bytes before the data section, with the 32 characters of the stored one as zeros."""
    position = header.key_positions[HEADER_KEY] + 8 + len(HEADER_KEY) + 4 + 8
    unsigned = bytearray(content[: header.data_offset])
    unsigned[position : position + len(UNKNOWN)] = UNKNOWN.encode()
    return hexdigest(memoryview(unsigned))


def tensor_leaves(header: Header, tensor: TensorInfo, block_sizes: BlockSizes) -> list[tuple[int, int]]:
    """The bytes [first, last) of the file for each leaf of a tensor of known format."""
    sizes = block_sizes(tensor.type_id)
    return list(leaf_ranges(header, tensor, sizes)) if sizes else []


def leaf_digest(content: memoryview, first: int, last: int) -> bytes:
    """The digest of the leaf in bytes [first, last) of a file."""
    digest = new_leaf_digest()
    digest.update(content[first:last])
    return bytes(digest.digest())


def _warning(rule: str, message: str, path: str, *about: Any) -> Finding:
    return replace(Finding(rule, message, path, *about), severity="warning")


def _where(header: Header, key: str) -> tuple[str, int | None]:
    return key_path(key), header.key_positions.get(key)


def _type_name(kind: ValueType, element: ValueType | None) -> str:
    return kind.name if element is None else f"{kind.name} of {element.name}"
