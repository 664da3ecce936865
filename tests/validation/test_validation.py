"""The validator beyond the corpus: ggml as a third party on blocks, the promises about memory, time and
behaviour, and the command.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import os
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gguflow
from gguflow.blocks import FORMATS, BlockFormat
from gguflow.cli import main
from gguflow.cli.validate import report
from gguflow.container import grammar
from gguflow.container.header import TensorInfo, parse
from gguflow.container.limits import DEFAULT_LIMITS
from gguflow.container.metadata import ValueType, array, string, u32
from gguflow.container.strings import StringArray, find_strings
from gguflow.container.writer import build
from gguflow.errors import FileError, InvalidError, StorageError, UsageError
from gguflow.validation import canonical, examine, values
from testing import ggml
from testing.checkpoints import TINY
from testing.corpus.bytes import ARCHITECTURE, STRING, U32, gguf, header_only, key_value, tensor_info
from testing.corpus.bytes import array as array_bytes

FILES = Path(__file__).resolve().parents[2] / "fixtures" / "files"
LEVELS = ("structure", "values", "strict")


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def rules(findings: list[gguflow.Finding]) -> list[str]:
    return [finding.rule for finding in findings]


# --- blocks ---------------------------------------------------------------------------------------

CODES = [
    pytest.param(f, code, id=f"{f.name} {code.what}") for f in FORMATS.values() for code in f.reserved_codes
]


def good_blocks(block_format: BlockFormat, n: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """n random blocks without a reserved code."""
    packed = np.random.default_rng(block_format.id).integers(
        0, 256, (n, block_format.type_size), dtype=np.uint8
    )
    for code in block_format.reserved_codes:
        packed[:, code.offset : code.offset + code.width] &= np.frombuffer(
            (~code.mask % 256**code.width).to_bytes(code.width, "little"), np.uint8
        )
        packed[0, code.offset] |= 1
    return packed


def ggml_takes(block_format: BlockFormat, packed: np.ndarray[Any, np.dtype[np.uint8]]) -> bool:
    """ggml_validate_row_data; what it prints goes to the test's stderr."""
    library = ggml.library()
    library.ggml_validate_row_data.restype = ctypes.c_bool
    library.ggml_validate_row_data.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    packed = np.ascontiguousarray(packed)
    return bool(library.ggml_validate_row_data(block_format.id, packed.ctypes.data, packed.nbytes))


@pytest.mark.parametrize(("block_format", "code"), CODES)
def test_reserved_codes_are_what_ggml_refuses(block_format: BlockFormat, code: Any) -> None:
    """Each bit pattern of the code alone, in the middle of good blocks; ggml says the same, but for what it
    tolerates.
    """
    packed = good_blocks(block_format, 37)
    assert values.first_reserved(packed.reshape(-1), block_format, code) == -1
    assert ggml_takes(block_format, packed)
    for extra in (0, 256**code.width - 1):
        bad = packed.copy()
        word = (code.mask | extra).to_bytes(code.width, "little")
        bad[20, code.offset : code.offset + code.width] = np.frombuffer(word, np.uint8)
        if code.width == 1 and extra and code.tolerated:
            continue  # bit 7 of NVFP4's scales has no meaning
        assert values.first_reserved(bad.reshape(-1), block_format, code) == 20
        assert ggml_takes(block_format, bad) == code.tolerated


@pytest.mark.parametrize("block_format", [pytest.param(f, id=f.name) for f in FORMATS.values()])
def test_ggml_refuses_no_block_that_we_take(block_format: BlockFormat) -> None:
    """One random block after the other."""
    packed = np.random.default_rng(1).integers(0, 256, (400, block_format.type_size), dtype=np.uint8)
    packed[::2, -2:] = 0xFF
    for row in packed:
        ours = all(
            code.tolerated or values.first_reserved(row, block_format, code) == -1
            for code in block_format.reserved_codes
        )
        if block_format.name == "F64" and ours:  # ggml narrows to F32 before it looks
            with np.errstate(over="ignore"):
                ours = bool(np.isfinite(row.view("<f8").astype(np.float32)[0]))
        assert ours == ggml_takes(block_format, row)


