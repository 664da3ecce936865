"""Rounding with a gradient, for quantization-aware training: to a block format, or to a learned grid.

Straight-through: in the backward pass, rounding is the identity (Bengio, Léonard, Courville 2013, "Estimating
or Propagating Gradients Through Stochastic Neurons"). Learned: the gradients of Esser et al. 2020, "Learned
Step Size Quantization", for the scale, and of Bhalgat et al. 2020, "LSQ+", for the offset.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from gguflow import quantization
from gguflow.blocks import BlockFormat
from gguflow.blocks.families import find_encoding
from gguflow.errors import ShapeError, UsageError


def fake_quantize(
    x: torch.Tensor,
    format: str | BlockFormat,
    importance: torch.Tensor | None = None,
    limits: tuple[float, float] | None = None,
) -> torch.Tensor:
    """`gguflow.fake_quantize` for x[..., n], in its type and on its device, with a straight-through gradient.

    x: the weights.
    format: a block format or a parametric encoding.
    importance: float[n], for encoders that use it.
    limits: the range to represent; weights outside are clipped first and have no gradient. (A block format
        has no range of its own: it fits its scales to the weights.)

    Raises what `gguflow.fake_quantize` raises.
    """
    inside = x if limits is None else x.clamp(*limits)
    rounded: torch.Tensor = _StraightThrough.apply(inside, format, importance)
    return rounded


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, format: str | BlockFormat, importance: torch.Tensor | None
    ) -> torch.Tensor:
        weights = x.detach().to("cpu", torch.float32, copy=True).contiguous().numpy()
        columns = None if importance is None else importance.detach().to("cpu", torch.float32).numpy()
        quantization.fake_quantize(weights, format, columns, torch.get_num_threads(), out=weights)
        return torch.from_numpy(weights).to(x.device, x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradient, None, None


class FakeQuantize(nn.Module):
    """`fake_quantize` as a module, for `torch.nn.utils.parametrize.register_parametrization`."""

    def __init__(
        self,
        format: str | BlockFormat,
        importance: torch.Tensor | None = None,
        limits: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        encoding = find_encoding(format) if isinstance(format, str) else None
        if encoding is not None:
            self.format: str | BlockFormat = encoding.name
        else:
            self.format = quantization.resolve(format)
        self.limits = limits
        self.importance = nn.Buffer(importance) if importance is not None else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return fake_quantize(x, self.format, self.importance, self.limits)

    def extra_repr(self) -> str:
        return f"{self.format}" + (f", limits={self.limits}" if self.limits else "")


def learned_fake_quantize(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    low: int,
    high: int,
    gradient_scale: float = 1.0,
) -> torch.Tensor:
    """x on the grid scale * (q - z), q = low ... high, z = round(zero_point), with gradients for all three.

    scale, zero_point: any shape that broadcasts with x. With v = x / scale + z and q = round(clip(v, low,
    high)), ties to even:

        y          = scale * (q - z)
        dy/dx      = 1 if low <= v <= high, else 0
        dy/dscale  = q - z - x / scale there, else q - z          (Esser et al., equation 3)
        dy/dzero   = 0 there, else -scale                         (Bhalgat et al., section 3.1, whose offset
                   is -scale * zero)

    gradient_scale: a factor for the gradients of scale and zero_point, so that their steps match those of the
        weights (Esser et al., 2.2).
    """
    rounded: torch.Tensor = _LearnedRounding.apply(x, scale, zero_point, low, high, gradient_scale)
    return rounded


class _LearnedRounding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        scale: torch.Tensor,
        zero_point: torch.Tensor,
        low: int,
        high: int,
        gradient_scale: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, scale, zero_point)
        ctx.constants = low, high, gradient_scale
        zero = zero_point.round()
        return scale * ((x / scale + zero).clamp(low, high).round() - zero)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None, None]:
        x, scale, zero_point = ctx.saved_tensors
        low, high, gradient_scale = ctx.constants
        zero = zero_point.round()
        steps = x / scale
        is_inside = (steps + zero >= low) & (steps + zero <= high)
        level = (steps + zero).clamp(low, high).round() - zero
        for_scale = gradient * torch.where(is_inside, level - steps, level)
        for_zero = gradient * torch.where(is_inside, torch.zeros_like(scale), -scale)
        return (
            gradient * is_inside,
            for_scale.sum_to_size(scale.shape) * gradient_scale,
            for_zero.sum_to_size(zero_point.shape) * gradient_scale,
            None,
            None,
            None,
        )


class LearnedFakeQuantize(nn.Module):
    """A uniform grid of 2**bits values whose scale, and zero point unless `symmetric`, are parameters.

    If symmetric, the scale begins at 2 mean|x| / sqrt(high) (Esser et al., section 2.1); otherwise scale and
    zero point begin at the range of x, extended to include 0.

    x: the initial weights.
    bits: 1 to 8 with codes 0 to 2**bits - 1; if symmetric, 2 to 8 with codes -2**(bits - 1) to
        2**(bits - 1) - 1.
    symmetric: whether there is no zero point.
    per_row: whether each entry of x's first axis has its own scale and zero point.

    Raises UsageError, ShapeError.
    """

    def __init__(
        self, x: torch.Tensor, bits: int = 4, *, per_row: bool = False, symmetric: bool = False
    ) -> None:
        super().__init__()
        if not (2 if symmetric else 1) <= bits <= 8:
            raise UsageError(f"a learned grid has {2 if symmetric else 1} to 8 bits, not {bits}")
        if x.numel() == 0 or (per_row and x.ndim < 2):
            raise ShapeError(f"x{list(x.shape)} has no {'rows' if per_row else 'weights'} to fit a grid to")
        self.bits, self.per_row, self.symmetric = bits, per_row, symmetric
        self.low, self.high = (-(1 << bits - 1), (1 << bits - 1) - 1) if symmetric else (0, (1 << bits) - 1)
        weights = x.detach().flatten(1) if per_row else x.detach().reshape(1, -1)
        shape = (len(x), *[1] * (x.ndim - 1)) if per_row else ()
        if symmetric:
            scale = 2 * weights.abs().mean(1) / math.sqrt(self.high)
        else:
            bottom, top = weights.amin(1).clamp(max=0), weights.amax(1).clamp(min=0)
            scale = (top - bottom) / self.high
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        self.scale = nn.Parameter(scale.reshape(shape))
        self.zero_point = None if symmetric else nn.Parameter((-bottom / scale).round().reshape(shape))
        self.gradient_scale = 1 / math.sqrt(weights.shape[1] * self.high)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        zero_point = torch.zeros_like(self.scale) if self.zero_point is None else self.zero_point
        return learned_fake_quantize(x, self.scale, zero_point, self.low, self.high, self.gradient_scale)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, per_row={self.per_row}, symmetric={self.symmetric}"
