"""Small checkpoints of every family, in memory: a directory with configuration and tokenizer, and tensors
that are names and shapes only.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np

from gguflow import blocks
from gguflow.sources.base import Checkpoint, SourceFile, SourceTensor
from testing.checkpoints import bf16, write_safetensors
from testing.experts import checkpoint as mixture

Shapes = dict[str, tuple[int, ...]]

HIDDEN, WIDE, N_LAYERS, N_HEADS, N_KV_HEADS, N_TOKENS = 32, 48, 2, 4, 2, 24

DECODER: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "num_key_value_heads": N_KV_HEADS,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "vocab_size": N_TOKENS,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**DECODER, "architectures": ["LlamaForCausalLM"], "rope_theta": 500000.0},
    "qwen2": {**DECODER, "architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": True},
    "qwen3": {**DECODER, "architectures": ["Qwen3ForCausalLM"], "head_dim": 16},
    "bert": {
        "architectures": ["BertModel"],
        "hidden_size": HIDDEN,
        "intermediate_size": WIDE,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "max_position_embeddings": 64,
        "layer_norm_eps": 1e-12,
        "type_vocab_size": 2,
        "vocab_size": N_TOKENS,
    },
}

LLAMA3_SPLIT = {
    "type": "Split",
    "pattern": {
        "Regex": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    },
    "behavior": "Isolated",
    "invert": False,
}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
BPE: dict[str, Any] = {
    "added_tokens": [
        {"id": 0, "content": "<|begin|>", "special": True},
        {"id": 1, "content": "<|end|>", "special": True},
        {"id": 10, "content": "<tool>", "special": False},
        {"id": 11, "content": "<|looks|>", "special": False},
        {"id": 12, "content": "two\u2581words", "special": False},
    ],
    "normalizer": None,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [LLAMA3_SPLIT, BYTE_LEVEL]},
    "post_processor": {"type": "ByteLevel", "add_prefix_space": True},
    "decoder": {"type": "ByteLevel"},
    "model": {
        "type": "BPE",
        "ignore_merges": True,
        "vocab": {"a": 2, "b": 3, "c": 4, "\u0120": 5, "ab": 6, "abc": 7, "\u0120a": 8, "\u0120ab": 9},
        "merges": [["a", "b"], ["ab", "c"], ["\u0120", "a"], ["\u0120a", "b"]],
    },
}
WORDPIECE: dict[str, Any] = {
    "added_tokens": [
        {"id": i, "content": text, "special": True}
        for i, text in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
    ],
    "normalizer": {"type": "BertNormalizer", "lowercase": True, "strip_accents": None},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "[CLS]"}},
            {"Sequence": {"id": "A"}},
            {"SpecialToken": {"id": "[SEP]"}},
        ],
        "pair": [
            {"SpecialToken": {"id": "[CLS]"}},
            {"Sequence": {"id": "A"}},
            {"SpecialToken": {"id": "[SEP]"}},
            {"Sequence": {"id": "B"}},
            {"SpecialToken": {"id": "[SEP]"}},
        ],
    },
    "decoder": {"type": "WordPiece"},
    "model": {
        "type": "WordPiece",
        "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "play": 5, "##ing": 6},
    },
}
SETTINGS: dict[str, dict[str, Any]] = {
    "bpe": {"bos_token": "<|begin|>", "eos_token": {"content": "<|end|>"}, "chat_template": "{{ messages }}"},
    "wordpiece": {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
}


def files(family: str) -> dict[str, Any]:
    """The JSON files of a family's checkpoint, by name; a copy that a test may change."""
    kind, tokenizer = ("wordpiece", WORDPIECE) if family == "bert" else ("bpe", BPE)
    return copy.deepcopy(
        {"config.json": CONFIGS[family], "tokenizer.json": tokenizer, "tokenizer_config.json": SETTINGS[kind]}
    )


