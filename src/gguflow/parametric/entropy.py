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
    import zstandard

    if not hasattr(_of_thread, "compressor"):
        parameters = zstandard.ZstdCompressionParameters(
            strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, window_log=18
        )
        _of_thread.compressor = zstandard.ZstdCompressor(compression_params=parameters)
    return _of_thread.compressor


def compress(section: Bytes) -> Bytes:
    """The section as a zstd frame, or the section itself if that is not larger; the size tells which."""
    if section.size > 4 * SAMPLE:
        middle = section[(section.size - SAMPLE) // 2 :][:SAMPLE]
        if len(_compressor().compress(middle.data)) > WORTHWHILE * SAMPLE:
            return section
    frame = _compressor().compress(section.data)
    return np.frombuffer(frame, np.uint8) if len(frame) < section.size else section


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
