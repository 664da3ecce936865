"""Rotary position embeddings: their metadata, and Llama 3's frequency factors.

A config.json describes them in one of many layouts: transformers 4 has `rope_theta` beside `rope_scaling`,
transformers 5 has all in `rope_parameters`, either may be divided by types of layers ("full_attention",
"sliding_attention"), and files that were edited by hand have both. `Rope.of` makes one description of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguflow.container.metadata import Metadata, ValueType, array, f32, string, u32
from gguflow.errors import Finding, UnsupportedError, warn
from gguflow.models.documents import Document

DEFAULT_THETA = 10_000.0
"""transformers' default, for most classes."""

FULL, SLIDING = "full_attention", "sliding_attention"
LAYER_TYPES = frozenset((FULL, SLIDING, "chunked_attention", "linear_attention", "local", "global"))
"""Names of layers by which parameters may be divided; any other in `layer_types` is one too."""

SECTIONS = ("rope_parameters", "rope_scaling")
"""The objects with parameters; the later one has priority, as in transformers."""

_BASE = frozenset(("rope_type", "rope_theta", "partial_rotary_factor"))
_SCALED = _BASE | {"factor"}
_ORIGINAL = "original_max_position_embeddings"
READ = {
    "default": _BASE,
    "linear": _SCALED,
    "dynamic": _SCALED | {_ORIGINAL},
    "yarn": _SCALED
    | {_ORIGINAL, "attention_factor", "attn_factor", "extrapolation_factor", "beta_fast", "beta_slow"},
    "llama3": _SCALED | {_ORIGINAL, "low_freq_factor", "high_freq_factor"},
    "longrope": _SCALED | {_ORIGINAL, "long_factor", "short_factor", "attention_factor"},
    "none": _BASE,
    "proportional": _BASE,
}
"""The parameters that count, by the type of scaling."""

_HARMLESS: Mapping[str, object] = {"truncate": True, "finetuned": True, "rope_interleaved": False}
"""Parameters that nobody reads, with the value of which this is right."""

THETA = ("global_rope_theta", "rope_global_theta", "rope_theta_global", "rope_theta", "rotary_emb_base")
SLIDING_THETA = (
    *("local_rope_theta", "rope_local_theta", "rope_theta_local", "swa_rope_theta"),
    "rope_local_base_freq",
)
PARTIAL = ("partial_rotary_factor", "rope_pct", "rope_percent")
"""Names of parameters that stand beside the objects, by priority."""

_TOP_LEVEL = frozenset((*SECTIONS, _ORIGINAL, *THETA))


@dataclass(frozen=True)
class RopeOptions:
    """What the rotary embeddings of a family may be.

    kinds: of scaling.
    partial: whether only a part of each head may rotate; the family writes rope.dimension_count.
    sections: whether positions may have several dimensions (`mrope_section`).
    separate: whether layers of sliding attention may rotate with another base.
    read: further parameters that the family reads itself, or that do not matter to it.
    """

    kinds: tuple[str, ...] = ("default", "linear", "dynamic", "yarn")
    partial: bool = False
    sections: bool = False
    separate: bool = False
    read: frozenset[str] = frozenset()


ALL_OF_A_HEAD = RopeOptions()
"""Of families in which whole heads rotate, in all layers alike."""

LLAMA3 = RopeOptions(kinds=("default", "linear", "dynamic", "yarn", "llama3"))
"""The same, of families that have Llama 3's frequency factors."""


