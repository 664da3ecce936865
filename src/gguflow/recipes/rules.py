"""Applies a recipe: each tensor of a model gets a format, and the rule that chose it.

The order of the rules is llama-quantize's (`tensor_allows_quantization`, `llama_tensor_get_type` and
`tensor_type_fallback` in llama.cpp's src/llama-quant.cpp):

    1. some tensors are never quantized;
    2. --token-embedding-type and --output-tensor-type decide for those two, without a fallback;
    3. --tensor-type decides for the tensors that it matches, if the recipe quantizes at all; they are not
       counted among their kind;
    4. otherwise the recipe's rule for the kind of tensor decides, or its base if the recipe is pure;
    5. if a row does not divide into the blocks of the chosen format, another format replaces it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gguflow import blocks
from gguflow.blocks import BlockFormat
from gguflow.blocks.families import Encoding, Format
from gguflow.errors import UsageError
from gguflow.recipes.conditions import ModelFacts, Place, holds
from gguflow.recipes.options import Options
from gguflow.recipes.table import Recipe


@dataclass(frozen=True)
class TensorFacts:
    """The facts about a tensor that rules use.

    name: GGUF name.
    shape: in NumPy order.
    source_format: format of its numbers in the source.
    is_final: whether it stays unchanged if it is not quantized; otherwise the source is a checkpoint, and
        llama.cpp's converter stores it as F32 where precision is cheap.
    is_lossy: whether it has been quantized before.
    keeps: whether a format can hold the codes and scales of the source unchanged; None if it has none.
    """

    name: str
    shape: tuple[int, ...]
    source_format: BlockFormat
    is_final: bool = False
    is_lossy: bool = False
    keeps: Callable[[Format], bool] | None = None

    @property
    def row(self) -> int:
        """Number of weights in a row."""
        return self.shape[-1] if self.shape else 1

    @property
    def n_matrices(self) -> int:
        """Number of stacked matrices: ggml's ne[2], usually 1."""
        return math.prod(self.shape[:-2])

    @property
    def n_dims(self) -> int:
        """Number of dimensions as in ggml: without leading ones."""
        leading = next((i for i, n in enumerate(self.shape) if n != 1), len(self.shape) - 1)
        return len(self.shape) - leading


@dataclass(frozen=True)
class Choice:
    """A format for a tensor.

    format: the format.
    rule: the rule that chose it, in words.
    needs_importance: whether the format is useless without an imatrix.
    """

    format: Format
    rule: str
    needs_importance: bool = False


# The replacement for a format if a row does not divide into its blocks; if that does not fit either, F16.
_FALLBACK = {
    **dict.fromkeys(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs"), "iq4_nl"),
    **dict.fromkeys(("q2_0", "q2_k", "q3_k", "tq1_0", "tq2_0"), "q4_0"),
    "q4_k": "q5_0",
    "q5_k": "q5_1",
    "q6_k": "q8_0",
}

# Formats with blocks up to this size have only F16 as replacement; larger ones that are not above have none.
_SMALL_BLOCK = 32

# Too coarse for matrix products without importance; token embeddings and the output matrix may use them.
_COARSE = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs")

# The kinds of tensor that rules name: the first pattern that matches part of a tensor's name.
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

# Matrices that llama.cpp does not quantize: small, sensitive, or not used in a matrix product.
_NEVER_QUANTIZED = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|ffn_gate_tid2eid\.weight|altup|laurel|per_layer_model_proj|^position_embd\.weight$|^token_types\.weight$"
    r"|ssm_conv1d|shortconv\.conv\.weight|indexer\.[kq]_proj\.weight|attn_rel_b\.weight"
    r"|time_mix_(first|w0|w1|w2|v0|v1|v2|a0|a1|a2|g1|g2|decay_w1|decay_w2|lerp_fused)\.weight"
    r"|\.position_embd|sam\.pos_embd|sam\.neck\.|sam\.net_|\.rel_pos|\.patch_embd|\.patch_merger|a\.rvq\.codebook|mm\.a\.code_embd"
)

# One architecture has more of them, and some that are at least Q8_0.
_GLM5_NEXT = "glm5-next"
_GLM5_NEXT_NEVER_QUANTIZED = re.compile(
    r"hc_|indexer\.(attn_q_b|attn_k|proj)|indexer_compressor_(gate|ape)|ssm_(f_a|f_b|g_a|g_b|beta)\.weight"
    r"|attn_kv_a_mqa\.weight|attn_[kv]_b\.weight"
)
_GLM5_NEXT_Q8_0 = re.compile(r"attn_q_[ab]|nextn\.eh_proj")

# The converter stores this one's routers in the type of the file.
_DBRX = "dbrx"

# Of these matrices, those that llama.cpp's converter always stores as F32, as it does with vectors.
_ALWAYS_F32 = re.compile(
    r"_norm\.weight$|\.ffn_gate_inp(_shexp)?\.weight$|^position_embd\.weight$|^token_types\.weight$|ssm_conv1d|shortconv\.conv\.weight"
    r"|altup_(correct|predict)_coef\.weight|time_mix_(first|w1|w2|decay_w1|decay_w2|lerp_fused)\.weight"
    r"|indexer\.(proj|[qk]_proj)\.weight"
)


