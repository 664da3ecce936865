"""Chameleon: Llama with norms of heads, of which every head has the first one's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gguflow.container.metadata import Metadata, boolean
from gguflow.models import decoder
from gguflow.models.architecture import DECODER_KEYS, Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.keys import base_keys
from gguflow.models.parameters import Parameters
from gguflow.models.rules import Part, Rule, folded
from gguflow.models.tokenizers.bpe import bpe_metadata
from gguflow.models.views import Numbers


def metadata(config: Document, directory: Path) -> Metadata:
    """The base keys, and where norms stand."""
    keys = base_keys("chameleon", config)
    keys.put("swin_norm", boolean(config.flag("swin_norm", False)))
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Rows of Q and K, and their norms, in the order of llama.cpp's "norm" rope."""
    yield from decoder.ends(p)
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, rotate=True)
        yield from decoder.feed_forward(p, i)
        for kind, n in (("q", p.heads(i)), ("k", p.kv_heads(i))):
            for end in ("weight", "bias"):
                source = f"model.layers.{i}.self_attn.{kind}_norm.{end}"
                yield head_norm(source, f"blk.{i}.attn_{kind}_norm.{end}", n, p.head_dim)


def head_norm(source: str, target: str, n: int, width: int) -> Rule:
    """The first head's norm for all n heads, its halves interleaved."""
    shape = (n, width)

    def function(numbers: Numbers) -> Numbers:
        first = numbers[0].reshape(2, width // 2).T.reshape(1, width)
        return np.repeat(first, n, axis=0).astype(np.float32)

    return folded((Part(source, shape),), Part(target, shape), function)


ARCHITECTURE = Architecture(
    name="chameleon",
    classes=("ChameleonForCausalLM", "ChameleonForConditionalGeneration"),
    metadata=metadata,
    rules=rules,
    tokenizer=bpe_metadata,
    skipped=(r"model\.vqmodel\..*",),
    required=DECODER_KEYS,
)
