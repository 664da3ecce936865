"""The way back: what a checkpoint would call the tensors of a GGUF file, and in what order it would keep their rows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from gguflow.errors import Finding, InvalidError
from gguflow.models.architecture import MAX_LAYERS, Architecture
from gguflow.models.base import Model, ModelTensor, RopeOrder
from gguflow.sources.base import SourceTensor


def original_tensors(model: Model, architecture: Architecture | None, path: Path) -> tuple[ModelTensor, ...]:
    """The tensors of a GGUF file under the names that transformers gives them: experts one by one, Q and K in the checkpoint's order.

    A tensor that the architecture computes is left out, one that it does not know keeps its name; so do all where architecture is None.
    path: of the file, for messages. Raises InvalidError where the number of heads is missing or does not divide the rows (M-002, M-003).
    """
    if architecture is None:
        return model.tensors
    names = _original_names(architecture, min(model.n_layers, MAX_LAYERS))
    tensors: list[ModelTensor] = []
    for tensor in model.tensors:
        base, dot, suffix = tensor.name.rpartition(".")
        if tensor.name in architecture.computed_names:
            continue
        if base not in names or suffix not in ("weight", "bias"):
            tensors.append(tensor)
        elif "{x}" in names[base]:
            tensors += _one_by_one(tensor, names[base] + dot + suffix)
        else:
            order = _way_back(model, tensor, path) if architecture.has_rope_order else None
            tensors.append(replace(tensor, name=names[base] + dot + suffix, row_order=order))
    return tuple(tensors)


def _original_names(architecture: Architecture, n_layers: int) -> dict[str, str]:
    """GGUF name -> the original one, both without .weight and .bias; in an original name, {x} stands for the expert."""
    import gguf

    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    names = gguf.get_tensor_name_map(arch, n_layers)
    found: dict[str, str] = {}
    for template in architecture.originals:
        for layer in range(n_layers if "{i}" in template else 1):
            original = template.replace("{i}", str(layer))
            name = names.get_name(original.replace(".{x}", ""))
            if name is not None:
                found.setdefault(name, original)
    return found


def _one_by_one(tensor: ModelTensor, original: str) -> Iterator[ModelTensor]:
    """The matrices that are stacked in a tensor [experts, rows, n], as parts of its source."""
    (source,) = tensor.sources
    shape = tensor.shape[1:]
    block_format = source.require_format()
    nbytes = math.prod(shape) // block_format.block_size * block_format.type_size
    for i in range(tensor.shape[0]):
        part = SourceTensor(source.name, block_format, shape, source.file, source.offset + i * nbytes, source.dtype)
        yield ModelTensor(original.replace("{x}", str(i)), shape, (part,))


def _way_back(model: Model, tensor: ModelTensor, path: Path) -> RopeOrder | None:
    """For the query and key projections, the inverse of the order in which GGUF keeps their rows."""
    match = re.fullmatch(r"blk\.\d+\.attn_([qk])\.(weight|bias)", tensor.name)
    if match is None:
        return None
    n_heads, key = (model.n_heads, "head_count") if match[1] == "q" else (model.n_kv_heads or model.n_heads, "head_count_kv")
    where = f"$.metadata['{model.architecture}.attention.{key}']"
    if not n_heads:
        raise InvalidError(path, Finding("M-002", f"the rows of {tensor.name} cannot be put in order without the number of heads", where))
    if tensor.shape[0] % (2 * n_heads):
        message = f"the rows of {tensor.name} do not divide into heads of even width"
        raise InvalidError(path, Finding("M-003", message, where, found=n_heads, expected=f"a divisor of {tensor.shape[0] // 2}"))
    return RopeOrder(n_heads, is_inverse=True)