def processing_order(name: str) -> tuple[int, int, str]:
    """A sort key for tensor names, in which tensors of a kind are counted: outside blocks, then by block."""
    match = re.match(r"blk\.(\d+)\.", name)
    return (1, int(match[1]), name) if match else (0, 0, name)


def kind_of(name: str) -> str:
    """The kind of a tensor in the recipes' rules, "" for any other."""
    return next((kind for kind, pattern in _KINDS if pattern.search(name)), "")


def choose(
    recipe: Recipe, tensors: Sequence[TensorFacts], model: ModelFacts, options: Options | None = None
) -> dict[str, Choice]:
    """Choose the format of every tensor, and return the choices by name.

    recipe: the recipe to apply.
    tensors: all tensors of the model.
    model: facts about the model.
    options: options that override the recipe.

    Raises UsageError if an option cannot be applied (a format that rows do not divide into, a regular
    expression that matches no name) or a quantized source would be quantized again, and UnknownFormatError if
    the recipe needs a format that this version does not have.
    """
    options = options or Options()
    if options.patterns and recipe.encoding is None and not blocks.by_name(recipe.base).is_quantized:
        raise UsageError(
            f"--tensor-type needs a type that quantizes; with {recipe.name} it would have no effect"
        )
    options.check_matches([tensor.name for tensor in tensors])
    ordered = sorted(tensors, key=lambda tensor: processing_order(tensor.name))
    chooser = _Chooser(recipe, ordered, model, options)
    return {tensor.name: chooser.choice(tensor) for tensor in ordered}


class _Chooser:
    """Chooses formats for the tensors of a model in processing order, counting the tensors of each kind."""

    def __init__(
        self, recipe: Recipe, tensors: Sequence[TensorFacts], model: ModelFacts, options: Options
    ) -> None:
        self.recipe = recipe
        self.model = model
        self.options = options
        self.base = blocks.by_name(recipe.base)
        kinds = [kind_of(tensor.name) for tensor in tensors]
        self.n_attn_v = kinds.count("attn_v")
        self.is_tied = "output" not in kinds
        self.seen: Counter[str] = Counter()

    def choice(self, tensor: TensorFacts) -> Choice:
        """The choice for the next tensor in processing order."""
        if self.recipe.encoding is not None:
            return self._by_encoding(tensor, self.recipe.encoding)
        kept = _never_quantized(tensor, self.model) or self._leave_output(tensor)
        if self.recipe.is_copy:
            kept = kept or Choice(tensor.source_format, "copy: as in the source")
        if kept is not None:
            return kept
        kind = kind_of(tensor.name)
        choice = self._by_option(tensor, kind) or _with_fallback(
            self._by_pattern(tensor) or self._by_recipe(tensor, kind), tensor
        )
        self._refuse_requantizing(tensor, choice)
        return replace(choice, needs_importance=self._needs_importance(choice.format, kind))

    def _by_encoding(self, tensor: TensorFacts, encoding: Encoding) -> Choice:
        """The choice if the recipe is a parametric encoding: only matrices have it."""
        own = Choice(tensor.source_format, f"{self.recipe.name}: the model's own numbers")
        if _never_quantized(tensor, self.model):
            return own
        kind = kind_of(tensor.name)
        choice = self._leave_output(tensor) or self._by_option(tensor, kind)
        if choice is None and (named := self._by_pattern(tensor)):
            choice = _with_fallback(named, tensor)
        if choice is None:
            choice = (
                own
                if kind == "token_embd" and not encoding.is_lossless
                else Choice(encoding, f"{self.recipe.name}: matrices")
            )
        self._refuse_requantizing(tensor, choice)
        return choice

    def _refuse_requantizing(self, tensor: TensorFacts, choice: Choice) -> None:
        is_kept = choice.format is tensor.source_format and tensor.source_format.is_quantized
        is_kept = is_kept or (tensor.keeps is not None and tensor.keeps(choice.format))
        is_decoded = choice.format is blocks.FORMATS["f32"]
        is_kept = is_kept or (is_decoded and not tensor.is_final)  # a checkpoint has no other plain form
        if (
            (tensor.is_lossy or tensor.source_format.is_quantized)
            and not is_kept
            and not self.options.allow_requantize
        ):
            was = tensor.source_format if tensor.source_format.is_quantized else "quantized"
            why = "regains nothing" if is_decoded else "would lose more precision"
            message = f"{tensor.name} is {was} already; {choice.format} {why} (--allow-requantize permits it)"
            raise UsageError(message)

    def _leave_output(self, tensor: TensorFacts) -> Choice | None:
        if self.options.leave_output_tensor and kind_of(tensor.name) == "output":
            return Choice(tensor.source_format, "--leave-output-tensor")
        return None

    def _by_option(self, tensor: TensorFacts, kind: str) -> Choice | None:
        """The choice of --token-embedding-type or --output-tensor-type, if given.

        --tensor-type may still decide for per-layer embeddings, which are a separate table.
        """
        option, wanted = {
            "token_embd": ("--token-embedding-type", self.options.token_embedding_format),
            "output": ("--output-tensor-type", self.options.output_format),
        }.get(kind, ("", None))
        if wanted is None or (
            tensor.name == "per_layer_token_embd.weight" and self.options.named_format(tensor.name)
        ):
            return None
        if tensor.row % wanted.block_size:
            raise UsageError(
                f"{option}: the rows of {tensor.name} have {tensor.row} weights, "
                f"which do not divide into {_blocks(wanted)}"
            )
        return Choice(wanted, option)

    def _by_pattern(self, tensor: TensorFacts) -> Choice | None:
        """The choice of --tensor-type, if one matches."""
        named = self.options.named_format(tensor.name)
        return Choice(named[1], f"--tensor-type {named[0].pattern}") if named else None

    def _by_recipe(self, tensor: TensorFacts, kind: str) -> Choice:
        """The choice of the recipe, even if it does not fit the row; counts the tensor among its kind."""
        base = Choice(self.base, f"{self.recipe.name}: base")
        if self.recipe.is_pure or self.options.pure:
            return base
        if self.model.architecture == _GLM5_NEXT and _GLM5_NEXT_Q8_0.search(tensor.name):
            return Choice(blocks.by_name("q8_0"), f"{_GLM5_NEXT}: not coarser than Q8_0")
        place = self._place(tensor, kind)
        self.seen[kind] += 1
        if self.is_tied and kind == "token_embd":
            kind = "output"
            if self.options.output_format is not None:
                return Choice(
                    self.options.output_format, "--output-tensor-type, to which the embeddings are tied"
                )
        for name, condition in self.recipe.options(kind):
            if holds(condition, place):
                where = f" if {condition} (i={place.i}, n={place.n})" if condition else ""
                return Choice(blocks.by_name(name), f"{self.recipe.name}: {kind or 'other'}{where}")
        return base

    def _place(self, tensor: TensorFacts, kind: str) -> Place:
        seen = self.seen[kind]
        in_block, layer, _ = processing_order(tensor.name)
        return Place(
            self.model,
            i=layer if kind.startswith("ffn") and self.model.n_experts > 1 and in_block else seen,
            seen=seen,
            n=self.n_attn_v if kind == "attn_v" else self.model.n_layers,
            is_uneven=tensor.row % self.base.block_size != 0,
            is_stacked=tensor.n_matrices > 1,
        )

    def _needs_importance(self, block_format: Format, kind: str) -> bool:
        if block_format.importance == "required":
            return True
        return kind not in ("output", "token_embd") and block_format.key in (
            *_COARSE,
            *self.recipe.importance_for,
        )


