"""state_dict: the checkpoint's own tensors come back bit for bit; what is mapped is not copied, and cannot
hurt the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import gguflow.torch  # noqa: E402
from gguflow.errors import UsageError  # noqa: E402
from testing.checkpoints import TINY  # noqa: E402
from testing.families import random_checkpoint  # noqa: E402
from testing.torch_models import build, output, tokens, with_decoded_weights  # noqa: E402


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "bert", "mixtral", "qwen3moe"])
def test_a_bf16_checkpoint_comes_back(tmp_path: Path, family: str) -> None:
    from safetensors.torch import load_file

    source = random_checkpoint(tmp_path / "checkpoint", family)
    gguflow.convert(source, tmp_path / "model.gguf", type="bf16")
    expected, found = (
        load_file(source / "model.safetensors"),
        gguflow.torch.state_dict(tmp_path / "model.gguf", torch.bfloat16),
    )
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name]), name


def test_logits_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    """The checkpoint as transformers loads it, and its weights by way of GGUF."""
    from transformers import LlamaForCausalLM

    gguflow.convert(TINY, tmp_path / "model.gguf", type="bf16")
    original = LlamaForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()
    model = with_decoded_weights(TINY, tmp_path / "model.gguf")
    ids = tokens(model, 2, 40)
    assert torch.equal(output(model, ids), output(original, ids))


@pytest.mark.parametrize("kind", ["q4_k_m", "int8_b128"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_decoded_types(tmp_path: Path, dtype: Any, kind: str) -> None:
    gguflow.convert(TINY, tmp_path / "model.gguf", type=kind)
    exact = gguflow.torch.state_dict(tmp_path / "model.gguf")
    for name, tensor in gguflow.torch.state_dict(tmp_path / "model.gguf", dtype).items():
        assert (
            tensor.dtype == dtype and tensor.is_contiguous() and torch.equal(tensor, exact[name].to(dtype))
        ), name
    with pytest.raises(UsageError, match=r"float type, not torch\.int8"):
        gguflow.torch.state_dict(tmp_path / "model.gguf", torch.int8)


def test_what_has_its_type_already_is_mapped(tmp_path: Path) -> None:
    """Written to, it changes in this process only; it stays good when the model is closed."""
    file = gguflow.convert(TINY, tmp_path / "model.gguf", type="f16").output
    before = file.read_bytes()
    found = gguflow.torch.state_dict(file, torch.float16)
    with gguflow.open(file) as model:
        down = found["model.layers.0.mlp.down_proj.weight"]
        assert np.array_equal(down.numpy(), model["blk.0.ffn_down.weight"].numpy())
        mapped = {
            name for name, tensor in found.items() if tensor.untyped_storage().nbytes() == file.stat().st_size
        }
        rearranged = {name for name in found if "q_proj" in name or "k_proj" in name}
        norms = {name for name in found if "norm" in name}
        assert mapped == found.keys() - rearranged - norms
        down += 1
        assert not np.array_equal(down.numpy(), model["blk.0.ffn_down.weight"].numpy())
    assert file.read_bytes() == before


def test_one_tensor_at_a_time(tmp_path: Path) -> None:
    gguflow.convert(TINY, tmp_path / "model.gguf", type="q8_0")
    names = gguflow.torch.named_tensors(tmp_path / "model.gguf")
    first, tensor = next(names)
    assert first in build(TINY, device="meta").state_dict() and tensor.dtype == torch.float32
    del names


def test_shards(tmp_path: Path) -> None:
    from gguflow.conversion.splitting import Split

    whole = gguflow.convert(TINY, tmp_path / "whole.gguf", type="f16").output
    first = gguflow.convert(TINY, tmp_path / "parts.gguf", type="f16", shards=Split(max_tensors=30)).output
    expected, found = (
        gguflow.torch.state_dict(whole, torch.float16),
        gguflow.torch.state_dict(first, torch.float16),
    )
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