def shapes(family: str) -> Shapes:
    """The checkpoint's tensors by their Hugging Face names."""
    if family == "bert":
        return bert_shapes()
    head_dim = CONFIGS[family].get("head_dim", HIDDEN // N_HEADS)
    q, kv = N_HEADS * head_dim, N_KV_HEADS * head_dim
    tensors: Shapes = {"model.embed_tokens.weight": (N_TOKENS, HIDDEN), "model.norm.weight": (HIDDEN,)}
    if family != "qwen2":
        tensors["lm_head.weight"] = (N_TOKENS, HIDDEN)
    for layer in range(N_LAYERS):
        block = f"model.layers.{layer}"
        for name, shape in {
            "input_layernorm": (HIDDEN,),
            "self_attn.q_proj": (q, HIDDEN),
            "self_attn.k_proj": (kv, HIDDEN),
            "self_attn.v_proj": (kv, HIDDEN),
            "self_attn.o_proj": (HIDDEN, q),
            "post_attention_layernorm": (HIDDEN,),
            "mlp.gate_proj": (WIDE, HIDDEN),
            "mlp.up_proj": (WIDE, HIDDEN),
            "mlp.down_proj": (HIDDEN, WIDE),
        }.items():
            tensors[f"{block}.{name}.weight"] = shape
        if family == "qwen2":
            tensors |= {
                f"{block}.self_attn.{name}_proj.bias": (rows,)
                for name, rows in (("q", q), ("k", kv), ("v", kv))
            }
        if family == "qwen3":
            tensors |= {f"{block}.self_attn.{name}_norm.weight": (head_dim,) for name in "qk"}
    return tensors


def bert_shapes() -> Shapes:
    tensors: Shapes = {
        "embeddings.word_embeddings.weight": (N_TOKENS, HIDDEN),
        "embeddings.position_embeddings.weight": (64, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
        "embeddings.position_ids": (1, 64),
        "pooler.dense.weight": (HIDDEN, HIDDEN),
        "pooler.dense.bias": (HIDDEN,),
    }
    linear = {
        "attention.self.query": (HIDDEN, HIDDEN),
        "attention.self.key": (HIDDEN, HIDDEN),
        "attention.self.value": (HIDDEN, HIDDEN),
        "attention.output.dense": (HIDDEN, HIDDEN),
        "intermediate.dense": (WIDE, HIDDEN),
        "output.dense": (HIDDEN, WIDE),
    }
    for layer in range(N_LAYERS):
        for name, shape in linear.items():
            tensors |= {
                f"encoder.layer.{layer}.{name}.weight": shape,
                f"encoder.layer.{layer}.{name}.bias": shape[:1],
            }
    norms = ["embeddings"] + [
        f"encoder.layer.{layer}.{name}"
        for layer in range(N_LAYERS)
        for name in ("attention.output", "output")
    ]
    for norm in norms:
        tensors |= {f"{norm}.LayerNorm.weight": (HIDDEN,), f"{norm}.LayerNorm.bias": (HIDDEN,)}
    return tensors


def checkpoint(directory: Path, contents: dict[str, Any], tensors: Shapes) -> Checkpoint:
    """Write the side files (JSON, or text as it is) and describe the tensors."""
    for name, content in contents.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        (directory / name).write_bytes(text.encode("utf-8", "surrogatepass"))  # what is no text is a case too
    file = SourceFile(directory / "model.safetensors", 0, 0)
    sources = {
        name: SourceTensor(name, blocks.FORMATS["f32"], shape, file, 0, "F32")
        for name, shape in tensors.items()
    }
    return Checkpoint(directory, sources, (file,), directory, contents.get("config.json"))


def random_checkpoint(directory: Path, family: str) -> Path:
    """A checkpoint of a family in BF16 with random tensors, without those that GGUF leaves out."""
    directory.mkdir()
    if family in ("mixtral", "qwen3moe"):
        mixture(directory, "llama" if family == "mixtral" else family, dtype="bfloat16")
        return directory
    kept = {
        name: shape
        for name, shape in shapes(family).items()
        if "position_ids" not in name and "pooler" not in name
    }
    checkpoint(directory, files(family), kept)
    rng = np.random.default_rng(1)
    write_safetensors(
        directory / "model.safetensors",
        {n: bf16(rng.standard_normal(s).astype(np.float32)) for n, s in kept.items()},
    )
    return directory
