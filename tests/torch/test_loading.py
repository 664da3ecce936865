"""load_into: transformers' models on packed blocks compute what they compute with the decoded weights; what
does not fit is named.
"""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import gguflow.torch  # noqa: E402
from gguflow.errors import MismatchError, ShapeError, UsageError  # noqa: E402
from gguflow.torch import GGUFEmbedding, GGUFLinear, load_into  # noqa: E402
from testing.checkpoints import TINY, tiny_llama  # noqa: E402
from testing.families import random_checkpoint  # noqa: E402
from testing.torch_models import CLASSES, assert_close, build, output, tokens, with_decoded_weights  # noqa: E402

DEVICES = ("cpu", "meta")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("tiny-py-llama")
    return {
        kind: gguflow.convert(TINY, directory / f"{kind}.gguf", type=kind).output
        for kind in ("f16", "q8_0", "q4_k_m", "nf4_b64")
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_k_m", "nf4_b64"])
def test_llama(files: dict[str, Path], kind: str, device: str) -> None:
    """A prompt, a single token, and what is generated; nothing but norms is left as a parameter."""
    model = load_into(build(TINY, device=device), files[kind])
    expected = with_decoded_weights(TINY, files[kind])
    ids = tokens(model, 2, 64)
    assert_close(output(model, ids), output(expected, ids))
    assert_close(output(model, ids[:1, :1]), output(expected, ids[:1, :1]))
    settings = {"max_new_tokens": 12, "do_sample": False}
    assert torch.equal(model.generate(ids[:1, :9], **settings), expected.generate(ids[:1, :9], **settings))
    assert {name for name, _ in model.named_parameters()} == {
        name for name, _ in expected.named_parameters() if "norm" in name
    }
    assert model.dtype == torch.float32 and model.device.type == "cpu"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["f16", "q8_0"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "bert"])
def test_other_families(tmp_path: Path, family: str, kind: str, device: str) -> None:
    source = random_checkpoint(tmp_path / "checkpoint", family)
    file = gguflow.convert(source, tmp_path / "model.gguf", type=kind).output
    arguments: dict[str, Any] = {"add_pooling_layer": False} if family == "bert" else {}
    model = load_into(build(source, CLASSES[family], device, **arguments), file)
    expected = with_decoded_weights(source, file, CLASSES[family], **arguments)
    ids = tokens(model, 2, 9)
    assert_close(output(model, ids), output(expected, ids))


@pytest.mark.parametrize("device", DEVICES)
def test_tied_embeddings(tmp_path: Path, device: str) -> None:
    """In the file once: both modules are on the same blocks."""
    source = tiny_llama(tmp_path / "checkpoint", tied=True)
    content = json.loads((source / "config.json").read_text())
    assert content["tie_word_embeddings"]
    tensors = gguflow.convert(source, tmp_path / "model.gguf", type="q8_0")
    model = load_into(build(source, device=device), tensors.output)
    assert isinstance(model.lm_head, GGUFLinear) and isinstance(model.model.embed_tokens, GGUFEmbedding)
    assert model.lm_head.tensor is model.model.embed_tokens.tensor
    expected = with_decoded_weights(source, tensors.output)
    ids = tokens(model, 1, 20)
    assert_close(output(model, ids), output(expected, ids))


def test_types(files: dict[str, Path]) -> None:
    """Activations as the model has them, or as they are asked for."""
    model = load_into(build(TINY).to(torch.bfloat16), files["q8_0"])
    assert model.dtype == model.lm_head.compute_dtype == torch.bfloat16
    expected = with_decoded_weights(TINY, files["q8_0"])
    ids = tokens(model, 1, 16)
    assert_close(output(model, ids).float(), output(expected, ids), 0.03)
    assert_close(output(model.to(torch.float32), ids), output(expected, ids), 0.01)  # the norms were rounded
    assert (
        load_into(build(TINY), files["q8_0"], compute_dtype=torch.float16).lm_head.compute_dtype
        == torch.float16
    )


def test_copies(files: dict[str, Path]) -> None:
    """Of whole models; the copy has the file open for itself."""
    model = load_into(build(TINY), files["q4_k_m"])
    ids = tokens(model, 1, 5)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(output(other, ids), output(model, ids))


def test_an_opened_model_and_its_training_mode(files: dict[str, Path]) -> None:
    with gguflow.open(files["q8_0"], io="pread") as opened:
        model = load_into(build(TINY).train(), opened)
        assert model.training and model.lm_head.training
        model.eval()
        ids = tokens(model, 1, 5)
        assert_close(output(model, ids), output(with_decoded_weights(TINY, files["q8_0"]), ids))
    with pytest.raises(UsageError, match="is closed"):
        output(model, ids)


