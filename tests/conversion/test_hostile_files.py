"""Journals and importance matrices made by hand to hurt: nothing is claimed, or a rule is named."""

from __future__ import annotations

import struct

import pytest

from gguflow.conversion.imatrix import MAX_ENTRIES, parse_imatrix
from gguflow.conversion.journal import Claims, claims_in
from gguflow.errors import FileError, InvalidError, LimitError, MalformedError

DIGEST = "0123456789abcdef" * 2


def dat(name: bytes, values: bytes, n_calls: int = 1) -> bytes:
    return struct.pack("<i", len(name)) + name + struct.pack("<ii", n_calls, len(values) // 4) + values


ONE = struct.pack("<f", 1.0)

IMATRICES: dict[str, tuple[bytes, str, type[FileError]]] = {
    "nothing": (b"", "A-001", MalformedError),
    "2**31 - 1 entries in 4 bytes": (struct.pack("<i", 2**31 - 1), "A-001", MalformedError),
    "too many entries": (
        struct.pack("<i", MAX_ENTRIES + 1) + b"".join(dat(b"%05x" % i, ONE) for i in range(MAX_ENTRIES + 1)),
        "A-018",
        LimitError,
    ),
    "more values than bytes": (struct.pack("<ii1sii", 1, 1, b"a", 1, 2**31 - 1), "A-001", MalformedError),
    "a long name twice": (struct.pack("<i", 2) + 2 * dat(b"n" * 100_000, ONE), "A-004", InvalidError),
    "a long name of NaN": (
        struct.pack("<i", 1) + dat(b"n" * 100_000, struct.pack("<f", float("nan"))),
        "A-006",
        InvalidError,
    ),
    "a name of escapes": (struct.pack("<i", 2) + 2 * dat(b"\x1b[31m\n", ONE), "A-004", InvalidError),
}


@pytest.mark.parametrize(("content", "rule", "error"), IMATRICES.values(), ids=IMATRICES)
def test_imatrix(content: bytes, rule: str, error: type[FileError]) -> None:
    with pytest.raises(error) as caught:
        parse_imatrix("m.dat", memoryview(content))
    assert caught.value.finding.rule == rule
    assert len(str(caught.value)) < 600 and str(caught.value).isprintable()


def test_imatrix_with_as_many_entries_as_may_be() -> None:
    content = struct.pack("<i", MAX_ENTRIES) + b"".join(dat(b"%05x" % i, ONE, -5) for i in range(MAX_ENTRIES))
    read = parse_imatrix("m.dat", memoryview(content))
    assert len(read.entries) == MAX_ENTRIES
    assert read.entries["00000"].of_matrix(0, 1).tolist() == [1.0]


LINES: dict[str, tuple[str, Claims]] = {
    "a leaf": (f"3 4 {DIGEST}", Claims(leaves={(3, 4): bytes.fromhex(DIGEST)})),
    "a chunk": (f"3 4 {DIGEST} 5", Claims(chunks={(3, 4): (bytes.fromhex(DIGEST), 5)})),
    "a leaf of a huge number": (
        f"3 {'9' * 20} {DIGEST}",
        Claims(leaves={(3, 10**20 - 1): bytes.fromhex(DIGEST)}),
    ),
    "5000 digits": (f"3 {'9' * 5000} {DIGEST}", Claims()),
    "5000 digits of bytes": (f"3 4 {DIGEST} {'9' * 5000}", Claims()),
    "Arabic digits": (f"٣ 4 {DIGEST}", Claims()),
    "a sign": (f"-3 4 {DIGEST}", Claims()),
    "a torn line": (f"3 4 {DIGEST[:-1]}", Claims()),
    "capital letters": (f"3 4 {DIGEST.upper()}", Claims()),
    "two spaces": (f"3  4 {DIGEST}", Claims()),
    "one field too many": (f"3 4 {DIGEST} 5 6", Claims()),
    "nothing": ("", Claims()),
}


@pytest.mark.parametrize(("line", "claims"), LINES.values(), ids=LINES)
def test_journal_lines(line: str, claims: Claims) -> None:
    assert claims_in([line]) == claims