@dataclass(frozen=True)
class Rope:
    """The rotary embeddings of a model.

    kind: default, linear, dynamic, yarn, llama3, longrope or none.
    theta: the base of the frequencies.
    sliding_theta: that of layers of sliding attention, where it is said separately; else None.
    original: context length of the model's training before it was extended.
    parameters: all others; their numbers are checked.
    partial: the share of a head that rotates.
    sections: the dimensions of each kind of position, empty if there is one kind only.
    """

    kind: str
    theta: float
    sliding_theta: float | None
    original: int
    parameters: Document
    partial: float = 1.0
    sections: tuple[int, ...] = ()

    @classmethod
    def of(cls, config: Document, options: RopeOptions = ALL_OF_A_HEAD) -> Rope:
        """Merge what config.json says, and warn about what is contradictory (M-041) or not read (M-040).

        config: config.json.
        options: what the family has.

        Raises UnsupportedError (M-005) for a rotation that llama.cpp does not have, InvalidError (M-002,
        M-003).
        """
        is_said = any(key in config for key in (*SECTIONS, *THETA))
        named = [name for name in SECTIONS if name in config or not is_said]  # defaults are for none at all
        sections = [_section(config, name, options) for name in named]
        full = [section.full for section in sections if section.full is not None]
        parameters = _merged(config, full)
        kind = parameters.text("rope_type", "default").lower()
        kind = {"su": "longrope", "mrope": "default"}.get(kind, kind)
        if kind not in READ:
            message = "unknown scaling of rotary embeddings"
            raise _unsupported(parameters, "rope_type", message, kind, ", ".join(options.kinds))
        if kind not in options.kinds:
            message = "llama.cpp has no frequency factors of this kind for this family of models"
            raise _unsupported(parameters, "rope_type", message, kind, ", ".join(options.kinds))
        if not options.partial:
            _refuse_partial(config, parameters)
        mrope = _mrope_sections(parameters) if options.sections else ()
        theta = _theta(config, parameters)
        sliding = [section.sliding for section in sections if section.sliding is not None]
        is_separate = bool(sliding) and "rope_theta" in sliding[-1]
        sliding_theta = _theta(config, sliding[-1], theta) if is_separate else None
        beside = config.first(SLIDING_THETA) if options.separate else None
        if sliding_theta is None and beside is not None and not any(s.sliding for s in sections):
            sliding_theta = _positive(config, beside)
        _warn_of_unread(config, parameters, kind, options)
        if full and parameters.values != full[-1].values:
            config.applied.add("rope-both")
        original, partial = _original(config, parameters, kind), _partial(config, parameters, options)
        return cls(kind, theta, sliding_theta, original, parameters, partial, mrope)

    def number(self, key: str, default: float | None = None) -> float:
        """A parameter. Raises InvalidError (M-002, M-003)."""
        return self.parameters.number(key, default)

    def factor(self) -> float:
        """By how much the context is extended. Raises InvalidError (M-002, M-003)."""
        factor = self.parameters.number("factor")
        if factor <= 0:
            raise self.parameters.wrong("factor", factor, "a positive number")
        return factor


@dataclass(frozen=True)
class _Section:
    """One object with parameters, for the layers of full and of sliding attention; None where it says
    nothing.
    """

    full: Document | None
    sliding: Document | None = None


def rope_metadata(name: str, rope: Rope) -> Metadata:
    """`{name}.rope.*` as llama.cpp's converter writes them; "dynamic" and "llama3" have no scaling key.

    name: `general.architecture`.
    rope: what config.json says.

    Raises InvalidError (M-002, M-003).
    """
    scaling = f"{name}.rope.scaling"
    metadata: Metadata = {}
    if rope.kind in ("linear", "yarn"):
        metadata[f"{scaling}.type"] = string(rope.kind)
        metadata[f"{scaling}.factor"] = f32(rope.factor())
    if rope.kind == "yarn":
        metadata[f"{scaling}.original_context_length"] = u32(rope.original)
        if "extrapolation_factor" in rope.parameters:
            metadata[f"{scaling}.yarn_ext_factor"] = f32(rope.number("extrapolation_factor"))
        for key in ("attention_factor", "attn_factor"):
            if key in rope.parameters:
                metadata[f"{scaling}.yarn_attn_factor"] = f32(rope.number(key))
                break
        for key in ("beta_fast", "beta_slow"):
            if key in rope.parameters:
                metadata[f"{scaling}.yarn_{key}"] = f32(rope.number(key))
    if rope.kind == "longrope":
        metadata[f"{scaling}.type"] = string(rope.kind)
    if rope.sections:
        padded = (*rope.sections, 0, 0, 0, 0)[:4]
        metadata[f"{name}.rope.dimension_sections"] = array(ValueType.INT32, list(padded))
    metadata[f"{name}.rope.freq_base"] = f32(rope.theta)
    if rope.sliding_theta is not None:
        metadata[f"{name}.rope.freq_base_swa"] = f32(rope.sliding_theta)
    return metadata


