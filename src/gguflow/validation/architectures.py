"""Rules about known families of models, G-003 to G-007: hyper-parameters, required tensors and their shapes.

Shapes come from the tables by which conversions check checkpoints (`gguflow.models`), for a configuration
reconstructed from the file's metadata.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gguflow import models
from gguflow.container.header import without_leading_ones
from gguflow.container.metadata import INTEGERS, ValueType
from gguflow.container.strings import quoted
from gguflow.errors import FileError, Finding
from gguflow.models.architecture import MAX_LAYERS, Architecture
from gguflow.models.documents import Document
from gguflow.validation.model import Facts
from gguflow.validation.tokenizer import TOKENS

_INTEGERS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
}
"""Keys of config.json, and the GGUF key (after the architecture's name) of the same number."""
_OPTIONAL = {"attention.head_count_kv", "attention.key_length"}
_EPSILON = {"bert": "attention.layer_norm_epsilon"}
_DEFAULT_EPSILON = "attention.layer_norm_rms_epsilon"

_BESIDE_THE_TABLE = re.compile(
    r"rope_freqs\.weight|rope_factors_(long|short)\.weight|.*\.(scale|input_scale)|.*\.attn_rot_embd\.weight|cls\..*"
)
"""Tensors that converters add: rope factors, scales of NVFP4, heads of classifiers (of any width)."""


def judge_architecture(facts: Facts) -> Iterator[Finding]:
    """Findings about a model of a known family; none for other families, and none for a file that is no model
    by itself (`is_model`).
    """
    if not is_model(facts):
        return
    name = facts.text("general.architecture")
    family = next((family for family in models.architectures().values() if family.name == name), None)
    if family is None or any(
        facts.integer(f"{name}.{key}") for key in ("expert_count", "nextn_predict_layers")
    ):
        return
    is_vocabulary = not facts.tensors and TOKENS in facts.metadata
    wrong = [
        finding
        for finding in _judge_hyper_parameters(family.name, facts)
        if not (is_vocabulary and finding.rule == "G-003")
    ]
    yield from wrong
    if not wrong and facts.tensors:
        yield from _judge_tensors(family, facts)


def is_model(facts: Facts) -> bool:
    """Whether a file is a model, and no adapter, projector, control vector or importance matrix, which name
    the family that they belong to.
    """
    kind = facts.text("general.type")
    if kind is not None and kind.lower() not in ("model", ""):
        return False
    return "adapter.type" not in facts.metadata


def _judge_hyper_parameters(name: str, facts: Facts) -> Iterator[Finding]:
    for parameter in _INTEGERS.values():
        key = f"{name}.{parameter}"
        value = facts.metadata.get(key)
        highest = MAX_LAYERS if parameter == "block_count" else 2**31 - 1
        if value is None:
            if parameter not in _OPTIONAL:
                yield facts.about_key("G-003", f"{key} is missing; every {name} model has it", key)
        elif value.type is ValueType.ARRAY and parameter in (
            "feed_forward_length",
            "attention.head_count",
            "attention.head_count_kv",
        ):
            yield from _judge_layers(facts, name, key, len(value.value))
        elif value.type not in INTEGERS:
            yield facts.about_key("G-004", f"{key} is not an integer", key, value.type.name, "UINT32")
        elif not 1 <= value.value <= highest:
            yield facts.about_key("G-004", f"{key} is out of range", key, value.value, f"1 to {highest}")
    epsilon = f"{name}.{_EPSILON.get(name, _DEFAULT_EPSILON)}"
    value = facts.metadata.get(epsilon)
    if value is None:
        yield facts.about_key("G-003", f"{epsilon} is missing; every {name} model has it", epsilon)
    elif value.type is not ValueType.FLOAT32:
        yield facts.about_key(
            "G-004", f"{epsilon} is not a 32-bit float", epsilon, value.type.name, "FLOAT32"
        )
    elif not 0 <= value.value < 1:
        yield facts.about_key("G-004", f"{epsilon} is out of range", epsilon, value.value, "0 to 1")


def _judge_layers(facts: Facts, name: str, key: str, n_values: int) -> Iterator[Finding]:
    n_layers = facts.integer(f"{name}.block_count")
    if n_layers is not None and n_values != n_layers:
        yield facts.about_key(
            "G-004", f"{key} does not have one value for each block", key, n_values, n_layers
        )


def _judge_tensors(family: Architecture, facts: Facts) -> Iterator[Finding]:
    config = _configuration(family, facts)
    if config is None:
        return
    try:
        expected = family.tensors(Document(Path("config.json"), config))
    except FileError as error:
        key = f"{family.name}.{_INTEGERS.get(error.finding.path.removeprefix('$.'), 'block_count')}"
        yield facts.about_key(
            "G-004",
            f"hyper-parameters that contradict each other: {error.finding.message}",
            key,
            error.finding.found,
        )
        return
    n_blocks = max(map(_block, facts.tensors)) + 1
    if n_blocks != config["num_hidden_layers"]:
        key = f"{family.name}.block_count"
        yield facts.about_key(
            "G-005",
            "block_count is not the number of blocks with tensors",
            key,
            config["num_hidden_layers"],
            n_blocks,
        )
    for name, rule in expected.items():
        if name in facts.tensors:
            shape = without_leading_ones(facts.tensors[name][0].shape)
            if shape != without_leading_ones(rule.shape) and not _BESIDE_THE_TABLE.fullmatch(name):
                message = f"the shape of {quoted(name)} contradicts the hyper-parameters"
                yield facts.about_tensor("G-007", message, name, list(shape), list(rule.shape))
        elif (
            rule.required and _block(name) < n_blocks
        ):  # whole blocks that are missing are one finding, G-005
            yield Finding(
                "G-006",
                f"tensor {quoted(name)} is missing; every {family.name} model has it",
                "$.tensors",
                expected=list(rule.shape),
            )
    for name in facts.tensors:
        if (
            name not in expected
            and not _BESIDE_THE_TABLE.fullmatch(name)
            and _block(name) < config["num_hidden_layers"]
        ):
            yield facts.about_tensor(
                "G-006",
                f"tensor {quoted(name)} is none that a {family.name} model has",
                name,
                severity="warning",
            )


def _configuration(family: Architecture, facts: Facts) -> Mapping[str, Any] | None:
    """The reconstructed config.json; None if values differ between layers, unlike in the tables."""
    config: dict[str, Any] = {}
    for hf_key, key in _INTEGERS.items():
        value = facts.metadata.get(f"{family.name}.{key}")
        if value is not None and value.type is ValueType.ARRAY:
            return None
        if value is not None:
            config[hf_key] = int(value.value)
    config.setdefault("head_dim", max(config["hidden_size"] // config["num_attention_heads"], 1))
    tokens = facts.array(TOKENS)
    n_vocab = len(tokens.value) if tokens is not None else facts.integer(f"{family.name}.vocab_size")
    if n_vocab is None:
        n_vocab = _n_rows(facts, "token_embd.weight")
    if "token_types.weight" in facts.tensors:
        config["type_vocab_size"] = _n_rows(facts, "token_types.weight")
    return config | {
        "vocab_size": n_vocab,
        "architectures": [family.classes[0]],
        "tie_word_embeddings": "output.weight" not in facts.tensors,
    }


def _n_rows(facts: Facts, name: str) -> int:
    """Number of rows of a matrix, 0 if it does not exist."""
    return facts.tensors[name][0].dims[-1] if name in facts.tensors and facts.tensors[name][0].dims else 0


def _block(name: str) -> int:
    """The block that a tensor belongs to, -1 for none."""
    match = re.match(r"blk\.(\d{1,9})\.", name)
    return int(match[1]) if match else -1
