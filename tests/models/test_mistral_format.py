"""Checkpoints in Mistral's own form: params.json and consolidated*.safetensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguflow import conversion, exporting, models, sources
from gguflow.cli import main
from gguflow.errors import FileError, InvalidError, UnsupportedError, UsageError
from gguflow.models.base import Model
from gguflow.validation import examine
from testing.checkpoints import write_safetensors
from testing.tokenizer_cases import MISTRAL_PIECES, spm_model, tekken_json

PARAMS: dict[str, Any] = {
    "dim": 64,
    "n_layers": 2,
    "head_dim": 16,
    "hidden_dim": 96,
    "n_heads": 6,
    "n_kv_heads": 2,
    "norm_eps": 1e-5,
    "vocab_size": 295,
    "rope_theta": 1e6,
    "max_position_embeddings": 512,
}
MOE = {"num_experts": 3, "num_experts_per_tok": 2}


def shapes(params: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    dim, wide, head = params["dim"], params["hidden_dim"], params["head_dim"]
    q, kv = params["n_heads"] * head, params["n_kv_heads"] * head
    found: dict[str, tuple[int, ...]] = {
        "tok_embeddings.weight": (params["vocab_size"], dim),
        "norm.weight": (dim,),
        "output.weight": (params["vocab_size"], dim),
    }
    experts = params.get("moe", {}).get("num_experts", 0)
    for i in range(params["n_layers"]):
        block = f"layers.{i}"
        found |= {f"{block}.attention_norm.weight": (dim,), f"{block}.ffn_norm.weight": (dim,)}
        found |= {f"{block}.attention.wq.weight": (q, dim), f"{block}.attention.wo.weight": (dim, q)}
        found |= {f"{block}.attention.w{x}.weight": (kv, dim) for x in "kv"}
        networks = [f".experts.{x}" for x in range(experts)] or [""]
        for name in networks:
            network = f"{block}.feed_forward{name}"
            found |= {f"{network}.w1.weight": (wide, dim), f"{network}.w3.weight": (wide, dim)}
            found[f"{network}.w2.weight"] = (dim, wide)
        if experts:
            found[f"{block}.feed_forward.gate.weight"] = (experts, dim)
    return found


def tensors(params: dict[str, Any]) -> dict[str, Any]:
    random = np.random.default_rng(7)
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes(params).items()}


def checkpoint(directory: Path, params: dict[str, Any] | None = None) -> Path:
    directory.mkdir()
    params = PARAMS if params is None else params
    (directory / "params.json").write_text(json.dumps(params))
    (directory / "tekken.json").write_text(json.dumps(tekken_json("v3")))
    write_safetensors(directory / "consolidated.safetensors", tensors(params if "dim" in params else PARAMS))
    return directory


def load(directory: Path) -> Model:
    return models.load(sources.open_checkpoint(directory, mistral=True))


def test_mixtral(tmp_path: Path) -> None:
    """Which llama.cpp's converter does not read in this form: the keys are those of transformers' class."""
    model = load(checkpoint(tmp_path / "x", {**PARAMS, "moe": MOE}))
    assert model.architecture == "llama"
    assert model.metadata["llama.expert_count"].value == 3
    assert model.metadata["llama.expert_used_count"].value == 2
    found = {tensor.name: tensor.shape for tensor in model.tensors}
    assert found["blk.1.ffn_down_exps.weight"] == (3, 64, 96)
    assert found["blk.0.ffn_gate_inp.weight"] == (3, 64)


def test_the_way_there_and_back(tmp_path: Path) -> None:
    """Rows stay in their order, the file is valid, and an export has Mistral's names and numbers."""
    directory = checkpoint(tmp_path / "x")
    file = tmp_path / "x.gguf"
    arguments = ["convert", str(directory), "--mistral-format", "-t", "f32", "-o", str(file), "-q"]
    assert main(arguments) == 0
    assert examine(file, "strict") == ("valid", [])
    exporting.export(file, tmp_path / "out.safetensors", dtype="f32")
    before = sources.open_checkpoint(directory, mistral=True)
    after = sources.open_checkpoint(tmp_path / "out.safetensors")
    assert after.tensors.keys() == before.tensors.keys()
    with sources.TensorReader(before) as first, sources.TensorReader(after) as second:
        for name, tensor in before.tensors.items():
            there, back = (
                reader.read(found.tensors[name], 0, tensor.n_weights)
                for reader, found in ((first, before), (second, after))
            )
            assert np.array_equal(there, back), name