def llama3_factors(config: Document, head_dim: int, rope: Rope | None = None) -> NDArray[np.float32]:
    """The divisors of llama.cpp's rotary frequencies, float32[head_dim / 2].

    Llama 3.1's scaling (transformers: `_compute_llama3_parameters`): wavelengths below original /
    high_freq_factor are unchanged, those above original / low_freq_factor are stretched by `factor`, and
    those between by a blend of both. All in binary32, in the order of llama.cpp's converter, which uses
    torch: there `number / tensor` is the tensor's reciprocal times the number. Only the power is rounded once
    from binary64; torch's is sometimes off by one unit in the last place (never for base 500000 with head_dim
    64 or 128, which published models use).

    Raises InvalidError (M-002: transformers has no defaults for them; M-003).
    """
    rope = rope or Rope.of(config, LLAMA3)
    factor = np.float32(rope.factor())
    low, high, original = rope.number("low_freq_factor"), rope.number("high_freq_factor"), rope.original
    if factor <= 0 or low <= 0 or high <= low:
        found = {"factor": float(factor), "low_freq_factor": low, "high_freq_factor": high}
        raise rope.parameters.wrong(
            "rope_type", found, "factor > 0 and 0 < low_freq_factor < high_freq_factor"
        )
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequency = np.float32(1) / np.power(rope.theta, exponent.astype(np.float64)).astype(np.float32)
    wavelength = (np.float32(1) / frequency) * np.float32(2 * math.pi)
    smooth = ((np.float32(1) / wavelength) * np.float32(original) - np.float32(low)) / np.float32(high - low)
    blend = np.float32(1) / ((np.float32(1) - smooth) / factor + smooth)
    return np.where(
        wavelength < original / high, np.float32(1), np.where(wavelength > original / low, factor, blend)
    ).astype(np.float32)


def _section(config: Document, name: str, options: RopeOptions) -> _Section:
    """The parameters in one object; an empty one says nothing, as in transformers."""
    section = config.section(name)
    if name not in config and any(key in config for key in THETA):
        section = _without_theta(section)
    named = {kind for kind in config.items("layer_types") if isinstance(kind, str)}
    nested = [key for key in section.values if key in LAYER_TYPES | named]
    if not nested:
        return _Section(_own_names(section) if section.values else None)
    for key, value in section.values.items():
        if key not in nested and value is not None:
            message = f"{key!r} stands beside the parameters of layer types, where nobody reads it"
            warn(config.file, Finding("M-040", message, section.at(key), found=value))
    if FULL not in section:
        message = (
            "every layer rotates in the models of this family, and these parameters are for other layers"
        )
        raise _unsupported(section, FULL, message, ", ".join(sorted(nested)), FULL)
    full = _own_names(section.section(FULL))
    sliding = _own_names(section.section(SLIDING)) if SLIDING in section else None
    for kind in sorted(named - {FULL} if not options.separate else ()):
        if section.values.get(kind) != section.values[FULL]:
            message = "layers with different rotations: llama.cpp has one rotation for all of this family"
            raise _unsupported(section, kind, message, section.values.get(kind), section.values[FULL])
    return _Section(full, sliding)


def _without_theta(section: Document) -> Document:
    """Default parameters without the base of frequencies, which config.json says beside them."""
    kinds = {key: value for key, value in section.values.items() if isinstance(value, dict)}
    plain = {key: value for key, value in section.values.items() if key not in kinds and key != "rope_theta"}
    if FULL in kinds:
        plain[FULL] = {key: value for key, value in kinds.pop(FULL).items() if key != "rope_theta"}
    return replace(section, values=plain | kinds)


def _own_names(section: Document) -> Document:
    """The parameters without those that are null, and "type" under its present name, "rope_type"."""
    values = {key: value for key, value in section.values.items() if value is not None}
    old = values.pop("type", None)
    if old is not None and values.setdefault("rope_type", old) != old:
        message = f"'type' contradicts 'rope_type', which counts ({values['rope_type']!r})"
        warn(section.file, Finding("M-041", message, section.at("type"), found=old))
    return replace(section, values=values)


def _merged(config: Document, sections: list[Document]) -> Document:
    """One object of all parameters; the later section has priority, but what only the earlier one has
    stays.
    """
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for section in sections:
        for key, value in section.values.items():
            before = values.get(key)
            if key in values and before != value and not (key == "rope_type" and before == "default"):
                message = (
                    f"{key!r} contradicts {places[key]}, where it has another value; {section.where} counts"
                )
                warn(config.file, Finding("M-041", message, section.at(key), found=value, expected=before))
            values[key], places[key] = value, section.where
    where = sections[-1].where if sections else config.at("rope_parameters")
    return Document(config.file, values, where, config.applied, places=places)


