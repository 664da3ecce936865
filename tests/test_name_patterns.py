"""Patterns of --tensor-type: they find what the matcher of Python finds, none takes long, and what is not
supported is refused by name. Random ones are compared in tests/test_fuzz.py.
"""

from __future__ import annotations

import re
import time
import warnings

import pytest

from gguflow.errors import UsageError
from gguflow.name_patterns import MAX_LENGTH, NamePattern

NAMES = (
    "",
    "output.weight",
    "blk.0.attn_q.weight",
    "blk.17.ffn_down_exps.weight",
    "BLK.3.ATTN_V.WEIGHT",
    "token_embd.weight\n",
    "a]b-c^d{2}$",
    "\u017ftraße.K",
)

PATTERNS = (
    *(
        "attn_v",
        "ATTN_V",
        "^blk",
        "weight$",
        r"blk\.(\d|1[0-7])\.",
        r"blk\.[0-9]+\.ffn_(up|down|gate)",
        ".",
        "",
    ),
    *(
        r"\bffn",
        r"ffn\B",
        "a.*b.*c",
        "(attn|ffn)_.*weight",
        "x?",
        "(?:ab)?c",
        "[^a-z.]",
        "[]a]",
        "[^]a]b",
        r"[\]b]",
    ),
    *(
        "(?P<layer>[0-9]+)",
        r"blk\.(?!0\.)",
        r"(?=.*weight)blk",
        "l{2}",
        "a{}",
        "a{x}",
        "a{0}b",
        "s{2,}|t{,2}e",
    ),
    *(
        "a*?b",
        "(a*)*b",
        "()",
        "(|a)b",
        "(|a){3}t",
        r"\A\w+",
        r"\Z",
        "[a-c]{1,2}",
        r"\x62\154k",
        "s",
        "k",
        r"\S\d\.",
        "[.]",
    ),
    *("(^b|t)l?", "(^|e)+x", "((a|t)*|w)+h", r"^(?:(?!ffn).)*$", "a{2", "}", "]"),
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_find_what_python_finds(pattern: str) -> None:
    expected = re.compile(pattern, re.IGNORECASE | re.ASCII)
    assert [NamePattern(pattern).search(name) for name in NAMES] == [
        expected.search(name) is not None for name in NAMES
    ]


EXPLOSIVE = {
    "nested": "(a+)+b",
    "alternatives": "(a|a)*b",
    "optional": "a?" * 60 + "b" + "a" * 60,
    "many stars": "a*" * 60 + "b",
    "four deep": "((((a*)*)*)*)b",
    "large counts": "(a{1000}){1000}",
    "optional, large count": "(a?){99999}b",
    "three looks ahead": "(?=.*(?=.*(?=.*b)))b",
    "as long as may be": "(a|b)*" * (MAX_LENGTH // 6),
}


@pytest.mark.parametrize("pattern", EXPLOSIVE.values(), ids=EXPLOSIVE)
def test_no_pattern_takes_long(pattern: str) -> None:
    """Names of 60 characters, with which Python's matcher would take years for most of these."""
    compiled = NamePattern(pattern)
    started = time.process_time()
    for i in range(20):
        compiled.search("a" * 60 + str(i))
    assert time.process_time() - started < 5


REFUSED = {
    "too long": ("a" * (MAX_LENGTH + 1), "at most 1000 characters, not 1001"),
    "3000 brackets": ("(" * 3000 + ")" * 3000, "at most 1000 characters"),
    "450 brackets": ("(" * 450 + ")" * 450, "more than 20 groups inside each other"),
    "a large count": ("a{99999999999}", "the repetition number is too large"),
    "a count of 4301 digits": ("a{" + "9" * 900 + "}", "too large"),
    "five deep": ("(((((a*)*)*)*)*)*", "more than 4 repetitions inside each other"),
    "a group left open": ("(a", "missing ), unterminated subpattern"),
    "a class left open": ("[a", "unterminated character set"),
    "nothing to repeat": ("*", "nothing to repeat"),
    "a back-reference": (r"(a)\1", "a back-reference, at character 4 of"),
    "a named back-reference": ("(?P<n>a)(?P=n)", "a group that is not"),
    "flags": ("(?i)a", "a group that is not"),
    "look-behind": ("(?<=a)b", "a group that is not"),
    "a comment": ("(?#a)b", "a group that is not"),
}


@pytest.mark.parametrize(("pattern", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_patterns(pattern: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        NamePattern(pattern)
    assert message in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("pattern", ["[[a]", "[a||b]", "[a&&b]", "x[[b]y"])
def test_no_pattern_makes_python_warn(pattern: str) -> None:
    """What a class may mean in a later Python is nothing that a user can do something about."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        NamePattern(pattern)
