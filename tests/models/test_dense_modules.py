"""Dense layers that sentence-transformers has behind an encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gguflow.container.metadata import u32
from gguflow.errors import FileError, UnsupportedError, gathered_warnings
from gguflow.models.dense_modules import put_keys, with_dense_layers
from gguflow.models.documents import Document
from gguflow.models.keys import Keys
from gguflow.sources.base import Checkpoint


def keys_of(directory: Path, path: str, tensors: tuple[str, ...], layer: dict[str, Any]) -> Keys:
    """What `put_keys` makes of one dense layer in a directory."""
    modules = [{"type": "sentence_transformers.models.Dense", "path": path}]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / path).mkdir()
    (directory / path / "config.json").write_text(json.dumps(layer))
    keys = Keys("gemma-embedding", Document(directory / "config.json", {}, tensors=tensors))
    put_keys(keys, directory)
    return keys


def test_widths_are_those_of_the_layer(tmp_path: Path) -> None:
    layer = {"in_features": 8, "out_features": 12, "bias": False}
    keys = keys_of(tmp_path, "3_Dense", ("3_Dense.linear.weight",), layer)
    assert keys.metadata == {
        "gemma-embedding.dense_3_feat_in": u32(8),
        "gemma-embedding.dense_3_feat_out": u32(12),
    }


def test_a_layer_that_is_left_out_is_said(tmp_path: Path) -> None:
    with gathered_warnings() as warnings:
        keys = keys_of(tmp_path, "2_Dense", (), {"in_features": 8, "out_features": 12})
    assert [warning.finding.rule for warning in warnings] == ["M-053"]
    assert keys.metadata == {}


@pytest.mark.parametrize(
    "layer",
    [{"bias": True}, {"activation_function": "torch.nn.modules.activation.Tanh"}],
    ids=["a bias", "an activation"],
)
def test_a_layer_is_a_matrix(layer: dict[str, Any], tmp_path: Path) -> None:
    sizes = {"in_features": 8, "out_features": 12}
    with pytest.raises(UnsupportedError) as caught:
        keys_of(tmp_path, "2_Dense", ("2_Dense.linear.weight",), sizes | layer)
    assert caught.value.finding.rule == "M-006"


@pytest.mark.parametrize(
    ("path", "rule"), [("4_Dense", "M-006"), ("../2_Dense", "M-006")], ids=["a third layer", "outside"]
)
def test_layers_have_their_places(path: str, rule: str, tmp_path: Path) -> None:
    modules = [{"type": "sentence_transformers.models.Dense", "path": path}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(FileError) as caught:
        with_dense_layers(Checkpoint(tmp_path, {}, (), tmp_path))
    assert caught.value.finding.rule == rule
