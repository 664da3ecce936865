"""Vectors kept as they come: files that grow by quantized rows and can be read while they do (spec/rows.md).

codec.py     vectors to rows of bytes and back, in the block formats and in the encodings of the family that need nothing but the row
judging.py   what a file that grows may say
mapping.py   a file that is mapped anew when it has grown
store.py     RowStore: append, flush, read
"""

from __future__ import annotations

from gguflow.rows.codec import RowCodec, find_codec
from gguflow.rows.judging import judge_rows
from gguflow.rows.store import RowStore

__all__ = ["RowCodec", "RowStore", "find_codec", "judge_rows"]
