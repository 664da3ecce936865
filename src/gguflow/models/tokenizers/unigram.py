"""Unigram, llama.cpp's tokenizer "t5": from a SentencePiece model, or from the tokenizer.json made of one."""

from __future__ import annotations

import base64
import binascii

from gguflow.container.metadata import Metadata, ValueType, array, boolean, u32
from gguflow.errors import Finding, UnsupportedError
from gguflow.models.documents import Document, read_bytes
from gguflow.models.tokenizers.bpe import bpe_metadata, require_model
from gguflow.models.tokenizers.files import TokenizerFiles, no_tokenizer
from gguflow.models.tokenizers.sentencepiece import ADDED_SCORE, sentencepiece_metadata
from gguflow.models.tokenizers.sentencepiece_model import SentencePieceModel, read_model
from gguflow.models.tokenizers.special_tokens import special_metadata, steps
from gguflow.models.tokenizers.tokenizer_json import named_tokens, token_text
from gguflow.models.tokenizers.vocabulary import TokenType, Vocabulary
from gguflow.models.tokenizers.wordpiece import wordpiece_metadata

XLM_ROBERTA = "sentencepiece.bpe.model"
TYPE_COUNT = "tokenizer.ggml.token_type_count"

_FIRST = (
    ("<s>", TokenType.CONTROL),
    ("<pad>", TokenType.CONTROL),
    ("</s>", TokenType.CONTROL),
    ("<unk>", TokenType.UNKNOWN),
)
"""The first tokens of XLM-RoBERTa, which its SentencePiece model has in another order."""
_NOMIC_MASK = 250001


def t5_metadata(files: TokenizerFiles) -> Metadata:
    """T5, UMT5, mT5: tokenizer.model or spiece.model; one of BPE is SentencePiece's other tokenizer.

    Raises MalformedError (M-021), InvalidError (M-002, M-003, M-023), LimitError, StorageError.
    """
    for name in ("tokenizer.model", "spiece.model"):
        content = read_bytes(files.directory, name)
        if content is not None:
            break
    else:
        raise no_tokenizer(files.directory, "tokenizer.model", "spiece.model")
    model = read_model(content, files.directory / name)
    if not model.is_unigram:
        if name == "tokenizer.model" and (keys := sentencepiece_metadata(files)) is not None:
            return keys
        raise _not_unigram(files, name)
    n_tokens = files.config.integer("vocab_size", len(model.pieces))
    vocabulary = _of_pieces(model, n_tokens)
    if (added := Document.read(files.directory, "added_tokens.json")) is not None:
        for text in added.values:
            if (token := added.integer(text, minimum=0)) < n_tokens:
                vocabulary.put(token, text, TokenType.USER_DEFINED, ADDED_SCORE)
    return _keys(files, vocabulary, model)


def xlm_roberta_metadata(files: TokenizerFiles, *, has_mask: bool = False) -> Metadata:
    """XLM-RoBERTa: sentencepiece.bpe.model, whose ids are shifted, else the Unigram model of tokenizer.json.

    files: of the tokenizer.
    has_mask: whether the model knows a mask token that the SentencePiece model does not have (Nomic).

    Raises MalformedError (M-021), InvalidError (M-002, M-003, M-023), UnsupportedError (M-024), LimitError,
    StorageError.
    """
    content = read_bytes(files.directory, XLM_ROBERTA)
    if content is None:
        return xlm_roberta_json_metadata(files)
    model = read_model(content, files.directory / XLM_ROBERTA)
    if not model.is_unigram:
        raise _not_unigram(files, XLM_ROBERTA)
    found = _of_pieces(model, max(files.n_tokens, len(model.pieces)))
    n_first = len(_FIRST)
    texts, types = [text for text, _ in _FIRST], [kind for _, kind in _FIRST]
    vocabulary = Vocabulary(
        texts + found.texts[3:-1], types + found.types[3:-1], [0.0] * n_first + found.scores[3:-1]
    )
    if has_mask and len(vocabulary) > _NOMIC_MASK:
        vocabulary.put(_NOMIC_MASK, "<mask>", TokenType.CONTROL, 0.0)
    return _keys(files, vocabulary, model, type_count=True)


def nomic_metadata(files: TokenizerFiles) -> Metadata:
    """Nomic's encoders: WordPiece, or that of XLM-RoBERTa, as tokenizer.json says."""
    if files.tokenizer is None:
        raise no_tokenizer(files.directory, "tokenizer.json")
    if files.tokenizer.section("model").text("type", "") == "Unigram":
        return xlm_roberta_metadata(files, has_mask="moe_every_n_layers" in files.config)
    return wordpiece_metadata(files)


def roberta_metadata(files: TokenizerFiles) -> Metadata:
    """RoBERTa: byte-level BPE from tokenizer.json, else WordPiece."""
    if files.tokenizer is None:
        return wordpiece_metadata(files)
    return bpe_metadata(files) | _type_count(files)


