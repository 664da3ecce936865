"""Text to token ids and back, as the metadata of a GGUF file defines it; the ids are llama.cpp's (src/llama-vocab.cpp)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gguflow.errors import Finding, UnsupportedError, UsageError, printable
from gguflow.inference import byte_pair, sentencepiece
from gguflow.inference.pre_tokenizers import SPLITTERS, Splitter
from gguflow.models.tokenizers.vocabulary import TokenType

_KEY = "tokenizer.ggml."
_ENDING_TEXTS = (
    *("</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "[e~[", "<turn|>", "<end_of_turn>", "<end_of_utterance>", "<｜end▁of▁sentence｜>"),  # noqa: RUF001
    *(f"<|{name}|>" for name in ("eot_id", "eom_id", "im_end", "end", "return", "call", "calls", "flush", "endoftext", "end_of_text")),
    *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    *("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>"),
)
"""Tokens that end a text because of what they are called: llama.cpp's list, with the padding and separators of repositories."""
_ENDING_IDS = ("eos", "eot", "eom")
_DEFAULT_IDS = {"llama": {"bos": 1, "eos": 2, "unknown": 0}, "gpt2": {"bos": 11, "eos": 11}}
"""Of files that name no special token, by tokenizer.ggml.model."""


@dataclass(frozen=True)
class Special:
    """The tokens that stand for no text. bos, eos: None where there is none. ends: all that end a generation."""

    bos: int | None
    eos: int | None
    adds_bos: bool
    adds_eos: bool
    ends: frozenset[int]


class Tokenizer:
    """The tokenizer of an open model. It decodes the whole vocabulary once; `special` holds the ids that frame and end a text."""

    def __init__(self, metadata: Mapping[str, Any], file: str) -> None:
        """metadata: as an open model has it, judged. file: for messages. Raises UnsupportedError (E-010, E-011)."""
        kind = metadata.get(_KEY + "model")
        if kind not in _DEFAULT_IDS:
            raise _unsupported(file, "E-010", "model", "a tokenizer that is not known here", kind, ", ".join(_DEFAULT_IDS))
        self.texts = [text or f"[EMPTY_{token}]" for token, text in enumerate(metadata[_KEY + "tokens"])]
        ids = {text: token for token, text in enumerate(self.texts)}
        types: Sequence[int] = metadata.get(_KEY + "token_type", ())
        self._types = [int(of_token) for of_token in types] or [int(TokenType.NORMAL)] * len(ids)
        self._is_byte_level = kind == "gpt2"
        splitter = _splitter(metadata, file) if self._is_byte_level else Splitter((), adds_bos=True)
        self.special = self._special(metadata, _DEFAULT_IDS[kind], splitter, ids)
        self._adds_space = bool(metadata.get(_KEY + "add_space_prefix", not self._is_byte_level))
        hidden = {TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED}
        special = [token for token, of_token in enumerate(self._types) if of_token in hidden]
        self._marked = sorted(special, key=lambda token: -len(self.texts[token].encode("utf-8", "surrogateescape")))
        self.model: byte_pair.BytePair | sentencepiece.SentencePiece
        if self._is_byte_level:
            self.model = byte_pair.BytePair(ids, metadata.get(_KEY + "merges", ()), splitter)
        else:
            scores = [float(score) for score in metadata.get(_KEY + "scores", ())] or [0.0] * len(self.texts)
            self.model = sentencepiece.SentencePiece(ids, scores, self._id(metadata, "unknown", _DEFAULT_IDS[kind]))

    def __len__(self) -> int:
        return len(self.texts)

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """The ids of a text.

        add_special: put the first and last token around it that the file asks for. parse_special: "</s>" in the text is that token, not four letters.
        Raises UsageError for a text that is not Unicode (stray bytes, as Python decodes them).
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UsageError(f"a text with bytes that are not UTF-8 (at character {error.start}) has no tokens") from error
        ids = [self.special.bos] if add_special and self.special.adds_bos and self.special.bos is not None else []
        is_after_special = True
        for part in self._parts(text, parse_special):
            if isinstance(part, int):
                ids.append(part)
            elif self._is_byte_level:
                ids += self.model.encode(part)
            else:
                ids += self.model.encode(" " + part if self._adds_space and is_after_special else part)
            is_after_special = isinstance(part, int)
        if add_special and self.special.adds_eos and self.special.eos is not None:
            ids.append(self.special.eos)
        return ids

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes that a token adds to a text; of one that is no text (control, unknown), none, unless special asks for its name."""
        text, kind = self.texts[token], self._types[token]
        if kind in (TokenType.CONTROL, TokenType.UNKNOWN) and not special:
            return b""
        if kind == TokenType.BYTE:
            return bytes([int(text[3:5], 16)])
        if kind == TokenType.NORMAL:
            if self._is_byte_level:
                return byte_pair.to_bytes(text)
            text = text.replace(sentencepiece.SPACE, " ")
        return b"" if kind == TokenType.UNUSED else text.encode("utf-8", "surrogateescape")

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some tokens, special ones left out; bytes that are no UTF-8 become U+FFFD. The space before the first word stays."""
        return b"".join(map(self.piece, tokens)).decode("utf-8", "replace")

    def _parts(self, text: str, parse_special: bool) -> list[str | int]:
        """The text with the special tokens taken out, longest first: ids, and what lies between them."""
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

    def _special(self, metadata: Mapping[str, Any], defaults: Mapping[str, int], splitter: Splitter, ids: Mapping[str, int]) -> Special:
        """Read the special ids; tokens that end a text by their name become control tokens, as llama.cpp makes them."""
        named = [ids[text] for text in _ENDING_TEXTS if text in ids]
        for token in named:
            self._types[token] = TokenType.CONTROL
        ends = [self._id(metadata, kind, defaults) for kind in _ENDING_IDS]
        return Special(
            bos=self._id(metadata, "bos", defaults),
            eos=self._id(metadata, "eos", defaults),
            adds_bos=bool(metadata.get(_KEY + "add_bos_token", splitter.adds_bos)),
            adds_eos=bool(metadata.get(_KEY + "add_eos_token", False)),
            ends=frozenset(token for token in (*named, *ends) if token is not None),
        )

    def _id(self, metadata: Mapping[str, Any], kind: str, defaults: Mapping[str, int]) -> int | None:
        token = metadata.get(f"{_KEY}{kind}_token_id", defaults.get(kind))
        return int(token) if token is not None and 0 <= token < len(self.texts) else None


def _splitter(metadata: Mapping[str, Any], file: str) -> Splitter:
    name = metadata.get(_KEY + "pre", "default")
    if name not in SPLITTERS:
        raise _unsupported(file, "E-011", "pre", "a pre-tokenizer that is not known here", name, ", ".join(SPLITTERS))
    return SPLITTERS[name]


def _unsupported(file: str, rule: str, key: str, message: str, found: object, expected: str) -> UnsupportedError:
    shown = printable(found) if isinstance(found, str) else found
    return UnsupportedError(file, Finding(rule, message, f"$.metadata['{_KEY}{key}']", found=shown, expected=expected))
