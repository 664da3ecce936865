"""`convert --method search`: blocks of the same size with smaller errors. They are those of
`gguflow.fidelity.search.encode`, whatever the pieces; without the option nothing changes.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gguflow import conversion
from gguflow.blocks import FORMATS
from gguflow.cli import main
from gguflow.cli.inspect import inspect_file
from gguflow.container.metadata import string
from gguflow.conversion.splitting import Split
from gguflow.errors import InvalidError, UsageError
from gguflow.fidelity import search
from gguflow.fidelity.grids import GRIDS
from gguflow.quantization import dequantize, quantize
from gguflow.recipes import Options
from gguflow.validation import validate
from testing.checkpoints import TINY, bf16, tiny_llama, write_safetensors
from testing.gguf_files import tensors_of
from tests.conversion.test_imatrix import SHAPES, entry, gguf, importance_for, tensor_bytes

f32 = np.float32
Floats = NDArray[np.float32]

NAME = "blk.0.ffn_down_exps.weight"
SMALLEST = 24 * 256
"""Bytes of a memory limit for each thread, at least: tiles of 256 weights."""


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "llama", hidden=256, ffn=512)


def converted(source: Path, out: Path, **options: Any) -> bytes:
    return conversion.convert(source, out, overwrite=True, **options).output.read_bytes()


def lone(path: Path, x: NDArray[Any]) -> Path:
    """A checkpoint of one matrix, or of several experts' matrices."""
    return write_safetensors(path / "x.safetensors", {NAME: x})


def mixed(shape: tuple[int, ...]) -> Floats:
    """Weights, of which some blocks lie on a lattice, some use few bits, and some are zero."""
    rng = np.random.default_rng(5)
    x = (rng.standard_normal(shape) * 0.05).astype(f32)
    blocks = x.reshape(-1, 32)
    blocks[::5] = rng.integers(-7, 8, blocks[::5].shape) * f32(0.013)
    blocks[1::7] = (np.ascontiguousarray(blocks[1::7]).view(np.uint32) & np.uint32(0xFFFF0000)).view(f32)
    blocks[2::11] = 0
    return x


