"""Rounding with a gradient: forwards what formats hold, backwards the formulas, which finite differences of a
smoothed twin confirm; it trains.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch.nn.utils.parametrize import register_parametrization  # noqa: E402

import gguflow.torch  # noqa: E402
from gguflow.blocks import FORMATS  # noqa: E402
from gguflow.errors import NonFiniteError, ShapeError, UsageError  # noqa: E402
from gguflow.torch import FakeQuantize, LearnedFakeQuantize, fake_quantize, learned_fake_quantize  # noqa: E402


@pytest.mark.parametrize("format", ["q4_0", "q8_0", "q4_k", "mxfp4", "f16", "nf4_b64"])
def test_straight_through(format: str) -> None:
    """Forwards the weights of the format, bit for bit; backwards the identity. In x's own type, in any
    layout.
    """
    x = torch.randn(4, 256, requires_grad=True)
    before = x.detach().clone()
    y = fake_quantize(x, format)
    assert np.array_equal(y.detach().numpy(), gguflow.fake_quantize(before.numpy(), format))
    gradient = torch.randn(4, 256)
    y.backward(gradient)
    assert torch.equal(x.grad, gradient) and torch.equal(x.detach(), before)
    half = torch.randn(256, 4).to(torch.bfloat16).T
    assert fake_quantize(half, format).dtype == torch.bfloat16
    assert torch.equal(fake_quantize(half, format), fake_quantize(half.float(), format).bfloat16())


def test_importance() -> None:
    x, importance = torch.randn(4, 256), torch.rand(256)
    expected = gguflow.fake_quantize(x.numpy(), "iq2_xs", importance.numpy())
    assert np.array_equal(fake_quantize(x, "iq2_xs", importance).numpy(), expected)
    assert np.array_equal(FakeQuantize("iq2_xs", importance)(x).numpy(), expected)
    with pytest.raises(UsageError, match="too coarse"):
        fake_quantize(x, "iq2_xs")


def test_limits() -> None:
    """What lies outside is clipped, and has no gradient; the limits themselves are inside."""
    x = torch.linspace(-2, 2, 33)[:32].clone().requires_grad_()
    y = fake_quantize(x, "q8_0", limits=(-1.0, 1.0))
    assert np.array_equal(y.detach().numpy(), gguflow.fake_quantize(x.detach().clamp(-1, 1).numpy(), "q8_0"))
    y.sum().backward()
    assert torch.equal(x.grad, ((x >= -1) & (x <= 1)).float())


def test_refusals() -> None:
    with pytest.raises(NonFiniteError, match=r"index \[1, 3\]"):
        fake_quantize(torch.tensor([[0.0] * 32, [0.0, 0.0, 0.0, torch.nan] + [0.0] * 28]), "q8_0")
    with pytest.raises(ShapeError, match="33 weights"):
        fake_quantize(torch.zeros(33), "q8_0")
    with pytest.raises(UsageError, match="2 to 8 bits, not 1"):
        LearnedFakeQuantize(torch.ones(4), bits=1, symmetric=True)
    with pytest.raises(ShapeError, match="no rows"):
        LearnedFakeQuantize(torch.ones(4), per_row=True)


def smooth(x: Any, scale: Any, zero_point: Any, low: int, high: int, at: tuple[Any, Any, Any]) -> Any:
    """The function whose true gradient the straight-through estimator computes: rounding replaced by adding
    what rounding added at the point `at`.
    """
    x0, scale0, zero0 = at
    zero = zero_point + (zero0.round() - zero0)
    clipped0 = (x0 / scale0 + zero0.round()).clamp(low, high)
    clipped = (x / scale + zero).clamp(low, high)
    return scale * (clipped + (clipped0.round() - clipped0) - zero)


GRIDS = {
    "tensor": ((), (), -8, 7),
    "row": ((5, 1), (5, 1), -8, 7),
    "row, unsigned": ((5, 1), (5, 1), 0, 15),
    "one bit": ((), (), 0, 1),
    "scales of columns, one zero point": ((1, 40), (), 0, 255),
}


@pytest.mark.parametrize(("scale_shape", "zero_shape", "low", "high"), GRIDS.values(), ids=GRIDS)
def test_gradients_equal_finite_differences(
    scale_shape: tuple[int, ...], zero_shape: tuple[int, ...], low: int, high: int
) -> None:
    """Of the smoothed twin in float64, away from ties and from the ends of the grid, where there is no
    derivative.
    """
    rng = torch.Generator().manual_seed(3)
    scale = (0.5 + torch.rand(scale_shape, generator=rng, dtype=torch.float64)) * 2 / (high - low)
    zero_point = (low + high) / 2 + torch.rand(zero_shape, generator=rng, dtype=torch.float64) * 0.8 - 0.4
    x = torch.randn(5, 40, generator=rng, dtype=torch.float64)
    steps = x / scale + zero_point.round()
    near = (
        ((steps - steps.floor() - 0.5).abs() < 1e-2)
        | ((steps - low).abs() < 1e-2)
        | ((steps - high).abs() < 1e-2)
    )
    x = torch.where(near, x + 0.03 * scale, x)
    point: Any = (x, scale, zero_point)
    assert torch.allclose(
        learned_fake_quantize(x, scale, zero_point, low, high),
        smooth(x, scale, zero_point, low, high, point),
        atol=1e-12,
    )
    weights = torch.randn(5, 40, generator=rng, dtype=torch.float64)
    inputs: Any = [value.clone().requires_grad_() for value in point]
    (learned_fake_quantize(inputs[0], inputs[1], inputs[2], low, high, 0.25) * weights).sum().backward()
    step = 1e-6
    for i, factor in enumerate((1.0, 0.25, 0.25)):
        for j in range(min(point[i].numel(), 60)):
            shifted: Any = []
            for sign in (1, -1):
                moved: Any = [value.clone() for value in point]
                moved[i].view(-1)[j] += sign * step
                shifted.append((smooth(moved[0], moved[1], moved[2], low, high, point) * weights).sum())
            difference = factor * (shifted[0] - shifted[1]) / (2 * step)
            assert torch.isclose(inputs[i].grad.view(-1)[j], difference, rtol=1e-5, atol=1e-5), (i, j)


def test_the_closed_formula() -> None:
    """The three cases of Esser et al., equation 3, by hand: below, inside, above a grid of 4 bits; and the
    offset's of LSQ+.
    """
    x = torch.tensor([-9.3, 1.3, 12.0], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    zero = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    y = learned_fake_quantize(x, scale, zero, -8, 7)
    assert y.tolist() == [-8, 1, 7]
    for i, expected in enumerate([(0.0, -8.0, -1.0), (1.0, 1 - 1.3, 0.0), (0.0, 7.0, -1.0)]):
        gradients = torch.autograd.grad(y[i], (x, scale, zero), retain_graph=True)
        assert (gradients[0][i].item(), gradients[1].item(), gradients[2].item()) == pytest.approx(expected)


@pytest.mark.parametrize("per_row", [False, True], ids=["tensor", "rows"])
@pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_where_a_learned_grid_begins(bits: int, symmetric: bool, per_row: bool) -> None:
    """Affine grids reach every weight; the symmetric one is that of the paper; constants do not divide by
    zero.
    """
    x = torch.randn(6, 64, generator=torch.Generator().manual_seed(5)) + 0.3
    grid = LearnedFakeQuantize(x, bits, per_row=per_row, symmetric=symmetric)
    assert tuple(grid.scale.shape) == ((6, 1) if per_row else ())
    values = grid(x)
    assert max(len(row.unique()) for row in (values if per_row else values.reshape(1, -1))) <= 1 << bits
    if symmetric:
        assert torch.allclose(
            grid.scale.flatten()[0], 2 * (x[0] if per_row else x).abs().mean() / (2 ** (bits - 1) - 1) ** 0.5
        )
    else:
        assert ((values - x).abs() <= grid.scale * (1 + 1e-4)).all()
    assert len(list(grid.parameters())) == (1 if symmetric else 2)
    for constant in (torch.zeros(2, 8), torch.full((2, 8), 3.0)):
        assert (
            LearnedFakeQuantize(constant, bits, per_row=per_row, symmetric=symmetric)(constant)
            .isfinite()
            .all()
        )


def problem() -> tuple[Any, Any]:
    """A regression with 64 by 8 weights on inputs that depend on each other, so that the error of one weight
    can make good for another's.
    """
    rng = torch.Generator().manual_seed(7)
    x = torch.randn(512, 16, generator=rng) @ torch.randn(16, 64, generator=rng) + 0.3 * torch.randn(
        512, 64, generator=rng
    )
    return x, x @ torch.randn(64, 8, generator=rng)


def train(layer: Any, rate: float, steps: int = 200) -> list[float]:
    """The loss at every step; the rate falls to nothing."""
    x, target = problem()
    optimizer = torch.optim.Adam(layer.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    history = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = ((layer(x) - target) ** 2).mean()
        loss.backward()
        optimizer.step()
        schedule.step()
        history.append(loss.item())
    return history


@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "affine", "affine rows", "symmetric", "symmetric rows"])
def test_training(kind: str) -> None:
    """Weights that were trained without rounding lose by it in 4 bits; trained on under it, they win a good
    part of it back.
    """
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 8)
    train(layer, 0.03)
    options = {"symmetric": "symmetric" in kind, "per_row": "rows" in kind}
    register_parametrization(
        layer,
        "weight",
        FakeQuantize(kind) if kind in FORMATS else LearnedFakeQuantize(layer.weight, 4, **options),
    )
    history = train(layer, 0.03)
    assert history[-1] < 0.75 * history[0]


def test_modules_survive_their_state() -> None:
    """repr, and a learned grid by way of its state_dict."""
    assert repr(FakeQuantize("NF4_b64")) == "FakeQuantize(nf4_b64)"
    assert repr(FakeQuantize("q4_k", limits=(-1.0, 1.0))) == "FakeQuantize(Q4_K, limits=(-1.0, 1.0))"
    x = torch.randn(3, 32)
    grid, other = (LearnedFakeQuantize(x * k, 4, per_row=True) for k in (1, 5))
    other.load_state_dict(grid.state_dict())
    assert torch.equal(other(x), grid(x))