def jina_v2_metadata(files: TokenizerFiles) -> Metadata:
    """Jina v2: WordPiece, byte-level BPE, or whole words (llama.cpp's tokenizer "whitespace").

    Raises UnsupportedError (M-024), and what those raise.
    """
    settings = files.settings
    kind = "BertTokenizer" if settings is None else settings.text("tokenizer_class", "BertTokenizer")
    if kind.removesuffix("Fast") == "BertTokenizer":
        return wordpiece_metadata(files)
    if kind.removesuffix("Fast") != "RobertaTokenizer" and settings is not None:
        message = "the tokenizer is of a class that this family does not use"
        expected = "BertTokenizer or RobertaTokenizer"
        finding = Finding("M-024", message, settings.at("tokenizer_class"), found=kind, expected=expected)
        raise UnsupportedError(settings.file, finding)
    count: Metadata = {TYPE_COUNT: u32(2)}
    splits = "" if files.tokenizer is None else files.tokenizer.section("pre_tokenizer").text("type", "")
    if splits == "Whitespace":
        return bpe_metadata(files, model_name="whitespace", pre="whitespace") | count
    return bpe_metadata(files) | count


def xlm_roberta_json_metadata(files: TokenizerFiles) -> Metadata:
    """From the Unigram model of a tokenizer.json, which has the ids of the embeddings."""
    tokenizer = files.tokenizer
    if tokenizer is None:
        raise no_tokenizer(files.directory, XLM_ROBERTA, "tokenizer.json")
    model = tokenizer.section("model")
    require_model(model, "Unigram")
    settings = files.settings
    pieces = model.items("vocab")
    vocabulary = Vocabulary.padding(max(files.n_tokens, len(pieces)))
    added = {entry.text("content") for entry in tokenizer.sections("added_tokens")}
    special = set() if settings is None else set(named_tokens(settings))
    unknown = None if settings is None else token_text(settings.values.get("unk_token"))
    unknown_id = model.integer("unk_id", 3, minimum=0)
    ids = {
        entry.text("content"): entry.integer("id", minimum=0) for entry in tokenizer.sections("added_tokens")
    }
    unknown_id = ids.get(unknown or "", unknown_id)
    for token, piece in enumerate(pieces):
        if not (
            isinstance(piece, list)
            and len(piece) == 2
            and isinstance(piece[0], str)
            and isinstance(piece[1], (int, float))
            and not isinstance(piece[1], bool)
            and abs(piece[1]) < 1e30
        ):
            raise model.wrong("vocab", piece, "a token and its score", token)
        text = piece[0]
        kind = TokenType.NORMAL
        if token == unknown_id:
            kind = TokenType.UNKNOWN
        elif text in special:
            kind = TokenType.CONTROL
        elif text in added:
            kind = TokenType.USER_DEFINED
        vocabulary.put(token, text, kind, float(piece[1]))
    flags = files.settings or Document(files.directory / "tokenizer_config.json", {})
    normalizer = SentencePieceModel(
        [],
        charsmap=_charsmap(tokenizer),
        adds_space=flags.flag("add_prefix_space", False),
        removes_spaces=flags.flag("clean_up_tokenization_spaces", False),
    )
    return _keys(files, vocabulary, normalizer, type_count=True)


def _charsmap(tokenizer: Document) -> bytes:
    """The compiled rules of the normalizer. Raises InvalidError (M-003)."""
    for step in steps(tokenizer.section("normalizer"), "normalizers"):
        if step.text("type", "") == "Precompiled":
            text = step.text("precompiled_charsmap", "")
            try:
                return base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError):
                raise step.wrong("precompiled_charsmap", text[:40], "bytes in base64") from None
    return b""


def _of_pieces(model: SentencePieceModel, n_tokens: int) -> Vocabulary:
    vocabulary = Vocabulary.padding(n_tokens)
    for token, piece in enumerate(model.pieces[:n_tokens]):
        vocabulary.put(token, piece.text, piece.type, piece.score)
    return vocabulary


def _type_count(files: TokenizerFiles) -> Metadata:
    return {TYPE_COUNT: u32(files.config.integer("type_vocab_size", 2))}


def _keys(
    files: TokenizerFiles, vocabulary: Vocabulary, model: SentencePieceModel, *, type_count: bool = False
) -> Metadata:
    """The keys in llama.cpp's order; model: for its normalizer."""
    keys = vocabulary.metadata("t5", "default", scores=True)
    keys["tokenizer.ggml.add_space_prefix"] = boolean(model.adds_space)
    if type_count:
        keys |= _type_count(files)
    keys["tokenizer.ggml.remove_extra_whitespaces"] = boolean(model.removes_spaces)
    if model.charsmap:
        keys["tokenizer.ggml.precompiled_charsmap"] = array(ValueType.UINT8, list(model.charsmap))
    return keys | special_metadata(files, len(vocabulary))


def _not_unigram(files: TokenizerFiles, name: str) -> UnsupportedError:
    message = "a SentencePiece model of another kind than this family uses"
    return UnsupportedError(files.directory / name, Finding("M-024", message, expected="Unigram"))
