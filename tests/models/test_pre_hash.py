"""Known vocabularies, recognized by the SHA-256 of what they make of one text; and the expressions with which
tokenizer.json splits a text, in bounded time whatever they are.
"""

from __future__ import annotations

import contextlib
import re
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguflow.models.documents import Document
from gguflow.models.tokenizers.encoding.expressions import Expression, ExpressionError
from gguflow.models.tokenizers.encoding.pipeline import Added, NotUnderstoodError, encode
from gguflow.models.tokenizers.pre_hashes import CHECK_TEXT, PRE_NAMES

MAX_SECONDS = 5.0
"""What a hostile expression may take, on a busy machine."""


def found(expression: str, text: str) -> list[str]:
    return [text[first:last] for first, last in Expression(expression).matches(text)]


@pytest.mark.parametrize(
    ("expression", "text", "expected"),
    [
        ("a|ab", "abab", ["a", "a"]),
        ("(?:ab|a)b?", "abb ab", ["abb", "ab"]),
        (r"\p{L}+", "añ1жя中", ["añ", "жя中"]),
        (r"\P{L}+|\p{^N}", "ab1", ["a", "b", "1"]),
        (r"\p{N}{1,3}", "12345", ["123", "45"]),
        (r"a{2}", "aaaaa", ["aa", "aa"]),
        (r"a{2,}", "aaaaa", ["aaaaa"]),
        (r"a{,2}b", "aaab", ["aab"]),
        (r"a+?", "aaa", ["a", "a", "a"]),
        (r"a++a", "aaa", []),
        (r"(?>a+)a|b", "aab", ["b"]),
        (r"\s+(?!\S)|\s+", "a  b", [" ", " "]),
        (r"(?<=a)b|(?<!a)c", "abac", ["b"]),
        (r"(?i:'s|'LL)", "'S'll'x", ["'S", "'ll"]),
        (r"(?i)ab(?-i:c)", "ABc aBC", ["ABc"]),
        (r"[^\r\n\p{L}\p{N}]?\p{L}+", " ab\ncd", [" ab", "cd"]),
        (r"[a-c&&[^b]]+", "abc", ["a", "c"]),
        (r"[a\-\]\x41\u0042\x{43}]+", "a-]ABCd", ["a-]ABC"]),
        (r"[]a]+|[-b]", "]a-b", ["]a", "-", "b"]),
        (r"[^(\s|[.,!?])]+", "ab(c d!e", ["ab", "c", "d", "e"]),
        (r"\d{1,3}(?=(?:\d{3})*\b)", "1234567 12", ["1", "234", "567", "12"]),
        (r"\s+$", "a \nb  ", [" ", "  "]),
        (r"^.", "ab\ncd", ["a", "c"]),
        (r"\p{Han}+", "a中文b", ["中文"]),
        (r"(?=(\d{3})+(?!\d))", "12345", [""]),
        ("", "ab", ["", "", ""]),
    ],
)
def test_matches(expression: str, text: str, expected: list[str]) -> None:
    assert found(expression, text) == expected


@pytest.mark.parametrize(
    "expression",
    [
        *(
            "(a+)+$",
            "(a*)*b",
            "(?:a|aa)+$",
            "(?:a?){200}b",
            "(" * 60,
            "[" * 60,
            "a{",
            "a{1",
            "a{2,1}",
            "[a",
            "*",
        ),
        *("(?P<x>a)", r"\1", r"\p{Greek}", "[[:alpha:]]", "a" + "+" * 99, "(?:(?:a{999}){999}){999}", "a)"),
        *(r"\x{110000}", r"\x{}", r"\p{L", "[b-a]", "a{99999}", "\\", "(?", r"\uZZZZ"),
    ],
)
def test_expressions_that_are_refused(expression: str) -> None:
    """They are malformed, not understood, or would take for ever."""
    start = time.monotonic()
    with pytest.raises(ExpressionError):
        list(Expression(expression).matches("a" * 400 + "c"))
    assert time.monotonic() - start < MAX_SECONDS


PARTS = st.sampled_from(
    [
        "a",
        "b",
        " ",
        ".",
        "[ab]",
        "[^a]",
        "(?:",
        "(?=",
        "(?!",
        ")",
        "|",
        "*",
        "+",
        "?",
        "{2}",
        "{1,3}",
        r"\s",
        r"\d",
    ]
)


