"""Entropy coding of a section: zstd frames that hold little more than Huffman codes.

Codes and exponents of weights have no repeated sequences: searching for matches costs time and makes the
result larger, so it is nearly off (the fastest strategy, a small table, long matches only). A section that
does not shrink is stored as it is. A decoder accepts any zstd frame that declares its size.

zstandard is imported at first use, since most users of the family never compress.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from gguflow.arrays import Bytes

SAMPLE = 1 << 14
"""Bytes from the middle that are compressed first, to find out whether the rest is worth it."""
WORTHWHILE = 0.995
LARGEST_AT_ONCE = 1 << 20
"""Bytes of a section that is compressed in one call: larger ones, of wide chunks, may come in pieces."""
MAX_WINDOW = 1 << 27
LONGEST_FRAME_HEADER = 18

_of_thread = threading.local()
"""Compression contexts, one for each thread."""


class FrameError(ValueError):
    """Bytes that are not one zstd frame of the declared size."""


def library_version() -> str:
    """The version of libzstd: the same version gives the same bytes."""
    import zstandard

    return ".".join(map(str, zstandard.ZSTD_VERSION))


def _compressor() -> Any:
    if not hasattr(_of_thread, "compressor"):
        _of_thread.compressor = _new_compressor()
    return _of_thread.compressor


def _new_compressor() -> Any:
    import zstandard

    parameters = zstandard.ZstdCompressionParameters(
        strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, window_log=18
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


def compress(section: Bytes) -> Bytes:
    """The section as a zstd frame, or the section itself if that is not larger; the size tells which."""
    if section.size > 4 * SAMPLE and not is_compressible(section[middle(section.size)]):
        return section
    if section.size > LARGEST_AT_ONCE:
        frame = Frame(section.size)
        content = frame.add(section) + frame.end()
    else:
        content = _compressor().compress(section.data)
    return np.frombuffer(content, np.uint8) if len(content) < section.size else section


def middle(nbytes: int) -> slice:
    """Which bytes of a section are tried first."""
    start = (nbytes - SAMPLE) // 2
    return slice(start, start + SAMPLE)


def is_compressible(sample: Bytes) -> bool:
    """Whether a section is worth a frame, judged by its middle."""
    return len(_compressor().compress(sample.data)) <= WORTHWHILE * SAMPLE


class Frame:
    """A zstd frame of a section of `nbytes` that comes in pieces; the same bytes however it is cut."""

    def __init__(self, nbytes: int) -> None:
        self._stream = _new_compressor().compressobj(size=nbytes)

    def add(self, piece: Bytes) -> bytes:
        """What is to be written of the frame so far, behind what was written before."""
        return bytes(self._stream.compress(piece.data))

    def end(self) -> bytes:
        """The last bytes of the frame, when all pieces were added."""
        return bytes(self._stream.flush())


def decompress(frame: Bytes, nbytes: int) -> Bytes:
    """The content of a zstd frame, which must declare `nbytes` bytes before any memory is allocated.

    Raises FrameError.
    """
    import zstandard

    try:
        declared = zstandard.get_frame_parameters(frame[:LONGEST_FRAME_HEADER].tobytes())
    except zstandard.ZstdError as error:
        raise FrameError(f"not a zstd frame: {error}") from None
    if declared.content_size != nbytes or declared.dict_id:
        raise FrameError(f"a frame of {declared.content_size} bytes instead of {nbytes}")
    if not hasattr(_of_thread, "decompressor"):
        _of_thread.decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    try:
        content = _of_thread.decompressor.decompress(frame, max_output_size=nbytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FrameError(f"a broken zstd frame: {error}") from None
    if len(content) != nbytes:
        raise FrameError(f"a frame of {len(content)} bytes instead of {nbytes}")
    return np.frombuffer(content, np.uint8)
