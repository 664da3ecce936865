"""Checkpoints that also see or hear: the text model is converted, and what is left out is said once."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguflow import models
from gguflow.models.text_parts import is_of_other_inputs
from testing.families import checkpoint, files, shapes


def test_what_is_left_out_is_said_once(tmp_path: Path) -> None:
    towers = {"model.vision_tower.patch.weight": (4, 4), "multi_modal_projector.linear.weight": (4, 4)}
    plain = models.load(checkpoint(tmp_path / "a", files("llama"), shapes("llama")))
    model = models.load(checkpoint(tmp_path / "b", files("llama"), shapes("llama") | towers))
    assert [tensor.name for tensor in model.tensors] == [tensor.name for tensor in plain.tensors]
    assert not plain.warnings
    (warning,) = model.warnings
    assert warning.finding.rule == "M-054"
    assert "2 tensors" in warning.finding.message and "vision_tower" in warning.finding.message


NAMES = {
    "model.visual.blocks.0.attn.qkv.weight": True,
    "thinker.audio_tower.conv1.weight": True,
    "vpm.encoder.layers.0.weight": True,
    "model.vision_model.embeddings.weight": True,
    "mm_projector.0.weight": True,
    "model.layers.0.self_attn.q_proj.weight": False,
    "model.layers.0.mlp.experts.3.up_proj.weight": False,
    "model.image_newline": True,
}


@pytest.mark.parametrize(("name", "expected"), NAMES.items())
def test_names_of_other_inputs(name: str, expected: bool) -> None:
    assert is_of_other_inputs(name) is expected
