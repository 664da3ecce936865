"""GGUFLinear and GGUFEmbedding: as nn.Linear and nn.Embedding with the decoded weights, with gradients, other
types, copies and processes.
"""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import gguflow.torch  # noqa: E402
from gguflow.blocks import FORMATS  # noqa: E402
from gguflow.errors import ShapeError, UsageError  # noqa: E402
from gguflow.runtime.checkpoint import checkpoint_tensors  # noqa: E402
from gguflow.torch import GGUFEmbedding, GGUFLinear  # noqa: E402
from testing.checkpoints import tiny_llama  # noqa: E402
from testing.encoding import WEIGHT_FORMATS  # noqa: E402
from testing.gguf_files import one_tensor  # noqa: E402


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("model")
    gguflow.convert(
        tiny_llama(directory / "checkpoint", hidden=256, ffn=512), directory / "model.gguf", type="q4_k_m"
    )
    with gguflow.open(directory / "model.gguf") as model:
        yield checkpoint_tensors(model)


def reference(tensor: Any, bias: Any = None) -> Any:
    layer = torch.nn.Linear(tensor.shape[1], tensor.shape[0], bias=bias is not None)
    layer.weight.data = torch.from_numpy(tensor.dequantize())
    if bias is not None:
        layer.bias.data = bias.clone()
    return layer


def assert_same_product(found: Any, layer: Any, x: Any) -> None:
    """Within 1e-5 of the sum of |x w|."""
    expected = layer(x)
    bound = 1e-5 * (x.abs() @ layer.weight.abs().T + (layer.bias.abs() if layer.bias is not None else 0))
    assert found.shape == expected.shape and ((found - expected).abs() <= bound).all()


@pytest.mark.parametrize("name", ["self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"])
@pytest.mark.parametrize("shape", [(1,), (2, 3), (2, 9), (40,)])
@pytest.mark.parametrize("has_bias", [False, True], ids=["bare", "bias"])
def test_linear(tensors: Any, name: str, shape: tuple[int, ...], has_bias: bool) -> None:
    tensor = tensors[f"model.layers.0.{name}.weight"]
    bias = torch.randn(tensor.shape[0]) if has_bias else None
    layer = GGUFLinear(tensor, bias)
    x = torch.randn(*shape, tensor.shape[1])
    assert_same_product(layer(x), reference(tensor, bias), x)
    assert_same_product(layer(x[0]), reference(tensor, bias), x[0])
    assert_same_product(layer(x[:0]), reference(tensor, bias), x[:0])
    wide = torch.randn(tensor.shape[1], 5)
    assert_same_product(layer(wide.T), reference(tensor, bias), wide.T)


@pytest.mark.parametrize("block_format", WEIGHT_FORMATS.values(), ids=WEIGHT_FORMATS)
def test_every_format(tmp_path: Path, block_format: Any) -> None:
    """A linear layer and an embedding on random weights of each."""
    n = 2 * block_format.block_size
    weights = np.random.default_rng(0).standard_normal((6, n), np.float32)
    packed = gguflow.quantize(
        weights, block_format, np.ones(n) if block_format.importance == "required" else None
    )
    with gguflow.open(one_tensor(tmp_path / "x.gguf", block_format, (6, n), packed.tobytes())) as model:
        for n_vectors in (2, 20):
            x = torch.randn(n_vectors, n)
            assert_same_product(GGUFLinear(model["t"])(x), reference(model["t"]), x)
        rows = GGUFEmbedding(model["t"])(torch.tensor([[5, 0], [5, 2]]))
        assert np.array_equal(rows.numpy(), model["t"].dequantize()[np.array([[5, 0], [5, 2]])])


