"""Reading weights through maps: the right bytes, without copies, and notice of files that change."""

from __future__ import annotations

import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gguflow.errors import InvalidError, StorageError, UnsupportedError, UsageError
from gguflow.sources import Checkpoint, TensorReader, open_checkpoint
from testing.source_files import safetensors_bytes, weights, write_checkpoint

ARRAYS: dict[str, NDArray[Any]] = {
    "odd": np.zeros(1, np.uint8),  # leaves all that follow unaligned
    "matrix": np.arange(15, dtype=np.float32).reshape(5, 3),
    "half": np.arange(8, dtype=np.float16).reshape(4, 2),
    "vector": np.arange(6, dtype=np.float32),
    "experts": np.arange(24, dtype=np.float32).reshape(3, 4, 2),
    "scalar": np.array(7, np.float32),
    "empty": np.empty((0, 4), np.float32),
    "no columns": np.empty((4, 0), np.float32),
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes(ARRAYS))
    return open_checkpoint(path)


def resident_bytes() -> int:
    """Of this process, files and memory together."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.parametrize("name", [name for name in ARRAYS if name != "odd"])
def test_read_whole_and_in_parts(checkpoint: Checkpoint, name: str) -> None:
    expected, tensor = ARRAYS[name].tobytes(), checkpoint.tensors[name]
    size = ARRAYS[name].itemsize
    with TensorReader(checkpoint) as reader:
        for first in range(tensor.n_weights + 1):
            for last in range(first, tensor.n_weights + 1):
                assert reader.read(tensor, first, last).tobytes() == expected[first * size : last * size]


def test_read_does_not_copy_and_cannot_be_written(checkpoint: Checkpoint) -> None:
    tensor = checkpoint.tensors["matrix"]
    with TensorReader(checkpoint) as reader:
        part = reader.read(tensor, 3, 9)
        assert np.shares_memory(part, reader.read(tensor, 0, 15))
        assert not part.flags.writeable
        assert not part.flags.owndata


def test_what_was_read_outlives_the_reader(checkpoint: Checkpoint) -> None:
    with TensorReader(checkpoint) as reader:
        part = reader.read(checkpoint.tensors["matrix"], 0, 15)
    assert part.tobytes() == ARRAYS["matrix"].tobytes()


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        pytest.param("matrix", [4, 0, 2, 2], id="matrix"),
        pytest.param("matrix", [], id="none of them"),
        pytest.param("half", [3, 2, 1, 0], id="half"),
        pytest.param("vector", [5, 0, 3], id="vector"),
        pytest.param("experts", [2, 0], id="three dimensions"),
        pytest.param("empty", [], id="no rows"),
        pytest.param("no columns", [1, 3], id="no columns"),
    ],
)
def test_read_rows(checkpoint: Checkpoint, name: str, rows: list[int]) -> None:
    expected = ARRAYS[name][rows]
    with TensorReader(checkpoint) as reader:
        gathered = reader.read_rows(checkpoint.tensors[name], np.array(rows, np.int64))
    assert gathered.shape == (len(rows), ARRAYS[name][:1].nbytes)
    assert gathered.tobytes() == expected.tobytes()


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_what_is_expected_reads_the_same(checkpoint: Checkpoint, io: str) -> None:
    with TensorReader(checkpoint, io) as reader:
        for name in ARRAYS.keys() - {"odd"}:
            tensor = checkpoint.tensors[name]
            reader.expect(tensor, 0, tensor.n_weights)
            assert reader.read(tensor, 0, tensor.n_weights).tobytes() == ARRAYS[name].tobytes()
        with pytest.raises(UsageError, match="15 weights"):
            reader.expect(checkpoint.tensors["matrix"], 0, 16)


@pytest.mark.parametrize(("first", "last"), [(-1, 2), (0, 16), (3, 2), (16, 16)])
def test_ranges_outside_the_tensor(checkpoint: Checkpoint, first: int, last: int) -> None:
    with TensorReader(checkpoint) as reader, pytest.raises(UsageError, match="15 weights"):
        reader.read(checkpoint.tensors["matrix"], first, last)


@pytest.mark.parametrize("rows", [[5], [-1], [0, 2**62]])
def test_rows_outside_the_tensor(checkpoint: Checkpoint, rows: list[int]) -> None:
    with TensorReader(checkpoint) as reader, pytest.raises(UsageError, match="5 rows"):
        reader.read_rows(checkpoint.tensors["matrix"], np.array(rows, np.int64))


def test_a_scalar_has_no_rows(checkpoint: Checkpoint) -> None:
    with TensorReader(checkpoint) as reader, pytest.raises(UsageError, match="scalar"):
        reader.read_rows(checkpoint.tensors["scalar"], np.array([0], np.int64))


def test_a_dtype_without_a_format_is_refused(checkpoint: Checkpoint) -> None:
    with TensorReader(checkpoint) as reader, pytest.raises(UnsupportedError, match="U8") as caught:
        reader.read(checkpoint.tensors["odd"], 0, 1)
    assert caught.value.finding.rule == "S-019"


def test_threads_share_a_reader(tmp_path: Path) -> None:
    shards = {f"model-{i:05}-of-00004.safetensors": weights(f"w{i}") for i in range(1, 5)}
    directory = write_checkpoint(
        tmp_path, shards, {name: shard for shard, tensors in shards.items() for name in tensors}
    )
    checkpoint = open_checkpoint(directory)
    expected = {name: array for tensors in shards.values() for name, array in tensors.items()}
    with TensorReader(checkpoint) as reader, ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            for name, content in zip(
                expected,
                pool.map(lambda name: reader.read(checkpoint.tensors[name], 0, 8), expected),
                strict=True,
            ):
                assert content.tobytes() == expected[name].tobytes()


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def touch(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def replace(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes()[::-1])
    os.utime(other, ns=(1, 1))
    os.replace(other, path)


CHANGES = [
    pytest.param(append, id="longer"),
    pytest.param(touch, id="written in place"),
    pytest.param(replace, id="replaced"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_change_before_mapping(checkpoint: Checkpoint, change: Any) -> None:
    change(checkpoint.path)
    with TensorReader(checkpoint) as reader, pytest.raises(InvalidError) as caught:
        reader.read(checkpoint.tensors["matrix"], 0, 1)
    assert caught.value.finding.rule == "R-001"


@pytest.mark.skipif(os.name == "nt", reason="Windows does not let a mapped file change")
@pytest.mark.parametrize("change", CHANGES)
def test_change_while_reading(checkpoint: Checkpoint, change: Any) -> None:
    with TensorReader(checkpoint) as reader:
        reader.read(checkpoint.tensors["matrix"], 0, 1)
        reader.check_unchanged()
        change(checkpoint.path)
        with pytest.raises(InvalidError) as caught:
            reader.check_unchanged()
    assert caught.value.finding.rule == "R-002"


@pytest.mark.skipif(os.name == "nt", reason="Windows does not let a mapped file go")
def test_file_gone(checkpoint: Checkpoint) -> None:
    with TensorReader(checkpoint) as reader:
        reader.read(checkpoint.tensors["matrix"], 0, 1)
        checkpoint.path.unlink()
        with pytest.raises(StorageError, match="no such file"):
            reader.check_unchanged()
    with TensorReader(checkpoint) as reader, pytest.raises(StorageError, match="no such file"):
        reader.read(checkpoint.tensors["matrix"], 0, 1)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures memory as Linux tells it")
def test_release_gives_memory_back(tmp_path: Path) -> None:
    """A file of 64 MiB read piece by piece: resident memory stays bounded, and what was released can be read
    again.
    """
    n, piece = 16 << 20, 1 << 20
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes({"w": np.ones(n, np.float32)}))
    checkpoint = open_checkpoint(path)
    tensor = checkpoint.tensors["w"]
    with TensorReader(checkpoint) as reader:
        before = resident_bytes()
        for first in range(0, n, piece):
            assert reader.read(tensor, first, first + piece).max() == 0x80  # touches every page
            reader.release(tensor, first, first + piece)
        assert resident_bytes() - before < 16 << 20
        assert reader.read(tensor, 0, 1).view(np.float32)[0] == 1
