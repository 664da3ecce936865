"""The forward pass: logits and best tokens are llama.cpp's, and the cache changes nothing."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import gguflow
from gguflow.container.header import parse
from gguflow.container.metadata import Value, ValueType
from gguflow.container.writer import build
from gguflow.editing import edit, parse_assignment
from gguflow.errors import GguflowError, InvalidError, NonFiniteError, UnsupportedError, UsageError
from gguflow.inference.attention import attend
from gguflow.inference.tokenizer import Tokenizer
from gguflow.inference.transformer import Transformer
from testing.checkpoints import TINY
from testing.experts import checkpoint as mixture
from testing.llama_library import Llama
from testing.random_models import VARIATIONS, random_model

Floats = NDArray[np.float32]

TOKENS = [(7 * i * i + 3 * i) % 24 for i in range(48)]
"""Of the random models' 24."""


def logits_of(
    path: Path, tokens: list[int], cache: str = "f16", pieces: int = 1, activations: str = "float32"
) -> Floats:
    """After every token, the tokens read in so many pieces."""
    with gguflow.open(path) as model:
        transformer = Transformer(model, activations=activations)
        kept = transformer.cache(len(tokens), cache)
        return np.concatenate(
            [
                transformer.forward(piece.tolist(), kept, len(piece))
                for piece in np.array_split(np.asarray(tokens), pieces)
            ]
        )


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("variation", VARIATIONS)
def test_logits_are_those_of_llama_cpp(tmp_path: Path, variation: str) -> None:
    """In binary32 throughout, so that nothing is left but the order of sums."""
    path = random_model(tmp_path / "model", variation)
    with Llama(path, cache="f32") as theirs:
        expected = theirs.logits(TOKENS)
    found = logits_of(path, TOKENS, "f32")
    assert np.abs(found - expected).max() < 3e-5 * expected.std()


def test_a_scaling_of_rope_changes_the_logits(tmp_path: Path) -> None:
    """Else the test above would show nothing about it."""
    found = [
        logits_of(random_model(tmp_path / str(i), name), TOKENS)
        for i, name in enumerate(VARIATIONS)
        if name == "llama" or "rope" in name
    ]
    found = found[:-1]  # qwen3 has other weights
    for other in found[1:]:
        assert np.abs(other - found[0]).max() > 0.1 * found[0].std()


@pytest.mark.parametrize("pieces", [2, 5, 48])
@pytest.mark.parametrize("cache", ["f16", "q8_0"])
def test_reading_in_pieces_changes_nothing(tmp_path: Path, pieces: int, cache: str) -> None:
    path = (
        random_model(tmp_path, "qwen3, norms of heads")
        if cache == "f16"
        else gguflow.convert(TINY, tmp_path / "tiny.gguf", type="q8_0").output
    )
    whole = logits_of(path, TOKENS, cache)
    np.testing.assert_allclose(logits_of(path, TOKENS, cache, pieces), whole, atol=2e-3 * whole.std())