def test_ggml_is_the_default(tmp_path: Path, llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("q4_k_m", "q8_0"):
        files = [tmp_path / f"{name}.gguf" for name in ("without", "with")]
        for file, more in zip(files, ([], ["--method", "ggml"]), strict=True):
            assert main(["convert", str(llama), "-t", kind, "-o", str(file), "-q", "--overwrite", *more]) == 0
        assert files[0].read_bytes() == files[1].read_bytes()
        assert "gguflow.method" not in inspect_file(files[0]).metadata
        assert tensor_bytes(files[0], "blk.0.attn_v.weight")[1]
    capsys.readouterr()


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bytes_are_those_of_the_whole_matrix(tmp_path: Path, kind: str, dtype: str) -> None:
    """In tiles and leaves of any size, in any number of threads."""
    x = mixed((24, 512))
    stored: NDArray[Any] = x
    if dtype == "bfloat16":
        stored = bf16(x)
        x = (stored.astype(np.uint32) << 16).view(f32)
    source = lone(tmp_path, stored)
    expected = search.encode(x, kind).tobytes()
    for threads, limit in ((1, 192 << 20), (3, 192 << 20), (2, 2 * SMALLEST), (2, 2 * 5 * SMALLEST)):
        out = tmp_path / "out.gguf"
        options = {"architecture": "test", "threads": threads, "memory_limit": limit}
        converted(source, out, type=kind, method="search", options=Options(pure=True), **options)
        assert tensor_bytes(out, NAME) == (kind, expected), (threads, limit)
    assert expected != quantize(x, kind).tobytes()


@pytest.mark.parametrize("kind", ["q4_0", "q5_1", "q4_k", "q6_k", "iq4_nl", "q8_0"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_importance(tmp_path: Path, shape: tuple[int, ...], kind: str) -> None:
    """Each matrix with its own; formats that ggml does not weigh are searched without."""
    x = mixed(shape)
    source = lone(tmp_path, x)
    sums, counts = importance_for(shape)
    sums[..., 3::7] = 0  # columns that never counted still count a little, measured by the whole row
    path = gguf(tmp_path / "m.gguf", entry(NAME, sums, counts))
    matrices = x.reshape(-1, *shape[-2:])
    columns = [s / f32(n) if n else np.ones_like(s) for s, n in zip(sums, counts, strict=True)]
    weighed = FORMATS[kind].importance != "unused"
    expected = b"".join(
        search.encode(matrix, kind, own if weighed else None).tobytes()
        for matrix, own in zip(matrices, columns, strict=True)
    )
    limits = [192 << 20, 3 * 3 * SMALLEST] if x.size < 100_000 else [192 << 20]
    for threads, limit in itertools.product((1, 3), limits):
        options = {"architecture": "test", "threads": threads, "memory_limit": limit, "imatrix": path}
        out = tmp_path / "out.gguf"
        converted(source, out, type=kind, method="search", options=Options(pure=True), **options)
        assert tensor_bytes(out, NAME) == (kind, expected), (threads, limit)


def signal_to_noise(x: Floats, blocks: bytes, kind: str) -> float:
    y = dequantize(np.frombuffer(blocks, np.uint8), kind).astype(np.float64)
    noise = float(np.square(y - x.reshape(-1)).sum())
    return float(np.square(x, dtype=np.float64).sum()) / max(noise, 1e-300)


@pytest.mark.parametrize("kind", ["q4_k_m", "q5_k_m", "q8_0", "q2_k", "q3_k_m", "q4_0", "q5_1", "iq4_xs"])
def test_every_tensor_is_at_least_as_faithful(tmp_path: Path, kind: str) -> None:
    """Of the real model: same names, formats and places, valid, and less error in what is covered."""
    report = conversion.convert(TINY, tmp_path / "search.gguf", type=kind, method="search")
    assert report.method == "search"
    converted(TINY, tmp_path / "ggml.gguf", type=kind)
    converted(TINY, tmp_path / "f32.gguf", type="f32")
    found, plain, exact = (tensors_of(tmp_path / f"{name}.gguf") for name in ("search", "ggml", "f32"))
    assert found.keys() == plain.keys() == exact.keys()
    better = set()
    for name, (key, shape, blocks) in found.items():
        assert plain[name][:2] == (key, shape)
        if key not in GRIDS:
            assert blocks == plain[name][2]
            continue
        x = np.frombuffer(exact[name][2], f32)
        searched, usual = signal_to_noise(x, blocks, key), signal_to_noise(x, plain[name][2], key)
        assert searched >= usual, name
        better |= {key} if searched > usual else set()
    assert better == {key for key, _, _ in found.values() if key in GRIDS}
    assert [f for f in validate(tmp_path / "search.gguf", "strict") if f.severity == "error"] == []
    ours, theirs = (dict(inspect_file(tmp_path / f"{name}.gguf").metadata) for name in ("search", "ggml"))
    assert ours.pop("gguflow.method") == string("search")
    assert [key for key in theirs if not np.array_equal(ours[key].value, theirs[key].value)] == [
        "gguflow.integrity.length",
        "gguflow.integrity.header",
        "gguflow.integrity.tensors",
    ]


def stop(*done: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("integrity", [True, False])
@pytest.mark.parametrize(("begun", "other"), [("search", "ggml"), ("ggml", "search")])
def test_methods_are_never_mixed(
    tmp_path: Path, llama: Path, begun: str, other: str, integrity: bool
) -> None:
    """What was left is continued by the same method alone, to the bytes of a run that was not stopped."""
    out = tmp_path / "out.gguf"
    with pytest.raises(KeyboardInterrupt):
        conversion.convert(llama, out, method=begun, integrity=integrity, threads=1, progress=stop)
    with pytest.raises(UsageError, match="its sources, settings or version were others"):
        conversion.convert(llama, out, method=other, integrity=integrity)
    report = conversion.convert(llama, out, method=begun, integrity=integrity)
    assert report.resumed_nbytes > 0
    whole = converted(llama, tmp_path / "whole.gguf", method=begun, integrity=integrity)
    assert out.read_bytes() == whole
    assert whole != converted(llama, tmp_path / "other.gguf", method=other, integrity=integrity)


def test_several_outputs_and_shards(tmp_path: Path, llama: Path) -> None:
    """All outputs have the method, and each shard says so."""
    prepared = conversion.prepare(
        llama, tmp_path / "all-{type}.gguf", type="q4_k_m,q8_0", method="search", shards=Split(max_tensors=8)
    )
    for report in conversion.run(prepared):
        assert len(report.files) > 1
        assert {inspect_file(file).metadata["gguflow.method"] for file in report.files} == {string("search")}
        converted(llama, tmp_path / "one.gguf", type=report.recipe, method="search")
        one = tensors_of(tmp_path / "one.gguf")
        assert {name: t for file in report.files for name, t in tensors_of(file).items()} == one
        assert not [f for f in validate(report.files[0], "strict") if f.severity == "error"]


def test_what_is_not_covered_is_named(
    tmp_path: Path, llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.gguf"
    command = ["convert", str(llama), "-t", "q4_k_m", "--tensor-type", "ffn_up=iq3_s", "-o", str(out)]
    assert main([*command, "--method", "search", "--json"]) == 0
    said = capsys.readouterr()
    assert said.err.count("2 tensors keep ggml's encoder, as --method search does not cover the format") == 1
    assert "blk.0.ffn_up.weight (IQ3_S), blk.1.ffn_up.weight (IQ3_S)" in said.err
    assert "--method search" in said.err
    assert json.loads(said.out)["method"] == "search"
    found = tensor_bytes(out, "blk.1.ffn_up.weight")
    assert main([*command, "--overwrite", "--json", "--explain"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["method"] == "ggml"
    assert "encoder" not in said.err and "scales by search" not in said.err
    assert tensor_bytes(out, "blk.1.ffn_up.weight") == found
    assert main([*command, "--method", "search", "--dry-run", "--explain"]) == 0
    assert (
        "q4_k: base; scales by search" in (said := capsys.readouterr()).out or "scales by search" in said.out
    )


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "copy", "nf4_b64", "iq3_s --pure", "q8_0,f16"])
def test_without_effect_is_refused(tmp_path: Path, llama: Path, kind: str) -> None:
    name, _, pure = kind.partition(" --")
    with pytest.raises(UsageError, match=r"--method search .* would have no effect"):
        conversion.prepare(
            llama,
            tmp_path / "{type}.gguf",
            type=name,
            method="search",
            options=Options(pure=bool(pure), tensor_types=(".*=iq3_s",) if pure else ()),
        )


def test_refusals(tmp_path: Path, llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(llama), "--method", "serch", "-o", str(tmp_path / "out.gguf")]) == 2
    assert "method must be ggml or search, not 'serch'" in capsys.readouterr().err
    with pytest.raises(UsageError, match="--method"):
        conversion.prepare(llama, vocab_only=True, method="search")
    wrong: Any = None
    with pytest.raises(UsageError, match="method must be"):
        conversion.prepare(llama, method=wrong)
    smallest = 2 * SMALLEST
    with pytest.raises(UsageError, match=f"they need {smallest}"):
        conversion.convert(llama, tmp_path / "o.gguf", method="search", threads=2, memory_limit=smallest - 1)


@pytest.mark.parametrize("kind", ["q8_0", "q4_k", "nvfp4"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_bad_weight_is_named(tmp_path: Path, bad: float, kind: str) -> None:
    x = mixed((24, 512))
    x[17, 300] = bad
    out = tmp_path / "out.gguf"
    with pytest.raises(InvalidError, match=r"M-100.*ffn_down_exps.*\[17, 300\]"):
        converted(lone(tmp_path, x), out, type=kind, method="search", architecture="test")
    assert not out.exists()


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("magnitude", [1e-45, 1e-30, 6e4, 6e5, 1e7, 1e30, 3e38])
def test_what_converts_is_valid(tmp_path: Path, kind: str, magnitude: float) -> None:
    """Whatever the weights: a file without an error, or a refusal that names a weight."""
    with np.errstate(under="ignore"):
        x = (np.random.default_rng(0).uniform(-1, 1, (2, 512)) * magnitude).astype(f32)
    out = tmp_path / "out.gguf"
    refusal = ""
    try:
        converted(lone(tmp_path, x), out, type=kind, method="search", architecture="test", threads=1)
    except InvalidError as error:
        refusal = str(error)
    if refusal:
        assert "at index [" in refusal
    else:
        assert [f for f in validate(out, "values") if f.severity == "error"] == []
