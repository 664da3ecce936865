"""Row stores: what a row is, what readers see and when, what a writer that is stopped leaves, and what a file
that grows may say.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

import ggml
import gguflow
from checkpoints import TINY
from fuzzing.mutation import mutated
from gguflow import parametric, platform, sources
from gguflow.cli import main
from gguflow.container import row_store as layout
from gguflow.container.header import Header, TensorInfo, parse
from gguflow.container.metadata import Metadata, ValueType, array, string, u32, u64
from gguflow.container.payload_keys import MUST_UNDERSTAND_KEY, PAYLOADS_KEY
from gguflow.container.writer import build
from gguflow.editing import edit
from gguflow.errors import (
    FileError,
    GguflowError,
    InvalidError,
    MalformedError,
    NonFiniteError,
    ShapeError,
    StorageError,
    UnknownFormatError,
    UnsupportedError,
    UsageError,
)
from gguflow.inference.stored_cache import RowStoreKVCache
from gguflow.inference.tokenizer import Tokenizer
from gguflow.inference.transformer import Transformer
from gguflow.rows import RowStore, find_codec, judge_rows
from gguflow.validation import examine

Floats = NDArray[np.float32]
ROOT = Path(__file__).resolve().parent.parent

BLOCKS = [("q8_0", 96), ("q4_0", 32), ("q4_k", 512), ("iq4_nl", 64), ("f16", 7), ("bf16", 5), ("f32", 1)]
CHUNKS = [
    *(
        ("int8_row", 128),
        ("int8_row", 1),
        ("affine4_b64", 128),
        ("affine4_b64", 100),
        ("nf4_b64", 192),
        ("nf4_b64", 5),
        ("int4_b128", 256),
    ),
    *(
        ("sign_b128", 130),
        ("affine3_b32", 32),
        ("affine4_b64_dq", 128),
        ("sb:bits=3,block=16,super=4,scale_bits=6,min_bits=6", 64),
    ),
    *(("sb:bits=3,block=16,super=2,scale_bits=5", 64), ("kmeans4_row", 100)),
]
REFUSED = {"nf4_b64_dq", "ternary_absmean", "quantile4_b256", "lossless"}


def vectors(n: int, width: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)


def store_of(path: Path, n: int = 10, format: str = "q8_0", width: int = 64) -> Path:
    """A file that was closed as it should be."""
    with RowStore(path, format, width, overwrite=True) as store:
        store.append(vectors(n, width))
    return path


def rules_of(path: Path, level: str = "structure") -> set[str]:
    return {finding.rule for finding in gguflow.validate(path, level)}


# --- what a row is
# ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("format", "width"), BLOCKS)
def test_a_row_in_a_block_format_is_what_quantize_gives(tmp_path: Path, format: str, width: int) -> None:
    x = vectors(23, width)
    with RowStore(tmp_path / "x.gguf", format, width) as store:
        assert [store.append(x[:20]), store.append(x[20]), store.append(x[21:].astype(np.float64))] == [
            range(20),
            range(20, 21),
            range(21, 23),
        ]
        packed = gguflow.quantize(x, format)
        np.testing.assert_array_equal(store.raw(), packed)
        np.testing.assert_array_equal(store.rows(), gguflow.dequantize(packed, format))
    assert examine(tmp_path / "x.gguf", "strict") == ("valid", [])


@pytest.mark.parametrize(("format", "width"), CHUNKS)
def test_a_row_in_the_family_is_the_chunk_of_a_tensor_of_one_row(
    tmp_path: Path, format: str, width: int
) -> None:
    """Whether rows are encoded many at a time or one by one."""
    x = vectors(9, width)
    payloads = [parametric.Payload(gguflow.quantize(row[None], format)) for row in x]
    with RowStore(tmp_path / "x.gguf", format, width) as store:
        store.append(x[:8])
        store.append(x[8])
        for payload, row in zip(payloads, store.raw(), strict=True):
            chunk = payload.chunk(0)
            np.testing.assert_array_equal(row, chunk[: len(row)])
            assert not chunk[len(row) :].any() and len(row) % 8 == 0 and len(chunk) - len(row) < 64
        np.testing.assert_array_equal(
            store.rows(), np.concatenate([payload.decode_rows() for payload in payloads])
        )
    assert examine(tmp_path / "x.gguf", "strict") == ("valid", [])


@pytest.mark.parametrize("name", parametric.presets())
def test_presets_hold_rows_or_say_why_not(name: str) -> None:
    if name in REFUSED:
        with pytest.raises(UsageError, match="one by one"):
            find_codec(name, 128)
    else:
        codec = find_codec(name, 4096)
        assert 0 <= 8 * codec.row_nbytes / 4096 - parametric.find(name).bits_per_weight < 0.15


def test_many_rows_are_taken_in_pieces() -> None:
    """More numbers than one piece; the first that cannot be kept is named wherever it stands."""
    x = vectors(3000, 512)
    for name in ("q8_0", "int8_row"):
        codec = find_codec(name, 512)
        packed, decoded = codec.encode(x), np.empty_like(x)
        np.testing.assert_array_equal(packed[2990:], codec.encode(x[2990:]))
        codec.decode(packed, decoded)
        assert 10 * np.log10(np.square(x).sum() / np.square(x - decoded).sum()) > 40
    x[2500, 77] = np.inf
    with pytest.raises(NonFiniteError, match=r"\[2500, 77\]") as refused:
        codec.encode(x)
    assert refused.value.index == 2500 * 512 + 77


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    {
        "another width": (np.zeros((2, 63), np.float32), ShapeError, "63"),
        "three dimensions": (np.zeros((1, 2, 64), np.float32), ShapeError, "float"),
        "a scalar": (np.float32(1), ShapeError, "float"),
        "integers": (np.zeros((2, 64), np.int32), ShapeError, "int32"),
        "NaN": (np.full((2, 64), np.nan, np.float32), NonFiniteError, "nan"),
        "infinite in float32": (np.full((2, 64), 1e39), NonFiniteError, "inf"),
        "no scale for it": (np.full((2, 64), 1e38, np.float32), NonFiniteError, "too large"),
    }.values(),
)
def test_what_cannot_be_appended(tmp_path: Path, wrong: Any, error: type[GguflowError], match: str) -> None:
    with RowStore(tmp_path / "x.gguf", "q8_0", 64) as store:
        store.append(vectors(3, 64))
        with pytest.raises(error, match=match):
            store.append(wrong)
        assert store.append(np.zeros((0, 64), np.float32)) == range(3, 3)
        assert store.append(vectors(1, 64)) == range(3, 4)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("q9_9", 64), UnknownFormatError),
        (("q8_0", 63), ShapeError),
        (("q8_0", 0), ShapeError),
        (("q8_0", 1 << 40), ShapeError),
        (("q8_0", "64"), ShapeError),
        (("int8_row", 0), ShapeError),
        (("i8", 64), UsageError),
        (("f64", 64), UsageError),
        (("iq2_xxs", 256), UsageError),
        (("int8_row+outliers=1%", 64), UsageError),
        (("int4_b128+zstd", 64), UsageError),
        (("sb:bits=4,per=tensor,codebook=kmeans", 64), UsageError),
        ((None, 64), UsageError),
        (("q8_0", None), UsageError),
    ],
)
def test_stores_that_cannot_be(tmp_path: Path, arguments: Any, error: type[GguflowError]) -> None:
    with pytest.raises(error):
        RowStore(tmp_path / "x.gguf", *arguments)
    assert list(tmp_path.iterdir()) == []


# --- reading
# ----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["q8_0", "int8_row"])
def test_a_reader_sees_what_was_flushed(tmp_path: Path, format: str) -> None:
    """R-106, R-115: what is appended and not counted is nobody's, and no finding but a warning."""
    path, x = tmp_path / "x.gguf", vectors(300, 64)
    with RowStore(path, format, 64) as store:
        reader = RowStore.open(path)
        assert (len(reader), reader.refresh(), reader.rows().shape) == (0, 0, (0, 64))
        store.append(x[:100])
        assert (len(store), store.n_flushed, reader.refresh()) == (100, 0, 0)
        assert [(f.rule, f.severity) for f in gguflow.validate(path)] == [("R-106", "warning")]
        assert examine(path, "strict")[0] == "invalid"
        assert store.flush() == 100
        assert examine(path, "strict") == ("valid", [])
        assert (len(reader), reader.refresh(), len(reader)) == (0, 100, 100)
        early = reader.raw(90, 100)
        with gguflow.open(path) as model:
            store.append(x[100:])
            store.flush()
            assert model["rows"].shape == (100, 64)  # as it was when it was opened
            np.testing.assert_array_equal(model["rows"].dequantize([3, 99]), reader.rows()[[3, 99]])
        assert reader.refresh() == 300
        for first, last in ((0, 0), (0, 1), (17, 203), (299, 300), (300, 300)):
            np.testing.assert_array_equal(reader.rows(first, last), store.rows()[first:last])
        out = np.empty((5, 64), np.float32)
        assert reader.rows(1, 6, out=out) is out
        np.testing.assert_array_equal(out, store.rows(1, 6))
        for first, last in ((-1, 3), (3, 2), (0, 301)):
            with pytest.raises(UsageError, match="300 rows"):
                reader.rows(first, last)
        with pytest.raises(ShapeError):
            reader.rows(0, 5, out=np.empty((4, 64), np.float32))
        assert repr(reader) == f"<RowStore {path}: 300 rows of 64 in {format}>"
    np.testing.assert_array_equal(early, reader.raw(90, 100))
    reader.close()
    reader.close()
    assert early.sum() > 0 and not early.flags.writeable
    for refused in (reader.rows, reader.refresh, lambda: store.append(x), store.flush):
        with pytest.raises(UsageError, match="closed"):
            refused()


