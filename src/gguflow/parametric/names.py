"""Names of encodings: presets, the suffixes `+zstd` and `+outliers=0.5%`, and `sb:bits=3,block=16,...`."""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import struct
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from gguflow.arguments import number_in, shown, suggestion
from gguflow.errors import UnknownFormatError, UsageError
from gguflow.parametric.axes import Codebook, Entropy, Granularity, Nesting, Quantizer, Range, ScaleType
from gguflow.parametric.encoding import Encoding

FREE_PREFIX = "sb:"
"""The prefix of an encoding's text form."""

MAX_LENGTH = 400
"""The longest name, in characters; that of every encoding is shorter."""

SQUARE_ROOT_OF_TWO = 1.41421353816986083984375
"""In binary32: two steps of log4 are an octave."""

_PARAMETERS = (
    *("bits", "block", "per", "codebook", "quantizer", "super", "scale_bits", "min_bits", "nesting", "scale"),
    *("base", "percentile", "clip", "range"),
)

E = TypeVar("E", bound=enum.IntEnum)


def _affine(bits: int, block: int, nested: bool) -> Encoding:
    if not nested:
        return Encoding(Quantizer.AFFINE, bits, block=block, min_bits=8)
    return Encoding(
        Quantizer.AFFINE, bits, block=block, min_bits=8, nesting=Nesting.OFFSET, scale_bits=8, super_block=256
    )


def _book(book: Codebook, **parameters: Any) -> Encoding:
    return Encoding(Quantizer.CODEBOOK, 4, codebook=book, **parameters)


def _table() -> Iterator[tuple[str, Encoding]]:
    yield "int8_b128", Encoding(Quantizer.ABSMAX, 8, block=128)
    yield "int8_row", Encoding(Quantizer.ABSMAX, 8, Granularity.ROW)
    yield "int4_b128", Encoding(Quantizer.ABSMAX, 4, block=128)
    for nested in (False, True):
        for bits in (2, 3, 4, 5, 6, 8):
            for block in (32, 64, 128):
                yield f"affine{bits}_b{block}" + "_dq" * nested, _affine(bits, block, nested)
    yield "nf4_b64", _book(Codebook.NF4, block=64)
    yield "nf4_b64_dq", _book(Codebook.NF4, block=64, nesting=Nesting.DYNAMIC, scale_bits=8, super_block=256)
    yield "fp4_b64", _book(Codebook.FP4, block=64)
    yield "af4_b64", _book(Codebook.AF4, block=64)
    yield "log4_b64", _book(Codebook.LOG, block=64, log_base=SQUARE_ROOT_OF_TWO)
    yield "kmeans4_row", _book(Codebook.KMEANS, granularity=Granularity.ROW, scale_type=ScaleType.F16)
    yield "quantile4_b256", _book(Codebook.QUANTILE, block=256)
    yield "ternary_absmean", Encoding(Quantizer.TERNARY, granularity=Granularity.TENSOR)
    yield "sign_b128", Encoding(Quantizer.SIGN, 1, block=128, scale_type=ScaleType.F16)
    yield "lossless", Encoding(Quantizer.LOSSLESS, granularity=Granularity.NONE, entropy=Entropy.ZSTD)


@functools.cache
def presets() -> Mapping[str, Encoding]:
    """All presets by name, in the order of the documentation."""
    return dict(_table())


@functools.cache
def _names() -> Mapping[Encoding, str]:
    return {encoding: name for name, encoding in presets().items()}


