"""Byte-level BPE as tiktoken keeps it: tokens by rank, without merges, which follow from the ranks."""

from __future__ import annotations

import base64
import binascii
import itertools
from collections.abc import Mapping, Sequence

from gguflow.container.metadata import Metadata, ValueType, array
from gguflow.errors import Finding, LimitError, MalformedError
from gguflow.models.documents import read_bytes
from gguflow.models.tokenizers.encoding.byte_letters import spelt
from gguflow.models.tokenizers.files import TokenizerFiles, no_tokenizer
from gguflow.models.tokenizers.special_tokens import special_metadata
from gguflow.models.tokenizers.vocabulary import TokenType, Vocabulary

MAX_SQUARES = 1 << 26
"""Of all tokens' lengths in bytes, the sum of squares: what finding merges takes. Qwen's have about 2^23."""

Ranks = Mapping[bytes, int]


def tiktoken_metadata(files: TokenizerFiles, ranks: Ranks, special: Sequence[str], pre: str) -> Metadata:
    """The keys from a list of ranks, padded to config's vocab_size.

    files: of the tokenizer.
    ranks: the tokens.
    special: further tokens, whose ids follow those of the ranks.
    pre: name of the pre-tokenizer.

    Raises MalformedError (M-021) for ranks from which no merges follow, and what special_metadata raises.
    """
    vocabulary = Vocabulary.padding(files.n_tokens)
    for content, rank in ranks.items():
        if rank < files.n_tokens:
            vocabulary.put(rank, spelt(content), TokenType.NORMAL)
    for token, text in enumerate(special, start=1 + max(ranks.values())):
        if token < files.n_tokens:
            vocabulary.put(token, text, TokenType.CONTROL)
    keys = vocabulary.metadata("gpt2", pre)
    keys["tokenizer.ggml.merges"] = array(ValueType.STRING, merges(files, ranks))
    return keys | special_metadata(files, files.n_tokens, peer_limits=False)


def read_ranks(files: TokenizerFiles, name: str) -> Ranks:
    """The tokens and their ranks: lines of a token in base64 and a number.

    files: of the tokenizer.
    name: of the file.

    Raises InvalidError (M-023) if there is none, MalformedError (M-021) for a line that is something else or
    a rank that occurs twice, LimitError (M-026) for tokens that are too long, and what read_bytes raises.
    """
    content = read_bytes(files.directory, name)
    if content is None:
        raise no_tokenizer(files.directory, name)
    path = files.directory / name
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        text, _, rank = line.partition(b" ")
        try:
            token = base64.b64decode(text, validate=True)
        except binascii.Error:
            token = b""
        if not token or not rank.strip().isdigit() or len(rank) > 10 or token in ranks:
            expected = "a token in base64 that is not there yet, and its rank"
            finding = Finding("M-021", f"line {number} is no token", found=line[:80], expected=expected)
            raise MalformedError(path, finding)
        ranks[token] = int(rank)
    if not ranks or sorted(ranks.values()) != list(range(len(ranks))):
        message = "the ranks are not all numbers from 0 on, each once"
        raise MalformedError(path, Finding("M-021", message, found=f"{len(ranks)} tokens"))
    if (work := sum(len(token) ** 2 for token in ranks)) > MAX_SQUARES:
        message = "tokens are so long that finding their merges would take too long"
        raise LimitError(path, Finding("M-026", message, found=work, expected=f"at most {MAX_SQUARES}"))
    return ranks


def merges(files: TokenizerFiles, ranks: Ranks) -> list[str]:
    """The merge behind each token of several bytes: what is left of it if tokens of its rank and later ones
    are not used.

    files: of the tokenizer, for messages.
    ranks: the tokens.

    Raises MalformedError (M-021) for a token that no two others make.
    """
    found = []
    for token, rank in ranks.items():
        if len(token) > 1:
            parts = _parts(ranks, token, rank)
            if len(parts) != 2:
                message = "a token that two earlier ones do not make"
                raise MalformedError(files.directory, Finding("M-021", message, found=spelt(token)))
            found.append(f"{spelt(parts[0])} {spelt(parts[1])}")
    return found


def _parts(ranks: Ranks, token: bytes, limit: int) -> list[bytes]:
    """Byte-pair encoding with the tokens whose rank is below a limit."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 1:
        pairs = enumerate(itertools.pairwise(parts))
        rank, i = min((ranks.get(a + b, limit), i) for i, (a, b) in pairs)
        if rank >= limit:
            break
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts
