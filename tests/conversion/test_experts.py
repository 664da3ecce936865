"""Mixtures of experts: the matrices of a layer's experts become one tensor [experts, rows, n], read from as
many source tensors, in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gguflow import conversion, models, sources
from gguflow.blocks import FORMATS
from gguflow.cli.inspect import inspect_file
from gguflow.container.metadata import u32
from gguflow.errors import InvalidError
from gguflow.models.base import ModelTensor
from gguflow.quantization import quantize
from testing import ggml
from testing.experts import FAMILIES, HIDDEN, N_EXPERTS, WIDE, Tensors, checkpoint
from testing.gguf_files import tensors_of


def stacked(tensors: Tensors, family: str, layer: int, kind: str) -> NDArray[Any]:
    _, mixture, names = FAMILIES[family]
    return np.stack(
        [
            tensors[f"model.layers.{layer}.{mixture}.experts.{i}.{names[kind]}.weight"]
            for i in range(N_EXPERTS)
        ]
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_experts_are_stacked_in_order(tmp_path: Path, family: str) -> None:
    """Every stacked tensor by ggml from the stacked array; router in F32; the facts that recipes ask for."""
    tensors = checkpoint(tmp_path / "checkpoint", family)
    conversion.convert(tmp_path / "checkpoint", tmp_path / "out.gguf", type="q8_0")
    found = tensors_of(tmp_path / "out.gguf")
    for layer in range(2):
        for kind in ("gate", "up", "down"):
            x = stacked(tensors, family, layer, kind)
            rows = ggml.quantize(x.reshape(-1, x.shape[-1]), FORMATS["q8_0"])
            assert found[f"blk.{layer}.ffn_{kind}_exps.weight"] == ("q8_0", x.shape, rows.tobytes())
        router = tensors[f"model.layers.{layer}.{FAMILIES[family][1]}.gate.weight"]
        assert found[f"blk.{layer}.ffn_gate_inp.weight"] == ("f32", router.shape, router.tobytes())
    model = models.load(sources.open_checkpoint(tmp_path / "checkpoint"))
    assert (model.architecture, model.n_experts) == (family, N_EXPERTS)
    metadata = inspect_file(tmp_path / "out.gguf").metadata
    assert metadata[f"{family}.expert_count"] == u32(N_EXPERTS) and metadata[
        f"{family}.expert_used_count"
    ] == u32(2)
    assert metadata.get("qwen3moe.expert_feed_forward_length") == (
        u32(WIDE) if family == "qwen3moe" else None
    )
    assert metadata["general.size_label"].value.startswith(f"{N_EXPERTS}x")


@pytest.mark.parametrize("kind", ["bf16", "q8_0", "q5_0", "q4_k_m"])
def test_pieces_do_not_end_where_experts_end(tmp_path: Path, kind: str) -> None:
    """Whatever the memory, and whether a tile lies in one expert or in several: the same file."""
    tensors = checkpoint(tmp_path / "checkpoint", "qwen3moe", dtype="bfloat16")
    conversion.convert(tmp_path / "checkpoint", tmp_path / "one.gguf", type=kind, threads=1)
    conversion.convert(
        tmp_path / "checkpoint",
        tmp_path / "small.gguf",
        type=kind,
        threads=3,
        memory_limit=3 * 12 * 512,
        io="pread",
    )
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "small.gguf").read_bytes()
    widened = (stacked(tensors, "qwen3moe", 1, "up").astype(np.uint32) << 16).view(np.float32)
    name, shape, content = tensors_of(tmp_path / "one.gguf")["blk.1.ffn_up_exps.weight"]
    assert content == quantize(widened, name).tobytes() and shape == widened.shape


def test_parts_of_a_tensor() -> None:
    """Every range of a tensor of three sources (one of them empty) is covered once, in order."""
    file = sources.SourceFile(Path("x"), 0, 0)
    parts = tuple(
        sources.SourceTensor(name, FORMATS["f32"], shape, file, 0)
        for name, shape in (("a", (2, 4)), ("b", (0, 4)), ("c", (3, 4)))
    )
    tensor = ModelTensor("x", (5, 4), parts)
    numbered = {"a": range(8), "c": range(8, 20)}
    for first in range(20):
        for last in range(first, 21):
            found = [
                numbered[source.name][i]
                for source, start, stop in tensor.parts(first, last)
                for i in range(start, stop)
            ]
            assert found == list(range(first, last))


def remove(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def replace(name: str, array: NDArray[Any]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: array})


EXPERT = "model.layers.1.block_sparse_moe.experts"
BROKEN: dict[str, tuple[str, str, Callable[[Tensors], object]]] = {
    "an expert is missing": ("M-010", "expert 3 is missing", remove(f"{EXPERT}.3.w2.weight")),
    "the router is missing": (
        "M-010",
        r"blk\.1\.ffn_gate_inp",
        remove("model.layers.1.block_sparse_moe.gate.weight"),
    ),
    "an expert too many": (
        "M-011",
        "5 experts",
        replace(f"{EXPERT}.5.w1.weight", np.zeros((WIDE, HIDDEN), np.float32)),
    ),
    "an expert of another shape": (
        "M-012",
        r"expected \[96, 64\]",
        replace(f"{EXPERT}.2.w1.weight", np.zeros((HIDDEN, WIDE), np.float32)),
    ),
    "an expert twice": (
        "M-011",
        "5 experts",
        replace(f"{EXPERT}.02.w1.weight", np.zeros((WIDE, HIDDEN), np.float32)),
    ),
    "an expert of another dtype": (
        "M-015",
        "different dtypes",
        replace(f"{EXPERT}.2.w1.weight", np.zeros((WIDE, HIDDEN), np.float16)),
    ),
}


@pytest.mark.parametrize(("rule", "message", "change"), BROKEN.values(), ids=BROKEN)
def test_broken_mixtures(
    tmp_path: Path, rule: str, message: str, change: Callable[[Tensors], object]
) -> None:
    checkpoint(tmp_path / "checkpoint", "llama", change)
    with pytest.raises(InvalidError, match=message) as caught:
        conversion.prepare(tmp_path / "checkpoint")
    assert caught.value.finding.rule == rule


def test_a_bad_weight_is_named_by_its_place_in_the_stack(tmp_path: Path) -> None:
    bad = np.zeros((WIDE, HIDDEN), np.float32)
    bad[7, 9] = np.nan
    checkpoint(tmp_path / "checkpoint", "llama", replace(f"{EXPERT}.4.w3.weight", bad))
    with pytest.raises(InvalidError, match=r"'blk\.1\.ffn_up_exps\.weight' holds nan at index \[4, 7, 9\]"):
        conversion.convert(tmp_path / "checkpoint", tmp_path / "out.gguf", type="q8_0")
