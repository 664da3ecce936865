"""JSON of unknown origin: read whole or refused, with nothing in it that two readers could take for two
things. Rules J-001 to J-009.

Python's own parser takes NaN, keeps the last of two equal keys, reads 1e400 as infinity and lone surrogates
as text. Each of these is refused here. It also makes a hundred bytes of the two of an empty list: so a
document that could have more values than any known one has is refused before it is parsed.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from gguflow.container.sniffing import looks_like
from gguflow.errors import Finding, LimitError, MalformedError
from gguflow.platform import storage_errors
from gguflow.sources.base import json_path, require_regular

_MAX_DIGITS = 400
"""The most digits of one number: float64 ends at 309, and Python refuses integers of more than 4300."""

MAX_VALUES = 3 << 20
"""Commas and opening brackets in a document. The largest known tokenizer.json has two million."""
MAX_MEMBERS = 3 << 18
"""Colons in a document. The largest known tokenizer.json has 400,000; a safetensors header, four a tensor."""
MAX_TEXT_NBYTES = 192 << 20
"""Bytes of the decoded text. The largest known tokenizer.json takes 140 MB, four bytes per character."""

_PIECE = 1 << 20
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""Half a surrogate pair as JSON writes it; two halves may still make a whole."""
_HALF = re.compile("[\ud800-\udfff]")


def read(path: Path, max_nbytes: int, rule: str, allow_infinity: bool = False) -> Any:
    """Parse a file.

    path: the path of the file.
    max_nbytes: the largest accepted size in bytes.
    rule: the id of the rule that sets max_nbytes.
    allow_infinity: whether NaN and Infinity are accepted.

    Raises InvalidError (S-001), LimitError, MalformedError, StorageError.
    """
    require_regular(path)
    with storage_errors("read", path), open(path, "rb") as file:
        content = file.read(max_nbytes + 1)
    if len(content) > max_nbytes:
        raise LimitError(path, Finding(rule, f"larger than the {max_nbytes} bytes that such a file may have"))
    _refuse_large(content, path, 0)
    text = _decoded(content, path, 0)
    del content
    return _parsed(text, path, 0, allow_infinity)


def parse(content: bytes, file: Path, offset: int = 0, allow_infinity: bool = False) -> Any:
    """Parse a document: objects become dicts, integers int, other numbers float.

    -0 becomes a float, because it is not an integer.

    content: the bytes of the document.
    file: the file that it is in, for messages.
    offset: where it begins in the file, in bytes.
    allow_infinity: whether NaN and Infinity are accepted, as Python writes them into configurations.

    Raises MalformedError, or LimitError if the document, its nesting or a number is too large to be read.
    """
    _refuse_large(content, file, offset)
    text = _decoded(content, file, offset)
    del content  # the caller may have kept no other name of it
    return _parsed(text, file, offset, allow_infinity)


def _refuse_large(content: bytes, file: Path, offset: int) -> None:
    """J-007 to J-009, by counting bytes."""
    n_values = sum(content.count(sign) for sign in (b",", b"[", b"{"))
    n_members = content.count(b":")
    for rule, found, most, what in (
        ("J-007", n_values, MAX_VALUES, "values (commas and opening brackets)"),
        ("J-008", n_members, MAX_MEMBERS, "members of objects (colons)"),
        ("J-009", _text_nbytes(content), MAX_TEXT_NBYTES, "bytes of decoded text"),
    ):
        if found > most:
            message = f"more {what} than the limit"
            raise LimitError(
                file, Finding(rule, message, offset=offset, found=found, expected=f"{most} or fewer")
            )


def _text_nbytes(content: bytes) -> int:
    """The memory that the text takes when it is decoded: as Python keeps it, by its widest character."""
    if content.isascii():
        return len(content)
    n_characters, widest = 0, 0
    for start in range(0, len(content), _PIECE):
        piece = np.frombuffer(content, np.uint8, min(_PIECE, len(content) - start), start)
        n_characters += int(np.count_nonzero((piece & 0xC0) != 0x80))
        widest = max(widest, int(piece.max()))
    return n_characters * (4 if widest >= 0xF0 else 2 if widest >= 0xC4 else 1)


def _decoded(content: bytes, file: Path, offset: int) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(file, Finding("J-001", "not UTF-8", offset=offset + error.start)) from None


def _has_half_a_pair(document: Any) -> bool:
    """Whether any string in a document holds half a surrogate pair."""
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            if not value.isascii() and _HALF.search(value):
                return True
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            waiting.extend(value)
            waiting.extend(value.values())
    return False


def _parsed(text: str, file: Path, offset: int, allow_infinity: bool) -> Any:
    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise MalformedError(
                file, Finding("J-003", "an object has the same key twice", json_path(twice), offset)
            )
        return result

    def integer(digits: str) -> int | float:
        return -0.0 if digits == "-0" else int(of_few(digits))

    def real(digits: str) -> float:
        value = float(of_few(digits))
        if not math.isfinite(value):
            raise LimitError(
                file, Finding("J-004", "a number outside the range of float64", offset=offset, found=digits)
            )
        return value

    def of_few(digits: str) -> str:
        if len(digits) > _MAX_DIGITS:
            message = f"a number of {len(digits)} digits"
            raise LimitError(
                file, Finding("J-004", message, offset=offset, expected=f"at most {_MAX_DIGITS}")
            )
        return digits

    def constant(word: str) -> float:
        if not allow_infinity:
            raise MalformedError(file, Finding("J-002", f"{word} is not JSON", offset=offset))
        return float(word)

    try:
        document = json.loads(
            text, object_pairs_hook=members, parse_int=integer, parse_float=real, parse_constant=constant
        )
        if _ESCAPED_HALF.search(text) and _has_half_a_pair(document):  # UTF-8 itself cannot hold one
            raise MalformedError(
                file, Finding("J-006", "a string holds one half of a surrogate pair", offset=offset)
            )
    except json.JSONDecodeError as error:
        where = offset + len(text[: error.pos].encode())
        message = f"not JSON: {_explained(text, error)}"
        raise MalformedError(file, Finding("J-002", message, offset=where)) from None
    except RecursionError:
        raise LimitError(file, Finding("J-005", "nested too deeply", offset=offset)) from None
    return document


def _explained(text: str, error: json.JSONDecodeError) -> str:
    """What the parser says, and what happened to a file that is another one, empty, or cut short."""
    if not text.strip():
        return "the file is empty, as an interrupted download leaves it; fetch it again"
    if text.startswith("\ufeff"):
        return "it begins with a byte order mark, as some editors write it; save it as UTF-8 without one"
    is_json = text.lstrip()[:1] in ("{", "[")
    if not is_json and (hint := looks_like(text[:512].encode("utf-8", "surrogatepass")[:512])):
        return f"{error.msg}{hint}"
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
        return f"{error.msg}; it ends too early, as after an interrupted download: fetch it again"
    return error.msg
