"""The header of a safetensors file, written: what `sources.safetensors.read_header` reads back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence


def build_header(
    tensors: Sequence[tuple[str, str, tuple[int, ...], int, int]], metadata: Mapping[str, str]
) -> bytes:
    """The bytes before the data of a new file, padded with spaces to a multiple of 8 so that the data is
    aligned.

    tensors: name, dtype, shape, and the bytes [begin, end) in the data, in the order of the data.
    metadata: texts of `__metadata__`.

    Names are written as they are, twice where they stand twice: whoever plans the file proves the result.
    """
    members = [_member("__metadata__", dict(metadata))] if metadata else []
    for name, dtype, shape, begin, end in tensors:
        members.append(_member(name, {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}))
    content = f"{{{','.join(members)}}}".encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(8, "little") + content


def _member(name: str, value: object) -> str:
    return ":".join(json.dumps(part, separators=(",", ":"), ensure_ascii=False) for part in (name, value))
