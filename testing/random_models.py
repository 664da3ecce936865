"""Small random models of every architecture that runs, as GGUF files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import gguflow
from testing.checkpoints import write_safetensors
from testing.families import files, shapes

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}

VARIATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, one head's keys for all": ("llama", {"num_key_value_heads": 1}),
    "llama, keys for every head": ("llama", {"num_key_value_heads": 4}),
    "llama, llama3 rope": ("llama", {"rope_parameters": LLAMA3_ROPE, "rope_theta": None}),
    "llama, linear rope": ("llama", {"rope_parameters": LINEAR, "rope_theta": None}),
    "llama, yarn rope": ("llama", {"rope_parameters": YARN, "rope_theta": None}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "qwen2, biases and tied embeddings": ("qwen2", {}),
    "qwen3, norms of heads": ("qwen3", {}),
    "qwen3, yarn rope": ("qwen3", {"rope_parameters": YARN, "rope_theta": None}),
}
"""Family, and what is changed in its config.json."""


def random_model(directory: Path, variation: str = "llama", type: str = "f32") -> Path:
    """Convert a checkpoint of random weights; large enough that positions and norms matter in the logits."""
    family, changes = VARIATIONS[variation]
    contents = files(family)
    config = {key: value for key, value in (contents["config.json"] | changes).items() if value is not None}
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in (contents | {"config.json": config}).items():
        (directory / name).write_text(json.dumps(content))
    wanted = shapes(family)
    width = config["hidden_size"] // config["num_attention_heads"]
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        if family == "llama":
            for name in ("k_proj", "v_proj"):
                wanted[f"{block}.self_attn.{name}.weight"] = (
                    width * config["num_key_value_heads"],
                    config["hidden_size"],
                )
        if config.get("attention_bias"):
            linear = [name for name in wanted if name.startswith(block) and "norm" not in name]
            wanted |= {name.replace(".weight", ".bias"): wanted[name][:1] for name in linear}
    rng = np.random.default_rng(0)
    scale = {1: 0.3, 2: 0.3}
    tensors = {
        name: (rng.standard_normal(shape) * scale[len(shape)] + ("norm" in name)).astype(np.float32)
        for name, shape in wanted.items()
    }
    write_safetensors(directory / "model.safetensors", tensors)
    return gguflow.convert(directory, directory / "model.gguf", type=type).output
