"""Limits bound the work: hostile headers end early, with a typed error, and findings do not pile up."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguflow.container.header import parse
from gguflow.container.limits import DEFAULT_LIMITS, MAX_EXTRA_DIMS
from gguflow.container.metadata import string
from gguflow.container.strings import ChainBrokenError, find_strings
from gguflow.container.writer import build
from gguflow.errors import FileError
from gguflow.validation import examine, validate
from gguflow.validation.bounds import MAX_FINDINGS

U8, F32, STRING, ARRAY = 0, 6, 8, 9


def file(n_tensors: int, n_keys: int, content: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys) + content


def key(name: bytes, kind: int, payload: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + payload


def info(name: bytes, dims: list[int], type_id: int = 0, offset: int = 0) -> bytes:
    head = struct.pack("<Q", len(name)) + name + struct.pack("<I", len(dims))
    return head + struct.pack(f"<{len(dims)}QIQ", *dims, type_id, offset)


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "60,000 dimensions": (lambda: file(1, 0, info(b"t", [2**64 - 1] * 60_000)), "C-014"),
    "dimensions of zero": (lambda: file(1, 0, info(b"t", [0] * 60_000)), "C-014"),
    "more dimensions than are read": (lambda: file(1, 0, info(b"t", [1] * 2**20)), "C-014"),
    "many tensors of many dimensions": (
        lambda: file(100, 0, b"".join(info(b"t%d" % i, [2**64 - 1] * 10_000) for i in range(100))),
        "C-014",
    ),
    "nameless tensors": (lambda: file(200_000, 0, info(b"", []) * 200_000), "C-029"),
    "a tensor over": (lambda: file(2**18 + 1, 0, info(b"", []) * (2**18 + 1)), "C-027"),
    "a key over": (
        lambda: file(0, 2**16 + 1, b"".join(key(b"%d" % i, U8, b"a") for i in range(2**16 + 1))),
        "C-026",
    ),
    "keys at the limit, then the end": (
        lambda: file(1, 2**16, b"".join(key(b"%d" % i, U8, b"a") for i in range(2**16)) + bytes(20)),
        "C-004",
    ),
    "a key of 70 MB": (lambda: file(0, 1, key(b"\xff" * 70_000_000, U8, b"a")), "C-023"),
    "a name of 70 MB": (lambda: file(1, 0, info(b"\xff" * 70_000_000, [])), "C-023"),
    "a string of 70 MB": (
        lambda: file(0, 1, key(b"k", STRING, struct.pack("<Q", 70_000_000) + bytes(70_000_000))),
        "C-023",
    ),
    "keys that break two rules each": (
        lambda: file(0, 50_000, b"".join(key(b"\0\xff%d" % i, F32, b"\xff" * 4) for i in range(50_000))),
        "C-022",
    ),
}


@pytest.mark.parametrize(("content", "rule"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_header_ends_soon(content: Callable[[], bytes], rule: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content())
    start = time.process_time()
    _, findings = examine(path)
    assert time.process_time() - start < 2
    assert findings[0].rule == rule
    assert len(findings) <= 2 * MAX_FINDINGS + 2


def test_what_is_over_a_limit_takes_no_memory() -> None:
    content = file(2**18 + 1, 0, info(b"", []) * (2**18 + 1))
    tracemalloc.start()
    with pytest.raises(FileError, match="C-027"):
        parse(content, "file")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


LIMITS = {
    "header": ({"header_bytes": 100}, "C-025"),
    "strings": ({"string_bytes": 7}, "C-023"),
    "elements": ({"n_elements": 3}, "C-028"),
    "keys": ({"n_keys": 1}, "C-026"),
    "tensors": ({"n_tensors": 1}, "C-027"),
}
SMALL = file(
    2,
    2,
    key(b"k", STRING, struct.pack("<Q", 8) + b"12345678")
    + key(b"l", ARRAY, struct.pack("<IQ", STRING, 4) + bytes(32))
    + info(b"a", [1])
    + info(b"b", [1], offset=32),
)


@pytest.mark.parametrize(("limit", "rule"), LIMITS.values(), ids=LIMITS)
def test_the_parser_stops_at_a_limit(limit: dict[str, int], rule: str) -> None:
    parse(SMALL, "file")
    with pytest.raises(FileError) as caught:
        parse(SMALL, "file", replace(DEFAULT_LIMITS, **limit))
    assert (caught.value.finding.rule, caught.value.verdict) == (rule, "limit")


def test_no_byte_past_the_limit_of_a_header_is_read() -> None:
    """Wherever the limit falls: what comes before it may be malformed, what comes after it is not seen."""
    for limit in range(len(SMALL)):
        with pytest.raises(FileError, match="C-025"):
            parse(SMALL, "file", replace(DEFAULT_LIMITS, header_bytes=limit))
    assert parse(SMALL, "file", replace(DEFAULT_LIMITS, header_bytes=len(SMALL))).end == len(SMALL)


def test_malformed_counts_come_before_their_limits() -> None:
    with pytest.raises(FileError, match="C-004"):
        parse(file(2**40, 2**40, bytes(64)), "file")


def test_extra_dimensions_are_counted_over_all_tensors() -> None:
    each = MAX_EXTRA_DIMS // 4
    four = b"".join(info(b"t%d" % i, [1] * (4 + each)) for i in range(4))
    assert len(parse(file(4, 0, four), "file").tensors) == 4
    with pytest.raises(FileError, match=r"C-014.*found 5, expected 4 or fewer \(at \$.tensors\[4\].n_dims"):
        parse(file(5, 0, four + info(b"u", [1] * 5)), "file")


def test_warnings_hide_no_error(tmp_path: Path) -> None:
    """P-009: a thousand warnings, then an error."""
    path = tmp_path / "model.gguf"
    tensors = info(b"t", [1]) + bytes(9)
    path.write_bytes(
        file(1, 2000, b"".join(key(b"k%d" % i, F32, b"\xff" * 4) for i in range(2000)) + tensors)
    )
    verdict, findings = examine(path)
    assert verdict == "invalid"
    assert [finding.rule for finding in findings[:MAX_FINDINGS]] == ["C-032"] * MAX_FINDINGS
    assert findings[MAX_FINDINGS].rule == "C-019"
    assert (findings[-1].rule, findings[-1].severity) == ("P-009", "warning")
    assert findings[-1].message.startswith("and 1,001 more warnings")  # G-001 is one


def test_errors_end_the_work(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(file(3000, 0, info(b"", [1]) * 3000))
    findings = validate(path)
    assert sum(finding.severity == "error" for finding in findings) == MAX_FINDINGS
    assert findings[-1].message.startswith("there are more errors")


def test_a_thousand_findings_are_listed_without_a_note(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    keys = {"general.architecture": string("x")} | {f"k{i}": string("\x1b") for i in range(MAX_FINDINGS)}
    path.write_bytes(build(keys, ()))
    assert [finding.rule for finding in validate(path)] == ["C-034"] * MAX_FINDINGS


def followed(content: bytes, count: int) -> tuple[list[int], int] | tuple[int, int]:
    """The chain, one string at a time; or where it breaks."""
    starts, position = [], 0
    for i in range(count):
        if position + 8 > len(content):
            return i, position
        end = position + 8 + int.from_bytes(content[position : position + 8], "little")
        if end > len(content):
            return i, position
        starts.append(position)
        position = end
    return starts, position


def found(content: bytes, count: int) -> tuple[list[int], int] | tuple[int, int]:
    try:
        starts, end = find_strings(memoryview(content), 0, count)
    except ChainBrokenError as broken:
        return broken.index, broken.position
    return starts.tolist(), end


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from([b"", b"\0", b"a", bytes(9), bytes(300), b"\3" + bytes(7) + b"abc"]),
            st.binary(max_size=20),
        ),
        max_size=30,
    ),
    st.integers(1, 40),
    st.integers(0, 12),
)
def test_a_chain_is_found_as_if_followed(strings: list[bytes], repeats: int, cut: int) -> None:
    content = b"".join(len(text).to_bytes(8, "little") + text for text in strings) * repeats
    content, count = content[: len(content) - cut], len(strings) * repeats
    if 8 * count > len(content):
        return
    assert found(content, count) == followed(content, count)


def test_the_most_tensors_take_little_memory(tmp_path: Path) -> None:
    n = DEFAULT_LIMITS.n_tensors
    content = file(n, 0, b"".join(info(b"blk.%06d.weight" % i, [1, 1, 1, 300]) for i in range(n)))
    tracemalloc.start()
    try:
        assert len(parse(content, "file").tensors) == n
        assert tracemalloc.get_traced_memory()[1] < 128 << 20
    finally:
        tracemalloc.stop()