@pytest.fixture(scope="module", params=["f16", "q8_0", "q4_k_m"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguflow.convert(
        TINY, tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf", type=request.param
    ).output


@pytest.mark.parametrize("activations", ["float32", "int8"])
def test_best_tokens_are_those_of_llama_cpp(tiny: Path, activations: str) -> None:
    """Where they differ, both nearly tie. tools/compare runtime does the same at 2,000 positions."""
    with gguflow.open(tiny) as model:
        tokens = Tokenizer(model.metadata, model.path).encode(
            (TINY / "heldout.txt").read_text(encoding="utf-8")[:2000]
        )[:400]
    with Llama(tiny) as llama_cpp:
        theirs = llama_cpp.logits(tokens)
    ours = logits_of(tiny, tokens, activations=activations)
    differ = np.flatnonzero(ours.argmax(axis=-1) != theirs.argmax(axis=-1))
    assert len(differ) <= (0.01 if tiny.stem == "f16" else 0.02) * len(tokens)
    for i in differ:
        assert theirs[i].max() - theirs[i, ours[i].argmax()] < 0.05 * theirs[i].std(), "no near-tie"


@pytest.mark.parametrize(("n_heads", "n_kv_heads"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize(("n", "length"), [(1, 1), (1, 7), (5, 5), (3, 9)])
def test_attention_by_its_formula(n: int, length: int, n_heads: int, n_kv_heads: int) -> None:
    rng = np.random.default_rng(n)
    q, k, v = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in ((n, n_heads, 8), (length, n_kv_heads, 8), (length, n_kv_heads, 8))
    )
    found = attend(q, k, v)
    for t in range(n):
        seen = length - n + t + 1
        for head in range(n_heads):
            shared = head // (n_heads // n_kv_heads)
            weights = np.exp(k[:seen, shared] @ q[t, head] / np.sqrt(8))
            np.testing.assert_allclose(
                found[t, head], weights @ v[:seen, shared] / weights.sum(), rtol=1e-4, atol=1e-5
            )


def test_memory_is_that_of_the_map(tmp_path: Path) -> None:
    """No tensor is decoded as a whole: of the embedding matrix, the rows of the tokens."""
    path = random_model(tmp_path)
    with gguflow.open(path) as model:
        transformer = Transformer(model)
        embedding = model["token_embd.weight"]
        asked: list[int] = []
        decode = embedding.dequantize

        def watched(rows: NDArray[np.int64]) -> Floats:
            asked.extend(rows.tolist())
            return decode(rows=rows)

        embedding.dequantize = watched  # type: ignore[assignment, method-assign]
        transformer.forward([3, 5, 3], transformer.cache(3), 1)
    assert asked == [3, 5]


def test_a_cache_in_q8_0_is_smaller(tmp_path: Path) -> None:
    with gguflow.open(gguflow.convert(TINY, tmp_path / "tiny.gguf", type="q8_0").output) as model:
        transformer = Transformer(model)
        f16, q8_0 = (transformer.cache(100, name).nbytes for name in ("f16", "q8_0"))
    assert f16 == 2 * 8 * 100 * 128 * 2
    assert q8_0 == 2 * 8 * 100 * 128 * 34 // 32


def test_what_is_refused(llama: Path) -> None:
    with gguflow.open(llama) as model:
        transformer = Transformer(model)
        for wrong, message in (
            (lambda: transformer.cache(4, "q4_0"), "f16, q8_0, f32"),
            (lambda: transformer.cache(4, "q8_0"), "heads of 8"),
            (lambda: transformer.cache(2**50), "no memory"),
            (lambda: transformer.cache(2**62), "no memory"),
            (lambda: transformer.forward([1, 24], transformer.cache(4), 1), "token 24 is outside"),
            (lambda: transformer.forward([-1], transformer.cache(4), 1), "token -1 is outside"),
            (lambda: transformer.forward([1] * 5, transformer.cache(4), 1), "room for 4"),
            (lambda: transformer.read([], transformer.cache(4)), "no tokens to read"),
        ):
            with pytest.raises(UsageError, match=message):
                wrong()


REFUSED = {
    "another architecture": ("general.architecture=str:unheard-of", "X-001"),
    "half rotated": ("llama.rope.dimension_count=u32:4", "X-002"),
    "not causal": ("llama.attention.causal=bool:false", "X-002"),
    "another scaling of rope": ("llama.rope.scaling.type=str:longrope", "X-003"),
}


@pytest.mark.parametrize(("assignment", "rule"), REFUSED.values(), ids=REFUSED)
def test_models_that_are_refused(llama: Path, tmp_path: Path, assignment: str, rule: str) -> None:
    changed = edit(llama, [parse_assignment(assignment)], [], output=tmp_path / "changed.gguf").output
    with gguflow.open(changed) as model, pytest.raises(UnsupportedError) as caught:
        Transformer(model)
    assert caught.value.finding.rule == rule
    assert assignment.split("=")[0] in caught.value.finding.path


def test_a_mixture_of_experts_is_refused(tmp_path: Path) -> None:
    mixture(tmp_path / "checkpoint", "llama")
    gguflow.convert(tmp_path / "checkpoint", tmp_path / "model.gguf", type="f16")
    with gguflow.open(tmp_path / "model.gguf") as model, pytest.raises(UnsupportedError) as caught:
        Transformer(model)
    assert caught.value.finding.rule == "X-002"
    assert "llama.expert_count" in caught.value.finding.path


OUT_OF_RANGE = (
    "llama.rope.freq_base=f32:1",
    "llama.rope.freq_base=str:10000",
    "llama.rope.scaling.factor=f32:-2",
    "llama.rope.scaling.attn_factor=f32:0",
    "llama.attention.layer_norm_rms_epsilon=f32:nan",
)


@pytest.mark.parametrize("assignment", OUT_OF_RANGE)
def test_numbers_out_of_range(llama: Path, assignment: str) -> None:
    kind, _, text = assignment.partition("=")[2].partition(":")
    key = assignment.partition("=")[0]
    with gguflow.open(llama) as model:
        model.metadata = dict(model.metadata) | {key: float(text) if kind == "f32" else text}  # type: ignore[assignment]
        with pytest.raises(InvalidError) as caught:
            Transformer(model)
    assert caught.value.finding.rule == "X-004"
    assert key in caught.value.finding.path


@pytest.mark.parametrize(
    "factors", [[1.0] * 3, [1.0] * 5, [1.0, 1.0, 0.0, 1.0], [1.0, 1.0, math.nan, 1.0]], ids=str
)
def test_factors_of_rope_that_are_refused(tmp_path: Path, factors: list[float]) -> None:
    """The file has four, for heads of 8."""
    path = random_model(tmp_path, "llama, llama3 rope")
    content = path.read_bytes()
    old = parse(content, str(path))
    infos = [
        replace(info, dims=(len(factors),)) if info.name == "rope_freqs.weight" else info
        for info in old.tensors
    ]
    metadata = {key: value for key, value in old.metadata.items() if not key.startswith("gguflow.")}
    data = bytearray(content[old.data_offset :])
    at = next(info.offset for info in infos if info.name == "rope_freqs.weight")
    data[at : at + 4 * len(factors)] = np.array(factors, np.float32).tobytes()
    path.write_bytes(build(metadata, infos) + bytes(data))
    with gguflow.open(path) as model, pytest.raises(InvalidError, match="X-004"):
        Transformer(model)


def test_infinity_is_an_error(tmp_path: Path) -> None:
    """Keys beyond F16 do not fit the cache."""
    path = random_model(tmp_path)
    content = bytearray(path.read_bytes())
    with gguflow.open(path) as model:
        at = model["blk.0.attn_norm.weight"].offset
    content[at : at + 4] = np.float32(1e30).tobytes()
    path.write_bytes(content)
    with pytest.raises(NonFiniteError):
        logits_of(path, TOKENS)


def test_the_specification_has_the_rules_that_the_code_has() -> None:
    root = Path(__file__).resolve().parents[2]
    in_text = set(
        re.findall(
            r"^\| (E-\d{3}) \|", (root / "spec" / "inference.md").read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    sources, tests = (
        "\n".join(path.read_text(encoding="utf-8") for path in directory.glob("*.py"))
        for directory in (root / "src" / "gguflow" / "inference", Path(__file__).parent)
    )
    assert in_text == set(re.findall(r'"(E-\d{3})"', sources)) == set(re.findall(r'"(E-\d{3})"', tests))


NASTY = {
    "a string": Value(ValueType.STRING, "x"),
    "zero": Value(ValueType.UINT32, 0),
    "one": Value(ValueType.UINT32, 1),
    "the largest": Value(ValueType.UINT32, 2**32 - 1),
    "below zero": Value(ValueType.INT32, -1),
    "not a number": Value(ValueType.FLOAT32, math.nan),
    "a float": Value(ValueType.FLOAT32, -0.5),
    "yes": Value(ValueType.BOOL, True),
    "strings": Value(ValueType.ARRAY, ["a"] * 24, ValueType.STRING),
    "numbers": Value(ValueType.ARRAY, [2, 2], ValueType.UINT32),
    "many numbers": Value(ValueType.ARRAY, [1] * 100, ValueType.INT32),
    "nothing": Value(ValueType.ARRAY, [], ValueType.FLOAT32),
}
MORE_KEYS = (
    *(
        f"llama.rope.scaling.{name}"
        for name in (
            "factor",
            "attn_factor",
            "original_context_length",
            "yarn_ext_factor",
            "yarn_attn_factor",
        )
    ),
    *(f"llama.rope.scaling.{name}" for name in ("yarn_beta_fast", "yarn_beta_slow")),
    *(
        "llama.rope.scale_linear",
        "llama.expert_count",
        "llama.nextn_predict_layers",
        "llama.attention.value_length",
        "llama.attention.causal",
    ),
    *(
        "tokenizer.ggml.add_bos_token",
        "tokenizer.ggml.add_eos_token",
        "tokenizer.ggml.add_space_prefix",
        "tokenizer.ggml.scores",
    ),
    *("tokenizer.ggml.eot_token_id", "tokenizer.ggml.merges"),
)


@pytest.mark.parametrize("nasty", NASTY.values(), ids=NASTY)
def test_hostile_metadata_gives_typed_errors(tmp_path: Path, nasty: Value) -> None:
    """Every key of a model, and those that it might have, with a value that it must not have; or must, then
    the model runs.
    """
    path = random_model(tmp_path / "model", "llama, yarn rope")
    content = path.read_bytes()
    old = parse(content, str(path))
    ran, refused = 0, 0
    for key in (*old.metadata, *MORE_KEYS):
        metadata = {k: v for k, v in old.metadata.items() if not k.startswith("gguflow.")} | {key: nasty}
        if key in ("general.alignment", "general.architecture") or key.startswith("gguflow."):
            continue
        path.write_bytes(build(metadata, old.tensors) + content[old.data_offset :])
        try:
            with gguflow.open(path) as model:
                tokenizer, transformer = Tokenizer(model.metadata, model.path), Transformer(model)
                transformer.read([*tokenizer.encode("a b"), 1], transformer.cache(16))
                ran += 1
        except GguflowError:
            refused += 1
    assert ran
    assert refused