@pytest.mark.parametrize("format", ["q4_0", "affine4_b64"])
def test_an_open_model_gives_the_rows(
    tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store_of(tmp_path / "x.gguf", 40, format, 128)
    with (
        RowStore.open(path) as store,
        gguflow.open(path) as model,
        gguflow.open(path, mode="pread") as copied,
    ):
        tensor = model["rows"]
        np.testing.assert_array_equal(tensor.dequantize(), store.rows())
        np.testing.assert_array_equal(copied["rows"].dequantize(slice(30, 33)), store.rows(30, 33))
        np.testing.assert_array_equal(tensor.raw, store.raw())
        np.testing.assert_array_equal(tensor[7].dequantize(), store.rows(7, 8)[0])
        np.testing.assert_allclose(
            tensor.matmul(vectors(2, 128)), vectors(2, 128) @ store.rows().T, rtol=1e-4, atol=1e-4
        )
    assert main(["inspect", str(path)]) == 0
    assert re.search(rf"rows +{format} +40x128", capsys.readouterr().out, re.IGNORECASE)


class _Params(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.POINTER(ctypes.c_void_p)))


@pytest.mark.parametrize("tail", [0, 3], ids=["flushed", "with a tail"])
@pytest.mark.parametrize("n", [0, 1, 7])
@pytest.mark.parametrize(("format", "width"), [("q8_0", 32), ("int8_row", 36), ("f16", 5)])
def test_other_readers_see_the_counted_rows(
    tmp_path: Path, format: str, width: int, n: int, tail: int
) -> None:
    """gguf-py and llama.cpp, which loads the data section whole."""
    path = tmp_path / "x.gguf"
    with RowStore(path, format, width) as store:
        store.append(vectors(n, width))
        store.flush()
        if tail:
            store.append(vectors(tail, width))
        (tensor,) = gguf.GGUFReader(path).tensors
        assert (tensor.name, tensor.n_elements) == ("rows", n * find_codec(format, width).row_length)
        np.testing.assert_array_equal(
            np.asarray(tensor.data).reshape(-1).view(np.uint8), store.raw(0, n).reshape(-1)
        )
        library = ggml.library()
        library.gguf_init_from_file.restype, library.gguf_init_from_file.argtypes = (
            ctypes.c_void_p,
            [ctypes.c_char_p, _Params],
        )
        assert library.gguf_init_from_file(
            os.fsencode(path), _Params(False, ctypes.pointer(ctypes.c_void_p()))
        )


