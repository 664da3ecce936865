"""Arrays to blocks and back: `quantize`, `dequantize`, `fake_quantize`, and their steps without checks."""

from __future__ import annotations

import functools
import math
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gguflow import blocks
from gguflow.arguments import shown
from gguflow.arrays import (
    Bytes as Bytes,
)
from gguflow.arrays import (
    Floats as Floats,
)
from gguflow.arrays import (
    as_array,
    importance_of_columns,
    non_finite,
    output_array,
    read_only,
    separate,
    too_large,
)
from gguflow.blocks import BlockFormat, reserved
from gguflow.blocks.base import HALF_EXPONENT
from gguflow.blocks.families import Encoding, family_at, family_of, find_encoding, part
from gguflow.errors import ShapeError, UnknownFormatError, UsageError
from gguflow.threads import check as check_threads
from gguflow.threads import pieces, run
from gguflow.threads import resolve as resolve_threads

AUTO = "auto"
"""In place of an encoding's name: what the payload says."""

SMALLEST_PIECE = 1 << 17
"""The fewest weights for a thread at a time; with fewer, passing on the interpreter's lock costs more."""


DECODED_PER_ENCODED = 4
"""Weights that are decoded in the time in which one is encoded, or more."""


def encode(x: Floats, block_format: BlockFormat, out: Bytes, importance: Floats | None = None) -> int:
    """Encode flat float32 x into flat out; the caller has checked that both sizes fit the format.

    Returns the index of the first NaN or infinity, in which case `out` is incomplete, or -1. The number
    formats encode any value and always return -1.

    x: float32, flat.
    block_format: the format.
    out: uint8, flat.
    importance: one value for each weight of a row; x then holds whole rows (some formats weight errors by the
        mean square of the row).
    """
    return encode_and_look(x, block_format, out, importance)[0]


def encode_and_look(
    x: Floats, block_format: BlockFormat, out: Bytes, importance: Floats | None = None
) -> tuple[int, reserved.Look]:
    """As `encode`, and what a look at the blocks found; the fastest encoders look while they encode."""
    from gguflow import kernels

    kernel = kernels.load(block_format)
    if importance is None:
        done = kernel.quantize_blocks(read_only(x), out)
    else:
        done = kernel.quantize_blocks_weighted(read_only(x), read_only(importance), out)
    if done is not None and 0 <= done < x.size:
        return int(done) + first_non_finite(x[done:]), reserved.NOTHING
    if done == x.size and importance is None and getattr(kernel, "WATCHES_SCALES", False):
        return -1, reserved.NOTHING
    return -1, look(out, block_format)


@functools.cache
def _scale_places(block_format: BlockFormat) -> tuple[int, int] | None:
    return reserved.half_places(block_format)


