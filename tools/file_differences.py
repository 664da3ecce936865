"""What is different between two GGUF files: metadata by key and type, tensors by name, format, shape and bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def compare_files(ours: Path, peer: Path) -> Iterator[str]:
    """What differs, one line for each key and each tensor, read by gguf's own reader."""
    from gguf import GGUFReader

    a, b = GGUFReader(ours), GGUFReader(peer)
    keys = {side: metadata(reader) for side, reader in (("a", a), ("b", b))}
    for key in sorted(keys["a"].keys() | keys["b"].keys()):
        found, expected = keys["a"].get(key, "absent"), keys["b"].get(key, "absent")
        if found != expected:
            yield f"{key}: {shown(found)}, not {shown(expected)}"
    tensors = {side: {tensor.name: tensor for tensor in reader.tensors} for side, reader in (("a", a), ("b", b))}
    for name in sorted(tensors["a"].keys() | tensors["b"].keys()):
        if name not in tensors["a"] or name not in tensors["b"]:
            yield f"{name}: only in {'the peer' if name in tensors['b'] else 'our'}'s file"
            continue
        x, y = tensors["a"][name], tensors["b"][name]
        if (x.tensor_type, tuple(x.shape)) != (y.tensor_type, tuple(y.shape)):
            yield f"{name}: {x.tensor_type.name} {list(x.shape)}, not {y.tensor_type.name} {list(y.shape)}"
        elif not np.array_equal(x.data.view(np.uint8), y.data.view(np.uint8)):
            n = int(np.count_nonzero(x.data.view(np.uint8) != y.data.view(np.uint8)))
            yield f"{name}: {n} of {x.n_bytes} bytes differ ({x.tensor_type.name})"


def metadata(reader: Any) -> dict[str, tuple[list[str], Any]]:
    """Key -> its type (of an array, also that of the elements) and value; without what describes the file itself, and our own `gguflow.*`."""
    fields = {key: field for key, field in reader.fields.items() if not key.startswith(("GGUF.", "gguflow."))}
    return {key: ([kind.name for kind in field.types], field.contents()) for key, field in fields.items()}


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"