def test_readers_while_threads_append(tmp_path: Path) -> None:
    """Every appended row is where its number says, and no reader ever meets one that is not whole."""
    path, table = tmp_path / "x.gguf", vectors(256, 64)
    codec = find_codec("q8_0", 64)
    packed = codec.encode(table)
    numbers: list[tuple[int, int]] = []
    done = threading.Event()
    problems: list[str] = []

    def read() -> None:
        reader = RowStore.open(path)
        while not done.is_set():
            n = reader.refresh()
            with gguflow.open(path) as model:
                if model["rows"].shape[0] < n:
                    problems.append("the count went back")
            if {row.tobytes() for row in reader.raw()} - known:
                problems.append("a row that nobody appended")
        reader.close()

    def write(seed: int) -> None:
        chance = np.random.default_rng(seed)
        for _ in range(40):
            chosen = chance.integers(0, 256, chance.integers(1, 5))
            numbers.extend(zip(store.append(table[chosen]), chosen.tolist(), strict=True))
            if chance.random() < 0.2:
                store.flush()

    known = {row.tobytes() for row in packed}
    with RowStore(path, "q8_0", 64) as store:
        readers = [threading.Thread(target=read) for _ in range(2)]
        writers = [threading.Thread(target=write, args=(i,)) for i in range(4)]
        for thread in readers + writers:
            thread.start()
        for thread in writers:
            thread.join()
        done.set()
        for thread in readers:
            thread.join()
    assert not problems
    assert sorted(number for number, _ in numbers) == list(range(len(numbers)))
    with RowStore.open(path) as reader:
        np.testing.assert_array_equal(reader.raw(), packed[[chosen for _, chosen in sorted(numbers)]])


# --- going on, and who may write
# --------------------------------------------------------------------------------------------------------------------


def test_going_on(tmp_path: Path) -> None:
    """R-113, R-114."""
    path, x = tmp_path / "x.gguf", vectors(20, 64)
    with RowStore(path, "q8_0", 64, mode="a") as store:  # there is none yet
        store.append(x[:10])
    whole = path.read_bytes()
    path.write_bytes(whole + b"unfinished")
    assert rules_of(path) == {"R-106"}
    with RowStore(path, mode="a") as store:
        assert (len(store), path.read_bytes()) == (10, whole)
        assert store.append(x[10:]) == range(10, 20)
    with RowStore(path, "q8_0", 64, mode="a") as store:
        np.testing.assert_array_equal(store.raw(), gguflow.quantize(x, "q8_0"))
    for other in (("q8_0", 32), ("q4_0", 64)):
        with pytest.raises(UsageError, match="rows of 64 in q8_0"):
            RowStore(path, *other, mode="a")
    with pytest.raises(UsageError, match="exists"):
        RowStore(path, "q8_0", 64)
    with pytest.raises(UsageError, match="mode"):
        RowStore(path, mode="rw")
    with RowStore.open(path) as reader, pytest.raises(UsageError, match="reading"):
        reader.append(x)
    with RowStore(path, "q4_0", 32, overwrite=True) as store:
        assert (len(store), store.format) == (0, "q4_0")


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    """R-112, also against a process of its own; a view of the map does not keep the lock."""
    path = store_of(tmp_path / "x.gguf")
    script = f"import gguflow; gguflow.RowStore({str(path)!r}, mode='a')"
    with RowStore(path, mode="a") as store:
        view = store.raw()
        for arguments in ({"mode": "a"}, {"format": "q8_0", "width": 64, "overwrite": True}):
            with pytest.raises(UsageError, match="another process is writing"):
                RowStore(path, **arguments)
        other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert "another process is writing" in other.stderr
        assert len(RowStore.open(path)) == 10
    RowStore(path, mode="a").close()
    assert len(view) == 10


def test_a_file_that_is_shortened_or_emptied_is_refused(tmp_path: Path) -> None:
    """R-116, R-002."""
    path = store_of(tmp_path / "x.gguf")
    reader, content = RowStore.open(path), path.read_bytes()
    at = layout.count_position(parse(content, ""))
    with path.open("r+b") as file:
        file.seek(at)
        file.write((9).to_bytes(8, "little"))
    with pytest.raises(InvalidError, match="R-116"):
        reader.refresh()
    os.truncate(path, len(content) - 100)
    with pytest.raises(InvalidError, match="R-002"):
        reader.rows()
    path.write_bytes(content)
    reader = RowStore.open(path)
    with path.open("r+b") as file:
        file.seek(at)
        file.write((1 << 40).to_bytes(8, "little"))
    with pytest.raises(InvalidError, match="R-002"):
        reader.refresh()
    os.truncate(path, 0)
    with pytest.raises(InvalidError, match="R-002"):
        reader.refresh()


@pytest.mark.parametrize(
    ("make", "error"),
    {
        "no file": (lambda path: None, StorageError),
        "a directory": (lambda path: path.mkdir(), InvalidError),
        "a pipe": (lambda path: os.mkfifo(path), InvalidError),
        "empty": (lambda path: path.touch(), MalformedError),
        "another file": (lambda path: path.write_bytes(b"text" * 20), MalformedError),
        "another GGUF file": (lambda path: path.write_bytes(build({}, ())), UsageError),
        "cut": (lambda path: os.truncate(store_of(path), path.stat().st_size - 64), InvalidError),
    }.values(),
    ids=["no file", "a directory", "a pipe", "empty", "another file", "another GGUF file", "cut"],
)
def test_files_that_are_no_stores(
    tmp_path: Path, make: Callable[[Path], object], error: type[GguflowError]
) -> None:
    path = tmp_path / "x.gguf"
    make(path)
    with pytest.raises(error):
        RowStore.open(path)


