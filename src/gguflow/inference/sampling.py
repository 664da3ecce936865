"""Sampling of the next token from the logits: the best one, or a random one of those good enough."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gguflow.arguments import integer, real
from gguflow.arrays import Floats
from gguflow.errors import UsageError

MAX_SEED = (1 << 128) - 1
"""The most that a seed may be: what the generator of random numbers keeps of it."""


@dataclass
class Sampler:
    """Picks the next token; top_k, top_p and min_p filter tokens in this order.

    temperature: divides the logits of the remaining tokens; 0 takes the best token.
    top_k: keep the k best (0: all).
    top_p: keep the fewest best that together have this probability (1: all).
    min_p: keep those with at least this share of the best one's probability (0: all).
    seed: of the random numbers; None for a different one in every run.

    Raises UsageError for a value out of range.
    """

    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    seed: int | None = None
    _random: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.temperature = real(self.temperature, "temperature", 0, math.inf)
        self.top_k = integer(self.top_k, "top_k", 0)
        self.top_p = real(self.top_p, "top_p", 0, 1)
        self.min_p = real(self.min_p, "min_p", 0, 1)
        if self.seed is not None:
            self.seed = integer(self.seed, "seed", 0, MAX_SEED)
        if self.top_p == 0:
            raise UsageError("top_p must be above 0: no token at all would be good enough")
        self._random = np.random.default_rng(self.seed)

    def pick(self, logits: Floats) -> int:
        """Pick a token by its finite logits, float32[n_tokens]."""
        if self.temperature == 0:
            return int(logits.argmax())
        tokens = self._good_enough(logits)
        return int(self._random.choice(tokens, p=_softmax(logits[tokens], self.temperature)))

    def _good_enough(self, logits: Floats) -> NDArray[np.intp]:
        """The tokens from which one is drawn, best first; at least one."""
        tokens = np.argsort(-logits, kind="stable")[: self.top_k or None]
        probabilities = _softmax(logits[tokens])
        n = int(np.searchsorted(np.cumsum(probabilities), self.top_p)) + 1
        tokens, probabilities = tokens[:n], probabilities[:n]
        good: NDArray[np.intp] = tokens[probabilities >= self.min_p * probabilities[0]]
        return good


def _softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities. The best token's logit is taken away before the division: by a temperature near 0, the
    others' become infinite, and its own stays 0.
    """
    with np.errstate(over="ignore"):
        powers = np.exp((logits.astype(np.float64) - float(logits.max())) / temperature)
    probabilities: NDArray[np.float64] = powers / powers.sum()
    return probabilities
