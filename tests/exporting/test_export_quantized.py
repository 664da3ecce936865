"""`export --to safetensors-quantized`: whoever has the safetensors library and NumPy gets the weights back,
to the bit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

import gguflow
from gguflow import conversion, exporting
from gguflow.cli import main
from gguflow.errors import UsageError
from testing.checkpoints import tiny_llama, write_safetensors


def reconstructed(
    codes: NDArray[Any], scales: NDArray[np.float32], entry: dict[str, Any]
) -> NDArray[np.float32]:
    """By what the file's metadata says."""
    if entry["bits"] == 4:
        assert codes.dtype == np.uint8
        nibbles = np.stack([codes >> 4, codes & 15], axis=-1).reshape(-1).astype(np.int8)
        codes = np.where(nibbles > 7, nibbles - 16, nibbles)
    else:
        assert codes.dtype == np.int8
    n = int(np.prod(entry["shape"]))
    block = entry["block"] or entry["shape"][-1]
    each = np.repeat(scales.reshape(-1), block)[:n]
    return (codes.reshape(-1)[:n].astype(np.float32) * each).reshape(entry["shape"])


@pytest.mark.parametrize("name", ["int8_b128", "int8_row", "int4_b128", "int4_b128+zstd", "int8_b128+zstd"])
def test_numpy_gets_the_weights_back(tmp_path: Path, name: str) -> None:
    """Of rows in the checkpoint's order, Q and K too."""
    original = tiny_llama(tmp_path / "original", hidden=128, ffn=384, n_layers=1, dtype="bfloat16")
    path = conversion.convert(original, tmp_path / "x.gguf", type=name).output
    exporting.export(path, tmp_path / "x.safetensors", form="safetensors-quantized", dtype="f32", threads=2)
    exporting.export(path, tmp_path / "plain.safetensors", dtype="f32")
    with safe_open(tmp_path / "x.safetensors", "np") as file:
        entries = json.loads(file.metadata()["quantization"])
    found, plain = load_file(tmp_path / "x.safetensors"), load_file(tmp_path / "plain.safetensors")
    assert entries.keys() == {
        tensor for tensor in plain if tensor.endswith("_proj.weight") or tensor == "lm_head.weight"
    }
    assert found.keys() == plain.keys() | {f"{tensor}.__scales__" for tensor in entries}
    for tensor, weights in plain.items():
        if tensor not in entries:
            assert np.array_equal(found[tensor], weights), tensor
            continue
        entry, scales = entries[tensor], found[f"{tensor}.__scales__"]
        assert (entry["encoding"], entry["shape"]) == (name, list(weights.shape))
        assert scales.shape == (*weights.shape[:-1], 1 if name == "int8_row" else weights.shape[-1] // 128)
        assert found[tensor].shape == (*weights.shape[:-1], weights.shape[-1] // (8 // entry["bits"]))
        assert np.array_equal(reconstructed(found[tensor], scales, entry), weights), tensor


def test_blocks_over_several_rows(tmp_path: Path) -> None:
    """Rows of 100 weights: scales are flat, the last block is short."""
    x = np.random.default_rng(0).standard_normal((7, 100)).astype(np.float32)
    write_safetensors(tmp_path / "x.safetensors", {"w.weight": x})
    for name, shapes in (("int8_b128", [(7, 100), (6,)]), ("int4_b128", [(7, 50), (6,)])):
        path = conversion.convert(
            tmp_path / "x.safetensors", tmp_path / f"{name}.gguf", type=name, architecture="any"
        ).output
        exporting.export(path, tmp_path / f"{name}.safetensors", form="safetensors-quantized")
        found = load_file(tmp_path / f"{name}.safetensors")
        with safe_open(tmp_path / f"{name}.safetensors", "np") as file:
            entry = json.loads(file.metadata()["quantization"])["w.weight"]
        assert [found["w.weight"].shape, found["w.weight.__scales__"].shape] == shapes
        with gguflow.open(path) as model:
            assert np.array_equal(
                reconstructed(found["w.weight"], found["w.weight.__scales__"], entry),
                model["w.weight"].dequantize(),
            )


def test_rows_that_are_not_whole_blocks_cannot_move(tmp_path: Path) -> None:
    original = tiny_llama(tmp_path / "original", hidden=96, n_layers=1)
    path = conversion.convert(original, tmp_path / "x.gguf", type="int8_b128").output
    with pytest.raises(
        UsageError, match=r"self_attn\.[qk]_proj\.weight: rows of 96 weights are not whole blocks"
    ):
        exporting.export(path, tmp_path / "x.safetensors", form="safetensors-quantized")


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = tiny_llama(tmp_path / "original", hidden=128, n_layers=1, dtype="bfloat16")
    path = conversion.convert(original, tmp_path / "x.gguf", type="int8_row").output
    assert (
        main(
            [
                "export",
                str(path),
                "-o",
                str(tmp_path / "out"),
                "--to",
                "safetensors-quantized",
                "--json",
                "-q",
            ]
        )
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert report["recipe"] == "safetensors-quantized"
    assert report["formats"].keys() == {"BF16", "I8", "F32"}
    assert Path(report["output"]).stat().st_size == report["nbytes"]
