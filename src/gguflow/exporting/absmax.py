"""Codes and scales of the absmax encodings as plain tensors, for programs that multiply them.

    NAME              int8_b128, int8_row: I8 in the tensor's shape; int4_b128: U8 with two codes in a byte,
                      in rows of half the length, the first in the high nibble, both in two's complement
    NAME.__scales__   F32

A weight is its code times its scale, in binary32. If rows are whole blocks, scales are [..., blocks of a row]
(int8_row: [..., 1]); otherwise they are flat, and blocks continue through the flattened tensor, the last one
shorter. Codes are flat too if a row is not a whole number of bytes. The file's `__metadata__` has an entry
"quantization": JSON with the encoding, bits, block (0: a row), shape and packing of each such tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gguflow.errors import UsageError
from gguflow.exporting.entries import Entry, code_entry
from gguflow.models.base import ModelTensor
from gguflow.parametric import Quantizer
from gguflow.parametric.stages import transcoding
from gguflow.parametric.stages.stored import encoding_of
from gguflow.parametric.views import View, has_views

SCALES = ".__scales__"
PACKING = {
    8: "one code to a byte, two's complement",
    4: "two codes to a byte, the first in the high nibble, two's complement",
}


def is_meant(tensor: ModelTensor) -> bool:
    """Whether a tensor is in an absmax encoding of 4 or 8 bits."""
    encodings = {encoding_of(source) for source in tensor.sources}
    return all(
        e is not None and has_views(e) and e.quantizer is Quantizer.ABSMAX for e in encodings
    ) and bool(encodings)


def entries(tensor: ModelTensor) -> Iterator[Entry]:
    """Codes and scales of a tensor that `is_meant`. Raises UsageError if blocks do not fit its rows."""
    encoding = transcoding.encoding_of(tensor)
    if encoding is None:
        raise UsageError(
            f"{tensor.name}: rows of {tensor.shape[-1]} weights are not whole blocks, "
            "and cannot be cut or reordered"
        )
    yield code_entry(
        tensor.name, transcoding.part(tensor, View.CODES).tensor, "I8" if encoding.bits == 8 else "U8"
    )
    yield code_entry(tensor.name + SCALES, transcoding.part(tensor, View.SCALES).tensor, "F32")


def description(tensor: ModelTensor) -> dict[str, Any]:
    """The description of a tensor in the file's metadata."""
    encoding = transcoding.encoding_of(tensor)
    if encoding is None:
        raise ValueError(f"{tensor.name} has no codes and scales")
    shape = list(tensor.shape)
    return {
        "encoding": encoding.name,
        "bits": encoding.bits,
        "block": encoding.block,
        "shape": shape,
        "packing": PACKING[encoding.bits],
    }
