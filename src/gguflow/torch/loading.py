"""A model's own layers replaced by packed ones, and everything else that it keeps loaded from the file."""

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
    """Put the weights of a GGUF file into a model of transformers: its nn.Linear and nn.Embedding become
    modules on the packed blocks.

    model: with weights of its own, which are let go, or built on the meta device, without any. Changed in
    place, and returned; its mode (train or eval) stays. source: a path (of several shards, the first), or a
    model opened with `gguflow.open`, which must then stay open.
    compute_dtype: of the activations; None for the type that the replaced weights have. Norms, biases and
    other tensors are decoded to the type that the model has for them. Weights that are tied in the model need
    to be in the file once.
    strict: whether tensors that are missing in the file, or that the model has no place for, are an error;
    else those stay as they are.

    Raises MismatchError with their names, ShapeError with the first whose shape differs (the model is then as
    it was), UsageError where something on the meta device is left without values, and what `gguflow.open`
    raises.
    """
    opened = source if isinstance(source, Model) else open_model(source)
    try:
        slots = list(_slots(model))
        tensors = checkpoint_tensors(opened)
        found = _matched(slots, tensors, getattr(model, "base_model_prefix", ""))
        if strict:
            _refuse_differences(slots, found, tensors, opened.path)
        for slot in slots:
            if slot.name in found and found[slot.name].shape != tuple(slot.value.shape):
                shape = list(found[slot.name].shape)
                raise ShapeError(
                    f"{opened.path} has {printable(slot.name)} as {shape}, the model has {list(slot.value.shape)}"
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
    """Where a model keeps a parameter or a persistent buffer: the module, its name and the attribute."""

    module: nn.Module
    path: str
    attribute: str
    value: torch.Tensor

    @property
    def name(self) -> str:
        return f"{self.path}.{self.attribute}" if self.path else self.attribute


def _slots(model: nn.Module) -> Iterator[_Slot]:
    """All of them, those of tied weights and shared modules under each name."""
    for path, module in model.named_modules(remove_duplicate=False):
        kept = {
            name: value
            for name, value in module._buffers.items()
            if name not in module._non_persistent_buffers_set
        }
        for name, value in {**module._parameters, **kept}.items():
            if value is not None:
                yield _Slot(module, path, name, value)


def _matched(
    slots: list[_Slot], tensors: Mapping[str, CheckpointTensor], prefix: str
) -> dict[str, CheckpointTensor]:
    """For each name in the model, its tensor in the file. prefix: what names have where the model has a head,
    and lack where it has none.
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
    """Replace the layers, then give values to what is left."""
    replaced: dict[int, nn.Module] = {}
    for slot in slots:
        if slot.attribute == "weight" and slot.name in found and slot.path and _is_plain(slot.module):
            if id(slot.module) not in replaced:
                dtype = compute_dtype or slot.value.dtype
                replaced[id(slot.module)] = _packed(slot.module, found[slot.name], dtype).train(
                    slot.module.training
                )
            parent, _, name = slot.path.rpartition(".")
            setattr(model.get_submodule(parent), name, replaced[id(slot.module)])
    filled: dict[int, torch.Tensor] = {}
    for slot in slots:
        is_packed = id(slot.module) in replaced
        if slot.name in found and not (is_packed and slot.attribute == "weight"):
            if id(slot.value) not in filled:
                filled[id(slot.value)] = _decoded(slot.value, found[slot.name])
            setattr(replaced.get(id(slot.module), slot.module), slot.attribute, filled[id(slot.value)])
    empty = [slot.name for slot in _slots(model) if slot.value.is_meta]
    if empty:
        raise UsageError(f"on the meta device, and not in the file: {listed(empty)}")


def _is_plain(module: nn.Module) -> bool:
    """Whether it is exactly the layer that a packed one stands for: subclasses may compute something else."""
    return type(module) is nn.Linear or (type(module) is nn.Embedding and module.max_norm is None)


def _packed(module: nn.Module, tensor: CheckpointTensor, dtype: torch.dtype) -> nn.Module:
    """The layer's counterpart, on its device; the bias is that of the layer still."""
    is_embedding = isinstance(module, nn.Embedding)
    packed = (
        GGUFEmbedding(tensor, module.padding_idx, dtype) if is_embedding else GGUFLinear(tensor, None, dtype)
    )
    if not module.weight.is_meta:
        packed.to(module.weight.device)
    if not is_embedding:
        packed.bias = module.bias
    return packed


def _decoded(value: torch.Tensor, tensor: CheckpointTensor) -> torch.Tensor:
    """The tensor in the type and on the device of what it replaces."""
    weights = decode(tensor, value.dtype).to("cpu" if value.is_meta else value.device)
    return (
        nn.Parameter(weights, requires_grad=value.requires_grad)
        if isinstance(value, nn.Parameter)
        else weights
    )


def _fill_buffers(model: nn.Module) -> None:
    """Buffers that no file has (rope frequencies, positions) and that have no values on the meta device:
    computed by transformers' own rule.
    """
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
                f"on the meta device, and only the model's class could say what they hold: {listed(left)}; build the model on the CPU"
            )


def _unset(dtype: torch.dtype) -> float | int:
    """What no buffer holds, to see afterwards whether it has been filled."""
    if dtype.is_floating_point or dtype.is_complex:
        return float("nan")
    return 0 if dtype == torch.bool else torch.iinfo(dtype).min


def _is_unset(buffer: torch.Tensor) -> bool:
    """Whether some of it is as `_unset` has it; of truth values nothing can tell."""
    return buffer.dtype == torch.bool or bool(((buffer != buffer) | (buffer == _unset(buffer.dtype))).any())