# --- what a writer that is stopped leaves
# -----------------------------------------------------------------------------------------------------------


class Medium:
    """Records what reaches the system, in order, and makes the files that a power cut could leave."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.base = path.read_bytes()
        self.log: list[tuple[str, int, bytes]] = []
        write, sync = platform.pwrite_all, platform.sync_data

        def recorded_write(fd: int, buffer: Any, offset: int) -> None:
            self.log.append(
                ("write", offset, bytes(memoryview(buffer).cast("B")) if memoryview(buffer).nbytes else b"")
            )
            write(fd, buffer, offset)

        def recorded_sync(fd: int) -> None:
            sync(fd)
            self.log.append(("sync", 0, b""))

        monkeypatch.setattr(platform, "pwrite_all", recorded_write)
        monkeypatch.setattr(platform, "sync_data", recorded_sync)

    def mark(self, n_rows: int) -> None:
        """That many rows are flushed now."""
        self.log.append(("flushed", n_rows, b""))

    def after_power_cuts(self) -> Iterator[tuple[bytes, int]]:
        """Files, each with the rows that were flushed before. All that was synced is there, and of later
        writes none, all, each, all but each.
        """
        for k in range(len(self.log) + 1):
            before = self.log[:k]
            synced = max((i for i, (kind, _, _) in enumerate(before) if kind == "sync"), default=-1) + 1
            later = [entry for entry in before[synced:] if entry[0] == "write"]
            flushed = max((n for kind, n, _ in before if kind == "flushed"), default=0)
            for chosen in (
                [],
                later,
                *([entry] for entry in later),
                *([e for e in later if e is not left_out] for left_out in later),
            ):
                yield self._file([*before[:synced], *chosen]), flushed

    def _file(self, entries: list[tuple[str, int, bytes]]) -> bytes:
        content = bytearray(self.base)
        for kind, offset, data in entries:
            if kind == "write":
                content.extend(bytes(max(offset + len(data) - len(content), 0)))
                content[offset : offset + len(data)] = data
        return bytes(content)


@pytest.mark.parametrize("format", ["q8_0", "int8_row"])
def test_whatever_a_power_cut_leaves_is_a_prefix_with_all_that_was_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """R-111."""
    path, left, x = (
        tmp_path / "x.gguf",
        tmp_path / "left.gguf",
        vectors(12, 36 if format == "int8_row" else 32),
    )
    RowStore(path, format, x.shape[1]).close()
    medium = Medium(monkeypatch, path)
    with RowStore(path, mode="a") as store:
        for first, last in ((0, 3), (3, 4), (4, 9), (9, 12)):
            store.append(x[first:last])
            if first != 3:
                medium.mark(store.flush())
        packed = store.raw().copy()
    seen = set()
    for content, flushed in medium.after_power_cuts():
        left.write_bytes(content)
        reader = RowStore.open(left)
        assert len(reader) >= flushed
        np.testing.assert_array_equal(reader.raw(), packed[: len(reader)])
        seen.add((len(reader), flushed))
        reader.close()
    assert {n for n, _ in seen} == {0, 3, 9, 12} and (9, 3) in seen


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the tool forks its writers")
def test_writers_that_are_killed() -> None:
    """SIGKILL thirty times at random moments."""
    command = [sys.executable, str(ROOT / "tools" / "faults"), "rows", "-n", "30"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert '"kills of row stores": 30' in done.stdout


def refuse_once(monkeypatch: pytest.MonkeyPatch, name: str, k: int) -> None:
    """The k-th call fails as on a full disk, having done half of its work."""
    function, calls = getattr(platform, name), iter(range(1, 1000))

    def refusing(fd: int, *arguments: Any) -> None:
        if next(calls) == k:
            if arguments:
                function(
                    fd,
                    memoryview(arguments[0]).cast("B")[: memoryview(arguments[0]).nbytes // 2],
                    arguments[1],
                )
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        function(fd, *arguments)

    monkeypatch.setattr(platform, name, refusing)


def test_a_full_disk_while_appending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is appended, and the same rows go in once there is room."""
    path, x = tmp_path / "x.gguf", vectors(20, 64)
    with RowStore(path, "q8_0", 64) as store:
        store.append(x[:10])
        with monkeypatch.context() as context:
            refuse_once(context, "pwrite_all", 1)
            with pytest.raises(StorageError, match="no space left"):
                store.append(vectors(100, 64, 1))
        assert store.append(x[10:]) == range(10, 20)
    with RowStore.open(path) as reader:
        np.testing.assert_array_equal(reader.raw(), gguflow.quantize(x, "q8_0"))
    assert examine(path, "strict") == ("valid", [])