def find(name: str) -> Encoding:
    """The encoding with this name: a preset, with or without suffixes, or a text form; in any case.

    Raises UnknownFormatError (no such preset), UsageError (a text form that does not parse, parameters that
    contradict each other).
    """
    if len(name) > MAX_LENGTH:
        raise UsageError(f"the name of an encoding has at most {MAX_LENGTH} characters, not {shown(name)}")
    base, *suffixes = name.lower().split("+")
    if base.startswith(FREE_PREFIX):
        encoding = _parse(base[len(FREE_PREFIX) :])
    elif base in presets():
        encoding = presets()[base]
    else:
        known = ", ".join(presets())
        raise UnknownFormatError(
            f"unknown encoding {shown(name)}; known: {known}, each with +zstd or +outliers=0.5%, "
            f"and sb:bits=4,block=64,...{suggestion(base, presets())}"
        )
    seen = set()
    for suffix in suffixes:
        key, _, value = suffix.partition("=")
        if key in seen:
            raise UsageError(f"+{key} stands twice in {shown(name)}; write each suffix once")
        seen.add(key)
        if key == "zstd" and not value:
            encoding = dataclasses.replace(encoding, entropy=Entropy.ZSTD)
        elif key == "outliers" and value.endswith("%"):
            encoding = dataclasses.replace(encoding, outliers=_millionths(value[:-1], 10_000))
        elif key == "outliers" and value.startswith(">"):
            encoding = dataclasses.replace(encoding, outlier_threshold=_binary32(value[1:]))
        else:
            raise UsageError(
                f"unknown suffix {shown('+' + suffix)} in {shown(name)}; "
                "known: +zstd, +outliers=0.5%, +outliers=>4.0"
            )
    return encoding


def is_name(name: str) -> bool:
    """Whether a name means an encoding of the family, valid or not: then `find` decides about it."""
    base = name.lower().split("+")[0]
    return base.startswith(FREE_PREFIX) or base in presets()


def name_of(encoding: Encoding) -> str:
    """The shortest name: a preset's with suffixes, otherwise the text form; `find` is the inverse."""
    suffix = ""
    if encoding.outliers:
        suffix = f"+outliers={_shortest(encoding.outliers / 10_000)}%"
    elif encoding.outlier_threshold:
        suffix = f"+outliers=>{_shortest(encoding.outlier_threshold)}"
    bare = dataclasses.replace(encoding, outliers=0, outlier_threshold=0.0)
    if bare not in _names() and bare.entropy is Entropy.ZSTD:
        suffix += "+zstd"
        bare = dataclasses.replace(bare, entropy=Entropy.NONE)
    return _names().get(bare, "") + suffix if bare in _names() else FREE_PREFIX + _text(bare) + suffix


def _text(e: Encoding) -> str:
    """The text form without its prefix: what differs from the defaults of `_parse`, in descriptor order."""
    words: dict[str, object] = {}
    if e.bits and e.quantizer is not Quantizer.SIGN:
        words["bits"] = e.bits
    if e.granularity in (Granularity.BLOCK, Granularity.COLUMNS):
        words["block"] = e.block
    if e.granularity not in (Granularity.BLOCK, Granularity.NONE):
        words["per"] = e.granularity.name.lower()
    if e.codebook is not Codebook.NONE:
        words["codebook"] = e.codebook.name.lower()
    elif e.quantizer is not _default_quantizer(e.min_bits, Codebook.NONE):
        words["quantizer"] = e.quantizer.name.lower()
    if e.super_block:
        words["super"] = e.super_block
    if e.scale_bits:
        words["scale_bits"] = e.scale_bits
    if e.min_bits:
        words["min_bits"] = e.min_bits
    if e.nesting not in (Nesting.NONE, Nesting.OFFSET):
        words["nesting"] = e.nesting.name.lower()
    if e.scale_type is not ScaleType.F32:
        words["scale"] = e.scale_type.name.lower()
    if e.log_base:
        words["base"] = _shortest(e.log_base)
    if e.range is Range.PERCENTILE:
        words["percentile"] = _shortest(e.percentile / 10_000)
    elif e.range is Range.CLIP:
        words["clip"] = _shortest(e.clip)
    elif e.range is Range.SEARCH:
        words["range"] = "search"
    return ",".join(f"{key}={value}" for key, value in words.items())


def _default_quantizer(min_bits: int, codebook: Codebook) -> Quantizer:
    if codebook is not Codebook.NONE:
        return Quantizer.CODEBOOK
    return Quantizer.MIN if min_bits else Quantizer.ABSMAX


