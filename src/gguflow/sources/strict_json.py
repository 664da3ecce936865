"""JSON of unknown origin: read whole or refused, with nothing in it that two readers could take for two
things. Rules J-001 to J-006.

Python's own parser takes NaN, keeps the last of two equal keys, reads 1e400 as infinity and lone surrogates
as text. Each of these is refused here.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from gguflow.container.sniffing import looks_like
from gguflow.errors import Finding, LimitError, MalformedError
from gguflow.platform import storage_errors
from gguflow.sources.base import json_path, require_regular

_MAX_DIGITS = 400
"""Of one number: float64 ends at 309, and Python refuses integers of more than 4300."""


def read(path: Path, max_nbytes: int, rule: str, allow_infinity: bool = False) -> Any:
    """Parse a file. rule: the id of the rule that sets max_nbytes.

    Raises InvalidError (S-001), LimitError, MalformedError, StorageError.
    """
    require_regular(path)
    with storage_errors("read", path), open(path, "rb") as file:
        content = file.read(max_nbytes + 1)
    if len(content) > max_nbytes:
        raise LimitError(path, Finding(rule, f"larger than the {max_nbytes} bytes that such a file may have"))
    return parse(content, path, allow_infinity=allow_infinity)


def parse(content: bytes, file: Path, offset: int = 0, allow_infinity: bool = False) -> Any:
    """The document in `content`, which begins `offset` bytes into `file`: objects are dicts, integers int,
    other numbers float.

    -0 becomes a float, as it is no integer. allow_infinity: NaN and Infinity are taken, as Python writes them
    into configurations.
    Raises MalformedError, or LimitError where nesting or a number is too large to be read.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(file, Finding("J-001", "not UTF-8", offset=offset + error.start)) from None

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
        if len(digits) > _MAX_DIGITS:
            raise LimitError(
                file,
                Finding(
                    "J-004",
                    f"a number of {len(digits)} digits",
                    offset=offset,
                    expected=f"at most {_MAX_DIGITS}",
                ),
            )
        return -0.0 if digits == "-0" else int(digits)

    def real(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise LimitError(
                file, Finding("J-004", "a number outside the range of float64", offset=offset, found=digits)
            )
        return value

    def constant(word: str) -> float:
        if not allow_infinity:
            raise MalformedError(file, Finding("J-002", f"{word} is not JSON", offset=offset))
        return float(word)

    try:
        document = json.loads(
            text, object_pairs_hook=members, parse_int=integer, parse_float=real, parse_constant=constant
        )
        if "\\u" in text:  # the only way to half a surrogate pair: UTF-8 itself cannot hold one
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        where = offset + len(text[: error.pos].encode())
        message = f"not JSON: {_explained(content, text, error)}"
        raise MalformedError(file, Finding("J-002", message, offset=where)) from None
    except UnicodeEncodeError:
        raise MalformedError(
            file, Finding("J-006", "a string holds one half of a surrogate pair", offset=offset)
        ) from None
    except RecursionError:
        raise LimitError(file, Finding("J-005", "nested too deeply", offset=offset)) from None
    return document


def _explained(content: bytes, text: str, error: json.JSONDecodeError) -> str:
    """What the parser says, and what happened to a file that is another one, empty, or cut short."""
    if not text.strip():
        return "the file is empty, as an interrupted download leaves it; fetch it again"
    if content.lstrip()[:1] not in (b"{", b"[") and (hint := looks_like(content[:512])):
        return f"{error.msg}{hint}"
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
        return f"{error.msg}; it ends too early, as after an interrupted download: fetch it again"
    return error.msg
