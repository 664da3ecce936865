"""SentencePiece, llama.cpp's tokenizer "llama": from `tokenizer.model`, or from a tokenizer.json alone."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gguflow.container.metadata import Metadata, ValueType, array, boolean
from gguflow.models.documents import Document, read_bytes
from gguflow.models.tokenizers.bpe import require_model, spelt_merges
from gguflow.models.tokenizers.files import TokenizerFiles, no_tokenizer
from gguflow.models.tokenizers.sentencepiece_model import read_pieces
from gguflow.models.tokenizers.special_tokens import ADD_KEYS, special_metadata, steps
from gguflow.models.tokenizers.tokenizer_json import (
    added_tokens,
    decoder_ids,
    merge_pairs,
    named_tokens,
    own_tokens,
    role_tokens,
)
from gguflow.models.tokenizers.vocabulary import TokenType, Vocabulary, looks_special, user_defined

ADDED_SCORE = -1000.0
"""Score of tokens added to a `tokenizer.model`, as in llama.cpp's converter."""

GEMMA4_VISIBLE = frozenset(
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
"""Tokens that are shown in the output, since whoever reads a chat needs them."""

_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
_SPACE_PREFIX = "tokenizer.ggml.add_space_prefix"


def sentencepiece_metadata(files: TokenizerFiles, *, by_looks: bool = True) -> Metadata | None:
    """The keys from `tokenizer.model`, or None if there is no such file.

    Tokens beyond config's vocab_size are ignored, missing ones padded; added tokens come from
    added_tokens.json, tokenizer_config.json and tokenizer.json.

    files: of the tokenizer.
    by_looks: whether added tokens that look special are; otherwise what tokenizer.json says of them counts,
        and their text stays as it is.

    Raises MalformedError (M-021) if the file is not a SentencePiece model, InvalidError (M-002, M-003),
    LimitError, StorageError.
    """
    content = read_bytes(files.directory, "tokenizer.model")
    if content is None:
        return None
    vocabulary = Vocabulary.padding(files.n_tokens)
    pieces = read_pieces(content, files.directory / "tokenizer.model")
    for token, piece in enumerate(pieces[: files.n_tokens]):
        vocabulary.put(token, piece.text, piece.type, piece.score)
    _add_tokens(vocabulary, files, by_looks)
    if not by_looks:
        for entry in files.tokenizer.sections("added_tokens") if files.tokenizer is not None else ():
            _put_added(vocabulary, entry.integer("id", minimum=0), entry, by_looks=False)
    elif files.tokenizer is not None and _add_from_tokenizer_json(vocabulary, files.tokenizer):
        files.config.applied.add("tokens-of-tokenizer-json")
    return vocabulary.metadata("llama", "default", scores=True) | special_metadata(files, files.n_tokens)


def sentencepiece_json_metadata(files: TokenizerFiles) -> Metadata | None:
    """The keys from a tokenizer.json with a SentencePiece vocabulary, or None if there is none.

    It has merges in the place of scores: `merge_scores`.

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
    scores = merge_scores(model, own)
    vocabulary = _json_vocabulary(files, tokenizer, own, scores)
    if TokenType.UNUSED in vocabulary.types:
        files.config.applied.add("padding-of-tokenizer-json")
    if scores:
        files.config.applied.add("scores-from-merges")
    keys = vocabulary.metadata("llama", "default", scores=True)
    settings = files.settings
    if (settings is None or "add_prefix_space" not in settings) and not _adds_space(tokenizer):
        files.config.applied.add("no-space-prefix")
        keys = {_SPACE_PREFIX: boolean(False)} | keys
    return keys | special_metadata(files, files.n_tokens)


def gemma4_metadata(files: TokenizerFiles) -> Metadata:
    """Gemma 4, llama.cpp's tokenizer "gemma4": SentencePiece's vocabulary with merges, from tokenizer.json.

    Raises InvalidError (M-002, M-003, M-023, M-025), UnsupportedError (M-024), and what Document.read raises.
    """
    tokenizer = files.tokenizer
    if tokenizer is None:
        raise no_tokenizer(files.directory, "tokenizer.json")
    model = tokenizer.section("model")
    require_model(model, "BPE")
    vocabulary = _json_vocabulary(files, tokenizer, own_tokens(tokenizer, files.n_tokens), {})
    for token, text in enumerate(vocabulary.texts):
        if text in GEMMA4_VISIBLE:
            vocabulary.types[token] = TokenType.USER_DEFINED
    if TokenType.UNUSED in vocabulary.types:
        files.config.applied.add("rows-without-tokens")
    keys = vocabulary.metadata("gemma4", "", scores=True)
    del keys["tokenizer.ggml.pre"]
    if merges := spelt_merges(model):
        keys["tokenizer.ggml.merges"] = array(ValueType.STRING, merges)
    keys |= special_metadata(files, files.n_tokens, peer_limits=False)
    return keys | {_SPACE_PREFIX: boolean(False), ADD_KEYS["bos"]: boolean(True)}


def _json_vocabulary(
    files: TokenizerFiles, tokenizer: Document, own: Mapping[int, str], scores: Mapping[str, float]
) -> Vocabulary:
    """The vocabulary of a tokenizer.json in SentencePiece's manner; tokens without a score get the lowest."""
    lowest = -float(len(scores)) if scores else ADDED_SCORE
    vocabulary = Vocabulary.padding(files.n_tokens)
    special = set(named_tokens(files.settings)) if files.settings is not None else set()
    for token, text in own.items():
        kind = TokenType.BYTE if _BYTE.fullmatch(text) else TokenType.NORMAL
        vocabulary.put(token, text, TokenType.CONTROL if text in special else kind, scores.get(text, lowest))
    for token, added in added_tokens(tokenizer, files.settings, dict(own), files.n_tokens).items():
        if token not in own:
            kind = TokenType.CONTROL if added.text in special else TokenType.USER_DEFINED
            vocabulary.put(token, added.text, kind, lowest)
    if _type_listed(vocabulary, tokenizer, own, files.settings):
        files.config.applied.add("types-from-tokenizer-json")
    return vocabulary


def merge_scores(model: Document, own: Mapping[int, str]) -> dict[str, float]:
    """The score of every token that a merge makes: 0, -1, -2, ... in the order of the first merge of each.

    llama.cpp merges the neighbours whose joined text has the highest score, the Hugging Face libraries those
    whose merge comes first; the tokens are the same, since the merges of a SentencePiece model are listed
    by the scores of what they make.

    model: of tokenizer.json.
    own: the model's tokens by id.

    Raises InvalidError (M-003: a merge of something, or into something, that is no token).
    """
    known = set(own.values())
    scores: dict[str, float] = {}
    for index, (left, right) in enumerate(merge_pairs(model)):
        joined = left + right
        if not {left, right, joined} <= known:
            raise model.wrong("merges", f"{left} {right}", "two tokens that together are a token", index)
        scores.setdefault(joined, -float(len(scores)))
    return scores


def _type_listed(
    vocabulary: Vocabulary, tokenizer: Document, own: Mapping[int, str], settings: Document | None
) -> bool:
    """Give the tokens that tokenizer.json lists as added the type that they have there; whether that changes
    any.

    A single character of the vocabulary that is not special stays a piece: it is a token wherever it stands.
    Tokens with a role (`bos_token`, ...) are special whatever the list says.
    """
    roles = set(role_tokens(settings)) if settings is not None else set()
    is_changed = False
    for entry in tokenizer.sections("added_tokens"):
        token, text = entry.integer("id", minimum=0), entry.text("content")
        before = vocabulary.texts[token], vocabulary.types[token]
        if entry.flag("special", False) or text in roles:
            vocabulary.types[token] = TokenType.CONTROL
        elif len(text) == 1 and token in own:
            vocabulary.types[token] = TokenType.NORMAL
        else:
            vocabulary.texts[token], vocabulary.types[token] = user_defined(text), TokenType.USER_DEFINED
        is_changed |= before != (vocabulary.texts[token], vocabulary.types[token])
    return is_changed


def _adds_space(tokenizer: Document) -> bool:
    """Whether a tokenizer.json puts a space before a text."""
    normalizers = steps(tokenizer.section("normalizer"), "normalizers")
    if any(step.text("type", "") == "Prepend" for step in normalizers):
        return True
    return any(
        step.text("type", "") == "Metaspace"
        and step.flag("add_prefix_space", True)
        and step.text("prepend_scheme", "always") != "never"
        for step in steps(tokenizer.section("pre_tokenizer"), "pretokenizers")
    )


def _add_tokens(vocabulary: Vocabulary, files: TokenizerFiles, by_looks: bool) -> None:
    """Add the added tokens; those beyond the vocabulary are ignored, as in llama.cpp's converter."""
    if (added := Document.read(files.directory, "added_tokens.json")) is not None:
        for text in added.values:
            if (token := added.integer(text, minimum=0)) < len(vocabulary):
                vocabulary.put(token, text, TokenType.USER_DEFINED, ADDED_SCORE)
    if files.settings is not None:
        decoder = files.settings.section("added_tokens_decoder")
        for token in decoder_ids(decoder):
            entry = decoder.section(str(token))
            _put_added(vocabulary, token, entry, by_looks)


def _add_from_tokenizer_json(vocabulary: Vocabulary, tokenizer: Document) -> bool:
    """Add the tokens that tokenizer.json adds and that are not there yet; whether there are any."""
    is_changed = False
    for entry in tokenizer.sections("added_tokens"):
        token, text = entry.integer("id", minimum=0), entry.text("content")
        if token < len(vocabulary) and vocabulary.texts[token] not in (text, user_defined(text)):
            _put_added(vocabulary, token, entry)
            is_changed = True
    return is_changed


def _put_added(vocabulary: Vocabulary, token: int, entry: Document, by_looks: bool = True) -> None:
    """Put an added token, unless it is beyond the vocabulary."""
    text = entry.text("content")
    if token >= len(vocabulary):
        return
    if entry.flag("special", False) or (by_looks and looks_special(text)):
        vocabulary.put(token, text, TokenType.CONTROL, ADDED_SCORE)
    elif not by_looks:
        vocabulary.put(token, text, TokenType.USER_DEFINED, ADDED_SCORE)
    else:
        vocabulary.put(token, user_defined(text), TokenType.USER_DEFINED, ADDED_SCORE)
