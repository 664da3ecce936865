"""Back to safetensors: what was converted to BF16 comes back bit for bit under its own names; what was
quantized comes back as ggml decodes it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from gguflow import conversion, exporting, recipes
from gguflow.blocks import FORMATS
from gguflow.cli import main
from gguflow.container.metadata import Metadata, string, u32
from gguflow.conversion.splitting import Split
from gguflow.errors import InvalidError, UsageError
from gguflow.models.orders import RopeOrder
from gguflow.sources import open_checkpoint
from testing import ggml
from testing.checkpoints import TINY, tiny_llama
from testing.families import random_checkpoint
from testing.gguf_files import array_file, tensors_of


def raw(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """dtype, shape and bytes of every tensor, by our own reader (NumPy has no BF16)."""
    content = path.read_bytes()
    tensors = open_checkpoint(path).tensors.values()
    return {t.name: (t.dtype, t.shape, content[t.offset : t.offset + t.nbytes]) for t in tensors}


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "bert", "mixtral", "qwen3moe"])
def test_a_bf16_checkpoint_comes_back(tmp_path: Path, family: str) -> None:
    source = random_checkpoint(tmp_path / "checkpoint", family)
    conversion.convert(source, tmp_path / "model.gguf", type="bf16")
    exporting.export(tmp_path / "model.gguf", tmp_path / "back", dtype="bf16")
    assert raw(tmp_path / "back" / "model.safetensors") == raw(source / "model.safetensors")


def test_a_real_checkpoint_comes_back(tmp_path: Path) -> None:
    """tiny-py-llama, also by way of shards; in F32 the safetensors library reads the same numbers."""
    first = conversion.convert(
        TINY, tmp_path / "model.gguf", type="bf16", shards=Split(max_tensors=30)
    ).output
    original = raw(TINY / "model.safetensors")
    exporting.export(first, tmp_path / "back.safetensors", dtype="bf16", threads=2, memory_limit=2 * 12 * 256)
    assert raw(tmp_path / "back.safetensors") == original
    exporting.export(first, tmp_path / "f32.safetensors", dtype="f32", io="pread")
    for name, found in load_file(tmp_path / "f32.safetensors").items():
        _, shape, content = original[name]
        assert found.dtype == np.float32
        assert (
            found
            == (np.frombuffer(content, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
        ).all()


@pytest.mark.parametrize("kind", ["q4_k_m", "q8_0", "q5_0", "iq4_xs"])
def test_quantized_weights_are_decoded(tmp_path: Path, kind: str) -> None:
    """As ggml decodes them, rows of Q and K in the checkpoint's order."""
    source = tiny_llama(tmp_path / "checkpoint", hidden=256, ffn=512)
    conversion.convert(source, tmp_path / "model.gguf", type=kind)
    exporting.export(
        tmp_path / "model.gguf",
        tmp_path / "back.safetensors",
        dtype="f32",
        threads=3,
        memory_limit=3 * 12 * 256,
    )
    found, blocks = load_file(tmp_path / "back.safetensors"), tensors_of(tmp_path / "model.gguf")
    for ours, theirs, n_heads in (
        ("blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight", None),
        ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight", 4),
        ("blk.0.attn_k.weight", "model.layers.0.self_attn.k_proj.weight", 2),
        ("output.weight", "lm_head.weight", None),
    ):
        name, shape, content = blocks[ours]
        expected = ggml.dequantize(np.frombuffer(content, np.uint8).reshape(shape[0], -1), FORMATS[name])
        rows = np.arange(shape[0])
        if n_heads is not None:
            rows = RopeOrder(shape[0] // n_heads)(rows)
        assert (found[theirs][rows] == expected).all(), ours


@pytest.mark.parametrize(("n_heads", "n_rows"), [(1, 2), (4, 64), (3, 18), (5, 5 * 128)])
def test_the_row_order_has_an_inverse(n_heads: int, n_rows: int) -> None:
    order = RopeOrder(n_rows // n_heads)
    there, back = order(np.arange(n_rows)), order.inverse(np.arange(n_rows))
    assert (there[back] == np.arange(n_rows)).all() and (back[there] == np.arange(n_rows)).all()


def test_an_unknown_architecture_keeps_its_names(tmp_path: Path) -> None:
    """Integers and F64 keep their type; the official library reads all of it."""
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "a.steps": np.arange(3, dtype=np.int8),
        "b.weight": np.ones((2, 3), np.float32),
        "c.long": np.arange(5, dtype=np.int64),
        "d.double": np.array([1e300]),
        "e.short": np.arange(7, dtype=np.int16),
        "\u00e9.int": np.arange(2, dtype=np.int32),
    }
    source = array_file(tmp_path / "x.gguf", {"general.architecture": string("of-tomorrow")}, tensors)
    exporting.export(source, tmp_path / "x.safetensors", dtype="f16")
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    for name, x in tensors.items():
        assert (
            found[name].dtype == (np.float16 if name == "b.weight" else x.dtype) and (found[name] == x).all()
        )


def test_what_is_computed_is_left_out_and_what_is_not_known_stays(tmp_path: Path) -> None:
    keys: Metadata = {
        "general.architecture": string("llama"),
        "llama.block_count": u32(1),
        "llama.attention.head_count": u32(2),
        "llama.embedding_length": u32(4),
        "llama.feed_forward_length": u32(4),
    }
    x = np.arange(16, dtype=np.float32).reshape(4, 4)
    tensors = {
        "rope_freqs.weight": x[0],
        "blk.0.attn_k.weight": x,
        "blk.0.attn_k.scale": x[1],
        "something.weight": x,
        "blk.7.ffn_up.weight": x,
    }
    exporting.export(array_file(tmp_path / "x.gguf", keys, tensors), tmp_path / "x.safetensors", dtype="f32")
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == {
        "model.layers.0.self_attn.k_proj.weight",
        "blk.0.attn_k.scale",
        "something.weight",
        "blk.7.ffn_up.weight",
    }


BAD_HEADS: dict[str, tuple[Metadata, str]] = {
    "unknown": ({}, "M-002"),
    "too many": ({"llama.attention.head_count": u32(3)}, "M-003"),
    "of odd width": ({"llama.attention.head_count": u32(4)}, "M-003"),
}


@pytest.mark.parametrize(("keys", "rule"), BAD_HEADS.values(), ids=BAD_HEADS)
def test_heads_that_rows_do_not_divide_into(tmp_path: Path, keys: Metadata, rule: str) -> None:
    metadata: Metadata = {
        "general.architecture": string("llama"),
        "llama.block_count": u32(1),
        "llama.embedding_length": u32(4),
        "llama.feed_forward_length": u32(4),
        **keys,
    }
    source = array_file(tmp_path / "x.gguf", metadata, {"blk.0.attn_q.weight": np.ones((4, 4), np.float32)})
    with pytest.raises(InvalidError) as caught:
        exporting.export(source, tmp_path / "x.safetensors")
    assert caught.value.finding.rule == rule
    assert not (tmp_path / "x.safetensors").exists()


def test_wrong_calls(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a GGUF file"):
        exporting.export(TINY, tmp_path / "out")
    with pytest.raises(UsageError, match="f32, f16, bf16, not 'q8_0'"):
        exporting.export(TINY, tmp_path / "out", dtype="q8_0")
    assert not (tmp_path / "out").exists()


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tiny_llama(tmp_path / "checkpoint", hidden=256, ffn=512, dtype="bfloat16")
    conversion.convert(source, tmp_path / "model.gguf", type="q4_k_m", options=recipes.Options(pure=True))
    command = ["export", str(tmp_path / "model.gguf"), "-o", str(tmp_path / "back")]
    assert main([*command, "--json", "-q"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["output"] == str(tmp_path / "back" / "model.safetensors") and report["formats"].keys() == {
        "BF16"
    }
    assert Path(report["output"]).stat().st_size == report["nbytes"]
    assert main(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert (
        main(
            [
                "convert",
                str(tmp_path / "back" / "model.safetensors"),
                "--arch",
                "any",
                "-o",
                str(tmp_path / "again.gguf"),
                "-q",
            ]
        )
        == 0
    )
