"""What is said of a checkpoint whose tensors are not those of its family: what it is, and what helps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gguflow
from gguflow import models
from gguflow.blocks import FORMATS
from gguflow.cli import main
from gguflow.conversion.skipping import without
from gguflow.errors import FileError, InvalidError, UnsupportedError, UsageError
from gguflow.models.refusals import common_prefix
from gguflow.sources import open_checkpoint
from gguflow.sources.base import Checkpoint
from testing.checkpoints import tiny_llama, write_safetensors
from testing.families import Shapes, checkpoint, files, shapes
from testing.source_files import safetensors_bytes

Tensors = Mapping[str, tuple[int, ...]]


def renamed(prefix: str, **more: tuple[int, ...]) -> Shapes:
    """Llama's tensors with a prefix, and others."""
    return {prefix + name: shape for name, shape in shapes("llama").items()} | more


def with_dtypes(source: Checkpoint, dtypes: Mapping[str, str]) -> Checkpoint:
    """The checkpoint with other number types where a name ends in a key."""
    tensors = {
        name: replace(tensor, dtype=dtype, format=FORMATS.get(dtype.lower()))
        for name, tensor in source.tensors.items()
        for dtype in [next((d for end, d in dtypes.items() if name.endswith(end)), tensor.dtype)]
    }
    return replace(source, tensors=tensors)


Q = "model.layers.0.self_attn.q_proj"

QUANTIZED: dict[str, tuple[dict[str, Any], Shapes, dict[str, str], str]] = {
    "MLX by its config": ({"quantization": {"group_size": 64, "bits": 4}}, {}, {}, "by MLX"),
    "MLX by both keys": ({"quantization_config": {"group_size": 64, "bits": 4}}, {}, {}, "by MLX"),
    "MLX by its tensors": ({}, {f"{Q}.scales": (4,), f"{Q}.biases": (4,)}, {f"{Q}.weight": "U32"}, "by MLX"),
    "bitsandbytes 8 bit": ({}, {f"{Q}.SCB": (32,)}, {f"{Q}.weight": "I8"}, "bitsandbytes to 8 bits"),
    "bitsandbytes 8 bit by its config": (
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        {},
        {},
        "bitsandbytes to 8 bits",
    ),
    "GPTQ": ({}, {f"{Q}.g_idx": (32,)}, {}, "by GPTQ"),
    "AWQ": ({}, {f"{Q}.qweight": (4, 4)}, {f"{Q}.qweight": "I32"}, "by AWQ or GPTQ"),
    "FP8": ({}, {f"{Q}.weight_scale": (1,)}, {f"{Q}.weight": "F8_E4M3"}, "to FP8"),
    "FP8 in blocks": ({}, {f"{Q}.weight_scale_inv": (1,)}, {f"{Q}.weight": "F8_E4M3"}, "to FP8"),
    "compressed-tensors": ({}, {f"{Q}.weight_packed": (1,)}, {}, "compressed-tensors"),
    "NVFP4": ({}, {f"{Q}.weight_scale_2": (1,)}, {}, "NVFP4"),
    "MXFP4": ({}, {"model.layers.0.mlp.experts.gate_up_proj_blocks": (1,)}, {}, "MXFP4"),
    "integers without anything": ({}, {}, {f"{Q}.weight": "I8"}, "integers"),
}


@pytest.mark.parametrize(("config", "more", "dtypes", "says"), QUANTIZED.values(), ids=QUANTIZED)
def test_quantized_weights_are_told_by_their_method(
    config: dict[str, Any], more: Shapes, dtypes: dict[str, str], says: str, tmp_path: Path
) -> None:
    contents = files("llama")
    contents["config.json"] |= config
    source = with_dtypes(checkpoint(tmp_path, contents, shapes("llama") | more), dtypes)
    with pytest.raises(UnsupportedError) as caught:
        models.load(source)
    assert caught.value.finding.rule == "M-007"
    assert says in str(caught.value) and "convert the original checkpoint" in str(caught.value)


ADVICE: dict[str, tuple[Shapes, str, list[str]]] = {
    "a prefix": (renamed("inner."), "M-011", ["--strip-prefix inner. "]),
    "a prefix of two parts": (renamed("base_model.model."), "M-011", ["--strip-prefix base_model.model. "]),
    "a prefix inside": (
        {name.replace("model.", "model.inner.", 1): shape for name, shape in shapes("llama").items()},
        "M-011",
        ["--strip-prefix model.inner. "],
    ),
    "a prefix beside something else": (
        {"tower.patch.weight": (4, 4)} | renamed("inner."),
        "M-011",
        ["--strip-prefix inner. ", r"--skip-tensor '^tower\.'"],
    ),
    "a head of its own": (
        shapes("llama") | {"v_head.summary.weight": (1, 32)},
        "M-011",
        [r"--skip-tensor '^v_head\.'"],
    ),
    "a scale of a cache": (
        shapes("llama") | {"model.layers.0.self_attn.k_scale": (1,)},
        "M-011",
        ["--skip-tensor '^model\\.layers\\.0\\.self_attn\\.k_scale$'"],
    ),
    "experts of MLX": (
        shapes("llama") | {"model.layers.0.mlp.switch_mlp.up_proj.weight": (2, 48, 32)},
        "M-011",
        ["MLX"],
    ),
    "no output matrix": (
        {name: shape for name, shape in shapes("llama").items() if name != "lm_head.weight"},
        "M-010",
        ['"tie_word_embeddings": true', "config.json"],
    ),
    "a layer missing": (
        {name: shape for name, shape in shapes("llama").items() if ".layers.1." not in name},
        "M-010",
        ["8 others", "file of weights missing"],
    ),
}


