"""Small random checkpoints of mixtures of experts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testing.checkpoints import bf16, tiny_llama, write_safetensors

N_EXPERTS, HIDDEN, WIDE = 5, 64, 96
Tensors = dict[str, NDArray[Any]]

FAMILIES: dict[str, tuple[dict[str, Any], str, dict[str, str]]] = {
    "llama": (
        {"architectures": ["MixtralForCausalLM"], "num_local_experts": N_EXPERTS, "intermediate_size": WIDE},
        "block_sparse_moe",
        {"gate": "w1", "down": "w2", "up": "w3"},
    ),
    "qwen3moe": (
        {
            "architectures": ["Qwen3MoeForCausalLM"],
            "num_experts": N_EXPERTS,
            "intermediate_size": 4 * WIDE,
            "moe_intermediate_size": WIDE,
        },
        "mlp",
        {"gate": "gate_proj", "down": "down_proj", "up": "up_proj"},
    ),
}
"""What config.json says, what a layer calls its mixture, and what that calls the matrices of an expert."""


def checkpoint(
    directory: Path,
    family: str,
    change: Callable[[Tensors], object] = lambda tensors: None,
    dtype: str = "float32",
) -> Tensors:
    """A random checkpoint of two layers; its tensors."""
    tiny_llama(directory, hidden=HIDDEN, ffn=WIDE)
    settings, mixture, names = FAMILIES[family]
    config = json.loads((directory / "config.json").read_text())
    config |= settings | {"num_experts_per_tok": 2, "head_dim": 16}
    (directory / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(5)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (config["vocab_size"], HIDDEN),
    }
    for layer in range(2):
        block = f"model.layers.{layer}"
        shapes |= {
            f"{block}.self_attn.{name}_proj.weight": (rows, HIDDEN)
            for name, rows in (("q", 64), ("k", 32), ("v", 32), ("o", 64))
        }
        shapes |= {f"{block}.{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
        if family == "qwen3moe":
            shapes |= {f"{block}.self_attn.{name}_norm.weight": (16,) for name in "qk"}
        shapes[f"{block}.{mixture}.gate.weight"] = (N_EXPERTS, HIDDEN)
        for expert in reversed(range(N_EXPERTS)):
            for kind, name in names.items():
                shapes[f"{block}.{mixture}.experts.{expert}.{name}.weight"] = (
                    (HIDDEN, WIDE) if kind == "down" else (WIDE, HIDDEN)
                )
    tensors: Tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    if dtype == "bfloat16":
        tensors = {name: bf16(tensor) for name, tensor in tensors.items()}
    change(tensors)
    write_safetensors(directory / "model.safetensors", tensors)
    return tensors
