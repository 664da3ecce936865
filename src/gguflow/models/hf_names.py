"""Hugging Face names of the tensors of a GGUF file, and the order of their rows in a checkpoint."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gguflow.errors import Finding, InvalidError
from gguflow.models.architecture import MAX_LAYERS, Architecture
from gguflow.models.base import Model, ModelTensor, RopeOrder, Sizes
from gguflow.sources.base import SourceTensor


@dataclass(frozen=True)
class HfTensor:
    """A tensor of a checkpoint, and the GGUF tensor that holds it.

    name: in the checkpoint.
    gguf_name: in the file.
    expert: its index in the first axis of the GGUF tensor, or None if it is the whole tensor.
    row_order: how the stored rows are rearranged for the checkpoint, or None.
    """

    name: str
    gguf_name: str
    expert: int | None = None
    row_order: RopeOrder | None = None


def originals(
    sizes: Sizes, architecture: Architecture | None, shapes: Mapping[str, tuple[int, ...]], path: Path
) -> Iterator[HfTensor]:
    """The tensors of a GGUF file as transformers names them: experts one by one, Q and K in its row order.

    Tensors that the architecture computes are left out; unknown ones keep their names.

    sizes: of the model.
    architecture: its family; None keeps all names.
    shapes: of the stored tensors by name, in the file's order.
    path: of the file, for messages.

    Raises InvalidError if the number of heads is missing or does not divide the rows (M-002, M-003).
    """
    names = _original_names(architecture, min(sizes.n_layers, MAX_LAYERS)) if architecture else {}
    for stored, shape in shapes.items():
        base, dot, suffix = stored.rpartition(".")
        if architecture is not None and stored in architecture.computed_names:
            continue
        if base not in names or suffix not in ("weight", "bias") or not shape:
            yield HfTensor(stored, stored)
        elif "{x}" in names[base]:
            yield from (
                HfTensor(names[base].replace("{x}", str(i)) + dot + suffix, stored, expert=i)
                for i in range(shape[0])
            )
        else:
            order = (
                _way_back(sizes, stored, shape, path)
                if architecture and architecture.has_rope_order
                else None
            )
            yield HfTensor(names[base] + dot + suffix, stored, row_order=order)


def original_tensors(model: Model, architecture: Architecture | None, path: Path) -> tuple[ModelTensor, ...]:
    """The tensors of a GGUF file with the names and row orders of `originals`."""
    stored = {tensor.name: tensor for tensor in model.tensors}
    return tuple(
        _expert(stored[found.gguf_name], found.expert, found.name)
        if found.expert is not None
        else replace(stored[found.gguf_name], name=found.name, row_order=found.row_order)
        for found in originals(
            model.sizes, architecture, {name: tensor.shape for name, tensor in stored.items()}, path
        )
    )


def _original_names(architecture: Architecture, n_layers: int) -> dict[str, str]:
    """Original names by GGUF names, both without .weight and .bias; {x} in an original name is the expert."""
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


def _expert(tensor: ModelTensor, i: int, name: str) -> ModelTensor:
    """Matrix i of a stacked tensor [experts, rows, n], as a part of its source."""
    (source,) = tensor.sources
    shape = tensor.shape[1:]
    if source.stored is not None:  # the digest of the first covers all of it
        part = replace(
            source,
            shape=shape,
            stored=source.stored.beginning_at(i * math.prod(shape)),
            proof=source.proof if i == 0 else None,
        )
        return ModelTensor(name, shape, (part,))
    block_format = source.require_format()
    nbytes = block_format.nbytes(math.prod(shape))
    part = SourceTensor(
        source.name, block_format, shape, source.file, source.offset + i * nbytes, source.dtype
    )
    return ModelTensor(name, shape, (part,))


def _way_back(sizes: Sizes, name: str, shape: tuple[int, ...], path: Path) -> RopeOrder | None:
    """The inverse of GGUF's row order for query and key projections; None for other tensors."""
    match = re.fullmatch(r"blk\.\d+\.attn_([qk])\.(weight|bias)", name)
    if match is None:
        return None
    n_heads, key = (
        (sizes.n_heads, "head_count")
        if match[1] == "q"
        else (sizes.n_kv_heads or sizes.n_heads, "head_count_kv")
    )
    where = f"$.metadata['{sizes.architecture}.attention.{key}']"
    if not n_heads:
        raise InvalidError(
            path,
            Finding("M-002", f"the rows of {name} cannot be reordered without the number of heads", where),
        )
    if shape[0] % (2 * n_heads):
        message = f"the rows of {name} do not divide into heads of even width"
        raise InvalidError(
            path, Finding("M-003", message, where, found=n_heads, expected=f"a divisor of {shape[0] // 2}")
        )
    return RopeOrder(n_heads, is_inverse=True)
