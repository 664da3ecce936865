"""Vectors kept as they come: files that grow by quantized rows and can be read while they do (spec/rows.md).

codec.py       vectors to rows of bytes and back: what both kinds of row share, and the rows of block formats
formats.py     which formats rows can be kept in
judging.py     what a file that grows may say
files.py       made whole, opened under their lock, let go
store.py       RowStore: append, flush, read
"""

from __future__ import annotations

from gguflow.rows.codec import RowCodec
from gguflow.rows.formats import find_codec
from gguflow.rows.judging import judge_rows
from gguflow.rows.store import RowStore

__all__ = ["RowCodec", "RowStore", "find_codec", "judge_rows"]