@pytest.mark.parametrize(
    ("call", "k", "there"), [("sync_data", 1, 10), ("pwrite_all", 2, 15), ("sync_data", 2, 15)]
)
def test_a_flush_that_fails_is_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, k: int, there: int
) -> None:
    """R-118: what the system could not write it may have forgotten, and would not say so again."""
    path = store_of(tmp_path / "x.gguf", width=64)
    store = RowStore(path, mode="a")
    store.append(vectors(5, 64))
    with monkeypatch.context() as context:
        refuse_once(context, call, k)
        with pytest.raises(StorageError, match="no space left"):
            store.flush()
    for work in (store.flush, lambda: store.append(vectors(1, 64))):
        with pytest.raises(StorageError, match="takes no more rows"):
            work()
    store.close()
    assert examine(path)[0] == "valid"
    with RowStore(path, mode="a") as store:
        assert len(store) == there
        np.testing.assert_array_equal(store.raw(0, 10), gguflow.quantize(vectors(10, 64), "q8_0"))


# --- what a file that grows may say
# -----------------------------------------------------------------------------------------------------------------

Change = Callable[[Metadata, list[TensorInfo]], None]


def changed(path: Path, format: str, change: Change) -> Path:
    """A store of four rows with another header; the count lies where it lies."""
    content = store_of(path, 4, format).read_bytes()
    header = parse(content, "")
    metadata, tensors = dict(header.metadata), list(header.tensors)
    change(metadata, tensors)
    path.write_bytes(build(metadata, tensors, header.alignment) + content[header.data_offset :])
    return path


def setting(key: str, value: Any) -> Change:
    return lambda metadata, tensors: metadata.update({key: value})


def removing(key: str) -> Change:
    return lambda metadata, tensors: metadata.__delitem__(key)


def tensor(**fields: Any) -> Change:
    return lambda metadata, tensors: tensors.__setitem__(0, TensorInfo(**{**vars(tensors[0]), **fields}))


BROKEN: dict[str, tuple[str, str, Change]] = {
    "no format": ("R-101", "q8_0", removing(layout.FORMAT_KEY)),
    "no width": ("R-101", "q8_0", removing(layout.WIDTH_KEY)),
    "no filler": ("R-101", "q8_0", removing(layout.FILLER_KEY)),
    "a width of another type": ("R-101", "q8_0", setting(layout.WIDTH_KEY, u32(64))),
    "a version of another type": ("R-101", "q8_0", setting(layout.VERSION_KEY, u64(1))),
    "version 2": ("R-102", "q8_0", setting(layout.VERSION_KEY, u32(2))),
    "an unknown format": ("R-103", "q8_0", setting(layout.FORMAT_KEY, string("q9_9"))),
    "a text form that does not parse": ("R-103", "q8_0", setting(layout.FORMAT_KEY, string("sb:bits=99"))),
    "a format of entropy-coded rows": (
        "R-103",
        "int8_row",
        setting(layout.FORMAT_KEY, string("int8_row+zstd")),
    ),
    "a width that does not divide": ("R-103", "q8_0", setting(layout.WIDTH_KEY, u64(65))),
    "a width beyond all": ("R-103", "int8_row", setting(layout.WIDTH_KEY, u64(1 << 62))),
    "two tensors": (
        "R-104",
        "q8_0",
        lambda metadata, tensors: tensors.append(TensorInfo("more", (0, 1), 0, 4 * 2 * 34 + 16)),
    ),
    "no tensor": ("R-104", "q8_0", lambda metadata, tensors: tensors.clear()),
    "another name": ("R-104", "q8_0", tensor(name="row")),
    "another width than the tensor's": ("R-104", "q8_0", setting(layout.WIDTH_KEY, u64(32))),
    "another type than the tensor's": ("R-104", "q8_0", setting(layout.FORMAT_KEY, string("q4_0"))),
    "one dimension": ("R-104", "q8_0", tensor(dims=(256,))),
    "three dimensions": ("R-104", "q8_0", tensor(dims=(64, 2, 2))),
    "bytes for blocks": ("R-104", "q8_0", setting(layout.FORMAT_KEY, string("int8_row"))),
    "nothing that must be understood": ("R-105", "int8_row", removing(MUST_UNDERSTAND_KEY)),
    "something that must be understood": (
        "R-105",
        "q8_0",
        setting(MUST_UNDERSTAND_KEY, array(ValueType.STRING, ["int8_row"])),
    ),
    "another encoding to understand": (
        "R-105",
        "int8_row",
        setting(MUST_UNDERSTAND_KEY, array(ValueType.STRING, ["nf4_b64"])),
    ),
    "no array to understand": ("R-105", "int8_row", setting(MUST_UNDERSTAND_KEY, string("int8_row"))),
    "rows that pass for a payload": (
        "R-105",
        "int8_row",
        setting(PAYLOADS_KEY, array(ValueType.STRING, ["rows"])),
    ),
}


