"""Integrity of files: the metadata keys under `gguflow.`, and the digests in them (spec/integrity.md).

The digest is XXH3-128: it runs at memory speed, so that checking a file costs no more than reading it, and
128 bits rule out accidental matches. It is not a signature: a program that changes data can change digests.

A tensor's bytes are cut into leaves of 2**20 weights (the last one shorter; whole blocks in every format),
and its digest is the digest of the digests of its leaves. So threads can digest what they write, in any
order, and a resumed conversion checks each leaf that its journal lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import xxhash

from gguflow.container.header import Header, TensorInfo, align
from gguflow.container.metadata import Metadata, Value, ValueType, array, string, u32, u64
from gguflow.container.writer import build

VERSION = 1
LEAF_WEIGHTS = 1 << 20
DIGEST_BYTES = 16

NAMESPACE = "gguflow."
"""The prefix of keys that only the writer of this program sets."""

MODEL_NAMESPACE = "gguflow.tokenizer."
"""The prefix of those that are about the model and not about the file: whoever rewrites a file keeps them."""

RECIPE_KEY = "gguflow.recipe"
RECIPE_VERSION_KEY = "gguflow.recipe.version"
SOURCE_FILES_KEY = "gguflow.source.files"
SOURCE_DIGESTS_KEY = "gguflow.source.digests"
SOURCE_CLASS_KEY = "gguflow.source.class"
"""The class that config.json names, of a model from a checkpoint; not one of the set: it may be missing."""
METHOD_KEY = "gguflow.method"
"""How scales and codes were chosen, where not as ggml does; not one of the set: it is mostly missing."""
VERSION_KEY = "gguflow.integrity.version"
LENGTH_KEY = "gguflow.integrity.length"
HEADER_KEY = "gguflow.integrity.header"
TENSORS_KEY = "gguflow.integrity.tensors"
SHARDS_KEY = "gguflow.integrity.shards"
"""Only for models in several files: a value shared by these files and by no others."""

KEY_SET = (
    RECIPE_KEY,
    RECIPE_VERSION_KEY,
    SOURCE_FILES_KEY,
    SOURCE_DIGESTS_KEY,
    VERSION_KEY,
    LENGTH_KEY,
    HEADER_KEY,
    TENSORS_KEY,
)
"""The key set, in the order of the writer: if one key is present, all must be."""

UNKNOWN = "0" * (2 * DIGEST_BYTES)
"""The text of a digest that is not known yet."""


def placeholder(
    n_tensors: int, recipe: str, recipe_version: str, sources: Sequence[tuple[str, str]]
) -> Metadata:
    """The key set before any weight is read, in its final width, so that the header has its final size.

    n_tensors: number of tensors.
    recipe, recipe_version: the recipe of the conversion.
    sources: name and header digest of each source file.
    """
    return {
        RECIPE_KEY: string(recipe),
        RECIPE_VERSION_KEY: string(recipe_version),
        SOURCE_FILES_KEY: array(ValueType.STRING, [name for name, _ in sources]),
        SOURCE_DIGESTS_KEY: array(ValueType.STRING, [digest for _, digest in sources]),
        VERSION_KEY: u32(VERSION),
        LENGTH_KEY: u64(0),
        HEADER_KEY: string(UNKNOWN),
        TENSORS_KEY: array(ValueType.UINT64, [0] * (2 * n_tensors)),
    }


def has_set(metadata: Metadata) -> bool:
    """Whether a file has integrity keys: at least one key of the set."""
    return any(key in metadata for key in (*KEY_SET, SHARDS_KEY))


def without_set(metadata: Metadata) -> Metadata:
    """The metadata without the key set, which only a writer of the data can fill in."""
    return {
        key: value
        for key, value in metadata.items()
        if key.startswith(MODEL_NAMESPACE) or not key.startswith(NAMESPACE)
    }


def hexdigest(content: bytes | memoryview) -> str:
    """XXH3-128 of bytes as 32 lower-case hexadecimal digits, the most significant first."""
    return str(xxhash.xxh3_128_hexdigest(content))


def new_leaf_digest() -> Any:
    """A new digest for a leaf: `update` with its bytes in order, then `digest` gives 16 bytes.

    The last leaf of a tensor includes the padding after it.
    """
    return xxhash.xxh3_128()


def tensor_digest(leaves: Iterable[bytes]) -> bytes:
    """The digest of a tensor from those of its leaves in order."""
    return bytes(xxhash.xxh3_128_digest(b"".join(leaves)))


def n_leaves(n_weights: int) -> int:
    """Leaves of a tensor of so many weights."""
    return -(-n_weights // LEAF_WEIGHTS)


def leaf_weights(number: int, n_weights: int) -> tuple[int, int]:
    """The weights [first, last) of a leaf of a tensor of so many weights."""
    return number * LEAF_WEIGHTS, min((number + 1) * LEAF_WEIGHTS, n_weights)


def leaf_ranges(header: Header, tensor: TensorInfo, sizes: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The bytes [first, last) of the file for each leaf of a tensor, the last with the padding after it.

    header: of the file.
    tensor: its entry in the tensor table.
    sizes: block_size and type_size of its format.
    """
    block_size, type_size = sizes
    start = header.data_offset + tensor.offset
    nbytes = tensor.n_weights // block_size * type_size
    step = LEAF_WEIGHTS // block_size * type_size
    for first in range(0, nbytes, step):
        is_last = first + step >= nbytes
        yield (
            start + first,
            header.data_offset + align(tensor.offset + nbytes, header.alignment)
            if is_last
            else start + first + step,
        )


def for_shard(metadata: Metadata, n_tensors: int) -> Metadata:
    """The placeholder key set of a shard, including the id shared by all shards; empty if there is no set.

    metadata: of the file that the shards replace.
    n_tensors: number of tensors in the shard.
    """
    own: Metadata = {TENSORS_KEY: array(ValueType.UINT64, [0] * (2 * n_tensors)), SHARDS_KEY: string(UNKNOWN)}
    if HEADER_KEY not in metadata:
        return {}
    kept: Metadata = {key: metadata[key] for key in KEY_SET} | own
    return kept | {METHOD_KEY: metadata[METHOD_KEY]} if METHOD_KEY in metadata else kept


def shards_id(digests: Sequence[bytes]) -> str:
    """The id shared by the shards of a model: the digest of the digests of all its tensors, in order."""
    return hexdigest(b"".join(digests))


def stored_digests(header: Header) -> list[bytes]:
    """The digests of the tensors in table order, from a key set that has been checked."""
    words = [int(word).to_bytes(8, "big") for word in header.metadata[TENSORS_KEY].value]
    return [words[i] + words[i + 1] for i in range(0, len(words), 2)]


def completed_header(
    metadata: Metadata, tensors: Sequence[TensorInfo], alignment: int, length: int, digests: Sequence[bytes]
) -> bytes:
    """The bytes of the header with its key set filled in.

    The header's own digest is that of all its bytes, padding included, with its 32 characters as zeros.

    metadata, tensors, alignment: of the header, with placeholders.
    length: of the file.
    digests: of the tensors in table order.
    """
    words = [int.from_bytes(digest[half : half + 8], "big") for digest in digests for half in (0, 8)]
    filled: dict[str, Value] = {
        **metadata,
        LENGTH_KEY: u64(length),
        TENSORS_KEY: array(ValueType.UINT64, words),
        HEADER_KEY: string(UNKNOWN),
    }
    filled[HEADER_KEY] = string(hexdigest(build(filled, tensors, alignment)))
    return build(filled, tensors, alignment)