@given(st.lists(PARTS, max_size=10).map("".join), st.text("ab 1", max_size=12))
def test_expressions_match_as_those_of_python(expression: str, text: str) -> None:
    """Where Python's `re` takes them, of the parts that mean the same in both."""
    if re.search(r"[*+?}][*+?{]", expression) or re.search(r"\(\?[=!:][^a-z]*\)?[*+?{]", expression):
        return  # possessive, lazy or repeated empty matches: they differ
    try:
        expected = re.compile(expression)
    except re.error:
        return
    spans = [match.span() for match in expected.finditer(text)]
    if any(first == last for first, last in spans):
        return  # Python goes on at the same place
    with contextlib.suppress(ExpressionError):
        assert list(Expression(expression).matches(text)) == spans


@given(st.text("ab[](){}^$.*+?|\\pPLNusdx&-:=!<>,0123", max_size=40))
def test_any_expression_ends(expression: str) -> None:
    start = time.monotonic()
    with contextlib.suppress(ExpressionError):
        list(Expression(expression).matches("ab 12 " * 40))
    assert time.monotonic() - start < MAX_SECONDS


def tokenizer(**parts: Any) -> Document:
    return Document(Path("tokenizer.json"), parts)


LETTERS = {"type": "BPE", "vocab": {}, "merges": [], "unk_token": "?"}
IDS = {"a": 0, "b": 1, "?": 2, " ": 3, "##b": 4, "ab": 5, ".": 6}


@pytest.mark.parametrize(
    ("parts", "added", "text", "expected"),
    [
        ({"model": LETTERS}, (), "aab", [0, 0, 1]),
        ({"model": LETTERS}, (), "axxb", [0, 2, 2, 1]),
        ({"model": LETTERS | {"fuse_unk": True}}, (), "axxb", [0, 2, 1]),
        ({"model": LETTERS | {"merges": ["a b"]}}, (), "abb", [5, 1]),
        ({"model": LETTERS | {"ignore_merges": True}}, (), "ab", [5]),
        ({"model": {"type": "WordPiece", "unk_token": "?"}}, (), "ab", [5]),
        ({"model": {"type": "WordPiece", "unk_token": "?"}}, (), "bb", [1, 4]),
        ({"model": {"type": "WordPiece", "unk_token": "?"}}, (), "ba", [2]),
        ({"model": LETTERS}, ("<x>",), "a<x>b", [0, 9, 1]),
        ({"model": LETTERS, "normalizer": {"type": "Lowercase"}}, (), "AB", [0, 1]),
        ({"model": LETTERS, "normalizer": {"type": "Lowercase"}}, ("<X>",), "A<X>", [0, 9]),
        (
            {
                "model": LETTERS,
                "pre_tokenizer": {"type": "Split", "behavior": "Removed", "pattern": {"String": "b"}},
            },
            (),
            "abab",
            [0, 0],
        ),
        (
            {
                "model": {"type": "WordPiece", "unk_token": "?"},
                "normalizer": {"type": "BertNormalizer"},
                "pre_tokenizer": {"type": "BertPreTokenizer"},
            },
            (),
            "ÁB. a\u200d",
            [5, 6, 0],
        ),
    ],
)
def test_encoding(parts: dict[str, Any], added: tuple[str, ...], text: str, expected: list[int]) -> None:
    tokens = [Added(9, token, False, False, False, False) for token in added]
    assert encode(tokenizer(**parts), IDS, tokens, text, prefix_space=False) == expected


@pytest.mark.parametrize(
    "parts",
    [
        {"model": {"type": "Unigram"}},
        {"model": LETTERS, "normalizer": {"type": "Precompiled"}},
        {"model": LETTERS, "pre_tokenizer": {"type": "UnicodeScripts"}},
        {"model": LETTERS, "pre_tokenizer": {"type": "Split", "behavior": "?", "pattern": {"String": "a"}}},
        {
            "model": LETTERS,
            "normalizer": {
                "type": "Sequence",
                "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 60,
            },
        },
    ],
)
def test_tokenizers_that_are_not_understood(parts: dict[str, Any]) -> None:
    with pytest.raises(NotUnderstoodError):
        encode(tokenizer(**parts), IDS, [], "ab", prefix_space=False)


def test_the_table_is_that_of_the_converter() -> None:
    """Its form; tools/make_pre_hashes --check compares it with the converter."""
    assert len(PRE_NAMES) == 95
    assert all(re.fullmatch("[0-9a-f]{64}", key) and name for key, name in PRE_NAMES.items())
    assert {"llama-bpe", "qwen2", "jina-v2-en", "olmo", "kimi-k2"} <= set(PRE_NAMES.values())
    assert unicodedata.is_normalized("NFC", CHECK_TEXT)
