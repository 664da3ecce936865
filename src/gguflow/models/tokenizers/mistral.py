"""Mistral's own tokenizer files: `tekken.json`, or a SentencePiece model named after its version
(`tokenizer.model.v3`).

The version decides how a chat is written. Old ones are known to llama.cpp by name; for two of the later ones
there are templates in `templates/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files as resources
from pathlib import Path

from gguflow.container.metadata import Metadata, ValueType, array, boolean, string, u32
from gguflow.errors import Finding, InvalidError, warn
from gguflow.models.differences import Applied
from gguflow.models.documents import Document, read_bytes
from gguflow.models.tokenizers.chat_template import FILE, KEY, chat_template
from gguflow.models.tokenizers.encoding.byte_letters import spelt
from gguflow.models.tokenizers.files import TokenizerFiles, no_tokenizer
from gguflow.models.tokenizers.ranks import all_merges
from gguflow.models.tokenizers.sentencepiece_model import Piece, read_pieces
from gguflow.models.tokenizers.special_tokens import ADD_KEYS, ID_KEYS
from gguflow.models.tokenizers.tekken import ROLES, VERSIONS, read_tekken
from gguflow.models.tokenizers.vocabulary import TokenType, Vocabulary
from gguflow.sources.huggingface import PARAMS
from gguflow.sources.weights import names_in

TEKKEN = "tekken.json"

_VERSIONED = re.compile(rf".*\.model(\.({'|'.join(VERSIONS)})(m1)?)?")

_NAMES = {
    ("v1", True): "mistral-v1",
    ("v1", False): "mistral-v1",
    ("v3", True): "mistral-v3",
    ("v3", False): "mistral-v3-tekken",
    ("v7", True): "mistral-v7",
    ("v7", False): "mistral-v7-tekken",
}
"""Templates that llama.cpp knows by name, by version, and whether the vocabulary is SentencePiece's."""

_FILES = {"v11": "mistral-v11.jinja", "v13": "mistral-v13.jinja"}


def mistral_metadata(files: TokenizerFiles) -> Metadata:
    """The keys from Mistral's own tokenizer files, in llama.cpp's order.

    files: of the tokenizer; tekken.json has priority, then the last version by name.

    Raises InvalidError (M-002, M-003, M-023, M-025, M-028), MalformedError (M-021), UnsupportedError (M-024),
    LimitError (M-022, M-026), StorageError.
    """
    tekken = Document.read(files.directory, TEKKEN)
    if tekken is not None:
        return _tekken_metadata(files, tekken)
    name = versioned_file(files.directory)
    if name is None:
        raise no_tokenizer(files.directory, TEKKEN, "tokenizer.model.v3")
    return _pieces_metadata(files, name)


def versioned_file(directory: Path) -> str | None:
    """The name of the SentencePiece model of the last version in a directory; None if there is none."""
    return max(filter(_VERSIONED.fullmatch, names_in(directory)), default=None)


def has_only_mistral(files: TokenizerFiles) -> bool:
    """Whether a checkpoint has no tokenizer but Mistral's own."""
    if files.tokenizer is not None:
        return False
    if (files.directory / TEKKEN).is_file():
        return True
    has_plain = (files.directory / "tokenizer.model").is_file()
    return not has_plain and versioned_file(files.directory) is not None


def _tekken_metadata(files: TokenizerFiles, document: Document) -> Metadata:
    tekken = read_tekken(document)
    _check_size(files, tekken.n_tokens, document.file)
    vocabulary = Vocabulary.padding(files.n_tokens)
    for token, text in enumerate(tekken.special):
        vocabulary.put(token, text, TokenType.CONTROL)
    for content, rank in tekken.ranks.items():
        vocabulary.put(len(tekken.special) + rank, spelt(content), TokenType.NORMAL)
    merges = array(ValueType.STRING, all_merges(tekken.ranks, document.file))
    ids = {role: tekken.special.index(text) for role, text in ROLES.items()}
    head = {"tokenizer.ggml.merges": merges}
    files.config.applied.add("scores-of-tekken")
    return _keys(files, vocabulary, "gpt2", "tekken", head, ids, tekken.version)


def _pieces_metadata(files: TokenizerFiles, name: str) -> Metadata:
    content, file = read_bytes(files.directory, name), files.directory / name
    pieces = read_pieces(content or b"", file)
    _check_size(files, len(pieces), file)
    vocabulary = Vocabulary.padding(files.n_tokens)
    for token, piece in enumerate(pieces):
        vocabulary.put(token, piece.text, piece.type, piece.score)
    match = _VERSIONED.fullmatch(name)
    version = "v1" if match is None or match[2] is None else match[2]
    return _keys(files, vocabulary, "llama", None, {}, _piece_ids(pieces, file), version)


def _piece_ids(pieces: list[Piece], file: Path) -> dict[str, int]:
    """The ids of the special tokens; without padding, the end of a text serves."""
    control = {piece.text: token for token, piece in enumerate(pieces) if piece.type is TokenType.CONTROL}
    for role in ("bos", "eos"):
        if ROLES[role] not in control:
            message = f"there is no control token {ROLES[role]!r}"
            raise InvalidError(file, Finding("M-023", message, expected=ROLES[role]))
    unknown = next(token for token, piece in enumerate(pieces) if piece.type is TokenType.UNKNOWN)
    bos, eos = control[ROLES["bos"]], control[ROLES["eos"]]
    return {"bos": bos, "eos": eos, "unk": unknown, "pad": control.get(ROLES["pad"], eos)}


def _check_size(files: TokenizerFiles, n: int, file: Path) -> None:
    if n > files.n_tokens:
        message = "the vocabulary has more tokens than the embeddings have rows"
        raise InvalidError(file, Finding("M-025", message, found=n, expected=f"at most {files.n_tokens}"))
    if n < files.n_tokens:
        files.config.applied.add("padding-of-tokenizer-json")


def _keys(
    files: TokenizerFiles,
    vocabulary: Vocabulary,
    model: str,
    pre: str | None,
    head: Metadata,
    ids: Mapping[str, int],
    version: str,
) -> Metadata:
    whole = vocabulary.metadata(model, pre or "", scores=True)
    keys = {key: whole.pop(key) for key in ("tokenizer.ggml.model", "tokenizer.ggml.pre")}
    if pre is None:
        del keys["tokenizer.ggml.pre"]
    keys |= head
    keys |= {ID_KEYS[role]: u32(ids[role]) for role in ("bos", "eos", "unk", "pad")}
    keys |= whole
    keys |= {ADD_KEYS["bos"]: boolean(True), ADD_KEYS["eos"]: boolean(False)}
    return keys | _template(files, version, is_spm=model == "llama")


def _template(files: TokenizerFiles, version: str, *, is_spm: bool) -> Metadata:
    """The chat template: the checkpoint's own if it has one, else that of the tokenizer's version."""
    own = chat_template(files.directory, files.settings, Applied())
    if own:
        is_native = files.config.file.name == PARAMS and (files.directory / FILE).is_file()
        if not is_native:
            files.config.applied.add("chat-template-file")
        return own
    if (name := _NAMES.get((version, is_spm))) is not None:
        return {KEY: string(name)}
    if version in _FILES:
        return {KEY: string(_bundled(_FILES[version]))}
    message = (
        f"there is no chat template for {version} of Mistral's tokenizers; "
        f"put the model's own into {FILE} beside the weights"
    )
    warn(files.directory, Finding("M-052", message, found=version))
    return {}


@cache
def _bundled(name: str) -> str:
    return resources("gguflow.models.tokenizers").joinpath("templates", name).read_text(encoding="utf-8")
