"""Cases about the keys by which a file proves itself (spec/integrity.md): a good set, and each way to break
it.
"""

from __future__ import annotations

from collections.abc import Mapping

from gguflow.container import integrity
from gguflow.container.header import TensorInfo
from gguflow.container.metadata import Metadata, Value, ValueType, array, string, u32, u64
from gguflow.container.writer import build
from testing.corpus.case import Case, invalid, unsupported, valid

PAYLOAD = bytes(1 + i % 23 for i in range(34 * 5))
PADDED = PAYLOAD + bytes(-len(PAYLOAD) % 32)
TENSORS = (TensorInfo("t", (32, 5), 8, 0),)
GENERAL: Metadata = {"general.architecture": string("example"), "general.quantization_version": u32(2)}


def proved(more: Mapping[str, Value] | None = None, name: str = "t") -> bytes:
    """A file with its key set filled in, and with more keys. name: of its tensor."""
    tensors = (TensorInfo(name, (32, 5), 8, 0),)
    metadata = (
        GENERAL
        | integrity.placeholder(1, "q8_0", "example 1", [("model.safetensors", "0123456789abcdef" * 2)])
        | dict(more or {})
    )
    length = len(build(metadata, tensors)) + len(PADDED)
    return integrity.completed_header(metadata, tensors, 32, length, [tensor_digest(PADDED)]) + PADDED


def tensor_digest(content: bytes) -> bytes:
    """The digest of a tensor of one leaf."""
    digest = integrity.new_leaf_digest()
    digest.update(content)
    return integrity.tensor_digest([digest.digest()])


def with_keys(changed: Mapping[str, Value | None]) -> bytes:
    """The good file's keys, some of them replaced or (None) left out, and no digest computed anew."""
    metadata = (
        GENERAL
        | integrity.placeholder(1, "q8_0", "example 1", [("model.safetensors", "0123456789abcdef" * 2)])
        | dict(changed)
    )
    return build({key: value for key, value in metadata.items() if value is not None}, TENSORS) + PADDED


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def shard(number: int, conversion: str) -> bytes:
    """One of two shards, each with the tensor under a name of its own."""
    split = {
        "split.no": Value(ValueType.UINT16, number),
        "split.count": Value(ValueType.UINT16, 2),
        "split.tensors.count": Value(ValueType.INT32, 2),
    }
    return proved({**split, integrity.SHARDS_KEY: string(conversion * 32)}, f"t{number}")


GOOD = proved()
FIRST, SECOND = "m-00001-of-00002.gguf", "m-00002-of-00002.gguf"

CASES: list[Case] = [
    valid("integrity", "", GOOD, level="strict"),
    valid(
        "D10-flipped-bit-not-looked-at", "D10", flipped(GOOD, len(GOOD) - 100), note="structure reads no data"
    ),
    invalid("D10-flipped-bit", "D10", flipped(GOOD, len(GOOD) - 100), "I-006", level="values"),
    invalid(
        "D10-flipped-bit-in-padding", "D10", flipped(GOOD, len(GOOD) - 1), "C-060", "I-006", level="values"
    ),
    valid("D10-flipped-bit-in-header", "D10", flipped(GOOD, GOOD.index(b"example 1") + 8), "I-005"),
    valid("K14-integrity-key-missing", "K14", with_keys({integrity.LENGTH_KEY: None}), "I-001"),
    valid(
        "K14-unknown-key-of-ours",
        "K14",
        proved({"gguflow.later": u32(1)}),
        note="readers skip what they do not know",
    ),
    unsupported("S10-unknown-integrity-version", "S10", with_keys({integrity.VERSION_KEY: u32(2)}), "I-002"),
    valid("integrity-type", "", with_keys({integrity.LENGTH_KEY: string("1")}), "I-003"),
    valid("integrity-length", "", with_keys({integrity.LENGTH_KEY: u64(7)}), "I-004", "I-005"),
    valid(
        "integrity-too-few-digests",
        "",
        with_keys({integrity.TENSORS_KEY: array(ValueType.UINT64, [0])}),
        "I-004",
        "I-004",
        "I-005",
    ),
    valid("integrity-of-shards", "", shard(0, "a"), name=FIRST, siblings={SECOND: shard(1, "a")}),
    invalid(
        "S07-shards-of-two-conversions",
        "S07",
        shard(0, "a"),
        "C-044",
        name=FIRST,
        siblings={SECOND: shard(1, "b")},
    ),
    invalid(
        "integrity-of-no-shards",
        "",
        proved(
            {
                "split.no": Value(ValueType.UINT16, 0),
                "split.count": Value(ValueType.UINT16, 2),
                "split.tensors.count": Value(ValueType.INT32, 1),
            }
        ),
        "C-042",
        "I-007",
    ),
]
