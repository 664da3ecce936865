"""Recipes: which tensor gets which block format.

A recipe has a base format, and for some kinds of tensor a better (or cheaper) one, depending on the layer and the shape of the model. `RECIPES` is
that table, whole. The rules are llama-quantize's (`llama_tensor_get_type` in llama.cpp's src/llama-quant.cpp, as of September 2026), so the same
name means the same formats. This module is pure: names and numbers in, a format and the reason for it out.

How to read a rule: "q5_k if i<2; q4_k" is tried from left to right; where nothing fits, the base format stays. Conditions, with i the position of
the tensor among its kind and n how many there are:

    i<2 i<4          among the first
    i<n/8 i<n/16     among the first eighth, sixteenth (rounded down)
    more_bits        the first eighth, the last eighth, and every third between: the layers whose errors cost most
    middle           neither among the first eighth nor the last
    gqa>=4           four or more query heads share a key-value head
    experts>=4       a mixture of four or more experts
    imatrix          importance is given; "no imatrix" is the opposite
    falcon           Falcon's rules differ
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from gguflow import blocks
from gguflow.blocks import BlockFormat
from gguflow.errors import UnknownFormatError

VERSION = "llama-quantize 2026-09"


@dataclass(frozen=True)
class ModelFacts:
    """What rules ask about a model. 0 where unknown."""

    architecture: str
    n_layers: int = 0
    n_heads: int = 0
    n_kv_heads: int = 0
    n_experts: int = 0
    has_importance: bool = False

    @property
    def gqa(self) -> int:
        return self.n_heads // self.n_kv_heads if self.n_kv_heads else 1

    @property
    def is_llama_70b(self) -> bool:
        return self.architecture == "llama" and self.n_layers == 80 and self.n_heads != self.n_kv_heads


@dataclass(frozen=True)
class TensorFacts:
    """What rules ask about a tensor. shape: NumPy order. source_format: what its numbers are now."""

    name: str
    shape: tuple[int, ...]
    source_format: BlockFormat


@dataclass(frozen=True)
class Choice:
    """A format for a tensor, and the rule that chose it, in words."""

    format: BlockFormat
    rule: str


@dataclass(frozen=True)
class Recipe:
    """A named mixture of formats; see the module's docstring for the language of the rules.

    file_type: llama.cpp's number for it (general.file_type). The fields after base are rules for kinds of tensor; output also serves token
    embeddings that are tied to it. is_pure: the base for every tensor that is quantized at all, no other rule.
    """

    name: str
    file_type: int
    base: str
    output: str = "q8_0 if falcon; q6_k"
    token_embd: str = ""
    attn_v: str = ""
    attn_k: str = ""
    attn_q: str = ""
    attn_output: str = ""
    ffn_down: str = ""
    ffn_gate: str = ""
    ffn_up: str = ""
    attn_output_of_8_experts: str = ""
    is_pure: bool = False

    @property
    def label(self) -> str:
        """How file names spell it."""
        return self.name.upper()


_8X = "q5_k"  # attn_output of a mixture of exactly eight experts, for the recipes that raise it

_TABLE = (
    Recipe("f32", 0, "f32", is_pure=True),
    Recipe("f16", 1, "f16", is_pure=True),
    Recipe("bf16", 32, "bf16", is_pure=True),
    Recipe("q4_0", 2, "q4_0", ffn_down="q4_1 if imatrix and i<n/8"),
    Recipe("q4_1", 3, "q4_1"),
    Recipe("q5_0", 8, "q5_0", ffn_down="q5_1 if imatrix and i<n/8"),
    Recipe("q5_1", 9, "q5_1"),
    Recipe("q8_0", 7, "q8_0", output=""),
    Recipe("q2_k", 10, "q2_k", attn_v="q4_k if gqa>=4; q3_k", attn_output="q3_k", ffn_down="q3_k", attn_output_of_8_experts=_8X),
    Recipe("q2_k_s", 21, "q2_k", attn_v="q4_k if gqa>=4", ffn_down="q4_k if i<n/8"),
    Recipe("q3_k_s", 11, "q3_k", attn_output_of_8_experts=_8X),
    Recipe(
        "q3_k_m",
        12,
        "q3_k",
        attn_v="q5_k if i<2; q4_k",
        attn_output="q3_k if falcon; q4_k",
        ffn_down="q5_k if i<n/16; q4_k if not falcon; q4_k if more_bits",
        attn_output_of_8_experts=_8X,
    ),
    Recipe("q3_k_l", 13, "q3_k", attn_v="q5_k", attn_output="q4_k if falcon; q5_k", ffn_down="q4_k if falcon; q5_k"),
    Recipe("q4_k_s", 14, "q4_k", attn_v="q5_k if i<4", ffn_down="q5_k if not falcon and i<n/8", attn_output_of_8_experts=_8X),
    Recipe(
        "q4_k_m",
        15,
        "q4_k",
        attn_v="q6_k if more_bits",
        ffn_down="q6_k if falcon and i<n/16; q5_k if falcon and more_bits; q4_k if falcon; q6_k if more_bits",
        attn_output_of_8_experts=_8X,
    ),
    Recipe("q5_k_s", 16, "q5_k"),
    Recipe("q5_k_m", 17, "q5_k", attn_v="q6_k if more_bits", ffn_down="q6_k if more_bits"),
    Recipe("q6_k", 18, "q6_k"),
    Recipe("iq4_nl", 25, "iq4_nl", attn_v="q5_k if gqa>=4", ffn_down="q5_k if no imatrix and i<n/8", attn_output_of_8_experts=_8X),
    Recipe("iq4_xs", 30, "iq4_xs", attn_v="q5_k if gqa>=4", ffn_down="q5_k if no imatrix and i<n/8", attn_output_of_8_experts=_8X),
)

# Where a row does not divide into the blocks of the chosen format, this one takes its place; where that does not fit either, F16 does.
_FALLBACK = {
    **dict.fromkeys(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs"), "iq4_nl"),
    **dict.fromkeys(("q2_0", "q2_k", "q3_k", "tq1_0", "tq2_0"), "q4_0"),
    "q4_k": "q5_0",
    "q5_k": "q5_1",
    "q6_k": "q8_0",
}

# The kinds that rules speak of: the first pattern that is found in a tensor's name.
_KINDS = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("output", r"^output\.weight$"),
        ("token_embd", r"^(token_embd|per_layer_token_embd)\.weight$"),
        ("attn_v", r"attn_(qkv|kv_b|v)\.weight"),
        ("attn_k", r"attn_k\.weight"),
        ("attn_q", r"attn_q\.weight"),
        ("attn_output", r"attn_output\.weight"),
        ("ffn_up", r"ffn_up"),
        ("ffn_gate", r"ffn_gate"),
        ("ffn_down", r"ffn_down"),
    )
)

# Matrices that llama.cpp wants left as they are: small, sensitive, or not used in a matrix product.
_NEVER_QUANTIZED = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|ffn_gate_tid2eid\.weight|altup|laurel|per_layer_model_proj|^position_embd\.weight$|^token_types\.weight$"
    r"|ssm_conv1d|shortconv\.conv\.weight|indexer\.[kq]_proj\.weight|attn_rel_b\.weight"
    r"|time_mix_(first|w0|w1|w2|v0|v1|v2|a0|a1|a2|g1|g2|decay_w1|decay_w2|lerp_fused)\.weight"
    r"|\.position_embd|sam\.pos_embd|sam\.neck\.|sam\.net_|\.rel_pos|\.patch_embd|\.patch_merger|a\.rvq\.codebook|mm\.a\.code_embd"
)

# Of those, the ones that llama.cpp's converter stores as F32 whatever their source; vectors and norms are among them anyway.
_ALWAYS_F32 = re.compile(
    r"_norm\.weight$|\.ffn_gate_inp(_shexp)?\.weight$|^position_embd\.weight$|^token_types\.weight$|ssm_conv1d|shortconv\.conv\.weight"
    r"|time_mix_(first|w1|w2|decay_w1|decay_w2|lerp_fused)\.weight|indexer\.proj\.weight"
)


@dataclass(frozen=True)
class _Place:
    """A tensor among its kind: number i of n, in this model."""

    i: int
    n: int
    model: ModelFacts


def _more_bits(p: _Place) -> bool:
    return p.i < p.n // 8 or p.i >= 7 * p.n // 8 or (p.i - p.n // 8) % 3 == 2


_CONDITIONS: dict[str, Callable[[_Place], bool]] = {
    "i<2": lambda p: p.i < 2,
    "i<4": lambda p: p.i < 4,
    "i<n/8": lambda p: p.i < p.n // 8,
    "i<n/16": lambda p: p.i < p.n // 16,
    "middle": lambda p: p.n // 8 <= p.i < 7 * p.n // 8,
    "more_bits": _more_bits,
    "gqa>=4": lambda p: p.model.gqa >= 4,
    "experts>=4": lambda p: p.model.n_experts >= 4,
    "imatrix": lambda p: p.model.has_importance,
    "no imatrix": lambda p: not p.model.has_importance,
    "falcon": lambda p: p.model.architecture == "falcon",
    "not falcon": lambda p: p.model.architecture != "falcon",
}

RECIPES = MappingProxyType({recipe.name: recipe for recipe in _TABLE})


def resolve(name: str) -> Recipe:
    """The recipe of this name, in any case; a block format's name that no recipe has means that format for every tensor that is quantized.

    Raises UnknownFormatError, which lists both.
    """
    key = name.lower()
    if key in RECIPES:
        return RECIPES[key]
    block_format = blocks.FORMATS.get(key)
    file_types = {recipe.base: recipe.file_type for recipe in reversed(_TABLE)}
    if block_format is None or not block_format.is_quantized:
        known = sorted({*RECIPES, *(f.key for f in blocks.FORMATS.values() if f.is_quantized)})
        raise UnknownFormatError(f"unknown type {name!r}; known: {', '.join(known)}")
    return Recipe(key, file_types.get(key, 1024), key, is_pure=True)  # 1024: llama.cpp's "guessed from the tensors"


def processing_order(name: str) -> tuple[int, int, str]:
    """A sort key for tensor names: those outside of blocks first, then by block; the order in which "the i-th of its kind" counts."""
    match = re.match(r"blk\.(\d+)\.", name)
    return (1, int(match[1]), name) if match else (0, 0, name)


def choose(recipe: Recipe, tensors: Sequence[TensorFacts], model: ModelFacts) -> dict[str, Choice]:
    """The format of every tensor, by name.

    Raises UnknownFormatError where the recipe needs a format that this version has not.
    """
    ordered = sorted(tensors, key=lambda tensor: processing_order(tensor.name))
    kinds = {tensor.name: kind_of(tensor.name) for tensor in ordered}
    n_attn_v = sum(kind == "attn_v" for kind in kinds.values())
    is_tied = "output" not in kinds.values()
    seen: dict[str, int] = {}
    choices = {}
    for tensor in ordered:
        kept = _kept_format(tensor)
        if kept is not None:
            choices[tensor.name] = kept
            continue
        kind = kinds[tensor.name]
        if kind == "attn_v":
            place = _Place(seen.get(kind, 0), n_attn_v, model)
        elif model.n_experts > 1:  # experts are scattered: believe the name
            place = _Place(processing_order(tensor.name)[1], model.n_layers, model)
        else:
            place = _Place(seen.get(kind, 0), model.n_layers, model)
        seen[kind] = seen.get(kind, 0) + 1
        choice = _mixed(recipe, "output" if is_tied and kind == "token_embd" else kind, tensor.shape[-1], place)
        choices[tensor.name] = _fitting(choice, tensor.shape[-1])
    return choices


def kind_of(name: str) -> str:
    """The kind of a tensor that rules speak of, "" for any other."""
    return next((kind for kind, pattern in _KINDS if pattern.search(name)), "")


def _kept_format(tensor: TensorFacts) -> Choice | None:
    """The choice for a tensor that no recipe quantizes, None for one that it may."""
    n_dims = len(tensor.shape) - next((i for i, n in enumerate(tensor.shape) if n != 1), len(tensor.shape) - 1)  # leading ones do not count
    if len(tensor.shape) < 2:
        return Choice(blocks.FORMATS["f32"], "vectors stay F32")
    if not tensor.name.endswith("weight"):
        return Choice(blocks.FORMATS["f32"], "only weights are quantized")
    if _ALWAYS_F32.search(tensor.name):
        return Choice(blocks.FORMATS["f32"], "stays F32: norms and small sensitive matrices")
    if n_dims < 2 or _NEVER_QUANTIZED.search(tensor.name):
        return Choice(tensor.source_format, "stays as in the source: small or sensitive")
    return None


def _mixed(recipe: Recipe, kind: str, row: int, place: _Place) -> Choice:
    """What the recipe says of a kind at a place, whether it fits the row or not."""
    base = Choice(blocks.by_name(recipe.base), f"{recipe.name}: base")
    if recipe.is_pure:
        return base
    if kind == "output" and recipe.output and row % base.format.block_size:
        return Choice(blocks.by_name("q8_0"), f"{recipe.name}: output, whose rows of {row} do not divide into {base.format} blocks")
    if place.model.n_experts == 8:
        rule = {"attn_v": "q8_0", "attn_k": "q8_0", "attn_output": recipe.attn_output_of_8_experts}.get(kind)
        if rule is not None:
            return Choice(blocks.by_name(rule), f"{recipe.name}: {kind} of eight experts") if rule else base
    for option in filter(None, (getattr(recipe, kind) if kind else "").split("; ")):
        name, _, condition = option.partition(" if ")
        if all(_CONDITIONS[term](place) for term in condition.split(" and ") if term):
            where = f" if {condition} (i={place.i}, n={place.n})" if condition else ""
            return _raised_in_70b(Choice(blocks.by_name(name), f"{recipe.name}: {kind}{where}"), kind, place)
    return _raised_in_70b(base, kind, place)


def _raised_in_70b(choice: Choice, kind: str, place: _Place) -> Choice:
    """In Llama 70B eight heads share each attn_v, which makes it small: it is worth a better format."""
    if kind == "attn_v" and place.model.is_llama_70b and choice.format.key in ("q3_k", "q4_k"):
        return Choice(blocks.by_name("q5_k"), f"{choice.rule}, raised in a 70B")
    return choice


def _fitting(choice: Choice, row: int) -> Choice:
    """The choice, or its substitute where a row does not divide into its blocks."""
    wanted = choice.format
    if row % wanted.block_size == 0:
        return choice
    why = f"{choice.rule}; rows of {row} do not divide into {wanted} blocks of {wanted.block_size}"
    substitute = blocks.by_name(_FALLBACK.get(wanted.key, wanted.key))
    if row % substitute.block_size:
        return Choice(blocks.FORMATS["f16"], why)
    return Choice(substitute, why)
