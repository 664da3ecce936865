"""ChatGLM 3: a SentencePiece model, and special tokens behind it that the checkpoint's program defines."""

from __future__ import annotations

from gguflow.container.metadata import Metadata
from gguflow.errors import Finding, InvalidError
from gguflow.models.documents import read_bytes
from gguflow.models.tokenizers.files import TokenizerFiles, no_tokenizer
from gguflow.models.tokenizers.sentencepiece_model import read_pieces
from gguflow.models.tokenizers.special_tokens import special_metadata
from gguflow.models.tokenizers.variants import chatglm_metadata
from gguflow.models.tokenizers.vocabulary import TokenType, Vocabulary

FIRST = ("<unk>", "<bos>", "<eos>")
"""Texts of the first tokens, whatever the model calls them."""

SPECIAL = (
    *("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
)
"""The tokens behind those of the model."""


def chatglm3_metadata(files: TokenizerFiles) -> Metadata:
    """From tokenizer.json, as GLM-4 has it; else ChatGLM 3's SentencePiece model, padded to the embeddings.

    files: of the tokenizer.

    Raises InvalidError (M-002, M-003, M-023, M-025), MalformedError (M-021), LimitError (M-022, M-026), and
    what chatglm_metadata raises.
    """
    if files.tokenizer is not None:
        return chatglm_metadata(files)
    content, file = read_bytes(files.directory, "tokenizer.model"), files.directory / "tokenizer.model"
    if content is None:
        raise no_tokenizer(files.directory, "tokenizer.json", "tokenizer.model")
    pieces = read_pieces(content, file)
    n = len(pieces) + len(SPECIAL)
    if n > files.n_tokens:
        message = "the vocabulary has more tokens than the embeddings have rows"
        raise InvalidError(file, Finding("M-025", message, found=n, expected=f"at most {files.n_tokens}"))
    vocabulary = Vocabulary.padding(files.n_tokens)
    vocabulary.scores[:] = [0.0] * files.n_tokens
    for token, piece in enumerate(pieces):
        text = FIRST[token] if token < len(FIRST) else piece.text
        vocabulary.put(token, text, piece.type, piece.score)
    for token, text in enumerate(SPECIAL, len(pieces)):
        vocabulary.put(token, text, TokenType.CONTROL)
    keys = vocabulary.metadata("llama", "chatglm-spm", scores=True)
    return keys | special_metadata(files, files.n_tokens)
