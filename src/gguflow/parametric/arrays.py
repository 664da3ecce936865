"""Whole arrays to payloads and back, for `gguflow.quantize` and `gguflow.dequantize`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import gguflow.parametric.chunks as chunks
import gguflow.parametric.proving as proving
from gguflow.arrays import importance_of_columns, non_finite, output_array
from gguflow.errors import NonFiniteError, ShapeError, UsageError
from gguflow.parametric.axes import SourceType
from gguflow.parametric.encoder import Encoder
from gguflow.parametric.encoding import Encoding
from gguflow.parametric.names import find
from gguflow.parametric.payload import Payload
from gguflow.threads import run

AUTO = "auto"
"""Stands in for an encoding's name: use the encoding that the payload names."""

_SOURCE_TYPES = {
    "float32": SourceType.F32,
    "float16": SourceType.F16,
    "bfloat16": SourceType.BF16,
    "float64": SourceType.F64,
}


def encode(
    array: NDArray[Any],
    encoding: Encoding,
    importance: ArrayLike | None = None,
    threads: int | None = None,
    *,
    allow_non_finite: bool = False,
) -> NDArray[np.uint8]:
    """Encode an array of any shape and return its payload: uint8[nbytes].

    array: float32, float16, bfloat16 or float64, one dimension or more.
    encoding: the encoding to use.
    importance: float32[n] for the last dimension; used only by encodings that search or learn.
    threads: number of threads.
    allow_non_finite: whether weights may decode to infinity, where they are huge, and whether a lossless
        encoding may hold NaN and infinity.

    Raises ShapeError (dtype, empty array), NonFiniteError, UsageError.
    """
    source_type = _SOURCE_TYPES.get(array.dtype.name)
    if source_type is None:
        raise ShapeError(f"cannot quantize {array.dtype.name}; pass float32, float16, bfloat16 or float64")
    if array.ndim == 0:
        raise ShapeError("a scalar has no rows to quantize; pass an array of one dimension or more")
    weights = None if importance is None else importance_of_columns(importance, array.shape[-1])
    encoder = Encoder(encoding, array.shape, source_type)
    geometry = encoder.geometry
    matrix = array.reshape(geometry.rows, geometry.columns)

    def rows_of(i: int) -> NDArray[Any]:
        rows = matrix[i * geometry.rows_per_chunk :][: geometry.chunk_rows(i)]
        if encoding.is_lossless:
            return (
                np.ascontiguousarray(rows.astype(rows.dtype.newbyteorder("<"), copy=False))
                .reshape(-1)
                .view(np.uint8)
            )
        with np.errstate(over="ignore"):  # what is too large for float32 is refused as infinity
            return np.ascontiguousarray(rows, np.float32)

    def located(error: NonFiniteError, i: int) -> NonFiniteError:
        """The error of a chunk, with its index in the whole array."""
        index = i * geometry.rows_per_chunk * geometry.columns + error.index
        return non_finite(array.flat[index], index, array.shape)

    payload = np.empty(geometry.payload_nbytes if encoding.is_fixed_size else 0, np.uint8)
    parts: list[NDArray[np.uint8]] = [payload] * geometry.n_chunks

    def observe(i: int, _: int) -> None:
        try:
            encoder.observe(rows_of(i), i, weights)
        except NonFiniteError as error:
            raise located(error, i) from None

    def encode_one(i: int, _: int) -> None:
        place = None
        if encoding.is_fixed_size:
            place = payload[geometry.fixed_offset(i) :][: geometry.chunk_nbytes(geometry.chunk_rows(i))]
        try:
            rows = rows_of(i)
            if encoding.is_lossless and not allow_non_finite:
                proving.check_numbers(source_type, rows)
            parts[i] = encoder.encode_chunk(i, rows, weights, place)
            if not (encoding.is_lossless or allow_non_finite):
                proving.check_chunk(geometry, encoder.tables, i, rows.reshape(-1), parts[i])
        except NonFiniteError as error:
            raise located(error, i) from None

    each = [(i, i + 1) for i in range(geometry.n_chunks)]
    if encoding.needs_first_pass:
        run(observe, each, threads)
        encoder.finish_observing()
    run(encode_one, each, threads)
    if not encoding.is_fixed_size:
        return joined(encoder, parts)
    payload[: geometry.prefix_nbytes] = np.frombuffer(encoder.prefix(), np.uint8)
    return payload


def joined(encoder: Encoder, parts: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The payload made of all the encoded chunks of a tensor, in order."""
    parts = list(parts)
    if encoder.encoding.is_fixed_size:
        prefix = encoder.prefix()
    else:
        prefix = encoder.prefix([part.size for part in parts], [chunks.digest(part) for part in parts])
    return np.concatenate([np.frombuffer(prefix, np.uint8), *parts])


def decode(
    payload: ArrayLike, name: str = AUTO, threads: int | None = None, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Decode a payload into an array of its shape: float32 (float64 for lossless float64).

    payload: uint8[nbytes].
    name: the encoding that the payload must have, or AUTO.
    threads: number of threads.
    out: the array to fill, C-contiguous, of that type and shape; None allocates one.

    Raises a FileError (rules E-...) if the payload is not valid, UsageError if it has another encoding.
    """
    raw = np.ascontiguousarray(payload)
    if raw.dtype != np.uint8 or raw.ndim != 1:
        raise ShapeError(f"a payload is uint8[nbytes], not {raw.dtype.name}{list(raw.shape)}")
    read = Payload(raw)
    if name.lower() != AUTO and find(name) != read.encoding:
        raise UsageError(f"the payload is encoded as {read.encoding.name}, not {name}")
    geometry = read.geometry
    dtype = np.dtype(
        np.float64 if read.encoding.is_lossless and read.source_type is SourceType.F64 else np.float32
    )
    out = output_array(out, read.shape, dtype)
    matrix = out.reshape(geometry.rows, geometry.columns)

    def decode_one(first: int, last: int) -> None:
        read.decode_rows(first, last, matrix[first:last])

    step = geometry.rows_per_chunk
    run(
        decode_one,
        [(first, min(first + step, geometry.rows)) for first in range(0, geometry.rows, step)],
        threads,
    )
    return out
