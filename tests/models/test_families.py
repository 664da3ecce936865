"""What each family makes of a small checkpoint: keys, tensor names, row orders. tools/compare peer
compares whole files with llama.cpp's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflow import models
from gguflow.container.metadata import Value, ValueType, array, boolean, f32, string, u32
from gguflow.models.documents import Document
from gguflow.models.keys import head_dim, n_kv_heads
from gguflow.models.orders import RopeOrder
from gguflow.models.rope import llama3_factors
from gguflow.models.views import Rows
from gguflow.sources import open_checkpoint
from testing.checkpoints import TINY, tiny_llama
from testing.families import checkpoint, files, shapes

FAMILIES = ("llama", "qwen2", "qwen3", "bert")

COMMON = {
    "block_count": u32(2),
    "context_length": u32(64),
    "embedding_length": u32(32),
    "feed_forward_length": u32(48),
    "attention.head_count": u32(4),
}
DECODER = {
    **COMMON,
    "attention.head_count_kv": u32(2),
    "rope.freq_base": f32(10000.0),
    "attention.layer_norm_rms_epsilon": f32(1e-5),
}
KEYS: dict[str, dict[str, Value]] = {
    "llama": {
        **DECODER,
        "rope.freq_base": f32(500000.0),
        "attention.key_length": u32(8),
        "attention.value_length": u32(8),
        "vocab_size": u32(24),
        "rope.dimension_count": u32(8),
    },
    "qwen2": DECODER,
    "qwen3": {**DECODER, "attention.key_length": u32(16), "attention.value_length": u32(16)},
    "bert": {**COMMON, "attention.layer_norm_epsilon": f32(1e-12), "attention.causal": boolean(False)},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_hyper_parameters(family: str, tmp_path: Path) -> None:
    """Every key of the family itself, in llama.cpp's order."""
    model = models.load(checkpoint(tmp_path, files(family), shapes(family)))
    keys = {
        key.removeprefix(f"{family}."): value
        for key, value in model.metadata.items()
        if key.startswith(f"{family}.")
    }
    assert list(keys.items()) == list(KEYS[family].items())
    assert (model.architecture, model.n_layers, model.n_heads) == (family, 2, 4)
    assert model.n_kv_heads == (4 if family == "bert" else 2)
    assert list(model.metadata)[:2] == ["general.architecture", "general.type"]


HYPER_PARAMETERS: dict[str, tuple[str, dict[str, Any], dict[str, Value]]] = {
    "heads default to one key head each": (
        "llama",
        {"num_key_value_heads": None},
        {"llama.attention.head_count_kv": u32(4)},
    ),
    "qwen2 writes a head_dim that is said": (
        "qwen2",
        {"head_dim": 8},
        {"qwen2.attention.key_length": u32(8)},
    ),
    "rope of transformers 5": (
        "llama",
        {"rope_parameters": {"rope_theta": 7.0, "rope_type": "default"}},
        {"llama.rope.freq_base": f32(7.0)},
    ),
    "linear scaling": (
        "llama",
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {
            "llama.rope.scaling.type": string("linear"),
            "llama.rope.scaling.factor": f32(2.0),
            "llama.rope.freq_base": f32(500000.0),
        },
    ),
    "yarn": (
        "qwen2",
        {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4,
                "original_max_position_embeddings": 32,
                "attn_factor": 0.5,
                "beta_fast": 16,
            }
        },
        {
            "qwen2.rope.scaling.type": string("yarn"),
            "qwen2.rope.scaling.factor": f32(4.0),
            "qwen2.rope.scaling.original_context_length": u32(32),
            "qwen2.rope.scaling.yarn_attn_factor": f32(0.5),
            "qwen2.rope.scaling.yarn_beta_fast": f32(16.0),
        },
    ),
    "an encoder of the decoder's shape": (
        "qwen3",
        {"head_dim": 16, "is_causal": False},
        {"qwen3.attention.causal": boolean(False)},
    ),
    "classes of a classifier": (
        "bert",
        {"id2label": {str(i): f"class {i}" for i in (10, 2, 0)}},
        {"bert.classifier.output_labels": array(ValueType.STRING, ["class 0", "class 2", "class 10"])},
    ),
}


@pytest.mark.parametrize(
    ("family", "changes", "expected"), HYPER_PARAMETERS.values(), ids=HYPER_PARAMETERS.keys()
)
def test_hyper_parameters_follow_the_config(
    family: str, changes: dict[str, Any], expected: dict[str, Value], tmp_path: Path
) -> None:
    contents = files(family)
    contents["config.json"] |= changes
    tensors = shapes(family)
    if changes.get("num_key_value_heads", 2) is None:
        tensors |= {name: (32, 32) for name in tensors if "k_proj.weight" in name or "v_proj.weight" in name}
    metadata = models.load(checkpoint(tmp_path, contents, tensors)).metadata
    assert {key: metadata.get(key) for key in expected} == expected


