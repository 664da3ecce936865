"""config.json in every layout: rotary embeddings, defaults, the configuration of a text model within another.

What transformers makes of the same files is in fixtures/configurations.json (tools/make_defaults).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gguflow import models
from gguflow.container.metadata import boolean, f32, string, u32
from gguflow.errors import FileError, InvalidError, UnsupportedError, gathered_warnings
from gguflow.models import defaults
from gguflow.models.base import Model
from gguflow.models.configuration import text_configuration
from gguflow.models.documents import Document
from gguflow.models.rope import LLAMA3 as SCALED
from gguflow.models.rope import Rope, rope_metadata
from testing.checkpoints import FIXTURES
from testing.config_layouts import LLAMA3, PLAIN, ROPE, YARN, rope_config
from testing.families import checkpoint, files, shapes

RECORDED: dict[str, Any] = json.loads((FIXTURES / "configurations.json").read_text(encoding="utf-8"))
CURRENT = RECORDED[defaults.VERSIONS[-1]]

CLASSES = {
    "llama": "LlamaForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def configuration(model_type: str, keys: dict[str, Any]) -> Document:
    values = {**rope_config(model_type, keys), "architectures": [CLASSES[model_type]]}
    return text_configuration(Path("config.json"), values)


def parameters(rope: Rope) -> dict[str, Any]:
    """All of a description under the names of transformers."""
    found = {"rope_type": rope.kind, **rope.parameters.values, "rope_theta": rope.theta}
    if rope.kind in ("yarn", "llama3"):
        found["original_max_position_embeddings"] = rope.original
    return found


UNLIKE_TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "both: yarn added by hand": ("it forgets the base", {**YARN, "rope_theta": 1e6}),
    "both: by layer type": ("it forgets the base", {**YARN, "rope_theta": 1e6}),
    "both: two scalings": (
        "it forgets the base",
        {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6, "original_max_position_embeddings": 16},
    ),
    "by layer type: llama": (
        "without layer_types it does not see that the parameters are nested",
        {**LLAMA3, "rope_theta": 5e5},
    ),
    "v4: original length beside": (
        "it overlooks the length; llama.cpp's converter does not",
        {**YARN, "rope_theta": 1e4},
    ),
}


@pytest.mark.parametrize("case", ROPE)
def test_rotary_embeddings_are_those_of_transformers(case: str) -> None:
    """Merged as transformers 5 does it, but for cases that it gets wrong itself."""
    expected = dict(CURRENT["rope"][case])
    if case in UNLIKE_TRANSFORMERS:
        reason, ours = UNLIKE_TRANSFORMERS[case]
        assert reason and ours != expected
        expected = ours
    assert parameters(Rope.of(configuration(*ROPE[case]), SCALED)) == expected


def test_older_versions_agree_on_their_own_files() -> None:
    """transformers 4 makes the same of what transformers 4 writes."""
    ours = {
        case: parameters(Rope.of(configuration(*ROPE[case]), SCALED))
        for case in ROPE
        if case.startswith("v4")
    }
    theirs = RECORDED[defaults.VERSIONS[0]]["rope"]
    unlike = {"v4: the base within the scaling", "v4: an empty scaling", *UNLIKE_TRANSFORMERS}
    for case in ours.keys() - unlike:
        assert {key: ours[case][key] for key in theirs[case]} == theirs[case], case


KEYS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "yarn added by hand": (
        "qwen3",
        {"rope_parameters": PLAIN, "rope_scaling": YARN},
        {
            "scaling.type": string("yarn"),
            "scaling.factor": f32(4.0),
            "scaling.original_context_length": u32(16),
            "freq_base": f32(1e6),
        },
    ),
    "an empty scaling added": (
        "qwen3",
        {"rope_parameters": PLAIN, "rope_scaling": {}},
        {"freq_base": f32(1e6)},
    ),
    "by layer type": (
        "qwen3",
        {
            "rope_parameters": {
                "full_attention": {**YARN, "rope_theta": 1e6},
                "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
            }
        },
        {
            "scaling.type": string("yarn"),
            "scaling.factor": f32(4.0),
            "scaling.original_context_length": u32(16),
            "freq_base": f32(1e6),
            "freq_base_swa": f32(1e4),
        },
    ),
    "llama3": ("llama", {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}}, {"freq_base": f32(5e5)}),
    "dynamic": ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, {"freq_base": f32(1e4)}),
}


@pytest.mark.parametrize(("model_type", "keys", "expected"), KEYS.values(), ids=KEYS.keys())
def test_keys_of_rotary_embeddings(model_type: str, keys: dict[str, Any], expected: dict[str, Any]) -> None:
    found = rope_metadata("x", Rope.of(configuration(model_type, keys), SCALED))
    assert {key.partition(".rope.")[2]: value for key, value in found.items()} == expected


WARNED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "a parameter of another type": (
        "llama",
        {"rope_parameters": {**PLAIN, "factor": 4.0}},
        "M-040",
        "$.rope_parameters.factor",
    ),
    "a parameter that nobody knows": (
        "qwen2",
        {"rope_scaling": {**YARN, "mscale": 0.7}},
        "M-040",
        "$.rope_scaling.mscale",
    ),
    "a ramp that llama.cpp rounds": (
        "qwen2",
        {"rope_scaling": {**YARN, "truncate": False}},
        "M-040",
        "$.rope_scaling.truncate",
    ),
    "a nested object of no layer": (
        "qwen3",
        {"rope_parameters": {**PLAIN, "main": {"rope_theta": 7.0}}},
        "M-040",
        "$.rope_parameters.main",
    ),
    "a base beside nested ones": (
        "qwen3",
        {"rope_parameters": {"full_attention": PLAIN, "rope_theta": 7.0}},
        "M-040",
        "$.rope_parameters.rope_theta",
    ),
    "a key of another family": ("llama", {"rotary_dim": 7.0}, "M-040", "$.rotary_dim"),
    "a local base": ("llama", {"rope_local_base_freq": 1e4}, "M-040", "$.rope_local_base_freq"),
    "dynamic scaling": (
        "llama",
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        "M-040",
        "$.rope_scaling.rope_type",
    ),
    "two bases": ("llama", {"rope_theta": 7.0, "rope_parameters": PLAIN}, "M-041", "$.rope_theta"),
    "two bases in two objects": (
        "qwen3",
        {"rope_parameters": PLAIN, "rope_scaling": {**YARN, "rope_theta": 7.0}},
        "M-041",
        "$.rope_scaling.rope_theta",
    ),
    "two types": (
        "qwen3",
        {"rope_scaling": {**YARN, "type": "linear"}},
        "M-041",
        "$.rope_scaling.type",
    ),
    "two original lengths": (
        "qwen3",
        {"rope_scaling": YARN, "original_max_position_embeddings": 32},
        "M-041",
        "$.rope_scaling.original_max_position_embeddings",
    ),
}


@pytest.mark.parametrize(("model_type", "keys", "rule", "place"), WARNED.values(), ids=WARNED.keys())
def test_doubtful_parameters_are_warned_about(
    model_type: str, keys: dict[str, Any], rule: str, place: str
) -> None:
    with gathered_warnings() as warnings:
        rope_metadata(model_type, Rope.of(configuration(model_type, keys), SCALED))
    assert [(warning.finding.rule, warning.finding.path) for warning in warnings] == [(rule, place)]


@pytest.mark.parametrize("case", [case for case in ROPE if case.startswith(("v4", "v5", "nothing"))])
def test_ordinary_files_are_not_warned_about(case: str) -> None:
    with gathered_warnings() as warnings:
        Rope.of(configuration(*ROPE[case]), SCALED)
    expected = ["$.rope_scaling.rope_type"] if case == "v4: dynamic" else []
    assert [warning.finding.path for warning in warnings] == expected


REFUSED: dict[str, tuple[str, dict[str, Any], type[FileError], str, str]] = {
    "no factor": (
        "qwen3",
        {"rope_scaling": {"type": "linear"}},
        InvalidError,
        "M-002",
        "$.rope_scaling.factor",
    ),
    "a factor that is null": (
        "qwen3",
        {"rope_parameters": {"rope_type": "yarn", "factor": None}},
        InvalidError,
        "M-002",
        "$.rope_parameters.factor",
    ),
    "a factor of zero": (
        "qwen3",
        {"rope_scaling": {"type": "linear", "factor": 0}},
        InvalidError,
        "M-003",
        "$.rope_scaling.factor",
    ),
    "a factor that is text": (
        "qwen3",
        {"rope_scaling": {**YARN, "factor": "4"}},
        InvalidError,
        "M-003",
        "$.rope_scaling.factor",
    ),
    "a type that is a number": (
        "qwen3",
        {"rope_parameters": {"rope_type": 7}},
        InvalidError,
        "M-003",
        "$.rope_parameters.rope_type",
    ),
    "a base that is an object": (
        "qwen3",
        {"rope_theta": {"full_attention": 7.0}},
        InvalidError,
        "M-003",
        "$.rope_theta",
    ),
    "a base of the other object": (
        "qwen3",
        {"rope_parameters": {"rope_theta": -1}, "rope_scaling": YARN},
        InvalidError,
        "M-003",
        "$.rope_parameters.rope_theta",
    ),
    "full attention that is no object": (
        "qwen3",
        {"rope_parameters": {"full_attention": 7}},
        InvalidError,
        "M-003",
        "$.rope_parameters.full_attention",
    ),
    "full attention that does not rotate": (
        "qwen3",
        {"rope_parameters": {"full_attention": None, "sliding_attention": PLAIN}},
        UnsupportedError,
        "M-005",
        "$.rope_parameters.full_attention",
    ),
    "no full attention": (
        "qwen3",
        {"rope_parameters": {"sliding_attention": PLAIN}},
        UnsupportedError,
        "M-005",
        "$.rope_parameters.full_attention",
    ),
    "layers with different rotations": (
        "qwen3",
        {
            "layer_types": ["full_attention", "sliding_attention"],
            "rope_parameters": {"full_attention": PLAIN, "sliding_attention": {"rope_theta": 1e4}},
        },
        UnsupportedError,
        "M-005",
        "$.rope_parameters.sliding_attention",
    ),
    "part of a head": (
        "llama",
        {"rope_parameters": {**PLAIN, "partial_rotary_factor": 0.5}},
        UnsupportedError,
        "M-005",
        "$.rope_parameters.partial_rotary_factor",
    ),
    "part of a head, said beside": (
        "llama",
        {"partial_rotary_factor": 0.5},
        UnsupportedError,
        "M-005",
        "$.partial_rotary_factor",
    ),
    "llama3 without its factors": (
        "llama",
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        InvalidError,
        "M-002",
        "$.rope_scaling.low_freq_factor",
    ),
    "llama3 in another family": (
        "qwen3",
        {"rope_scaling": LLAMA3},
        UnsupportedError,
        "M-005",
        "$.rope_scaling.rope_type",
    ),
    "longrope": (
        "llama",
        {"rope_parameters": {"rope_type": "longrope"}},
        UnsupportedError,
        "M-005",
        "$.rope_parameters.rope_type",
    ),
}


@pytest.mark.parametrize(
    ("model_type", "keys", "error", "rule", "place"), REFUSED.values(), ids=REFUSED.keys()
)
def test_rotations_that_cannot_be_written_are_refused(
    model_type: str, keys: dict[str, Any], error: type[FileError], rule: str, place: str, tmp_path: Path
) -> None:
    contents, family = files(model_type), model_type
    contents["config.json"] |= keys
    contents["config.json"].pop("rope_theta", None) if "rope_theta" not in keys else None
    with pytest.raises(error) as caught:
        models.load(checkpoint(tmp_path, contents, shapes(family)))
    assert (caught.value.finding.rule, caught.value.finding.path) == (rule, place)


def test_the_difference_from_llama_cpp_is_named(tmp_path: Path) -> None:
    contents = files("qwen3")
    contents["config.json"] |= {"rope_parameters": PLAIN, "rope_scaling": YARN}
    assert "rope-both" in models.load(checkpoint(tmp_path, contents, shapes("qwen3"))).differences
    contents["config.json"]["rope_scaling"] = {}
    assert "rope-both" not in models.load(checkpoint(tmp_path, contents, shapes("qwen3"))).differences


# --- defaults


@pytest.mark.parametrize("model_type", ["llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "bert"])
def test_defaults_are_those_of_transformers(model_type: str) -> None:
    """Of the version that comes first; values that follow others are resolved."""
    theirs = RECORDED[defaults.VERSIONS[0]]["defaults"][model_type]
    ours = defaults.defaults_of(model_type, "", {})
    assert defaults.version_of(model_type) == defaults.VERSIONS[0]
    scalars = {key for key, value in ours.items() if isinstance(value, (bool, int, float, str))}
    assert {key: theirs.get(key) for key in scalars} == {key: ours[key] for key in scalars}
    assert {"hidden_size", "num_hidden_layers", "vocab_size"} <= scalars


ABSENT: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "llama": (
        "llama",
        ("rms_norm_eps", "max_position_embeddings", "rope_theta"),
        {
            "llama.context_length": u32(2048),
            "llama.attention.layer_norm_rms_epsilon": f32(1e-6),
            "llama.rope.freq_base": f32(1e4),
        },
    ),
    "qwen2": (
        "qwen2",
        ("rms_norm_eps", "max_position_embeddings"),
        {"qwen2.context_length": u32(32768), "qwen2.attention.layer_norm_rms_epsilon": f32(1e-6)},
    ),
    "bert": (
        "bert",
        ("layer_norm_eps", "type_vocab_size"),
        {"bert.attention.layer_norm_epsilon": f32(1e-12), "tokenizer.ggml.token_type_count": u32(2)},
    ),
}


@pytest.mark.parametrize(("family", "absent", "expected"), ABSENT.values(), ids=ABSENT.keys())
def test_absent_keys_have_the_defaults_of_their_class(
    family: str, absent: tuple[str, ...], expected: dict[str, Any], tmp_path: Path
) -> None:
    contents = files(family)
    for key in absent:
        contents["config.json"].pop(key, None)
    metadata = models.load(checkpoint(tmp_path, contents, shapes(family))).metadata
    assert {key: metadata[key] for key in expected} == expected


def test_head_size_of_qwen3_by_default() -> None:
    values = {**rope_config("qwen3", {}), "architectures": ["Qwen3ForCausalLM"]}
    config = text_configuration(Path("config.json"), values)
    assert config.integer("head_dim") == 128 and "head_dim" not in config


def test_the_model_type_has_priority_over_the_class() -> None:
    """As in transformers, which picks the configuration class by it."""
    for model_type, expected in (("mistral", 131072), ("my_own", 2048), (7, 2048), (None, 2048)):
        values = {"architectures": ["LlamaForCausalLM"], "model_type": model_type}
        assert text_configuration(Path("c"), values).integer("max_position_embeddings") == expected


def test_null_is_not_a_default() -> None:
    values = {"architectures": ["MistralForCausalLM"], "num_key_value_heads": None}
    assert text_configuration(Path("c"), values).integer("num_key_value_heads", 32) == 32
    del values["num_key_value_heads"]
    assert text_configuration(Path("c"), values).integer("num_key_value_heads", 32) == 8


def test_a_shape_that_contradicts_a_default_says_so(tmp_path: Path) -> None:
    contents = files("llama")
    del contents["config.json"]["hidden_size"]
    with pytest.raises(InvalidError, match=r"M-012.*defaults.*hidden_size"):
        models.load(checkpoint(tmp_path, contents, shapes("llama")))


# --- nested configurations


def nested(family: str, key: str, *, kept: tuple[str, ...] = ("architectures",)) -> dict[str, Any]:
    """The files of a family, with all but some keys of config.json under another one."""
    contents = files(family)
    values = contents["config.json"]
    inner = {name: value for name, value in values.items() if name not in kept}
    for name in reversed(key.split(".")):
        inner = {name: inner}
    contents["config.json"] = {name: values[name] for name in kept} | inner
    return contents


NESTED = ("text_config", "llm_config", "lm_config", "language_config", "thinker_config.text_config")


def hyper_parameters(model: Model) -> dict[str, Any]:
    return {key: value for key, value in model.metadata.items() if not key.startswith("general.")}


@pytest.mark.parametrize("key", NESTED)
def test_a_nested_configuration_is_read(key: str, tmp_path: Path) -> None:
    plain = models.load(checkpoint(tmp_path, files("llama"), shapes("llama")))
    inner = models.load(checkpoint(tmp_path, nested("llama", key), shapes("llama")))
    assert hyper_parameters(inner) == hyper_parameters(plain)


def test_the_nested_configuration_has_priority_and_the_rest_stays_visible(tmp_path: Path) -> None:
    contents = nested("llama", "text_config")
    contents["config.json"] |= {"rms_norm_eps": 7.0, "rope_theta": 7.0, "is_causal": False}
    metadata = models.load(checkpoint(tmp_path, contents, shapes("llama"))).metadata
    assert metadata["llama.attention.layer_norm_rms_epsilon"] == f32(1e-5)
    assert metadata["llama.rope.freq_base"] == f32(500000.0)
    assert metadata["llama.attention.causal"] == boolean(False)


def test_rotary_embeddings_of_the_whole_do_not_mix_with_those_of_the_text_model(tmp_path: Path) -> None:
    contents = nested("llama", "text_config")
    contents["config.json"] |= {"rope_scaling": {"type": "linear", "factor": 9.0}}
    metadata = models.load(checkpoint(tmp_path, contents, shapes("llama"))).metadata
    assert "llama.rope.scaling.type" not in metadata


def test_the_class_of_the_text_model_counts(tmp_path: Path) -> None:
    contents = nested("qwen3", "text_config", kept=())
    contents["config.json"]["architectures"] = ["SomethingForConditionalGeneration"]
    assert models.load(checkpoint(tmp_path, contents, shapes("qwen3"))).architecture == "qwen3"


def test_errors_name_the_place_in_the_nested_configuration(tmp_path: Path) -> None:
    contents = nested("llama", "text_config")
    contents["config.json"]["text_config"]["rms_norm_eps"] = "small"
    with pytest.raises(InvalidError) as caught:
        models.load(checkpoint(tmp_path, contents, shapes("llama")))
    assert caught.value.finding.path == "$.text_config.rms_norm_eps"
    contents["config.json"]["text_config"] = [1]
    with pytest.raises(InvalidError) as caught:
        models.load(checkpoint(tmp_path, contents, shapes("llama")))
    assert caught.value.finding.path == "$.text_config"
