"""`general.*`: author, licence and origin of the model, and the name of the output file made from them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gguflow.container.metadata import Metadata, Value, ValueType, array, f32, string
from gguflow.errors import FileError, Finding, InvalidError, StorageError, warn
from gguflow.models.base import ModelTensor
from gguflow.models.card import read_card
from gguflow.models.documents import Document
from gguflow.models.output_name import stem_from_card
from gguflow.sources.huggingface import read_config
from gguflow.sources.links import repository_id

_MAX_NAME_LENGTH = 1000
"""Characters of a name that gguf's heuristics get; their time grows with its square."""


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

    gguf's own heuristics for names and size labels are used, so that they are llama.cpp's. What they get is
    proved to be text before: the model card (README.md), the name in config.json, the directory's name. What
    is wrong with the card or generation_config.json is a warning (M-020, M-042).

    architecture: `general.architecture`.
    directory: the checkpoint's directory.
    counts: of all output tensors; they give the size label if the model's name has none.
    """
    import gguf

    directory = directory.resolve() if directory.name in ("", "..") else directory  # gives "." a name too
    values, config_name = read_card(directory), _config_name(directory)
    generation = read_generation(directory)
    found = _described(values, config_name, directory.name, counts)
    for field, value in _sampling(generation):
        setattr(found, field, value)
    writer = gguf.GGUFWriter(None, architecture)
    writer.add_type(gguf.GGUFType.MODEL)
    found.set_gguf_meta_model(writer)
    repository = repository_id(directory)
    if repository is not None:  # the directory is called after a commit: a name that says nothing
        found = _described(values, config_name, repository.rpartition("/")[2], counts)
    stem = gguf.naming_convention(
        found.name, found.basename, found.finetune, found.version, found.size_label, None
    )
    metadata = {key: _value(value) for key, value in writer.kv_data[0].items()}
    return _with_repetition_penalty(metadata, generation), stem_from_card(stem)


def _described(values: dict[str, Any], config_name: str | None, name: str, counts: ParameterCounts) -> Any:
    """gguf's idea (a `gguf.Metadata`) of what the model is called, of what it is made, how large it is.

    values: of the card.
    config_name: `_name_or_path` of config.json, None if there is none.
    name: of the directory.
    counts: of all output tensors.
    """
    import gguf

    parameters = {} if config_name is None else {"_name_or_path": config_name}
    found = gguf.Metadata.apply_metadata_heuristic(
        gguf.Metadata(), copy.deepcopy(values), parameters, Path(name), counts.total
    )
    found.name = found.name or name
    if found.size_label is None and counts.total > 0:
        found.size_label = gguf.size_label(counts.total, counts.shared, counts.expert, counts.n_experts)
    return found


def _config_name(directory: Path) -> str | None:
    """The name that config.json gives the model, as far as it is one: not a text of any length."""
    name = (read_config(directory) or {}).get("_name_or_path")
    return name if isinstance(name, str) and len(name) <= _MAX_NAME_LENGTH and name.isprintable() else None


def read_generation(directory: Path) -> Document | None:
    """generation_config.json; None with a warning (M-042) if it cannot be read."""
    name = "generation_config.json"
    try:
        return Document.read(directory, name)
    except FileError as error:
        warn(directory / name, Finding("M-042", f"left out: {error.finding.message} ({error.finding.rule})"))
    except StorageError as error:
        warn(directory / name, Finding("M-042", f"left out: {error}"))
    return None


def _sampling(generation: Document | None) -> Iterator[tuple[str, str | int | float]]:
    """The recommended sampling parameters as fields of `gguf.Metadata`; values of other types are left out
    with a warning (M-042).
    """
    for field, (key, read) in _SAMPLING.items():
        if generation is not None and key in generation:
            try:
                yield field, read(generation, key)
            except InvalidError as error:
                warn(generation.file, replace(error.finding, rule="M-042"))


def _whole(generation: Document, key: str) -> int:
    return generation.integer(key, minimum=-(2**31))


_SAMPLING: Mapping[str, tuple[str, Callable[[Document, str], str | int | float]]] = {
    "sampling_sequence": ("sequence", Document.text),
    "sampling_top_k": ("top_k", _whole),
    "sampling_top_p": ("top_p", Document.number),
    "sampling_min_p": ("min_p", Document.number),
    "sampling_xtc_probability": ("xtc_probability", Document.number),
    "sampling_xtc_threshold": ("xtc_threshold", Document.number),
    "sampling_temp": ("temperature", Document.number),
    "sampling_penalty_last_n": ("penalty_last_n", _whole),
    "sampling_penalty_repeat": ("penalty_repeat", Document.number),
    "sampling_mirostat": ("mirostat", _whole),
    "sampling_mirostat_tau": ("mirostat_tau", Document.number),
    "sampling_mirostat_eta": ("mirostat_eta", Document.number),
}
"""gguf.Metadata.load's fields, each with its key in generation_config.json and what reads it."""


def _value(value: Any) -> Value:
    """A value from gguf as one of ours."""
    kind = ValueType(int(value.type))
    if kind is ValueType.STRING:
        return string(value.value)
    return array(ValueType.STRING, value.value) if kind is ValueType.ARRAY else Value(kind, value.value)


def _with_repetition_penalty(metadata: Metadata, generation: Document | None) -> Metadata:
    """Add the recommended penalty, of which older gguf releases do not know transformers' name."""
    key = "general.sampling.penalty_repeat"
    if generation is None or key in metadata or "repetition_penalty" not in generation:
        return metadata
    try:
        penalty = f32(generation.number("repetition_penalty"))
    except InvalidError as error:
        warn(generation.file, replace(error.finding, rule="M-042"))
        return metadata
    ordered: Metadata = {}
    for name, value in metadata.items():
        if name in ("general.sampling.mirostat", "general.name"):
            ordered.setdefault(key, penalty)
        ordered[name] = value
    return ordered
