"""Rows of a payload are decoded from the chunks that hold them: nothing else of the file is read, and nothing
else need be whole.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gguflow
from gguflow import conversion, sources
from gguflow.arrays import Bytes
from gguflow.container.mapped_file import IO_MODES, MappedFile
from gguflow.parametric import Payload
from testing.checkpoints import write_safetensors

NAMES = ("nf4_b64", "nf4_b64_dq", "affine4_b64+zstd", "lossless")
CASES: dict[str, tuple[int | slice | list[int], tuple[int, ...]]] = {
    "one row": (17, (0,)),
    "rows of one chunk": (slice(800, 1000), (1,)),
    "rows over a border": (slice(500, 520), (0, 1)),
    "rows here and there": ([2999, 3, 2998], (0, 5)),
    "no row": ([], ()),
}
"""Rows of 3000, 512 to a chunk, and the chunks that hold them."""


@pytest.fixture(scope="module", params=NAMES)
def model_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("rows")
    x = (np.random.default_rng(0).standard_normal((3000, 1024)) * 0.02).astype(np.float32)
    write_safetensors(directory / "x.safetensors", {"w.weight": x, "v.weight": x[:4]})
    return conversion.convert(
        directory / "x.safetensors", directory / "x.gguf", type=request.param, architecture="any"
    ).output


def payload_of(path: Path) -> tuple[Payload, int]:
    """The payload, and where it begins in the file."""
    with gguflow.open(path) as model:
        tensor = model["w.weight"]
        return Payload(np.array(tensor.raw)), tensor.offset


@pytest.mark.parametrize("io", IO_MODES)
@pytest.mark.parametrize(("rows", "chunks"), CASES.values(), ids=CASES)
def test_only_the_chunks_of_the_rows_are_read(
    model_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: int | slice | list[int],
    chunks: tuple[int, ...],
    io: str,
) -> None:
    payload, start = payload_of(model_file)
    assert (payload.geometry.rows_per_chunk, payload.n_chunks) == (512, 6)
    seen: list[tuple[int, int]] = []
    read = MappedFile.read

    def spied(self: MappedFile, first: int, last: int) -> Bytes:
        seen.append((first - start, last - first))
        return read(self, first, last)

    monkeypatch.setattr(MappedFile, "read", spied)
    with gguflow.open(model_file, io=io) as model:
        tensor = model["w.weight"]
        expected = payload.decode_rows()[np.asarray(rows, int) if isinstance(rows, list) else rows]
        seen.clear()
        assert np.array_equal(tensor.dequantize(rows), expected)
    probe = (payload.nbytes - 1, 1)  # whether the file is still whole
    assert set(seen) - {probe} == {payload.chunk_span(i) for i in chunks}


def test_other_chunks_may_be_broken(model_file: Path, tmp_path: Path) -> None:
    """All bytes of all other chunks, on the disk, are another's."""
    payload, start = payload_of(model_file)
    expected = payload.decode_rows(1000, 1010)
    (own,) = {row // payload.geometry.rows_per_chunk for row in (1000, 1009)}
    content = bytearray(model_file.read_bytes())
    for i in set(range(payload.n_chunks)) - {own}:
        offset, nbytes = payload.chunk_span(i)
        content[start + offset : start + offset + nbytes] = b"\xff" * nbytes
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with gguflow.open(path) as model:
        assert np.array_equal(model["w.weight"].dequantize(slice(1000, 1010)), expected)


def test_as_a_source_too(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    payload, start = payload_of(model_file)
    checkpoint = sources.open_checkpoint(model_file)
    tensor = checkpoint.tensors["w.weight"]
    row = 1024 * (4 if tensor.require_format().key == "f32" else 2)
    seen: list[int] = []
    with sources.TensorReader(checkpoint, io="pread") as reader:
        reader.payload(tensor)
        read = MappedFile.read

        def spied(self: MappedFile, first: int, last: int) -> Bytes:
            seen.append(first - start)
            return read(self, first, last)

        monkeypatch.setattr(MappedFile, "read", spied)
        assert reader.read(tensor, 1024 * 2000, 1024 * 2010).size == 10 * row
    assert seen == [payload.chunk_span(2000 // payload.geometry.rows_per_chunk)[0]]
