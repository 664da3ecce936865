r"""The pre-tokenizers that `tokenizer.ggml.pre` names: regular expressions that split a text into words.

The expressions use Unicode categories (`\p{L}`), which Python's `re` does not support. So a text is folded
first, character by character: a non-ASCII letter becomes a placeholder for its category, non-ASCII white
space a vertical tab; in the expression, a category becomes its ASCII members and its placeholders. The folded
text is split at the same positions as the text. (llama.cpp folds too: src/unicode.cpp, unicode_regex_split.)
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from gguflow.models.tokenizers.pre_tokenizers import GPT2, LLAMA3, LOWER, PRE_TOKENIZERS, QWEN2, UPPER

_CATEGORIES = {"L": "ultmo", "M": "nce", "N": "dlo", "P": "cdseifo", "S": "mcko", "Z": "slp", "C": "cfson"}
_STAND_INS = {
    category: chr(0xE000 + i)
    for i, category in enumerate(major + minor for major, minors in _CATEGORIES.items() for minor in minors)
}
_WHITE_SPACE = frozenset(
    "\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
"""Non-ASCII characters with Unicode's property White_Space."""
_SEPARATORS = frozenset("\x1c\x1d\x1e\x1f")
r"""White space in Python's `\s` only."""


def _category(character: str) -> str:
    """The category; characters too new for Python are symbols among emoji, or letters among ideographs."""
    category = unicodedata.category(character)
    if category != "Cn":
        return category
    return (
        "So"
        if "\U0001f000" <= character <= "\U0001faff"
        else "Lo"
        if "\U00020000" <= character <= "\U0003fffd"
        else category
    )


class _Folding(dict[int, str]):
    """A table for str.translate, filled on demand."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if character in _WHITE_SPACE:
            folded = "\v"
        elif code < 128 and character not in _SEPARATORS:
            folded = character
        else:
            folded = _STAND_INS[_category(character)]
        self[code] = folded
        return folded


_FOLDING = _Folding()
_SPACING = str.maketrans(dict.fromkeys(_WHITE_SPACE, "\v"))
"""For expressions that contain non-ASCII characters (CJK): folds only white space, which they do not use."""


@functools.cache
def _members(category: str) -> str:
    """The characters of folded text, for brackets, in a category (L) or a subcategory (Lu)."""
    in_ascii = [
        re.escape(chr(code)) for code in range(128) if unicodedata.category(chr(code)).startswith(category)
    ]
    return "".join(
        in_ascii + [stand_in for name, stand_in in _STAND_INS.items() if name.startswith(category)]
    )


@functools.cache
def _compile(expression: str) -> re.Pattern[str]:
    """Compile an expression to match folded text."""
    parts: list[str] = []
    is_inside = False
    for part in re.findall(r"\\p\{\w+\}|\\.|\[|\]|[^\\\[\]]+", expression):
        if part.startswith(r"\p{"):
            members = _members(part[3:-1])
            parts.append(members if is_inside else f"[{members}]")
        else:
            is_inside = part == "[" or (is_inside and part != "]")
            parts.append(part)
    return re.compile("".join(parts))


@dataclass(frozen=True)
class Splitter:
    """A pre-tokenizer.

    expressions: applied in order, each to the pieces that the previous ones leave.
    ignores_merges: whether a word that is a token is not merged.
    adds_bos: whether a text gets a first token if the file does not say.
    """

    expressions: tuple[str, ...]
    ignores_merges: bool = False
    adds_bos: bool = False

    def words(self, text: str) -> list[str]:
        """Split a text: what an expression matches is a word, and so is what lies between two matches."""
        folded, spaced = text.translate(_FOLDING), text.translate(_SPACING)
        spans = [(0, len(text))]
        for expression in self.expressions:
            subject = folded if expression.isascii() else spaced
            spans = [
                span for first, last in spans for span in _cut(_compile(expression), subject, first, last)
            ]
        return [text[first:last] for first, last in spans]


def _cut(pattern: re.Pattern[str], subject: str, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Split a span at the beginning and end of every match; the pattern does not see outside of it."""
    position = first
    for match in pattern.finditer(subject, first, last):
        if match.start() > position:
            yield position, match.start()
        if match.end() > match.start():
            yield match.start(), match.end()
        position = match.end()
    if position < last:
        yield position, last


_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")
_DEFINED = {known.name: known.regexes for known in PRE_TOKENIZERS}


def _by_case(name: str) -> tuple[str, ...]:
    """A case-sensitive definition as in llama.cpp: non-ASCII letters have both cases, marks have none."""
    return tuple(
        regex.replace(UPPER, r"(?:(?![a-z])\p{L})").replace(LOWER, r"(?:(?![A-Z])\p{L})")
        for regex in _DEFINED[name]
    )


_FAMILIES: tuple[tuple[str, Splitter], ...] = (
    ("default", Splitter(_DEFAULT)),
    (
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
        Splitter((LLAMA3,), ignores_merges=True, adds_bos=True),
    ),
    ("dbrx smaug-bpe chatglm-bpe", Splitter((LLAMA3,))),
    ("glm4 glm5", Splitter((LLAMA3,), ignores_merges=True)),
    (
        "gpt-2 phi-2 jina-es jina-de gigachat a.x-4.0 mellum mpt olmo jais trillion granite-docling exaone4",
        Splitter((GPT2,)),
    ),
    ("smollm starcoder refact command-r codeshell exaone minerva-7b mellum2", Splitter((r"\p{N}", GPT2))),
    ("qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2", Splitter((QWEN2,))),
    ("deepseek-v3 hunyuan-dense joyai-llm hy_v4", Splitter(_DEFINED["deepseek-v3"])),
    ("bailingmoe bailingmoe2 llada-moe", Splitter(_DEFINED["bailingmoe"])),
    ("tekken", Splitter(_by_case("tekken"), ignores_merges=True, adds_bos=True)),
    ("gpt-4o llama4 kanana2 talkie minimax-m2", Splitter(_by_case("gpt-4o"))),
    ("minicpm5", Splitter(_DEFINED["minicpm5"], ignores_merges=True)),
    *(
        (name, Splitter(_DEFINED[name]))
        for name in ("qwen35", "deepseek-coder", "seed-coder", "ufakzeka", "jais-2", "laguna")
    ),
)
SPLITTERS = {name: splitter for names, splitter in _FAMILIES for name in names.split()}
"""By `tokenizer.ggml.pre`, from llama.cpp's src/llama-vocab.cpp; names on one line mean the same."""
