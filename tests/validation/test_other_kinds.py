"""Files that are no models by themselves are judged as what they are: adapters, projectors, control vectors,
importance matrices, vocabularies. They open.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

import gguflow
from gguflow.validation import examine

f32 = np.float32


def lora(writer: gguf.GGUFWriter) -> None:
    """As convert_lora_to_gguf writes it."""
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 16.0)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.ones((4, 64), f32))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", np.ones((64, 4), f32))


def lora_without_type(writer: gguf.GGUFWriter) -> None:
    writer.add_string("adapter.type", "lora")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.ones((4, 64), f32))


def projector(writer: gguf.GGUFWriter) -> None:
    writer.add_type("mmproj")
    writer.add_string("clip.projector_type", "mlp")
    writer.add_tensor("mm.0.weight", np.ones((8, 8), f32))


def vector(writer: gguf.GGUFWriter) -> None:
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_tensor("direction.1", np.ones(64, f32))


def vocabulary(writer: gguf.GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "c"] * 8)


def matrix(writer: gguf.GGUFWriter) -> None:
    writer.add_type("imatrix")
    writer.add_tensor("blk.0.attn_q.weight.in_sum2", np.ones((1, 64), f32))
    writer.add_tensor("blk.0.attn_q.weight.counts", np.ones((1, 1), f32))


KINDS = {
    "a LoRA adapter": ("llama", lora),
    "an adapter that does not say so": ("qwen2", lora_without_type),
    "a projector": ("clip", projector),
    "a projector that names a language model": ("llama", projector),
    "a control vector": ("controlvector", vector),
    "a vocabulary": ("llama", vocabulary),
    "an importance matrix": ("llama", matrix),
}


def written(path: Path, architecture: str, fill: object) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    assert callable(fill)
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(("architecture", "fill"), KINDS.values(), ids=KINDS)
def test_it_is_valid_and_opens(tmp_path: Path, architecture: str, fill: object) -> None:
    path = written(tmp_path / "x.gguf", architecture, fill)
    for level in ("structure", "values"):
        verdict, findings = examine(path, level)
        assert verdict == "valid"
        assert not [finding for finding in findings if finding.rule in ("G-003", "G-005", "G-006", "G-007")]
    with gguflow.open(path) as model:
        assert len(model) == len(gguf.GGUFReader(path).tensors)


def test_a_model_that_says_so_still_needs_its_hyper_parameters(tmp_path: Path) -> None:
    def model(writer: gguf.GGUFWriter) -> None:
        writer.add_type("model")
        writer.add_tensor("token_embd.weight", np.ones((4, 64), f32))

    verdict, findings = examine(written(tmp_path / "x.gguf", "llama", model))
    assert verdict == "invalid"
    assert "G-003" in {finding.rule for finding in findings}