def _theta(config: Document, parameters: Document, default: float | None = None) -> float:
    """The base of the frequencies: in the parameters, else beside them, else the default of the class."""
    said = config.first(THETA) or "rope_theta"
    beside = config.number(said, DEFAULT_THETA if default is None else default)
    theta = parameters.number("rope_theta", beside)
    if theta <= 0:
        source = parameters if "rope_theta" in parameters else config
        raise source.wrong("rope_theta", theta, "a positive number")
    if default is None and "rope_theta" in config and beside != theta:
        message = f"'rope_theta' contradicts the one in {parameters.where}, which counts"
        warn(config.file, Finding("M-041", message, config.at("rope_theta"), found=beside, expected=theta))
    return theta


def _original(config: Document, parameters: Document, kind: str) -> int:
    """The context length of the model's training before it was extended; 0 where nobody asks and says it."""
    if kind == "default" and config.value("max_position_embeddings") is None:
        return config.integer(_ORIGINAL, 0, minimum=0)
    within = parameters.integer(_ORIGINAL, config.integer("max_position_embeddings"))
    original = config.integer(_ORIGINAL, within)
    if _ORIGINAL in parameters and original != within:
        message = f"{_ORIGINAL!r} contradicts that of the whole model, which counts"
        warn(
            config.file, Finding("M-041", message, parameters.at(_ORIGINAL), found=within, expected=original)
        )
    return original


def _positive(config: Document, key: str) -> float:
    value = config.number(key)
    if value <= 0:
        raise config.wrong(key, value, "a positive number")
    return value


def _partial(config: Document, parameters: Document, options: RopeOptions) -> float:
    """The share of a head that rotates."""
    beside = config.first(PARTIAL) if options.partial else None
    source, key = (parameters, PARTIAL[0]) if PARTIAL[0] in parameters else (config, beside or PARTIAL[0])
    value = source.number(key, 1.0)
    if not 0 < value <= 1:
        raise source.wrong(key, value, "a number over 0, at most 1")
    return value


def _mrope_sections(parameters: Document) -> tuple[int, ...]:
    """The dimensions of each kind of position. Raises InvalidError (M-003)."""
    found = parameters.items("mrope_section")
    for i, n in enumerate(found):
        if not isinstance(n, int) or isinstance(n, bool) or not 0 <= n < 2**16 or i >= 4:
            raise parameters.wrong("mrope_section", n, "up to four integers from 0 to 65535", i)
    return tuple(found)


def _refuse_partial(config: Document, parameters: Document) -> None:
    """Raise UnsupportedError (M-005) where only a part of each head would rotate."""
    key = "partial_rotary_factor"
    for source in (parameters, config):
        if source.number(key, 1.0) != 1.0:
            message = "only a part of each head rotates, which this family of models does not have"
            raise _unsupported(source, key, message, source.values[key], 1.0)


def _warn_of_unread(config: Document, parameters: Document, kind: str, options: RopeOptions) -> None:
    """Warn of each parameter that does not count (M-040), and of a scaling that llama.cpp leaves out."""
    known = READ[kind] | options.read
    known |= {"mrope_section", "mrope_interleaved"} if options.sections else frozenset()
    beside = {*_TOP_LEVEL, *options.read}
    beside |= {*SLIDING_THETA} if options.separate else set()
    beside |= {*PARTIAL} if options.partial else set()
    for key, value in parameters.values.items():
        if key not in known and not (key in _HARMLESS and _HARMLESS[key] == value):
            message = f"{key!r} is not read with the scaling {kind!r} of rotary embeddings"
            warn(config.file, Finding("M-040", message, parameters.at(key), found=value))
    for key, value in config.values.items():
        is_ours = key.startswith(("rope_", "rotary_")) and key not in beside
        if is_ours and value not in (None, False, {}, []):
            message = f"{key!r} is not read in this family of models"
            warn(config.file, Finding("M-040", message, config.at(key), found=value))
    if kind == "dynamic":
        message = "llama.cpp has no dynamic scaling: contexts beyond the original length are not stretched"
        warn(config.file, Finding("M-040", message, parameters.at("rope_type"), found=kind))


def _unsupported(
    section: Document, key: str, message: str, found: object, expected: object
) -> UnsupportedError:
    return UnsupportedError(
        section.file, Finding("M-005", message, section.at(key), found=found, expected=expected)
    )
