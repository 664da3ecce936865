"""`tekken.json`: Mistral's vocabularies of bytes, special tokens first.

Of the file these keys matter: `config.version`, `default_vocab_size` and `default_num_special_tokens`, the
list `special_tokens` with `rank` and `token_str`, and the list `vocab` with `rank` and `token_bytes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gguflow.errors import Finding, InvalidError
from gguflow.models.documents import Document
from gguflow.models.tokenizers.ranks import MAX_TOKENS, check_work, decoded, put

VERSIONS = ("v1", "v2", "v3", "v7", "v11", "v13", "v15")
"""Of Mistral's tokenizers, in their order."""

_LISTED_FROM = VERSIONS.index("v11")
"""The first version whose files have to list their special tokens."""

_SPECIAL = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]"),
    *("[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)
"""Special tokens of the files that do not list them."""

ROLES = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
"""Texts of the special tokens that GGUF has keys for."""


@dataclass(frozen=True)
class Tekken:
    """The content of a tekken.json.

    version: of Mistral's tokenizers, one of VERSIONS.
    special: the special tokens, by id.
    ranks: all other tokens with their ranks, in order; an id is the rank and the number of special tokens.
    """

    version: str
    special: tuple[str, ...]
    ranks: dict[bytes, int]

    @property
    def n_tokens(self) -> int:
        return len(self.special) + len(self.ranks)


def read_tekken(file: Document) -> Tekken:
    """The content of a tekken.json.

    file: as it was read.

    Raises InvalidError (M-002, M-003, M-023: no token for a role, M-025), MalformedError (M-021),
    UnsupportedError (M-024: another version), LimitError (M-026).
    """
    config = file.section("config")
    config.require("version", VERSIONS, "M-024", "a version of Mistral's tokenizers that is not known")
    version = config.text("version")
    n_special = config.integer("default_num_special_tokens", maximum=MAX_TOKENS)
    n_tokens = config.integer("default_vocab_size", minimum=n_special + 256, maximum=MAX_TOKENS)
    special = _special(file, version, n_special)
    ranks: dict[bytes, int] = {}
    for entry, rank in _entries(file, "vocab", n_tokens - n_special):
        token = decoded(entry.text("token_bytes"), entry.at("token_bytes"), file.file)
        if rank < 256 and token != bytes([rank]):
            raise entry.wrong("token_bytes", entry.text("token_bytes"), f"the byte {rank}")
        put(ranks, token, rank, entry.at("token_bytes"), file.file)
    if len(ranks) < n_tokens - n_special:
        found = len(ranks) + n_special
        raise config.wrong("default_vocab_size", n_tokens, f"at most {found}, the tokens that there are")
    check_work(ranks, file.file)
    return Tekken(version, special, ranks)


def _special(file: Document, version: str, n: int) -> tuple[str, ...]:
    """The special tokens, filled up with numbered ones."""
    if "special_tokens" in file:
        texts = [entry.text("token_str") for entry, _ in _entries(file, "special_tokens", n + 1)]
    elif VERSIONS.index(version) < _LISTED_FROM:
        texts = list(_SPECIAL)
    else:
        raise file.missing("special_tokens")
    if len(texts) > n:
        raise file.section("config").wrong("default_num_special_tokens", n, f"at least {len(texts)}")
    texts += [f"<SPECIAL_{i}>" for i in range(len(texts), n)]
    where = file.at("special_tokens")
    if len(set(texts)) < n:
        twice = next(text for i, text in enumerate(texts) if text in texts[:i])
        raise InvalidError(file.file, Finding("M-025", "a special token occurs twice", where, found=twice))
    for text in ROLES.values():
        if text not in texts:
            message = f"there is no special token {text!r}"
            raise InvalidError(file.file, Finding("M-023", message, where, expected=text))
    return tuple(texts)


def _entries(file: Document, key: str, n: int) -> Iterator[tuple[Document, int]]:
    """The first n objects of a list, each with its rank, which is its position."""
    for i, entry in enumerate(file.sections(key)):
        if i == n:
            return
        rank = entry.integer("rank", minimum=0)
        if rank != i:
            raise entry.wrong("rank", rank, f"{i}, its position")
        yield entry, rank
