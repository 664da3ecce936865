"""`tokenizer.model`: the pieces of a SentencePiece model, read from its protocol buffer.

Only what GGUF needs is read; the rest is walked over, so that a damaged or cut file is found. Of the message
ModelProto (sentencepiece_model.proto) these fields matter:

    1  pieces, repeated: 1 piece (text), 2 score (float32), 3 type (1 normal, 2 unknown, 3 control,
       4 user defined, 5 unused, 6 byte)
    2  trainer_spec, which every trainer writes after the pieces: 3 model_type (1 Unigram, 2 BPE)
    3  normalizer_spec: 2 precompiled_charsmap (bytes), 3 add_dummy_prefix, 4 remove_extra_whitespaces
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gguflow.container.sniffing import looks_like
from gguflow.errors import Finding, LimitError, MalformedError
from gguflow.models.tokenizers.vocabulary import TokenType

MAX_PIECES = 1 << 20
"""The limit of a model's pieces. The largest known vocabulary has 262144."""

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_MODEL_TYPE = 3
_CHARSMAP, _DUMMY_PREFIX, _EXTRA_SPACES = 2, 3, 4
_TEXT, _SCORE, _TYPE = 1, 2, 3
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TYPES = {
    1: TokenType.NORMAL,
    2: TokenType.UNKNOWN,
    3: TokenType.CONTROL,
    4: TokenType.NORMAL,  # user defined: llama.cpp's converter makes no difference
    5: TokenType.UNUSED,
    6: TokenType.BYTE,
}


class Piece(NamedTuple):
    """A piece of the vocabulary; its index is its id."""

    text: str
    score: float
    type: TokenType


@dataclass
class SentencePieceModel:
    """A SentencePiece model.

    pieces: in the order of their ids.
    is_unigram: whether it is of that kind, and not BPE or another.
    charsmap: the compiled rules of the normalizer; empty if there are none.
    adds_space: whether a space is put before a text.
    removes_spaces: whether white space is removed at the ends of a text, and doubled white space.
    """

    pieces: list[Piece]
    is_unigram: bool = True
    charsmap: bytes = b""
    adds_space: bool = True
    removes_spaces: bool = True


def read_pieces(content: bytes, file: Path) -> list[Piece]:
    """The pieces of a model in the order of their ids: `read_model`."""
    return read_model(content, file).pieces


def read_model(content: bytes, file: Path) -> SentencePieceModel:
    """A model with what its trainer and normalizer say.

    content: of the whole file.
    file: for messages.

    Raises MalformedError (M-021) if it is something else, damaged or cut, and LimitError (M-026).
    """
    if what := _other_content(content):
        raise MalformedError(file, Finding("M-021", f"not a SentencePiece model: {what}"))
    pieces: list[Piece] = []
    model = SentencePieceModel(pieces)
    seen: set[str] = set()
    is_whole = False
    for number, kind, start, end in _fields(content, 0, len(content), file):
        if number == _TRAINER and kind == _BYTES:
            is_whole = True
            _read_trainer(model, content, start, end, file)
        if number == _NORMALIZER and kind == _BYTES:
            _read_normalizer(model, content, start, end, file)
        if number != _PIECES or kind != _BYTES:
            continue
        if len(pieces) == MAX_PIECES:
            raise LimitError(file, Finding("M-026", "too many pieces", expected=f"at most {MAX_PIECES}"))
        piece = _piece(content, start, end, file)
        if piece.text in seen:
            raise _damaged(file, "a piece occurs twice", start, piece.text)
        seen.add(piece.text)
        pieces.append(piece)
    if not pieces or not is_whole:
        message = "the file ends too early, as after an interrupted download; fetch it again"
        raise _damaged(file, message, len(content), f"{len(pieces)} pieces, and no trainer's settings")
    if sum(piece.type is TokenType.UNKNOWN for piece in pieces) != 1:
        raise _damaged(file, "not exactly one piece stands for unknown text", len(content))
    return model


def _read_trainer(model: SentencePieceModel, content: bytes, start: int, end: int, file: Path) -> None:
    for number, kind, first, last in _fields(content, start, end, file):
        if number == _MODEL_TYPE and kind == _VARINT:
            model.is_unigram = _varint(content, first, last, file)[0] == 1