@pytest.mark.parametrize(("rule", "format", "change"), BROKEN.values(), ids=BROKEN)
def test_headers_that_are_refused(tmp_path: Path, rule: str, format: str, change: Change) -> None:
    path = changed(tmp_path / "x.gguf", format, change)
    verdict, findings = examine(path, "values")
    assert (verdict, findings[0].rule) == ("unsupported" if rule in ("R-102", "R-103") else "invalid", rule)
    for opening in (
        lambda: RowStore.open(path),
        lambda: RowStore(path, mode="a"),
        lambda: gguflow.open(path),
    ):
        with pytest.raises(FileError, match=rule) as refused:
            opening()
        assert isinstance(refused.value, UnsupportedError if verdict == "unsupported" else InvalidError)
    assert main(["inspect", str(path)]) in (0, 3)


def test_the_tail_is_for_row_stores_only(tmp_path: Path) -> None:
    """C-020 holds for every other file."""
    path = changed(tmp_path / "x.gguf", "q8_0", removing(layout.VERSION_KEY))
    path.write_bytes(path.read_bytes() + b"tail" * 100)
    assert rules_of(path) == {"C-020"}


@pytest.mark.parametrize("n_more", range(8))
def test_the_count_lies_at_a_multiple_of_eight(tmp_path: Path, n_more: int) -> None:
    """R-107: in every store that is made; one that was edited is read and gone on with all the same."""
    path = tmp_path / "x.gguf"
    RowStore(path, "sb:bits=3,block=16" if n_more % 2 else "q8_0", 32).close()
    edit(path, [("general.name", string("n" * n_more))])
    position = layout.count_position(parse(path.read_bytes(), ""))
    assert rules_of(path) == ({"R-107"} if position % 8 else set())
    reader = RowStore.open(path)
    with RowStore(path, mode="a") as store:
        store.append(vectors(3, 32))
    assert (reader.refresh(), rules_of(path, "values")) == (3, {"R-107"} if position % 8 else set())


def header_of(format: str, width: int) -> Header:
    codec = find_codec(format, width)
    return parse(layout.build_header(codec.name, width, codec.type_id, codec.row_length, {}), "")


@pytest.mark.parametrize("format", ["q8_0", "f16", "q4_k", "iq4_nl"])
@pytest.mark.parametrize("width", [256, 1 << 20])
def test_new_headers_have_an_aligned_count(format: str, width: int) -> None:
    header = header_of(format, width)
    assert layout.count_position(header) % 8 == 0
    assert not list(judge_rows(header, header.data_offset))


ROW = 64 + 8
"""Bytes of a row of 64 in int8_row: codes, the scale, four zeros."""

UNSOUND = {
    "a byte behind the sections": (2 * ROW + 70, b"\1", "E-018"),
    "a scale that is NaN": (3 * ROW + 64, np.float32(np.nan).tobytes(), "E-019"),
    "a negative scale": (1 * ROW + 64, np.float32(-1).tobytes(), "E-019"),
}


@pytest.mark.parametrize(("at", "patch", "rule"), UNSOUND.values(), ids=UNSOUND)
def test_rows_are_judged_at_the_level_values(tmp_path: Path, at: int, patch: bytes, rule: str) -> None:
    """R-108."""
    path = store_of(tmp_path / "x.gguf", 6, "int8_row")
    start = parse(path.read_bytes(), "").data_offset
    with path.open("r+b") as file:
        file.seek(start + at)
        file.write(patch)
    assert rules_of(path) == set()
    (found,) = gguflow.validate(path, "values")
    assert (found.rule, found.path, found.offset) == (
        rule,
        f"$.tensors[0].rows[{at // ROW}]",
        start + at // ROW * ROW,
    )


