"""WordPiece (BERT), from tokenizer.json or from vocab.txt: llama.cpp's tokenizer "bert"."""

from __future__ import annotations

from dataclasses import replace

from gguflow.container.metadata import Metadata, boolean, u32
from gguflow.errors import Finding, InvalidError
from gguflow.models.documents import Document, read_text
from gguflow.models.tokenizers.bpe import require_model, whole_vocabulary
from gguflow.models.tokenizers.files import TokenizerFiles, no_tokenizer
from gguflow.models.tokenizers.pre_hash import known_pre_name
from gguflow.models.tokenizers.special_tokens import special_metadata
from gguflow.models.tokenizers.tokenizer_json import named_tokens
from gguflow.models.tokenizers.vocabulary import TokenType, Vocabulary

_LOWERCASE = "tokenizer.ggml.normalizer.lowercase"
_DEFAULT_SPECIAL = frozenset(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
"""BertTokenizer's special tokens, unless tokenizer_config.json names others."""


def wordpiece_metadata(files: TokenizerFiles) -> Metadata:
    """The keys in llama.cpp's order, padded to config's vocab_size.

    Raises InvalidError (M-002, M-003, M-023, M-025), UnsupportedError (M-024), and what special_metadata
    raises.
    """
    if files.tokenizer is None:
        tokens = _from_list(files)
    else:
        require_model(files.tokenizer.section("model"), "WordPiece")
        tokens = whole_vocabulary(files, files.tokenizer)
    spelt = replace(tokens, texts=list(tokens.texts))
    for token, (text, kind) in enumerate(zip(tokens.texts, tokens.types, strict=True)):
        tokens.texts[token] = _phantom(text, kind)
    special = special_metadata(files, files.n_tokens)
    if (
        files.tokenizer is None
        and files.settings is not None
        and not files.settings.flag("do_lower_case", True)
    ):
        special[_LOWERCASE] = boolean(False)
    lowercase = special[_LOWERCASE].value if _LOWERCASE in special else True
    metadata: Metadata = {"tokenizer.ggml.token_type_count": u32(files.config.integer("type_vocab_size", 1))}
    return metadata | tokens.metadata("bert", _pre(files, spelt, lowercase)) | special


def _phantom(text: str, kind: TokenType) -> str:
    """Mark the beginning of words as SentencePiece does, instead of marking other pieces with "##"."""
    if kind is TokenType.CONTROL:
        return text
    return text[2:] if text.startswith("##") else "▁" + text


def _pre(files: TokenizerFiles, tokens: Vocabulary, lowercase: bool) -> str:
    """The pre-tokenizer's name: the known vocabulary's, or that of the best known one that treats case alike;
    llama.cpp ignores it.
    """
    tokenizer = files.tokenizer or _as_tokenizer_json(files, tokens, lowercase)
    return known_pre_name(files, tokenizer) or ("jina-v2-en" if lowercase else "default")


def _as_tokenizer_json(files: TokenizerFiles, tokens: Vocabulary, lowercase: bool) -> Document:
    """What transformers makes of a vocab.txt."""
    ids = {text: token for token, text in enumerate(tokens.texts) if tokens.types[token] != TokenType.UNUSED}
    frame = [ids.get("[CLS]", 0)], [ids.get("[SEP]", 0)]
    values = {
        "normalizer": {"type": "BertNormalizer", "lowercase": lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": ids},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "0"}},
                {"Sequence": {"id": "A"}},
                {"SpecialToken": {"id": "1"}},
            ],
            "special_tokens": {str(index): {"ids": token} for index, token in enumerate(frame)},
        },
    }
    return Document(files.directory / "vocab.txt", values)


def _from_list(files: TokenizerFiles) -> Vocabulary:
    """Tokens from vocab.txt, one per line in the order of ids. Raises InvalidError (M-023, M-025)."""
    text = read_text(files.directory, "vocab.txt")
    if text is None:
        raise no_tokenizer(files.directory, "tokenizer.json", "vocab.txt")
    lines = text.removesuffix("\n").split("\n")
    if len(lines) > files.n_tokens:
        message = (
            "more tokens than the model has embeddings; use the vocab.txt of the model that was fine-tuned, "
            "or save the model again after model.resize_token_embeddings(len(tokenizer))"
        )
        raise InvalidError(
            files.directory / "vocab.txt",
            Finding("M-025", message, found=len(lines), expected=f"{files.n_tokens} at most"),
        )
    special = _DEFAULT_SPECIAL.union(named_tokens(files.settings) if files.settings is not None else ())
    tokens = Vocabulary.padding(files.n_tokens)
    for token, line in enumerate(lines):
        tokens.put(token, line, TokenType.CONTROL if line in special else TokenType.NORMAL)
    return tokens
