"""SentencePiece, llama.cpp's tokenizer "llama": from `tokenizer.model`, or from a tokenizer.json alone."""

from __future__ import annotations

import re
from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.errors import Finding, MalformedError
from gguflow.models.documents import Document, read_bytes
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.special_tokens import special_metadata
from gguflow.models.tokenizers.tokenizer_json import added_tokens, decoder_ids, named_tokens, own_tokens
from gguflow.models.tokenizers.vocabulary import TokenType, Vocabulary, looks_special, user_defined

ADDED_SCORE = -1000.0
"""Score of added tokens: lower than that of every piece, so that no merge makes one."""


def sentencepiece_metadata(files: TokenizerFiles) -> Metadata | None:
    """The keys from `tokenizer.model`, or None if there is no such file.

    Tokens beyond config's vocab_size are ignored, missing ones padded; added tokens come from
    added_tokens.json and tokenizer_config.json.

    Raises MalformedError (M-021) if the file is not a SentencePiece model, InvalidError (M-002, M-003),
    LimitError, StorageError.
    """
    content = read_bytes(files.directory, "tokenizer.model")
    if content is None:
        return None
    vocabulary = _pieces(files.directory / "tokenizer.model", content, files.n_tokens)
    _add_tokens(vocabulary, files)
    return vocabulary.metadata("llama", "default", scores=True) | special_metadata(files, files.n_tokens)


def sentencepiece_json_metadata(files: TokenizerFiles) -> Metadata | None:
    """The keys from a tokenizer.json with a SentencePiece vocabulary, or None if there is none.

    It has no scores: every piece gets the same one, as in llama.cpp's converter.

    Raises InvalidError (M-002, M-003, M-025), and what Document.read raises.
    """
    tokenizer = files.tokenizer
    if tokenizer is None:
        return None
    model = tokenizer.section("model")
    if not (
        model.text("type", "") == "BPE"
        and model.flag("byte_fallback", False)
        and tokenizer.section("decoder").text("type", "") == "Sequence"
    ):
        return None
    own = own_tokens(tokenizer, files.n_tokens)
    special = named_tokens(files.settings) if files.settings is not None else []
    vocabulary = Vocabulary.padding(files.n_tokens)
    for token, text in own.items():
        if re.fullmatch("<0x[0-9A-Fa-f]{2}>", text):
            kind = TokenType.BYTE
        else:
            kind = TokenType.CONTROL if text in special else TokenType.NORMAL
        vocabulary.put(token, text, kind, ADDED_SCORE)
    for token, added in added_tokens(tokenizer, files.settings, own, files.n_tokens).items():
        if token not in own:
            vocabulary.put(
                token,
                added.text,
                TokenType.CONTROL if added.text in special else TokenType.USER_DEFINED,
                ADDED_SCORE,
            )
    return vocabulary.metadata("llama", "default", scores=True) | special_metadata(files, files.n_tokens)


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


def _add_tokens(vocabulary: Vocabulary, files: TokenizerFiles) -> None:
    """Add the added tokens; those beyond the vocabulary are ignored, as in llama.cpp's converter."""
    if (added := Document.read(files.directory, "added_tokens.json")) is not None:
        for text in added.values:
            if (token := added.integer(text, minimum=0)) < len(vocabulary):
                vocabulary.put(token, text, TokenType.USER_DEFINED, ADDED_SCORE)
    if files.settings is not None:
        decoder = files.settings.section("added_tokens_decoder")
        for token in decoder_ids(decoder):
            entry = decoder.section(str(token))
            text = entry.text("content")
            if token >= len(vocabulary):
                continue
            if entry.flag("special", False) or looks_special(text):
                vocabulary.put(token, text, TokenType.CONTROL, ADDED_SCORE)
            else:
                vocabulary.put(token, user_defined(text), TokenType.USER_DEFINED, ADDED_SCORE)