def test_mutated_files_raise_nothing_of_their_own(tmp_path: Path) -> None:
    """A file is read, or refused with a rule; and what its judge calls valid can be decoded."""
    path, rng = tmp_path / "mutated.gguf", random.Random(0)
    seeds = [
        store_of(tmp_path / f"{i}.gguf", 3, *kind).read_bytes()
        for i, kind in enumerate([("q8_0", 32), ("affine4_b64", 64), ("f16", 3)])
    ]
    n_read = 0
    for _ in range(1500):
        path.write_bytes(mutated(seeds, rng))
        is_valid = not any(finding.severity == "error" for finding in gguflow.validate(path, "values"))
        try:
            with RowStore.open(path) as store:
                assert np.isfinite(store.rows()).all() or not is_valid
            n_read += 1
        except GguflowError:
            assert not is_valid or not layout.is_row_store(parse(path.read_bytes(), "").metadata)
    assert n_read > 50


def test_rows_of_the_family_are_no_source(tmp_path: Path) -> None:
    """R-117; those in a block format are."""
    with pytest.raises(UnsupportedError, match="R-117"):
        sources.open_checkpoint(store_of(tmp_path / "x.gguf", format="int8_row"))
    path = gguflow.convert(store_of(tmp_path / "y.gguf"), tmp_path / "z.gguf", type="copy").output
    assert not any(key.startswith("gguflow.rows") for key in parse(path.read_bytes(), "").metadata)
    with gguflow.open(path) as model, RowStore.open(tmp_path / "y.gguf") as store:
        np.testing.assert_array_equal(model["rows"].dequantize(), store.rows())


def test_rules_are_those_of_the_specification() -> None:
    """About bytes: in the code, and broken by a test; about behaviour: named by a test."""
    text = (ROOT / "spec" / "rows.md").read_text(encoding="utf-8")
    of_bytes = set(re.findall(r"^\| (R-10\d) \|.*\| \w+ \|$", text, re.MULTILINE))
    of_behaviour = set(re.findall(r"^\| (R-11\d) \|", text, re.MULTILINE))
    mine = Path(__file__).read_text(encoding="utf-8")
    code = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "src" / "gguflow" / "rows").glob("*.py")
    )
    assert len(of_bytes) == 8 and {rule for rule in of_bytes if rule not in code} == set()
    assert of_behaviour and {rule for rule in of_bytes | of_behaviour if rule not in mine} == set()
    assert set(re.findall(r"R-1\d\d", code)) <= of_bytes | of_behaviour


# --- a cache
# ----------------------------------------------------------------------------------------------------------------------------------------


def test_a_cache_in_row_stores_is_a_cache(tmp_path: Path) -> None:
    """The logits are those of the cache in memory; after a restart the sequence goes on."""
    with gguflow.open(gguflow.convert(TINY, tmp_path / "model.gguf", type="q8_0").output) as model:
        transformer = Transformer(model)
        tokens = Tokenizer(model.metadata, model.path).encode("def main(arguments):\n    return 0\n")
        half = len(tokens) // 2
        parts = [slice(0, half), slice(half, len(tokens))]
        in_memory = transformer.cache(len(tokens), "q8_0")
        expected = [transformer.forward(tokens[part], in_memory, half) for part in parts]
        width = transformer.sizes.n_kv_heads * transformer.sizes.head_dim

        def opened(n_layers: int) -> list[tuple[RowStore, RowStore]]:
            paths = [[tmp_path / f"{i}.{kind}.gguf" for kind in ("keys", "values")] for i in range(n_layers)]
            return [
                (RowStore(k, "q8_0", width, mode="a"), RowStore(v, "q8_0", width, mode="a")) for k, v in paths
            ]

        for part, logits in zip(parts, expected, strict=True):
            stores = opened(transformer.sizes.n_layers)
            cache = RowStoreKVCache(transformer.sizes, stores, len(tokens))
            assert cache.length == part.start
            np.testing.assert_array_equal(transformer.forward(tokens[part], cache, half), logits)
            cache.flush()
            assert all(store.n_flushed == part.stop for pair in stores for store in pair)
            with pytest.raises(UsageError, match="room for"):
                transformer.forward(tokens, cache, 1)
            if part.start:
                stores[0][0].append(np.zeros(width, np.float32))
                with pytest.raises(UsageError, match="different numbers"):
                    RowStoreKVCache(transformer.sizes, stores, len(tokens))
                with pytest.raises(UsageError, match="layers"):
                    RowStoreKVCache(transformer.sizes, stores[1:], len(tokens))
            for pair in stores:
                for store in pair:
                    store.close()