def _never_quantized(tensor: TensorFacts, model: ModelFacts) -> Choice | None:
    """The choice for a tensor that no recipe quantizes, None for others."""
    number_type = tensor.source_format.number_type
    if number_type is not None and (number_type.kind == "i" or number_type.itemsize == 8):
        return Choice(
            tensor.source_format, f"stays {tensor.source_format}: not weights that can be quantized"
        )
    if not tensor.is_final:
        if len(tensor.shape) < 2:
            return Choice(blocks.FORMATS["f32"], "vectors stay F32")
        if not tensor.name.endswith("weight"):
            return Choice(blocks.FORMATS["f32"], "only weights are quantized")
        if _ALWAYS_F32.search(tensor.name) and not (
            model.architecture == _DBRX and "ffn_gate_inp" in tensor.name
        ):
            return Choice(blocks.FORMATS["f32"], "stays F32: norms and small sensitive matrices")
    is_sensitive = _NEVER_QUANTIZED.search(tensor.name) or (
        model.architecture == _GLM5_NEXT and _GLM5_NEXT_NEVER_QUANTIZED.search(tensor.name)
    )
    if tensor.n_dims < 2 or not tensor.name.endswith("weight") or is_sensitive:
        return Choice(tensor.source_format, "stays as in the source: small or sensitive")
    return None


def _with_fallback(choice: Choice, tensor: TensorFacts) -> Choice:
    """The choice, or its replacement if a row does not divide into its blocks."""
    wanted = choice.format
    if tensor.row % wanted.block_size == 0:
        return choice
    why = f"rows of {tensor.row} do not divide into {_blocks(wanted)}"
    if wanted.key not in _FALLBACK and wanted.block_size > _SMALL_BLOCK:
        raise UsageError(
            f"{tensor.name}: {why}, and there is no format to replace it; choose one with --tensor-type"
        )
    substitute = blocks.by_name(_FALLBACK.get(wanted.key, "f16"))
    if tensor.row % substitute.block_size:
        substitute = blocks.FORMATS["f16"]
    return Choice(substitute, f"{choice.rule}; {why}")


def _blocks(block_format: Format) -> str:
    return f"{block_format} blocks of {block_format.block_size}"