LAYER = {
    "llama": "attn_norm attn_q attn_k attn_v attn_output ffn_norm ffn_gate ffn_up ffn_down",
    "qwen2": "attn_norm attn_q attn_k attn_v attn_output ffn_norm ffn_gate ffn_up ffn_down",
    "qwen3": "attn_norm attn_q attn_k attn_v attn_output ffn_norm ffn_gate ffn_up ffn_down "
    "attn_q_norm attn_k_norm",
    "bert": "attn_q attn_k attn_v attn_output attn_output_norm ffn_up ffn_down layer_output_norm",
}
OUTSIDE = {
    "llama": "token_embd.weight output_norm.weight output.weight",
    "qwen2": "token_embd.weight output_norm.weight",
    "qwen3": "token_embd.weight output_norm.weight output.weight",
    "bert": "token_embd.weight position_embd.weight token_types.weight "
    "token_embd_norm.weight token_embd_norm.bias",
}
BIASES = {"llama": "", "qwen2": "attn_q attn_k attn_v", "qwen3": "", "bert": LAYER["bert"]}


@pytest.mark.parametrize("family", FAMILIES)
def test_tensor_names(family: str, tmp_path: Path) -> None:
    """The names of the output, and that each tensor kept its shape; what is on the skip list is gone."""
    model = models.load(checkpoint(tmp_path, files(family), shapes(family)))
    expected = set(OUTSIDE[family].split())
    for layer in range(2):
        expected |= {f"blk.{layer}.{name}.weight" for name in LAYER[family].split()}
        expected |= {f"blk.{layer}.{name}.bias" for name in BIASES[family].split()}
    assert {tensor.name for tensor in model.tensors} == expected
    assert all(tensor.source is not None and tensor.source.shape == tensor.shape for tensor in model.tensors)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_llama_rearranges_rows(family: str, tmp_path: Path) -> None:
    """Of Q by the number of heads, of K by that of key heads; biases like their matrices."""
    tensors = shapes(family)
    if family == "llama":
        tensors |= {
            "model.layers.0.self_attn.q_proj.bias": (32,),
            "model.layers.0.self_attn.k_proj.bias": (16,),
        }
    model = models.load(checkpoint(tmp_path, files(family), tensors))
    orders = {tensor.name: tensor.view.index for tensor in model.tensors if isinstance(tensor.view, Rows)}
    expected = {f"blk.{layer}.attn_{name}.weight": RopeOrder(8) for layer in range(2) for name in ("q", "k")}
    expected |= {"blk.0.attn_q.bias": RopeOrder(8), "blk.0.attn_k.bias": RopeOrder(8)}
    assert orders == (expected if family == "llama" else {})


@pytest.mark.parametrize(("n_heads", "head_dim"), [(1, 2), (1, 8), (4, 6), (3, 64)])
def test_rope_order_swaps_halves_for_neighbours(n_heads: int, head_dim: int) -> None:
    """Against llama.cpp's way of saying it: [heads, 2, half] becomes [heads, half, 2]; in any pieces."""
    n_rows = n_heads * head_dim
    expected = np.arange(n_rows).reshape(n_heads, 2, head_dim // 2).swapaxes(1, 2).reshape(-1)
    order = RopeOrder(head_dim)
    assert np.array_equal(order(np.arange(n_rows)), expected)
    pieces = [order(np.arange(first, min(first + 5, n_rows))) for first in range(0, n_rows, 5)]
    assert np.array_equal(np.concatenate(pieces), expected)


def test_llama3_factors() -> None:
    """Against the formula in binary64: unchanged at high frequencies, stretched at low ones, blended
    between.
    """
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }
    config = Document(
        Path("config.json"),
        {
            "rope_parameters": rope,
            "original_max_position_embeddings": 8192,
            "max_position_embeddings": 131072,
        },
    )
    factors = llama3_factors(config, 64)
    wavelength = 2 * np.pi * 500000.0 ** (np.arange(0, 64, 2) / 64)
    smooth = np.clip((8192 / wavelength - 1.0) / 3.0, 0.0, 1.0)
    assert np.allclose(factors, 1 / ((1 - smooth) / 8.0 + smooth), rtol=1e-5)
    assert factors[0] == 1
    assert factors[-1] == 8
    assert factors.dtype == np.float32


