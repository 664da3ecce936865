"""The table of recipes. The rules are llama-quantize's (`llama_tensor_get_type_impl` in llama.cpp's
src/llama-quant.cpp, as of September 2026), so the same name means the same formats.

How to read a rule: "q5_k if i<2; q4_k" is tried from left to right; if nothing applies, the base format is
used. Conditions (`conditions.py`), with i the index of the tensor among its kind (its layer, in a mixture of
experts) and n the number of layers:

    i<2 i<4            among the first
    i<n/8 i<n/16       among the first eighth, sixteenth (rounded down)
    seen<n/8           fewer than n/8 of its kind came before, also in a mixture of experts
    more_bits          the first eighth, the last eighth, and every third between: the layers whose errors
                       cost most
    middle             in neither the first eighth nor the last
    gqa>=4             four or more query heads share a key-value head
    experts=8          a mixture of exactly eight experts: attention is small, and worth more bits
    experts>=4         a mixture of four or more
    70B                a 70B model: eight heads share each attn_v, which makes it small and worth more bits
    imatrix            importance is given
    uneven             rows do not divide into the base's blocks
    stacked            several matrices in one tensor
    falcon bailingmoe3 of that architecture
    not ...            the negation
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType

from gguflow import blocks
from gguflow.arguments import shown
from gguflow.blocks.families import Encoding, closest_format, families, find_encoding
from gguflow.errors import UnknownFormatError, UsageError

VERSION = "llama-quantize 2026-09"
"""The release of llama.cpp whose rules these are; they change between releases."""

KINDS = (
    "output",
    "token_embd",
    "attn_v",
    "attn_k",
    "attn_q",
    "attn_output",
    "ffn_down",
    "ffn_gate",
    "ffn_up",
)
"""The kinds of tensor that rules name; attn_v includes attn_qkv and attn_kv_b, ffn_* includes experts."""


@dataclass(frozen=True)
class Recipe:
    """A named mixture of formats; see the module's docstring for the language of the rules.

    name: as llama-quantize calls it.
    file_type: llama.cpp's number for it (general.file_type).
    base: format of tensors without a rule. The fields after it are rules for kinds of tensor.
    output: also for token embeddings that are tied to it.
    other: for every kind that has no rule of its own.
    importance_for: formats that this recipe uses only with importance.
    is_pure: whether every quantized tensor has the base format, without other rules.
    is_copy: whether no tensor is quantized.
    encoding: a parametric encoding for every matrix but the token embeddings; it replaces all the rest.
    """

    name: str
    file_type: int
    base: str
    output: str = "q8_0 if falcon; q8_0 if uneven; q6_k"
    token_embd: str = ""
    attn_v: str = "q8_0 if experts=8"
    attn_k: str = "q8_0 if experts=8"
    attn_q: str = ""
    attn_output: str = ""
    ffn_down: str = ""
    ffn_gate: str = ""
    ffn_up: str = ""
    other: str = ""
    importance_for: tuple[str, ...] = ()
    is_pure: bool = False
    is_copy: bool = False
    encoding: Encoding | None = None

    @property
    def label(self) -> str:
        """The spelling in file names."""
        return re.sub(r"[^A-Z0-9_.+-]+", "-", self.name.upper())

    def options(self, kind: str) -> list[tuple[str, str]]:
        """The (format, condition) pairs of the rule for a kind, in the order in which they are tried."""
        rule: str = (getattr(self, kind) if kind in KINDS else "") or self.other
        pairs = [option.partition(" if ") for option in rule.split("; ") if option]
        return [(name, condition) for name, _, condition in pairs]


_COARSE_OUTPUT = "q8_0 if falcon; q8_0 if uneven; q5_k"
_COARSE_K = "q4_k if experts=8"

_TABLE = (
    Recipe("f32", 0, "f32", is_pure=True),
    Recipe("f16", 1, "f16", is_pure=True),
    Recipe("bf16", 32, "bf16", is_pure=True),
    Recipe("q4_0", 2, "q4_0", ffn_down="q4_1 if imatrix and i<n/8"),
    Recipe("q4_1", 3, "q4_1"),
    Recipe("q5_0", 8, "q5_0", ffn_down="q5_1 if imatrix and i<n/8"),
    Recipe("q5_1", 9, "q5_1"),
    Recipe("q8_0", 7, "q8_0", output=""),
    Recipe(
        "q2_k",
        10,
        "q2_k",
        attn_v="q8_0 if experts=8; q5_k if 70B; q4_k if gqa>=4; q3_k",
        attn_output="q2_k if falcon; q5_k if experts=8; q3_k",
        ffn_down="q3_k",
    ),
    Recipe(
        "q2_k_s",
        21,
        "q2_k",
        attn_v="q8_0 if experts=8; q5_k if 70B and gqa>=4; q4_k if gqa>=4",
        ffn_down="q4_k if i<n/8",
        importance_for=("q2_k",),
    ),
    Recipe(
        "q3_k_s",
        11,
        "q3_k",
        attn_v="q8_0 if experts=8; q5_k if 70B",
        attn_output="q5_k if experts=8 and not falcon",
    ),
    Recipe(
        "q3_k_m",
        12,
        "q3_k",
        attn_v="q8_0 if experts=8; q5_k if i<2; q5_k if 70B; q4_k",
        attn_output="q3_k if falcon; q5_k if experts=8; q4_k",
        ffn_down="q5_k if i<n/16; q4_k if not falcon; q4_k if more_bits",
    ),
    Recipe(
        "q3_k_l",
        13,
        "q3_k",
        attn_v="q8_0 if experts=8; q5_k",
        attn_output="q4_k if falcon; q3_k if experts=8; q5_k",
        ffn_down="q4_k if falcon; q5_k",
    ),
    Recipe(
        "q4_k_s",
        14,
        "q4_k",
        attn_v="q8_0 if experts=8; q5_k if i<4; q5_k if 70B",
        attn_output="q5_k if experts=8 and not falcon",
        ffn_down="q5_k if i<n/8 and not falcon",
    ),
    Recipe(
        "q4_k_m",
        15,
        "q4_k",
        attn_v="q8_0 if experts=8; q6_k if more_bits; q5_k if 70B",
        attn_output="q5_k if experts=8 and not falcon",
        ffn_down="q6_k if falcon and i<n/16; q5_k if falcon and more_bits; q4_k if falcon; q6_k if more_bits",
    ),
    Recipe("q5_k_s", 16, "q5_k"),
    Recipe("q5_k_m", 17, "q5_k", attn_v="q8_0 if experts=8; q6_k if more_bits", ffn_down="q6_k if more_bits"),
    Recipe("q6_k", 18, "q6_k"),
    Recipe(
        "iq1_s",
        24,
        "iq1_s",
        output=_COARSE_OUTPUT,
        token_embd="q2_k",
        attn_v="q4_k if gqa>=4; q4_k if experts>=4; q2_k",
        attn_k=_COARSE_K,
        attn_output="q5_k if experts=8; iq2_xxs",
        ffn_down="q2_k if seen<n/8",
    ),
    Recipe(
        "iq1_m",
        31,
        "iq1_m",
        output=_COARSE_OUTPUT,
        token_embd="q2_k",
        attn_v="q4_k if gqa>=4; q4_k if experts>=4; q2_k",
        attn_k=_COARSE_K,
        attn_output="q5_k if experts=8; iq2_xxs",
        ffn_down="q2_k if seen<n/8",
    ),
    Recipe(
        "iq2_xxs",
        19,
        "iq2_xxs",
        output=_COARSE_OUTPUT,
        token_embd="q2_k",
        attn_v="q4_k if gqa>=4; q4_k if experts>=4; q2_k",
        attn_k=_COARSE_K,
        attn_output="q5_k if experts=8",
        ffn_down="q2_k if seen<n/8",
    ),
    Recipe(
        "iq2_xs",
        20,
        "iq2_xs",
        output=_COARSE_OUTPUT,
        token_embd="q2_k",
        attn_v="q4_k if gqa>=4; q4_k if experts>=4; q2_k",
        attn_k=_COARSE_K,
        attn_output="q5_k if experts=8",
        ffn_down="q2_k if seen<n/8",
    ),
    Recipe(
        "iq2_s",
        28,
        "iq2_xs",
        output=_COARSE_OUTPUT,
        token_embd="iq3_s",
        attn_v="q4_k if gqa>=4; q4_k if experts>=4; iq3_s",
        attn_k=_COARSE_K,
        attn_output="q5_k if experts=8; iq3_s",
        ffn_down="iq3_s if seen<n/8",
    ),
    Recipe(
        "iq2_m",
        29,
        "iq2_s",
        output=_COARSE_OUTPUT,
        token_embd="iq3_s",
        attn_v="q4_k if gqa>=4; q4_k if experts>=4; iq3_s",
        attn_k=_COARSE_K,
        attn_output="q5_k if experts=8; iq3_s",
        ffn_down="iq3_s if seen<n/8",
    ),
    Recipe(
        "iq3_xxs",
        23,
        "iq3_xxs",
        output=_COARSE_OUTPUT,
        token_embd="iq3_s",
        attn_v="q8_0 if experts=8; q5_k if 70B and gqa>=4; q4_k if gqa>=4; iq3_s if not imatrix",
        attn_k="q8_0 if experts=8; iq2_s",
        attn_q="iq2_s",
        attn_output="iq3_xxs if falcon; q5_k if experts=8; iq3_s",
        ffn_down="q4_k if not imatrix and i<n/8; q3_k if not imatrix",
    ),
    Recipe(
        "iq3_xs",
        22,
        "iq3_s",
        attn_v="q8_0 if experts=8; q5_k if 70B and gqa>=4; q4_k if gqa>=4",
        attn_k="q8_0 if experts=8; iq3_xxs",
        attn_q="iq3_xxs",
        attn_output="q5_k if experts=8 and not falcon",
        ffn_gate="iq3_xxs if middle",
        ffn_up="iq3_xxs if middle",
    ),
    Recipe(
        "iq3_s",
        26,
        "iq3_s",
        attn_v="q8_0 if experts=8; q5_k if 70B and gqa>=4; q4_k if gqa>=4",
        attn_output="q5_k if experts=8 and not falcon",
    ),
    Recipe(
        "iq3_m",
        27,
        "iq3_s",
        attn_v="q8_0 if experts=8; q5_k if 70B; q4_k",
        attn_output="iq3_s if falcon; q5_k if experts=8; q4_k",
        ffn_down="q4_k if i<n/8; q4_k if experts=8 and more_bits",
    ),
    Recipe(
        "iq4_nl",
        25,
        "iq4_nl",
        attn_v="q8_0 if experts=8; q5_k if gqa>=4",
        attn_output="q5_k if experts=8 and not falcon",
        ffn_down="q5_k if i<n/8 and not imatrix",
    ),
    Recipe(
        "iq4_xs",
        30,
        "iq4_xs",
        attn_v="q8_0 if experts=8; q5_k if gqa>=4",
        attn_output="q5_k if experts=8 and not falcon",
        ffn_down="q5_k if i<n/8 and not imatrix",
    ),
    Recipe("tq1_0", 36, "tq1_0", token_embd="q4_k"),
    Recipe("tq2_0", 37, "tq2_0", token_embd="q4_k"),
    Recipe(
        "mxfp4_moe",
        38,
        "mxfp4",
        output="q8_0",
        attn_v="",
        attn_k="",
        ffn_down="mxfp4 if stacked; q8_0",
        ffn_gate="mxfp4 if stacked; q8_0",
        ffn_up="mxfp4 if stacked; q8_0",
        other="mxfp4 if stacked and not bailingmoe3; q8_0",
    ),
    Recipe("q1_0", 40, "q1_0"),
    Recipe("q2_0", 41, "q2_0", token_embd="q4_k"),
)

RECIPES = MappingProxyType({recipe.name: recipe for recipe in _TABLE})

_GUESSED = 1024
"""llama.cpp's file type for "guessed from the tensors"."""

