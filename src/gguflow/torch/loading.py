"""Replaces a model's layers with packed ones, and loads its other tensors from the file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from gguflow.errors import MismatchError, ShapeError, UsageError, listed, printable
from gguflow.runtime import Model, open_model
from gguflow.runtime.checkpoint import CheckpointTensor, checkpoint_tensors
from gguflow.torch.decoding import decode
from gguflow.torch.modules import GGUFEmbedding, GGUFLinear

M = TypeVar("M", bound=nn.Module)


def load_into(
    model: M,
    source: str | os.PathLike[str] | Model,
    *,
    compute_dtype: torch.dtype | None = None,
    strict: bool = True,
) -> M:
    """Load a GGUF file into a transformers model: nn.Linear and nn.Embedding become modules on packed blocks.

    Norms, biases and other tensors are decoded to the types that the model has for them. Weights that are
    tied in the model need to be in the file only once.

    model: with weights, which are replaced, or on the meta device; changed in place and returned, with its
        mode (train or eval) unchanged.
    source: a path (the first of several shards), or a model from `gguflow.open`, which must then stay open.
    compute_dtype: type of the activations; None for the type of the replaced weights.
    strict: whether tensors that are missing in the file or unknown to the model are an error; otherwise they
        are ignored.

    Raises MismatchError with their names, ShapeError for the first shape that differs (the model is then
    unchanged), UsageError if something on the meta device has no values, and what `gguflow.open` raises.
    """
    opened = source if isinstance(source, Model) else open_model(source)
    try:
        slots = list(_slots(model))
        tensors = checkpoint_tensors(opened)
        found = _match(slots, tensors, getattr(model, "base_model_prefix", ""))
        if strict:
            _refuse_differences(slots, found, tensors, opened.path)
        for slot in slots:
            if slot.name in found and found[slot.name].shape != tuple(slot.value.shape):
                shape = list(found[slot.name].shape)
                raise ShapeError(
                    f"{opened.path} has {printable(slot.name)} as {shape}, "
                    f"the model has {list(slot.value.shape)}"
                )
        _fill_buffers(model)
        _fill(model, slots, found, compute_dtype)
    except BaseException:
        if opened is not source:
            opened.close()
        raise
    return model


@dataclass(frozen=True)
class _Slot:
    """A parameter or persistent buffer of a model: its name, the module and the attribute."""

    module: nn.Module
    path: str
    attribute: str
    value: torch.Tensor

    @property
    def name(self) -> str:
        return f"{self.path}.{self.attribute}" if self.path else self.attribute


def _slots(model: nn.Module) -> Iterator[_Slot]:
    """All slots of a model; those of tied weights and shared modules under each of their names."""
    for path, module in model.named_modules(remove_duplicate=False):
        kept = {
            name: value
            for name, value in module._buffers.items()
            if name not in module._non_persistent_buffers_set
        }
        for name, value in {**module._parameters, **kept}.items():
            if value is not None:
                yield _Slot(module, path, name, value)


def _match(
    slots: list[_Slot], tensors: Mapping[str, CheckpointTensor], prefix: str
) -> dict[str, CheckpointTensor]:
    """The tensor in the file for each name in the model.

    prefix: of names in models with a head; models without one lack it.
    """
    found: dict[str, CheckpointTensor] = {}
    by_identity: dict[int, CheckpointTensor] = {}
    for slot in slots:
        spellings = (slot.name, f"{prefix}.{slot.name}", slot.name.removeprefix(f"{prefix}."))
        tensor = next((tensors[name] for name in spellings if name in tensors), None)
        if tensor is not None:
            found[slot.name] = tensor
            by_identity.setdefault(id(slot.value), tensor)
    for slot in slots:
        if slot.name not in found and id(slot.value) in by_identity:
            found[slot.name] = by_identity[id(slot.value)]
    return found


def _refuse_differences(
    slots: list[_Slot],
    found: Mapping[str, CheckpointTensor],
    tensors: Mapping[str, CheckpointTensor],
    path: str,
) -> None:
    missing = [slot.name for slot in slots if slot.name not in found]
    used = {tensor.name for tensor in found.values()}
    left_over = [name for name in tensors if name not in used]
    if missing or left_over:
        raise MismatchError(path, missing, left_over)


def _fill(
    model: nn.Module,
    slots: list[_Slot],
    found: Mapping[str, CheckpointTensor],
    compute_dtype: torch.dtype | None,
) -> None:
    """Replace the layers, then fill the other parameters and buffers."""
    replaced: dict[int, nn.Module] = {}
    for slot in slots:
        if slot.attribute == "weight" and slot.name in found and slot.path and _is_plain(slot.module):
            if id(slot.module) not in replaced:
                dtype = compute_dtype or slot.value.dtype
                replaced[id(slot.module)] = _pack(slot.module, found[slot.name], dtype).train(
                    slot.module.training
                )
            parent, _, name = slot.path.rpartition(".")
            setattr(model.get_submodule(parent), name, replaced[id(slot.module)])
    filled: dict[int, torch.Tensor] = {}
    for slot in slots:
        is_packed = id(slot.module) in replaced
        if slot.name in found and not (is_packed and slot.attribute == "weight"):
            if id(slot.value) not in filled:
                filled[id(slot.value)] = _decode(slot.value, found[slot.name])
            setattr(replaced.get(id(slot.module), slot.module), slot.attribute, filled[id(slot.value)])
    empty = [slot.name for slot in _slots(model) if slot.value.is_meta]
    if empty:
        raise UsageError(f"on the meta device, and not in the file: {listed(empty)}")


def _is_plain(module: nn.Module) -> bool:
    """Whether it is exactly a layer that can be replaced: subclasses may compute something else."""
    return type(module) is nn.Linear or (type(module) is nn.Embedding and module.max_norm is None)


def _pack(module: nn.Module, tensor: CheckpointTensor, dtype: torch.dtype) -> nn.Module:
    """The packed counterpart of a layer, on its device, with the layer's own bias."""
    is_embedding = isinstance(module, nn.Embedding)
    packed = (
        GGUFEmbedding(tensor, module.padding_idx, dtype) if is_embedding else GGUFLinear(tensor, None, dtype)
    )
    if not module.weight.is_meta:
        packed.to(module.weight.device)
    if not is_embedding:
        packed.bias = module.bias
    return packed


