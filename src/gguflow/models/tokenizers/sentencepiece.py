"""SentencePiece: `tokenizer.model`, and the same vocabulary where only its tokenizer.json was kept. llama.cpp's tokenizer "llama"."""

from __future__ import annotations

import re
from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.errors import Finding, MalformedError
from gguflow.models.documents import Document, read_bytes
from gguflow.models.tokenizers.special import special_metadata
from gguflow.models.tokenizers.vocabulary import TokenType, Vocabulary, looks_special, user_defined

ADDED_SCORE = -1000.0
"""Below that of every piece, so that no merge makes an added token."""


def sentencepiece_metadata(config: Document, directory: Path) -> Metadata | None:
    """The keys made of `tokenizer.model`; None where there is no such file.

    Tokens beyond config's vocab_size are ignored, missing ones padded; added tokens come from added_tokens.json and tokenizer_config.json.
    Raises MalformedError (M-021) where the file is no SentencePiece model, InvalidError (M-002, M-003), LimitError, StorageError.
    """
    content = read_bytes(directory, "tokenizer.model")
    if content is None:
        return None
    vocabulary = _pieces(directory / "tokenizer.model", content, config.integer("vocab_size"))
    _add_tokens(vocabulary, directory)
    return vocabulary.metadata("llama", "default", scores=True) | special_metadata(directory, len(vocabulary))


def _pieces(file: Path, content: bytes, n_tokens: int) -> Vocabulary:
    from sentencepiece import SentencePieceProcessor

    vocabulary = Vocabulary.padding(n_tokens)
    try:
        processor = SentencePieceProcessor(model_proto=content)
        for token in range(min(processor.vocab_size(), n_tokens)):
            if processor.IsUnknown(token):
                kind = TokenType.UNKNOWN
            elif processor.IsControl(token):
                kind = TokenType.CONTROL
            elif processor.IsUnused(token):
                kind = TokenType.UNUSED
            elif processor.IsByte(token):
                kind = TokenType.BYTE
            else:
                kind = TokenType.NORMAL
            vocabulary.put(token, processor.IdToPiece(token), kind, processor.GetScore(token))
    except (RuntimeError, ValueError) as error:
        raise MalformedError(file, Finding("M-021", f"not a SentencePiece model: {error}")) from error
    return vocabulary


def _add_tokens(vocabulary: Vocabulary, directory: Path) -> None:
    """Put added tokens into their places; those beyond the vocabulary are ignored, as llama.cpp's converter does."""
    if (added := Document.read(directory, "added_tokens.json")) is not None:
        for text in added.values:
            if (token := added.integer(text, minimum=0)) < len(vocabulary):
                vocabulary.put(token, text, TokenType.USER_DEFINED, ADDED_SCORE)
    if (settings := Document.read(directory, "tokenizer_config.json")) is not None:
        decoder = settings.section("added_tokens_decoder")
        for key in decoder.values:
            entry = decoder.section(key)
            text = entry.text("content")
            if not re.fullmatch(r"[0-9]{1,9}", key):
                raise decoder.wrong(key, key, "a token id")
            if int(key) >= len(vocabulary):
                continue
            if entry.flag("special", False) or looks_special(text):
                vocabulary.put(int(key), text, TokenType.CONTROL, ADDED_SCORE)
            else:
                vocabulary.put(int(key), user_defined(text), TokenType.USER_DEFINED, ADDED_SCORE)
