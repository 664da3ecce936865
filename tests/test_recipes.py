"""The rule table: cases read off llama-quantize's rules, one per rule and edge."""

from __future__ import annotations

from functools import partial

import pytest

from gguflow.blocks import FORMATS
from gguflow.errors import UnknownFormatError
from gguflow.recipes import RECIPES, ModelFacts, TensorFacts, choose, resolve

LLAMA_1B = ModelFacts("llama", n_layers=16, n_heads=32, n_kv_heads=8)
LLAMA_70B = ModelFacts("llama", n_layers=80, n_heads=64, n_kv_heads=8)
MHA = ModelFacts("llama", n_layers=32, n_heads=32, n_kv_heads=32)
MIXTRAL = ModelFacts("llama", n_layers=32, n_heads=32, n_kv_heads=8, n_experts=8)
FALCON = ModelFacts("falcon", n_layers=32, n_heads=71, n_kv_heads=1)


def model_tensors(facts: ModelFacts, row: int = 2048, tied: bool = False, source: str = "bf16") -> list[TensorFacts]:
    """A dense model of these proportions, in no particular order."""
    names = ["token_embd.weight", "output_norm.weight"] + ([] if tied else ["output.weight"])
    for i in reversed(range(facts.n_layers)):
        kinds = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "attn_norm")
        names += [f"blk.{i}.{kind}.weight" for kind in kinds] + [f"blk.{i}.attn_q.bias"]
    return [TensorFacts(n, (row,) if n.endswith(("norm.weight", "bias")) else (64, row), FORMATS[source]) for n in names]


def layers(recipe: str, facts: ModelFacts, kind: str) -> list[str]:
    """The format of blk.0.kind, blk.1.kind, ..."""
    chosen = choose(resolve(recipe), model_tensors(facts), facts)
    return [chosen[f"blk.{i}.{kind}.weight"].format.key for i in range(facts.n_layers)]


def test_q4_k_m_raises_the_layers_that_cost_most() -> None:
    expected = ["q6_k" if i in (0, 1, 4, 7, 10, 13, 14, 15) else "q4_k" for i in range(16)]
    assert layers("q4_k_m", LLAMA_1B, "attn_v") == layers("q4_k_m", LLAMA_1B, "ffn_down") == expected
    assert layers("q5_k_m", LLAMA_1B, "ffn_down") == [kind.replace("q4", "q5") for kind in expected]
    assert set(layers("q4_k_m", LLAMA_1B, "attn_q")) == {"q4_k"}


CASES: dict[str, tuple[str, ModelFacts, str, dict[int, str]]] = {
    "q4_k_s attn_v, the first four": ("q4_k_s", LLAMA_1B, "attn_v", {0: "q5_k", 3: "q5_k", 4: "q4_k"}),
    "q4_k_s ffn_down, the first eighth": ("q4_k_s", LLAMA_1B, "ffn_down", {0: "q5_k", 1: "q5_k", 2: "q4_k"}),
    "q4_k_s ffn_down of falcon": ("q4_k_s", FALCON, "ffn_down", {0: "q4_k"}),
    "q4_k_m ffn_down of falcon": ("q4_k_m", FALCON, "ffn_down", {0: "q6_k", 1: "q6_k", 2: "q5_k", 4: "q4_k", 6: "q5_k"}),
    "q2_k attn_v with shared heads": ("q2_k", LLAMA_1B, "attn_v", {0: "q4_k"}),
    "q2_k attn_v without": ("q2_k", MHA, "attn_v", {0: "q3_k"}),
    "q2_k attn_output": ("q2_k", MHA, "attn_output", {0: "q3_k"}),
    "q2_k_s ffn_down": ("q2_k_s", MHA, "ffn_down", {3: "q4_k", 4: "q2_k"}),
    "q3_k_m attn_v": ("q3_k_m", MHA, "attn_v", {1: "q5_k", 2: "q4_k"}),
    "q3_k_m ffn_down": ("q3_k_m", MHA, "ffn_down", {1: "q5_k", 2: "q4_k"}),
    "q3_k_m ffn_down of falcon": ("q3_k_m", FALCON, "ffn_down", {1: "q5_k", 2: "q4_k", 4: "q3_k"}),
    "q3_k_l attn_output": ("q3_k_l", MHA, "attn_output", {0: "q5_k"}),
    "q3_k_l attn_output of falcon": ("q3_k_l", FALCON, "attn_output", {0: "q4_k"}),
    "q5_k_s is all base": ("q5_k_s", LLAMA_1B, "ffn_down", {0: "q5_k", 15: "q5_k"}),
    "70B attn_v": ("q4_k_s", LLAMA_70B, "attn_v", {0: "q5_k", 50: "q5_k"}),
    "70B attn_q": ("q4_k_s", LLAMA_70B, "attn_q", {50: "q4_k"}),
    "eight experts attn_v": ("q4_k_m", MIXTRAL, "attn_v", {0: "q8_0", 9: "q8_0"}),
    "eight experts attn_k": ("q5_k_m", MIXTRAL, "attn_k", {0: "q8_0"}),
    "eight experts attn_output": ("q4_k_m", MIXTRAL, "attn_output", {9: "q5_k"}),
    "eight experts attn_output, not raised": ("q3_k_l", MIXTRAL, "attn_output", {9: "q3_k"}),
    "iq4_xs attn_v with shared heads": ("iq4_xs", LLAMA_1B, "attn_v", {9: "q5_k"}),
    "iq4_xs ffn_down": ("iq4_xs", LLAMA_1B, "ffn_down", {1: "q5_k", 2: "iq4_xs"}),
    "a block format is pure": ("q4_k", LLAMA_1B, "ffn_down", {0: "q4_k"}),
}


