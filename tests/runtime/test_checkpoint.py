"""Open models under the checkpoint's names: what `export` writes, without the copy."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import gguflow
from gguflow.models.orders import RopeOrder
from gguflow.runtime.checkpoint import checkpoint_tensors
from testing.checkpoints import llama_tensors, tiny_llama, write_safetensors
from testing.families import random_checkpoint


@pytest.mark.parametrize("kind", ["q8_0", "nf4_b64"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "bert", "mixtral", "qwen3moe"])
def test_names_shapes_and_weights_are_those_of_export(tmp_path: Path, family: str, kind: str) -> None:
    gguflow.convert(random_checkpoint(tmp_path / "checkpoint", family), tmp_path / "model.gguf", type=kind)
    gguflow.export(tmp_path / "model.gguf", tmp_path / "back.safetensors", dtype="f32")
    expected = load_file(tmp_path / "back.safetensors")
    with gguflow.open(tmp_path / "model.gguf") as model:
        tensors = checkpoint_tensors(model)
        assert tensors.keys() == expected.keys()
        for name, tensor in tensors.items():
            assert tensor.name == name and tensor.shape == expected[name].shape
            assert np.array_equal(tensor.dequantize(threads=2), expected[name]), name


@pytest.fixture(scope="module")
def query(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A query projection, whose rows GGUF has in another order, and its weights in the checkpoint's."""
    directory = tmp_path_factory.mktemp("model")
    gguflow.convert(
        tiny_llama(directory / "checkpoint", hidden=256, ffn=512), directory / "model.gguf", type="q4_k_m"
    )
    gguflow.export(directory / "model.gguf", directory / "back.safetensors", dtype="f32")
    name = "model.layers.1.self_attn.q_proj.weight"
    with gguflow.open(directory / "model.gguf") as model:
        yield checkpoint_tensors(model)[name], load_file(directory / "back.safetensors")[name]


def test_rows(query: Any) -> None:
    tensor, weights = query
    assert tensor.order == RopeOrder(64, is_inverse=True)
    assert not np.array_equal(tensor.stored.dequantize(), weights)
    for rows in (
        slice(3, 90),
        slice(64, 128),
        slice(9, 2),
        slice(None, 300),
        slice(None, None, -7),
        [255, 0, 3],
        np.array([-1, 64]),
        [],
        5,
    ):
        assert np.array_equal(
            tensor.dequantize(rows), weights[np.asarray(rows, int) if isinstance(rows, list) else rows]
        ), rows
    out = np.empty((2, 256), np.float16)
    assert tensor.dequantize(slice(0, 2), out=out, dtype="float16") is out
    assert np.array_equal(out, weights[:2].astype(np.float16))
    with pytest.raises(IndexError):
        tensor.dequantize([256])


def test_products(query: Any) -> None:
    tensor, weights = query
    for shape in ((256,), (2, 256), (2, 5, 256)):
        x = np.random.default_rng(0).standard_normal(shape, np.float32)
        bound = 1e-5 * (np.abs(x) @ np.abs(weights).T)
        assert (np.abs(tensor.matmul(x, threads=2) - x @ weights.T) <= bound).all()


def test_it_pickles(query: Any) -> None:
    tensor, weights = query
    again = pickle.loads(pickle.dumps(tensor))
    assert again.name == tensor.name
    assert np.array_equal(again.dequantize(), weights)


def test_biases_are_in_the_order_of_the_rows(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "checkpoint")
    tensors = llama_tensors(json.loads((source / "config.json").read_text()))
    biases = {
        f"model.layers.{i}.self_attn.{x}_proj.bias": np.arange(n, dtype=np.float32)
        for i in (0, 1)
        for x, n in (("q", 64), ("k", 32))
    }
    write_safetensors(source / "model.safetensors", tensors | biases)
    gguflow.convert(source, tmp_path / "model.gguf", type="f32")
    with gguflow.open(tmp_path / "model.gguf") as model:
        found = checkpoint_tensors(model)
        for name, bias in biases.items():
            assert not np.array_equal(found[name].stored.numpy(), bias)
            assert np.array_equal(found[name].dequantize(), bias)
            assert found[name].dequantize(slice(1, 3)).tolist() == [1, 2]
            out = np.empty_like(bias)
            assert found[name].dequantize(out=out) is out and np.array_equal(out, bias)
