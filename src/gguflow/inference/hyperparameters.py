"""The hyper-parameters of a forward pass from a model's metadata, and which models are refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gguflow.errors import Finding, UnsupportedError, printable
from gguflow.inference.keys import Keys

if TYPE_CHECKING:
    from gguflow.runtime import Model

ROTATED_PAIRS = {"llama": "adjacent", "qwen2": "halves", "qwen3": "halves"}
"""The supported architectures, and which features of a head rope rotates together ("norm" and "neox")."""


@dataclass(frozen=True)
class Hyperparameters:
    """The hyper-parameters of a decoder.

    head_dim: features of a head.
    epsilon: of the root-mean-square norms.
    n_tokens: rows of the embedding matrix.
    """

    architecture: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    epsilon: float
    context_length: int
    n_tokens: int

    @classmethod
    def of(cls, model: Model) -> Hyperparameters:
        """Read from an open model, whose keys and shapes have been checked.

        Raises UnsupportedError for other architectures (X-001) or variations that the forward pass does not
        have (X-002); InvalidError (X-004).
        """
        general = Keys(model.metadata, model.path, "general.")
        architecture = general.text("architecture", "")
        if architecture not in ROTATED_PAIRS:
            raise general.unsupported(
                "X-001",
                "architecture",
                "this architecture cannot be run",
                architecture,
                ", ".join(ROTATED_PAIRS),
            )
        keys = keys_of(model)
        n_heads = keys.integer("attention.head_count")
        head_dim = keys.integer("attention.key_length", keys.integer("embedding_length") // n_heads)
        keys.integer("feed_forward_length")
        keys.require("expert_count", 0, "layers of experts")
        keys.require("nextn_predict_layers", 0, "layers that predict several tokens")
        keys.require("attention.value_length", head_dim, "values of another width than keys")
        keys.require("rope.dimension_count", head_dim, "rotating a part of each head")
        keys.require("attention.causal", True, "non-causal attention")
        if scale := next((name for name in model if name.endswith(".scale")), None):
            finding = Finding(
                "X-002",
                "tensors with a separate scale are not supported",
                "$.tensors",
                found=printable(scale),
            )
            raise UnsupportedError(model.path, finding)
        return cls(
            architecture,
            keys.integer("block_count"),
            n_heads,
            keys.integer("attention.head_count_kv", n_heads),
            head_dim,
            keys.number("attention.layer_norm_rms_epsilon", 0.0, or_zero=True),
            keys.integer("context_length"),
            model["token_embd.weight"].shape[0],
        )


def keys_of(model: Model) -> Keys:
    """The keys under the name of a model's architecture."""
    return Keys(model.metadata, model.path, f"{model.metadata['general.architecture']}.")
