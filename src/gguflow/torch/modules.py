"""Modules that compute from packed blocks and replace nn.Linear and nn.Embedding.

The blocks are neither parameters nor buffers: they stay in the mapped file, shared by all processes that have
it open, regardless of `.to()`. Modules pickle and copy the location of their blocks.
"""

from __future__ import annotations

import torch
from torch import nn

from gguflow.errors import ShapeError, UsageError, printable
from gguflow.torch.decoding import Weights, decode, format_name, own_type, require_floats
from gguflow.torch.product import PackedProduct


class _Packed(nn.Module):
    """A matrix of an open model.

    compute_dtype: type of the output activations; `.to(dtype)`, `.half()` and the like change it.

    Raises ShapeError if the tensor is not a matrix, UnsupportedError if its format is unknown, UsageError if
    it holds integers or compute_dtype is an integer type.
    """

    def __init__(self, tensor: Weights, compute_dtype: torch.dtype) -> None:
        super().__init__()
        if len(tensor.shape) != 2:
            raise ShapeError(f"{printable(tensor.name)} has shape {list(tensor.shape)}; a matrix is needed")
        require_floats(compute_dtype)
        own = own_type(tensor)
        if own is not None and not own.is_floating_point:
            raise UsageError(
                f"{printable(tensor.name)} is {tensor.format}: integers, not the weights of a layer"
            )
        self.tensor = tensor
        self.nbytes = tensor.nbytes
        self._like = nn.Buffer(torch.empty(0, dtype=compute_dtype), persistent=False)  # moves with the module

    @property
    def compute_dtype(self) -> torch.dtype:
        return self._like.dtype

    def _shown(self) -> str:
        return f"{format_name(self.tensor)}, {self.nbytes} bytes, compute_dtype={self.compute_dtype}"


class GGUFLinear(_Packed):
    """`nn.Linear` on a packed matrix: x[..., in_features] -> compute_dtype[..., out_features].

    x can have any float type. On the CPU a few vectors are multiplied directly from the blocks
    (`gguflow.matmul`), many with tiles of decoded rows, in float32; on other devices tiles are copied there
    and multiplied in compute_dtype. There is a gradient for x, but none for the packed weights.

    tensor: [out_features, in_features], of an open model; or its `CheckpointTensor`, in its own row order.
    bias: [out_features], or None; a Parameter stays one.
    """

    def __init__(
        self, tensor: Weights, bias: torch.Tensor | None = None, compute_dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(tensor, compute_dtype)
        self.out_features, self.in_features = tensor.shape
        if bias is not None and tuple(bias.shape) != (self.out_features,):
            raise ShapeError(
                f"the bias of {printable(tensor.name)} has shape {list(bias.shape)}; "
                f"{self.out_features} outputs need [{self.out_features}]"
            )
        is_parameter = bias is None or isinstance(bias, nn.Parameter)
        self.register_parameter("bias", bias if is_parameter else nn.Parameter(bias, requires_grad=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply x. Raises ShapeError if it does not have in_features columns."""
        if x.shape[-1:] != (self.in_features,):
            raise ShapeError(
                f"{printable(self.tensor.name)} takes x[..., {self.in_features}], not x{list(x.shape)}"
            )
        product = PackedProduct.apply(x, self.tensor, self.compute_dtype)
        return product if self.bias is None else product + self.bias.to(product.dtype)

    def extra_repr(self) -> str:
        features = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{features}, bias={self.bias is not None}, {self._shown()}"


class GGUFEmbedding(_Packed):
    """`nn.Embedding` on a packed matrix: integers [...] -> compute_dtype[..., embedding_dim].

    Only the requested rows are decoded, each once.

    tensor: [num_embeddings, embedding_dim], of an open model.
    padding_idx: only stored, since there is no gradient.
    """

    def __init__(
        self, tensor: Weights, padding_idx: int | None = None, compute_dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(tensor, compute_dtype)
        self.num_embeddings, self.embedding_dim = tensor.shape
        self.padding_idx = padding_idx

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Look up ids. Raises IndexError if one is not in the vocabulary."""
        rows, places = torch.unique(ids, return_inverse=True)
        if len(rows) and not 0 <= int(rows[0]) <= int(rows[-1]) < self.num_embeddings:
            raise IndexError(
                f"{printable(self.tensor.name)} has {self.num_embeddings} rows; "
                f"the ids are {int(rows[0])} to {int(rows[-1])}"
            )
        return decode(self.tensor, self.compute_dtype, rows.cpu().numpy()).to(ids.device)[places]

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, {self._shown()}"
