"""Following a recipe: each tensor of a model gets a format, and the rule that chose it.

The order of the rules is llama-quantize's (`tensor_allows_quantization`, `llama_tensor_get_type` and
`tensor_type_fallback` in llama.cpp's src/llama-quant.cpp):

    1. some tensors are not quantized at all;
    2. --token-embedding-type and --output-tensor-type decide on those two, and no other format stands in for
       them;
    3. --tensor-type decides on the tensors that it names, if the recipe quantizes at all; they do not count
       as one of their kind;
    4. else the recipe's rule for the kind of tensor, or its base where the recipe is pure;
    5. where a row does not divide into the blocks of the chosen format, another takes its place.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gguflow import blocks
from gguflow.blocks import BlockFormat
from gguflow.errors import UsageError
from gguflow.parametric.encoding import Encoding
from gguflow.parametric.views import holds as keeps
from gguflow.recipes.conditions import ModelFacts, Place, holds
from gguflow.recipes.options import Format, Options
from gguflow.recipes.table import Recipe


@dataclass(frozen=True)
class TensorFacts:
    """What rules ask about a tensor.

    shape: NumPy order. source_format: what its numbers are now. is_final: whether a tensor that is not
    quantized stays as it is; otherwise the source is a checkpoint, of which llama.cpp's converter makes F32
    wherever precision is cheap. is_lossy: whether it has been quantized before. encoding: of the parametric
    family, where codes and scales of the source can be moved into a payload as they are.
    """

    name: str
    shape: tuple[int, ...]
    source_format: BlockFormat
    is_final: bool = False
    is_lossy: bool = False
    encoding: Encoding | None = None

    @property
    def row(self) -> int:
        """Weights of a row."""
        return self.shape[-1] if self.shape else 1

    @property
    def n_matrices(self) -> int:
        """How many matrices are stacked in it: ggml's ne[2], 1 for most."""
        return math.prod(self.shape[:-2])

    @property
    def n_dims(self) -> int:
        """Dimensions as ggml counts them: leading ones do not count."""
        leading = next((i for i, n in enumerate(self.shape) if n != 1), len(self.shape) - 1)
        return len(self.shape) - leading


@dataclass(frozen=True)
class Choice:
    """A format for a tensor, and the rule that chose it, in words. needs_importance: whether it is worth
    nothing without an imatrix.
    """

    format: Format
    rule: str
    needs_importance: bool = False


