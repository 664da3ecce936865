"""Text to token ids and back, as a GGUF file's metadata defines; same ids as llama.cpp (llama-vocab.cpp)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from gguflow.errors import UsageError
from gguflow.inference.byte_pair import BytePair, to_bytes
from gguflow.inference.keys import Keys
from gguflow.inference.pre_tokenizers import SPLITTERS, Splitter
from gguflow.inference.sentencepiece import SPACE, SentencePiece
from gguflow.models.tokenizers.ends import ALL_ENDS_KEY, ending_texts, exempt_texts
from gguflow.models.tokenizers.vocabulary import TokenType

_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
_WRITTEN = {TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.CONTROL, TokenType.UNKNOWN}
"""Types of tokens that decode to their text; unused ones, and those of unknown type, decode to nothing."""
_DEFAULT_IDS = {"llama": {"bos": 1, "eos": 2, "unknown": 0}, "gpt2": {"bos": 11, "eos": 11}}
"""Ids for files that name no special tokens, by tokenizer.ggml.model."""


@dataclass(frozen=True)
class Special:
    """Special tokens.

    bos, eos: first and last token of a text; None if there is none.
    ends: all tokens that end a generation.
    """

    bos: int | None
    eos: int | None
    adds_bos: bool
    adds_eos: bool
    ends: frozenset[int]


class Tokenizer:
    """The tokenizer of an open model; it decodes the whole vocabulary once.

    special: the ids that frame and end a text.
    """

    def __init__(self, metadata: Mapping[str, Any], file: str) -> None:
        """Make the tokenizer from metadata.

        metadata: of an open model.
        file: for messages.

        Raises UnsupportedError (X-010, X-011), InvalidError (X-004).
        """
        keys = Keys(metadata, file, "tokenizer.ggml.")
        kind = keys.text("model", "")
        if kind not in _DEFAULT_IDS:
            raise keys.unsupported("X-010", "model", "unknown tokenizer", kind, ", ".join(_DEFAULT_IDS))
        self._is_byte_level = kind == "gpt2"
        splitter = _splitter(keys) if self._is_byte_level else Splitter((), adds_bos=True)
        self._adds_space = keys.flag("add_space_prefix", not self._is_byte_level)
        self.texts = [text or f"[EMPTY_{token}]" for token, text in enumerate(keys.array("tokens"))]
        self._types = [int(of_token) for of_token in keys.array("token_type")] or [
            int(TokenType.NORMAL)
        ] * len(self.texts)
        ids = {text: token for token, text in enumerate(self.texts)}
        ends = [ids[text] for text in ending_texts(ids)]
        for token in ends:
            self._types[token] = TokenType.CONTROL
        exempt = {ids[text] for text in exempt_texts(ids)}
        self.special = self._special(keys, _DEFAULT_IDS[kind], splitter, frozenset(ends), exempt)
        sought = {TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED}
        special = [token for token, of_token in enumerate(self._types) if of_token in sought]
        self._marked = sorted(
            special, key=lambda token: -len(self.texts[token].encode("utf-8", "surrogateescape"))
        )
        self.model: BytePair | SentencePiece
        if self._is_byte_level:
            self.model = BytePair(ids, keys.array("merges"), splitter)
        else:
            scores = [float(score) for score in keys.array("scores")] or [0.0] * len(self.texts)
            self.model = SentencePiece(ids, scores, self._id(keys, "unknown", _DEFAULT_IDS[kind]))

    def __len__(self) -> int:
        return len(self.texts)

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = True, most: int | None = None
    ) -> list[int]:
        """The ids of a text.

        text: any.
        add_special: whether to add the first and last token that the file wants.
        parse_special: whether "</s>" in the text is that token instead of four characters.
        most: the first so many tokens are enough, and no word behind them is looked at; None for all.

        Raises UsageError for a text that is not valid Unicode (lone surrogates).
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UsageError(
                f"a text with bytes that are not UTF-8 (at character {error.start}) has no tokens"
            ) from error
        ids = (
            [self.special.bos]
            if add_special and self.special.adds_bos and self.special.bos is not None
            else []
        )
        is_after_special = True
        for part in self._parts(text, parse_special):
            if isinstance(part, int):
                ids.append(part)
            else:
                adds_space = self._adds_space and is_after_special and not self._is_byte_level
                for word in self.model.encode(" " + part if adds_space else part):
                    ids += word
                    if most is not None and len(ids) >= most:
                        return ids[:most]
            is_after_special = isinstance(part, int)
        if add_special and self.special.adds_eos and self.special.eos is not None:
            ids.append(self.special.eos)
        return ids[:most]

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of a token; for control and unknown tokens none, or their name if `special`."""
        text, kind = self.texts[token], self._types[token]
        if kind in (TokenType.CONTROL, TokenType.UNKNOWN) and not special:
            return b""
        if kind == TokenType.BYTE and (byte := _BYTE.fullmatch(text)):
            return bytes([int(byte[1], 16)])
        if kind == TokenType.NORMAL:
            if self._is_byte_level:
                return to_bytes(text)
            text = text.replace(SPACE, " ")
        return text.encode("utf-8", "surrogateescape") if kind in _WRITTEN else b""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without special ones; invalid UTF-8 becomes U+FFFD, a leading space stays."""
        return b"".join(map(self.piece, tokens)).decode("utf-8", "replace")

    def _parts(self, text: str, parse_special: bool) -> list[str | int]:
        """Split a text at its special tokens, longest first, into ids and the text between them."""
        parts: list[str | int] = [text] if text else []
        for token in self._marked:
            mark = self.texts[token]
            if mark not in text or (not parse_special and self._types[token] != TokenType.USER_DEFINED):
                continue
            found: list[str | int] = []
            for part in parts:
                if isinstance(part, str):
                    for i, between in enumerate(part.split(mark)):
                        found += [token] * (i > 0) + [between] * bool(between)
                else:
                    found.append(part)
            parts = found
        return parts

    def _special(
        self,
        keys: Keys,
        defaults: Mapping[str, int],
        splitter: Splitter,
        ends: frozenset[int],
        exempt: Set[int],
    ) -> Special:
        """The special tokens; ends: the tokens that end a text by their name; exempt: those that never do."""
        ids = (self._id(keys, kind, defaults) for kind in ("eos", "eot", "eom"))
        named = {token for token in ids if token is not None}
        return Special(
            bos=self._id(keys, "bos", defaults),
            eos=self._id(keys, "eos", defaults),
            adds_bos=keys.flag("add_bos_token", splitter.adds_bos),
            adds_eos=keys.flag("add_eos_token", False),
            ends=ends | (named - exempt) | self._all_ends(keys),
        )

    def _all_ends(self, keys: Keys) -> set[int]:
        """The tokens that end a text, of a file that has them all under our own key."""
        prefix, _, name = ALL_ENDS_KEY.rpartition(".")
        own = Keys(keys.metadata, keys.file, f"{prefix}.")
        return {own.member(name, token, len(self.texts)) for token in own.array(name)}

    def _id(self, keys: Keys, kind: str, defaults: Mapping[str, int]) -> int | None:
        token = keys.integer(f"{kind}_token_id", defaults.get(kind, len(self.texts)))
        return token if token < len(self.texts) else None


def _splitter(keys: Keys) -> Splitter:
    name = keys.text("pre", "default")
    if name not in SPLITTERS:
        raise keys.unsupported("X-011", "pre", "unknown pre-tokenizer", name, ", ".join(SPLITTERS))
    return SPLITTERS[name]
