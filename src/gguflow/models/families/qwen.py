"""Qwen 1: one matrix of queries, keys and values; feed-forward networks are half as wide as they say."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.rope import RopeOptions
from gguflow.models.rules import linear, same
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.special_tokens import ID_KEYS
from gguflow.models.tokenizers.tiktoken import read_ranks, tiktoken_metadata
from gguflow.models.tokenizers.variants import with_ids

END = "<|endoftext|>"
SPECIAL = (END, "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))
"""The tokens behind those of the file, which the checkpoint's program defines."""

ROPE = RopeOptions(read=frozenset(("rotary_pct",)))


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, and the epsilon under the name under which llama.cpp looks for it."""
    if config.number("rotary_pct", 1.0) != 1:
        raise config.wrong("rotary_pct", config.value("rotary_pct"), "1")
    keys = base_keys("qwen", config, activation=None, rope=ROPE)
    keys.number("attention.layer_norm_rms_epsilon", "layer_norm_epsilon")
    config.applied.add("epsilon-of-qwen")
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Biases on Q, K and V alone."""
    yield from decoder.ends(p, embeddings="transformer.wte", norm="transformer.ln_f")
    hidden, wide = p.hidden, p.wide() // 2
    for i in range(p.n_layers):
        source, block = f"transformer.h.{i}", f"blk.{i}"
        yield from decoder.norm(p, f"{source}.ln_1", f"{block}.attn_norm")
        yield from decoder.norm(p, f"{source}.ln_2", f"{block}.ffn_norm")
        yield from linear(f"{source}.attn.c_attn", f"{block}.attn_qkv", 3 * hidden, hidden, bias=True)
        for name, target, shape in (
            ("attn.c_proj", "attn_output", (hidden, hidden)),
            ("mlp.w1", "ffn_up", (wide, hidden)),
            ("mlp.w2", "ffn_gate", (wide, hidden)),
            ("mlp.c_proj", "ffn_down", (hidden, wide)),
        ):
            yield same(f"{source}.{name}.weight", f"{block}.{target}.weight", shape)


def tokenizer(files: TokenizerFiles) -> Metadata:
    """Keys from qwen.tiktoken; the end of a text is also its beginning where no file says otherwise."""
    ranks = read_ranks(files, "qwen.tiktoken")
    keys = tiktoken_metadata(files, ranks, SPECIAL, "qwen2")
    end = len(ranks)
    named = any(key in keys for key in ID_KEYS.values())
    return with_ids(keys, {"unk": end} if named else {"bos": end, "eos": end, "unk": end})


ARCHITECTURE = Architecture(
    name="qwen",
    classes=("QWenLMHeadModel",),
    metadata=metadata,
    rules=rules,
    tokenizer=tokenizer,
    skipped=(r"transformer\.visual\..*", r"transformer\.rotary_emb\..*"),
)
