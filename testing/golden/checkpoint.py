"""Writes the checkpoint that a recipe describes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from testing.golden import contents, tokenizers
from testing.golden.recipes import Recipe, Tensor


def write(recipe: Recipe, dtype: str, parent: Path) -> Path:
    """A directory with config.json, the tokenizer's files, side files and model.safetensors.

    recipe: what it holds.
    dtype: BF16, F16 or F32: of each tensor for which the recipe does not say another.
    parent: where it is made; its own name is the recipe's.
    """
    directory = parent / recipe.directory
    files: dict[str, Any] = {"config.json": recipe.config}
    files |= tokenizers.files(recipe.tokenizer)
    files |= recipe.files
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content, indent=1, ensure_ascii=False)
            path.write_text(text, encoding="utf-8")
    by_file: dict[str, list[Tensor]] = {"model.safetensors": []}
    for tensor in recipe.tensors:
        by_file.setdefault(tensor.settings.get("file", "model.safetensors"), []).append(tensor)
    for name, tensors in by_file.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(_safetensors(tensors, dtype))
    return directory


def _safetensors(tensors: Sequence[Tensor], dtype: str) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts = []
    offset = 0
    for tensor in tensors:
        settings = dict(tensor.settings)
        settings.pop("file", None)
        kind = settings.pop("dtype", dtype)
        data = contents.values(settings.pop("as", tensor.name), tensor.shape, kind, **settings)
        header[tensor.name] = {
            "dtype": kind,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(data)],
        }
        parts.append(data)
        offset += len(data)
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded + b"".join(parts)