def test_training_on_top(files: dict[str, Path]) -> None:
    """The gradient passes through the packed layers down to the first norm, as through torch's own."""
    model, other = load_into(build(TINY), files["q8_0"]), with_decoded_weights(TINY, files["q8_0"])
    ids = tokens(model, 1, 12)
    gradients = []
    for each in (model, other):
        each(ids, labels=ids).loss.backward()
        gradients.append(each.model.layers[0].input_layernorm.weight.grad)
    assert_close(gradients[0], gradients[1], 1e-3)


def test_what_is_missing_and_what_is_left_over(files: dict[str, Path], tmp_path: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(TINY)
    config.num_hidden_layers += 1
    with pytest.raises(
        MismatchError, match=r"missing in the file: model\.layers\.8\.self_attn\.q_proj\.weight, .*"
    ) as caught:
        load_into(transformers.LlamaForCausalLM(config), files["q8_0"])
    assert len(caught.value.missing) == 9 and not caught.value.left_over
    config.num_hidden_layers -= 2
    with pytest.raises(MismatchError, match=r"left over: model\.layers\.7\.") as caught:
        load_into(transformers.LlamaForCausalLM(config), files["q8_0"])
    assert len(caught.value.left_over) == 9 and not caught.value.missing
    bert = random_checkpoint(tmp_path / "bert", "bert")
    gguflow.convert(bert, tmp_path / "bert.gguf", type="f32")
    with pytest.raises(MismatchError) as caught:
        load_into(build(bert, "BertModel"), tmp_path / "bert.gguf")
    assert caught.value.missing == ("pooler.dense.weight", "pooler.dense.bias")
    assert issubclass(MismatchError, UsageError)


def test_a_model_without_a_head(files: dict[str, Path]) -> None:
    """Its names lack the prefix; the head is left over, unless that does not matter."""
    with pytest.raises(MismatchError, match=r"left over: lm_head\.weight$"):
        load_into(build(TINY, "LlamaModel"), files["q8_0"])
    model = load_into(build(TINY, "LlamaModel"), files["q8_0"], strict=False)
    whole = with_decoded_weights(TINY, files["q8_0"])
    ids = tokens(model, 1, 10)
    assert_close(output(model, ids), output(whole.model, ids))


def test_shapes_that_differ(files: dict[str, Path]) -> None:
    config = transformers.AutoConfig.from_pretrained(TINY)
    config.intermediate_size = 512
    model = transformers.LlamaForCausalLM(config)
    with pytest.raises(
        ShapeError, match=r"layers\.0\.mlp\.gate_proj\.weight as \[768, 256\], the model has \[512, 256\]"
    ):
        load_into(model, files["q8_0"])
    assert type(model.lm_head) is torch.nn.Linear, "the model is as it was"


def test_what_stays_on_the_meta_device(files: dict[str, Path]) -> None:
    config = transformers.AutoConfig.from_pretrained(TINY)
    config.num_hidden_layers += 1
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    with pytest.raises(UsageError, match=r"on the meta device, and not in the file: model\.layers\.8\."):
        load_into(model, files["q8_0"], strict=False)


class Forgetful(transformers.LlamaForCausalLM):  # type: ignore[name-defined]
    """A class whose rule leaves the rope frequencies alone, as older ones do."""

    def _init_weights(self, module: Any) -> None: ...


def test_buffers_that_nobody_fills(files: dict[str, Path]) -> None:
    with torch.device("meta"):
        model = Forgetful(transformers.AutoConfig.from_pretrained(TINY))
    with pytest.raises(
        UsageError,
        match=r"rotary_emb\.inv_freq, model\.rotary_emb\.original_inv_freq; build the model on the CPU",
    ):
        load_into(model, files["q8_0"])
    load_into(Forgetful(transformers.AutoConfig.from_pretrained(TINY)), files["q8_0"])


class Scaled(torch.nn.Embedding):  # type: ignore[name-defined]
    """A layer that computes something of its own."""

    def forward(self, ids: Any) -> Any:
        return 2 * super().forward(ids)


def test_only_what_is_plain_is_replaced(files: dict[str, Path]) -> None:
    model = build(TINY)
    model.model.embed_tokens = Scaled(4096, 256)
    load_into(model, files["q8_0"])
    assert type(model.model.embed_tokens) is Scaled
    expected = with_decoded_weights(TINY, files["q8_0"]).model.embed_tokens
    assert torch.equal(model.model.embed_tokens(torch.tensor([5])), 2 * expected(torch.tensor([5])))