def _parse(text: str) -> Encoding:
    """The encoding that a text form without its prefix describes."""
    words = dict(_words(text))
    for word in words:
        if word not in _PARAMETERS:
            hint = suggestion(word, _PARAMETERS)
            raise UsageError(f"unknown parameter {shown(word)} in {shown(FREE_PREFIX + text)}{hint}")
    codebook = _member(Codebook, words.pop("codebook", "none"))
    min_bits = _integer(words.pop("min_bits", "0"))
    default = _default_quantizer(min_bits, codebook)
    quantizer = _member(Quantizer, words.pop("quantizer", default.name))
    super_block = _integer(words.pop("super", "0"))
    ranges = {Range.PERCENTILE: words.pop("percentile", ""), Range.CLIP: words.pop("clip", "")}
    chosen = [mode for mode, value in ranges.items() if value] + (
        [Range.SEARCH] if _is_searched(words.pop("range", "full")) else []
    )
    if len(chosen) > 1:
        raise UsageError("give only one range: percentile, clip or search")
    return Encoding(
        quantizer=quantizer,
        bits=_integer(words.pop("bits", "1" if quantizer is Quantizer.SIGN else "0")),
        granularity=_member(Granularity, words.pop("per", "block")),
        block=_integer(words.pop("block", "0")),
        codebook=codebook,
        scale_type=_member(ScaleType, words.pop("scale", "f32")),
        nesting=_member(Nesting, words.pop("nesting", "offset" if super_block else "none")),
        scale_bits=_integer(words.pop("scale_bits", "0")),
        super_block=super_block,
        min_bits=min_bits,
        log_base=_binary32(words.pop("base", "0")),
        range=chosen[0] if chosen else Range.FULL,
        percentile=_millionths(ranges[Range.PERCENTILE] or "0", 10_000),
        clip=_binary32(ranges[Range.CLIP] or "0"),
    )


def _is_searched(text: str) -> bool:
    """What range=... says: the other ranges are given by their number."""
    if text not in ("full", "search"):
        raise UsageError(f"{shown(text)} is not a range: write range=full or range=search")
    return text == "search"


def _words(text: str) -> Iterator[tuple[str, str]]:
    seen = set()
    for word in text.split(","):
        key, equals, value = word.partition("=")
        if not equals or key in seen:
            raise UsageError(
                f"{shown(word)} in {shown(FREE_PREFIX + text)}: write each parameter once, as key=value"
            )
        seen.add(key)
        yield key, value


def _member(kind: type[E], text: str) -> E:
    try:
        return kind[text.upper()]
    except KeyError:
        words = [member.name.lower() for member in kind]
        raise UsageError(f"{shown(text)} is not one of {', '.join(words)}{suggestion(text, words)}") from None


def _integer(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError(f"{shown(text)} is not an integer from 0 to 999999999")
    return int(text)


def _float(text: str) -> float:
    try:
        return number_in(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _millionths(text: str, factor: int) -> int:
    """A number times `factor`, which must be whole: converts percent to parts per million."""
    value = _float(text) * factor
    if not (0 <= value < 1e9 and abs(value - round(value)) < 1e-6):
        raise UsageError(f"{text} is out of range, or more precise than parts per million")
    return round(value)


def _binary32(text: str) -> float:
    """The nearest binary32, as the descriptor stores it."""
    try:
        (value,) = struct.unpack("<f", struct.pack("<f", _float(text)))
    except OverflowError:
        value = math.inf
    if math.isinf(value):
        raise UsageError(f"{text} is out of range for binary32")
    return float(value)


def _shortest(value: float) -> str:
    """The shortest text that parses back to the same binary32 (or multiple of a ten-thousandth).

    An exponent is written without +, which would begin a suffix.
    """
    texts = (f"{value:.{digits}g}".replace("e+", "e") for digits in range(1, 10))
    return next(text for text in texts if _binary32(text) == _binary32(repr(value)))
