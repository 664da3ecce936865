"""Gated delta nets: the linear attention of Qwen3-Next and Qwen3.5.

A layer has n_k heads of keys and n_v heads of values, r = n_v / n_k of these for each of those; checkpoints
have the values of a key side by side, llama.cpp repeats keys and so has the first value of every key first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gguflow.container.metadata import u32
from gguflow.models.keys import Keys
from gguflow.models.orders import Axes, Groups, Order, Tail
from gguflow.models.parameters import Parameters
from gguflow.models.rules import Rule, columns, negative_exponential, ordered, same, split


@dataclass(frozen=True)
class Sizes:
    """n_keys, n_values: heads; key, value: their widths; kernel: of the convolution."""

    n_keys: int
    n_values: int
    key: int
    value: int
    kernel: int

    @classmethod
    def of(cls, p: Parameters) -> Sizes:
        """Raises InvalidError (M-002, M-003) for what the hyper-parameters do not say."""
        n_values = p.integer("ssm.time_step_rank", minimum=1)
        return cls(
            p.integer("ssm.group_count", minimum=1),
            n_values,
            p.integer("ssm.state_size", minimum=1),
            p.integer("ssm.inner_size", minimum=1) // n_values,
            p.integer("ssm.conv_kernel", minimum=1),
        )

    @property
    def qk_rows(self) -> int:
        """Rows of queries and keys together."""
        return 2 * self.n_keys * self.key

    @property
    def v_rows(self) -> int:
        """Rows of values."""
        return self.n_values * self.value

    def tiled(self, width: int) -> Order | None:
        """The order of heads of values, `width` rows each; None if it is the checkpoint's."""
        shape = (self.n_keys, self.n_values // self.n_keys, width)
        return None if 1 in shape[:2] else Axes(shape, (1, 0, 2))


def put_keys(keys: Keys) -> None:
    """The keys of all its sizes.

    keys: where they are put.

    Raises InvalidError (M-002, M-003).
    """
    config = keys.config
    n_values, n_keys = config.integer("linear_num_value_heads"), config.integer("linear_num_key_heads")
    if n_values % n_keys:
        raise config.wrong("linear_num_value_heads", n_values, f"a multiple of {n_keys}")
    keys.integer("ssm.conv_kernel", "linear_conv_kernel_dim", minimum=1)
    keys.integer("ssm.state_size", "linear_key_head_dim", minimum=1)
    keys.put("ssm.group_count", u32(n_keys))
    keys.put("ssm.time_step_rank", u32(n_values))
    keys.put("ssm.inner_size", u32(n_values * config.integer("linear_value_head_dim")))


def rules(p: Parameters, i: int, *, grouped: bool) -> Iterator[Rule]:
    """The tensors of a layer.

    p: hyper-parameters.
    i: number of the layer.
    grouped: as in Qwen3-Next, where rows of Q, K, V and a gate stand together for each key, and llama.cpp
        leaves the order of values; otherwise Q, K and V have one matrix and the gate another, and values are
        put in order.
    """
    sizes = Sizes.of(p)
    source, block = f"model.layers.{i}.linear_attn", f"blk.{i}"
    tile = (lambda width: None) if grouped else sizes.tiled
    n, values = sizes.n_values, sizes.v_rows
    tail = None if (heads := tile(sizes.value)) is None else Tail(sizes.qk_rows, heads)
    if grouped:
        yield _fused(sizes, source, block, p.hidden)
        yield same(f"{source}.in_proj_ba.weight", f"{block}.ssm_ba.weight", (2 * n, p.hidden))
    else:
        rows = sizes.qk_rows + values
        yield ordered(f"{source}.in_proj_qkv.weight", f"{block}.attn_qkv.weight", (rows, p.hidden), tail)
        yield ordered(f"{source}.in_proj_z.weight", f"{block}.attn_gate.weight", (values, p.hidden), heads)
        for name, target in (("a", "ssm_alpha"), ("b", "ssm_beta")):
            yield ordered(
                f"{source}.in_proj_{name}.weight", f"{block}.{target}.weight", (n, p.hidden), tile(1)
            )
    channels = sizes.qk_rows + values
    yield ordered(
        f"{source}.conv1d.weight",
        f"{block}.ssm_conv1d.weight",
        (channels, 1, sizes.kernel),
        tail,
        new_shape=(channels, sizes.kernel),
    )
    yield ordered(f"{source}.dt_bias", f"{block}.ssm_dt.bias", (n,), tile(1))
    yield negative_exponential(ordered(f"{source}.A_log", f"{block}.ssm_a", (n,), tile(1)))
    yield same(f"{source}.norm.weight", f"{block}.ssm_norm.weight", (sizes.value,))
    names, shape = (f"{source}.out_proj.weight", f"{block}.ssm_out.weight"), (p.hidden, values)
    yield same(*names, shape) if heads is None else columns(*names, shape, heads)


def _fused(sizes: Sizes, source: str, block: str, hidden: int) -> Rule:
    """One matrix with Q, K, V and the gate of each key."""
    each = sizes.n_values // sizes.n_keys * sizes.value
    parts = (sizes.key, sizes.key, each, each)
    targets = [
        (f"{block}.attn_qkv.weight", sizes.qk_rows + sizes.v_rows),
        (f"{block}.attn_gate.weight", sizes.v_rows),
    ]
    return split(f"{source}.in_proj_qkvz.weight", targets, (hidden,), order=Groups(parts, sizes.n_keys))


def is_recurrent(p: Parameters, i: int) -> bool:
    """Whether a layer is one, and has no attention.

    p: hyper-parameters.
    i: number of the layer.
    """
    said = p.flags("attention.recurrent_layers")
    if said:
        return i < len(said) and said[i]
    return (i + 1) % p.integer("full_attention_interval", 4, minimum=1) != 0


def recurrent_layers(kinds: Sequence[object]) -> list[bool]:
    """Which layers are recurrent, by their kinds in config.json.

    kinds: for each layer, its name.
    """
    return [kind == "linear_attention" for kind in kinds]
