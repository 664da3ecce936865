"""From a checkpoint to a file: the bytes are those of quantizing each tensor whole, whatever the pieces; what
goes wrong leaves nothing behind.
"""

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

from gguflow import conversion
from gguflow.blocks import FORMATS
from gguflow.cli.inspect import inspect_file
from gguflow.container.output_file import OutputFile
from gguflow.errors import InvalidError, StorageError, UsageError
from gguflow.models.orders import RopeOrder
from gguflow.quantization import quantize
from testing import ggml, llama_cpp
from testing.checkpoints import TINY, bf16, llama_tensors, tiny_llama, write_safetensors
from testing.gguf_files import tensors_of


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "checkpoint")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_tensor_is_its_quantized_source(tmp_path: Path, dtype: str) -> None:
    """Names, permuted rows, formats: against the array functions, and ggml for the blocks."""
    directory = tiny_llama(tmp_path / "checkpoint", dtype=dtype)
    config = json.loads((directory / "config.json").read_text())
    sources = llama_tensors(config, dtype)
    widened = {
        name: (t.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else t.astype(np.float32)
        for name, t in sources.items()
    }
    conversion.convert(directory, tmp_path / "out.gguf", type="q8_0")
    found = tensors_of(tmp_path / "out.gguf")
    assert len(found) == len(sources)
    q8_0 = FORMATS["q8_0"]
    gate = widened["model.layers.1.mlp.gate_proj.weight"]
    assert found["blk.1.ffn_gate.weight"] == ("q8_0", gate.shape, ggml.quantize(gate, q8_0).tobytes())
    for ours, theirs, n_heads in (("attn_q", "q_proj", 4), ("attn_k", "k_proj", 2)):
        x = widened[f"model.layers.0.self_attn.{theirs}.weight"]
        order = RopeOrder(len(x) // n_heads)(np.arange(len(x)))
        permuted = x.reshape(n_heads, 2, len(x) // n_heads // 2, -1).swapaxes(1, 2).reshape(x.shape)
        assert (x[order] == permuted).all()
        assert found[f"blk.0.{ours}.weight"][2] == ggml.quantize(permuted, q8_0).tobytes()
    norm = widened["model.norm.weight"]
    assert found["output_norm.weight"] == ("f32", norm.shape, norm.tobytes())


@pytest.mark.parametrize(
    "kind",
    ["f32", "f16", "bf16", "q8_0", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k", "q4_k_s", "q4_k_m", "q5_k_m"],
)
def test_result_does_not_depend_on_memory_threads_or_io(tmp_path: Path, kind: str) -> None:
    directory = tiny_llama(tmp_path / "checkpoint", hidden=512, ffn=768, n_layers=1, dtype="bfloat16")
    conversion.convert(directory, tmp_path / "one.gguf", type=kind, threads=1)
    conversion.convert(directory, tmp_path / "three.gguf", type=kind, threads=3, io="pread")
    smallest = 12 * 256 * 2  # tiles of 256 weights: half a row
    conversion.convert(directory, tmp_path / "small.gguf", type=kind, threads=2, memory_limit=smallest)
    expected = (tmp_path / "one.gguf").read_bytes()
    assert {(tmp_path / f"{name}.gguf").read_bytes() == expected for name in ("three", "small")} == {True}
    with pytest.raises(UsageError, match=f"they need {smallest}"):
        conversion.convert(directory, tmp_path / "none.gguf", type=kind, threads=2, memory_limit=smallest - 1)


def test_several_outputs_of_one_reading(tmp_path: Path, llama: Path) -> None:
    done = conversion.run(conversion.prepare(llama, tmp_path / "all-{type}.gguf", type="q4_k_m,q8_0,f32"))
    assert [report.output.name for report in done] == ["all-Q4_K_M.gguf", "all-Q8_0.gguf", "all-F32.gguf"]
    for report in done:
        conversion.convert(llama, tmp_path / "single.gguf", type=report.recipe, overwrite=True)
        assert report.output.read_bytes() == (tmp_path / "single.gguf").read_bytes()
    with pytest.raises(UsageError, match=r"put \{type\} into"):
        conversion.prepare(llama, tmp_path / "all.gguf", type="q4_k_m,q8_0")


def test_the_real_checkpoint_is_answered_from(tmp_path: Path) -> None:
    """llama.cpp loads the file, and with F16 and Q8_0 says the same."""
    outputs = {}
    for kind in ("f16", "q8_0", "q4_k_m"):
        report = conversion.convert(TINY, tmp_path / f"{kind}.gguf", type=kind)
        assert report.nbytes == (tmp_path / f"{kind}.gguf").stat().st_size
        outputs[kind] = llama_cpp.complete(
            str(tmp_path / f"{kind}.gguf"), "import os\nimport sys\n\ndef ", 24
        )
    assert outputs["f16"] == outputs["q8_0"]
    assert len(outputs["q4_k_m"][1]) == 24


def test_a_lone_file_keeps_its_names(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    conv = rng.standard_normal((8, 4, 3, 3)).astype(np.float32)
    linear = rng.standard_normal((6, 512)).astype(np.float32)
    source = write_safetensors(
        tmp_path / "unet.safetensors",
        {"model.conv.weight": conv, "model.linear.weight": linear, "scale": np.full(1, 2, np.float32)},
    )
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
    assert inspect_file(tmp_path / "out.gguf").metadata["general.architecture"].value == "flux"


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
    """A bf16 source to bf16: the very bits, NaN and all where these are allowed."""
    patterns = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    source = write_safetensors(tmp_path / "x.safetensors", {"x.weight": patterns})
    out = tmp_path / "out.gguf"
    conversion.convert(source, out, type="bf16", architecture="any", allow_non_finite=True)
    assert tensors_of(out)["x.weight"][2] == patterns.tobytes()


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


@pytest.fixture(scope="module")
def long_conversion(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of a conversion that takes a second or so, but for its output."""
    rng = np.random.default_rng(0)
    weights = bf16(rng.standard_normal((2048, 2048)).astype(np.float32))
    source = write_safetensors(
        tmp_path_factory.mktemp("long") / "big.safetensors", {f"t{i}.weight": weights for i in range(8)}
    )
    return [
        sys.executable,
        "-m",
        "gguflow",
        "convert",
        str(source),
        "-t",
        "q4_k",
        "--arch",
        "any",
        "--threads",
        "1",
        "-o",
    ]


def stopped(command: list[str], out: Path, number: int, delay: float) -> tuple[int, str]:
    """Start a conversion, send it a signal some time after its first leaf is written; exit code and
    messages.
    """
    process = subprocess.Popen([*command, str(out)], stderr=subprocess.PIPE, text=True)
    journal = out.with_name(f".{out.name}.journal")
    while process.poll() is None and not (journal.exists() and journal.stat().st_size > 300):
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["Ctrl-C", "SIGTERM", "kill -9"]
)
def test_interrupted_and_resumed(tmp_path: Path, long_conversion: list[str], number: int) -> None:
    """Nothing under the output's name; the same command goes on and gives the same file as one that was not
    stopped.
    """
    out = tmp_path / "out.gguf"
    status, errors = stopped(long_conversion, out, number, 0.05)
    assert status == (-number if number == signal.SIGKILL else 130)
    assert "Traceback" not in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.gguf.journal", ".out.gguf.partial"]
    with (tmp_path / ".out.gguf.journal").open("a") as journal:
        journal.write("0 0")  # a torn line
    resumed = subprocess.run(
        [*long_conversion, str(out), "--json", "-q"], capture_output=True, text=True, check=True
    )
    assert json.loads(resumed.stdout)["resumed_nbytes"] > 0
    subprocess.run([*long_conversion, str(tmp_path / "whole.gguf"), "-q"], check=True)
    assert out.read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.gguf", "whole.gguf"]


def test_claims_are_checked(tmp_path: Path, long_conversion: list[str]) -> None:
    """A leaf that the journal claims and the disk lost is written again."""
    out = tmp_path / "out.gguf"
    stopped(long_conversion, out, signal.SIGKILL, 0.05)
    partial = tmp_path / ".out.gguf.partial"
    content = bytearray(partial.read_bytes())
    content[5000:6000] = bytes(1000)
    partial.write_bytes(content)
    subprocess.run([*long_conversion, str(out), "-q"], check=True)
    subprocess.run([*long_conversion, str(tmp_path / "whole.gguf"), "-q"], check=True)
    assert out.read_bytes() == (tmp_path / "whole.gguf").read_bytes()


@pytest.mark.parametrize(
    "change", ["q4_k_s", "q8_0", "source"]
)  # the same size with other metadata, another size
def test_what_was_left_is_never_mixed(tmp_path: Path, long_conversion: list[str], change: str) -> None:
    """Other settings, or a source that was touched, are refused; --no-resume starts afresh."""
    out = tmp_path / "out.gguf"
    stopped(long_conversion, out, signal.SIGKILL, 0.0)
    command = [*long_conversion, str(out), "-q"]
    if change != "source":
        command += ["-t", change]
    else:
        os.utime(long_conversion[4], ns=(1, 1))
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2 and "--no-resume" in refused.stderr
    assert (tmp_path / ".out.gguf.partial").exists(), "what was left may still be wanted"
    subprocess.run([*command, "--no-resume"], check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


def test_two_writers_of_one_output(tmp_path: Path, long_conversion: list[str]) -> None:
    """The second is refused, and does the first no harm."""
    out = tmp_path / "out.gguf"
    with OutputFile(out, 5) as first:
        second = subprocess.run([*long_conversion, str(out)], capture_output=True, text=True)
        assert second.returncode == 2 and "another process is writing" in second.stderr
        first.write(b"first", 0)
        first.commit()
    assert out.read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


def test_a_truncated_source_is_survived_by_pread(llama: Path, tmp_path: Path) -> None:
    source = llama / "model.safetensors"

    def truncate(*_: object) -> None:
        os.truncate(source, 5000)

    with pytest.raises(InvalidError, match=r"shortened|changed"):
        conversion.convert(
            llama, tmp_path / "out.gguf", type="q8_0", io="pread", threads=1, progress=truncate
        )
    assert not list(tmp_path.glob("*.gguf")) and not list(tmp_path.glob(".*"))


def test_threads_must_be_positive(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="threads"):
        conversion.convert(llama, tmp_path / "out.gguf", threads=0)
