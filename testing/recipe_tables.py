"""Tables of what each recipe makes of models of many shapes: the shapes, the cases, and our own answer.
tools/compare recipes asks llama-quantize.

A table says the format of every tensor, layer by layer, run by run: {"blk.*.attn_v.weight": "2 q5_k, 14
q4_k"} is Q5_K in the first two of sixteen layers that have such a tensor.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguflow.blocks import FORMATS
from gguflow.errors import UsageError
from gguflow.recipes import RECIPES, ModelFacts, Options, TensorFacts, choose, resolve

TABLES = Path(__file__).resolve().parent.parent / "fixtures" / "recipes"
REFUSED = "refused"

Table = dict[str, str]


@dataclass(frozen=True)
class Shape:
    """A model: what it is of, and its tensors.

    outside, layer: of no layer, and of each, by the rest of the name; dims in NumPy order. dense_layer: of
    the first dense_layers in place of layer. keys: other metadata. recipes: those that are asked for.
    """

    name: str
    architecture: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    outside: dict[str, tuple[int, ...]]
    layer: dict[str, tuple[int, ...]]
    n_experts: int = 0
    dense_layers: int = 0
    dense_layer: dict[str, tuple[int, ...]] = field(default_factory=dict)
    keys: dict[str, int | float | bool] = field(default_factory=dict)
    recipes: tuple[str, ...] = tuple(RECIPES)

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from self.outside.items()
        for i in range(self.n_layers):
            for name, dims in (self.dense_layer if i < self.dense_layers else self.layer).items():
                yield f"blk.{i}.{name}", dims

    def facts(self, has_importance: bool) -> ModelFacts:
        return ModelFacts(
            self.architecture, self.n_layers, self.n_heads, self.n_kv_heads, self.n_experts, has_importance
        )


@dataclass(frozen=True)
class Case:
    """A recipe with options. key: its name in the table."""

    recipe: str
    imatrix: bool = False
    options: Options = field(default_factory=Options)

    @property
    def arguments(self) -> list[str]:
        """The options as the command line has them."""
        o = self.options
        pairs = [("--tensor-type", t) for t in o.tensor_types]
        pairs += [("--output-tensor-type", o.output_tensor_type)] if o.output_tensor_type else []
        pairs += [("--token-embedding-type", o.token_embedding_type)] if o.token_embedding_type else []
        flags = [
            *(["--pure"] if o.pure else []),
            *(["--leave-output-tensor"] if o.leave_output_tensor else []),
        ]
        return flags + [part for pair in pairs for part in pair]

    @property
    def key(self) -> str:
        return " ".join([self.recipe, *(["--imatrix"] if self.imatrix else []), *self.arguments])


def _attention(row: int = 256, dims: int = 8) -> dict[str, tuple[int, ...]]:
    return {f"attn_{kind}.weight": (dims, row) for kind in ("q", "k", "v", "output")}


def _ffn(row: int = 256, wide: int = 512) -> dict[str, tuple[int, ...]]:
    return {"ffn_gate.weight": (wide, row), "ffn_up.weight": (wide, row), "ffn_down.weight": (row, wide)}


def _experts(n: int, row: int = 256, wide: int = 256) -> dict[str, tuple[int, ...]]:
    shapes = {"gate": (n, wide, row), "up": (n, wide, row), "down": (n, row, wide)}
    return {f"ffn_{kind}_exps.weight": dims for kind, dims in shapes.items()} | {
        "ffn_gate_inp.weight": (n, row)
    }


def _shared(row: int = 256) -> dict[str, tuple[int, ...]]:
    return {f"ffn_{kind}_shexp.weight": (row, row) for kind in ("gate", "up", "down")}


def _outside(row: int = 256, tied: bool = False) -> dict[str, tuple[int, ...]]:
    tensors: dict[str, tuple[int, ...]] = {"token_embd.weight": (16, row)}
    return tensors if tied else tensors | {"output.weight": (16, row)}


_MLA: dict[str, tuple[int, ...]] = {
    "attn_q.weight": (8, 256),
    "attn_kv_a_mqa.weight": (8, 256),
    "attn_kv_b.weight": (8, 256),
    "attn_k_b.weight": (4, 8, 128),
    "attn_output.weight": (8, 256),
}
_EXPERT_KEYS: dict[str, int | float | bool] = {
    "expert_used_count": 6,
    "leading_dense_block_count": 1,
    "expert_feed_forward_length": 256,
    "expert_shared_count": 1,
    "expert_gating_func": 2,
    "attention.key_length_mla": 64,
    "attention.value_length_mla": 64,
    "attention.kv_lora_rank": 256,
    "attention.q_lora_rank": 256,
    "ssm.conv_kernel": 4,
    "kda.head_dim": 64,
}
_VECTORS: dict[str, tuple[int, ...]] = {
    "attn_norm.weight": (256,),
    "attn_q_norm.weight": (2, 256),
    "attn_q.bias": (8,),
}
_FUSED: dict[str, tuple[int, ...]] = dict.fromkeys(
    ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight"), (8, 256)
)

_GLM5_NEXT = (
    *("attn_q_a", "attn_q_b", "nextn.eh_proj", "attn_output", "attn_v", "attn_k", "attn_q"),
    *(
        "hc_attn_fn",
        "indexer.attn_q_b",
        "indexer.attn_k",
        "indexer.proj",
        "indexer_compressor_gate",
        "indexer_compressor_ape",
    ),
    *("ssm_f_a", "ssm_f_b", "ssm_g_a", "ssm_g_b", "ssm_beta", "attn_kv_a_mqa", "attn_k_b", "attn_v_b"),
)

_SENSITIVE = (
    *(
        "attn_q_norm",
        "ffn_gate_inp",
        "ffn_gate_inp_shexp",
        "ffn_gate_tid2eid",
        "altup_proj",
        "laurel_l",
        "per_layer_model_proj",
        "ssm_conv1d",
    ),
    *(
        "shortconv.conv",
        "shortconv.in_proj",
        "indexer.k_proj",
        "indexer.q_proj",
        "indexer.proj",
        "attn_rel_b",
        "position_embd",
        "token_types",
    ),
    *(
        f"time_mix_{part}"
        for part in ("first", "w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2", "g1", "g2")
    ),
    *(f"time_mix_{part}" for part in ("decay_w1", "decay_w2", "lerp_fused", "key", "value", "decay")),
    *(
        "sam.pos_embd",
        "sam.neck.0",
        "sam.net_2",
        "attn.rel_pos_h",
        "v.patch_embd",
        "v.patch_merger",
        "a.rvq.codebook",
        "mm.a.code_embd",
    ),
    *("attn_v_b", "attn_qkv_x", "cross_attn_v", "cross_attn_output", "ffn_down_x", "ffn_upper", "hc_x"),
)

SHAPES = (
    Shape("dense", "llama", 32, 32, 32, _outside(), _attention() | _ffn() | _VECTORS),
    Shape(
        "sensitive",
        "llama",
        4,
        32,
        32,
        _outside()
        | {
            "position_embd.weight": (16, 256),
            "token_types.weight": (2, 256),
            "per_layer_token_embd.weight": (16, 256),
        },
        _attention()
        | {f"{name}.weight": (8, 256) for name in _SENSITIVE}
        | {"x.scales": (8, 256), "one_row.weight": (1, 256)},
        recipes=("f16", "q8_0", "q4_k_m", "mxfp4_moe"),
    ),
    Shape("gqa", "llama", 16, 32, 8, _outside(), _attention() | _ffn()),
    Shape("tied", "llama", 28, 24, 8, _outside(tied=True), _attention() | _ffn()),
    Shape(
        "moe-8",
        "llama",
        32,
        32,
        8,
        _outside(),
        _attention() | _experts(8),
        n_experts=8,
        keys={"expert_used_count": 2},
    ),
    Shape(
        "moe-4",
        "llama",
        12,
        32,
        32,
        _outside(),
        _attention() | _experts(4),
        n_experts=4,
        keys={"expert_used_count": 2},
    ),
    Shape(
        "moe-128",
        "qwen3moe",
        48,
        32,
        4,
        _outside(),
        _attention() | _experts(128),
        n_experts=128,
        keys={"expert_used_count": 8},
    ),
    Shape(
        "moe-shared",
        "qwen2moe",
        24,
        16,
        16,
        _outside(),
        _attention() | _experts(60) | _shared(),
        n_experts=60,
        keys={"expert_used_count": 4},
    ),
    Shape(
        "mla",
        "deepseek2",
        27,
        16,
        16,
        _outside(),
        _MLA | _experts(64) | _shared(),
        n_experts=64,
        dense_layers=1,
        dense_layer=_MLA | _ffn(),
        keys=_EXPERT_KEYS,
    ),
    Shape(
        "bailingmoe3",
        "bailingmoe3",
        10,
        16,
        16,
        _outside(),
        _MLA | _experts(16) | _shared() | {"attn_v_b.weight": (4, 8, 256)},
        n_experts=16,
        keys=_EXPERT_KEYS | {"kda.safe_gate": True, "kda.gate_lower_bound": -5.0},
    ),
    Shape(
        "glm5-next",
        "glm5-next",
        12,
        16,
        16,
        _outside(),
        dict.fromkeys((f"{name}.weight" for name in _GLM5_NEXT), (8, 256)) | _experts(16),
        n_experts=16,
        keys=_EXPERT_KEYS
        | {
            f"attention.indexer.{key}": value
            for key, value in (("head_count", 8), ("key_length", 64), ("top_k", 64), ("kpool", 2))
        }
        | {
            "hyper_connection.count": 4,
            "hyper_connection.sinkhorn_iterations": 2,
            "hyper_connection.epsilon": 1e-6,
        },
    ),
    Shape(
        "fused-qkv",
        "phi3",
        32,
        32,
        32,
        _outside(),
        _FUSED,
    ),
    Shape(
        "falcon",
        "falcon",
        32,
        71,
        1,
        _outside(),
        _FUSED,
    ),
    Shape(
        "falcon-moe-8",
        "falcon",
        60,
        128,
        8,
        _outside(),
        _FUSED | _experts(8),
        n_experts=8,
        keys={"expert_used_count": 2},
    ),
    Shape("70b", "llama", 80, 64, 8, _outside(), _attention() | _ffn()),
    Shape("65b", "llama", 80, 64, 64, _outside(), _attention() | _ffn()),
    Shape("qwen2-72b", "qwen2", 80, 64, 8, _outside(), _attention() | _ffn()),
    Shape("rows-of-896", "qwen2", 24, 14, 2, _outside(896, tied=True), _attention(896) | _ffn(896, 4864)),
    Shape("rows-of-96", "llama", 12, 12, 4, _outside(96), _attention(96) | _ffn(96, 160)),
    Shape("rows-of-40", "llama", 9, 4, 4, _outside(40), _attention(40) | _ffn(40, 128)),
    Shape(
        "encoder",
        "bert",
        12,
        12,
        12,
        {"token_embd.weight": (16, 384), "position_embd.weight": (16, 384), "token_types.weight": (2, 384)},
        _attention(384) | {"ffn_up.weight": (1536, 384), "ffn_down.weight": (384, 1536)},
    ),
    Shape(
        "state-space",
        "mamba",
        24,
        0,
        0,
        _outside(tied=True),
        {
            "ssm_in.weight": (8, 256),
            "ssm_conv1d.weight": (8, 4),
            "ssm_x.weight": (8, 256),
            "ssm_dt.weight": (8, 16),
            "ssm_out.weight": (8, 256),
        },
        keys={"ssm.conv_kernel": 4, "ssm.inner_size": 512, "ssm.state_size": 16, "ssm.time_step_rank": 16},
    ),
)

_OPTIONS = (
    Options(pure=True),
    Options(tensor_types=("attn_v=q8_0",)),
    Options(tensor_types=(r"blk\.[1-3]\.ffn_down=f16", "ffn=q5_k", r"blk\.[02]\.attn=iq4_nl")),
    Options(tensor_types=(r"^(output|token_embd)\.weight$=q5_1",)),
    Options(output_tensor_type="bf16"),
    Options(token_embedding_type="f16"),
    Options(output_tensor_type="q8_0", pure=True),
    Options(leave_output_tensor=True),
)

_WITH_OPTIONS = ("q4_k_m", "iq2_s", "mxfp4_moe", "q8_0")


def cases(shape: Shape) -> Iterator[Case]:
    """Every recipe, without importance and with it; some of them with options, where the model has what the
    options speak of.
    """
    for recipe in shape.recipes:
        yield Case(recipe)
        yield Case(recipe, imatrix=True)
    names = [name for name, _ in shape.tensors()]
    row = shape.outside["token_embd.weight"][-1]
    for options in _OPTIONS:
        is_known = all(any(pattern.search(name) for name in names) for pattern, _ in options.patterns)
        is_even = options.output_format is None or row % options.output_format.block_size == 0
        if (
            is_known and is_even
        ):  # the peer's dry run announces formats that do not divide the rows, and its real run dies of them
            yield from (Case(recipe, options=options) for recipe in _WITH_OPTIONS if recipe in shape.recipes)


def our_table(shape: Shape, case: Case) -> Table | str:
    """What `choose` says, or REFUSED."""
    tensors = [
        TensorFacts(name, dims, FORMATS["f32" if len(dims) == 1 else "bf16"], is_final=True)
        for name, dims in shape.tensors()
    ]
    try:
        chosen = choose(resolve(case.recipe), tensors, shape.facts(case.imatrix), case.options)
    except UsageError:
        return REFUSED
    return table({name: choice.format.key for name, choice in chosen.items()})


def table(formats: dict[str, str]) -> Table:
    """Formats of tensors, layers in order, as a table."""
    runs: dict[str, list[tuple[int, str]]] = {}
    for name, block_format in formats.items():
        match = re.match(r"blk\.(\d+)\.", name)
        kind = f"blk.*.{name[match.end() :]}" if match else name
        runs.setdefault(kind, []).append((int(match[1]) if match else 0, block_format))
    return {
        kind: _runs([block_format for _, block_format in sorted(found)])
        for kind, found in sorted(runs.items())
    }


def _runs(formats: list[str]) -> str:
    if len(formats) == 1:
        return formats[0]
    return ", ".join(
        f"{len(list(group))} {block_format}" for block_format, group in itertools.groupby(formats)
    )


def read_tables(shape: Shape) -> dict[str, Any]:
    """The peer's tables of a shape, by the key of the case; of cases with importance, those that are
    different without are left out.
    """
    tables: dict[str, Any] = json.loads((TABLES / f"{shape.name}.json").read_text(encoding="utf-8"))["tables"]
    return tables
