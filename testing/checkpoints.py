"""Small checkpoints for tests: safetensors files and Llama directories, built here so that a test can break
any part of them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
TINY = FIXTURES / "models" / "tiny-py-llama"

_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "uint16": "BF16", "int64": "I64"}


def bf16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Truncated to bfloat16 patterns, which `write_safetensors` stores as BF16."""
    return (np.ascontiguousarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def write_safetensors(path: Path, tensors: dict[str, NDArray[Any]]) -> Path:
    """A safetensors file of float64, float32, float16, BF16 (given as uint16 patterns) and int64 arrays."""
    header: dict[str, Any] = {}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": _DTYPES[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    encoded = json.dumps(header).encode()
    path.write_bytes(
        len(encoded).to_bytes(8, "little") + encoded + b"".join(t.tobytes() for t in tensors.values())
    )
    return path


def tiny_llama(
    directory: Path,
    *,
    n_layers: int = 2,
    hidden: int = 64,
    ffn: int = 96,
    tied: bool = False,
    dtype: str = "float32",
    seed: int = 0,
) -> Path:
    """A random Llama checkpoint with the tokenizer of tiny-py-llama: 4 heads over 2 key-value heads."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(TINY / name, directory / name)
    config = json.loads((TINY / "config.json").read_text())
    config.update(
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    config.update(head_dim=hidden // 4, tie_word_embeddings=tied)
    (directory / "config.json").write_text(json.dumps(config))
    write_safetensors(directory / "model.safetensors", llama_tensors(config, dtype, seed))
    return directory


def llama_tensors(config: dict[str, Any], dtype: str = "float32", seed: int = 0) -> dict[str, NDArray[Any]]:
    """Random tensors of the shapes that a Llama config asks for."""
    rng = np.random.default_rng(seed)
    hidden, ffn, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = config["head_dim"] * config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocabulary, hidden)
    for i in range(config["num_hidden_layers"]):
        block = {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (ffn, hidden),
            "mlp.up_proj": (ffn, hidden),
            "mlp.down_proj": (hidden, ffn),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }
        shapes.update({f"model.layers.{i}.{name}.weight": shape for name, shape in block.items()})
    tensors = {name: (rng.standard_normal(shape) * 0.05).astype(np.float32) for name, shape in shapes.items()}
    if dtype == "bfloat16":
        return {name: bf16(tensor) for name, tensor in tensors.items()}
    return {name: tensor.astype(dtype) for name, tensor in tensors.items()}
