"""Mamba's blocks: selective state spaces of the first and the second version, alone or among others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gguflow.models.documents import Document
from gguflow.models.parameters import Parameters
from gguflow.models.rules import Rule, linear, negative_exponential, reshaped, same
from gguflow.models.tokenizers.files import TokenizerFiles

PADDING = "pad_vocab_size_multiple"
CONTEXT = 2**20
"""llama.cpp's context length of models that have no limit."""


def mamba1(p: Parameters, i: int, source: str, *, norms: bool = False) -> Iterator[Rule]:
    """A selective state space of Mamba.

    p: hyper-parameters; the keys below "ssm" give the shapes.
    i: number of the layer.
    source: what its names begin with in the checkpoint.
    norms: whether the step size, B and C are normalized with learned weights, as in Jamba.
    """
    inner, state = p.integer("ssm.inner_size"), p.integer("ssm.state_size")
    rank, block = p.integer("ssm.time_step_rank"), f"blk.{i}"
    yield from linear(f"{source}.in_proj", f"{block}.ssm_in", 2 * inner, p.hidden, bias=False)
    yield from convolution(p, i, source, inner)
    yield from linear(f"{source}.x_proj", f"{block}.ssm_x", rank + 2 * state, inner, bias=False)
    yield from linear(f"{source}.dt_proj", f"{block}.ssm_dt", inner, rank, bias=True)
    yield negative_exponential(same(f"{source}.A_log", f"{block}.ssm_a", (inner, state)))
    yield same(f"{source}.D", f"{block}.ssm_d", (inner,))
    yield from linear(f"{source}.out_proj", f"{block}.ssm_out", p.hidden, inner, bias=False)
    if norms:
        for kind, n in (("dt", rank), ("b", state), ("c", state)):
            yield same(f"{source}.{kind}_layernorm.weight", f"{block}.ssm_{kind}_norm.weight", (n,))


def mamba2(p: Parameters, i: int, source: str, *, norm: bool | None = True) -> Iterator[Rule]:
    """A state space of Mamba-2: `ssm.time_step_rank` heads.

    p: hyper-parameters; the keys below "ssm" give the shapes.
    i: number of the layer.
    source: what its names begin with in the checkpoint.
    norm: whether its result is normalized, group by group; None for perhaps.
    """
    inner, n_heads = p.integer("ssm.inner_size"), p.integer("ssm.time_step_rank")
    groups, block = p.integer("ssm.group_count", minimum=1), f"blk.{i}"
    convolved = mamba2_width(p)
    yield from linear(
        f"{source}.in_proj", f"{block}.ssm_in", inner + convolved + n_heads, p.hidden, bias=False
    )
    yield from convolution(p, i, source, convolved)
    yield same(f"{source}.dt_bias", f"{block}.ssm_dt.bias", (n_heads,))
    yield negative_exponential(reshaped(f"{source}.A_log", f"{block}.ssm_a", (n_heads,), (n_heads, 1)))
    yield reshaped(f"{source}.D", f"{block}.ssm_d", (n_heads,), (n_heads, 1))
    if norm is not False:
        by_group = (groups, inner // groups)
        name = f"{block}.ssm_norm.weight"
        yield reshaped(f"{source}.norm.weight", name, (inner,), by_group, required=norm is True)
    yield from linear(f"{source}.out_proj", f"{block}.ssm_out", p.hidden, inner, bias=False)


def mamba2_width(p: Parameters) -> int:
    """Channels that Mamba-2 convolves: x, B and C."""
    return p.integer("ssm.inner_size") + 2 * p.integer("ssm.group_count") * p.integer("ssm.state_size")


def convolution(p: Parameters, i: int, source: str, width: int) -> Iterator[Rule]:
    """The causal convolution over a few positions, one filter for each channel.

    p: hyper-parameters.
    i: number of the layer.
    source: what names of the block begin with in the checkpoint.
    width: number of channels.
    """
    n = p.integer("ssm.conv_kernel")
    yield reshaped(f"{source}.conv1d.weight", f"blk.{i}.ssm_conv1d.weight", (width, 1, n), (width, n))
    yield same(f"{source}.conv1d.bias", f"blk.{i}.ssm_conv1d.bias", (width,))


def n_rows(p: Parameters) -> int:
    """Rows of the embeddings: of the vocabulary, which configurations of Mamba may say without padding."""
    return p.n_tokens if p.config is None else _padded(p.config)


def with_padding(files: TokenizerFiles, multiple: int) -> TokenizerFiles:
    """Tokenizer files whose vocabulary is as long as the embeddings.

    llama.cpp's converter pads it to a multiple of 8 or 16 though the embeddings may have no such rows; then
    it is left as it is here.

    files: of the tokenizer.
    multiple: to which llama.cpp's converter pads if config.json does not say.
    """
    config = files.config
    rows = _padded(config)
    if rows % (multiple if PADDING not in config else config.integer(PADDING)):
        config.applied.add("padding-without-rows")
    values = {**config.values, "vocab_size": rows}
    return replace(files, config=replace(config, values=values))


def _padded(config: Document) -> int:
    """The size of the vocabulary, rounded up to the multiple that config.json says."""
    n, multiple = config.integer("vocab_size"), config.integer(PADDING, 1)
    return -(-n // multiple) * multiple
