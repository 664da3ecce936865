"""The rules: llama-quantize's own answers for models of many shapes, and cases of our own, one per rule and
edge.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gguflow import models
from gguflow.blocks import FORMATS
from gguflow.cli import main
from gguflow.container.header import TensorInfo
from gguflow.container.metadata import string, u32
from gguflow.container.writer import build
from gguflow.conversion.plan import make
from gguflow.errors import UnknownFormatError, UsageError
from gguflow.recipes import RECIPES, Choice, ModelFacts, Options, TensorFacts, choose, resolve
from gguflow.recipes.conditions import CONDITIONS
from gguflow.recipes.table import KINDS
from gguflow.sources import open_checkpoint
from testing.checkpoints import TINY
from testing.recipe_tables import SHAPES, Shape, cases, our_table, read_tables

LLAMA_1B = ModelFacts("llama", n_layers=16, n_heads=32, n_kv_heads=8)
LLAMA_70B = ModelFacts("llama", n_layers=80, n_heads=64, n_kv_heads=8)
MHA = ModelFacts("llama", n_layers=32, n_heads=32, n_kv_heads=32)
MIXTRAL = ModelFacts("llama", n_layers=32, n_heads=32, n_kv_heads=8, n_experts=8)
FALCON = ModelFacts("falcon", n_layers=32, n_heads=71, n_kv_heads=1)


def model_tensors(
    facts: ModelFacts, row: int = 2048, tied: bool = False, source: str = "bf16"
) -> list[TensorFacts]:
    """A dense model of these proportions, in no particular order."""
    names = ["token_embd.weight", "output_norm.weight"] + ([] if tied else ["output.weight"])
    for i in reversed(range(facts.n_layers)):
        kinds = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "attn_norm")
        names += [f"blk.{i}.{kind}.weight" for kind in kinds] + [f"blk.{i}.attn_q.bias"]
    return [
        TensorFacts(n, (row,) if n.endswith(("norm.weight", "bias")) else (64, row), FORMATS[source])
        for n in names
    ]


def layers(recipe: str, facts: ModelFacts, kind: str) -> list[str]:
    """The format of blk.0.kind, blk.1.kind, ..."""
    chosen = choose(resolve(recipe), model_tensors(facts), facts)
    return [chosen[f"blk.{i}.{kind}.weight"].format.key for i in range(facts.n_layers)]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_every_recipe_is_llama_quantize_s(shape: Shape) -> None:
    """tools/compare recipes wrote what llama-quantize chose for every tensor, by every recipe, with
    importance, without, and with options.
    """
    tables = read_tables(shape)
    different = [
        case.key
        for case in cases(shape)
        if our_table(shape, case) != (tables.get(case.key) or tables[case.key.removesuffix(" --imatrix")])
    ]
    assert not different


def test_the_table_uses_all_of_its_language_and_nothing_else() -> None:
    """A misspelt condition would show only in the models that it is meant for."""
    rules = [rule for recipe in RECIPES.values() for kind in (*KINDS, "") for rule in recipe.options(kind)]
    words = {term.removeprefix("not ") for _, condition in rules for term in condition.split(" and ") if term}
    assert words == set(CONDITIONS)
    assert {name for name, _ in rules} <= set(FORMATS)


def test_q4_k_m_raises_the_layers_that_cost_most() -> None:
    expected = ["q6_k" if i in (0, 1, 4, 7, 10, 13, 14, 15) else "q4_k" for i in range(16)]
    assert layers("q4_k_m", LLAMA_1B, "attn_v") == layers("q4_k_m", LLAMA_1B, "ffn_down") == expected
    assert layers("q5_k_m", LLAMA_1B, "ffn_down") == [kind.replace("q4", "q5") for kind in expected]
    assert set(layers("q4_k_m", LLAMA_1B, "attn_q")) == {"q4_k"}


CASES: dict[str, tuple[str, ModelFacts, str, dict[int, str]]] = {
    "q4_k_s attn_v, the first four": ("q4_k_s", LLAMA_1B, "attn_v", {0: "q5_k", 3: "q5_k", 4: "q4_k"}),
    "q4_k_s ffn_down, the first eighth": ("q4_k_s", LLAMA_1B, "ffn_down", {0: "q5_k", 1: "q5_k", 2: "q4_k"}),
    "q4_k_s ffn_down of falcon": ("q4_k_s", FALCON, "ffn_down", {0: "q4_k"}),
    "q4_k_m ffn_down of falcon": (
        "q4_k_m",
        FALCON,
        "ffn_down",
        {0: "q6_k", 1: "q6_k", 2: "q5_k", 4: "q4_k", 6: "q5_k"},
    ),
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


def one(
    recipe: str,
    name: str,
    shape: tuple[int, ...],
    source: str = "bf16",
    facts: ModelFacts = LLAMA_1B,
    tied: bool = False,
) -> str:
    """The format of one tensor beside an output matrix (or none)."""
    others = (
        [] if tied or name == "output.weight" else [TensorFacts("output.weight", (4, 256), FORMATS[source])]
    )
    return choose(resolve(recipe), [TensorFacts(name, shape, FORMATS[source]), *others], facts)[
        name
    ].format.key


SINGLE: dict[str, tuple[partial[str], str]] = {
    "output": (partial(one, "q4_k_m", "output.weight", (9, 256)), "q6_k"),
    "output of q8_0": (partial(one, "q8_0", "output.weight", (9, 256)), "q8_0"),
    "output of an odd width": (partial(one, "q4_k_m", "output.weight", (9, 96)), "q8_0"),
    "output of falcon": (partial(one, "q4_k_m", "output.weight", (9, 256), facts=FALCON), "q8_0"),
    "embeddings": (partial(one, "q4_k_m", "token_embd.weight", (9, 256)), "q4_k"),
    "embeddings tied to the output": (
        partial(one, "q4_k_m", "token_embd.weight", (9, 256), tied=True),
        "q6_k",
    ),
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
    "routing table of integers": (
        partial(one, "q4_k_m", "blk.0.ffn_gate_tid2eid.weight", (4, 256), source="i32"),
        "i32",
    ),
    "vector of integers": (partial(one, "q4_k_m", "x", (4,), source="i64"), "i64"),
    "stacked experts for mxfp4_moe": (
        partial(one, "mxfp4_moe", "blk.0.ffn_up_exps.weight", (4, 4, 256)),
        "mxfp4",
    ),
    "other matrix for mxfp4_moe": (partial(one, "mxfp4_moe", "blk.0.attn_q.weight", (4, 256)), "q8_0"),
    "stacked, not experts, of bailingmoe3": (
        partial(
            one,
            "mxfp4_moe",
            "blk.0.attn_k_b.weight",
            (4, 4, 256),
            facts=ModelFacts("bailingmoe3", n_layers=4),
        ),
        "q8_0",
    ),
    "glm5-next, never coarser": (
        partial(one, "q4_k_m", "blk.0.attn_q_a.weight", (4, 256), facts=ModelFacts("glm5-next", n_layers=4)),
        "q8_0",
    ),
    "glm5-next, never quantized": (
        partial(one, "q4_k_m", "blk.0.hc_attn.weight", (4, 256), facts=ModelFacts("glm5-next", n_layers=4)),
        "bf16",
    ),
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


def with_options(
    recipe: str, facts: ModelFacts = LLAMA_1B, tied: bool = False, row: int = 2048, **options: Any
) -> dict[str, Choice]:
    return choose(resolve(recipe), model_tensors(facts, row, tied), facts, Options(**options))


def test_a_named_tensor_does_not_count() -> None:
    """Without the first two, the others move up: the third attn_v is the first of those that are raised."""
    chosen = with_options("q4_k_s", tensor_types=(r"blk\.[01]\.ATTN_V=q8_0",))
    assert [chosen[f"blk.{i}.attn_v.weight"].format.key for i in range(7)] == [
        "q8_0",
        "q8_0",
        "q5_k",
        "q5_k",
        "q5_k",
        "q5_k",
        "q4_k",
    ]
    assert chosen["blk.1.attn_v.weight"].rule == r"--tensor-type blk\.[01]\.ATTN_V"


OPTIONS: dict[str, tuple[partial[dict[str, Choice]], str, str, str]] = {
    "pure": (partial(with_options, "q4_k_m", pure=True), "output.weight", "q4_k", "base"),
    "the first pattern decides": (
        partial(with_options, "q4_k_m", tensor_types=("attn=q8_0", "attn_v=q2_k")),
        "blk.3.attn_v.weight",
        "q8_0",
        "--tensor-type",
    ),
    "output": (
        partial(with_options, "q4_k_m", output_tensor_type="Q8_0"),
        "output.weight",
        "q8_0",
        "--output-tensor-type",
    ),
    "output beats pattern": (
        partial(with_options, "q4_k_m", output_tensor_type="f16", tensor_types=("output=q8_0",)),
        "output.weight",
        "f16",
        "--output",
    ),
    "output, tied": (
        partial(with_options, "q4_k_m", tied=True, output_tensor_type="q5_0"),
        "token_embd.weight",
        "q5_0",
        "tied",
    ),
    "output, tied, in a pure one": (
        partial(with_options, "q4_k", tied=True, output_tensor_type="q5_0"),
        "token_embd.weight",
        "q4_k",
        "base",
    ),
    "embeddings": (
        partial(with_options, "q4_k_m", token_embedding_type="iq4_nl"),
        "token_embd.weight",
        "iq4_nl",
        "--token-embedding-type",
    ),
    "embeddings of f16": (
        partial(with_options, "f16", token_embedding_type="q8_0"),
        "token_embd.weight",
        "q8_0",
        "--token-embedding-type",
    ),
    "output left": (
        partial(with_options, "q4_k_m", leave_output_tensor=True),
        "output.weight",
        "bf16",
        "--leave-output-tensor",
    ),
    "a pattern that does not fit": (
        partial(with_options, "q8_0", row=96, tensor_types=("attn_k=q6_k",)),
        "blk.0.attn_k.weight",
        "q8_0",
        "Q6_K blocks of 256",
    ),
    "a pattern for norms": (
        partial(with_options, "q8_0", tensor_types=("norm=q6_k",)),
        "output_norm.weight",
        "f32",
        "stay",
    ),
}


@pytest.mark.parametrize(("chosen", "name", "expected", "rule"), OPTIONS.values(), ids=OPTIONS)
def test_options(chosen: partial[dict[str, Choice]], name: str, expected: str, rule: str) -> None:
    choice = chosen()[name]
    assert choice.format.key == expected
    assert rule in choice.rule


def test_embeddings_per_layer_may_be_named() -> None:
    """--token-embedding-type is for them too, unless --tensor-type names them; the token embeddings
    themselves cannot be named away.
    """
    tensors = [
        TensorFacts(name, (4, 256), FORMATS["bf16"])
        for name in ("token_embd.weight", "per_layer_token_embd.weight", "output.weight")
    ]
    options = Options(token_embedding_type="q8_0", tensor_types=("token_embd=q4_0",))
    chosen = choose(resolve("q4_k_m"), tensors, LLAMA_1B, options)
    assert [chosen[tensor.name].format.key for tensor in tensors] == ["q8_0", "q4_0", "q6_k"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a pattern that matches nothing": (
        {"recipe": "q4_k_m", "tensor_types": ("atn_v=q8_0",)},
        "'atn_v' matches no tensor",
    ),
    "patterns where nothing is quantized": (
        {"recipe": "f16", "tensor_types": ("attn=q8_0",)},
        "with f16 it would have no effect",
    ),
    "embeddings that do not divide": (
        {"recipe": "q8_0", "row": 96, "token_embedding_type": "q6_k"},
        "token_embd.weight have 96 weights",
    ),
    "output that does not divide": (
        {"recipe": "q8_0", "row": 40, "output_tensor_type": "q4_0"},
        "--output-tensor-type: the rows of output.weight",
    ),
    "no substitute": ({"recipe": "q1_0", "row": 96}, "there is no format to replace it"),
    "no equals sign": ({"recipe": "q8_0", "tensor_types": ("attn",)}, "REGEX=FORMAT"),
    "no format": ({"recipe": "q8_0", "tensor_types": ("attn=",)}, "REGEX=FORMAT"),
    "a wrong expression": ({"recipe": "q8_0", "tensor_types": ("attn(=q8_0",)}, "in the regular expression"),
    "a POSIX class by itself": (
        {"recipe": "q8_0", "tensor_types": ("[:digit:]=q8_0",)},
        r"write \[\[:digit:\]\]",
    ),
    "a POSIX class that there is not": (
        {"recipe": "q8_0", "tensor_types": ("[[:digits:]]=q8_0",)},
        r"there is no class \[:digits:\]; known: alnum",
    ),
    "an unknown format": (
        {"recipe": "q8_0", "output_tensor_type": "q4_k_m"},
        "unknown block format 'q4_k_m'; known: .*q4_k",
    ),
    "a format of integers": ({"recipe": "q8_0", "tensor_types": ("attn=i32",)}, "cannot be converted to I32"),
    "override without a type": ({"recipe": "q8_0", "override_kv": ("k=1",)}, "KEY=TYPE:VALUE"),
    "override of an unknown type": ({"recipe": "q8_0", "override_kv": ("k=u8:1",)}, "KEY=TYPE:VALUE"),
    "override, negative": ({"recipe": "q8_0", "override_kv": ("k=int:-1",)}, "from 0 to 4294967295"),
    "override, no number": ({"recipe": "q8_0", "override_kv": ("k=float:x",)}, "is not a number"),
    "override, infinite": ({"recipe": "q8_0", "override_kv": ("k=float:1e39",)}, "finite"),
    "override, no truth": ({"recipe": "q8_0", "override_kv": ("k=bool:1",)}, "true or false"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_options(**arguments)


def test_overrides() -> None:
    options = Options(override_kv=("a.b=int:7", "a.b=int:8", "c=float:0.5", "d=bool:true", "e=str:x=y:z"))
    assert options.overrides == {"a.b": 8, "c": 0.5, "d": True, "e": "x=y:z"}


def test_quantized_sources_are_not_quantized_anew_by_accident() -> None:
    tensors = [
        TensorFacts("output.weight", (4, 256), FORMATS["q6_k"], is_final=True),
        TensorFacts("a.weight", (4, 256), FORMATS["q8_0"], is_final=True),
    ]
    with pytest.raises(
        UsageError,
        match=r"a.weight is Q8_0 already; Q4_K would lose more precision \(--allow-requantize",
    ):
        choose(resolve("q4_k_m"), tensors, LLAMA_1B)
    chosen = choose(resolve("q4_k_m"), tensors, LLAMA_1B, Options(allow_requantize=True))
    assert [choice.format.key for choice in chosen.values()] == ["q4_k", "q6_k"]


def test_f32_is_what_quantized_weights_decode_to() -> None:
    """So it needs no permission for a checkpoint; for a GGUF file it does, as in llama-quantize."""
    of_checkpoint = TensorFacts("a.weight", (4, 256), FORMATS["f32"], is_lossy=True)
    (choice,) = choose(resolve("f32"), [of_checkpoint], LLAMA_1B).values()
    assert choice.format.key == "f32"
    with pytest.raises(UsageError, match="is quantized already; F16 would lose more precision"):
        choose(resolve("f16"), [of_checkpoint], LLAMA_1B)
    of_file = TensorFacts("a.weight", (4, 256), FORMATS["q8_0"], is_final=True)
    with pytest.raises(UsageError, match="is Q8_0 already; F32 regains nothing"):
        choose(resolve("f32"), [of_file], LLAMA_1B)


def test_a_final_source_keeps_what_is_not_quantized() -> None:
    """Of a GGUF file; what a checkpoint has in its place becomes F32."""
    for name, shape in (
        ("output_norm.weight", (256,)),
        ("blk.0.ffn_gate_inp.weight", (8, 256)),
        ("x.scales", (4, 256)),
    ):
        for is_final, expected in ((True, "bf16"), (False, "f32")):
            tensor = TensorFacts(name, shape, FORMATS["bf16"], is_final)
            assert choose(resolve("q8_0"), [tensor], LLAMA_1B)[name].format.key == expected


NEEDS_IMPORTANCE: dict[str, tuple[str, str, bool]] = {
    "iq2_xs": ("iq2_xs", "blk.9.ffn_up.weight", True),
    "iq2_xs, a finer one": ("iq2_xs", "blk.9.attn_v.weight", False),
    "iq1_m": ("iq1_m", "blk.9.ffn_up.weight", True),
    "iq3_xxs": ("iq3_xxs", "blk.9.ffn_up.weight", True),
    "iq3_s": ("iq3_s", "blk.9.ffn_up.weight", False),
    "q2_k in q2_k_s": ("q2_k_s", "blk.9.ffn_up.weight", True),
    "q2_k in q2_k": ("q2_k", "blk.9.ffn_up.weight", False),
    "embeddings of q2_k_s": ("q2_k_s", "token_embd.weight", False),
}


@pytest.mark.parametrize(("recipe", "name", "expected"), NEEDS_IMPORTANCE.values(), ids=NEEDS_IMPORTANCE)
def test_what_is_worth_nothing_without_importance(recipe: str, name: str, expected: bool) -> None:
    assert with_options(recipe)[name].needs_importance is expected


def test_embeddings_too_coarse_for_an_encoder_without_importance() -> None:
    """IQ2_XS has none; IQ2_S has, and embeddings and output may use it."""
    assert with_options("iq2_xs", pure=True)["token_embd.weight"].needs_importance
    assert not with_options("iq2_m", pure=True)["token_embd.weight"].needs_importance


def test_names() -> None:
    assert resolve("Q4_K_M") is RECIPES["q4_k_m"]
    assert resolve("q5_k").is_pure and not resolve("q5_0").is_pure
    with pytest.raises(UnknownFormatError, match=r"unknown type 'q4_k_x'; known: .*q4_k_m"):
        resolve("q4_k_x")
    assert resolve("nvfp4").file_type == 39


def shown_plan(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """What `convert --dry-run --json` prints."""
    assert main(["convert", *map(str, arguments), "--dry-run", "--json"]) == 0
    plan: dict[str, Any] = json.loads(capsys.readouterr().out)
    return plan


def test_options_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "types.txt"
    file.write_text("ffn_up=q5_1\n\n  attn_v=q2_k ffn_gate=f16\n")
    named = [
        "--tensor-type",
        "attn_v=q8_0",
        "--tensor-type-file",
        file,
        "--output-tensor-type",
        "q5_0",
        "--token-embedding-type",
        "bf16",
    ]
    overrides = [
        "--override-kv",
        "llama.context_length=int:64",
        "--override-kv",
        "general.name=str:Renamed",
        "--override-kv",
        "new.key=float:0.1",
    ]
    plan = shown_plan(capsys, TINY, "-t", "q4_k_m", *named, *overrides)
    formats = {tensor["name"]: tensor["format"] for tensor in plan["tensors"]}
    expected = {
        "blk.0.attn_v": "Q8_0",
        "blk.7.ffn_up": "Q5_1",
        "blk.3.ffn_gate": "F16",
        "output": "Q5_0",
        "token_embd": "BF16",
        "blk.2.attn_q": "Q4_K",
    }
    assert {name: formats[f"{name}.weight"] for name in expected} == expected
    metadata = plan["metadata"]
    assert (metadata["llama.context_length"], metadata["general.name"]) == (64, "Renamed")
    assert metadata["new.key"] == pytest.approx(0.1, rel=1e-6)
    assert shown_plan(capsys, TINY, "-t", "q4_k_m", "--pure")["tensors"][-1]["format"] == "Q4_K"
    left = shown_plan(capsys, TINY, "-t", "q4_k_m", "--leave-output-tensor")
    assert (
        next(tensor["rule"] for tensor in left["tensors"] if tensor["name"] == "output.weight")
        == "--leave-output-tensor"
    )


def test_overridden_metadata_is_what_rules_ask() -> None:
    """The plan alone: a conversion would refuse to write a file without the experts that it says it has."""
    model = models.load(open_checkpoint(TINY))
    plan = make(model, resolve("q4_k_m"), Options(override_kv=("llama.expert_count=int:8",)))
    assert {planned.format.name for planned in plan.tensors if "attn_k.weight" in planned.name} == {"Q8_0"}


def test_a_llama_without_shared_heads_is_no_70b(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The oldest files of 65B have no number of key-value heads, which then is that of heads."""
    for kv_heads, expected in ((None, "Q3_K"), (64, "Q3_K"), (8, "Q5_K")):
        keys = {
            "general.architecture": string("llama"),
            "llama.block_count": u32(80),
            "llama.attention.head_count": u32(64),
        }
        keys |= {} if kv_heads is None else {"llama.attention.head_count_kv": u32(kv_heads)}
        file = tmp_path / "model.gguf"
        file.write_bytes(build(keys, [TensorInfo("blk.9.attn_v.weight", (256, 1, 2), 1, 0)]) + bytes(1024))
        assert shown_plan(capsys, file, "-t", "q3_k_s")["tensors"][0]["format"] == expected


def test_explain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = "q4_k_m: attn_v if more_bits (i=0, n=8)"
    assert main(["convert", str(TINY), "--dry-run"]) == 0
    assert rule not in capsys.readouterr().out
    assert main(["convert", str(TINY), "--dry-run", "--explain"]) == 0
    assert rule in capsys.readouterr().out
    assert (
        main(["convert", str(TINY), "-o", str(tmp_path / "out.gguf"), "-t", "q8_0", "--explain", "-q"]) == 0
    )
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'out.gguf'}\n"
    assert captured.err.count("q8_0: base") == len(re.findall("Q8_0", captured.err))


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [(b"attn_v", 2, "REGEX=FORMAT"), (b"\xff\xfe", 2, "not UTF-8"), (None, 4, "no such file")],
    ids=["no format", "not text", "no file"],
)
def test_files_of_types(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, status: int, message: str
) -> None:
    file = tmp_path / "types.txt"
    if content is not None:
        file.write_bytes(content)
    assert main(["convert", str(TINY), "--dry-run", "--tensor-type-file", str(file)]) == status
    assert message in capsys.readouterr().err
