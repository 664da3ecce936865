"""x times the transposed packed matrix as an operation of torch's, with the gradient for x."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from gguflow.torch.decoding import Weights, decode

TILE = 1 << 22
"""Weights that are decoded at a time where a product is torch's own: 16 MiB of float32."""


class PackedProduct(torch.autograd.Function):
    """x[..., n] -> dtype[..., rows]. The weights take no gradient: they are packed; x may, once (not twice)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weights: Weights, dtype: torch.dtype) -> torch.Tensor:
        ctx.weights, ctx.x_dtype = weights, x.dtype
        if x.device.type == "cpu":
            product = weights.matmul(x.detach().float().contiguous().numpy(), threads=torch.get_num_threads())
            return torch.from_numpy(product).to(dtype)
        result = x.new_empty((*x.shape[:-1], weights.shape[0]), dtype=dtype)
        for rows, tile in _tiles(weights, dtype, x.device):
            result[..., rows] = x.to(dtype) @ tile.T
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """The gradient times the matrix, tile by tile; in float32 on the CPU, elsewhere in the gradient's own type."""
        dtype = torch.float32 if gradient.device.type == "cpu" else gradient.dtype
        result = gradient.new_zeros((*gradient.shape[:-1], ctx.weights.shape[1]), dtype=torch.float32)
        for rows, tile in _tiles(ctx.weights, dtype, gradient.device):
            result += gradient[..., rows].to(dtype) @ tile
        return result.to(ctx.x_dtype), None, None


def _tiles(weights: Weights, dtype: torch.dtype, device: torch.device) -> Iterator[tuple[slice, torch.Tensor]]:
    """Some rows at a time, decoded: which, and the weights [rows, n]."""
    n_rows, n = weights.shape
    step = max(TILE // max(n, 1), 1)
    for first in range(0, n_rows, step):
        rows = slice(first, min(first + step, n_rows))
        yield rows, decode(weights, dtype, rows).to(device)
