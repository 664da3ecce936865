"""What is special in encoders, beyond what the golden files hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gguflow import models
from gguflow.errors import InvalidError, UnsupportedError
from gguflow.models.base import Model
from testing.families import Shapes, checkpoint
from testing.golden import tokenizers

HIDDEN, WIDE, N_TOKENS = 32, 48, 331

JINA: dict[str, Any] = {
    "architectures": ["XLMRobertaModel"],
    "hidden_act": "gelu",
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "layer_norm_eps": 1e-5,
    "lora_adaptations": ["retrieval.query", "separation"],
    "max_position_embeddings": 66,
    "model_type": "xlm-roberta",
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "pad_token_id": 1,
    "rotary_emb_base": 20000.0,
    "type_vocab_size": 1,
    "vocab_size": N_TOKENS,
}
T5: dict[str, Any] = {
    "architectures": ["T5EncoderModel"],
    "d_ff": WIDE,
    "d_kv": 8,
    "d_model": HIDDEN,
    "feed_forward_proj": "relu",
    "model_type": "t5",
    "num_heads": 4,
    "num_layers": 1,
    "vocab_size": N_TOKENS,
}


def jina_shapes() -> Shapes:
    found: Shapes = {"roberta.emb_ln.weight": (HIDDEN,), "roberta.emb_ln.bias": (HIDDEN,)}
    matrices = {
        "embeddings.word_embeddings": (N_TOKENS, HIDDEN),
        "embeddings.token_type_embeddings": (1, HIDDEN),
        "encoder.layers.0.mixer.Wqkv": (3 * HIDDEN, HIDDEN),
        "encoder.layers.0.mixer.out_proj": (HIDDEN, HIDDEN),
        "encoder.layers.0.mlp.fc1": (WIDE, HIDDEN),
        "encoder.layers.0.mlp.fc2": (HIDDEN, WIDE),
    }
    for name, (n_out, n_in) in matrices.items():
        whole = f"roberta.{name}.parametrizations.weight"
        found[f"{whole}.original"] = (n_out, n_in)
        found |= {f"{whole}.0.lora_A": (2, 4, n_in), f"{whole}.0.lora_B": (2, n_out, 4)}
        if name.startswith("encoder"):
            found[f"roberta.{name}.bias"] = (n_out,)
    for norm in ("norm1", "norm2"):
        found |= {f"roberta.encoder.layers.0.{norm}.{kind}": (HIDDEN,) for kind in ("weight", "bias")}
    return found


def t5_shapes() -> Shapes:
    layer = "encoder.block.0.layer"
    return {
        "shared.weight": (N_TOKENS, HIDDEN),
        "encoder.final_layer_norm.weight": (HIDDEN,),
        **{f"{layer}.0.SelfAttention.{name}.weight": (HIDDEN, HIDDEN) for name in "qkvo"},
        f"{layer}.0.SelfAttention.relative_attention_bias.weight": (32, 4),
        f"{layer}.0.layer_norm.weight": (HIDDEN,),
        f"{layer}.1.DenseReluDense.wi.weight": (WIDE, HIDDEN),
        f"{layer}.1.DenseReluDense.wo.weight": (HIDDEN, WIDE),
        f"{layer}.1.layer_norm.weight": (HIDDEN,),
    }


def load(directory: Path, config: dict[str, Any], tensors: Shapes, tokenizer: dict[str, Any]) -> Model:
    for name, content in tokenizers.files(tokenizer).items():
        if isinstance(content, bytes):
            (directory / name).write_bytes(content)
    contents = {
        name: content
        for name, content in tokenizers.files(tokenizer).items()
        if not isinstance(content, bytes)
    }
    return models.load(checkpoint(directory, {"config.json": config, **contents}, tensors))


def test_adapters_are_left_out_with_a_warning(tmp_path: Path) -> None:
    model = load(tmp_path, JINA, jina_shapes(), {"kind": "unigram", "model": False})
    assert model.architecture == "jina-bert-v3"
    assert {tensor.name for tensor in model.tensors if "lora" in tensor.name} == set()
    assert model.metadata["jina-bert-v3.context_length"].value == 64
    [warning] = model.warnings
    assert (warning.finding.rule, warning.finding.found) == ("M-043", "retrieval.query, separation")


@pytest.mark.parametrize(
    "copies", [(), ("encoder.embed_tokens",), ("encoder.embed_tokens", "decoder.embed_tokens")]
)
def test_copies_of_shared_embeddings_are_left_out(copies: tuple[str, ...], tmp_path: Path) -> None:
    tensors = {f"{name}.weight": (N_TOKENS, HIDDEN) for name in copies} | t5_shapes()
    model = load(tmp_path, T5, tensors, {"kind": "t5"})
    [found] = [tensor for tensor in model.tensors if tensor.name == "token_embd.weight"]
    assert [source.name for source in found.sources] == ["shared.weight"]


def test_embeddings_have_any_of_their_names(tmp_path: Path) -> None:
    tensors = t5_shapes()
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    model = load(tmp_path, T5, tensors, {"kind": "t5"})
    assert "token_embd.weight" in {tensor.name for tensor in model.tensors}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"feed_forward_proj": "gated-silu"}, "M-009"),
        ({"relative_attention_max_distance": 64}, "M-009"),
    ],
)
def test_t5_that_llama_cpp_does_not_compute(change: dict[str, Any], rule: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError) as caught:
        load(tmp_path, T5 | change, t5_shapes(), {"kind": "t5"})
    assert caught.value.finding.rule == rule


def test_a_network_without_its_gate(tmp_path: Path) -> None:
    tensors = t5_shapes()
    tensors["encoder.block.0.layer.1.DenseReluDense.wi_1.weight"] = tensors.pop(
        "encoder.block.0.layer.1.DenseReluDense.wi.weight"
    )
    with pytest.raises(InvalidError) as caught:
        load(tmp_path, T5, tensors, {"kind": "t5"})
    assert caught.value.finding.rule == "M-010"