def _read_normalizer(model: SentencePieceModel, content: bytes, start: int, end: int, file: Path) -> None:
    for number, kind, first, last in _fields(content, start, end, file):
        if number == _CHARSMAP and kind == _BYTES:
            model.charsmap = content[first:last]
        elif number == _DUMMY_PREFIX and kind == _VARINT:
            model.adds_space = _varint(content, first, last, file)[0] != 0
        elif number == _EXTRA_SPACES and kind == _VARINT:
            model.removes_spaces = _varint(content, first, last, file)[0] != 0


def _other_content(content: bytes) -> str:
    """What a file is that is certainly no SentencePiece model, and what to do; "" if nothing is known.

    A model begins with its first piece, and so with a line feed.
    """
    if not content:
        return "the file is empty, as an interrupted download leaves it; fetch it again"
    if _is_tiktoken(content):
        return (
            "it is a tiktoken vocabulary (a token in base64 and its rank in each line), as Llama 3 has in "
            "original/; remove it, and put the tokenizer.json of the checkpoint beside the weights"
        )
    if content[:1] == b"{":
        return "it is JSON; if it is a tokenizer.json, give it that name"
    return "" if content[:1] == b"\n" else looks_like(content[:512]).removeprefix("; ")


def _is_tiktoken(content: bytes) -> bool:
    line = re.match(rb"([A-Za-z0-9+/]+={0,2}) [0-9]{1,9}\r?(?:\n|\Z)", content[:512])
    if line is None:
        return False
    try:
        base64.b64decode(line[1], validate=True)
    except binascii.Error:
        return False
    return True


def _piece(content: bytes, start: int, end: int, file: Path) -> Piece:
    text, score, code = b"", 0.0, 1
    for number, kind, first, last in _fields(content, start, end, file):
        if number == _TEXT and kind == _BYTES:
            text = content[first:last]
        elif number == _SCORE and kind == _FIXED32:
            (score,) = struct.unpack_from("<f", content, first)
        elif number == _TYPE and kind == _VARINT:
            code, _ = _varint(content, first, last, file)
    if not text:
        raise _damaged(file, "a piece without text", start)
    if not math.isfinite(score):
        raise _damaged(file, "a score that is not a finite number", start, score)
    try:
        return Piece(text.decode("utf-8"), score, _TYPES.get(code, TokenType.NORMAL))
    except UnicodeDecodeError:
        raise _damaged(file, "a piece that is not UTF-8", start) from None


def _fields(content: bytes, start: int, end: int, file: Path) -> Iterator[tuple[int, int, int, int]]:
    """The fields of the message in [start, end): number, wire type, and the range of the value."""
    while start < end:
        place = start
        tag, start = _varint(content, start, end, file)
        kind = tag & 7
        if kind == _VARINT:
            _, stop = _varint(content, start, end, file)
        elif kind == _BYTES:
            length, start = _varint(content, start, end, file)
            stop = start + length
        elif kind in (_FIXED64, _FIXED32):
            stop = start + (8 if kind == _FIXED64 else 4)
        else:
            raise _damaged(file, "a field of a kind that such files do not have", place, kind)
        if tag >> 3 == 0:
            raise _damaged(file, "a field without a number", place)
        if stop > end:
            message = "a field passes the end: the file is damaged, or was cut by an interrupted download"
            raise _damaged(file, message, place, f"{stop - start} bytes", f"at most {end - start}")
        yield tag >> 3, kind, start, stop
        start = stop


def _varint(content: bytes, start: int, end: int, file: Path) -> tuple[int, int]:
    """The number at `start`, at most 64 bits, and where it ends."""
    if start < end and content[start] < 128:  # almost all are one byte, and a vocabulary has a million
        return content[start], start + 1
    value = 0
    for i in range(min(10, end - start)):
        byte = content[start + i]
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, start + i + 1
    raise _damaged(file, "a number without an end: the file is damaged, or was cut", start)


def _damaged(
    file: Path, message: str, offset: int, found: object = None, expected: object = None
) -> MalformedError:
    message = f"not a SentencePiece model: {message}"
    return MalformedError(file, Finding("M-021", message, offset=offset, found=found, expected=expected))
