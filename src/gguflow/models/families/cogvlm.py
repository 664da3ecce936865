"""CogVLM: Llama with a second set of matrices, with which it reads images."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families.llama import llama_keys, tokenizer
from gguflow.models.parameters import Parameters
from gguflow.models.rules import Rule, linear, optional


def metadata(config: Document, directory: Path) -> Metadata:
    """Llama's keys."""
    return llama_keys("cogvlm", config).metadata


def rules(p: Parameters) -> Rules:
    """Fused queries, keys and values stay one matrix; a checkpoint may lack the matrices for images."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from experts(p, i, "language", "attn", "ffn")
        yield from optional(experts(p, i, "vision", "vis_attn", "vis"))


def experts(p: Parameters, i: int, kind: str, attention: str, network: str) -> list[Rule]:
    """The matrices for one kind of input.

    p: hyper-parameters.
    i: number of the layer.
    kind: how the checkpoint calls it.
    attention: what the names of attention begin with in GGUF.
    network: what those of the network begin with.
    """
    source, block, wide = f"model.layers.{i}", f"blk.{i}", p.wide(i)
    rows, inner = (p.heads(i) + 2 * p.kv_heads(i)) * p.head_dim, p.heads(i) * p.head_dim
    return [
        rule
        for name, target, n_out, n_in in (
            (f"self_attn.{kind}_expert_query_key_value", f"{attention}_qkv", rows, p.hidden),
            (f"self_attn.{kind}_expert_dense", f"{attention}_output", p.hidden, inner),
            (f"mlp.{kind}_mlp.gate_proj", f"{network}_gate", wide, p.hidden),
            (f"mlp.{kind}_mlp.up_proj", f"{network}_up", wide, p.hidden),
            (f"mlp.{kind}_mlp.down_proj", f"{network}_down", p.hidden, wide),
        )
        for rule in linear(f"{source}.{name}", f"{block}.{target}", n_out, n_in, bias=False)
    ]


def rename(name: str, config: Document) -> str:
    """The same name; it shows whether there are matrices for images."""
    if ".vision_expert_" in name:
        config.applied.add("experts-for-images")
    return name


ARCHITECTURE = Architecture(
    name="cogvlm",
    classes=("CogVLMForCausalLM",),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
    rename=rename,
    skipped=(r"model\.vision\..*",),
    required=DECODER_KEYS,
)
