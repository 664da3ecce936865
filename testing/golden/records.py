"""What a converter wrote for a checkpoint, as a record, and what is different between two.

A record holds each metadata key with its type and value, and of each tensor the type, the shape (in GGUF's
order) and a digest of its bytes: the first 128 bits of their SHA-256. Tensors that are computed by a
transcendental function or a reduction hold their bytes too: there the peer's last bit depends on its
libraries, and ours is the correctly rounded one, so that one unit in the last place is no difference.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNCOMPARED = ("tokenizer.ggml.pre",)
"""The peer knows pre-tokenizers by hashes of real vocabularies, which tiny ones do not have."""

_WITHIN_AN_ULP = {
    "": r"blk\.\d+\.ssm_a",
    "bitnet": r"blk\.\d+\.(attn_(q|k|v|output)|ffn_(gate|up|down))\.weight",
}
"""Architecture ("": every one) -> names of its tensors that are held to one unit in the last place."""

_MORE_ULPS = {"bitnet": 4}
"""Architecture -> how many units it may be, where torch sums up in another order than exactly."""

LONGEST_ARRAY = 24
"""Elements that a packed record holds; of longer arrays it has the SHA-256."""

TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    30: "BF16",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
}
"""ggml's names of the types that a first conversion writes."""


@dataclass(frozen=True)
class TensorRecord:
    """type: ggml's name; shape: in GGUF's order; digest: of the bytes; content: the bytes, of those that are
    held to one unit in the last place.
    """

    type: str
    shape: tuple[int, ...]
    digest: str
    content: bytes | None = None


@dataclass(frozen=True)
class FileRecord:
    """keys: name -> (type, value), an array's value being a list, or what `digest` makes of it; tensors: by
    name.
    """

    keys: dict[str, tuple[str, Any]]
    tensors: dict[str, TensorRecord]

    @classmethod
    def parse(cls, contents: dict[str, Any]) -> FileRecord:
        """From what `as_json` gives."""
        return cls(
            {name: (kind, value) for name, (kind, value) in contents["keys"].items()},
            {
                name: TensorRecord(
                    kind, tuple(shape), digest, *(base64.b64decode(content) for content in rest)
                )
                for name, (kind, shape, digest, *rest) in contents["tensors"].items()
            },
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "keys": {name: list(value) for name, value in self.keys.items()},
            "tensors": {
                name: [
                    *(tensor.type, list(tensor.shape), tensor.digest),
                    *([] if tensor.content is None else [base64.b64encode(tensor.content).decode()]),
                ]
                for name, tensor in self.tensors.items()
            },
        }

    def packed(self) -> FileRecord:
        """With digests in place of long arrays."""
        return FileRecord(
            {name: (kind, digest(value)) for name, (kind, value) in self.keys.items()}, self.tensors
        )


def tensor_record(
    name: str, architecture: str, type_id: int, shape: Sequence[int], content: bytes
) -> TensorRecord:
    """Of a tensor in a GGUF file.

    name: of the tensor.
    architecture: general.architecture.
    type_id: ggml's number.
    shape: in GGUF's order.
    content: its bytes.
    """
    return TensorRecord(
        TYPES.get(type_id, str(type_id)),
        tuple(int(n) for n in shape),
        hashlib.sha256(content).hexdigest()[:32],
        content if within_an_ulp(name, architecture) else None,
    )


def within_an_ulp(name: str, architecture: str) -> bool:
    """Whether a tensor's numbers may differ by one unit in the last place."""
    patterns = (_WITHIN_AN_ULP[""], _WITHIN_AN_ULP.get(architecture))
    return any(pattern is not None and re.fullmatch(pattern, name) is not None for pattern in patterns)


def digest(value: Any) -> Any:
    """A long array as {"length", "sha256"}; anything else as it is."""
    if not isinstance(value, list) or len(value) <= LONGEST_ARRAY:
        return value
    return {"length": len(value), "sha256": hashlib.sha256(json.dumps(value).encode()).hexdigest()}


def differences(ours: FileRecord, peer: FileRecord) -> dict[str, str]:
    """Each key and each tensor that differs, and how.

    ours: with whole arrays.
    peer: with whole arrays or digests.
    """
    found = {}
    for name in sorted(ours.keys.keys() | peer.keys.keys()):
        if name in UNCOMPARED:
            continue
        a, b = ours.keys.get(name), peer.keys.get(name)
        if a is None or b is None or a[0] != b[0] or not _same(a[1], b[1]):
            found[name] = f"{_shown(a)}, not {_shown(b)}"
    ulps = _MORE_ULPS.get(str(peer.keys.get("general.architecture", ("", ""))[1]), 1)
    for name in sorted(ours.tensors.keys() | peer.tensors.keys()):
        if name not in ours.tensors or name not in peer.tensors:
            found[name] = "missing" if name in peer.tensors else "not in the peer's file"
            continue
        tensor, other = ours.tensors[name], peer.tensors[name]
        if tensor.type != other.type or _without_ones(tensor.shape) != _without_ones(other.shape):
            found[name] = f"{tensor.type} {list(tensor.shape)}, not {other.type} {list(other.shape)}"
        elif tensor.digest != other.digest and not _close(tensor, other, ulps):
            found[name] = f"other bytes ({tensor.type} {list(tensor.shape)})"
    return found


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape, in GGUF's order, as ggml stores it: without last dimensions of one, but the first."""
    n_dims = max((i for i, n in enumerate(shape) if n != 1), default=0) + 1
    return tuple(shape[:n_dims])


def _same(value: Any, other: Any) -> bool:
    """Value and type of each element; NaN equals NaN."""
    if isinstance(other, dict):
        value = digest(value)
    return json.dumps(value, sort_keys=True) == json.dumps(other, sort_keys=True)


def _shown(value: tuple[str, Any] | None) -> str:
    if value is None:
        return "absent"
    kind, content = value
    text = repr(content)
    return f"{kind} {text if len(text) <= 160 else f'{text[:160]}... ({len(text)} characters)'}"


def _close(tensor: TensorRecord, other: TensorRecord, ulps: int) -> bool:
    """Whether every number is the other within some units in the last place."""
    if tensor.content is None or other.content is None or tensor.type not in ("F32", "F16", "BF16"):
        return False
    steps = _ordered(tensor.content, tensor.type) - _ordered(other.content, tensor.type)
    return bool((np.abs(steps) <= ulps).all())


def _ordered(content: bytes, kind: str) -> NDArray[np.int64]:
    """The numbers' bit patterns as integers in the order of the numbers."""
    bits = np.frombuffer(content, "<i4" if kind == "F32" else "<i2").astype(np.int64)
    lowest = -(1 << 31 if kind == "F32" else 1 << 15)
    return np.where(bits < 0, lowest - bits, bits)