def _decode(value: torch.Tensor, tensor: CheckpointTensor) -> torch.Tensor:
    """The tensor, decoded to the type and device of the value that it replaces."""
    weights = decode(tensor, value.dtype).to("cpu" if value.is_meta else value.device)
    return (
        nn.Parameter(weights, requires_grad=value.requires_grad)
        if isinstance(value, nn.Parameter)
        else weights
    )


def _fill_buffers(model: nn.Module) -> None:
    """Compute buffers on the meta device that no file has (rope frequencies), as transformers does."""
    rule: Any = getattr(model, "_init_weights", lambda module: None)
    for path, module in model.named_modules():
        buffers = {name: module._buffers[name] for name in sorted(module._non_persistent_buffers_set)}
        empty = {name: buffer for name, buffer in buffers.items() if buffer is not None and buffer.is_meta}
        for name, buffer in empty.items():
            module._buffers[name] = torch.full_like(buffer, _unset(buffer.dtype), device="cpu")
        if empty:
            rule(module)
        left = [f"{path}.{name}" for name, buffer in empty.items() if _is_unset(module._buffers[name])]
        if left:
            raise UsageError(
                "on the meta device, and only the model's class can compute them: "
                f"{listed(left)}; build the model on the CPU"
            )


def _unset(dtype: torch.dtype) -> float | int:
    """A value that no buffer contains, to find out later whether it has been filled."""
    if dtype.is_floating_point or dtype.is_complex:
        return float("nan")
    return 0 if dtype == torch.bool else torch.iinfo(dtype).min


def _is_unset(buffer: torch.Tensor) -> bool:
    """Whether part of the buffer still has the value of `_unset`; unknown for booleans."""
    return buffer.dtype == torch.bool or bool(((buffer != buffer) | (buffer == _unset(buffer.dtype))).any())
