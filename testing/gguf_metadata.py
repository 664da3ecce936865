"""The keys `general.*` as gguf, llama.cpp's own library, makes them: what ours are held against."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from gguflow.container.metadata import Metadata, ValueType
from gguflow.models.general import ParameterCounts


def loaded_by_gguf(
    directory: Path, counts: ParameterCounts, metadata_file: Path | None = None, name: str | None = None
) -> dict[str, Any]:
    """The keys of a checkpoint's directory, as convert_hf_to_gguf.py writes them.

    directory: of the checkpoint.
    counts: of its tensors.
    metadata_file: of `--metadata`.
    name: of `--model-name`.
    """
    found = gguf.Metadata.load(metadata_file, directory, name, counts.total)
    overridden = {} if metadata_file is None else json.loads(metadata_file.read_text())
    generation = directory / "generation_config.json"
    if generation.is_file() and "general.sampling.penalty_repeat" not in overridden:
        said = json.loads(generation.read_text())  # gguf 0.19 does not know transformers' name
        found.sampling_penalty_repeat = said.get("penalty_repeat", said.get("repetition_penalty"))
    if found.size_label is None and counts.total > 0:
        found.size_label = gguf.size_label(counts.total, counts.shared, counts.expert, counts.n_experts)
    found.name = found.name or directory.name
    return written_by_gguf(found)


def written_by_gguf(found: Any) -> dict[str, Any]:
    """The keys that gguf writes for its `Metadata`."""
    writer = gguf.GGUFWriter(None, "llama")
    writer.add_type(gguf.GGUFType.MODEL)
    found.set_gguf_meta_model(writer)
    kinds = {key: ValueType(int(value.type)) for key, value in writer.kv_data[0].items()}
    return {
        key: (kinds[key], float(np.float32(value.value)) if kinds[key] is ValueType.FLOAT32 else value.value)
        for key, value in writer.kv_data[0].items()
    }


def typed(metadata: Metadata) -> dict[str, Any]:
    """Ours in the same form."""
    return {
        key: (value.type, list(value.value) if value.element_type is not None else value.value)
        for key, value in metadata.items()
    }
