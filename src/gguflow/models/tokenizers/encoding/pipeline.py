"""What a tokenizer.json makes of a text: added tokens, normalizer, pre-tokenizer, model and post-processor.

The rules are those of the Hugging Face tokenizers library, for the models that GGUF's tokenizers "gpt2" and
"bert" are made from: BPE and WordPiece. A step that is not understood is an error, never a guess.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gguflow.models.documents import Document
from gguflow.models.tokenizers.encoding.byte_letters import LETTERS
from gguflow.models.tokenizers.encoding.expressions import Expression, ExpressionError
from gguflow.models.tokenizers.encoding.merging import merge
from gguflow.models.tokenizers.pre_tokenizers import GPT2
from gguflow.models.tokenizers.special_tokens import steps
from gguflow.models.tokenizers.tokenizer_json import merge_pairs

MAX_STEPS = 64
"""The limit of steps of a normalizer or pre-tokenizer; each goes over the whole text."""

MAX_TEXT = 1 << 14
"""The limit of characters that normalizers make of a text."""

MAX_LATE = 1 << 13
"""The limit of added tokens that are sought after a normalizer."""

_FORMS: Mapping[str, Literal["NFC", "NFD", "NFKC", "NFKD"]] = {
    "NFC": "NFC",
    "NFD": "NFD",
    "NFKC": "NFKC",
    "NFKD": "NFKD",
}

Span = tuple[int, int]


class NotUnderstoodError(ValueError):
    """A tokenizer with a part that this module does not know, or that takes too long."""


@dataclass(frozen=True)
class Added:
    """An added token as it is matched.

    token: its id.
    text: what is matched.
    takes_left, takes_right: whether it takes the white space beside it.
    is_word: whether it is matched only where no letter or digit is beside it.
    is_normalized: whether it is sought after the normalizer.
    """

    token: int
    text: str
    takes_left: bool
    takes_right: bool
    is_word: bool
    is_normalized: bool

    @classmethod
    def of(cls, entry: Document, token: int) -> Added:
        """From an entry of tokenizer.json or tokenizer_config.json. Raises InvalidError (M-003)."""
        return cls(
            token,
            entry.text("content"),
            entry.flag("lstrip", False),
            entry.flag("rstrip", False),
            entry.flag("single_word", False),
            entry.flag("normalized", not entry.flag("special", False)),
        )


def encode(
    tokenizer: Document, ids: Mapping[str, int], added: Sequence[Added], text: str, *, prefix_space: bool
) -> list[int]:
    """The ids of a text, without what the post-processor adds.

    tokenizer: tokenizer.json.
    ids: of its model's tokens.
    added: the added tokens; those that are not in the text cost next to nothing.
    text: any.
    prefix_space: what a pre-tokenizer ByteLevel (alone, in no sequence) is told about a space in front.

    Raises NotUnderstoodError, and InvalidError (M-003).
    """
    try:
        model = _model(tokenizer.section("model"), ids)
        found: list[int] = []
        late = _late(tokenizer, added, text)
        for raw in _cut(text, [token for token in added if not token.is_normalized]):
            if isinstance(raw, int):
                found.append(raw)
                continue
            for part in _cut(_normalized(tokenizer, raw), late):
                if isinstance(part, int):
                    found.append(part)
                else:
                    for word in _words(tokenizer, part, prefix_space):
                        found += model(word)
    except ExpressionError as error:
        raise NotUnderstoodError(str(error)) from error
    return found


def _late(tokenizer: Document, added: Sequence[Added], text: str) -> list[Added]:
    """The tokens that are sought after the normalizer, as it writes them, without those that cannot occur.

    Raises NotUnderstoodError if there are too many.
    """
    letters = set(text.casefold())
    late = [token for token in added if token.is_normalized and letters & set(token.text.casefold())]
    if not tokenizer.section("normalizer").values:
        return late
    if len(late) > MAX_LATE:
        raise NotUnderstoodError("too many tokens to normalize")
    return [replace(token, text=_normalized(tokenizer, token.text)) for token in late]


def _cut(text: str, added: Sequence[Added]) -> Iterator[str | int]:
    """A text cut at added tokens: the leftmost, and of those that begin together the longest."""
    sought = {token.text: token for token in added if token.text and token.text in text}
    lengths = sorted({len(mark) for mark in sought}, reverse=True)
    start = at = 0
    while at < len(text):
        length = next((n for n in lengths if text[at : at + n] in sought), 0)
        if not length:
            at += 1
            continue
        token = sought[text[at : at + length]]
        first, last = at, at + length
        at = last
        if token.is_word and (text[first - 1 : first].isalnum() or text[last : last + 1].isalnum()):
            continue
        while token.takes_left and first > start and text[first - 1].isspace():
            first -= 1
        while token.takes_right and last < len(text) and text[last].isspace():
            last += 1
        if first > start:
            yield text[start:first]
        yield token.token
        start = at = last
    if start < len(text):
        yield text[start:]


# Normalizers


def _normalized(tokenizer: Document, text: str) -> str:
    for step in _bounded(tokenizer.section("normalizer"), "normalizers"):
        text = _normalize(step, text)
        if len(text) > MAX_TEXT:
            raise NotUnderstoodError("a normalizer that makes texts too long")
    return text


def _bounded(part: Document, key: str) -> Iterator[Document]:
    for index, step in enumerate(steps(part, key)):
        if index == MAX_STEPS:
            raise NotUnderstoodError("too many steps")
        yield step


def _normalize(step: Document, text: str) -> str:
    kind = step.text("type", "")
    if kind in _FORMS:
        return unicodedata.normalize(_FORMS[kind], text)
    if kind == "Lowercase":
        return text.lower()
    if kind == "StripAccents":
        return _without_accents(text)
    if kind == "Prepend":
        return step.text("prepend", "") + text if text else text
    if kind == "Replace":
        return _replaced(step, text)
    if kind == "BertNormalizer":
        return _bert_normalized(step, text)
    raise NotUnderstoodError(f"a normalizer {kind!r}")


def _replaced(step: Document, text: str) -> str:
    pattern, content = step.section("pattern"), step.text("content", "")
    if "String" in pattern and (sought := pattern.text("String")):
        return text.replace(sought, content)
    raise NotUnderstoodError("a replacement by an expression")


def _without_accents(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")


def _bert_normalized(step: Document, text: str) -> str:
    lowercase = step.flag("lowercase", True)
    if step.flag("clean_text", True):
        kept = (c for c in text if c in "\t\n\r" or (unicodedata.category(c)[0] != "C" and c != "\ufffd"))
        text = "".join(" " if c.isspace() else c for c in kept)
    if step.flag("handle_chinese_chars", True):
        text = "".join(f" {c} " if _is_ideograph(c) else c for c in text)
    if step.flag("strip_accents", lowercase):
        text = _without_accents(text)
    return text.lower() if lowercase else text


def _is_ideograph(character: str) -> bool:
    """The ranges that BERT calls Chinese characters."""
    code = ord(character)
    return any(
        low <= code <= high
        for low, high in (
            *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)),
            *((0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
        )
    )


# Pre-tokenizers


def _words(tokenizer: Document, text: str, prefix_space: bool) -> list[str]:
    """The words of a text as the model sees them: with letters for bytes, if the pre-tokenizer says so."""
    whole = tokenizer.section("pre_tokenizer")
    is_alone = whole.text("type", "") == "ByteLevel"
    words = [text]
    for step in _bounded(whole, "pretokenizers"):
        words = [found for word in words for found in _split(step, word, prefix_space if is_alone else None)]
    return [word for word in words if word]


def _split(step: Document, word: str, prefix_space: bool | None) -> list[str]:
    kind = step.text("type", "")
    if kind == "ByteLevel":
        adds_space = step.flag("add_prefix_space", True) if prefix_space is None else prefix_space
        if adds_space and not word.startswith(" "):
            word = " " + word
        parts = _by(GPT2, word) if step.flag("use_regex", True) else [word]
        return ["".join(map(LETTERS.__getitem__, part.encode("utf-8"))) for part in parts]
    if kind == "Split":
        return _by_split(step, word)
    if kind == "Digits":
        return _by(r"\p{N}" if step.flag("individual_digits", False) else r"\p{N}+", word)
    if kind == "Punctuation":
        behavior = step.text("behavior", "Isolated")
        return _behave(word, _single(word, _is_punctuation), behavior)
    if kind == "Whitespace":
        return [word[a:b] for a, b in Expression(r"\w+|[^\w\s]+").matches(word)]
    if kind == "WhitespaceSplit":
        return word.split()
    if kind == "BertPreTokenizer":
        spaced = [part for part in word.split() if part]
        return [p for part in spaced for p in _behave(part, _single(part, _is_punctuation), "Isolated")]
    raise NotUnderstoodError(f"a pre-tokenizer {kind!r}")


def _by_split(step: Document, word: str) -> list[str]:
    pattern, behavior = step.section("pattern"), step.text("behavior", "")
    if "Regex" in pattern:
        found = list(Expression(pattern.text("Regex")).matches(word))
    else:
        sought = pattern.text("String")
        found = [] if not sought else _occurrences(word, sought)
    if step.flag("invert", False):
        found = _between(found, len(word))
    return _behave(word, found, behavior)


def _by(expression: str, word: str) -> list[str]:
    return _behave(word, list(Expression(expression).matches(word)), "Isolated")


def _occurrences(word: str, sought: str) -> list[Span]:
    found: list[Span] = []
    at = word.find(sought)
    while at >= 0:
        found.append((at, at + len(sought)))
        at = word.find(sought, at + len(sought))
    return found


def _single(word: str, is_match: Callable[[str], bool]) -> list[Span]:
    return [(at, at + 1) for at, character in enumerate(word) if is_match(character)]


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] == "P" or character in "$+<=>^`|~"


def _between(found: Sequence[Span], n: int) -> list[Span]:
    """The spans between those found, in a word of n characters."""
    edges = [0, *(edge for span in found for edge in span), n]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a]


def _behave(word: str, found: Sequence[Span], behavior: str) -> list[str]:
    """The parts of a word, whose separators are those found."""
    parts = [(a, b, True) for a, b in found] + [(a, b, False) for a, b in _between(found, len(word))]
    parts = [part for part in sorted(parts) if part[1] > part[0]]
    if behavior == "Removed":
        parts = [part for part in parts if not part[2]]
    elif behavior == "Isolated":
        pass
    elif behavior == "Contiguous":
        parts = _merged(parts, lambda left, right: left == right)
    elif behavior == "MergedWithPrevious":
        parts = _merged(parts, lambda left, right: right and not left)
    elif behavior == "MergedWithNext":
        parts = _merged(parts[::-1], lambda right, left: left and not right)[::-1]
    else:
        raise NotUnderstoodError(f"a behavior {behavior!r}")
    return [word[a:b] for a, b, _ in parts]


def _merged(
    parts: Sequence[tuple[int, int, bool]], joins: Callable[[bool, bool], bool]
) -> list[tuple[int, int, bool]]:
    """Parts with neighbours joined; joins: of whether the part before, and this one, are separators."""
    merged: list[tuple[int, int, bool]] = []
    last = False
    for a, b, is_match in parts:
        if merged and joins(last, is_match):
            merged[-1] = (min(merged[-1][0], a), max(merged[-1][1], b), is_match)
        else:
            merged.append((a, b, is_match))
        last = is_match
    return merged


# Models


def _model(model: Document, ids: Mapping[str, int]) -> Callable[[str], list[int]]:
    """From a word to ids. Raises NotUnderstoodError for a model of another kind."""
    kind = model.text("type", "BPE" if "merges" in model else "WordPiece")
    if kind == "WordPiece":
        return _word_pieces(model, ids)
    if kind != "BPE":
        raise NotUnderstoodError(f"a model {kind!r}")
    if model.text("continuing_subword_prefix", "") or model.text("end_of_word_suffix", ""):
        raise NotUnderstoodError("a model that marks parts of words")
    ranks = {pair: rank for rank, pair in enumerate(merge_pairs(model))}
    whole = model.flag("ignore_merges", False)
    unknown = ids.get(model.text("unk_token", ""))
    by_bytes, fuses = model.flag("byte_fallback", False), model.flag("fuse_unk", False)

    def spelt(symbol: str) -> list[int]:
        if symbol in ids:
            return [ids[symbol]]
        found: list[int] = []
        for character in symbol:
            token = ids.get(character)
            bytes_of = (
                [ids.get(f"<0x{byte:02X}>") for byte in character.encode("utf-8")] if by_bytes else [None]
            )
            known = [byte for byte in bytes_of if byte is not None]
            if token is not None:
                found.append(token)
            elif len(known) == len(bytes_of):
                found += known
            elif unknown is not None and not (fuses and found[-1:] == [unknown]):
                found.append(unknown)
        return found

    def encoded(word: str) -> list[int]:
        if whole and word in ids:
            return [ids[word]]
        found: list[int] = []
        for symbol in merge(word, lambda left, right: ranks.get((left, right))):
            more = spelt(symbol)
            skips = fuses and unknown is not None and found[-1:] == [unknown] and more[:1] == [unknown]
            found += more[1:] if skips else more
        return found

    return encoded


def _word_pieces(model: Document, ids: Mapping[str, int]) -> Callable[[str], list[int]]:
    """WordPiece: the longest token that the rest of a word begins with, each time."""
    prefix = model.text("continuing_subword_prefix", "##")
    most = model.integer("max_input_chars_per_word", 100, minimum=0)
    unknown = ids.get(model.text("unk_token", "[UNK]"))
    longest = max(map(len, ids), default=0)

    def encoded(word: str) -> list[int]:
        found: list[int] = []
        start = 0
        while start < len(word) and len(word) <= most:
            mark = prefix if start else ""
            stops = range(min(len(word), start + longest), start, -1)
            stop = next((stop for stop in stops if mark + word[start:stop] in ids), None)
            if stop is None:
                break
            found.append(ids[mark + word[start:stop]])
            start = stop
        if start < len(word):
            return [] if unknown is None else [unknown]
        return found

    return encoded


# Post-processors


def framed(tokenizer: Document, ids: Sequence[int]) -> list[int]:
    """The ids of a single text with the special tokens that the post-processor adds.

    tokenizer: tokenizer.json.
    ids: of the text.

    Raises NotUnderstoodError, and InvalidError (M-003).
    """
    framed_ids = list(ids)
    for step in _bounded(tokenizer.section("post_processor"), "processors"):
        kind = step.text("type", "")
        if kind == "TemplateProcessing":
            framed_ids = _template(step, framed_ids)
        elif kind in ("RobertaProcessing", "BertProcessing"):
            framed_ids = [_second(step, "cls"), *framed_ids, _second(step, "sep")]
        elif kind != "ByteLevel":
            raise NotUnderstoodError(f"a post-processor {kind!r}")
    return framed_ids


def _second(step: Document, key: str) -> int:
    pair = step.items(key)
    if len(pair) != 2 or not isinstance(pair[1], int) or isinstance(pair[1], bool):
        raise step.wrong(key, pair, "a token and its id")
    return pair[1]


def _template(step: Document, ids: list[int]) -> list[int]:
    found: list[int] = []
    special = step.section("special_tokens")
    for index, piece in enumerate(step.sections("single")):
        if index == MAX_STEPS:
            raise NotUnderstoodError("too many steps")
        if "Sequence" in piece:
            found += ids
        else:
            values = special.section(piece.section("SpecialToken").text("id")).items("ids")
            if not all(isinstance(token, int) and not isinstance(token, bool) for token in values):
                raise special.wrong("ids", values, "token ids")
            found += values
        if len(found) > MAX_TEXT:
            raise NotUnderstoodError("a template that repeats a text too often")
    return found
