"""Byte-level BPE from tokenizer.json (GPT-2's kind: Llama 3, SmolLM, Qwen): llama.cpp's tokenizer "gpt2"."""

from __future__ import annotations

from collections.abc import Sequence

from gguflow.container.metadata import Metadata, ValueType, array
from gguflow.errors import Finding, UnsupportedError
from gguflow.models.documents import Document
from gguflow.models.tokenizers.files import TokenizerFiles, no_tokenizer
from gguflow.models.tokenizers.pre_hash import known_pre_name
from gguflow.models.tokenizers.pre_tokenizers import pre_tokenizer_name
from gguflow.models.tokenizers.special_tokens import special_metadata
from gguflow.models.tokenizers.tokenizer_json import added_tokens, merge_pairs, own_tokens
from gguflow.models.tokenizers.vocabulary import TokenType, Vocabulary, looks_special, user_defined

_ENCODED_SPACE = chr(ord(" ") + 256)
"""The letter for a space in byte-level BPE."""


def bpe_metadata(
    files: TokenizerFiles, accepted: Sequence[str] = ("tokenizer.json",), *, keeps_marks: bool = False
) -> Metadata:
    """The keys in llama.cpp's order, padded to config's vocab_size.

    files: of the tokenizer.
    accepted: the files that would do, for the message where there is none.
    keeps_marks: whether a mark of SentencePiece in an added token stays, which becomes a space otherwise.

    Raises InvalidError (M-002, M-003, M-023, M-025), UnsupportedError (M-024), and what special_metadata
    raises.
    """
    tokenizer = files.tokenizer
    if tokenizer is None:
        raise no_tokenizer(files.directory, *accepted)
    model = tokenizer.section("model")
    require_model(model, "BPE")
    pre = known_pre_name(files) or pre_tokenizer_name(tokenizer)
    tokens = whole_vocabulary(files, tokenizer, keeps_marks)
    metadata = tokens.metadata("gpt2", pre)
    if merges := merges_of(model):
        metadata["tokenizer.ggml.merges"] = array(ValueType.STRING, merges)
    return metadata | special_metadata(files, files.n_tokens, peer_limits=False)


def require_model(model: Document, kind: str) -> None:
    """Raise UnsupportedError (M-024) for another kind of tokenizer; merges identify BPE in old files."""
    found = model.text("type", "BPE" if "merges" in model else "WordPiece")
    if found != kind:
        advice = (
            "; Unigram tokenizers are not supported: --arch NAME converts the tensors without a tokenizer"
            if found == "Unigram"
            else ""
        )
        message = f"the tokenizer is of a kind that this family of models does not use{advice}"
        raise UnsupportedError(
            model.file, Finding("M-024", message, model.at("type"), found=found, expected=kind)
        )


def whole_vocabulary(files: TokenizerFiles, tokenizer: Document, keeps_marks: bool = False) -> Vocabulary:
    """Own and added tokens with their types, as in llama.cpp's converter (`get_vocab_base`).

    Raises InvalidError (M-003, M-025).
    """
    own = own_tokens(tokenizer, files.n_tokens)
    tokens = Vocabulary.padding(files.n_tokens)
    for token, text in own.items():
        tokens.put(token, text, TokenType.NORMAL)
    for token, added in added_tokens(tokenizer, files.settings, own, files.n_tokens).items():
        if added.special or looks_special(added.text):
            tokens.put(token, added.text, TokenType.CONTROL)
        else:
            text = added.text if keeps_marks else user_defined(added.text)
            tokens.put(token, text, TokenType.USER_DEFINED)
    return tokens


def merges_of(model: Document) -> list[str]:
    """ "a b" for each merge. Newer files have pairs, in which a space would be ambiguous: it is written as
    byte-level BPE writes spaces.
    """
    return [
        f"{left.replace(' ', _ENCODED_SPACE)} {right.replace(' ', _ENCODED_SPACE)}"
        for left, right in merge_pairs(model)
    ]
