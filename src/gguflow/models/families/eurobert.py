"""EuroBERT and Jina's embeddings v5: Llama's blocks that look both ways."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families.bert import encoder_keys
from gguflow.models.keys import SILU
from gguflow.models.parameters import Parameters
from gguflow.models.rope import RopeOptions
from gguflow.models.rules import same
from gguflow.models.tokenizers.variants import euro_bert_metadata


def metadata(config: Document, directory: Path) -> Metadata:
    """The keys of an encoder; rotary embeddings are never stretched."""
    rope = RopeOptions(kinds=("default",))
    keys = encoder_keys("eurobert", config, directory, activation=SILU, rope=rope)
    keys.drop("classifier.output_labels")
    keys.text("rope.scaling.type", "none")
    return keys.metadata


def rules(p: Parameters) -> Rules:
    """Llama's blocks, without an output matrix."""
    yield same("model.embed_tokens.weight", "token_embd.weight", (p.n_tokens, p.hidden))
    yield from decoder.norm(p, "model.norm", "output_norm")
    for i in range(p.n_layers):
        yield from decoder.norms(p, i)
        yield from decoder.attention(p, i, qkv_bias=False, output_bias=False)
        yield from decoder.feed_forward(p, i, bias=False)


ARCHITECTURE = Architecture(
    name="eurobert",
    classes=("EuroBertModel", "JinaEmbeddingsV5Model"),
    metadata=metadata,
    rules=rules,
    tokenizer=euro_bert_metadata,
)
