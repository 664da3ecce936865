"""A whole file as a state_dict, with transformers' names and row orders."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch

from gguflow.runtime import open_model
from gguflow.runtime.checkpoint import checkpoint_tensors
from gguflow.torch.decoding import decode, own_type, require_floats


def state_dict(path: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """All tensors of a GGUF file (the first of several shards), decoded to `dtype`; see `named_tensors`."""
    return dict(named_tensors(path, dtype))


def named_tensors(
    path: str | os.PathLike[str], dtype: torch.dtype = torch.float32
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a GGUF file one by one, as (name, tensor), so that only those kept stay in memory.

    If the architecture is known, names, shapes and row orders are those of transformers' checkpoint; computed
    tensors are left out, and tied tensors appear once. A tensor that already has the wanted type is mapped
    from the file: writing to it changes the process's copy of the page, never the file. Tensors of integers
    and of F64 keep their type.

    path: the file, or the first of several shards.
    dtype: type of the decoded weights.

    Raises what `gguflow.open` raises, UsageError for an integer `dtype`, UnsupportedError (C-016) for a
    tensor of unknown format.
    """
    require_floats(dtype)
    with open_model(path) as model:
        sizes = {file: nbytes for file, (nbytes, _) in zip(model.files, model.place[2], strict=True)}
        maps: dict[str, torch.UntypedStorage] = {}
        for name, tensor in checkpoint_tensors(model).items():
            file = tensor.stored.path
            own = own_type(tensor)
            if (
                own is None
                or not tensor.is_as_stored
                or (own != dtype and own in (torch.float32, torch.float16, torch.bfloat16))
            ):
                yield name, decode(tensor, dtype)
                continue
            if file not in maps:
                maps[file] = torch.UntypedStorage.from_file(file, False, sizes[file])
            yield (
                name,
                torch.empty(0, dtype=own).set_(
                    maps[file], tensor.stored.offset // own.itemsize, tensor.shape
                ),
            )
