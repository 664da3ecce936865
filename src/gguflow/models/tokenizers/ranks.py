"""Vocabularies of byte strings with ranks, as tiktoken has them, and the merges of byte-level BPE for them.

tiktoken merges the two neighbours that together have the lowest rank; GGUF's tokenizer "gpt2" has a list of
merges instead. There are two ways to make it: of every token all pairs of tokens that it can be cut into
(`all_merges`), or of every token the pair that is left when what has a lower rank is merged (`last_merges`).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path

from gguflow.errors import Finding, InvalidError, LimitError, MalformedError
from gguflow.models.tokenizers.encoding.byte_letters import spelt

Ranks = Mapping[bytes, int]
"""Tokens, in the order of the file, with their ranks."""

MAX_TOKENS = 1 << 20
MAX_WORK = 1 << 26
"""The most that the squares of the tokens' lengths may add up to. Known vocabularies have at most 2^23."""

_LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) ([0-9]{1,7})")


def read_ranks(content: bytes, file: Path) -> dict[bytes, int]:
    """The tokens of a tiktoken file: in each line a token in base64, and its rank.

    content: of the file.
    file: for messages.

    Raises MalformedError (M-021: a line that is something else, ranks that are not 0, 1, 2, ...),
    InvalidError (M-025: a token twice), LimitError (M-026).
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line:
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            message = f"line {number} is not a token in base64 and its rank"
            raise MalformedError(file, Finding("M-021", message, found=line[:60].decode("latin-1")))
        put(ranks, decoded(match[1], f"line {number}", file), int(match[2]), f"line {number}", file)
    if not ranks or sorted(ranks.values()) != list(range(len(ranks))):
        message = "the ranks are not all numbers from 0 on, each once"
        raise MalformedError(file, Finding("M-021", message, found=f"{len(ranks)} tokens"))
    check_work(ranks, file)
    return ranks


def decoded(text: str | bytes, where: str, file: Path) -> bytes:
    """A token from base64.

    text: in base64.
    where: it stands, for messages.
    file: for messages.

    Raises MalformedError (M-021).
    """
    try:
        token = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedError(file, Finding("M-021", "a token that is not base64", where)) from None
    if not token:
        raise MalformedError(file, Finding("M-021", "an empty token", where))
    return token


def put(ranks: dict[bytes, int], token: bytes, rank: int, where: str, file: Path) -> None:
    """Add a token.

    ranks: where it is added.
    token: its bytes.
    rank: its rank.
    where: it stands, for messages.
    file: for messages.

    Raises InvalidError (M-025), LimitError (M-026).
    """
    if token in ranks:
        raise InvalidError(file, Finding("M-025", "a token occurs twice", where, found=spelt(token)))
    if len(ranks) == MAX_TOKENS:
        raise LimitError(file, Finding("M-026", "too many tokens", expected=f"at most {MAX_TOKENS}"))
    ranks[token] = rank


def check_work(ranks: Ranks, file: Path) -> None:
    """Raise LimitError (M-026) if the search for merges would take very long."""
    if (work := sum(len(token) ** 2 for token in ranks)) > MAX_WORK:
        message = "the tokens are too long: the squares of their lengths add up to too much"
        raise LimitError(file, Finding("M-026", message, found=work, expected=f"at most {MAX_WORK}"))


def all_merges(ranks: Ranks, file: Path) -> list[str]:
    """The merges "a b" of all tokens but single bytes, by rank: of each all ways to cut it into two tokens,
    those of the lowest ranks first.

    ranks: of the tokens.
    file: for messages.

    Raises InvalidError (M-028) for a token that cannot be cut.
    """
    merges: list[str] = []
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        cuts = [
            (ranks[token[:i]], ranks[token[i:]], i)
            for i in range(1, len(token))
            if token[:i] in ranks and token[i:] in ranks
        ]
        if not cuts:
            raise _no_merge(token, file)
        merges += [f"{spelt(token[:i])} {spelt(token[i:])}" for *_, i in sorted(cuts)]
    return merges


def last_merges(ranks: Ranks, file: Path, *, skips: bool = False) -> list[str]:
    """The merges "a b" of all tokens but single bytes, in the file's order: of each the two parts that are
    left when everything in it that has a lower rank has been merged.

    ranks: of the tokens.
    file: for messages.
    skips: whether tokens that no merge makes are passed over; else they are an error.

    Raises InvalidError (M-028) for a token that more than two parts are left of.
    """
    merges: list[str] = []
    for token, rank in ranks.items():
        if len(token) == 1:
            continue
        parts = _parts(ranks, token, rank)
        if len(parts) == 2:
            merges.append(" ".join(map(spelt, parts)))
        elif not skips:
            raise _no_merge(token, file)
    return merges


def _parts(ranks: Ranks, token: bytes, below: int) -> list[bytes]:
    """What is left of a token when all neighbours of a rank below the given one have been merged."""
    parts = [token[i : i + 1] for i in range(len(token))]
    found = [ranks.get(token[i : i + 2], below) for i in range(len(token) - 1)]
    while found and (lowest := min(found)) < below:
        i = found.index(lowest)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
        del found[i]
        if i < len(found):
            found[i] = ranks.get(parts[i] + parts[i + 1], below)
        if i:
            found[i - 1] = ranks.get(parts[i - 1] + parts[i], below)
    return parts


def _no_merge(token: bytes, file: Path) -> InvalidError:
    message = "no two tokens make this one, so that byte-level BPE cannot have it"
    return InvalidError(file, Finding("M-028", message, found=spelt(token)))
