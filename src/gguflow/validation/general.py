"""Rules about the keys of all models: G-001, G-002, G-008, G-017."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gguflow import blocks, recipes
from gguflow.blocks import QUANTIZATION_VERSION
from gguflow.container.metadata import INTEGERS, ValueType
from gguflow.errors import Finding
from gguflow.validation.model import Facts

_FOR_EXPERTS = {"mxfp4"}
"""Formats whose recipe uses them only for the experts of a mixture."""

_DUNDER = re.compile(r"__\w+__")


def judge_general(facts: Facts) -> Iterator[Finding]:
    yield from _judge_architecture(facts)
    yield from _judge_quantization(facts)
    yield from _judge_file_type(facts)
    yield from _judge_templates(facts)


def _judge_architecture(facts: Facts) -> Iterator[Finding]:
    key = "general.architecture"
    value = facts.metadata.get(key)
    if value is None:
        yield facts.about_key(
            "G-001", f"{key} is missing: nothing says what kind of model this is", key, severity="warning"
        )
    elif value.type is not ValueType.STRING:
        yield facts.about_key("G-001", f"{key} is not a string", key, value.type.name, "STRING")
    elif not re.fullmatch(r"[a-z0-9_-]+", value.value):
        yield facts.about_key(
            "G-001", f"{key} is not a lower-case name", key, value.value, "[a-z0-9_-]+", "warning"
        )


def _judge_quantization(facts: Facts) -> Iterator[Finding]:
    key = "general.quantization_version"
    formats = (blocks.by_id(tensor.type_id) for tensor, _ in facts.tensors.values())
    if not any(block_format is not None and block_format.is_quantized for block_format in formats):
        return
    value = facts.metadata.get(key)
    if value is None:
        yield facts.about_key(
            "G-002",
            f"{key} is missing, and tensors are quantized",
            key,
            expected=QUANTIZATION_VERSION,
            severity="warning",
        )
    elif value.type not in INTEGERS:
        yield facts.about_key("G-002", f"{key} is no integer", key, value.type.name, "UINT32")
    elif value.value != QUANTIZATION_VERSION:
        yield facts.about_key(
            "G-002", "another generation of block layouts", key, value.value, QUANTIZATION_VERSION, "warning"
        )


def _judge_file_type(facts: Facts) -> Iterator[Finding]:
    """Check that the format of general.file_type occurs, unless rows do not divide into its blocks."""
    key = "general.file_type"
    value = facts.metadata.get(key)
    if value is None:
        return
    if value.type not in INTEGERS:
        yield facts.about_key("G-008", f"{key} is no integer", key, value.type.name, "UINT32")
        return
    bases = {recipe.file_type: recipe.base for recipe in recipes.RECIPES.values()}
    block_format = blocks.FORMATS.get(bases.get(value.value, ""))
    matrices = [tensor for tensor, _ in facts.tensors.values() if len(tensor.dims) > 1]
    if block_format is None or block_format.key in _FOR_EXPERTS:
        return
    could = sum(tensor.n_weights for tensor in matrices if tensor.dims[0] % block_format.block_size == 0)
    if 2 * could > sum(tensor.n_weights for tensor in matrices) and all(
        tensor.type_id != block_format.id for tensor in matrices
    ):
        message = f"{key} says {block_format.name}, and no matrix is stored in it"
        yield facts.about_key("G-008", message, key, value.value, severity="warning")


def _judge_templates(facts: Facts) -> Iterator[Finding]:
    """Check chat templates, which are programs for another interpreter, as text, without rendering them."""
    for key, value in facts.metadata.items():
        if not key.startswith("tokenizer.chat_template") or key == "tokenizer.chat_templates":
            continue
        if value.type is not ValueType.STRING:
            yield facts.about_key(
                "G-017", "a chat template that is not a string", key, value.type.name, "STRING"
            )
        elif found := _DUNDER.search(value.value):
            message = "a chat template that accesses Python's internals: render it in a sandbox or not at all"
            yield facts.about_key("G-017", message, key, found[0], severity="warning")
