"""Modules that compute from packed blocks: what stands in a model for its nn.Linear and nn.Embedding.

The blocks are no parameter and no buffer: they stay in the mapped file, shared by all processes that have it
open, whatever `.to()` is called with. Modules pickle and copy as the place of their blocks.
"""

from __future__ import annotations

import torch
from torch import nn

from gguflow.errors import ShapeError, UsageError, printable
from gguflow.torch.decoding import Weights, decode, format_name, own_type, require_floats
from gguflow.torch.product import PackedProduct


class _Packed(nn.Module):
    """A matrix of an open model. compute_dtype: the type of the activations that come out; it follows
    `.to(dtype)`, `.half()` and the like.

    Raises ShapeError where the tensor is no matrix, UnsupportedError where its format is not known,
    UsageError where it holds integers or compute_dtype is a type of integers.
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
        self._like = nn.Buffer(
            torch.empty(0, dtype=compute_dtype), persistent=False
        )  # goes where the module is sent

    @property
    def compute_dtype(self) -> torch.dtype:
        return self._like.dtype

    def _shown(self) -> str:
        return f"{format_name(self.tensor)}, {self.nbytes} bytes, compute_dtype={self.compute_dtype}"


class GGUFLinear(_Packed):
    """`nn.Linear` on a packed matrix: x[..., in_features] -> compute_dtype[..., out_features].

    tensor: of an open model, [out_features, in_features]; or its `CheckpointTensor`, whose rows have another
    order than the file's.
    bias: [out_features], or None; a Parameter stays one.

    x of any float type. On the CPU a few vectors are multiplied straight from the blocks (`gguflow.matmul`),
    many with tiles of decoded rows, in float32; to other devices the tiles are sent and multiplied there in
    compute_dtype. The gradient for x is there, the packed weights have none.
    """

    def __init__(
        self, tensor: Weights, bias: torch.Tensor | None = None, compute_dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(tensor, compute_dtype)
        self.out_features, self.in_features = tensor.shape
        if bias is not None and tuple(bias.shape) != (self.out_features,):
            raise ShapeError(
                f"the bias of {printable(tensor.name)} has shape {list(bias.shape)}; {self.out_features} outputs need [{self.out_features}]"
            )
        is_parameter = bias is None or isinstance(bias, nn.Parameter)
        self.register_parameter("bias", bias if is_parameter else nn.Parameter(bias, requires_grad=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Raises ShapeError where x has not in_features columns."""
        if x.shape[-1:] != (self.in_features,):
            raise ShapeError(
                f"{printable(self.tensor.name)} takes x[..., {self.in_features}], not x{list(x.shape)}"
            )
        product = PackedProduct.apply(x, self.tensor, self.compute_dtype)
        return product if self.bias is None else product + self.bias.to(product.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, {self._shown()}"


class GGUFEmbedding(_Packed):
    """`nn.Embedding` on a packed matrix: integers [...] -> compute_dtype[..., embedding_dim]. Only the rows
    asked for are decoded, each once.

    tensor: of an open model, [num_embeddings, embedding_dim]. padding_idx: kept for those who ask for it;
    there is no gradient that it could stop.
    """

    def __init__(
        self, tensor: Weights, padding_idx: int | None = None, compute_dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(tensor, compute_dtype)
        self.num_embeddings, self.embedding_dim = tensor.shape
        self.padding_idx = padding_idx

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Raises IndexError where an id is not in the vocabulary."""
        rows, places = torch.unique(ids, return_inverse=True)
        if len(rows) and not 0 <= int(rows[0]) <= int(rows[-1]) < self.num_embeddings:
            raise IndexError(
                f"{printable(self.tensor.name)} has {self.num_embeddings} rows; asked for {int(rows[0])} to {int(rows[-1])}"
            )
        return decode(self.tensor, self.compute_dtype, rows.cpu().numpy()).to(ids.device)[places]

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, {self._shown()}"
