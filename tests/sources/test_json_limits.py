"""JSON that would take memory or time out of proportion is refused before it is parsed."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from gguflow.errors import FileError, LimitError, MalformedError
from gguflow.models.documents import Document
from gguflow.sources import strict_json
from gguflow.sources.safetensors import read_header
from gguflow.validation import examine

FILE = Path("file.json")
MANY = strict_json.MAX_VALUES


def values(item: str, count: int) -> bytes:
    return f"[{','.join([item] * count)}]".encode()


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "lists": (lambda: values("[]", MANY // 2 + 1), "J-007"),
    "objects": (lambda: values("{}", MANY // 2 + 1), "J-007"),
    "numbers": (lambda: values("1", MANY + 1), "J-007"),
    "nothing but brackets": (lambda: b"[" * (MANY + 1), "J-007"),
    "deep": (lambda: b"[" * MANY, "J-005"),
    "members": (lambda: values('{"a":1}', strict_json.MAX_MEMBERS + 1), "J-008"),
    "colons in a string": (lambda: b'"' + b":" * (strict_json.MAX_MEMBERS + 1) + b'"', "J-008"),
    "a wide character in a long text": (
        lambda: b'"\xf0\x9f\x98\x80' + b"a" * (strict_json.MAX_TEXT_NBYTES // 4) + b'"',
        "J-009",
    ),
    "digits": (lambda: b"1" * 8_000_000, "J-004"),
    "digits behind the point": (lambda: b"0." + b"1" * 8_000_000, "J-004"),
    "an exponent": (lambda: b"1e" + b"9" * 8_000_000, "J-004"),
    "half a pair behind many": (lambda: b'"' + b"\\ud83d\\ude00" * 500_000 + b'\\ud800"', "J-006"),
    "open strings": (lambda: b'"' + "é".encode() * 4_000_000, "J-002"),
}


@pytest.mark.parametrize(("content", "rule"), REFUSED.values(), ids=REFUSED)
def test_hostile_json_ends_soon(content: Callable[[], bytes], rule: str) -> None:
    made = content()
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(FileError) as caught:
        strict_json.parse(made, FILE)
    assert time.process_time() - start < 2
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
    assert caught.value.finding.rule == rule


AT_THE_LIMIT: dict[str, tuple[str, object]] = {
    "values": ("[[],{},1]", [[], {}, 1]),
    "members": ('{"a":1,"b":":"}', {"a": 1, "b": ":"}),
    "text": ('"😀23456"', "😀23456"),
    "whole pairs": ('"\\ud83d\\ude00"', "😀"),
    "a backslash before what looks like half a pair": ('"\\\\ud83d"', "\\ud83d"),
}


@pytest.mark.parametrize(("text", "expected"), AT_THE_LIMIT.values(), ids=AT_THE_LIMIT)
def test_what_reaches_a_limit_is_read(text: str, expected: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict_json, "MAX_VALUES", 5)
    monkeypatch.setattr(strict_json, "MAX_MEMBERS", 3)
    monkeypatch.setattr(strict_json, "MAX_TEXT_NBYTES", 32)
    assert strict_json.parse(text.encode(), FILE) == expected


HALVES = {
    "in a key": '{"\\ud800": 1}',
    "in a key inside": '[{"a": {"\\udfff": 1}}]',
    "in a value": '{"a": [["\\ude00\\ud83d"]]}',
    "alone": '"\\uD800"',
    "behind a whole pair": '["\\ud83d\\ude00", "\\ude00"]',
}


@pytest.mark.parametrize("text", HALVES.values(), ids=HALVES)
def test_half_a_pair_is_found_wherever_it_is(text: str) -> None:
    with pytest.raises(FileError, match="J-006"):
        strict_json.parse(text.encode(), FILE)


WIDTHS = {"ASCII": "a", "Latin-1": "é", "two bytes": "▁", "four bytes": "😀"}


@pytest.mark.parametrize("character", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("length", [1, 1000, 2**20 + 3])
def test_the_size_of_the_text_is_what_python_takes(character: str, length: int) -> None:
    text = "a" * length + character
    nbytes = strict_json._text_nbytes(text.encode())
    assert nbytes == len(text) * {"a": 1, "é": 1, "▁": 2, "😀": 4}[character]


def test_side_files_and_headers_have_the_same_limits(tmp_path: Path) -> None:
    """Whoever reads JSON: tokenizer.json and its like, and the header of a safetensors file."""
    content = values("{}", MANY // 2 + 1)
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(LimitError, match="J-007"):
        Document.read(tmp_path, "tokenizer.json")
    header = b'{"a":' + content + b"}"
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(LimitError, match="J-007"):
        read_header(tmp_path / "model.safetensors")
    assert examine(tmp_path / "model.safetensors")[0] == "limit"


def test_a_vocabulary_of_half_a_million_is_read() -> None:
    """As the largest known tokenizer.json has it, and more: tokens with numbers, merges as pairs."""
    document = {
        "vocab": {f"▁token{i}😀": i for i in range(500_000)},
        "merges": [[f"▁{i}", "x"] for i in range(500_000)],
    }
    content = json.dumps(document, ensure_ascii=False).encode()
    assert len(strict_json.parse(content, FILE)["vocab"]) == 500_000


def test_a_byte_order_mark_is_named(tmp_path: Path) -> None:
    with pytest.raises(MalformedError, match="J-002: not JSON: it begins with a byte order mark"):
        strict_json.parse(b"\xef\xbb\xbf{}", tmp_path / "config.json")
