"""Rules about known families of models, G-003 to G-007: hyper-parameters, required tensors and their shapes.

Tensors and shapes come from the rules by which conversions check checkpoints (`gguflow.models.families`), for
the hyper-parameters that the file has.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from gguflow import models
from gguflow.container.header import without_leading_ones
from gguflow.container.metadata import INTEGERS, ValueType
from gguflow.container.strings import quoted
from gguflow.errors import FileError, Finding
from gguflow.models.architecture import Architecture
from gguflow.models.hf_names import file_parameters
from gguflow.models.parameters import MAX_LAYERS
from gguflow.models.rules import Rule
from gguflow.models.views import Shape
from gguflow.validation.model import Facts
from gguflow.validation.tokenizer import TOKENS

_BY_LAYER = ("feed_forward_length", "attention.head_count", "attention.head_count_kv")
"""Keys whose value may be an array with one number for each layer."""
_OPTIONAL = ("attention.head_count_kv", "attention.key_length")
"""Keys after the architecture's name that are judged where they are there."""

_ABOVE_ZERO = ("rope.freq_base", "rope.freq_base_swa")
"""Such keys whose value is divided by, or raised to a power."""

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
    family = models.of_file(facts.metadata)
    if family is None or _has_separate_experts(facts):
        return
    is_vocabulary = not facts.tensors and TOKENS in facts.metadata
    wrong = [
        finding
        for finding in (*_judge_hyper_parameters(family, facts), *_judge_bases(family, facts))
        if not (is_vocabulary and finding.rule == "G-003")
    ]
    yield from wrong
    if not wrong and facts.tensors:
        yield from _judge_tensors(family, facts)


def _has_separate_experts(facts: Facts) -> bool:
    """Whether experts are tensors of their own, as in files of 2023."""
    return any(re.fullmatch(r"blk\.0\.ffn_(gate|up|down)\.0\.weight", name) for name in facts.tensors)


def is_model(facts: Facts) -> bool:
    """Whether a file is a model, and no adapter, projector, control vector or importance matrix, which name
    the family that they belong to.
    """
    kind = facts.text("general.type")
    if kind is not None and kind.lower() not in ("model", ""):
        return False
    return "adapter.type" not in facts.metadata


def _judge_hyper_parameters(family: Architecture, facts: Facts) -> Iterator[Finding]:
    for parameter in (*family.required, *(key for key in _OPTIONAL if key not in family.required)):
        key = f"{family.name}.{parameter}"
        value = facts.metadata.get(key)
        if value is None:
            if parameter in family.required:
                yield facts.about_key("G-003", f"{key} is missing; every {family.name} model has it", key)
        elif parameter.endswith("epsilon"):
            if value.type is not ValueType.FLOAT32:
                message = f"{key} is not a 32-bit float"
                yield facts.about_key("G-004", message, key, value.type.name, "FLOAT32")
            elif not 0 <= value.value < 1:
                yield facts.about_key("G-004", f"{key} is out of range", key, value.value, "0 to 1")
        elif value.type is ValueType.ARRAY and parameter in _BY_LAYER:
            yield from _judge_layers(facts, family.name, key, len(value.value))
        elif value.type not in INTEGERS:
            yield facts.about_key("G-004", f"{key} is not an integer", key, value.type.name, "UINT32")
        else:
            highest = MAX_LAYERS if parameter == "block_count" else 2**31 - 1
            if not 1 <= value.value <= highest:
                yield facts.about_key("G-004", f"{key} is out of range", key, value.value, f"1 to {highest}")


def _judge_bases(family: Architecture, facts: Facts) -> Iterator[Finding]:
    """Findings about the bases of rotary angles: zero makes every angle NaN."""
    for parameter in _ABOVE_ZERO:
        key = f"{family.name}.{parameter}"
        value = facts.metadata.get(key)
        if value is None:
            continue
        if value.type is not ValueType.FLOAT32:
            yield facts.about_key("G-004", f"{key} is not a 32-bit float", key, value.type.name, "FLOAT32")
        elif not 0 < value.value < math.inf:
            yield facts.about_key("G-004", f"{key} is out of range", key, value.value, "above 0")


def _judge_layers(facts: Facts, name: str, key: str, n_values: int) -> Iterator[Finding]:
    n_layers = facts.integer(f"{name}.block_count")
    if n_layers is not None and n_values != n_layers:
        yield facts.about_key(
            "G-004", f"{key} does not have one value for each block", key, n_values, n_layers
        )


def _judge_tensors(family: Architecture, facts: Facts) -> Iterator[Finding]:
    shapes = {name: tensor.shape for name, (tensor, *_) in facts.tensors.items()}
    parameters = file_parameters(family, facts.metadata, shapes, Path("model.gguf"))
    if "token_embd.weight" in shapes and (tokens := facts.array(TOKENS)) is not None:
        parameters = replace(parameters, n_tokens=len(tokens.value))
    try:
        listed = list(family.rules(parameters))
        n_layers = parameters.n_layers if family.n_blocks is None else family.n_blocks(parameters)
    except FileError as error:
        finding = error.finding
        message = f"hyper-parameters that contradict each other: {finding.message}"
        yield replace(finding, rule="G-004", message=message)
        return
    required: dict[str, list[Shape]] = {}
    expected: dict[str, list[Shape]] = {}
    for rule in listed:
        for part in rule.targets if isinstance(rule, Rule) else (rule,):
            expected.setdefault(part.name, []).append(part.shape)
            if rule.is_required:
                required.setdefault(part.name, []).append(part.shape)
    n_blocks = max(map(_block, facts.tensors)) + 1
    n_filled = max(map(_block, required), default=-1) + 1  # the last blocks of some models are empty
    if not min(n_filled, n_layers) <= n_blocks <= n_layers:
        key = f"{family.name}.block_count"
        yield facts.about_key(
            "G-005",
            "block_count is not the number of blocks with tensors",
            key,
            n_layers,
            n_blocks,
        )
    for name, wanted in expected.items():
        if name in shapes:
            shape = without_leading_ones(shapes[name])
            fits = any(shape == without_leading_ones(one) for one in wanted)
            if not fits and not _BESIDE_THE_TABLE.fullmatch(name):
                message = f"the shape of {quoted(name)} contradicts the hyper-parameters"
                yield facts.about_tensor("G-007", message, name, list(shape), list(wanted[0]))
        elif (
            name in required and _block(name) < n_blocks
        ):  # whole blocks that are missing are one finding, G-005
            yield Finding(
                "G-006",
                f"tensor {quoted(name)} is missing; every {family.name} model has it",
                "$.tensors",
                expected=list(wanted[0]),
            )
    for name in facts.tensors:
        if (
            name not in expected
            and not _BESIDE_THE_TABLE.fullmatch(name)
            and not family.is_computed(name)
            and _block(name) < n_layers
        ):
            yield facts.about_tensor(
                "G-006",
                f"tensor {quoted(name)} is none that a {family.name} model has",
                name,
                severity="warning",
            )


def _block(name: str) -> int:
    """The block that a tensor belongs to, -1 for none, and for those of a decoder behind an encoder."""
    match = re.match(r"(?:enc\.)?blk\.(\d{1,9})\.", name)
    return int(match[1]) if match else -1
