"""What readers of a row store see and when, and who may write."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

import gguflow
from gguflow.cli import main
from gguflow.container import row_store as layout
from gguflow.container.header import parse
from gguflow.container.writer import build
from gguflow.errors import (
    GguflowError,
    InvalidError,
    MalformedError,
    ShapeError,
    StorageError,
    UsageError,
)
from gguflow.rows import RowStore, find_codec
from gguflow.validation import examine
from testing import ggml
from testing.row_stores import rules_of, store_of, vectors


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
        gguflow.open(path, io="pread") as copied,
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
