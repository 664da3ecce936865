"""Settings of config.json that a family cannot express in a GGUF file: each is refused, and named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflow import models
from gguflow.errors import GguflowError, InvalidError, UnsupportedError
from gguflow.models.configuration import text_configuration
from gguflow.models.families.bailingmoe import unit_columns
from gguflow.models.next_tokens import n_next
from gguflow.models.parameters import Parameters

SIZES = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "vocab_size": 331,
    "head_dim": 16,
}
LAGUNA = {
    "mlp_layer_types": ["dense", "sparse"],
    "moe_intermediate_size": 40,
    "shared_expert_intermediate_size": 56,
    "moe_routed_scaling_factor": 1.0,
}
MIMO = {"v_head_dim": 20, "hybrid_layer_pattern": [0, 1]}
MINIMAX = {f"layernorm_{part}_alpha": 3.5 for part in ("full_attention", "linear_attention", "mlp")} | {
    f"layernorm_{part}_beta": 1.0 for part in ("full_attention", "linear_attention", "mlp")
}
MINIMAX |= {"rotary_dim": 8}
HUNYUAN_MOE = {"moe_intermediate_size": 40, "num_shared_expert": 1, "num_experts": 3}

CASES: dict[str, tuple[str, dict[str, Any], type[GguflowError], str]] = {
    "dense after sparse": (
        "Glm4MoeForCausalLM",
        {"mlp_layer_types": ["sparse", "dense"]},
        UnsupportedError,
        "$.mlp_layer_types[1]",
    ),
    "alpha of another base": (
        "HunYuanDenseV1ForCausalLM",
        {"rope_scaling": {"type": "dynamic", "alpha": 1000.0}, "rope_theta": 500000.0},
        UnsupportedError,
        "$.rope_scaling.alpha",
    ),
    "experts that differ": (
        "HunYuanMoEV1ForCausalLM",
        {**HUNYUAN_MOE, "moe_topk": [2, 1]},
        UnsupportedError,
        "$.moe_topk[1]",
    ),
    "experts of no number": (
        "HunYuanMoEV1ForCausalLM",
        {**HUNYUAN_MOE, "moe_topk": ["2"]},
        InvalidError,
        "$.moe_topk[0]",
    ),
    "gates of elements called gates of heads": (
        "LagunaForCausalLM",
        {**LAGUNA, "gating": True, "gating_types": ["per_head", "per_element"]},
        UnsupportedError,
        "$.gating",
    ),
    "no gates": ("LagunaForCausalLM", {**LAGUNA, "gating": False}, InvalidError, "$.gating_types"),
    "heads of another number of layers": (
        "LagunaForCausalLM",
        {**LAGUNA, "gating": True, "num_attention_heads_per_layer": [6]},
        InvalidError,
        "$.num_attention_heads_per_layer",
    ),
    "rotation in all layers": (
        "MapleForCausalLM",
        {"sliding_window": 64, "moe_intermediate_size": 40, "nope_on_global_attention": False},
        UnsupportedError,
        "$.nope_on_global_attention",
    ),
    "other heads where the window slides": (
        "MiMoV2FlashForCausalLM",
        {**MIMO, "swa_head_dim": 24},
        UnsupportedError,
        "$.swa_head_dim",
    ),
    "a pattern of another number of layers": (
        "MiMoV2FlashForCausalLM",
        {**MIMO, "hybrid_layer_pattern": [0]},
        InvalidError,
        "$.hybrid_layer_pattern",
    ),
    "scales that differ": (
        "MiniMaxText01ForCausalLM",
        {**MINIMAX, "layernorm_mlp_alpha": 1.0},
        UnsupportedError,
        "$.layernorm_mlp_alpha",
    ),
    "an unknown attention": (
        "MiniMaxText01ForCausalLM",
        {**MINIMAX, "attn_type_list": [0, 2]},
        InvalidError,
        "$.attn_type_list",
    ),
    "gates without sigmoid": (
        "Spark2_5ForCausalLM",
        {"hidden_act": "gelu", "gate_attn_act_mode": "tanh", "headwise_attn_output_gate": True},
        UnsupportedError,
        "$.gate_attn_act_mode",
    ),
    "factors for another width": (
        "MiniCPMForCausalLM",
        {
            "scale_emb": 12,
            "scale_depth": 1.4,
            "dim_model_base": 24,
            "rope_scaling": {"rope_type": "longrope", "long_factor": [1.0], "short_factor": [1.0]},
        },
        InvalidError,
        "$.rope_scaling.long_factor",
    ),
    "other heads of delta attention": (
        "KimiLinearForCausalLM",
        {"linear_attn_config": {"full_attn_layers": [2], "num_heads": 3}},
        UnsupportedError,
        "$.linear_attn_config.num_heads",
    ),
}


def understand(name: str, directory: Path, values: dict[str, Any]) -> None:
    """The keys and the rules that a configuration leads to.

    name: of the class.
    directory: of the checkpoint.
    values: of config.json.
    """
    config = text_configuration(directory / "config.json", values)
    family = models.architectures()[name]
    metadata = family.metadata(config, directory)
    list(family.rules(Parameters(family.name, metadata, 331, config.file, config)))


@pytest.mark.parametrize(("name", "settings", "kind", "where"), CASES.values(), ids=CASES.keys())
def test_refused(
    tmp_path: Path, name: str, settings: dict[str, Any], kind: type[GguflowError], where: str
) -> None:
    values = {"architectures": [name], **SIZES, **settings}
    with pytest.raises(kind) as raised:
        understand(name, tmp_path, values)
    assert where in str(raised.value)


@pytest.mark.parametrize(
    ("promised", "layers", "wanted", "expected"),
    [(0, (), True, 0), (1, (2,), True, 1), (1, (), True, 0), (2, (2,), True, 1), (1, (2,), False, 0)],
)
def test_blocks_for_further_tokens(
    tmp_path: Path, promised: int, layers: tuple[int, ...], wanted: bool, expected: int
) -> None:
    values = {"architectures": ["Glm4MoeForCausalLM"], **SIZES, "num_nextn_predict_layers": promised}
    config = text_configuration(tmp_path / "config.json", values)
    names = {f"model.layers.{i}.eh_proj.weight" for i in layers} | {"vision.layers.2.fc.weight"}
    config = replace(config, tensors=names, next_tokens=wanted)
    assert n_next(config) == expected
    assert config.applied.ids == (["next-tokens-absent"] if wanted and expected < promised else [])


def test_columns_of_length_one() -> None:
    matrix = np.asarray([[3.0, 0.0], [4.0, 0.0]], np.float32)
    np.testing.assert_allclose(unit_columns(matrix), [[0.6, 0.0], [0.8, 0.0]], rtol=1e-6)