@pytest.mark.parametrize("threads", [1, 3])
def test_all_bad_blocks_are_counted_across_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """A leaf of Q8_0 has 32,768 blocks; here are two and a part."""
    monkeypatch.setattr(values, "_STRIP", 34 * 3000)
    packed = np.tile(good_blocks(FORMATS["q8_0"], 1), (70_000, 1))
    for block in (7, 2999, 3000, 32_767, 32_768, 69_999):
        packed[block, :2] = (0x00, 0x7C)
    infos = [TensorInfo("t", (32, 70_000), 8, 0)]
    head = build({"general.architecture": string("example"), "general.quantization_version": u32(2)}, infos)
    (finding,) = gguflow.validate(
        write(tmp_path / "m.gguf", head + packed.tobytes()), "values", threads=threads
    )
    assert (finding.rule, finding.offset, finding.path) == (
        "V-001",
        len(head) + 7 * 34,
        "$.tensors[0].data[7].d",
    )
    assert "6 of 70000" in finding.message


# --- behaviour of readers -------------------------------------------------------------------------

HOSTILE = [
    pytest.param(header_only([ARCHITECTURE], []), id="good"),
    *(
        pytest.param(path.read_bytes(), id=path.name)
        for path in sorted((FILES / "invalid").glob("*.gguf"))
        if path.stat().st_size < 4096
    ),
]


@pytest.mark.parametrize("content", HOSTILE)
def test_memory_stays_in_proportion(tmp_path: Path, content: bytes) -> None:
    """P-001, P-002: whatever a small file claims."""
    path = write(tmp_path / "m.gguf", content)
    examine(path)  # modules are loaded
    tracemalloc.start()
    try:
        examine(path)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_43_hostile_bytes_are_refused_at_once() -> None:
    path = FILES / "invalid" / "H12-hostile-43-bytes.gguf"
    examine(path)
    start = time.perf_counter()
    assert rules(gguflow.validate(path)) == ["C-004"]
    assert time.perf_counter() - start < 0.05


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(LEVELS))
def test_any_bytes_give_a_verdict(content: bytes, level: str) -> None:
    """P-003, behind a good beginning too."""
    for data in (content, b"GGUF\3\0\0\0" + content, gguf()[:-3] + content):
        try:
            header = parse(data, "file")
        except FileError:
            continue
        list(
            gguflow.validation.judge_gguf(Path("m.gguf"), memoryview(data), header, level, DEFAULT_LIMITS, 1)
        )


def test_templates_are_data(tmp_path: Path) -> None:
    """P-004: a template that would not end, and one that would act, are judged as text; nothing that renders
    is loaded. Others are tried (G-018): tests/models/test_chat_templates.py.
    """
    template = "{% for i in range(10**12) %}{{ ''.__class__ }}{% endfor %}"
    path = write(
        tmp_path / "m.gguf", gguf([ARCHITECTURE, key_value("tokenizer.chat_template", STRING, template)])
    )
    program = (
        "import sys, gguflow; "
        f"print([f.rule for f in gguflow.validate({str(path)!r}, 'strict')], 'jinja2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "['G-017'] False\n", done.stderr


def test_what_is_shown_is_escaped() -> None:
    """P-005."""
    done = command(
        FILES / "valid" / "T04-name-with-escape.gguf",
        FILES / "valid" / "V25-terminal-escapes.gguf",
        FILES / "valid" / "K05-key-with-escape.gguf",
    )
    assert done.stdout
    assert all(c.isprintable() or c == "\n" for c in done.stdout)
    assert "\\x1b" in done.stdout


def test_structure_reads_no_data(tmp_path: Path) -> None:
    """P-006: a file with a terabyte of (sparse) data is judged in no time."""
    path = tmp_path / "m.gguf"
    head = build({"general.architecture": string("example")}, [TensorInfo("t", (1 << 38,), 0, 0)])
    with path.open("wb") as file:
        file.write(head)
        try:
            file.truncate(len(head) + (1 << 40))
        except OSError:
            pytest.skip("this file system has no sparse files of a terabyte")
    start = time.perf_counter()
    assert gguflow.validate(path) == []
    assert time.perf_counter() - start < 2


def test_nesting_does_not_recurse() -> None:
    """P-007: refused at the first level, however deep it goes on."""
    path = FILES / "invalid" / "V11-deeply-nested.gguf"
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 60)
    try:
        with pytest.raises(FileError) as caught:
            parse(path.read_bytes(), "file")
    finally:
        sys.setrecursionlimit(limit)
    assert caught.value.finding.rule == "C-007"


@pytest.mark.parametrize(
    "name", ["D08-empty-tensor-at-a-page", "D08-empty-tensor-at-the-end", "T08-dimension-0"]
)
def test_tensors_without_bytes(name: str) -> None:
    """P-008: at every level, at the end of the file and of a page."""
    for level in LEVELS[:2]:
        assert gguflow.validate(FILES / "valid" / f"{name}.gguf", level) == []


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """C-035: opening a pipe would wait for a writer."""
    pipe = tmp_path / "m.gguf"
    os.mkfifo(pipe)
    assert examine(pipe)[0] == "invalid"
    assert rules(gguflow.validate(pipe)) == ["C-035"]


