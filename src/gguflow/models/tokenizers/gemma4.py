"""Gemma 4's tokenizer, llama.cpp's "gemma4": merges of SentencePiece's pieces, bytes where none fits."""

from __future__ import annotations

import re

from gguflow.container.metadata import Metadata, ValueType, array, boolean
from gguflow.models.documents import Document
from gguflow.models.tokenizers.bpe import require_model, spelt_merges
from gguflow.models.tokenizers.files import TokenizerFiles, no_tokenizer
from gguflow.models.tokenizers.sentencepiece import ADDED_SCORE
from gguflow.models.tokenizers.special_tokens import special_metadata
from gguflow.models.tokenizers.tokenizer_json import added_tokens, named_tokens, own_tokens, token_text
from gguflow.models.tokenizers.vocabulary import TokenType, Vocabulary

SHOWN = frozenset(
    (
        "<|channel>",
        "<channel|>",
        "<|tool_call>",
        "<tool_call|>",
        "<|tool_response>",
        "<tool_response|>",
        '<|"|>',
    )
)
"""Special tokens that programs read in an answer, so that llama.cpp must show them."""

_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")


def gemma4_metadata(files: TokenizerFiles) -> Metadata:
    """The keys from tokenizer.json; every score is the same, and no space is added before a text.

    files: of the tokenizer.

    Raises InvalidError (M-002, M-003, M-023, M-025), UnsupportedError (M-024), and what special_metadata
    raises.
    """
    tokenizer = files.tokenizer
    if tokenizer is None:
        raise no_tokenizer(files.directory, "tokenizer.json")
    model = tokenizer.section("model")
    require_model(model, "BPE")
    own = own_tokens(tokenizer, files.n_tokens)
    special = _special_texts(files, tokenizer)
    vocabulary = Vocabulary.padding(files.n_tokens)
    vocabulary.scores = [ADDED_SCORE] * files.n_tokens
    for token, text in own.items():
        kind = TokenType.BYTE if _BYTE.fullmatch(text) else TokenType.NORMAL
        vocabulary.put(token, text, _kind(text, special, kind), ADDED_SCORE)
    for token, added in added_tokens(tokenizer, files.settings, own, files.n_tokens).items():
        if token not in own:
            vocabulary.put(token, added.text, _kind(added.text, special, TokenType.USER_DEFINED), ADDED_SCORE)
    if TokenType.UNUSED in vocabulary.types:
        files.config.applied.add("rows-without-tokens")
    keys = vocabulary.metadata("gemma4", "", scores=True)
    del keys["tokenizer.ggml.pre"]
    keys["tokenizer.ggml.merges"] = array(ValueType.STRING, spelt_merges(model))
    return (
        keys
        | special_metadata(files, files.n_tokens)
        | {
            "tokenizer.ggml.add_space_prefix": boolean(False),
            "tokenizer.ggml.add_bos_token": boolean(True),
        }
    )


def _kind(text: str, special: set[str], other: TokenType) -> TokenType:
    if text in SHOWN:
        return TokenType.USER_DEFINED
    return TokenType.CONTROL if text in special else other


def _special_texts(files: TokenizerFiles, tokenizer: Document) -> set[str]:
    """The tokens that tokenizer_config.json names in any way, and those that tokenizer.json calls special."""
    named: set[str] = set()
    if (settings := files.settings) is not None:
        named |= set(named_tokens(settings))
        for source in (settings, settings.section("model_specific_special_tokens")):
            named |= {
                text
                for key in source.values
                if key.endswith("_token") and (text := token_text(source.values[key])) is not None
            }
    listed = {
        entry.text("content") for entry in tokenizer.sections("added_tokens") if entry.flag("special", False)
    }
    if listed - named - SHOWN:
        files.config.applied.add("types-from-tokenizer-json")
    return named | listed
