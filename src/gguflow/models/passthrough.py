"""Models whose tensors keep their names: checkpoints without a known architecture, and GGUF files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from gguflow.container.integrity import SOURCE_CLASS_KEY
from gguflow.container.metadata import Metadata, ValueType, string
from gguflow.container.shards import ShardName
from gguflow.errors import Finding, InvalidError
from gguflow.models.base import Model, ModelTensor, Sizes
from gguflow.models.known_architectures import KNOWN_TO_LLAMA_CPP
from gguflow.models.output_name import stem_from_gguf, stem_from_path
from gguflow.sources.base import Checkpoint, SourceTensor, json_path
from gguflow.sources.links import repository_id
from gguflow.sources.safetensors import MAX_DIMENSIONS
from gguflow.sources.weights import Shard, is_index

_INTEGERS = (ValueType.INT32, ValueType.UINT32, ValueType.INT64, ValueType.UINT64)


def pass_through(checkpoint: Checkpoint, architecture: str) -> Model:
    """All tensors under their own names, with `general.architecture` and `general.name` as the only keys.

    Tools for diffusion models, for example, read such files: they use the original names.
    """
    name = _name(checkpoint.path)
    return Model(
        architecture=architecture,
        metadata={"general.architecture": string(architecture), "general.name": string(name)},
        tensors=_unchanged(checkpoint, architecture),
        file_stem=stem_from_path(name),
    )


def _name(path: Path) -> str:
    """What a checkpoint is called, by its path: a snapshot of a Hugging Face cache after its repository."""
    directory = path if path.is_dir() else path.parent
    shard = Shard.of(path.name)
    if (repository := repository_id(directory)) and (path == directory or is_index(path.name)):
        return repository.rpartition("/")[2]
    if path == directory:
        return path.resolve().name
    return shard.stem if shard is not None else path.name.partition(".")[0]


def from_gguf(checkpoint: Checkpoint, metadata: Metadata) -> Model:
    """The model in a GGUF file, of any architecture: all tensors, and all keys but those about shards.

    metadata: of the file, or of its first shard.
    """
    sizes = sizes_of(metadata)
    return Model(
        metadata={key: value for key, value in metadata.items() if not key.startswith("split.")},
        tensors=_unchanged(checkpoint, sizes.architecture),
        is_final=True,
        file_stem=_gguf_stem(checkpoint),
        source_class=source_class(metadata),
        **sizes._asdict(),
    )


def source_class(metadata: Metadata) -> str:
    """The class of the checkpoint that a GGUF file was made from, "" where it does not say it.

    metadata: of the file.
    """
    said = metadata.get(SOURCE_CLASS_KEY)
    return str(said.value) if said is not None and said.type is ValueType.STRING else ""


def _unchanged(checkpoint: Checkpoint, architecture: str) -> tuple[ModelTensor, ...]:
    """The tensors under their own names. Dimensions of one at the front are kept, unless llama.cpp knows the
    architecture: its tools leave them out.
    """
    sources = checkpoint.tensors.values()
    keeps_ones = False
    if any(len(source.shape) > 1 and source.shape[0] == 1 for source in sources):
        keeps_ones = architecture not in KNOWN_TO_LLAMA_CPP
    return tuple(
        ModelTensor(source.name, source.shape, (source,), keeps_ones=keeps_ones) for source in sources
    )


def with_original_shapes(model: Model, path: Path) -> Model:
    """The model with the shapes that its tensors had in their checkpoint, where the file says so: converters
    for ComfyUI store some tensors in another shape, and the original as `comfy.gguf.orig_shape.NAME`.

    model: of a GGUF file.
    path: of the file, for messages.

    Raises InvalidError (M-062) if an original shape is not one of the same number of weights.
    """
    tensors = []
    for tensor in model.tensors:
        key = f"comfy.gguf.orig_shape.{tensor.name}"
        value = model.metadata.get(key)
        if value is None:
            tensors.append(tensor)
            continue
        is_shape = value.element_type in _INTEGERS and 0 < len(value.value) <= MAX_DIMENSIONS
        shape = tuple(int(n) for n in value.value) if is_shape else ()
        if not shape or min(shape) < 1 or math.prod(shape) != tensor.n_weights:
            message = f"the original shape of {tensor.name} is not one of its {tensor.n_weights} weights"
            found = list(value.value[:MAX_DIMENSIONS]) if value.element_type is not None else value.value
            raise InvalidError(path, Finding("M-062", message, f"$.metadata[{key!r}]", found=found))
        tensors.append(replace(tensor, shape=shape))
    return replace(model, tensors=tuple(tensors))


def sizes_of(metadata: Metadata) -> Sizes:
    """The sizes that the keys of a GGUF file give."""
    text = metadata.get("general.architecture")
    architecture = str(text.value) if text is not None and text.type is ValueType.STRING else ""
    heads, kv_heads = f"{architecture}.attention.head_count", f"{architecture}.attention.head_count_kv"
    return Sizes(
        architecture,
        n_layers=_first_integer(metadata, f"{architecture}.block_count"),
        n_heads=_first_integer(metadata, heads),
        n_kv_heads=_first_integer(metadata, kv_heads if kv_heads in metadata else heads),
        n_experts=_first_integer(metadata, f"{architecture}.expert_count"),
    )


def _first_integer(metadata: Metadata, key: str) -> int:
    """The number under a key, the first of an array of numbers, or 0 if there is none."""
    value = metadata.get(key)
    kind = None if value is None else value.element_type or value.type
    if value is None or kind in (ValueType.STRING, ValueType.FLOAT32, ValueType.FLOAT64, ValueType.BOOL):
        return 0
    numbers = value.value if value.type is ValueType.ARRAY else (value.value,)
    return int(numbers[0]) if len(numbers) else 0


def _gguf_stem(checkpoint: Checkpoint) -> str:
    """The stem for the checkpoint's file: `Model-{type}` for `Model-BF16-00001-of-00003.gguf`."""
    shard = ShardName.of(checkpoint.path) if len(checkpoint.files) > 1 else None
    return stem_from_gguf(shard.stem if shard else checkpoint.path.name.removesuffix(".gguf"))


def strip(checkpoint: Checkpoint, prefix: str) -> Checkpoint:
    """The checkpoint with `prefix` removed from names. Raises InvalidError (M-013) if names collide."""
    tensors: dict[str, SourceTensor] = {}
    for source in checkpoint.tensors.values():
        name = source.name.removeprefix(prefix)
        if name in tensors:
            message = f"without the prefix {prefix!r} two tensors are called {name!r}"
            raise InvalidError(source.file.path, Finding("M-013", message, json_path(source.name)))
        tensors[name] = replace(source, name=name)
    return replace(checkpoint, tensors=tensors)
