"""Shapes that are not matrices: dimensions of one at the front, more than four, and those that a file says
its tensors had.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import gguflow
from gguflow import exporting
from gguflow.cli import main
from gguflow.comparison import compare
from gguflow.errors import InvalidError, UnsupportedError
from gguflow.recipes import Options
from testing.source_files import safetensors_bytes

SHAPES = {
    "pos_embed": (1, 36, 256),
    "one.weight": (1, 1),
    "x.weight": (3, 1, 2, 256),
    "y.weight": (4, 256),
}
RANDOM = np.random.default_rng(5)


def write_gguf(path: Path, architecture: str, tensors: dict[str, Any], **arrays: list[int]) -> Path:
    """A GGUF file as gguf-py writes it, which keeps dimensions of one."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, values in arrays.items():
        writer.add_array(name, values)
    for name, values in tensors.items():
        if isinstance(values, tuple):
            writer.add_tensor(name, values[0], raw_dtype=values[1])
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def dims(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes in the file, by gguf's own reader."""
    return {t.name: tuple(int(n) for n in reversed(t.shape)) for t in gguf.GGUFReader(path).tensors}


def weights() -> dict[str, Any]:
    return {name: RANDOM.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("type_", ["copy", "f16", "q8_0", "q4_k_m"])
@pytest.mark.parametrize("architecture", ["sd3", "llama"])
def test_dimensions_of_one_in_a_gguf_file(architecture: str, type_: str, tmp_path: Path) -> None:
    """They stay; where llama.cpp knows the architecture, they go, as with its tools."""
    source = write_gguf(tmp_path / "in.gguf", architecture, weights())
    gguflow.convert(source, tmp_path / "out.gguf", type=type_)
    expected = SHAPES if architecture == "sd3" else SHAPES | {"pos_embed": (36, 256), "one.weight": (1,)}
    assert dims(tmp_path / "out.gguf") == expected


def test_a_round_trip_by_safetensors(tmp_path: Path) -> None:
    arrays = weights()
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes(arrays))
    gguflow.convert(tmp_path / "a.safetensors", tmp_path / "a.gguf", type="f32", architecture="sd3")
    assert dims(tmp_path / "a.gguf") == SHAPES
    exporting.export(tmp_path / "a.gguf", tmp_path / "b.safetensors", dtype="f32")
    found = compare(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert {t.name: t.shape for t in found.tensors} == SHAPES
    assert found.total.is_exact
    gguflow.convert(tmp_path / "a.safetensors", tmp_path / "c.gguf", type="f32", architecture="llama")
    assert dims(tmp_path / "c.gguf")["pos_embed"] == (36, 256)


def test_ones_in_front_of_four_dimensions_are_left_out(tmp_path: Path) -> None:
    source = tmp_path / "a.safetensors"
    source.write_bytes(safetensors_bytes({"a.weight": np.ones((1, 1, 2, 1, 2, 32), np.float32)}))
    gguflow.convert(source, tmp_path / "a.gguf", type="f32", architecture="wan")
    assert dims(tmp_path / "a.gguf") == {"a.weight": (2, 1, 2, 32)}
    source.write_bytes(safetensors_bytes({"a.weight": np.ones((2, 1, 2, 2, 32), np.float32)}))
    with pytest.raises(UnsupportedError, match=r"M-061.*a\.weight has 5 dimensions"):
        gguflow.convert(source, tmp_path / "b.gguf", type="f32", architecture="wan")


KEY = "comfy.gguf.orig_shape.w.weight"


@pytest.mark.parametrize("kind", [None, "Q8_0", "Q4_K"])
def test_the_original_shape_is_that_of_exports_and_comparisons(kind: str | None, tmp_path: Path) -> None:
    """Rows of the original may be shorter than a block."""
    original = RANDOM.standard_normal((6144, 64)).astype(np.float32)
    stored: Any = original.reshape(1536, 256)
    if kind is not None:
        stored = gguflow.quantize(stored, kind.lower()), gguf.GGMLQuantizationType[kind]
    source = write_gguf(tmp_path / "in.gguf", "flux", {"w.weight": stored}, **{KEY: [6144, 64]})
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes({"w.weight": original}))

    exporting.export(source, tmp_path / "b.safetensors", dtype="f32")
    header = (tmp_path / "b.safetensors").read_bytes()
    length = int.from_bytes(header[:8], "little")
    assert json.loads(header[8 : 8 + length])["w.weight"]["shape"] == [6144, 64]

    with_original = compare(tmp_path / "a.safetensors", source)
    with_export = compare(tmp_path / "b.safetensors", source)
    assert with_original.other_shape == with_export.other_shape == ()
    assert with_original.tensors[0].shape == (6144, 64)
    assert with_original.total.snr > (200 if kind is None else 15)
    assert with_export.total.is_exact

    gguflow.convert(source, tmp_path / "c.gguf", type="f16", options=Options(allow_requantize=True))
    assert dims(tmp_path / "c.gguf") == {"w.weight": (1536, 256)}
    with gguflow.open(tmp_path / "c.gguf") as model:
        assert list(model.metadata[KEY]) == [6144, 64]


@pytest.mark.parametrize("shape", [[6144, 65], [0, 4], [-1536, -256], [1] * 40], ids=str)
def test_an_original_shape_of_other_weights(
    shape: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_gguf(
        tmp_path / "in.gguf", "flux", {"w.weight": np.ones((1536, 256), np.float32)}, **{KEY: shape}
    )
    with pytest.raises(InvalidError, match="M-062"):
        exporting.export(source, tmp_path / "b.safetensors")
    assert main(["compare", str(source), str(source)]) == 3
    assert "orig_shape" in capsys.readouterr().err
