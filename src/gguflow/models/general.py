"""`general.*`: author, licence and origin of the model, and the name of the output file made from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gguflow.container.metadata import Metadata, string
from gguflow.errors import FileError, Finding, InvalidError, StorageError, UsageError, warn
from gguflow.models.base import Model, ModelTensor
from gguflow.models.card import read_card
from gguflow.models.description import describe
from gguflow.models.documents import Document
from gguflow.models.general_fields import FIELDS, Fields, Kind, is_field, to_metadata
from gguflow.models.naming import rounded
from gguflow.models.output_name import naming_convention, stem_from_card
from gguflow.models.overrides import Overrides
from gguflow.sources.huggingface import read_config
from gguflow.sources.links import repository_id

_MAX_NAME_LENGTH = 1000
"""Characters of a name in config.json, which may have any length."""

_NO_OVERRIDES = Overrides()


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of weights, for the size label of a model ("1.1B", "8x7B").

    total: of all tensors.
    shared: of all tensors that do not belong to experts.
    expert: of one expert in all layers.
    n_experts: experts of each layer, the mean if layers differ; 0 for none.
    """

    total: int
    shared: int
    expert: int
    n_experts: int

    @classmethod
    def of(cls, tensors: Sequence[ModelTensor]) -> ParameterCounts:
        """Those of a model's tensors. Tensors of experts are those of three dimensions whose names say so, as
        in llama.cpp: biases of experts, which have two, count as shared.
        """
        stacked = [tensor for tensor in tensors if "_exps." in tensor.name and len(tensor.shape) >= 3]
        numbers = [tensor.shape[-3] for tensor in stacked]
        total = sum(tensor.n_weights for tensor in tensors)
        expert = sum(tensor.n_weights // n for tensor, n in zip(stacked, numbers, strict=True))
        shared = total - sum(tensor.n_weights for tensor in stacked)
        return cls(total, shared, expert, sum(numbers) // len(numbers) if numbers else 0)

    @property
    def size_label(self) -> str:
        if self.n_experts:
            return f"{self.n_experts}x{rounded(self.shared + self.expert)}"
        return rounded(self.total)


def general_metadata(
    architecture: str, directory: Path, counts: ParameterCounts, overrides: Overrides = _NO_OVERRIDES
) -> tuple[Metadata, str]:
    """The keys in llama.cpp's order, and the file stem with its "{type}" placeholder.

    They come from the model card (README.md), the name in config.json, the directory's name, and
    generation_config.json. What is wrong with the card or generation_config.json is a warning (M-020, M-042).

    architecture: `general.architecture`.
    directory: the checkpoint's directory.
    counts: of all output tensors; they give the size label if the model's name has none. A vocabulary has no
        tensors, and no size in its file's name.
    overrides: what the user says in place of all that.
    """
    directory = directory.resolve() if directory.name in ("", "..") else directory  # gives "." a name too
    card, config_name = read_card(directory), _config_name(directory)
    sampling = dict(_sampling(read_generation(directory)))

    def described(name: str) -> Fields:
        fields = overrides.over(describe(card, config_name, name, counts.total) | sampling)
        fields["name"] = fields.get("name") or name
        if counts.total > 0:
            fields.setdefault("size_label", counts.size_label)
        return fields

    fields = described(directory.name)
    metadata = {"general.architecture": string(architecture), "general.type": string("model")}
    metadata |= to_metadata(fields)
    repository = repository_id(directory)
    if repository is not None:  # the directory is called after a commit: a name that says nothing
        fields = described(repository.rpartition("/")[2])
    size = fields.get("size_label") if counts.total > 0 else None  # a vocabulary is for models of any size
    parts = (fields.get("basename"), size, fields.get("finetune"), fields.get("version"))
    return metadata, stem_from_card(naming_convention(fields["name"], *parts))


def overridden(model: Model, directory: Path | None, overrides: Overrides) -> Model:
    """A model whose `general.*` and file name are as the user says.

    model: as loaded.
    directory: of the checkpoint whose configuration it was made from; None for a model without.
    overrides: what the user says.

    Raises UsageError for a model without a configuration: a GGUF file, or tensors under their own names.
    """
    if directory is None or model.is_final:
        raise UsageError(
            "--model-name and --metadata are for checkpoints whose config.json says what the model is; "
            "for a GGUF file, or with --arch, --override-kv general.name=str:NAME sets a key"
        )
    counts = ParameterCounts.of(model.tensors)
    general, stem = general_metadata(model.architecture, directory, counts, overrides)
    rest = {key: value for key, value in model.metadata.items() if not is_field(key)}
    return replace(model, metadata=general | rest, file_stem=stem)


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
    """The fields of recommended sampling parameters; values of other types are left out with a warning
    (M-042).
    """
    if generation is None:
        return
    for field, kind in FIELDS.items():
        if not field.startswith("sampling."):
            continue
        for key in filter(generation.__contains__, _IN_GENERATION.get(field, (field[len("sampling.") :],))):
            try:
                yield field, _SAMPLING_READERS[kind](generation, key)
                break
            except InvalidError as error:
                warn(generation.file, replace(error.finding, rule="M-042"))


_IN_GENERATION: Mapping[str, tuple[str, ...]] = {
    "sampling.temp": ("temperature",),
    "sampling.penalty_repeat": ("penalty_repeat", "repetition_penalty"),
}
"""Fields whose keys in generation_config.json differ from their own; the first that can be read counts."""


def _whole(generation: Document, key: str) -> int:
    return generation.integer(key, minimum=-(2**31))


_SAMPLING_READERS: Mapping[Kind, Callable[[Document, str], str | int | float]] = {
    Kind.TEXT: Document.text,
    Kind.WHOLE: _whole,
    Kind.NUMBER: Document.number,
}
