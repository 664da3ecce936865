"""The numbers that a forward pass depends on, out of a model's metadata, and what about a model is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gguflow.errors import Finding, UnsupportedError, printable

if TYPE_CHECKING:
    from gguflow.runtime import Model

ROTATED_PAIRS = {"llama": "adjacent", "qwen2": "halves", "qwen3": "halves"}
"""The architectures that can be run, and which features of a head are rotated together (llama.cpp's "norm" and "neox" rope)."""


@dataclass(frozen=True)
class Hyperparameters:
    """Of a decoder. head_dim: features of a head. epsilon: of the root-mean-square norms. n_tokens: rows of the embedding matrix."""

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
        """Read from an open model, whose rules about keys, ranges and shapes have been judged by opening it.

        Raises UnsupportedError: another architecture (E-001), or a variation that the forward pass here does not have (E-002).
        """
        keys = Keys(model)
        if keys.architecture not in ROTATED_PAIRS:
            raise unsupported(model, "E-001", "general.architecture", "this architecture cannot be run", keys.architecture, ", ".join(ROTATED_PAIRS))
        n_heads = keys.integer("attention.head_count")
        head_dim = keys.integer("attention.key_length", keys.integer("embedding_length") // n_heads)
        keys.require("expert_count", 0, "layers of experts")
        keys.require("attention.value_length", head_dim, "values of another width than keys")
        keys.require("rope.dimension_count", head_dim, "rotating a part of each head")
        keys.require("attention.causal", True, "attention to what is still to come")
        if scaled := next((name for name in model if name.endswith(".scale")), None):
            raise UnsupportedError(
                model.path, Finding("E-002", "tensors with a scale beside them are not known", "$.tensors", found=printable(scaled))
            )
        return cls(
            keys.architecture,
            keys.integer("block_count"),
            n_heads,
            keys.integer("attention.head_count_kv", n_heads),
            head_dim,
            float(keys.value("attention.layer_norm_rms_epsilon")),
            keys.integer("context_length"),
            model["token_embd.weight"].shape[0],
        )


class Keys:
    """The metadata under the name of a model's architecture."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._metadata: Mapping[str, Any] = model.metadata
        self.architecture = str(self._metadata.get("general.architecture"))

    def value(self, key: str, default: Any = None) -> Any:
        return self._metadata.get(f"{self.architecture}.{key}", default)

    def integer(self, key: str, default: int = 0) -> int:
        """Raises UnsupportedError (E-002) where the value differs from layer to layer."""
        value = self.value(key, default)
        if isinstance(value, Sequence) or hasattr(value, "shape"):
            raise self.unsupported("E-002", key, "a value for each layer is not known", "an array", "one number")
        return int(value)

    def require(self, key: str, only: object, what: str) -> None:
        """Raises UnsupportedError (E-002) for any other value than the one that the forward pass has."""
        found = self.value(key, only)
        if found != only:
            raise self.unsupported("E-002", key, f"{what}: not known", found, only)

    def unsupported(self, rule: str, key: str, message: str, found: object, expected: object) -> UnsupportedError:
        return unsupported(self._model, rule, f"{self.architecture}.{key}", message, found, expected)


def unsupported(model: Model, rule: str, key: str, message: str, found: object, expected: object) -> UnsupportedError:
    """The error for a model that is well-formed and cannot be run."""
    shown = printable(found) if isinstance(found, str) else found
    return UnsupportedError(model.path, Finding(rule, message, f"$.metadata['{key}']", found=shown, expected=expected))
