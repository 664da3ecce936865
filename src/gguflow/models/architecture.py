"""The declaration of a family of models, and the matching of a checkpoint's tensors against it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.errors import Finding, InvalidError
from gguflow.models.base import ModelTensor, RopeOrder
from gguflow.models.documents import Document
from gguflow.models.refusals import missing_tensor_hint, require_numbers, unknown_tensor_hint
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.sources.base import Checkpoint, SourceTensor, json_path

MAX_LAYERS = 512
"""llama.cpp's LLAMA_MAX_LAYERS: the largest number of blocks that it loads."""


@dataclass(frozen=True)
class Expected:
    """A tensor that an architecture has under a GGUF name; three dimensions mean stacked experts of a layer.

    shape: in NumPy order, from the hyper-parameters.
    required: whether a checkpoint must have it.
    row_order: how its rows are rearranged in the file, or None.
    """

    shape: tuple[int, ...]
    required: bool = True
    row_order: RopeOrder | None = None


@dataclass(frozen=True)
class Architecture:
    """A family of models.

    name: its `general.architecture`.
    classes: the names in config.json's "architectures" that select it.
    metadata: (config, directory) -> the hyper-parameters' keys, in llama.cpp's order.
    tensors: config -> the expected tensors by GGUF name.
    tokenizer: tokenizer files -> the tokenizer's keys, in llama.cpp's order.
    rename: (checkpoint's tensor name, config) -> the name in gguf's TensorNameMap.
    skipped: regular expressions; (renamed) tensors that fully match one of them are left out.
    computed: config -> tensors that no checkpoint holds (rope frequencies).
    computed_names: the names of all tensors that `computed` can return.
    originals: transformers' names of the tensors, without .weight and .bias; {i}: the layer, {x}: the expert.
    has_rope_order: whether rows of Q and K are rearranged (`RopeOrder`).
    """

    name: str
    classes: tuple[str, ...]
    metadata: Callable[[Document, Path], Metadata]
    tensors: Callable[[Document], Mapping[str, Expected]]
    tokenizer: Callable[[TokenizerFiles], Metadata]
    rename: Callable[[str, Document], str] = lambda name, _: name
    skipped: tuple[str, ...] = ()
    computed: Callable[[Document], tuple[ModelTensor, ...]] = lambda _: ()
    computed_names: tuple[str, ...] = ()
    originals: tuple[str, ...] = ()
    has_rope_order: bool = False


def class_name(config: Document) -> str:
    """The first class that config.json names. Raises InvalidError (M-002, M-003)."""
    names = config.items("architectures")
    if not names:
        raise config.missing("architectures")
    if not isinstance(names[0], str):
        raise config.wrong("architectures", names[0], "a string", index=0)
    return names[0]


def match_tensors(
    architecture: Architecture, checkpoint: Checkpoint, config: Document
) -> tuple[ModelTensor, ...]:
    """The computed tensors, then the checkpoint's under their GGUF names, in the checkpoint's order.

    Raises InvalidError for a tensor that is missing (M-010), unknown (M-011), has a shape that contradicts
    the hyper-parameters (M-012) or occurs twice (M-013), and for experts of different dtypes (M-015).
    """
    import gguf

    expected = architecture.tensors(config)
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    names = gguf.get_tensor_name_map(arch, config.integer("num_hidden_layers", maximum=MAX_LAYERS))

    def is_known(name: str) -> bool:
        renamed, _ = _without_expert(architecture.rename(name, config))
        return names.get_name(renamed, try_suffixes=(".weight", ".bias")) in expected

    matched: dict[str, dict[int, SourceTensor]] = {}
    for source in checkpoint.tensors.values():
        hf_name = architecture.rename(source.name, config)
        if any(re.fullmatch(pattern, hf_name) for pattern in architecture.skipped):
            continue
        hf_name, expert = _without_expert(hf_name)
        name = names.get_name(hf_name, try_suffixes=(".weight", ".bias"))
        if name not in expected:
            hint = unknown_tensor_hint(source, checkpoint, is_known)
            raise _tensor_error(source, "M-011", f"{architecture.name} has no tensor {source.name!r}{hint}")
        require_numbers(source)
        shape = expected[name].shape
        if expert is not None and expert >= shape[0]:
            raise _tensor_error(
                source, "M-011", f"the hyper-parameters in {config.file.name} say {shape[0]} experts"
            )
        parts = matched.setdefault(name, {})
        if (expert or 0) in parts:
            raise _tensor_error(source, "M-013", f"{source.name!r} is a second {name}")
        if source.shape != (shape if expert is None else shape[1:]):
            message = f"the shape of {name} contradicts the hyper-parameters in {config.file.name}"
            if absent := sorted(config.defaults.keys() - config.values.keys()):
                message += f" (with the class's defaults for {', '.join(absent)})"
            raise _tensor_error(source, "M-012", message, shape if expert is None else shape[1:])
        if parts and source.dtype != next(iter(parts.values())).dtype:
            raise _tensor_error(source, "M-015", "the experts of a layer have different dtypes")
        parts[expert or 0] = source
    missing = [name for name, rule in expected.items() if name not in matched and rule.required]
    if missing:
        name, hint = missing[0], missing_tensor_hint(missing[0], len(missing), config)
        message = (
            f"{architecture.name} needs a tensor {name}, but no tensor of the checkpoint maps to it{hint}"
        )
        expected_shape = list(expected[name].shape)
        raise InvalidError(
            checkpoint.path, Finding("M-010", message, json_path(name), expected=expected_shape)
        )
    tensors = tuple(_join_experts(checkpoint, name, expected[name], parts) for name, parts in matched.items())
    return architecture.computed(config) + tensors


def _without_expert(name: str) -> tuple[str, int | None]:
    """The name shared by the tensors of all experts of a layer, and the expert; other names unchanged."""
    match = re.fullmatch(r"(.*\.experts)\.(\d{1,9})(\..*)", name)
    return (match[1] + match[3], int(match[2])) if match else (name, None)


def _join_experts(
    checkpoint: Checkpoint, name: str, rule: Expected, parts: Mapping[int, SourceTensor]
) -> ModelTensor:
    """A tensor from its source, or from all experts. Raises InvalidError (M-010) if one is missing."""
    is_stacked = next(iter(parts.values())).shape != rule.shape
    missing = next((i for i in range(rule.shape[0]) if i not in parts), None) if is_stacked else None
    if missing is not None:
        message = f"{name}: expert {missing} is missing"
        raise InvalidError(
            checkpoint.path,
            Finding("M-010", message, json_path(name), found=f"{len(parts)} experts", expected=rule.shape[0]),
        )
    return ModelTensor(name, rule.shape, tuple(parts[i] for i in sorted(parts)), row_order=rule.row_order)


def _tensor_error(
    source: SourceTensor, rule: str, message: str, expected: tuple[int, ...] | None = None
) -> InvalidError:
    """The error for a tensor that cannot be used; expected: the shape that it should have."""
    found = None if expected is None else list(source.shape)
    return InvalidError(
        source.file.path,
        Finding(rule, message, json_path(source.name), found=found, expected=expected and list(expected)),
    )