def test_llama3_scaling_adds_a_tensor(tmp_path: Path) -> None:
    """It comes first, as in llama.cpp's files, and nothing is said of it in metadata."""
    contents = files("llama")
    contents["config.json"]["rope_scaling"] = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }
    model = models.load(checkpoint(tmp_path, contents, shapes("llama")))
    first = model.tensors[0]
    assert (first.name, first.shape, first.source) == ("rope_freqs.weight", (4,), None)
    assert first.values is not None
    assert not any("scaling" in key for key in model.metadata)


@pytest.mark.parametrize(
    ("bare", "family"), [("LlamaModel", "llama"), ("Qwen2Model", "qwen2"), ("Qwen3Model", "qwen3")]
)
def test_a_bare_model_has_no_head_and_no_prefix(bare: str, family: str, tmp_path: Path) -> None:
    contents = files(family)
    contents["config.json"] |= {"architectures": [bare], "tie_word_embeddings": False}
    tensors = {
        name.removeprefix("model."): shape
        for name, shape in shapes(family).items()
        if name != "lm_head.weight"
    }
    model = models.load(checkpoint(tmp_path, contents, tensors))
    assert "output.weight" not in {tensor.name for tensor in model.tensors}
    assert "blk.1.ffn_down.weight" in {tensor.name for tensor in model.tensors}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"0": "LABEL_0", "1": "LABEL_1"}, "cls"),
        ({"0": "LABEL_0"}, "cls.output"),
        ({"0": "no", "1": "yes"}, "cls.output"),
    ],
    ids=["made-up labels", "one score", "two classes"],
)
def test_bert_with_a_head(labels: dict[str, str], expected: str, tmp_path: Path) -> None:
    """The encoder's names have a prefix, old ones also gamma and beta; a masked language model's head is
    skipped.
    """
    contents = files("bert")
    contents["config.json"] |= {"architectures": ["BertForSequenceClassification"], "id2label": labels}
    tensors = {f"bert.{name}": shape for name, shape in shapes("bert").items()}
    tensors |= {
        "classifier.weight": (len(labels), 32),
        "classifier.bias": (len(labels),),
        "cls.predictions.bias": (24,),
    }
    for old, new in (("weight", "gamma"), ("bias", "beta")):
        tensors[f"bert.embeddings.LayerNorm.{new}"] = tensors.pop(f"bert.embeddings.LayerNorm.{old}")
    names = {tensor.name for tensor in models.load(checkpoint(tmp_path, contents, tensors)).tensors}
    assert {f"{expected}.weight", f"{expected}.bias", "token_embd_norm.bias"} <= names
    assert not any("predictions" in name or "pooler" in name for name in names)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_mean_tokens": True}, 1),
        ({"pooling_mode_cls_token": True}, 2),
        ({"pooling_mode": "lasttoken"}, 3),
    ],
    ids=["mean", "cls", "last"],
)
def test_pooling(pooling: dict[str, Any], expected: int, tmp_path: Path) -> None:
    contents = files("bert")
    contents["modules.json"] = [
        {"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "a.b.Pooling", "path": "1_Pooling"},
    ]
    contents["1_Pooling/config.json"] = pooling
    metadata = models.load(checkpoint(tmp_path, contents, shapes("bert"))).metadata
    assert metadata["bert.pooling_type"] == u32(expected)


def test_the_real_checkpoint() -> None:
    """tiny-py-llama: what llama.cpp's converter names it, and its sizes."""
    model = models.load(open_checkpoint(TINY))
    assert model.file_stem == "Tiny-Py-Llama-8.4M-{type}"
    assert model.metadata["general.name"] == string("Tiny Py Llama")
    assert model.metadata["general.size_label"] == string("8.4M")
    assert len(model.tensors) == 75
    assert sum(tensor.n_weights for tensor in model.tensors) == 8_392_960


def test_the_current_directory_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "My-Model-Instruct"
    checkpoint(directory, contents := files("llama"), tensors := shapes("llama"))
    monkeypatch.chdir(directory)
    model = models.load(checkpoint(Path(), contents, tensors))
    assert model.metadata["general.name"] == string("My Model Instruct")
    assert model.file_stem == "My-Model-17K-Instruct-{type}"


def test_tied_embeddings(tmp_path: Path) -> None:
    model = models.load(open_checkpoint(tiny_llama(tmp_path / "tied", tied=True)))
    assert "output.weight" not in {tensor.name for tensor in model.tensors}


def test_decoder_sizes_default_like_transformers() -> None:
    values = {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 1,
        "intermediate_size": 8,
        "vocab_size": 9,
    }
    config = Document(Path("config.json"), values)
    assert (n_kv_heads(config), head_dim(config)) == (4, 16)
    assert head_dim(Document(Path("config.json"), values, defaults={"head_dim": 128})) == 128
