"""The memory limit holds for payloads whose rows are longer than any chunk of several rows: these are encoded
in pieces, with the same bytes. Where a chunk cannot be cut, too small a limit is refused before anything is
read.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gguflow
from gguflow import conversion
from gguflow.conversion.jobs import Memory
from gguflow.errors import InvalidError, UsageError
from testing.checkpoints import bf16, write_safetensors

WIDE = (1 << 20) + (1 << 18) + 7
"""Weights of a row that is one chunk, and no whole number of blocks."""

IN_PIECES = [
    "int8_b128", "int4_b128", "int8_row", "nf4_b64", "nf4_b64_dq", "fp4_b64", "affine4_b64", "affine4_b64_dq",
    "lossless", "int8_row+zstd", "int4_b128+zstd", "nf4_b64_dq+zstd", "affine4_b64+zstd",
    "sb:bits=4,block=32,super=8,scale_bits=6,nesting=linear,scale=f16",
    "sb:bits=2,block=16,super=16,scale_bits=4,min_bits=4", "sb:bits=3,block=16",
    "sb:bits=6,per=row,quantizer=min,scale=bf16", "sb:bits=5,per=row,quantizer=affine,min_bits=8,clip=0.5",
    "sb:bits=4,per=row,codebook=nf4,scale=f16", "sb:block=80,quantizer=ternary,scale=f16",
    "sb:bits=4,block=64,percentile=99", "sb:bits=3,block=32,range=search",
]  # fmt: skip


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    random = np.random.default_rng(11)
    scales = random.choice([0.02, 1.0], (2, WIDE))
    found: np.ndarray = (random.standard_normal((2, WIDE)) * scales).astype(np.float32)
    return found


@pytest.fixture(scope="module")
def source(weights: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safetensors(
        tmp_path_factory.mktemp("wide") / "wide.safetensors", {"blk.0.ffn_up.weight": weights}
    )


@pytest.mark.parametrize("name", IN_PIECES)
def test_pieces_give_the_same_bytes(tmp_path: Path, source: Path, weights: np.ndarray, name: str) -> None:
    out = tmp_path / "out.gguf"
    conversion.convert(source, out, type=name, architecture="any", threads=2, memory_limit=24 << 20)
    with gguflow.open(out, verify=True) as model:
        np.testing.assert_array_equal(model["blk.0.ffn_up.weight"].raw, gguflow.quantize(weights, name))
    assert gguflow.validate(out, "values") == []


def test_a_nan_in_a_piece_is_named(tmp_path: Path, weights: np.ndarray) -> None:
    broken = weights.copy()
    broken[1, WIDE - 3] = np.nan
    source = write_safetensors(tmp_path / "x.safetensors", {"blk.0.ffn_up.weight": broken})
    for name in ("int8_row", "nf4_b64_dq", "int4_b128"):
        with pytest.raises(InvalidError, match=rf"nan at index \[1, {WIDE - 3}\]"):
            conversion.convert(
                source, tmp_path / "out.gguf", type=name, architecture="any", memory_limit=24 << 20
            )


@pytest.mark.parametrize("name", ["kmeans4_row", "ternary_absmean", "int8_b128+outliers=0.5%"])
def test_what_cannot_be_cut_is_refused_before_it_is_read(tmp_path: Path, source: Path, name: str) -> None:
    """With what it needs; and with twice that, for payloads get half of the limit, it is done."""
    out = tmp_path / "out.gguf"
    with pytest.raises(UsageError, match=f"rows of {WIDE} weights, and needs ") as refused:
        conversion.convert(source, out, type=name, architecture="any", memory_limit=4 << 20)
    assert list(tmp_path.iterdir()) == []
    needed = 2 * int(str(refused.value).split("and needs ")[1].split(" ")[0])
    conversion.convert(source, out, type=name, architecture="any", memory_limit=needed)
    assert gguflow.validate(out, "values") == []


RUN = """
import sys
from gguflow import conversion

conversion.convert(
    sys.argv[1], sys.argv[2], type=sys.argv[3], architecture="any", threads=2, memory_limit=int(sys.argv[4])
)
status = open("/proc/self/status").read()  # ru_maxrss would count what the parent had
print(status.split("VmHWM:")[1].split()[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("name", ["int8_b128", "int8_row", "nf4_b64_dq", "lossless"])
def test_peak_memory_stays_under_the_limit(tmp_path: Path, name: str) -> None:
    """What a run on a row of 2**26 weights takes beside one on a row of 2**20."""
    limit = 64 << 20
    random = np.random.default_rng(5)
    row = bf16(random.standard_normal(1 << 20, np.float32))
    peaks = []
    for n in (1, 64):
        source = write_safetensors(tmp_path / f"{n}.safetensors", {"w.weight": np.tile(row, (1, n))})
        command = [sys.executable, "-c", RUN, str(source), str(tmp_path / f"{n}.gguf"), name, str(limit)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) << 10)
        source.unlink()
    assert peaks[1] - peaks[0] < limit, peaks


def test_the_chunks_of_a_payload_that_is_read_count(tmp_path: Path) -> None:
    """Each thread keeps the one that it read last, decoded."""
    source = write_safetensors(tmp_path / "x.safetensors", {"a.weight": np.ones((2, 1 << 20), np.float32)})
    payload, out = tmp_path / "x.gguf", tmp_path / "out.gguf"
    conversion.convert(source, payload, type="lossless", architecture="any")
    plan = conversion.prepare(payload, out, type="q8_0").targets[0].plans[0]
    for limit, threads in (((32 << 20), 4), (16 << 20, 2), (4 << 20, 1)):
        assert Memory.shared([plan], limit, 8).threads == threads
    report = conversion.convert(payload, out, type="q8_0", memory_limit=(8 << 20) - 1, threads=8)
    (warning,) = (warning.finding for warning in report.warnings)
    assert warning.message.startswith("each thread takes 4194304 bytes")
    report = conversion.convert(payload, out, type="q8_0", memory_limit=8 << 20, threads=8, overwrite=True)
    assert not report.warnings
