"""Changes of valid inputs that keep most of them: of texts, of bytes, and of JSON values."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

LETTERS = (
    *"aAzZ019 _-.,:;=+*?!|/\\()[]{}<>'\"#%&@~^$\n\t\0",
    *("é", "٣", "\u2581", "\ud800", "\U0001f600", "\u202e"),
)
NUMBERS = ("0", "-1", "1", "00", "4294967295", "4294967296", "1e400", "1e39", "nan", "inf", "1_0", "9" * 30)


def changed_text(seeds: Sequence[str], rng: random.Random, pieces: Sequence[str] = ()) -> str:
    """One of the seeds with up to three changes.

    seeds: valid texts.
    rng: chooses.
    pieces: what may be put in, beside letters and numbers.
    """
    text = rng.choice(seeds)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        first = rng.randrange(len(text) + 1)
        last = min(len(text), first + rng.choice((0, 0, 1, 1, 2, 8)))
        kind = rng.randrange(6)
        if kind < 2:
            new = rng.choice(LETTERS)
        elif kind == 2:
            new = rng.choice(NUMBERS)
        elif kind == 3 and pieces:
            new = rng.choice(pieces)
        elif kind == 4:
            other = rng.choice(seeds)
            start = rng.randrange(len(other) + 1)
            new = other[start : start + rng.choice((2, 4, 8, 40))]
        else:
            new = text[first:last] * 2
        text = text[:first] + new + text[last:]
    return text


def changed_json(
    seed: Any, rng: random.Random, keys: Sequence[str], values: Sequence[Any], n_changes: int = 3
) -> Any:
    """A JSON value with up to `n_changes` parts replaced, removed, or repeated under another key.

    seed: a valid value.
    rng: chooses.
    keys: that may be put into an object.
    values: that may replace a part.
    n_changes: how many at most.
    """
    value = copy.deepcopy(seed)
    for _ in range(rng.randrange(n_changes + 1)):
        paths = places(value)
        if not paths:
            break
        *path, last = rng.choice(paths)
        parent = value
        for key in path:
            parent = parent[key]
        kind = rng.randrange(5)
        if kind < 2:
            parent[last] = copy.deepcopy(rng.choice(values))
        elif kind == 2:
            del parent[last]
        elif kind == 3 and isinstance(parent, dict):
            parent[rng.choice(keys)] = copy.deepcopy(rng.choice((*values, parent[last])))
        elif isinstance(parent, list):
            parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(parent[last]))
        elif isinstance(parent[last], (int, float)) and not isinstance(parent[last], bool):
            parent[last] += rng.choice((-1, 1, 0.5))
        else:
            parent[last] = [parent[last]]
    return value


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, part in inner for found in ((*path, key), *places(part, (*path, key)))]


def changed_bytes(seeds: Sequence[bytes], rng: random.Random, pieces: Sequence[bytes]) -> bytes:
    """One of the seeds with some places overwritten, cut out, or filled with something from elsewhere.

    seeds: valid files.
    rng: chooses.
    pieces: what may be put in.
    """
    content = bytearray(rng.choice(seeds))
    for _ in range(rng.randrange(5)):
        first = rng.randrange(len(content) + 1)
        last = min(len(content), first + rng.choice((0, 1, 1, 2, 4, 8, 100)))
        other = rng.randrange(len(content) + 1)
        content[first:last] = rng.choice(
            (rng.randbytes(rng.randrange(4)), bytes(content[other : other + 20]), rng.choice(pieces))
        )
    return bytes(content if rng.random() < 0.9 else content[: len(content) // 2])


def as_bytes(value: Any, rng: random.Random) -> bytes:
    """A JSON document of a value, sometimes with a byte that is wrong."""
    content = bytearray(json.dumps(value, ensure_ascii=rng.random() < 0.8).encode("utf-8", "surrogatepass"))
    if rng.random() < 0.1:
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)