@pytest.mark.parametrize(("tensors", "rule", "says"), ADVICE.values(), ids=ADVICE)
def test_the_message_says_what_helps(tensors: Shapes, rule: str, says: list[str], tmp_path: Path) -> None:
    with pytest.raises(InvalidError) as caught:
        models.load(checkpoint(tmp_path, files("llama"), tensors))
    assert caught.value.finding.rule == rule
    assert [word for word in says if word not in str(caught.value)] == []


@pytest.mark.parametrize("prefix", ["language_model.", "base_model.model.", "model.language_model."])
def test_the_advice_works(prefix: str, tmp_path: Path) -> None:
    """With the options that the messages name, the model is the one without the prefix."""
    wanted = models.load(checkpoint(tmp_path, files("llama"), shapes("llama")))
    start = "model." if prefix == "model.language_model." else ""
    tensors = {prefix + name.removeprefix(start): shape for name, shape in shapes("llama").items()} | {
        "vision_tower.a.weight": (2, 2),
        "v_head.weight": (1, 32),
    }
    source = checkpoint(tmp_path, files("llama"), tensors)
    model = models.load(without(source, [r"^vision_tower\.", "^V_HEAD"]), strip_prefix=prefix)
    assert [(t.name, t.shape) for t in model.tensors] == [(t.name, t.shape) for t in wanted.tensors]


def test_no_prefix_is_named_that_does_not_help() -> None:
    known = {"a.weight", "b.weight"}
    is_known: Callable[[str], bool] = known.__contains__
    assert common_prefix(["x.a.weight", "x.b.weight"], is_known) == "x."
    assert common_prefix(["x.a.weight", "x.c.weight", "x.d.weight"], is_known) == ""
    assert common_prefix(["a.weight", "b.weight", "c.weight"], is_known) == ""
    assert common_prefix([], is_known) == ""


def test_a_required_tensor_cannot_be_skipped(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, files("llama"), shapes("llama"))
    with pytest.raises(InvalidError, match=r"M-010.*blk\.0\.attn_q\.weight"):
        models.load(without(source, [r"layers\.0\.self_attn\.q_proj"]))


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("nothing", "matches no tensor; use the names in the source: "),
        ("(", "regular expression"),
        ("a{99999999999}", "regular expression"),
        ("(" * 3000, "regular expression"),
    ],
    ids=["no match", "unbalanced", "too many", "too deep"],
)
def test_a_pattern_must_match(pattern: str, says: str, tmp_path: Path) -> None:
    source = checkpoint(tmp_path, files("llama"), shapes("llama"))
    with pytest.raises(UsageError) as caught:
        without(source, [pattern])
    assert says in str(caught.value)


def test_skipping_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a tensor's type is; from a GGUF file too."""
    arrays: dict[str, NDArray[Any]] = {
        "a.weight": np.ones((2, 32), np.float32),
        "mask": np.ones(4, np.uint8),
        "b.mask": np.ones(4, np.bool_),
    }
    source, out = tmp_path / "x.safetensors", tmp_path / "out.gguf"
    source.write_bytes(safetensors_bytes(arrays))
    command = ["convert", str(source), "--arch", "x", "-t", "f32", "-q", "-o", str(out), "--overwrite"]
    assert main(command) == 3
    assert "--skip-tensor" in capsys.readouterr().err
    assert main([*command, "--skip-tensor", "^mask$", "--skip-tensor", r"b\."]) == 0
    with gguflow.open(out) as model:
        assert list(model) == ["a.weight"]
    again = ["convert", str(out), "-t", "f32", "-q", "-o", str(tmp_path / "again.gguf")]
    assert main([*again, "--skip-tensor", "a"]) == 0
    capsys.readouterr()
    assert main([*again, "--skip-tensor", "mask"]) == 2
    assert "matches no tensor" in capsys.readouterr().err


def test_skipping_in_python(tmp_path: Path) -> None:
    directory = tiny_llama(tmp_path / "checkpoint")
    plain = gguflow.convert(directory, tmp_path / "a.gguf", type="q8_0").output.read_bytes()
    with pytest.raises(FileError, match="M-010"):
        gguflow.convert(directory, tmp_path / "b.gguf", type="q8_0", skip_tensors=["embed_tokens"])
    (directory / "model.safetensors.index.json").write_text(json.dumps(index_of(directory)))
    report = gguflow.convert(directory, tmp_path / "c.gguf", type="q8_0", skip_tensors=["^v_head"])
    assert report.n_tensors == len(gguflow.open(tmp_path / "a.gguf")) and plain


def index_of(directory: Path) -> dict[str, Any]:
    """An index of the only file of weights and of a second one, which is made."""
    write_safetensors(directory / "more.safetensors", {"v_head.weight": np.ones((2, 2), np.float32)})
    names = open_checkpoint(directory / "model.safetensors").tensors
    return {"weight_map": dict.fromkeys(names, "model.safetensors") | {"v_head.weight": "more.safetensors"}}


def test_tensors_of_five_dimensions(tmp_path: Path) -> None:
    source = tmp_path / "wan.safetensors"
    source.write_bytes(safetensors_bytes({"patch_embedding.weight": np.ones((4, 2, 2, 2, 2), np.float32)}))
    with pytest.raises(UnsupportedError) as caught:
        gguflow.convert(source, tmp_path / "x.gguf", architecture="wan")
    assert caught.value.finding.rule == "M-061"
    assert str(source) in str(caught.value)
    for word in ("patch_embedding.weight", "[4, 2, 2, 2, 2]", "--skip-tensor"):
        assert word in str(caught.value)
