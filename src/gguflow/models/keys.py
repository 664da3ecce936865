"""The hyper-parameters' keys of a GGUF file: llama.cpp's base table as data, and what families add to it.

A key of a GGUF file has several names in config.json, from one family to the next; the first that is there
counts. Values that a file leaves out are those of transformers' configuration class (`models.defaults`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gguflow.container.metadata import Metadata, Value, ValueType, array, boolean, f32, string, u32
from gguflow.errors import Finding, InvalidError, UnsupportedError
from gguflow.models.documents import MAX_INTEGER, Document
from gguflow.models.parameters import MAX_LAYERS
from gguflow.models.rope import ALL_OF_A_HEAD, DEFAULT_THETA, Rope, RopeOptions, rope_metadata

LAYERS = ("n_layers", "num_hidden_layers", "n_layer", "num_layers")
CONTEXT = (
    *("max_position_embeddings", "n_ctx", "n_positions", "max_length", "max_sequence_length"),
    "model_max_length",
)
HIDDEN = ("hidden_size", "n_embd", "dim")
WIDE = (
    *("prefix_dense_intermediate_size", "dense_intermediate_size", "intermediate_size", "n_inner"),
    "hidden_dim",
)
HEADS = ("num_attention_heads", "n_head", "n_heads")
KV_HEADS = ("num_key_value_heads", "n_kv_heads")
RMS_EPSILON = ("rms_norm_eps", "norm_eps")
EPSILON = ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
EXPERTS_USED = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts")
GATING = (
    *("score_function", "scoring_func", "score_func", "moe_router_activation"),
    *("moe_router_activation_func", "expert_selection_fn"),
)
GATING_FUNCTIONS = {"softmax": 1, "sigmoid": 2, "sqrtsoftplus": 4}
"""llama.cpp's numbers of the functions that turn a router's output into weights of experts."""

SILU = ("silu", "swish")
GELU = ("gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_accurate", "gelu_pytorch_tanh")
"""Names of activations; those of GELU are spellings and approximations of one function."""

SPELLINGS = {"silu": "SiLU", "gelu": "GELU", "relu": "ReLU"}
"""How activations are called in messages."""

MAX_EXPERTS = 512
"""llama.cpp's LLAMA_MAX_EXPERTS."""


