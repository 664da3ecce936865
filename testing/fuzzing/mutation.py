"""Mutations that keep most of a file's structure: what random bytes never reach lies behind ten right
fields.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

INTERESTING = (
    0,
    1,
    2,
    3,
    7,
    8,
    9,
    13,
    31,
    32,
    33,
    255,
    256,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**61,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
MAX_NBYTES = 1 << 16


def overwrite_byte(data: bytearray, others: Sequence[bytes], rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.randrange(256)


def flip_bit(data: bytearray, others: Sequence[bytes], rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite_number(data: bytearray, others: Sequence[bytes], rng: random.Random) -> None:
    """A u32 or u64 anywhere becomes one of the numbers at which arithmetic breaks, or one near to them."""
    size, code = rng.choice(((4, "<I"), (8, "<Q")))
    if len(data) >= size:
        at = rng.randrange(len(data) - size + 1)
        value = (rng.choice(INTERESTING) + rng.choice((0, 0, 0, -1, 1))) % (1 << 8 * size)
        data[at : at + size] = struct.pack(code, value)


def nudge_number(data: bytearray, others: Sequence[bytes], rng: random.Random) -> None:
    """A length or a count, one more or one less: a byte that is followed by zeros is probably one."""
    places = [i for i in range(len(data) - 4) if data[i] and not any(data[i + 1 : i + 4])][:200]
    if places:
        at = rng.choice(places)
        data[at] = (data[at] + rng.choice((-1, 1, 8, -8))) % 256


def copy_part(data: bytearray, others: Sequence[bytes], rng: random.Random) -> None:
    """A part of this file, or of another one, stands somewhere else too."""
    source = rng.choice((bytes(data), rng.choice(others)))
    if source:
        start = rng.randrange(len(source))
        at = rng.randrange(len(data) + 1)
        data[at:at] = source[start : start + rng.choice((1, 4, 8, 16, 64, 256))]


def remove_part(data: bytearray, others: Sequence[bytes], rng: random.Random) -> None:
    if data:
        start = rng.randrange(len(data))
        del data[start : start + rng.choice((1, 4, 8, 16, 64))]


def truncate(data: bytearray, others: Sequence[bytes], rng: random.Random) -> None:
    if data:
        del data[rng.randrange(len(data)) :]


MUTATIONS: tuple[Callable[[bytearray, Sequence[bytes], random.Random], None], ...] = (
    overwrite_byte,
    flip_bit,
    overwrite_number,
    overwrite_number,
    nudge_number,
    copy_part,
    remove_part,
    truncate,
)


def mutated(seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """One of the seeds with one to five mutations."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        rng.choice(MUTATIONS)(data, seeds, rng)
    return bytes(data[:MAX_NBYTES])
