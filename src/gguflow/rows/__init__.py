"""Vectors stored as they arrive: files that grow by quantized rows and can be read meanwhile (spec/rows.md).

codec.py       vectors to rows of bytes and back: what both kinds of row share, and the rows of block formats
formats.py     the formats that rows can be kept in
judging.py     what a file that grows may say
files.py       creating files, opening them with their lock, closing them
store.py       RowStore: append, flush, read
"""

from __future__ import annotations

from gguflow.rows.codec import RowCodec
from gguflow.rows.formats import find_codec
from gguflow.rows.judging import judge_rows
from gguflow.rows.store import RowStore

__all__ = ["RowCodec", "RowStore", "find_codec", "judge_rows"]
