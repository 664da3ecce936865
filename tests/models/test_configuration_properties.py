"""Mutated configurations: each gives a model whose metadata can be stored, or a typed error."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gguflow import models
from gguflow.errors import MAX_WARNINGS, GguflowError
from gguflow.models.defaults import model_types
from gguflow.models.tokenizers import template_check
from testing.config_layouts import LLAMA3, PLAIN, ROPE, YARN
from testing.families import checkpoint, files, shapes

FAMILIES = ("llama", "qwen2", "qwen3", "bert")

KEYS = sorted(
    {key for name in ("llama", "qwen2", "qwen3", "bert") for key in model_types()[name]}
    | {key for _, keys in ROPE.values() for key in keys}
    | {"text_config", "llm_config", "thinker_config", "eos_token_id", "bos_token_id", "partial_rotary_factor"}
    | {"model_type", "architectures", "rope_local_base_freq", "is_causal", "quantization_config", "id2label"}
)
ROPE_KEYS = sorted(
    {*YARN, *LLAMA3, *PLAIN, "type", "full_attention", "sliding_attention", "attention_factor", "beta_fast"}
    | {"partial_rotary_factor", "truncate", "mscale", "extrapolation_factor"}
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from([2**31, 2**63, 10**400, -(10**30)]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -0.0, 1e-45, 1e38, 1e300, 1e4]),
    st.sampled_from(["", "default", "linear", "yarn", "llama3", "dynamic", "longrope", "\ud800", "\x1b[31m"]),
    st.sampled_from(["full_attention", "sliding_attention", "silu", "gelu", "llama", "mistral"]),
)
ROPE_VALUES = st.recursive(
    SCALARS | st.sampled_from([YARN, LLAMA3, PLAIN]).map(copy.deepcopy),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(ROPE_KEYS), inner, max_size=5)
    ),
    max_leaves=12,
)
VALUES = st.one_of(
    ROPE_VALUES, st.lists(st.integers(-2, 30), max_size=5), st.dictionaries(st.text(max_size=3), SCALARS)
)
CHANGES = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5)


def load(directory: Path, family: str, contents: dict[str, Any]) -> None:
    """Any other error than one of the package fails the test."""
    try:
        model = models.load(checkpoint(directory, contents, shapes(family)))
    except GguflowError:
        return
    assert len(model.warnings) <= MAX_WARNINGS
    json.dumps([str(warning) for warning in model.warnings])
    for key, value in model.metadata.items():
        assert key and value is not None


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoint")


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_check, "is_available", lambda: False)


LENIENT = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@LENIENT
@given(family=st.sampled_from(FAMILIES), changes=CHANGES, absent=st.sets(st.sampled_from(KEYS), max_size=4))
def test_mutated_configurations(
    directory: Path, family: str, changes: dict[str, Any], absent: set[str]
) -> None:
    contents = files(family)
    values = {key: value for key, value in contents["config.json"].items() if key not in absent}
    contents["config.json"] = values | changes
    load(directory, family, contents)


@LENIENT
@given(
    case=st.sampled_from(sorted(ROPE)),
    changes=st.dictionaries(st.sampled_from(ROPE_KEYS), ROPE_VALUES, max_size=3),
)
def test_mutated_rotary_embeddings(directory: Path, case: str, changes: dict[str, Any]) -> None:
    """Of every layout, changed in each of its objects."""
    model_type, keys = ROPE[case]
    family = model_type if model_type in FAMILIES else "llama"
    contents = files(family)
    mutated = copy.deepcopy(keys)
    for section in ("rope_parameters", "rope_scaling"):
        if isinstance(mutated.get(section), dict):
            for inner in [value for value in mutated[section].values() if isinstance(value, dict)]:
                inner |= {key: value for key, value in changes.items() if key != "full_attention"}
            mutated[section] |= copy.deepcopy(changes)
    contents["config.json"] |= mutated
    load(directory, family, contents)


@LENIENT
@given(eos=VALUES, generation=VALUES | st.just(None), whole=VALUES)
def test_mutated_ends(directory: Path, eos: Any, generation: Any, whole: Any) -> None:
    contents = files("llama")
    contents["config.json"]["eos_token_id"] = eos
    contents["generation_config.json"] = whole if generation is None else {"eos_token_id": generation}
    load(directory, "llama", contents)
