r"""Which of llama.cpp's pre-tokenizers a tokenizer.json describes.

llama.cpp names its pre-tokenizers after models, and its converter finds the name by a hash of the tokens of a
test string, so it recognizes only known vocabularies. Here the definition itself decides: a `pre_tokenizer`
is reduced to the regular expressions that it splits by, in order, and looked up in a table of those that
llama.cpp implements (src/llama-vocab.cpp, llm_tokenizer_bpe; if llama.cpp had to rewrite an expression, the
table has the original, which its comments quote). Names with the same expressions and flags are aliases; the
table has the best known of each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from gguflow.errors import Finding, UnsupportedError
from gguflow.models.documents import Document
from gguflow.models.tokenizers.special_tokens import steps

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + _WORDS + r"|\p{N}{1,3}" + _REST
QWEN2 = CONTRACTIONS + _WORDS + r"|\p{N}" + _REST
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?"
    + UPPER
    + "*"
    + LOWER
    + "+{0}|"
    + r"[^\r\n\p{L}\p{N}]?"
    + UPPER
    + "+"
    + LOWER
    + "*{0}"
)
_SLASHED_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_ASCII_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_DEEPSEEK3 = (
    _ASCII_PUNCTUATION
    + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BLOOM = " ?[^(\\s|[.,!?…。，、।۔،])]+"  # noqa: RUF001 - punctuation of several scripts
_JAIS2_SPACES = (
    "".join(rf"|\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4)) + r"|\s{1,2}(?!\S)|\s{1}"
)


@dataclass(frozen=True)
class PreTokenizer:
    """A pre-tokenizer of llama.cpp.

    name: the value of `tokenizer.ggml.pre`.
    regexes: applied in order.
    ignore_merges: whether a word that is a token is not merged; None if both are accepted.
    """

    name: str
    regexes: tuple[str, ...]
    ignore_merges: bool | None = None


PRE_TOKENIZERS = (
    PreTokenizer("gpt-2", (GPT2,)),
    PreTokenizer("llama-bpe", (LLAMA3,), ignore_merges=True),
    PreTokenizer("dbrx", (LLAMA3,), ignore_merges=False),
    PreTokenizer("qwen2", (QWEN2,)),
    PreTokenizer(
        "qwen35",
        (QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"\s\p{L}\p{N}", r"\s\p{L}\p{M}\p{N}"),),
    ),
    PreTokenizer("smollm", (r"\p{N}", GPT2)),
    PreTokenizer(
        "deepseek-coder",
        (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", r"\p{N}"),
    ),
    PreTokenizer("deepseek-v3", (r"\p{N}{1,3}", _CJK, _DEEPSEEK3)),
    PreTokenizer("tekken", (_CASED.replace("{0}", "") + r"|\p{N}" + _SLASHED_REST,)),
    PreTokenizer("gpt-4o", (_CASED.replace("{0}", CONTRACTIONS + "?") + r"|\p{N}{1,3}" + _SLASHED_REST,)),
    PreTokenizer(
        "bailingmoe", (CONTRACTIONS + _WORDS + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",)
    ),
    PreTokenizer(
        "seed-coder", (CONTRACTIONS + _WORDS + r"|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",)
    ),
    PreTokenizer("ufakzeka", (_WORDS[1:] + r"|\p{N}" + _REST,)),
    PreTokenizer("minicpm5", (r"\p{N}{1,3}", CONTRACTIONS + _WORDS + r"|\p{N}+" + _REST), ignore_merges=True),
    PreTokenizer(
        "jais-2",
        (CONTRACTIONS + _WORDS + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+" + _JAIS2_SPACES,),
    ),
    PreTokenizer("bloom", (_BLOOM,)),
    PreTokenizer("viking", (_BLOOM, r"\p{N}")),
    PreTokenizer("falcon", ("punctuation", GPT2, "[0-9][0-9][0-9]")),
    PreTokenizer("superbpe", (r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    PreTokenizer("laguna", (r"[^\n]+|[\n]+", QWEN2)),
)
"""Looked up by regexes and flags; the first match counts. `falcon` begins with the punctuation class of the
tokenizers library.
"""


def pre_tokenizer_name(tokenizer: Document) -> str:
    """llama.cpp's name for the pre-tokenizer of a tokenizer.json.

    Raises UnsupportedError (M-024), which shows the definition, if llama.cpp has no equivalent, and
    InvalidError (M-003).
    """
    regexes = _normal_form(tokenizer)
    ignore_merges = tokenizer.section("model").flag("ignore_merges", False)
    for known in PRE_TOKENIZERS:
        if known.regexes == regexes and known.ignore_merges in (None, ignore_merges):
            return known.name
    raise _unknown(tokenizer, "pre_tokenizer")


def _normal_form(tokenizer: Document) -> tuple[str, ...]:
    """The regular expressions that split a text. Raises UnsupportedError (M-024) for any other step."""
    for step in steps(tokenizer.section("normalizer"), "normalizers"):
        if (
            step.text("type", "") != "NFC"
        ):  # llama.cpp does not compose, but its converter accepts such tokenizers
            raise _unknown(tokenizer, "normalizer")
    regexes: list[str] = []
    for step in steps(tokenizer.section("pre_tokenizer"), "pretokenizers"):
        regex = _regex(step)
        if regex is None:
            raise _unknown(tokenizer, "pre_tokenizer")
        if regex:
            regexes.append(regex)
    return tuple(regexes)


def _regex(step: Document) -> str | None:
    """The regular expression that a step splits by; "" if it does not split, None for any other step."""
    kind = step.text("type", "")
    if kind == "ByteLevel" and not step.flag("add_prefix_space", True):
        return GPT2 if step.flag("use_regex", True) else ""
    if kind == "Digits":
        return r"\p{N}" if step.flag("individual_digits", False) else r"\p{N}+"
    if kind == "Punctuation" and step.text("behavior", "Isolated") == "Contiguous":
        return "punctuation"
    if kind == "Split" and (step.text("behavior", ""), step.flag("invert", False)) in (
        ("Isolated", False),
        ("Removed", True),
    ):
        pattern = step.section("pattern")
        return _rewritten(pattern.text("Regex")) if "Regex" in pattern else None
    return None


def _rewritten(regex: str) -> str:
    """Normalize spellings that differ between tokenizers: escapes, contractions, possessive quantifiers."""
    regex = regex.replace("\r", r"\r").replace("\n", r"\n")
    for spelling in ("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", "'(?i:[sdmt]|ll|ve|re)"):
        regex = regex.replace(spelling, CONTRACTIONS)
    return regex.replace("?+", "?").replace("++", "+")


def _unknown(tokenizer: Document, part: str) -> UnsupportedError:
    shown = json.dumps(tokenizer.section(part).values, ensure_ascii=False)
    known = ", ".join(known.name for known in PRE_TOKENIZERS)
    message = f"llama.cpp has no {part.replace('_', '-')} like this one (known pre-tokenizers: {known})"
    return UnsupportedError(tokenizer.file, Finding("M-024", message, f"$.{part}", found=shown))
