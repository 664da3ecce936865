"""What a file that grows by rows may say: rules R-101 to R-108 of spec/rows.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gguflow.blocks import QUANTIZATION_VERSION
from gguflow.container.header import Header
from gguflow.container.metadata import Metadata, Value, ValueType, array, u32
from gguflow.container.payload_keys import (
    MUST_UNDERSTAND_KEY,
    PAYLOADS_KEY,
    keys_of_payloads,
    payload_metadata,
)
from gguflow.container.row_store import (
    COUNT_BYTES,
    FILLER_KEY,
    FORMAT_KEY,
    TENSOR,
    VERSION,
    VERSION_KEY,
    WIDTH_KEY,
    count_position,
    is_row_store,
)
from gguflow.container.rules import key_path
from gguflow.container.strings import quoted
from gguflow.errors import Finding, GguflowError
from gguflow.rows.codec import PIECE, BlockRows, PayloadRows, RowCodec
from gguflow.rows.formats import find_codec

Bytes = NDArray[np.uint8]

TAIL = "R-106"
"""The rule about bytes behind the last row: the file is not canonical then, but can still be read."""

_TYPES = {
    VERSION_KEY: ValueType.UINT32,
    FORMAT_KEY: ValueType.STRING,
    WIDTH_KEY: ValueType.UINT64,
    FILLER_KEY: ValueType.STRING,
}


def keys_of(codec: RowCodec) -> Metadata:
    """The metadata that the format of the rows needs.

    This is the generation of ggml's blocks, or what a reader must understand of the family.

    codec: the format of the rows.
    """
    if isinstance(codec, PayloadRows):
        return _encoding_keys(codec.name)
    is_quantized = isinstance(codec, BlockRows) and codec.format.is_quantized
    return {"general.quantization_version": u32(QUANTIZATION_VERSION)} if is_quantized else {}


def _encoding_keys(name: str) -> Metadata:
    """The list of payloads is empty: no tensor has a descriptor of its own."""
    return payload_metadata({TENSOR: name}) | {PAYLOADS_KEY: array(ValueType.STRING, [])}


def codec_of(header: Header) -> RowCodec:
    """The codec of a store in which `judge_rows` found no error.

    header: the header of the store.
    """
    return find_codec(header.metadata[FORMAT_KEY].value, header.metadata[WIDTH_KEY].value)


def judge_rows(header: Header, file_nbytes: int, *, strict: bool = False) -> Iterator[Finding]:
    """Every rule about a row store that the header breaks; nothing for other files.

    header: the header of the file, which keeps the general rules.
    file_nbytes: the size of the file in bytes.
    strict: whether an unfinished tail is an error instead of a warning.
    """
    if not is_row_store(header.metadata):
        return
    for key, kind in _TYPES.items():
        value = header.metadata.get(key)
        if value is None or value.type is not kind:
            yield _about_key(
                header,
                "R-101",
                "a key of row stores is missing or has another type",
                key,
                _type_name(value),
                kind.name,
            )
            return
    version = header.metadata[VERSION_KEY].value
    if version != VERSION:
        yield _about_key(header, "R-102", "another version of row stores", VERSION_KEY, version, VERSION)
        return
    try:
        codec = codec_of(header)
    except GguflowError as error:
        yield _about_key(
            header, "R-103", f"rows in a format that this version cannot keep: {error}", FORMAT_KEY
        )
        return
    yield from _judge_tensor(header, codec)
    yield from _judge_encodings(header, codec)
    if len(header.tensors) == 1 and len(header.tensors[0].dims) == 2:
        yield from _judge_end(header, codec, file_nbytes, strict)


def judge_chunks(header: Header, content: memoryview) -> Iterator[Finding]:
    """What is wrong in rows of an encoding of the family (R-108): the first row that breaks each rule.

    header: the header of the store, in which `judge_rows` found no error.
    content: the bytes of the file.
    """
    codec = codec_of(header)
    if not isinstance(codec, PayloadRows):
        return
    n_rows = header.tensors[0].dims[1]
    packed = np.frombuffer(content, np.uint8, n_rows * codec.row_nbytes, header.data_offset).reshape(
        n_rows, codec.row_nbytes
    )
    step = max(PIECE // codec.width, 1) if codec.joins else 1
    reported: set[str] = set()
    for first in range(0, n_rows, step):
        piece = packed[first : first + step]
        is_bad = any(True for _ in codec.judge(piece))
        for i in range(first, first + len(piece)) if is_bad else ():
            for finding in codec.judge(packed[i : i + 1]):
                if finding.rule not in reported:
                    reported.add(finding.rule)
                    yield replace(
                        finding,
                        path=f"$.tensors[0].rows[{i}]",
                        offset=header.data_offset + i * codec.row_nbytes,
                    )


def _judge_tensor(header: Header, codec: RowCodec) -> Iterator[Finding]:
    tensors = header.tensors
    if len(tensors) != 1 or tensors[0].name != TENSOR or "split.count" in header.metadata:
        yield Finding(
            "R-104",
            f"a row store is one file with one tensor {quoted(TENSOR)}",
            "$.tensors",
            None,
            [t.name for t in tensors[:3]],
        )
        return
    found = (tensors[0].type_id, len(tensors[0].dims), tensors[0].dims[:1])
    expected = (codec.type_id, 2, (codec.row_length,))
    if found != expected:
        message = f"the tensor does not hold rows of {codec.width} in {codec.name}: (type, dimensions, ne[0])"
        yield Finding("R-104", message, "$.tensors[0]", tensors[0].position, found, expected)


def _judge_encodings(header: Header, codec: RowCodec) -> Iterator[Finding]:
    """Text against text: an encoding may get another name in a later version, and the file stays good."""
    expected = _encoding_keys(header.metadata[FORMAT_KEY].value) if isinstance(codec, PayloadRows) else {}
    found = keys_of_payloads(header.metadata)
    if found.keys() != expected.keys() or any(
        _strings(found[key]) != _strings(expected[key]) for key in found
    ):
        message = (
            "the key that must be understood names the encoding of the rows, "
            "and nothing where they are in a block format"
        )
        yield _about_key(header, "R-105", message, MUST_UNDERSTAND_KEY)


def _judge_end(header: Header, codec: RowCodec, file_nbytes: int, strict: bool) -> Iterator[Finding]:
    position = count_position(header)
    if position % COUNT_BYTES:
        message = "the count of rows can be torn: it does not lie at a multiple of 8"
        yield Finding(
            "R-107", message, "$.tensors[0].dims[1]", position, position % COUNT_BYTES, 0, severity="warning"
        )
    end = header.data_offset + header.tensors[0].dims[1] * codec.row_nbytes
    tail = file_nbytes - (end + -end % header.alignment)
    if tail > 0:
        message = "an unfinished tail, as a writer leaves that was stopped or is at work"
        yield Finding(TAIL, message, "$", end, f"{tail} bytes", severity="error" if strict else "warning")


def _strings(value: Value) -> list[str] | None:
    """Of an array of strings; None for anything else."""
    return (
        list(value.value) if (value.type, value.element_type) == (ValueType.ARRAY, ValueType.STRING) else None
    )


def _type_name(value: Value | None) -> str:
    return "nothing" if value is None else value.type.name


def _about_key(
    header: Header, rule: str, message: str, key: str, found: object = None, expected: object = None
) -> Finding:
    return Finding(rule, message, key_path(key), header.key_positions.get(key), found, expected)
