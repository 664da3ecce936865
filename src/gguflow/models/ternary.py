"""Weights of three values, as BitNet has them: -s, 0 and s, where s is the mean magnitude of a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gguflow.arrays import Bytes
from gguflow.blocks import FORMATS, BlockFormat
from gguflow.models.rules import Rule
from gguflow.models.views import Reader, Shape, View, numbers_of

_CHUNK = 1 << 20
"""Weights that are read at once for the mean."""


@dataclass(frozen=True, eq=False)
class Ternary(View):
    """Another view with its weights rounded to three values, in float32 and then in the source's type.

    view: a matrix.
    """

    view: View
    _scale: list[Any] = field(default_factory=list, repr=False)

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        return self.view.shape

    @property
    def format(self) -> BlockFormat:  # type: ignore[override]
        return FORMATS["f16" if self.view.format.key == "f16" else "f32"]

    def children(self) -> Sequence[View]:
        return (self.view,)

    def read(self, reader: Reader, first: int, last: int) -> Bytes:
        numbers = numbers_of(self.view, reader, first, last)
        inverse = np.float32(1) / self._mean(reader)
        rounded = np.round(numbers.astype(np.float32) * inverse).clip(-1, 1) / inverse
        return np.ascontiguousarray(rounded.astype(numbers.dtype)).view(np.uint8)

    def _mean(self, reader: Reader) -> np.float32:
        """The mean magnitude, correctly rounded, at least 1e-5."""
        if not self._scale:
            total = 0.0
            for first in range(0, self.n_weights, _CHUNK):
                last = min(first + _CHUNK, self.n_weights)
                total += float(np.abs(numbers_of(self.view, reader, first, last), dtype=np.float64).sum())
            self._scale.append(max(np.float32(total / max(self.n_weights, 1)), np.float32(1e-5)))
        found: np.float32 = self._scale[0]
        return found


def ternary(rule: Rule) -> Rule:
    """A rule whose matrices are rounded to three values; there is no way back.

    rule: the rule without it.
    """

    def forward(views: Sequence[View]) -> Sequence[View]:
        return [Ternary(view) if len(view.shape) > 1 else view for view in rule.forward(views)]

    return Rule(rule.sources, rule.targets, forward, None, rule.is_required)