# Where a row does not divide into the blocks of the chosen format, this one takes its place; where that does
# not fit either, F16 does.
_FALLBACK = {
    **dict.fromkeys(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs"), "iq4_nl"),
    **dict.fromkeys(("q2_0", "q2_k", "q3_k", "tq1_0", "tq2_0"), "q4_0"),
    "q4_k": "q5_0",
    "q5_k": "q5_1",
    "q6_k": "q8_0",
}
_SMALL_BLOCK = 32  # formats of such blocks have no other to take their place, only F16; larger ones that are not above are refused

# Too coarse for a matrix product without importance; token embeddings and the output matrix may have them all
# the same.
_COARSE = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs")

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

# One architecture has more of them, and some that are never coarser than Q8_0.
_GLM5_NEXT = "glm5-next"
_GLM5_NEXT_NEVER_QUANTIZED = re.compile(
    r"hc_|indexer\.(attn_q_b|attn_k|proj)|indexer_compressor_(gate|ape)|ssm_(f_a|f_b|g_a|g_b|beta)\.weight"
    r"|attn_kv_a_mqa\.weight|attn_[kv]_b\.weight"
)
_GLM5_NEXT_Q8_0 = re.compile(r"attn_q_[ab]|nextn\.eh_proj")

# Of the matrices never quantized, those that llama.cpp's converter stores as F32 whatever their source;
# vectors are among them anyway.
_ALWAYS_F32 = re.compile(
    r"_norm\.weight$|\.ffn_gate_inp(_shexp)?\.weight$|^position_embd\.weight$|^token_types\.weight$|ssm_conv1d|shortconv\.conv\.weight"
    r"|time_mix_(first|w1|w2|decay_w1|decay_w2|lerp_fused)\.weight|indexer\.proj\.weight"
)


def processing_order(name: str) -> tuple[int, int, str]:
    """A sort key for tensor names: those outside of blocks first, then by block; the order in which "the i-th
    of its kind" counts.
    """
    match = re.match(r"blk\.(\d+)\.", name)
    return (1, int(match[1]), name) if match else (0, 0, name)


def kind_of(name: str) -> str:
    """The kind of a tensor that rules speak of, "" for any other."""
    return next((kind for kind, pattern in _KINDS if pattern.search(name)), "")


def choose(
    recipe: Recipe, tensors: Sequence[TensorFacts], model: ModelFacts, options: Options | None = None
) -> dict[str, Choice]:
    """The format of every tensor, by name.

    Raises UsageError where an option asks for what cannot be (a format that rows do not divide into, a
    regular expression that is found in no name), and where a quantized source would be quantized anew;
    UnknownFormatError where the recipe needs a format that this version has not.
    """
    options = options or Options()
    if options.patterns and recipe.encoding is None and not blocks.by_name(recipe.base).is_quantized:
        raise UsageError(
            f"--tensor-type is for types that quantize; with {recipe.name} it would have no effect"
        )
    options.check_matches([tensor.name for tensor in tensors])
    ordered = sorted(tensors, key=lambda tensor: processing_order(tensor.name))
    chooser = _Chooser(recipe, ordered, model, options)
    return {tensor.name: chooser.choice(tensor) for tensor in ordered}


class _Chooser:
    """A recipe on its way through a model; asked in processing order, for it counts the tensors of each kind."""

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
        """The choice for the next tensor."""
        if self.recipe.encoding is not None:
            return self._encoded(tensor, self.recipe.encoding)
        kept = _kept(tensor, self.model) or self._left(tensor)
        if self.recipe.is_copy:
            kept = kept or Choice(tensor.source_format, "copy: as in the source")
        if kept is not None:
            return kept
        kind = kind_of(tensor.name)
        choice = self._asked_for(tensor, kind) or _fitting(
            self._named(tensor) or self._mixed(tensor, kind), tensor
        )
        self._refuse_requantizing(tensor, choice)
        return replace(choice, needs_importance=self._needs_importance(choice.format, kind))

    def _encoded(self, tensor: TensorFacts, encoding: Encoding) -> Choice:
        """The choice where the recipe is an encoding of the parametric family: matrices have it, all else
        keeps the model's own numbers.
        """
        own = Choice(tensor.source_format, f"{self.recipe.name}: the model's own numbers")
        if _kept(tensor, self.model):
            return own
        kind = kind_of(tensor.name)
        choice = self._left(tensor) or self._asked_for(tensor, kind)
        if choice is None and (named := self._named(tensor)):
            choice = _fitting(named, tensor)
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
        if isinstance(choice.format, Encoding) and tensor.encoding is not None:
            is_kept = is_kept or keeps(choice.format, tensor.encoding)
        if (
            (tensor.is_lossy or tensor.source_format.is_quantized)
            and not is_kept
            and not self.options.allow_requantize
        ):
            was = tensor.source_format if tensor.source_format.is_quantized else "quantized"
            message = f"{tensor.name} is {was} already; quantizing it to {choice.format} loses more (--allow-requantize does it)"
            raise UsageError(message)

    def _left(self, tensor: TensorFacts) -> Choice | None:
        if self.options.leave_output_tensor and kind_of(tensor.name) == "output":
            return Choice(tensor.source_format, "--leave-output-tensor")
        return None

    def _asked_for(self, tensor: TensorFacts, kind: str) -> Choice | None:
        """What --token-embedding-type and --output-tensor-type say. --tensor-type may still decide on
        embeddings per layer, a table of their own.
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
                f"{option}: the rows of {tensor.name} have {tensor.row} weights, which do not divide into {_blocks(wanted)}"
            )
        return Choice(wanted, option)

    def _named(self, tensor: TensorFacts) -> Choice | None:
        """What --tensor-type says."""
        named = self.options.named_format(tensor.name)
        return Choice(named[1], f"--tensor-type {named[0].pattern}") if named else None

    def _mixed(self, tensor: TensorFacts, kind: str) -> Choice:
        """What the recipe says, whether it fits the row or not. Counts the tensor as one of its kind."""
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


def _kept(tensor: TensorFacts, model: ModelFacts) -> Choice | None:
    """The choice for a tensor that no recipe quantizes, None for one that it may."""
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
        if _ALWAYS_F32.search(tensor.name):
            return Choice(blocks.FORMATS["f32"], "stays F32: norms and small sensitive matrices")
    is_sensitive = _NEVER_QUANTIZED.search(tensor.name) or (
        model.architecture == _GLM5_NEXT and _GLM5_NEXT_NEVER_QUANTIZED.search(tensor.name)
    )
    if tensor.n_dims < 2 or not tensor.name.endswith("weight") or is_sensitive:
        return Choice(tensor.source_format, "stays as in the source: small or sensitive")
    return None


def _fitting(choice: Choice, tensor: TensorFacts) -> Choice:
    """The choice, or its substitute where a row does not divide into its blocks."""
    wanted = choice.format
    if tensor.row % wanted.block_size == 0:
        return choice
    why = f"rows of {tensor.row} do not divide into {_blocks(wanted)}"
    if wanted.key not in _FALLBACK and wanted.block_size > _SMALL_BLOCK:
        raise UsageError(
            f"{tensor.name}: {why}, and no format is known to take its place; choose one with --tensor-type"
        )
    substitute = blocks.by_name(_FALLBACK.get(wanted.key, "f16"))
    if tensor.row % substitute.block_size:
        substitute = blocks.FORMATS["f16"]
    return Choice(substitute, f"{choice.rule}; {why}")


def _blocks(block_format: Format) -> str:
    return f"{block_format} blocks of {block_format.block_size}"
