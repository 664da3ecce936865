"""Models that are passed on under their own names: checkpoints whose meaning is not known here, and GGUF
files, which say theirs themselves.
"""

from __future__ import annotations

import re
from dataclasses import replace

from gguflow.container.metadata import Metadata, ValueType, string
from gguflow.container.shards import ShardName
from gguflow.errors import Finding, InvalidError
from gguflow.models.base import Model, ModelTensor, Sizes
from gguflow.sources.base import Checkpoint, SourceTensor, json_path

# At the end of a file's name, what the community writes there: -F16, .Q4_K_M, -IQ2_XXS, -MXFP4_MOE.
_TYPE_IN_NAME = re.compile(r"[-._](BF16|F16|F32|I?Q\d_\w+|TQ\d_\d|MXFP4(_MOE)?|NVFP4)$", re.IGNORECASE)


def pass_through(checkpoint: Checkpoint, architecture: str) -> Model:
    """Every tensor under its own name, with `general.architecture` and `general.name` as the only keys.

    Tools for diffusion models and the like read such files: they know the tensors by the names of the
    original.
    """
    name = (
        checkpoint.path.resolve().name if checkpoint.path.is_dir() else checkpoint.path.name.partition(".")[0]
    )
    return Model(
        architecture=architecture,
        metadata={"general.architecture": string(architecture), "general.name": string(name)},
        tensors=tuple(
            ModelTensor(source.name, source.shape, (source,)) for source in checkpoint.tensors.values()
        ),
        file_stem=f"{name.replace('{', '-').replace('}', '-') or 'model'}-{{type}}",
    )


def from_gguf(checkpoint: Checkpoint, metadata: Metadata) -> Model:
    """What a GGUF file holds, of any architecture: every tensor, and every key but those that say which shard
    it is.

    metadata: of the file, or of its first shard.
    """
    return Model(
        metadata={key: value for key, value in metadata.items() if not key.startswith("split.")},
        tensors=tuple(
            ModelTensor(source.name, source.shape, (source,)) for source in checkpoint.tensors.values()
        ),
        is_final=True,
        file_stem=_gguf_stem(checkpoint),
        **sizes_of(metadata)._asdict(),
    )


def sizes_of(metadata: Metadata) -> Sizes:
    """What the keys of a GGUF file say."""
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
    """A number, or of one for each layer the first; 0 where there is none."""
    value = metadata.get(key)
    kind = None if value is None else value.element_type or value.type
    if value is None or kind in (ValueType.STRING, ValueType.FLOAT32, ValueType.FLOAT64, ValueType.BOOL):
        return 0
    numbers = value.value if value.type is ValueType.ARRAY else (value.value,)
    return int(numbers[0]) if len(numbers) else 0


def _gguf_stem(checkpoint: Checkpoint) -> str:
    """The file's name with the type in it replaced: of `Model-BF16-00001-of-00003.gguf`, `Model-{type}`."""
    shard = ShardName.of(checkpoint.path) if len(checkpoint.files) > 1 else None
    stem = (
        (shard.stem if shard else checkpoint.path.name.removesuffix(".gguf"))
        .replace("{", "-")
        .replace("}", "-")
    )
    return f"{_TYPE_IN_NAME.sub('', stem) or 'model'}-{{type}}"


def strip(checkpoint: Checkpoint, prefix: str) -> Checkpoint:
    """The same checkpoint without `prefix` on the names that have it. Raises InvalidError (M-013) where two
    names become one.
    """
    tensors: dict[str, SourceTensor] = {}
    for source in checkpoint.tensors.values():
        name = source.name.removeprefix(prefix)
        if name in tensors:
            message = f"without the prefix {prefix!r} two tensors are called {name!r}"
            raise InvalidError(source.file.path, Finding("M-013", message, json_path(source.name)))
        tensors[name] = replace(source, name=name)
    return replace(checkpoint, tensors=tensors)
