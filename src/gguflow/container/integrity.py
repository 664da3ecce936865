"""How a file proves itself: the metadata keys under `gguflow.integrity.`, and the digests in them. The rules are in spec/integrity.md.

The digest is XXH3-128: it runs at memory speed, so that proving a file costs no more than reading it, and 128 bits leave accident no chance. It is
no signature: who can change the data can change the digest.

A tensor's bytes are cut into leaves of 2**20 weights (the last one shorter; whole blocks in every format), and its digest is the digest of the
digests of its leaves. So threads digest what they write, in any order, and a resumed conversion checks each leaf that its journal claims.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import xxhash

from gguflow.container.header import TensorInfo, build
from gguflow.container.metadata import Metadata, Value, ValueType, array, string, u32, u64

VERSION = 1
LEAF_WEIGHTS = 1 << 20
DIGEST_BYTES = 16

VERSION_KEY = "gguflow.integrity.version"
LENGTH_KEY = "gguflow.integrity.length"
HEADER_KEY = "gguflow.integrity.header"
TENSORS_KEY = "gguflow.integrity.tensors"

_UNKNOWN = "0" * (2 * DIGEST_BYTES)


def placeholder(n_tensors: int) -> Metadata:
    """The key set before anything is known: every value has its final width, so a header that holds it has its final size."""
    return {
        VERSION_KEY: u32(VERSION),
        LENGTH_KEY: u64(0),
        HEADER_KEY: string(_UNKNOWN),
        TENSORS_KEY: array(ValueType.UINT64, [0] * (2 * n_tensors)),
    }


def new_leaf_digest() -> Any:
    """The digest of a leaf, to be fed (`update`) with its bytes in order, and asked (`digest`) at the end: 16 bytes.

    The last leaf of a tensor ends with the padding behind it.
    """
    return xxhash.xxh3_128()


def tensor_digest(leaves: Iterable[bytes]) -> bytes:
    """The digest of a tensor, from those of its leaves in order."""
    return xxhash.xxh3_128_digest(b"".join(leaves))


def completed_header(metadata: Metadata, tensors: Sequence[TensorInfo], alignment: int, length: int, digests: Sequence[bytes]) -> bytes:
    """The header whose key set is filled in: the file's length, the tensors' digests in table order, and the header's own digest.

    The header's digest is taken over all of it, padding included, with its own 32 characters as zeros.
    """
    words = [int.from_bytes(digest[half : half + 8], "big") for digest in digests for half in (0, 8)]
    filled: dict[str, Value] = {**metadata, LENGTH_KEY: u64(length), TENSORS_KEY: array(ValueType.UINT64, words), HEADER_KEY: string(_UNKNOWN)}
    unsigned = build(filled, tensors, alignment)
    filled[HEADER_KEY] = string(xxhash.xxh3_128_hexdigest(unsigned))
    return build(filled, tensors, alignment)