def look(packed: Bytes, block_format: BlockFormat) -> reserved.Look:
    """As `gguflow.blocks.reserved.look`, by kernels, where there is nothing to be found.

    packed: uint8[n * type_size], contiguous.
    block_format: the format.
    """
    places = _scale_places(block_format)
    is_aligned = packed.ctypes.data % 4 == 0
    if places is not None and is_aligned:
        from gguflow.kernels import scale_words

        words = read_only(packed).view(np.uint16)
        largest, smallest = scale_words.extremes(words, block_format.type_size // 2, *places)
        return (
            reserved.NOTHING if largest < HALF_EXPONENT and smallest else reserved.look(packed, block_format)
        )
    if block_format.key in _LARGEST and is_aligned:
        from gguflow.kernels import scale_words

        size, infinity = _LARGEST[block_format.key]
        numbers: Any = read_only(packed).view(f"u{size}")
        found = scale_words.largest_half(numbers) if size == 2 else scale_words.largest_single(numbers)
        if 0 < found < infinity:
            return reserved.NOTHING
    return reserved.look(packed, block_format)


_LARGEST = {"f16": (2, 0x7C00), "bf16": (2, 0x7F80), "f32": (4, 0x7F800000)}
"""Bytes of a number, and the bits of infinity."""


def first_unsound(
    found: reserved.Look,
    packed: Bytes,
    block_format: BlockFormat,
    weights: Floats,
    importance: Floats | None = None,
) -> int:
    """The index of the weight that does most to make a block decode to NaN or infinity, or to nothing
    (`first_vanished`), of the first such block; or else of a weight that is too large (`first_lost`); or -1.

    found: by the look at the blocks.
    packed: uint8, flat: what `encode` made.
    block_format: the format.
    weights: that were encoded, float32, flat.
    importance: of the columns of a row, with which `weights` begins.
    """
    if found.code is None:
        bad = first_vanished(packed, block_format, weights, found.zeros, importance)
        return bad if bad >= 0 else first_lost(block_format, weights)
    first = found.block * block_format.block_size
    return first + int(np.abs(weights[first : first + block_format.block_size]).argmax())


CERTAINLY_HELD = np.float32(1)
"""A magnitude that every format can hold: where such a weight becomes zero, its encoder has gone astray."""


def first_vanished(
    packed: Bytes,
    block_format: BlockFormat,
    weights: Floats,
    zeros: NDArray[np.int64],
    importance: Floats | None = None,
) -> int:
    """The index of the first weight of 1 or more whose whole block decodes to zero, or -1: searches do that
    where their sums overflow.

    packed: uint8, flat: what `encode` made.
    block_format: the format.
    weights: that were encoded, float32, flat.
    zeros: the numbers of the blocks that may be zero (`reserved.Look`).
    importance: of the columns of a row, with which `weights` begins; blocks that count nothing may be zero.
    """
    if not zeros.size or not block_format.is_quantized:
        return -1
    size = block_format.block_size
    if importance is not None:
        counts = np.any(importance.reshape(-1, size) > 0, axis=1)
        zeros = zeros[np.take(counts, zeros % counts.size)]
    peaks = np.abs(weights.reshape(-1, size)[zeros]).max(axis=1, initial=0)
    zeros = zeros[peaks >= CERTAINLY_HELD]
    if not zeros.size:
        return -1
    found = as_floats(packed.reshape(-1, block_format.type_size)[zeros].reshape(-1), block_format)
    zeros = zeros[~found.reshape(-1, size).any(axis=1)]
    if not zeros.size:
        return -1
    first = int(zeros[0]) * size
    return first + int(np.abs(weights[first : first + size]).argmax())


def first_lost(block_format: BlockFormat, weights: Floats) -> int:
    """The index of the largest weight of the first block with a weight that is larger than any that the
    format holds, or -1. The block can look sound all the same: a search whose sums overflow gives a sub-block
    up, and NVFP4 cuts weights off.

    block_format: the format.
    weights: finite, float32, flat.
    """
    if math.isinf(block_format.cut_off) or _largest(weights) <= block_format.cut_off:
        return -1
    first = int((np.abs(weights) > block_format.cut_off).argmax())
    first -= first % block_format.block_size
    return first + int(np.abs(weights[first : first + block_format.block_size]).argmax())


def _largest(weights: Floats) -> float:
    """The largest magnitude of finite weights."""
    from gguflow.kernels import scale_words

    bits = scale_words.largest_single(read_only(np.ascontiguousarray(weights)).view(np.uint32))
    return float(np.uint32(bits).view(np.float32))


def decode(packed: Bytes, block_format: BlockFormat, out: Floats) -> None:
    """Decode flat packed blocks into flat float32 out; the caller has checked both sizes."""
    from gguflow import kernels

    kernels.load(block_format).dequantize_blocks(read_only(packed), out)


def as_floats(packed: Bytes, block_format: BlockFormat) -> Floats:
    """The weights of flat packed blocks; a view if they are already float32 in aligned memory."""
    if block_format.key == "f32":
        view = packed.view(np.float32)
        if view.flags.aligned:
            return view
    weights = np.empty(packed.size // block_format.type_size * block_format.block_size, np.float32)
    decode(packed, block_format, weights)
    return weights


def first_non_finite(x: Floats) -> int:
    """The index of the first NaN or infinity in flat float32 x, or -1."""
    from gguflow.kernels import finite

    return int(finite.first_non_finite(read_only(x)))


def kernels_digest() -> str:
    """A digest in 16 characters of what determines the kernels' results: sources and compiler versions."""
    from gguflow.kernels import policy

    return policy.source_digest()


def quantize(
    x: ArrayLike,
    format: str | BlockFormat,
    importance: ArrayLike | None = None,
    threads: int | None = None,
    out: Bytes | None = None,
    *,
    allow_non_finite: bool = False,
) -> Bytes:
    """Quantize the rows of x: float[..., n] -> uint8[..., row_bytes].

    The bytes are those of ggml's reference encoder, and do not depend on `threads`.

    x: float32, float16, bfloat16 (ml_dtypes) or float64 (rounded to float32 first), any strides. Integer
        formats take integers of their own type.
    format: a block format, or an encoding of the parametric family ("nf4_b64", "int4_b128+zstd",
        "sb:bits=3,block=16"). Then x can have any shape, and the result is uint8[nbytes], a self-describing
        payload.
    importance: float32[n], the weight of errors in each column, or None; see `BlockFormat.importance`.
    threads: number of threads; None for all processors, or one for fewer than 2**18 weights.
    out: the array to fill, C-contiguous uint8[..., row_bytes]; None allocates one. It may overlap x.
    allow_non_finite: whether the result may decode to NaN or infinity, as ggml lets it: F16, BF16, F32 and
        F64 then take NaN and infinity, and scales may overflow. Quantized formats cannot hold weights that
        are NaN or infinite, with it or without.

    Raises ShapeError (n is not a multiple of the block size), NonFiniteError (with the index of a weight that
    is NaN or infinite, or would be decoded so: 7e4 in F16, 1e6 in Q4_0; or of one that is 1 or more, and
    would become zero with its whole block), UnknownFormatError, UsageError.
    """
    check_threads(threads)
    if (encoding := _encoding(format)) is not None:
        if out is not None:
            raise UsageError(
                f"a payload of {format} has a size of its own, and is returned: out cannot be given"
            )
        return payload_arrays(encoding).encode(
            as_array(x, "x"), encoding, importance, threads, allow_non_finite=allow_non_finite
        )
    block_format = resolve(format)
    array = _with_rows(x)
    shape = (*array.shape[:-1], block_format.row_bytes(array.shape[-1]))
    packed = output_array(out, shape, np.dtype(np.uint8))
    number_type = _copied_type(block_format)
    if number_type is not None:
        numbers = _same_numbers(array, block_format.name, number_type, allow_non_finite)
        packed[...] = numbers.view(np.uint8).reshape(shape)
        return packed
    if out is not None:
        array = separate(array, packed)
    threads = resolve_threads(threads, array.size)
    rows = _Rows(array, block_format, importance, packed, allow_non_finite)
    target = packed.reshape(-1)

    def work(first: int, last: int) -> None:
        rows.run(first, last, target[rows.place(first) : rows.place(last)])

    run(work, rows.pieces(_piece_size(array.size, threads, rows.reads_twice)), threads)
    return packed


def fake_quantize(
    x: ArrayLike,
    format: str | BlockFormat,
    importance: ArrayLike | None = None,
    threads: int | None = None,
    out: Floats | None = None,
    *,
    allow_non_finite: bool = False,
) -> Floats:
    """`dequantize(quantize(x))`, bit for bit, as float32 of x's shape; for quantization-aware training.

    Blocks are made and decoded piece by piece in the cache; only a payload of the parametric family, whose
    chunks may depend on each other, is made as a whole.

    x, format, importance, threads, allow_non_finite: as in `quantize`.
    out: the array to fill, C-contiguous float32 of x's shape, or x itself; incomplete after an error. It may
        overlap x in any way.

    Raises what `quantize` raises, and UsageError for integer formats and F64, which do not approximate
    float32.
    """
    check_threads(threads)
    if (encoding := _encoding(format)) is not None:
        array = as_array(x, "x")
        narrow = _narrow(array) if array.dtype == np.float64 else array
        arrays = payload_arrays(encoding)
        payload = arrays.encode(narrow, encoding, importance, threads, allow_non_finite=allow_non_finite)
        return arrays.decode(payload, AUTO, threads, out)
    block_format = resolve(format)
    if _copied_type(block_format) is not None:
        raise UsageError(
            f"{block_format.name} does not approximate float32 weights: there is nothing to simulate"
        )
    array = _with_rows(x)
    block_format.row_bytes(array.shape[-1])
    weights = output_array(out, array.shape, np.dtype(np.float32))
    if out is not None and array.__array_interface__ != weights.__array_interface__:
        array = separate(array, weights)  # not weight for weight: a piece is written before another is read
    threads = resolve_threads(threads, array.size)
    rows = _Rows(array, block_format, importance, weights, allow_non_finite)
    target = weights.reshape(-1)

    def work(first: int, last: int) -> None:
        packed = np.empty(rows.place(last) - rows.place(first), np.uint8)
        rows.run(first, last, packed)
        decode(packed, block_format, target[first:last])

    run(work, rows.pieces(_piece_size(array.size, threads, reads_twice=True)), threads)
    return weights


class _Rows:
    """Rows of weights on their way into blocks, in pieces: proved to fit the format, whatever float type they
    have.
    """

    def __init__(
        self,
        array: NDArray[Any],
        block_format: BlockFormat,
        importance: ArrayLike | None,
        out: NDArray[Any],
        allow_non_finite: bool,
    ) -> None:
        columns = _importance(importance, block_format, array.shape[-1])
        self.importance = None if columns is None else separate(columns, out)
        self._allow_non_finite = allow_non_finite
        self._format = block_format
        self._shape = array.shape
        self._source_format, self._raw = _as_blocks(array)

    @property
    def reads_twice(self) -> bool:
        """Whether weights are first copied to float32, or the result is looked at as a whole."""
        return self._source_format.key != "f32" or not self._format.is_quantized

    def pieces(self, target: int) -> list[tuple[int, int]]:
        """Ranges of weights [first, last) of about `target`: whole rows, or whole blocks of one."""
        n = self._shape[-1]
        if self.importance is not None:
            target = max(target, n)  # some encoders weight errors by the mean square of the whole row
        return list(pieces(math.prod(self._shape), n, self._format.block_size, target))

    def place(self, weight: int) -> int:
        """The offset of the block that starts with this weight."""
        return self._format.nbytes(weight)

    def run(self, first: int, last: int, out: Bytes) -> None:
        """Encode weights [first, last) into out. Raises NonFiniteError."""
        source = self._source_format
        weights = as_floats(self._raw[first * source.type_size : last * source.type_size], source)
        bad, found = encode_and_look(weights, self._format, out, self.importance)
        if bad < 0 and not self._allow_non_finite:
            bad = first_unsound(found, out, self._format, weights, self.importance)
            if bad >= 0 and np.isfinite(weights[bad]):
                raise too_large(weights[bad], first + bad, self._shape, self._format.name)
        if bad >= 0:
            raise non_finite(weights[bad], first + bad, self._shape)


def dequantize(
    blocks: ArrayLike, format: str | BlockFormat, threads: int | None = None, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Dequantize packed rows: uint8[..., row_bytes] -> float32[..., n], bit-identical to ggml.

    Integer formats and F64 give their own type. A payload of the parametric family, uint8[nbytes], becomes an
    array of its original shape.

    blocks: the packed rows.
    format: the block format; for a payload its encoding, or "auto".
    threads: number of threads; None for all processors, or one for fewer than 2**20 weights.
    out: the array to fill, C-contiguous, of that type and shape; None allocates one. It may overlap the
        blocks.

    Raises ShapeError if row_bytes is not a multiple of the block's bytes, UnknownFormatError, UsageError, and
    FileError if a payload breaks a rule.
    """
    check_threads(threads)
    if isinstance(format, str) and (format.lower() == AUTO or family_of(format) is not None):
        return _decode_payload(blocks, format, threads, out)
    block_format = resolve(format)
    array = _packed_rows(blocks)
    if array.shape[-1] % block_format.type_size:
        raise ShapeError(
            f"a row of {array.shape[-1]} bytes does not divide into "
            f"{block_format.name} blocks of {block_format.type_size}"
        )
    n = array.shape[-1] // block_format.type_size * block_format.block_size
    shape = (*array.shape[:-1], n)
    raw = np.ascontiguousarray(array).reshape(-1)
    number_type = block_format.number_type
    if number_type is not None and number_type != np.dtype("<f2"):
        weights = output_array(out, shape, number_type)
        weights[...] = raw.view(number_type).reshape(shape)
        return weights
    weights = output_array(out, shape, np.dtype(np.float32))
    if out is not None:
        raw = separate(raw, weights)
    target = weights.reshape(-1)
    threads = resolve_threads(threads, target.size // DECODED_PER_ENCODED)

    def work(first: int, last: int) -> None:
        start, stop = block_format.nbytes(first), block_format.nbytes(last)
        decode(raw[start:stop], block_format, target[first:last])

    run(
        work,
        list(
            pieces(
                target.size,
                target.size,
                block_format.block_size,
                _piece_size(target.size, threads, reads_twice=False),
            )
        ),
        threads,
    )
    return weights


def _packed_rows(blocks: ArrayLike) -> NDArray[Any]:
    """Packed rows as an array of bytes, one dimension or more."""
    if isinstance(blocks, (bytes, bytearray, memoryview)):
        raise ShapeError(
            "packed blocks are uint8[..., row_bytes]; np.frombuffer(blocks, np.uint8) makes them"
        )
    array = as_array(blocks, "blocks")
    if array.dtype != np.uint8 or array.ndim == 0:
        raise ShapeError(
            f"packed blocks are uint8[..., row_bytes], not {array.dtype.name}{list(array.shape)}"
        )
    return array


def _encoding(format: str | BlockFormat) -> Encoding | None:
    """The encoding that a name means, None for a block format."""
    return find_encoding(format) if isinstance(format, str) else None


def _decode_payload(
    payload: ArrayLike, name: str, threads: int | None, out: NDArray[Any] | None
) -> NDArray[Any]:
    """A payload of the encoding of this name, or of whatever it says of itself."""
    raw = as_array(payload, "blocks")
    head = raw.reshape(-1)[:16].tobytes() if raw.dtype == np.uint8 else b""
    family = family_of(name) or family_at(head)
    decoded: NDArray[Any] = part(family.name, "arrays").decode(raw, name, threads, out)
    return decoded


class PayloadArrays(Protocol):
    """What is asked of a family for whole arrays: its module `arrays`."""

    def encode(
        self,
        array: NDArray[Any],
        encoding: Encoding,
        importance: ArrayLike | None,
        threads: int | None,
        *,
        allow_non_finite: bool,
    ) -> Bytes:
        """The payload of an array: uint8[nbytes]. Raises ShapeError, NonFiniteError, UsageError."""

    def decode(
        self, payload: ArrayLike, name: str, threads: int | None, out: NDArray[Any] | None
    ) -> NDArray[Any]:
        """The array in a payload, in its shape.

        name: of the encoding that it must have, or AUTO.
        Raises FileError where the payload is broken, UsageError where it has another encoding.
        """


def payload_arrays(encoding: Encoding) -> PayloadArrays:
    """What encodes and decodes whole arrays in an encoding."""
    return cast(PayloadArrays, part(encoding.family, "arrays"))


def _copied_type(block_format: BlockFormat) -> np.dtype[Any] | None:
    """The number type of a format without kernels: integers and F64, which are stored unchanged."""
    number_type = block_format.number_type
    return (
        number_type
        if number_type is not None and (number_type.kind == "i" or number_type.itemsize == 8)
        else None
    )


def _with_rows(x: ArrayLike) -> NDArray[Any]:
    array = as_array(x, "x")
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise _not_floats(array)
    if array.ndim == 0:
        raise ShapeError("a scalar has no rows to quantize; pass an array of one dimension or more")
    return array


def resolve(format: str | BlockFormat) -> BlockFormat:
    """The block format that an argument means. Raises UnknownFormatError."""
    if isinstance(format, BlockFormat):
        return format
    if isinstance(format, str):
        return blocks.by_name(format)
    raise UnknownFormatError(f'a format is a name, like "q4_k", or a BlockFormat, not {shown(format)}')


def _not_floats(array: NDArray[Any]) -> ShapeError:
    return ShapeError(f"cannot quantize {array.dtype.name}; pass float32, float16, bfloat16 or float64")


def _narrow(array: NDArray[Any]) -> NDArray[Any]:
    """float64 as float32; what is too large becomes infinite, and is refused as such."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _as_blocks(array: NDArray[Any]) -> tuple[BlockFormat, Bytes]:
    """A float array as flat bytes of its own number format, without a copy if it is contiguous."""
    if array.dtype == np.float64:
        array = _narrow(array)
    name = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}.get(array.dtype.name)
    if name is None:
        raise _not_floats(array)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return blocks.FORMATS[name], np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _same_numbers(
    array: NDArray[Any], name: str, number_type: np.dtype[Any], allow_non_finite: bool
) -> NDArray[Any]:
    """Numbers for a format without kernels, little-endian and contiguous.

    Only integers of its own type are accepted; for F64 any finite floats.
    """
    accepted = ("float16", "float32", "float64") if number_type.kind == "f" else (number_type.name,)
    if array.dtype.name not in accepted:
        raise ShapeError(f"{name} stores {number_type.name}, not {array.dtype.name}")
    if number_type.kind == "f" and not allow_non_finite and not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array))[0])
        raise non_finite(array.flat[bad], bad, array.shape)
    return np.ascontiguousarray(array, number_type)


def _importance(importance: ArrayLike | None, block_format: BlockFormat, n: int) -> Floats | None:
    if importance is None:
        if block_format.importance == "required":
            raise UsageError(
                f"{block_format.name} is too coarse to encode without importance; "
                f"pass importance=float32[{n}]"
            )
        return None
    columns = importance_of_columns(importance, n)
    return None if block_format.importance == "unused" else columns


def _piece_size(size: int, threads: int, reads_twice: bool) -> int:
    """Weights that a thread takes at a time: few enough that all threads finish together.

    size: number of weights.
    threads: number of threads.
    reads_twice: whether a piece is read twice and should fit in a cache.
    """
    share = size if threads == 1 else size // (8 * threads)
    return min(max(SMALLEST_PIECE, share), 1 << (20 if reads_twice else 22))
