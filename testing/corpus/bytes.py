"""GGUF files put together byte by byte, as good or as broken as a case needs: nothing here checks
anything.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
CODES = {
    U8: "B",
    I8: "b",
    U16: "H",
    I16: "h",
    U32: "I",
    I32: "i",
    F32: "f",
    BOOL: "B",
    U64: "Q",
    I64: "q",
    F64: "d",
}

SIZES = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    8: (32, 34),
    12: (256, 144),
    24: (1, 1),
    28: (1, 8),
    30: (1, 2),
    39: (32, 17),
    40: (64, 36),
    41: (128, 18),
}
"""(block size, bytes per block) of the formats that cases use, by ggml's type number."""


def string(text: str | bytes, length: int | None = None) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def scalar(kind: int, value: float | str | bytes) -> bytes:
    if isinstance(value, (str, bytes)):
        return string(value)
    return struct.pack("<" + CODES[kind], value)


def key_value(
    key: str | bytes, kind: int, value: float | str | bytes, key_length: int | None = None
) -> bytes:
    return string(key, key_length) + struct.pack("<I", kind) + scalar(kind, value)


def raw_key_value(key: str | bytes, kind: int, payload: bytes) -> bytes:
    """A key whose value is whatever bytes the case wants."""
    return string(key) + struct.pack("<I", kind) + payload


def array(
    key: str | bytes, kind: int, values: Iterable[float | str | bytes], count: int | None = None
) -> bytes:
    parts = [scalar(kind, value) for value in values]
    return raw_key_value(
        key, ARRAY, struct.pack("<IQ", kind, len(parts) if count is None else count) + b"".join(parts)
    )


def tensor_info(
    name: str | bytes,
    dims: Sequence[int],
    kind: int,
    offset: int,
    n_dims: int | None = None,
    name_length: int | None = None,
) -> bytes:
    head = string(name, name_length) + struct.pack("<I", len(dims) if n_dims is None else n_dims)
    return head + struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", kind, offset)


@dataclass(frozen=True)
class Tensor:
    """A tensor whose place follows from the ones before it. data: its blocks; ones in a pattern that every
    format takes as finite, unless given.
    """

    name: str | bytes
    dims: tuple[int, ...] = (32,)
    kind: int = 0
    data: bytes | None = None
    type_size: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "type_size", SIZES[self.kind][1])

    @property
    def nbytes(self) -> int:
        n = 1
        for dim in self.dims:
            n *= dim
        return n // SIZES[self.kind][0] * self.type_size

    def payload(self) -> bytes:
        if self.data is not None:
            return self.data
        return bytes(1 + i % 23 for i in range(self.nbytes))


ARCHITECTURE = key_value("general.architecture", STRING, "example")
"""The first key of most cases: without it a warning would stand beside what the case is about."""


def gguf(
    metadata: Sequence[bytes] = (ARCHITECTURE,),
    tensors: Sequence[Tensor] = (),
    *,
    alignment: int = 32,
    version: int = 3,
    magic: bytes = b"GGUF",
    n_tensors: int | None = None,
    n_kv: int | None = None,
    pad: bytes = b"\0",
    tail: bytes = b"",
    padded_end: bool = True,
) -> bytes:
    """A file. alignment: the one used, whether metadata says it or not. pad: a byte to fill with. tail: what
    follows the last tensor's padding.
    """
    infos, data = b"", b""
    for tensor in tensors:
        infos += tensor_info(tensor.name, tensor.dims, tensor.kind, len(data))
        data = fill(data + tensor.payload(), alignment, pad)
    if tensors and not padded_end:
        data = data[: len(data) - (-tensors[-1].nbytes % alignment)]
    head = preamble(
        len(tensors) if n_tensors is None else n_tensors,
        len(metadata) if n_kv is None else n_kv,
        version,
        magic,
    )
    return fill(head + b"".join(metadata) + infos, alignment, pad) + data + tail


def header_only(
    metadata: Sequence[bytes], infos: Sequence[bytes], data: bytes = b"", alignment: int = 32
) -> bytes:
    """A file whose tensor table is written by hand."""
    return fill(preamble(len(infos), len(metadata)) + b"".join(metadata) + b"".join(infos), alignment) + data


def preamble(n_tensors: int = 0, n_kv: int = 0, version: int = 3, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, n_tensors, n_kv)


def fill(data: bytes, alignment: int, pad: bytes = b"\0") -> bytes:
    return data + pad * (-len(data) % alignment)
