"""Cases about tensors in the parts that bitsandbytes keeps them in (spec/sources.md, section 4)."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

from gguflow.parametric import codebooks
from testing.corpus.case import Case, invalid, unsupported, valid
from testing.corpus.safetensors import entry, file

STATE = "w.quant_state.bitsandbytes__nf4"
FIELDS = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [3, 64]}
NESTED = {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.5}

Part = tuple[str, list[int], bytes]
"""dtype, shape, bytes."""


def group(
    is_nested: bool = True, changes: Mapping[str, Part | None] | None = None, **fields: object
) -> bytes:
    """A file of one group: 3 x 64 weights. changes: parts that are others, or (None) missing. fields: of the
    JSON, that are others.
    """
    content = json.dumps({**FIELDS, **(NESTED if is_nested else {}), **fields}).encode()
    parts: dict[str, Part | None] = {
        "w": ("U8", [96, 1], bytes([0x1F] * 96)),
        "w.absmax": ("U8", [3], bytes([0, 127, 255]))
        if is_nested
        else ("F32", [3], struct.pack("<3f", 1, 0, 2)),
        "w.quant_map": ("F32", [16], codebooks.NF4.astype("<f4").tobytes()),
        STATE: ("U8", [len(content)], content),
    }
    if is_nested:
        parts["w.nested_absmax"] = ("F32", [1], struct.pack("<f", 0.25))
        parts["w.nested_quant_map"] = ("F32", [256], codebooks.dynamic().astype("<f4").tobytes())
    header, data = {}, b""
    for name, part in (parts | dict(changes or {})).items():
        if part is not None:
            header[name] = entry(part[0], part[1], (len(data), len(data) + len(part[2])))
            data += part[2]
    return file(header, data)


def st(make: object, id: str, content: bytes, *rules: str) -> Case:
    case: Case = make(id, "F19", content, *rules, suffix=".safetensors")  # type: ignore[operator]
    return case


CASES: list[Case] = [
    st(valid, "F19-bitsandbytes", group(False)),
    st(valid, "F19-bitsandbytes-nested", group()),
    st(invalid, "F19-no-codes", group(changes={"w": None}), "Q-001"),
    st(invalid, "F19-no-codebook-of-scales", group(changes={"w.nested_quant_map": None}), "Q-001"),
    st(invalid, "F19-state-without-shape", group(shape=None), "Q-002"),
    st(invalid, "F19-state-of-numbers", group(changes={STATE: ("F32", [1], bytes(4))}), "Q-002"),
    st(unsupported, "F19-blocks-of-4096", group(blocksize=4096), "Q-003"),
    st(invalid, "F19-another-shape", group(shape=[3, 128]), "Q-004"),
    st(invalid, "F19-shape-that-wraps", group(shape=[1 << 31, 1 << 31, 64]), "Q-004"),
    st(
        unsupported, "F19-another-codebook", group(changes={"w.quant_map": ("F32", [16], bytes(64))}), "Q-005"
    ),
    st(invalid, "F19-offset-negative", group(nested_offset=-1.0), "Q-006"),
]
