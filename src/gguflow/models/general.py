"""`general.*`: author, licence and origin of the model, and the name of the output file made from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguflow.container.metadata import Metadata, Value, ValueType, array, f32, string
from gguflow.errors import Finding, InvalidError
from gguflow.models.base import ModelTensor
from gguflow.models.documents import Document, read_text
from gguflow.models.output_name import stem_from_card


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of weights, for the size label of a model ("1.1B", "8x7B").

    total: of all tensors.
    shared: of all tensors that do not belong to experts.
    expert: of one expert in all layers.
    n_experts: experts of each layer; 0 for none.
    """

    total: int
    shared: int
    expert: int
    n_experts: int

    @classmethod
    def of(cls, tensors: Sequence[ModelTensor]) -> ParameterCounts:
        stacked = [tensor for tensor in tensors if len(tensor.shape) == 3]
        total = sum(tensor.n_weights for tensor in tensors)
        expert = sum(tensor.n_weights // tensor.shape[0] for tensor in stacked)
        shared = total - sum(tensor.n_weights for tensor in stacked)
        return cls(total, shared, expert, stacked[0].shape[0] if stacked else 0)


def general_metadata(architecture: str, directory: Path, counts: ParameterCounts) -> tuple[Metadata, str]:
    """The keys in llama.cpp's order, and the file stem with its "{type}" placeholder.

    gguf's own `Metadata` reads the model card (README.md), config.json and generation_config.json, so that
    the heuristics for names and size labels are llama.cpp's.

    architecture: `general.architecture`.
    directory: the checkpoint's directory.
    counts: of all output tensors; they give the size label if the model's name has none.

    Raises InvalidError (M-020) if a value in the card cannot be stored; MalformedError, LimitError and
    StorageError as read_text.
    """
    import gguf

    directory = directory.resolve() if directory.name in ("", "..") else directory  # gives "." a name too
    card_file = directory / "README.md"
    read_text(directory, card_file.name)  # checks size and encoding before gguf reads it
    generation = Document.read(directory, "generation_config.json")
    try:
        card = gguf.Metadata.load(None, directory, None, counts.total)
        card.name = card.name or directory.name
        if card.size_label is None and counts.total > 0:
            card.size_label = gguf.size_label(counts.total, counts.shared, counts.expert, counts.n_experts)
        writer = gguf.GGUFWriter(None, architecture)
        writer.add_type(gguf.GGUFType.MODEL)
        card.set_gguf_meta_model(writer)
        stem = gguf.naming_convention(
            card.name, card.basename, card.finetune, card.version, card.size_label, None
        )
    except Exception as error:  # gguf does not check types: any error is caused by the card
        raise InvalidError(
            card_file,
            Finding("M-020", "the model card cannot be used", found=f"{type(error).__name__}: {error}"),
        ) from error
    metadata = {key: _value(card_file, key, value) for key, value in writer.kv_data[0].items()}
    return _with_repetition_penalty(metadata, generation), stem_from_card(stem)


def _value(file: Path, key: str, value: Any) -> Value:
    """A value from gguf as one of ours; numbers and dates that YAML parsed become text again."""
    kind = ValueType(int(value.type))
    if kind is ValueType.STRING:
        return string(_text(file, key, value.value))
    if kind is ValueType.ARRAY:
        return array(ValueType.STRING, [_text(file, key, element) for element in value.value])
    return Value(kind, value.value)


def _text(file: Path, key: str, value: object) -> str:
    if value is None or isinstance(value, (dict, list, tuple, set)):
        raise InvalidError(file, Finding("M-020", f"{key} cannot be used", found=value, expected="text"))
    return str(value)


def _with_repetition_penalty(metadata: Metadata, generation: Document | None) -> Metadata:
    """Add the recommended penalty, of which older gguf releases do not know transformers' name."""
    key = "general.sampling.penalty_repeat"
    if generation is None or key in metadata or "repetition_penalty" not in generation:
        return metadata
    ordered: Metadata = {}
    for name, value in metadata.items():
        if name in ("general.sampling.mirostat", "general.name"):
            ordered.setdefault(key, f32(generation.number("repetition_penalty")))
        ordered[name] = value
    return ordered
