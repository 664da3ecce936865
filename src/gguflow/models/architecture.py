"""What one file of this package declares about one family of models, and the matching of a checkpoint's tensors against it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.errors import Finding, InvalidError
from gguflow.models.base import ModelTensor, RopeOrder
from gguflow.models.documents import Document
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.sources.base import Checkpoint, SourceTensor, json_path

MAX_LAYERS = 512
"""llama.cpp's LLAMA_MAX_LAYERS: the most blocks that it loads."""


@dataclass(frozen=True)
class Expected:
    """A tensor that an architecture knows under a GGUF name.

    shape: NumPy order, from the hyper-parameters. required: whether a checkpoint without it is refused.
    """

    shape: tuple[int, ...]
    required: bool = True
    row_order: RopeOrder | None = None


@dataclass(frozen=True)
class Architecture:
    """A family of models.

    name: GGUF's name of it. classes: the names in config.json's "architectures" that mean it.
    metadata: (config, directory) -> the hyper-parameters' keys, in llama.cpp's order.
    tensors: config -> GGUF tensor name -> what is expected of it.
    tokenizer: its files -> the tokenizer's keys, in llama.cpp's order.
    rename: (checkpoint's tensor name, config) -> the name that gguf's TensorNameMap knows.
    skipped: regular expressions; a (renamed) tensor that one of them matches in full is left out.
    computed: config -> tensors that no checkpoint holds (rope frequencies).
    """

    name: str
    classes: tuple[str, ...]
    metadata: Callable[[Document, Path], Metadata]
    tensors: Callable[[Document], Mapping[str, Expected]]
    tokenizer: Callable[[TokenizerFiles], Metadata]
    rename: Callable[[str, Document], str] = lambda name, _: name
    skipped: tuple[str, ...] = ()
    computed: Callable[[Document], tuple[ModelTensor, ...]] = lambda _: ()


def class_name(config: Document) -> str:
    """The class that config.json names first. Raises InvalidError (M-002, M-003)."""
    names = config.items("architectures")
    if not names:
        raise config.missing("architectures")
    if not isinstance(names[0], str):
        raise config.wrong("architectures", names[0], "a string", index=0)
    return names[0]


def match_tensors(architecture: Architecture, checkpoint: Checkpoint, config: Document) -> tuple[ModelTensor, ...]:
    """The checkpoint's tensors under their GGUF names, in the checkpoint's order, after the computed ones.

    Raises InvalidError: a tensor that is missing (M-010), not known (M-011), of another shape than the hyper-parameters say (M-012),
    or there twice (M-013).
    """
    import gguf

    expected = architecture.tensors(config)
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    names = gguf.get_tensor_name_map(arch, config.integer("num_hidden_layers", maximum=MAX_LAYERS))
    matched: dict[str, ModelTensor] = {}
    for source in checkpoint.tensors.values():
        hf_name = architecture.rename(source.name, config)
        if any(re.fullmatch(pattern, hf_name) for pattern in architecture.skipped):
            continue
        name = names.get_name(hf_name, try_suffixes=(".weight", ".bias"))
        if name not in expected:
            raise _refused(source, "M-011", f"{architecture.name} has no tensor {source.name!r}, and the list of tensors to skip has none either")
        if name in matched:
            raise _refused(source, "M-013", f"{source.name!r} is {name} a second time")
        rule = expected[name]
        if source.shape != rule.shape:
            raise _refused(source, "M-012", f"the shape of {name} contradicts the hyper-parameters in {config.file.name}", rule.shape)
        matched[name] = ModelTensor(name, source.shape, source, row_order=rule.row_order)
    for name, rule in expected.items():
        if rule.required and name not in matched:
            message = f"{architecture.name} needs a tensor {name}, and nothing in the checkpoint maps to it"
            raise InvalidError(checkpoint.path, Finding("M-010", message, json_path(name), expected=list(rule.shape)))
    return architecture.computed(config) + tuple(matched.values())


def _refused(source: SourceTensor, rule: str, message: str, expected: tuple[int, ...] | None = None) -> InvalidError:
    """The error for a tensor that cannot be used. expected: the shape that it should have."""
    found = None if expected is None else list(source.shape)
    return InvalidError(source.file.path, Finding(rule, message, json_path(source.name), found=found, expected=expected and list(expected)))