@pytest.mark.parametrize(("recipe", "facts", "kind", "expected"), CASES.values(), ids=CASES)
def test_rules(recipe: str, facts: ModelFacts, kind: str, expected: dict[int, str]) -> None:
    chosen = layers(recipe, facts, kind)
    assert {i: chosen[i] for i in expected} == expected


def one(recipe: str, name: str, shape: tuple[int, ...], source: str = "bf16", facts: ModelFacts = LLAMA_1B, tied: bool = False) -> str:
    """The format of one tensor beside an output matrix (or none)."""
    others = [] if tied or name == "output.weight" else [TensorFacts("output.weight", (4, 256), FORMATS[source])]
    return choose(resolve(recipe), [TensorFacts(name, shape, FORMATS[source]), *others], facts)[name].format.key


SINGLE: dict[str, tuple[partial[str], str]] = {
    "output": (partial(one, "q4_k_m", "output.weight", (9, 256)), "q6_k"),
    "output of q8_0": (partial(one, "q8_0", "output.weight", (9, 256)), "q8_0"),
    "output of an odd width": (partial(one, "q4_k_m", "output.weight", (9, 96)), "q8_0"),
    "output of falcon": (partial(one, "q4_k_m", "output.weight", (9, 256), facts=FALCON), "q8_0"),
    "embeddings": (partial(one, "q4_k_m", "token_embd.weight", (9, 256)), "q4_k"),
    "embeddings tied to the output": (partial(one, "q4_k_m", "token_embd.weight", (9, 256), tied=True), "q6_k"),
    "embeddings in a pure format": (partial(one, "q4_k", "token_embd.weight", (9, 256), tied=True), "q4_k"),
    "vector": (partial(one, "q4_k_m", "output_norm.weight", (256,)), "f32"),
    "bias": (partial(one, "q4_k_m", "blk.0.attn_q.bias", (256,)), "f32"),
    "vector for f16": (partial(one, "f16", "blk.0.attn_q.bias", (256,)), "f32"),
    "matrix that is a norm": (partial(one, "q4_k_m", "blk.0.attn_q_norm.weight", (4, 256)), "f32"),
    "matrix without .weight": (partial(one, "q4_k_m", "x.scales", (4, 256)), "f32"),
    "positions": (partial(one, "q8_0", "position_embd.weight", (512, 384)), "f32"),
    "token types": (partial(one, "f16", "token_types.weight", (2, 384)), "f32"),
    "router": (partial(one, "q4_k_m", "blk.0.ffn_gate_inp.weight", (8, 256)), "f32"),
    "one row counts as a vector": (partial(one, "q4_k_m", "x.weight", (1, 256), source="f16"), "f16"),
    "row of 384 for q4_k": (partial(one, "q4_k_m", "blk.0.attn_q.weight", (4, 384)), "q5_0"),
    "row of 384 for q5_k": (partial(one, "q5_k_m", "blk.0.attn_q.weight", (4, 384)), "q5_1"),
    "row of 384 for q6_k": (partial(one, "q6_k", "blk.0.attn_q.weight", (4, 384)), "q8_0"),
    "row of 384 for q3_k": (partial(one, "q3_k_s", "blk.0.attn_q.weight", (4, 384)), "q4_0"),
    "row of 384 for iq4_xs": (partial(one, "iq4_xs", "blk.0.attn_q.weight", (4, 384)), "iq4_nl"),
    "row of 40": (partial(one, "q4_k_m", "blk.0.attn_q.weight", (4, 40)), "f16"),
    "row of 40 for q8_0": (partial(one, "q8_0", "blk.0.attn_q.weight", (4, 40)), "f16"),
}


@pytest.mark.parametrize(("found", "expected"), SINGLE.values(), ids=SINGLE)
def test_single_tensors(found: partial[str], expected: str) -> None:
    assert found() == expected


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_can_be_followed(recipe: str) -> None:
    """All its formats exist, every tensor gets one, and says why."""
    for facts in (LLAMA_1B, LLAMA_70B, MHA, MIXTRAL, FALCON):
        tensors = model_tensors(facts)
        chosen = choose(resolve(recipe), tensors, facts)
        assert set(chosen) == {tensor.name for tensor in tensors}
        assert all(choice.rule for choice in chosen.values())


def test_names() -> None:
    assert resolve("Q4_K_M") is RECIPES["q4_k_m"]
    assert resolve("q5_k").is_pure and not resolve("q5_0").is_pure
    with pytest.raises(UnknownFormatError, match=r"unknown type 'q4_k_x'; known: .*q4_k_m"):
        resolve("q4_k_x")
