"""The next token out of the logits: the best, or drawn from those that are good enough."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gguflow.arrays import Floats
from gguflow.errors import UsageError


@dataclass
class Sampler:
    """temperature 0 takes the best token; above, one is drawn among those that top_k, top_p and min_p leave,
    applied in this order.

    top_k: the k best (0: all). top_p: the fewest best that together have this probability (1: all). min_p:
    those that have at least this part of the best one's probability (0: all). temperature: divides the logits
    of what is left. seed: of the random numbers; None for another at every run. Raises UsageError for a value
    out of range.
    """

    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    seed: int | None = None
    _random: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature is 0 or more, not {self.temperature}")
        if self.top_k < 0 or (self.seed is not None and self.seed < 0):
            raise UsageError(f"top_k and seed are 0 or more, not {self.top_k} and {self.seed}")
        if not 0 < self.top_p <= 1 or not 0 <= self.min_p <= 1:
            raise UsageError(
                f"top_p is above 0 and up to 1, min_p between 0 and 1; not {self.top_p} and {self.min_p}"
            )
        self._random = np.random.default_rng(self.seed)

    def pick(self, logits: Floats) -> int:
        """logits: float32[n_tokens], finite."""
        if self.temperature == 0:
            return int(logits.argmax())
        tokens = self._good_enough(logits)
        return int(self._random.choice(tokens, p=_softmax(logits[tokens] / self.temperature)))

    def _good_enough(self, logits: Floats) -> NDArray[np.intp]:
        """The tokens among which one is drawn, best first; never none."""
        tokens = np.argsort(-logits, kind="stable")[: self.top_k or None]
        probabilities = _softmax(logits[tokens])
        n = int(np.searchsorted(np.cumsum(probabilities), self.top_p)) + 1
        tokens, probabilities = tokens[:n], probabilities[:n]
        good: NDArray[np.intp] = tokens[probabilities >= self.min_p * probabilities[0]]
        return good


def _softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64) - float(logits.max()))
    probabilities: NDArray[np.float64] = powers / powers.sum()
    return probabilities