@pytest.mark.parametrize("name", ["self_attn.q_proj", "mlp.gate_proj"])
def test_the_gradient_for_x(tensors: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of torch's own layer, from one tile and from several; the bias has one where it is a parameter
    that wants it.
    """
    tensor = tensors[f"model.layers.1.{name}.weight"]
    bias = torch.nn.Parameter(torch.randn(tensor.shape[0]))
    layer, other = GGUFLinear(tensor, bias), reference(tensor, bias.detach())
    for tile in (1 << 22, 100 * tensor.shape[1]):
        monkeypatch.setattr(gguflow.torch.product, "TILE", tile)
        x, y = (torch.linspace(-1, 1, 3 * tensor.shape[1]).reshape(3, -1).requires_grad_() for _ in range(2))
        bias.grad = other.bias.grad = None
        (layer(x) ** 2).sum().backward()
        (other(y) ** 2).sum().backward()
        assert torch.allclose(x.grad, y.grad, rtol=1e-4, atol=1e-4 * float(y.grad.abs().max()))
        assert torch.allclose(bias.grad, other.bias.grad, rtol=1e-4, atol=1e-4)
    assert not GGUFLinear(tensor)(torch.ones(tensor.shape[1])).requires_grad


@pytest.mark.parametrize("rows", [[3, 0, 3, 255], [[1, 2], [2, 1]], []])
def test_embedding(tensors: Any, rows: Any) -> None:
    tensor = tensors["model.embed_tokens.weight"]
    ids = torch.tensor(rows, dtype=torch.int64)
    assert torch.equal(GGUFEmbedding(tensor)(ids), torch.from_numpy(tensor.dequantize())[ids])


@pytest.mark.parametrize("row", [-1, 4096])
def test_ids_outside_the_vocabulary(tensors: Any, row: int) -> None:
    with pytest.raises(IndexError, match="has 4096 rows"):
        GGUFEmbedding(tensors["model.embed_tokens.weight"])(torch.tensor([0, row]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(tensors: Any, dtype: Any) -> None:
    """What comes out has the compute_dtype, given or set by .to(); the packed blocks and the float32 sums
    stay as they are.
    """
    tensor, table = tensors["model.layers.0.self_attn.q_proj.weight"], tensors["model.embed_tokens.weight"]
    x = torch.randn(2, 256).to(dtype)
    bias = torch.randn(256)
    expected = (GGUFLinear(tensor)(x.float())).to(dtype) + bias.to(dtype)
    for layer in (
        GGUFLinear(tensor, bias.to(dtype), compute_dtype=dtype),
        GGUFLinear(tensor, bias).to(dtype),
    ):
        assert layer.compute_dtype == layer.bias.dtype == dtype and layer.nbytes == tensor.nbytes
        assert layer(x).dtype == dtype and torch.equal(layer(x), expected)
    ids = torch.tensor([7, 1])
    assert torch.equal(GGUFEmbedding(table).to(dtype)(ids), GGUFEmbedding(table, compute_dtype=dtype)(ids))
    assert torch.equal(
        GGUFEmbedding(table).to(dtype)(ids), torch.from_numpy(table.dequantize([7, 1])).to(dtype)
    )


def test_copies_and_processes(tensors: Any) -> None:
    """Modules pickle as the place of their blocks, and hold no weights in their state."""
    tensor = tensors["model.layers.0.self_attn.q_proj.weight"]
    layer = GGUFLinear(tensor, torch.randn(256), torch.bfloat16)
    x = torch.randn(3, 256)
    content = pickle.dumps(layer)
    assert len(content) < 10_000
    for other in (pickle.loads(content), copy.deepcopy(layer)):
        assert torch.equal(other(x), layer(x)) and other.compute_dtype == torch.bfloat16
    assert list(layer.state_dict()) == ["bias"]
    assert not list(GGUFEmbedding(tensor).parameters()) and not GGUFEmbedding(tensor).state_dict()


def test_repr(tensors: Any, tmp_path: Path) -> None:
    layer = GGUFLinear(tensors["model.layers.0.self_attn.k_proj.weight"])
    assert (
        repr(layer) == "GGUFLinear(in_features=256, out_features=128, bias=False, Q4_K, 18432 bytes, "
        "compute_dtype=torch.float32)"
    )
    embedding = GGUFEmbedding(tensors["model.embed_tokens.weight"])
    path = gguflow.convert(
        tiny_llama(tmp_path / "checkpoint"), tmp_path / "model.gguf", type="nf4_b64"
    ).output
    with gguflow.open(path) as model:
        assert ", nf4_b64, " in repr(GGUFLinear(model["blk.0.attn_q.weight"]))
    assert repr(embedding) == "GGUFEmbedding(4096, 256, Q4_K, 589824 bytes, compute_dtype=torch.float32)"


def test_wrong_calls(tensors: Any, tmp_path: Path) -> None:
    matrix = tensors["model.layers.0.self_attn.k_proj.weight"]
    with pytest.raises(ShapeError, match=r"model\.norm\.weight has shape \[256\]"):
        GGUFLinear(tensors["model.norm.weight"])
    with pytest.raises(ShapeError, match=r"128 outputs need \[128\]"):
        GGUFLinear(matrix, torch.zeros(256))
    with pytest.raises(UsageError, match="float type"):
        GGUFEmbedding(matrix, compute_dtype=torch.int32)
    for n_vectors in (2, 40):
        with pytest.raises(ShapeError, match=r"takes x\[\.\.\., 256\], not x\[\d+, 255\]"):
            GGUFLinear(matrix)(torch.zeros(n_vectors, 255))
    with (
        gguflow.open(one_tensor(tmp_path / "x.gguf", FORMATS["i32"], (2, 2), bytes(16))) as model,
        pytest.raises(UsageError, match="t is I32: integers"),
    ):
        GGUFLinear(model["t"])
