"""Tokens with their types and scores, and the keys that hold them."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from gguflow.container.metadata import Metadata, ValueType, array, string


class TokenType(enum.IntEnum):
    """llama.cpp's LLAMA_TOKEN_TYPE."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass
class Vocabulary:
    """Texts and types of tokens by id, padded with `[PAD<id>]` to the rows of the embedding matrix."""

    texts: list[str]
    types: list[TokenType]
    scores: list[float] = field(default_factory=list)

    @classmethod
    def padding(cls, n_tokens: int) -> Vocabulary:
        return cls(
            [f"[PAD{token}]" for token in range(n_tokens)],
            [TokenType.UNUSED] * n_tokens,
            [-10000.0] * n_tokens,
        )

    def __len__(self) -> int:
        return len(self.texts)

    def put(self, token: int, text: str, kind: TokenType, score: float = 0.0) -> None:
        self.texts[token], self.types[token], self.scores[token] = text, kind, score

    def metadata(self, model: str, pre: str, *, scores: bool = False) -> Metadata:
        """The keys in llama.cpp's order.

        model: name of llama.cpp's tokenizer.
        pre: name of its pre-tokenizer.
        scores: whether to write scores.
        """
        metadata = {
            "tokenizer.ggml.model": string(model),
            "tokenizer.ggml.pre": string(pre),
            "tokenizer.ggml.tokens": array(ValueType.STRING, self.texts),
        }
        if scores:
            metadata["tokenizer.ggml.scores"] = array(ValueType.FLOAT32, self.scores)
        metadata["tokenizer.ggml.token_type"] = array(ValueType.INT32, [int(kind) for kind in self.types])
        return metadata


def looks_special(text: str) -> bool:
    """Whether llama.cpp makes an added token a control token by its text (e.g. in gemma)."""
    return (
        text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        or (text.startswith("<|") and text.endswith("|>"))
        or (text.startswith("<\uff5c") and text.endswith("\uff5c>"))
        or (text.startswith("<unused") and text.endswith(">"))
    )


def user_defined(text: str) -> str:
    """A user-defined token as llama.cpp matches it: with spaces instead of SentencePiece's marks."""
    return text.replace("▁", " ")
