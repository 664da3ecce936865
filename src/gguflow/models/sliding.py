"""Layers with sliding windows: their keys."""

from __future__ import annotations

from collections.abc import Sequence

from gguflow.container.metadata import u32
from gguflow.models.documents import Document
from gguflow.models.keys import Keys, n_layers
from gguflow.models.rope import SLIDING


def sliding_layers(config: Document) -> list[bool]:
    """For each layer whether its window slides, as `layer_types` says; empty if it is not there.

    config: config.json.

    Raises InvalidError (M-003) for a list of another length than there are layers.
    """
    types = config.items("layer_types")
    if types and len(types) != n_layers(config):
        raise config.wrong("layer_types", len(types), f"one for each of {n_layers(config)} layers")
    return [kind == SLIDING for kind in types]


def sliding_window(keys: Keys, pattern: Sequence[bool] = ()) -> None:
    """The size of the window, and which layers have it.

    keys: where they are put.
    pattern: for each layer, where config.json has no `layer_types`; empty for no key.

    Raises InvalidError (M-002, M-003).
    """
    keys.put("attention.sliding_window", u32(keys.config.integer("sliding_window", minimum=0)))
    keys.layers("attention.sliding_window_pattern", sliding_layers(keys.config) or list(pattern))
