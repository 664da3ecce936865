"""The conditions in the table of recipes: facts about a model, a tensor's place, a test for each word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

_LAYERS_OF_70B = {"llama": 80, "llama-embed": 80, "qwen2": 80, "olmo": 80, "deci": 80, "jais2": 68}
"""Layers of a 70B; llama.cpp infers sizes from them (`load_arch_hparams` in src/models/*.cpp)."""


@dataclass(frozen=True)
class ModelFacts:
    """The facts about a model that rules use; numbers are 0 if unknown.

    architecture: `general.architecture`.
    n_layers: number of layers.
    n_heads, n_kv_heads: heads of the first layer.
    n_experts: experts of a layer.
    has_importance: whether an imatrix is given.
    """

    architecture: str
    n_layers: int = 0
    n_heads: int = 0
    n_kv_heads: int = 0
    n_experts: int = 0
    has_importance: bool = False

    @property
    def gqa(self) -> int:
        """Number of query heads that share a key-value head."""
        return self.n_heads // self.n_kv_heads if self.n_kv_heads else 0

    @property
    def is_70b(self) -> bool:
        """Whether llama.cpp calls it a 70B; a Llama of 80 layers without shared heads is the 65B."""
        if self.n_layers != _LAYERS_OF_70B.get(self.architecture):
            return False
        return not self.architecture.startswith("llama") or (
            self.n_heads != self.n_kv_heads and self.n_experts != 8
        )


@dataclass(frozen=True)
class Place:
    """The place of a tensor in its model.

    model: facts about the model.
    i: its index among its kind; for ffn tensors of a mixture of experts, its layer.
    seen: its index among its kind, always.
    n: number of layers; for attn_v, number of such tensors.
    is_uneven: whether its rows do not divide into blocks of the recipe's base format.
    is_stacked: whether it holds several matrices.
    """

    model: ModelFacts
    i: int
    seen: int
    n: int
    is_uneven: bool = False
    is_stacked: bool = False


def _more_bits(p: Place) -> bool:
    return p.i < p.n // 8 or p.i >= 7 * p.n // 8 or (p.i - p.n // 8) % 3 == 2


CONDITIONS: MappingProxyType[str, Callable[[Place], bool]] = MappingProxyType(
    {
        "i<2": lambda p: p.i < 2,
        "i<4": lambda p: p.i < 4,
        "i<n/8": lambda p: p.i < p.n // 8,
        "i<n/16": lambda p: p.i < p.n // 16,
        "seen<n/8": lambda p: p.seen < p.n // 8,
        "middle": lambda p: p.n // 8 <= p.i < 7 * p.n // 8,
        "more_bits": _more_bits,
        "uneven": lambda p: p.is_uneven,
        "stacked": lambda p: p.is_stacked,
        "gqa>=4": lambda p: p.model.gqa >= 4,
        "experts>=4": lambda p: p.model.n_experts >= 4,
        "experts=8": lambda p: p.model.n_experts == 8,
        "70B": lambda p: p.model.is_70b,
        "imatrix": lambda p: p.model.has_importance,
        "falcon": lambda p: p.model.architecture == "falcon",
        "bailingmoe3": lambda p: p.model.architecture == "bailingmoe3",
    }
)
"""The words of the table's language; `not WORD` negates each."""


def holds(condition: str, place: Place) -> bool:
    """Whether a condition ("gqa>=4 and not falcon"; "" always) holds at a place."""
    terms = condition.split(" and ") if condition else []
    return all(CONDITIONS[term.removeprefix("not ")](place) is not term.startswith("not ") for term in terms)
