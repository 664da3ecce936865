"""Which tokens may be drawn, and how often."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gguflow.errors import UsageError
from gguflow.inference.sampling import Sampler

LOGITS = np.log(np.array([0.05, 0.5, 0.15, 0.3], np.float32))

KEPT: dict[str, tuple[dict[str, Any], set[int]]] = {
    "greedy": ({"temperature": 0}, {1}),
    "all": ({"top_k": 0, "top_p": 1, "min_p": 0}, {0, 1, 2, 3}),
    "the best": ({"top_k": 1, "top_p": 1, "min_p": 0}, {1}),
    "the two best": ({"top_k": 2, "top_p": 1, "min_p": 0}, {1, 3}),
    "more than there are": ({"top_k": 9, "top_p": 1, "min_p": 0}, {0, 1, 2, 3}),
    "four fifths": ({"top_k": 0, "top_p": 0.79, "min_p": 0}, {1, 3}),
    "a little more": ({"top_k": 0, "top_p": 0.81, "min_p": 0}, {1, 2, 3}),
    "hardly any": ({"top_k": 0, "top_p": 0.01, "min_p": 0}, {1}),
    "half of the best": ({"top_k": 0, "top_p": 1, "min_p": 0.5}, {1, 3}),
    "as good as the best": ({"top_k": 0, "top_p": 1, "min_p": 1}, {1}),
    "of the three best, nine tenths of what they have": ({"top_k": 3, "top_p": 0.83, "min_p": 0}, {1, 3}),
}


@pytest.mark.parametrize(("options", "kept"), KEPT.values(), ids=KEPT)
def test_what_may_be_drawn(options: dict[str, Any], kept: set[int]) -> None:
    sampler = Sampler(**{"temperature": 1.0, "seed": 0} | options)
    assert {sampler.pick(LOGITS) for _ in range(200)} == kept


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_how_often(temperature: float) -> None:
    sampler = Sampler(temperature, top_k=0, top_p=1, min_p=0, seed=1)
    drawn = np.bincount([sampler.pick(LOGITS) for _ in range(20_000)], minlength=4) / 20_000
    expected = np.exp(LOGITS) ** (1 / temperature)
    np.testing.assert_allclose(drawn, expected / expected.sum(), atol=0.015)


def test_a_seed_repeats() -> None:
    first, second = (
        [sampler.pick(LOGITS) for _ in range(50)] for sampler in (Sampler(1.0, seed=7), Sampler(1.0, seed=7))
    )
    assert first == second
    assert first != [Sampler(1.0, seed=8).pick(LOGITS) for _ in range(50)]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": float("nan")},
        {"seed": -1},
    ],
    ids=str,
)
def test_what_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        Sampler(**options)
