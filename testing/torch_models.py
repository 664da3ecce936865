"""Models for the tests with torch: files made by `gguflow.convert`, and transformers' classes for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

import gguflow.torch

CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "bert": "BertModel",
}


def build(checkpoint: Path, name: str = "LlamaForCausalLM", device: str = "cpu", **arguments: Any) -> Any:
    """A model of that class by the checkpoint's configuration, ready to be asked; its weights are random, or
    there are none (device meta).
    """
    model_class = getattr(transformers, name)
    config = model_class.config_class.from_pretrained(checkpoint)
    torch.manual_seed(0)
    with torch.device(device):
        return model_class(config, **arguments).eval()


def with_decoded_weights(
    checkpoint: Path, file: Path, name: str = "LlamaForCausalLM", **arguments: Any
) -> Any:
    """The model as torch alone computes it, with the file's weights decoded to float32."""
    model = build(checkpoint, name, **arguments)
    found = model.load_state_dict(gguflow.torch.state_dict(file), strict=False)
    if found.unexpected_keys or set(found.missing_keys) - {"lm_head.weight"}:
        raise AssertionError(found)
    model.tie_weights()
    return model


def tokens(model: Any, *shape: int) -> torch.Tensor:
    return torch.randint(0, model.config.vocab_size, shape, generator=torch.Generator().manual_seed(1))


def output(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits, or of a model without a head the last hidden state."""
    with torch.no_grad():
        result = model(ids)
    return result.logits if "logits" in result else result.last_hidden_state


def assert_close(a: torch.Tensor, b: torch.Tensor, bound: float = 1e-5) -> None:
    """Equal to float rounding: within `bound` of the largest value."""
    assert a.shape == b.shape and a.dtype == b.dtype
    assert (a - b).abs().max() <= bound * b.abs().max()