# --- behaviour of writers -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("converted") / "model.gguf"
    gguflow.convert(TINY, output, type="q4_k_m")
    return output


def test_our_files_are_canonical(converted: Path) -> None:
    """W-005, and W-002: what our writer writes has nothing that the strictest level could say."""
    assert examine(converted, "strict") == ("valid", [])


def test_the_size_is_known_before_the_data(converted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """W-001: the plan, made without reading weights, has the file's size and every offset."""
    assert main(["convert", str(TINY), "-t", "q4_k_m", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["nbytes"] == converted.stat().st_size
    assert [tensor["offset"] for tensor in plan["tensors"]] == [
        tensor.offset for tensor in parse(converted.read_bytes(), "file").tensors
    ]


def test_a_header_that_breaks_a_rule_is_not_written(tmp_path: Path) -> None:
    """W-002: a name that no other reader takes."""
    from testing.source_files import safetensors_bytes

    source = write(
        tmp_path / "model.safetensors", safetensors_bytes({"n" * 64: np.ones((2, 32), np.float32)})
    )
    output = tmp_path / "model.gguf"
    with pytest.raises(InvalidError):
        gguflow.convert(source, output, type="f16", architecture="example")
    assert not output.exists()


def test_a_source_is_not_written_to(tmp_path: Path) -> None:
    """W-004, through a link too."""
    from testing.source_files import safetensors_bytes

    content = safetensors_bytes({"t": np.ones((2, 32), np.float32)})
    source = write(tmp_path / "model.safetensors", content)
    (tmp_path / "link.gguf").symlink_to(source)
    for output in (source, tmp_path / "link.gguf"):
        with pytest.raises(UsageError):
            gguflow.convert(source, output, type="f16", architecture="example", overwrite=True)
    assert source.read_bytes() == content


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    """W-003: a conversion that fails at a weight leaves what was there before, and nothing half written under
    the name.
    """
    from testing.source_files import safetensors_bytes

    source = write(
        tmp_path / "model.safetensors", safetensors_bytes({"t.weight": np.full((2, 32), np.nan, np.float32)})
    )
    output = write(tmp_path / "model.gguf", b"what was there")
    with pytest.raises(gguflow.GguflowError):
        gguflow.convert(source, output, type="q8_0", architecture="example", overwrite=True)
    assert output.read_bytes() == b"what was there"


# --- strings --------------------------------------------------------------------------------------


def chain(texts: list[bytes]) -> bytes:
    return b"".join(struct.pack("<Q", len(text)) + text for text in texts)


texts = st.lists(
    st.one_of(
        st.binary(max_size=4),
        st.sampled_from([b"", b"\0" * 9, b"x" * 255, b"x" * 256, b"\1" + b"\0" * 12, b"x" * 5000]),
    ),
    max_size=300,
)


@settings(max_examples=150, deadline=None)
@given(texts, st.binary(max_size=20))
def test_strings_are_found_as_a_loop_finds_them(found: list[bytes], behind: bytes) -> None:
    """Long strings, empty ones, and such as look like lengths."""
    buffer = memoryview(b"head" + chain(found) + behind)
    starts, end = find_strings(buffer, 4, len(found))
    strings = StringArray(buffer, starts)
    assert [strings.raw(i) for i in range(len(found))] == found
    assert end == len(buffer) - len(behind)


def test_a_large_vocabulary_takes_no_time(tmp_path: Path) -> None:
    """150,000 tokens and 280,000 merges; the time of the processor, as others may be at work: 25 ms where it
    was measured.
    """
    tokens = [f"tok{i * 2654435761 % 999983:x}" for i in range(150_000)]
    merges = [
        f"{a} {b}" for a, b in zip(tokens + tokens[:130_000], tokens[1:] + tokens[:130_001], strict=True)
    ]
    metadata = {
        "general.architecture": string("example"),
        "tokenizer.ggml.model": string("gpt2"),
        "tokenizer.ggml.tokens": array(ValueType.STRING, tokens),
        "tokenizer.ggml.token_type": array(ValueType.INT32, [1] * len(tokens)),
        "tokenizer.ggml.merges": array(ValueType.STRING, merges),
    }
    path = write(tmp_path / "m.gguf", build(metadata, ()))
    examine(path)
    times = []
    for _ in range(3):
        start = time.process_time()
        assert examine(path) == ("valid", [])
        times.append(time.process_time() - start)
    assert min(times) < 0.1


# --- strict ---------------------------------------------------------------------------------------


def test_the_grammar_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """C-066: where parser and grammar fall apart, or parser and builder."""
    content = gguf()
    header = parse(content, "file")
    assert list(canonical.judge_canonical(memoryview(content), header, lambda _: None)) == []
    monkeypatch.setattr(grammar, "complaint", lambda data: "no")
    assert rules(list(canonical.judge_canonical(memoryview(content), header, lambda _: None))) == ["C-066"]
    monkeypatch.undo()
    monkeypatch.setattr(canonical, "build", lambda *arguments: b"other bytes")
    assert rules(list(canonical.judge_canonical(memoryview(content), header, lambda _: None))) == ["C-066"]


# --- messages, command ----------------------------------------------------------------------------

WORDS = {
    "H03-web-page": "web page",
    "H03-lfs-pointer": "git lfs pull",
    "H03-json-error": "JSON",
    "H03-zip": "ZIP",
    "H03-zeros": "zeros",
    "H04-ggml": "GGML",
    "H04-ggjt": "GGJT",
    "H05-reversed-magic": "reversed",
    "H09-big-endian": "big-endian",
    "H20-byte-order-mark": "is at byte 3",
    "T18-removed-type-4": "Q4_2, which has been removed",
    "T20-q8-k": "for memory, not for files",
    "D05-hole": "hole",
    "D04-partial-overlap": "overlaps",
}


@pytest.mark.parametrize(("name", "words"), WORDS.items(), ids=WORDS)
def test_findings_say_what_it_is(name: str, words: str) -> None:
    assert words in gguflow.validate(FILES / "invalid" / f"{name}.gguf")[0].message


def test_truncation_says_how_much_is_missing(converted: Path, tmp_path: Path) -> None:
    content = converted.read_bytes()
    findings = gguflow.validate(write(tmp_path / "m.gguf", content[: len(content) // 2]))
    (cut,) = (finding for finding in findings if finding.rule == "C-019")
    assert f"has {len(content) // 2}" in cut.message
    assert isinstance(cut.expected, int)
    assert len(content) - 32 < cut.expected <= len(content)


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gguflow", "validate", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command(tmp_path: Path) -> None:
    """An object on a line for each file, the worst exit status, and what cannot be read beside what can."""
    good, warned = FILES / "valid" / "llama.gguf", FILES / "valid" / "V15-nan.gguf"
    bad = FILES / "invalid" / "D03-half.gguf"
    for files, status in (
        ([good], 0),
        ([good, warned], 0),
        ([good, bad], 3),
        ([bad, tmp_path / "none.gguf"], 4),
    ):
        done = command(*files, "--json")
        assert done.returncode == status, done.stderr
        reports = [json.loads(line) for line in done.stdout.splitlines()]
        assert [entry["file"] for entry in reports] == [str(file) for file in files]
    assert [entry["verdict"] for entry in reports] == ["invalid", "io"]
    assert set(reports[0]["findings"][0]) == {
        "rule",
        "severity",
        "path",
        "offset",
        "found",
        "expected",
        "message",
    }


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.name)
        for path in sorted(FILES.rglob("*.gguf"))
        if path.stat().st_size < 70_000
    ][::5],
)
def test_reports_are_json_and_text(path: Path) -> None:
    done = report(path, "strict")
    assert json.loads(json.dumps(done.data()))["verdict"] == done.verdict
    assert done.text().startswith(f"{path}: {done.verdict}")


def test_wrong_calls() -> None:
    with pytest.raises(UsageError):
        gguflow.validate(FILES / "valid" / "llama.gguf", "everything")
    with pytest.raises(StorageError):
        gguflow.validate(FILES / "none.gguf")


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 64, 65, 100])
def test_arrays_around_the_lengths_at_which_readers_switch(n: int) -> None:
    content = gguf([ARCHITECTURE, array_bytes("s", STRING, ["ab"] * n), array_bytes("u", U32, [7] * n)])
    header = parse(content, "file")
    assert list(header.metadata["s"].value) == ["ab"] * n
    assert list(header.metadata["u"].value) == [7] * n


def test_offsets_of_findings(tmp_path: Path) -> None:
    """Where the bytes are that a finding speaks of."""
    content = header_only(
        [ARCHITECTURE], [tensor_info("first", (32,), 0, 0), tensor_info("second", (32,), 0, 96)], bytes(224)
    )
    (finding,) = gguflow.validate(write(tmp_path / "m.gguf", content))
    assert finding.offset is not None
    assert content[finding.offset + 8 :].startswith(b"second")
