"""x times the transposed packed matrix as a torch operation, with the gradient for x."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from gguflow.torch.decoding import Weights, decode

FEW = 16
"""The most vectors for the packed product; for more, decoding the weights for torch's product is faster."""

TILE = 1 << 22
"""Weights decoded at a time for torch's own product: 16 MiB of float32."""


class PackedProduct(torch.autograd.Function):
    """x[..., n] -> dtype[..., rows], with a first-order gradient for x and none for the packed weights.

    A few vectors (decoding) are multiplied directly from the blocks, many (a prompt) with tiles of decoded
    rows; on the CPU in float32.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weights: Weights, dtype: torch.dtype) -> torch.Tensor:
        ctx.weights, ctx.x_dtype = weights, x.dtype
        if x.device.type == "cpu" and x.numel() <= FEW * x.shape[-1]:
            product = weights.matmul(x.detach().float().contiguous().numpy(), threads=torch.get_num_threads())
            return torch.from_numpy(product).to(dtype)
        sums = _sum_type(x.device, dtype)
        result = x.new_empty((*x.shape[:-1], weights.shape[0]), dtype=dtype)
        for rows, tile in _tiles(weights, sums, x.device):
            result[..., rows] = x.to(sums) @ tile.T
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """The gradient times the matrix, by tiles; float32 on the CPU, elsewhere the gradient's type."""
        dtype = _sum_type(gradient.device, gradient.dtype)
        result = gradient.new_zeros((*gradient.shape[:-1], ctx.weights.shape[1]), dtype=torch.float32)
        for rows, tile in _tiles(ctx.weights, dtype, gradient.device):
            result += gradient[..., rows].to(dtype) @ tile
        return result.to(ctx.x_dtype), None, None


def _sum_type(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The type in which products are computed: float32 on the CPU, elsewhere the given one."""
    return torch.float32 if device.type == "cpu" else dtype


def _tiles(
    weights: Weights, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Tiles of decoded rows: the range of rows, and the weights [rows, n]."""
    n_rows, n = weights.shape
    step = max(TILE // max(n, 1), 1)
    for first in range(0, n_rows, step):
        rows = slice(first, min(first + step, n_rows))
        yield rows, decode(weights, dtype, rows).to(device)
