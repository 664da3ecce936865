"""What is different between two GGUF files: metadata by key and type, tensors by name, format, shape and
bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguflow import blocks
from gguflow.blocks import block_sizes
from gguflow.container.metadata import Value
from gguflow.container.reader import map_file, read_header
from gguflow.models.differences import idle, unexplained


@dataclass(frozen=True)
class _Tensor:
    """format and shape, as shown; content: the packed bytes, mapped."""

    layout: str
    content: NDArray[np.uint8]


def compare_files(ours: Path, peer: Path, applied: Sequence[str] = ()) -> Iterator[str]:
    """What differs, one line for each key and each tensor that no intended difference explains, and one for
    each intended difference that changed nothing. applied: the ids of those that the checkpoint has.
    """
    found = dict(_differences(ours, peer))
    yield from (f"{name}: {found[name]}" for name in unexplained(found, applied))
    yield from (f"{row}: is said to apply, but nothing differs" for row in idle(found, applied))


def _differences(ours: Path, peer: Path) -> Iterator[tuple[str, str]]:
    """Each key and each tensor that differs, and how."""
    (our_keys, our_tensors), (peer_keys, peer_tensors) = _contents(ours), _contents(peer)
    for key in sorted(our_keys.keys() | peer_keys.keys()):
        found, expected = our_keys.get(key, "absent"), peer_keys.get(key, "absent")
        if found != expected:
            yield key, f"{_shown(found)}, not {_shown(expected)}"
    for name in sorted(our_tensors.keys() | peer_tensors.keys()):
        if name not in our_tensors or name not in peer_tensors:
            yield name, f"only in {'the peer' if name in peer_tensors else 'our'}'s file"
            continue
        a, b = our_tensors[name], peer_tensors[name]
        if a.layout != b.layout:
            yield name, f"{a.layout}, not {b.layout}"
        elif not np.array_equal(a.content, b.content):
            n_different = np.count_nonzero(a.content != b.content)
            yield name, f"{n_different} of {a.content.size} bytes differ ({a.layout})"


def _contents(path: Path) -> tuple[dict[str, tuple[str, Any]], dict[str, _Tensor]]:
    """Key -> its type and value; name -> its tensor."""
    header, content = read_header(path, block_sizes), np.frombuffer(map_file(path), np.uint8)
    tensors = {}
    for tensor in header.tensors:
        block_format = blocks.by_id(tensor.type_id)
        if block_format is None:
            raise ValueError(f"{path}: {tensor.name} is of type {tensor.type_id}")
        start = header.data_offset + tensor.offset
        nbytes = tensor.n_weights // block_format.block_size * block_format.type_size
        tensors[tensor.name] = _Tensor(
            f"{block_format} {list(tensor.shape)}", content[start : start + nbytes]
        )
    return {key: _typed(value) for key, value in header.metadata.items()}, tensors


def _typed(value: Value) -> tuple[str, Any]:
    kind = value.type.name if value.element_type is None else f"array of {value.element_type.name}"
    is_array = isinstance(value.value, Sequence | np.ndarray) and not isinstance(value.value, str)
    return kind, list(value.value) if is_array else value.value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"