@dataclass
class Keys:
    """Keys of one architecture, in the order in which they are put; a key put again keeps its first place.

    name: `general.architecture`, with which the keys begin.
    config: config.json.
    metadata: what has been put.
    """

    name: str
    config: Document
    metadata: Metadata = field(default_factory=dict)

    def put(self, key: str, value: Value) -> None:
        """Set a key.

        key: after the architecture's name, as in all methods here.
        value: its value.

        Raises InvalidError (M-003) for a number that was computed and is too large.
        """
        if value.type is ValueType.UINT32:
            self._check(key, value.value)
        self.metadata[f"{self.name}.{key}"] = value

    def drop(self, key: str) -> None:
        """Remove a key, if it is there.

        key: of the value.
        """
        self.metadata.pop(f"{self.name}.{key}", None)

    def integer(self, key: str, *names: str, default: int | None = None, minimum: int = 0) -> int | None:
        """An integer from config.json, where it is there.

        key: of the value.
        names: in config.json; the first that is there counts.
        default: if none is there; None to leave the key out.
        minimum: the least that is allowed.

        Returns what was put. Raises InvalidError (M-003).
        """
        found = self.config.first(names)
        value = default if found is None else self.config.integer(found, minimum=minimum)
        if value is not None:
            self.put(key, u32(value))
        return value

    def integers(self, key: str, *names: str) -> None:
        """An integer, or a list with one for each layer.

        key: of the value.
        names: in config.json; the first that is there counts.

        Raises InvalidError (M-003).
        """
        found = self.config.first(names)
        if found is None:
            return
        if isinstance(self.config.value(found), list):
            self.layers(key, [self._element(found, i, n) for i, n in enumerate(self.config.items(found))])
        else:
            self.integer(key, found)

    def number(self, key: str, *names: str, default: float | None = None) -> None:
        """A float from config.json, where it is there.

        key: of the value.
        names: in config.json; the first that is there counts.
        default: if none is there; None to leave the key out.

        Raises InvalidError (M-003).
        """
        found = self.config.first(names)
        value = default if found is None else self.config.number(found)
        if value is not None:
            self.put(key, f32(value))

    def flag(self, key: str, *names: str, default: bool | None = None) -> None:
        """A boolean from config.json, where it is there.

        key: of the value.
        names: in config.json; the first that is there counts.
        default: if none is there; None to leave the key out.

        Raises InvalidError (M-003).
        """
        found = self.config.first(names)
        value = default if found is None else self.config.flag(found)
        if value is not None:
            self.put(key, boolean(value))

    def text(self, key: str, value: str) -> None:
        """A string.

        key: of the value.
        value: the string.
        """
        self.put(key, string(value))

    def layers(self, key: str, values: Sequence[Any]) -> None:
        """An array with one value for each layer; its type is that of the first: integer, float or boolean.

        key: of the array.
        values: for each layer; an empty one is not written.
        """
        if not values:
            return
        first = values[0]
        for value in values if isinstance(first, int) else ():
            self._check(key, abs(value))
        kind = ValueType.BOOL if isinstance(first, bool) else ValueType.INT32
        self.put(key, array(ValueType.FLOAT32 if isinstance(first, float) else kind, list(values)))

    def _check(self, key: str, value: int) -> None:
        if not 0 <= value <= MAX_INTEGER:
            message = f"{self.name}.{key}, which follows from the configuration, is out of range"
            found = f"{value:.3g}"
            finding = Finding("M-003", message, "$", found=found, expected=f"0 to {MAX_INTEGER}")
            raise InvalidError(self.config.file, finding)

    def _element(self, name: str, index: int, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
            raise self.config.wrong(name, value, "an integer from 0 to 2147483647", index)
        return value


def n_layers(config: Document) -> int:
    """Number of blocks in config.json. Raises InvalidError (M-002, M-003)."""
    found = config.first(LAYERS)
    return config.integer(found or "num_hidden_layers", maximum=MAX_LAYERS)


def n_heads(config: Document) -> int:
    """Number of query heads in config.json, of lists the largest. Raises InvalidError (M-002, M-003)."""
    return _largest(config, HEADS)


def n_kv_heads(config: Document) -> int:
    """Number of key heads in config.json, by default that of query heads. Raises InvalidError (M-003)."""
    return _largest(config, KV_HEADS) if config.first(KV_HEADS) else n_heads(config)


def hidden_size(config: Document) -> int:
    """Width of the residual stream in config.json. Raises InvalidError (M-002, M-003)."""
    return config.integer(config.first(HIDDEN) or "hidden_size")


def head_dim(config: Document) -> int:
    """Width of a head: as config.json says, or hidden size / heads. Raises InvalidError (M-002, M-003)."""
    if "head_dim" in config or config.defaults.get("head_dim") is not None:
        return config.integer("head_dim")
    return max(hidden_size(config) // n_heads(config), 1)


def _largest(config: Document, names: Sequence[str]) -> int:
    found = config.first(names) or names[0]
    if isinstance(config.value(found), list):
        numbers = [n for n in config.items(found) if isinstance(n, int) and not isinstance(n, bool)]
        if not numbers or max(numbers) < 1:
            raise config.wrong(found, config.value(found), "integers, one of them above 0")
        return max(numbers)
    return config.integer(found)


def base_keys(
    name: str,
    config: Document,
    *,
    activation: Sequence[str] | None = SILU,
    rope: RopeOptions | None = ALL_OF_A_HEAD,
    layers: int | None = None,
) -> Keys:
    """The keys that all decoders have, in the order of llama.cpp's converter.

    name: `general.architecture`.
    config: config.json.
    activation: names of the activation that llama.cpp computes for the family; None if it follows
        config.json, or the family checks it.
    rope: what the family's rotary embeddings may be; None for a model without any.
    layers: number of blocks, if it is not what config.json says.

    Raises InvalidError (M-002, M-003), UnsupportedError (M-005, M-009).
    """
    if activation is not None:
        require_activation(config, activation)
    keys = Keys(name, config)
    keys.put("block_count", u32(n_layers(config) if layers is None else layers))
    for key, names in (("context_length", CONTEXT), ("embedding_length", HIDDEN)):
        if keys.integer(key, *names, minimum=1) is None and names[0] in config.values:
            raise config.missing(names[0])
    keys.integers("feed_forward_length", *WIDE)
    keys.integers("attention.head_count", *HEADS)
    keys.integers("attention.head_count_kv", *KV_HEADS)
    if not config.first(KV_HEADS) and KV_HEADS[0] in config.values:  # null: as many as query heads
        keys.integers("attention.head_count_kv", *HEADS)
    _check_heads(config)
    if rope is not None and config.first(HEADS) and (width := head_dim(config)) % 2:
        raise config.wrong("head_dim", width, "an even number")
    if not config.flag("is_causal", True):
        keys.put("attention.causal", boolean(False))
    if rope is not None:
        keys.metadata |= rope_metadata(name, Rope.of(config, rope))
    keys.number("attention.layer_norm_rms_epsilon", *RMS_EPSILON)
    keys.number("attention.layer_norm_epsilon", *EPSILON)
    experts(keys)
    if "head_dim" in config or config.defaults.get("head_dim") is not None:
        keys.put("attention.key_length", u32(head_dim(config)))
        keys.put("attention.value_length", u32(head_dim(config)))
    return keys


def require_activation(config: Document, names: Sequence[str]) -> None:
    """Raise UnsupportedError (M-009) if a model has another activation than its family.

    config: config.json.
    names: of the activation that llama.cpp computes for the family.
    """
    spelling = SPELLINGS.get(names[0], names[0])
    for key in ("hidden_act", "hidden_activation", "activation_function", "activation"):
        message = f"llama.cpp computes {spelling} in all models of this family"
        config.require(key, names, "M-009", message)


def usual_rope(keys: Keys, options: RopeOptions) -> Rope:
    """The rotation of a family for which llama.cpp's converter writes no base of the frequencies.

    Readers assume 10000 then; another one is written.

    keys: where it is put.
    options: what the rotation may be.

    Raises what `Rope.of` raises.
    """
    rope = Rope.of(keys.config, options)
    if rope.theta != DEFAULT_THETA:
        keys.config.applied.add("base-of-frequencies")
        keys.put("rope.freq_base", f32(rope.theta))
    return rope


def four_times(keys: Keys, *names: str) -> None:
    """The width of the network in a family for which llama.cpp's converter takes four times the model's.

    keys: where it is put.
    names: of the width in config.json, where it may be said.

    Raises InvalidError (M-002, M-003).
    """
    usual = 4 * hidden_size(keys.config)
    if keys.integer("feed_forward_length", *names, default=usual, minimum=1) != usual:
        keys.config.applied.add("width-of-network")


def _check_heads(config: Document) -> None:
    """Raise InvalidError (M-003) where key heads do not divide query heads, in a model with one number."""
    if config.first(HEADS) and not isinstance(config.value(config.first(HEADS) or ""), list):
        heads, found = n_heads(config), config.first(KV_HEADS)
        if found and isinstance(config.value(found), int) and heads % config.integer(found):
            expected = f"a divisor of {config.first(HEADS)} ({heads})"
            raise config.wrong(found, config.integer(found), expected)


def experts(keys: Keys) -> None:
    """The keys about experts that the base table has.

    keys: where they are put.

    Raises InvalidError (M-003), UnsupportedError (M-009) for an unknown gating function.
    """
    config = keys.config
    found = config.first(EXPERTS)
    if found is not None:
        keys.put("expert_count", u32(config.integer(found, minimum=0, maximum=MAX_EXPERTS)))
    used = config.first(EXPERTS_USED)
    if used is not None:
        most = config.integer(found, minimum=0) if found is not None else MAX_EXPERTS
        keys.put("expert_used_count", u32(config.integer(used, minimum=0, maximum=max(most, 1))))
    keys.integer("expert_group_count", "n_group")
    keys.integer("expert_group_used_count", "topk_group")
    gating = config.first(GATING)
    if gating is not None:
        function = config.text(gating)
        if function not in GATING_FUNCTIONS:
            message = "llama.cpp does not have this function for the weights of experts"
            finding = Finding(
                "M-009", message, config.at(gating), found=function, expected=", ".join(GATING_FUNCTIONS)
            )
            raise UnsupportedError(config.file, finding)
        keys.put("expert_gating_func", u32(GATING_FUNCTIONS[function]))
