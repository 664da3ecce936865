"""GGUF files in PyTorch: transformers' weights, modules on packed blocks, quantization-aware training.

    import gguflow.torch                                    # pip install 'gguflow[torch]'

    model = LlamaForCausalLM(config)                        # on the meta device, or anywhere
    gguflow.torch.load_into(model, "model.gguf")            # blocks stay packed in the mapped file
    weights = gguflow.torch.state_dict("model.gguf", torch.bfloat16)

decoding.py           tensors of a file as torch tensors: decoded rows, mapped numbers
state.py              a whole file as a state_dict
product.py            x times a packed matrix, with the gradient for x
modules.py            GGUFLinear, GGUFEmbedding
loading.py            replaces a model's layers with these
fake_quantization.py  rounding with a gradient: straight-through, or with learned scale and zero point
"""

from __future__ import annotations

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError("gguflow.torch needs PyTorch: pip install 'gguflow[torch]'") from error

from gguflow.torch.fake_quantization import (
    FakeQuantize,
    LearnedFakeQuantize,
    fake_quantize,
    learned_fake_quantize,
)
from gguflow.torch.loading import load_into
from gguflow.torch.modules import GGUFEmbedding, GGUFLinear
from gguflow.torch.state import named_tensors, state_dict

__all__ = [
    "FakeQuantize",
    "GGUFEmbedding",
    "GGUFLinear",
    "LearnedFakeQuantize",
    "fake_quantize",
    "learned_fake_quantize",
    "load_into",
    "named_tensors",
    "state_dict",
]