COPY = Recipe("copy", _GUESSED, "f32", is_copy=True)
"""Every tensor keeps its format: for merging shards or splitting a file."""


MAX_TYPES_LENGTH = 4000
"""Characters of a list of types: more than all of them together have."""


def split_names(text: str) -> list[str]:
    """The names in a comma-separated list, in which sb:bits=3,block=16 is one name.

    text: the list.

    Raises UsageError for a list that is none, or too long.
    """
    if not isinstance(text, str) or len(text) > MAX_TYPES_LENGTH:
        raise UsageError(
            f'a type is a name, or several with commas between them ("q4_k_m,q8_0"), not {shown(text)}'
        )
    names: list[str] = []
    prefixes = tuple(family.free_prefix for family in families())
    for part in text.split(","):
        if names and names[-1].lower().startswith(prefixes) and re.match(r"[a-z_]+=", part, re.IGNORECASE):
            names[-1] += f",{part}"
        else:
            names.append(part)
    return names


def resolve(name: str) -> Recipe:
    """The recipe with this name, in any case.

    The name of a block format means that format for every quantized tensor, the name of a parametric encoding
    means that encoding for every matrix but the embeddings.

    Raises UnknownFormatError, which lists all names.
    """
    if not isinstance(name, str):
        raise UnknownFormatError(f'a type is a name, like "q4_k_m", not {shown(name)}')
    key = name.lower()
    base, plus, suffix = key.partition("+")
    if plus and (base in RECIPES or base in blocks.FORMATS):
        message = (
            f"{base} does not take {shown('+' + suffix)}: suffixes are for encodings of the parametric family"
        )
        raise UsageError(
            message
            + (
                "; blocks of ggml's formats do not shrink under zstd (Q4_K: 1.02 times)"
                if suffix == "zstd"
                else ""
            )
        )
    if (encoding := find_encoding(key)) is not None:
        return Recipe(encoding.name, _GUESSED, "f32", encoding=encoding)
    if key in (*RECIPES, COPY.name):
        return RECIPES.get(key, COPY)
    block_format = blocks.FORMATS.get(key)
    file_types = {"nvfp4": 39} | {recipe.base: recipe.file_type for recipe in reversed(_TABLE)}
    if block_format is None or not block_format.is_quantized:
        known = sorted({*RECIPES, COPY.name, *(f.key for f in blocks.FORMATS.values() if f.is_quantized)})
        raise UnknownFormatError(
            f"unknown type {shown(name)}; known: {', '.join(known)}; "
            "and the encodings that `gguflow formats` lists (nf4_b64, lossless, ...)"
            + closest_format(name, known)
        )
    return Recipe(key, file_types.get(key, _GUESSED), key, is_pure=True)
