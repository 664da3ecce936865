"""A whole file as a state_dict, under the names and in the row orders that transformers has."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch

from gguflow.runtime import open_model
from gguflow.runtime.checkpoint import checkpoint_tensors
from gguflow.torch.decoding import decode, own_type, require_floats


def state_dict(path: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """All tensors of a GGUF file (of several shards, the first), decoded to `dtype`; see `named_tensors`."""
    return dict(named_tensors(path, dtype))


def named_tensors(
    path: str | os.PathLike[str], dtype: torch.dtype = torch.float32
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a GGUF file one by one, as (name, tensor): only what the caller keeps stays in memory.

    Names, shapes and the order of rows are those of transformers' checkpoint, where the architecture is
    known; tensors that it computes are left out, and one that is tied to another appears once. What has the
    wanted type already is the file itself, mapped: writing to it changes the process's copy of the page,
    never the file. Tensors of integers and of F64 keep their type.
    Raises what `gguflow.open` raises, UsageError for a `dtype` of integers, UnsupportedError (C-016) for a
    tensor whose format is not known.
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
                or tensor.row_order is not None
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
