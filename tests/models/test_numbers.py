"""JSON numbers that no metadata can hold: a typed error, or left out; never an error of Python's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gguflow import conversion
from gguflow.blocks import block_sizes
from gguflow.container.header import VERSION, Header
from gguflow.container.metadata import Value, ValueType, f32
from gguflow.container.rules import judge
from gguflow.errors import GguflowError
from testing.families import random_checkpoint

NUMBERS = {
    "beyond 64 bits": "99999999999999999999",
    "beyond 64 bits, negative": "-99999999999999999999",
    "beyond float32": "1e300",
    "beyond float64": "1e999",
    "400 digits": "9" * 400,
    "500 digits": "9" * 500,
    "too small": "1e-999",
    "2**31": "2147483648",
    "2**63": "9223372036854775808",
    "not a number": "NaN",
    "infinite": "-Infinity",
    "a fraction": "3.5",
    "negative": "-1",
    "none": "0",
    "a list": "[1e300]",
}
GENERATION = (
    *("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "xtc_probability", "xtc_threshold"),
    *("mirostat", "mirostat_tau", "penalty_last_n", "eos_token_id", "bos_token_id", "pad_token_id"),
)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        family: random_checkpoint(tmp_path_factory.mktemp(family) / "checkpoint", family)
        for family in ("llama", "qwen3moe", "bert")
    }


def numbers_of(config: dict[str, object]) -> list[str]:
    """The keys of a configuration that have a number, or should have one."""
    named = [key for key, value in config.items() if isinstance(value, int | float)]
    return [*named, "rope_theta", "head_dim", "sliding_window", "num_key_value_heads"]


def prepared(source: Path) -> str:
    """What comes of planning a conversion: the error's type, or what the plan says."""
    try:
        plan = conversion.prepare(source, source / "out.gguf", type="f16").targets[0].plans[0]
    except GguflowError as error:
        return type(error).__name__
    assert all(
        np.isfinite(value.value).all()
        for value in plan.metadata.values()
        if value.type in (ValueType.FLOAT32, ValueType.FLOAT64)
    )
    return "planned"


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("family", ["llama", "qwen3moe", "bert"])
def test_hyper_parameters(number: str, family: str, checkpoints: dict[str, Path]) -> None:
    path = checkpoints[family] / "config.json"
    original = path.read_text()
    config = json.loads(original)
    try:
        for key in numbers_of(config):
            path.write_text(json.dumps(config | {key: "@"}).replace('"@"', number))
            prepared(path.parent)
    finally:
        path.write_text(original)


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("kind", ["yarn", "linear", "llama3", "longrope"])
@pytest.mark.parametrize("section", ["rope_scaling", "rope_parameters"])
def test_rotary_embeddings(section: str, kind: str, number: str, checkpoints: dict[str, Path]) -> None:
    path = checkpoints["llama"] / "config.json"
    original = path.read_text()
    config = json.loads(original)
    scaling = {
        "factor": 2.0,
        "original_max_position_embeddings": 64,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "attention_factor": 1.0,
        "beta_fast": 32,
        "beta_slow": 1,
        "rope_theta": 10000.0,
        "short_factor": [1.0],
        "long_factor": [1.0],
    }
    try:
        for key in scaling:
            changed = {"rope_type": kind} | scaling | {key: "@"}
            path.write_text(json.dumps(config | {section: changed}).replace('"@"', number))
            prepared(path.parent)
    finally:
        path.write_text(original)


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
def test_what_is_recommended_for_generation_is_left_out(number: str, checkpoints: dict[str, Path]) -> None:
    """It is never a reason to stop."""
    path = checkpoints["llama"] / "generation_config.json"
    try:
        for key in GENERATION:
            path.write_text(f'{{"{key}": {number}}}')
            assert prepared(path.parent) == "planned", key
    finally:
        path.unlink()


VALUES = {
    "an integer that float64 cannot hold": (Value(ValueType.FLOAT32, 10**400), []),
    "an integer that 64 bits cannot hold": (Value(ValueType.FLOAT64, 10**20), []),
    "a number": (f32(1.5), []),
    "infinity": (f32(float("inf")), ["C-032"]),
    "an array": (Value(ValueType.ARRAY, [1.0, float("nan")], ValueType.FLOAT32), ["C-032"]),
}


@pytest.mark.parametrize(("value", "rules"), VALUES.values(), ids=VALUES)
def test_a_header_is_judged_whatever_its_numbers_are(value: Value, rules: list[str]) -> None:
    header = Header(VERSION, {"k": value}, (), 32, 0)
    assert [finding.rule for finding in judge(header, block_sizes, None)] == rules