def test_only_mistrals_files_are_read(tmp_path: Path) -> None:
    """Beside them may stand what transformers reads, which is another form of the same model."""
    directory = checkpoint(tmp_path / "x")
    (directory / "config.json").write_text("[broken")
    (directory / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(FileError, match=r"config.json"):
        sources.open_checkpoint(directory)
    assert load_tensors(directory) == set(shapes(PARAMS))


def load_tensors(directory: Path) -> set[str]:
    return set(sources.open_checkpoint(directory, mistral=True).tensors)


def test_a_vocabulary(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "x")
    (directory / "consolidated.safetensors").unlink()
    report = conversion.convert(directory, tmp_path / "v.gguf", vocab_only=True, mistral_format=True)
    assert report.n_tensors == 0
    assert examine(tmp_path / "v.gguf", "strict") == ("valid", [])


def test_sentencepiece(tmp_path: Path) -> None:
    params = {**PARAMS, "vocab_size": len(MISTRAL_PIECES)}
    directory = checkpoint(tmp_path / "x", params)
    (directory / "tekken.json").unlink()
    (directory / "tokenizer.model.v3").write_bytes(spm_model(MISTRAL_PIECES, kind=2))
    metadata = load(directory).metadata
    assert metadata["tokenizer.ggml.model"].value == "llama"
    assert metadata["tokenizer.chat_template"].value == "mistral-v3"


@pytest.mark.parametrize(
    ("said", "length"), [({}, 128_000), ({"max_seq_len": 300}, 300), ({"max_position_embeddings": 77}, 77)]
)
def test_the_length_of_the_context(said: dict[str, int], length: int, tmp_path: Path) -> None:
    params = {key: value for key, value in PARAMS.items() if key != "max_position_embeddings"}
    model = load(checkpoint(tmp_path / "x", {**params, **said}))
    assert model.metadata["llama.context_length"].value == length
    assert ("context-of-params" in model.differences) is (length != 77)


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], type[FileError], str]] = {
    **{
        f"no {key}": (lambda p, key=key: p.pop(key), InvalidError, rf"M-002: .*'{key}'")  # type: ignore[misc]
        for key in ("dim", "n_layers", "n_heads", "hidden_dim", "vocab_size", "norm_eps")
    },
    "giant layers": (lambda p: p.update(n_layers=2**31 - 1), InvalidError, r"M-003: .*n_layers"),
    "a text for a number": (lambda p: p.update(dim="64"), InvalidError, r"M-003: .*'dim'"),
    "a null vocabulary": (lambda p: p.update(vocab_size=None), InvalidError, "M-002"),
    "yarn without factor": (lambda p: p.update(yarn={"beta": 1}), InvalidError, r"M-002: .*'factor'"),
    "a list for yarn": (lambda p: p.update(yarn=[1]), InvalidError, r"M-003: .*'yarn'"),
    "a list for moe": (lambda p: p.update(moe=[1]), InvalidError, r"M-003: .*'moe'"),
    "moe without experts": (lambda p: p.update(moe={"x": 1}), InvalidError, r"M-002: .*num_experts"),
    "half of latent attention": (lambda p: p.update(kv_lora_rank=8), InvalidError, "M-002"),
    "fp8": (lambda p: p.update(quantization={"qformat_weight": "fp8_e4m3"}), UnsupportedError, "M-007"),
    "another width": (lambda p: p.update(dim=48), InvalidError, "M-012"),
}


@pytest.mark.parametrize(("change", "kind", "says"), WRONG.values(), ids=WRONG.keys())
def test_a_params_file_that_is_wrong(
    change: Callable[[dict[str, Any]], object], kind: type[FileError], says: str, tmp_path: Path
) -> None:
    params = dict(PARAMS)
    change(params)
    directory = checkpoint(tmp_path / "x")
    (directory / "params.json").write_text(json.dumps(params))
    with pytest.raises(kind, match=says):
        load(directory)


def test_without_the_option(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match=r"H-001: .*--mistral-format"):
        conversion.prepare(checkpoint(tmp_path / "x"))


def test_beside_a_configuration_of_transformers(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "x")
    config: dict[str, Any] = {"architectures": ["MistralForCausalLM"], "vocab_size": 295, "hidden_size": 64}
    config |= {"num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16}
    config |= {"intermediate_size": 96, "rms_norm_eps": 1e-5, "max_position_embeddings": 512}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidError, match=r"M-011: .*--mistral-format"):
        conversion.prepare(directory)


def test_of_another_form(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidError, match=r"H-001: no params.json"):
        conversion.prepare(tmp_path, mistral_format=True)
    (tmp_path / "x.gguf").touch()
    with pytest.raises(UsageError, match="directory"):
        conversion.prepare(tmp_path / "x.gguf", mistral_format=True)
    (tmp_path / "params.json").write_text(json.dumps(PARAMS))
    with pytest.raises(InvalidError, match="H-004"):
        conversion.prepare(tmp_path, mistral_format=True)
