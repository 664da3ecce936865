"""From a checkpoint to a file: the bytes are those of quantizing each tensor whole, whatever the pieces; what goes wrong leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import ggml
import llama_cpp
from checkpoints import TINY, bf16, llama_tensors, tiny_llama, write_safetensors
from gguflow import conversion, describe
from gguflow.blocks import FORMATS, by_id
from gguflow.errors import InvalidError, StorageError, UsageError
from gguflow.models.base import RopeOrder
from gguflow.quantization import quantize


def tensors_of(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every tensor of a GGUF file: format, NumPy shape, bytes."""
    header = describe.inspect_file(path)
    data = path.read_bytes()
    found = {}
    for tensor in header.tensors:
        block_format = by_id(tensor.type_id)
        assert block_format is not None
        start = header.data_offset + tensor.offset
        nbytes = tensor.n_weights // block_format.block_size * block_format.type_size
        found[tensor.name] = (block_format.key, tensor.shape, data[start : start + nbytes])
    return found


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "checkpoint")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_tensor_is_its_quantized_source(tmp_path: Path, dtype: str) -> None:
    """Names, permuted rows, formats: against the array functions, and ggml for the blocks."""
    directory = tiny_llama(tmp_path / "checkpoint", dtype=dtype)
    config = json.loads((directory / "config.json").read_text())
    sources = llama_tensors(config, dtype)
    widened = {name: (t.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else t.astype(np.float32) for name, t in sources.items()}
    conversion.convert(directory, tmp_path / "out.gguf", type="q8_0")
    found = tensors_of(tmp_path / "out.gguf")
    assert len(found) == len(sources)
    q8_0 = FORMATS["q8_0"]
    gate = widened["model.layers.1.mlp.gate_proj.weight"]
    assert found["blk.1.ffn_gate.weight"] == ("q8_0", gate.shape, ggml.quantize(gate, q8_0).tobytes())
    for ours, theirs, n_heads in (("attn_q", "q_proj", 4), ("attn_k", "k_proj", 2)):
        x = widened[f"model.layers.0.self_attn.{theirs}.weight"]
        order = RopeOrder(n_heads).source_rows(0, len(x), len(x))
        permuted = x.reshape(n_heads, 2, len(x) // n_heads // 2, -1).swapaxes(1, 2).reshape(x.shape)
        assert (x[order] == permuted).all()
        assert found[f"blk.0.{ours}.weight"][2] == ggml.quantize(permuted, q8_0).tobytes()
    norm = widened["model.norm.weight"]
    assert found["output_norm.weight"] == ("f32", norm.shape, norm.tobytes())


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k", "q4_k_s", "q4_k_m", "q5_k_m"])
def test_result_does_not_depend_on_pieces_or_threads(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tiny_llama(tmp_path / "checkpoint", hidden=256, ffn=512, dtype="bfloat16")
    conversion.convert(directory, tmp_path / "one.gguf", type=kind, threads=1)
    conversion.convert(directory, tmp_path / "three.gguf", type=kind, threads=3)
    monkeypatch.setattr(conversion, "PIECE", 1024)
    conversion.convert(directory, tmp_path / "pieces.gguf", type=kind, threads=2)
    monkeypatch.setattr(conversion, "PIECE", 256)  # half a row of ffn_down
    monkeypatch.setattr(conversion, "TILE", 256)
    conversion.convert(directory, tmp_path / "parts.gguf", type=kind, threads=2)
    expected = (tmp_path / "one.gguf").read_bytes()
    assert {(tmp_path / f"{name}.gguf").read_bytes() == expected for name in ("three", "pieces", "parts")} == {True}


def test_the_real_checkpoint_is_answered_from(tmp_path: Path) -> None:
    """llama.cpp loads the file, and with F16 and Q8_0 says the same."""
    outputs = {}
    for kind in ("f16", "q8_0", "q4_k_m"):
        report = conversion.convert(TINY, tmp_path / f"{kind}.gguf", type=kind)
        assert report.nbytes == (tmp_path / f"{kind}.gguf").stat().st_size
        outputs[kind] = llama_cpp.complete(str(tmp_path / f"{kind}.gguf"), "import os\nimport sys\n\ndef ", 24)
    assert outputs["f16"] == outputs["q8_0"]
    assert len(outputs["q4_k_m"][1]) == 24


def test_a_lone_file_keeps_its_names(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    conv = rng.standard_normal((8, 4, 3, 3)).astype(np.float32)
    linear = rng.standard_normal((6, 512)).astype(np.float32)
    source = write_safetensors(tmp_path / "unet.safetensors", {"model.conv.weight": conv, "model.linear.weight": linear, "scale": np.float32([2])})
    with pytest.raises(UsageError, match="--arch"):
        conversion.convert(source, tmp_path / "out.gguf", type="q4_k")
    conversion.convert(source, tmp_path / "out.gguf", type="q4_k", architecture="flux", strip_prefix="model.")
    found = tensors_of(tmp_path / "out.gguf")
    assert {name: (kind, shape) for name, (kind, shape, _) in found.items()} == {
        "conv.weight": ("f16", (8, 4, 3, 3)),
        "linear.weight": ("q4_k", (6, 512)),
        "scale": ("f32", (1,)),
    }
    assert found["linear.weight"][2] == quantize(linear, "q4_k").tobytes()
    assert describe.inspect_file(tmp_path / "out.gguf").metadata["general.architecture"].value == "flux"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["q8_0", "f16", "q4_k_m"])
def test_a_bad_weight_is_named_and_nothing_is_written(tmp_path: Path, bad: float, kind: str) -> None:
    directory = tiny_llama(tmp_path / "checkpoint")
    tensors = llama_tensors(json.loads((directory / "config.json").read_text()))
    tensors["model.layers.1.mlp.up_proj.weight"][7, 33] = bad
    write_safetensors(directory / "model.safetensors", tensors)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(InvalidError, match=r"'blk\.1\.ffn_up\.weight' holds -?(nan|inf) at index \[7, 33\]"):
        conversion.convert(directory, out / "out.gguf", type=kind)
    assert list(out.iterdir()) == []


def test_what_does_not_fit_f16_is_refused(tmp_path: Path) -> None:
    x = np.ones((4, 64), np.float32)
    x[2, 3] = 65520
    source = write_safetensors(tmp_path / "x.safetensors", {"x.weight": x})
    with pytest.raises(InvalidError, match=r"65520\.0 at index \[2, 3\], which does not fit F16"):
        conversion.convert(source, tmp_path / "out.gguf", type="f16", architecture="any")
    x[2, 3] = 65519
    write_safetensors(tmp_path / "x.safetensors", {"x.weight": x})
    conversion.convert(source, tmp_path / "out.gguf", type="f16", architecture="any")


def test_numbers_that_stay_as_they_are_are_copied(tmp_path: Path) -> None:
    """A bf16 source to bf16: the very bits, NaN and all."""
    patterns = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    source = write_safetensors(tmp_path / "x.safetensors", {"x.weight": patterns})
    conversion.convert(source, tmp_path / "out.gguf", type="bf16", architecture="any")
    assert tensors_of(tmp_path / "out.gguf")["x.weight"][2] == patterns.tobytes()


def test_an_existing_output_stays(llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"precious")
    with pytest.raises(UsageError, match="exists"):
        conversion.convert(llama, out, type="q8_0")
    assert out.read_bytes() == b"precious"
    conversion.convert(llama, out, type="q8_0", overwrite=True)
    assert out.read_bytes()[:4] == b"GGUF"


@pytest.mark.parametrize("link", [False, True])
def test_a_source_is_never_written(llama: Path, tmp_path: Path, link: bool) -> None:
    target = llama / "model.safetensors"
    before = target.read_bytes()
    if link:
        (tmp_path / "link.gguf").symlink_to(target)
        target = tmp_path / "link.gguf"
    with pytest.raises(UsageError, match="is a source"):
        conversion.convert(llama, target, type="q8_0", overwrite=True)
    assert (llama / "model.safetensors").read_bytes() == before


@contextlib.contextmanager
def largest_file(nbytes: int) -> Iterator[None]:
    """The system refuses to let any file grow beyond nbytes (EFBIG), as a full disk would."""
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)


def test_no_room_for_the_output(llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with largest_file(100_000), pytest.raises(StorageError, match=r"cannot write .*out\.gguf"):
        conversion.convert(llama, out / "out.gguf", type="q8_0")
    assert list(out.iterdir()) == []


def test_a_disk_that_fills_half_way(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where space cannot be reserved, the write that fails ends the conversion."""
    from gguflow import platform

    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(platform, "preallocate", lambda fd, nbytes: None)
    with largest_file(300_000), pytest.raises(StorageError, match="cannot write"):
        conversion.convert(llama, out / "out.gguf", type="q8_0", threads=2)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("output", "message"),
    [("missing/out.gguf", "no such file or directory"), ("file/out.gguf", "not a directory")],
    ids=["missing directory", "a file in place of the directory"],
)
def test_no_directory_for_the_output(llama: Path, tmp_path: Path, output: str, message: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=message):
        conversion.convert(llama, tmp_path / output, type="q8_0")


def test_a_directory_in_place_of_the_output(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory"):
        conversion.convert(llama, tmp_path, type="q8_0", overwrite=True)


def test_a_read_only_directory(llama: Path) -> None:
    """/proc takes no files, whoever asks."""
    with pytest.raises(StorageError, match=r"cannot write /proc/out\.gguf"):
        conversion.convert(llama, "/proc/out.gguf", type="q8_0")


def test_a_source_that_changes_while_it_is_read(llama: Path, tmp_path: Path) -> None:
    source = llama / "model.safetensors"

    def change(*_: object) -> None:
        os.utime(source, ns=(1, 1))

    with pytest.raises(InvalidError, match="changed"):
        conversion.convert(llama, tmp_path / "out.gguf", type="q8_0", progress=change)
    assert not list(tmp_path.glob("*.gguf")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_interrupted(tmp_path: Path, number: int) -> None:
    """Exit code 130, and no trace."""
    rng = np.random.default_rng(0)
    weights = bf16(rng.standard_normal((2048, 4096)).astype(np.float32))
    tensors: dict[str, NDArray[np.uint16]] = {f"t{i}.weight": weights for i in range(16)}
    source = write_safetensors(tmp_path / "big.safetensors", tensors)
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "gguflow", "convert", str(source), "-o", str(out / "out.gguf"), "-t", "q4_k", "--arch", "any", "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(out.iterdir()) and process.poll() is None:  # until the writing has begun
        time.sleep(0.005)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, list(out.iterdir())) == (130, []), errors
    assert "interrupted" in errors and "Traceback" not in errors


def test_threads_must_be_positive(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="threads"):
        conversion.convert(llama, tmp_path / "out.gguf", threads=0)
