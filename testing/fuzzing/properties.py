"""Properties of the small parsers, which read what a person types and what a file of few fields says.

Hypothesis makes the inputs. Each property takes one: the parser refuses it with the package's own error, or
what it gives is right.
"""

from __future__ import annotations

import math
import re
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gguflow.conversion.imatrix import parse_imatrix
from gguflow.conversion.journal import claims_in
from gguflow.errors import FileError, UsageError
from gguflow.parametric.names import find, name_of
from gguflow.recipes.options import Options


@dataclass(frozen=True)
class Property:
    """What is asked of a parser.

    inputs: what it reads.
    holds: raises whatever is wrong about one input.
    """

    inputs: st.SearchStrategy[Any]
    holds: Callable[[Any], None]


def _patterns() -> st.SearchStrategy[str]:
    """Regular expressions, mostly right ones."""
    single = st.sampled_from(
        [
            *"abA.-1{",
            "[ab]",
            "[^a]",
            "[]a]",
            r"\.",
            r"\d",
            r"\w",
            r"\b",
            r"\B",
            "^",
            "$",
            r"\x61",
            r"\1",
            "[a",
            ")",
        ]
    )
    count = st.sampled_from(["*", "+", "?", "*?", "{2}", "{1,3}", "{,2}", "{2,}", "*+", "{99999999999}"])

    def larger(part: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.one_of(
            st.tuples(part, part).map("".join),
            st.tuples(part, part).map("|".join),
            st.tuples(st.sampled_from(["(", "(?:", "(?=", "(?!", "(?P<n>", "(?i)", "(?<="]), part).map(
                lambda both: f"{both[0]}{both[1]})"
            ),
            st.tuples(part, count).map(lambda both: f"(?:{both[0]}){both[1]}"),
            st.tuples(single, count).map("".join),
        )

    return st.recursive(single, larger, max_leaves=8)


def tensor_type(given: tuple[str, str, str]) -> None:
    """A pattern finds what Python's own matcher finds."""
    pattern, kind, name = given
    try:
        options = Options(tensor_types=(f"{pattern}={kind}",))
    except UsageError:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = re.search(options.patterns[0][0].pattern, name, re.IGNORECASE | re.ASCII) is not None
    if (options.named_format(name) is not None) is not expected:
        raise AssertionError(f"{pattern!r} in {name!r}: {not expected} in place of {expected}")


def encoding(name: str) -> None:
    """A name that is taken has one meaning: the name of what it means, means the same."""
    try:
        found = find(name)
    except UsageError:
        return
    if find(name_of(found)) != found:
        raise AssertionError(f"{name!r} is {name_of(found)!r}, which means something else")


def override(text: str) -> None:
    """What is taken can be written: text as UTF-8, integers as u32, floats as F32."""
    try:
        ((key, value),) = Options(override_kv=(text,)).overrides.items()
    except UsageError:
        return
    key.encode()
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, float):
        if not math.isfinite(struct.unpack("<f", struct.pack("<f", value))[0]):
            raise AssertionError(f"{text!r} gave {value}")
    else:
        struct.pack("<I", value)


def journal(lines: list[str]) -> None:
    """Only whole lines claim anything, and what they claim is what they say."""
    claims = claims_in(lines)
    said = {line for line in lines if re.fullmatch("([0-9]{1,20} ){2}[0-9a-f]{32}( [0-9]{1,20})?", line)}
    numbers = {tuple(line.split()) for line in said}
    for (i, leaf), digest in claims.leaves.items():
        if not any((int(n[0]), int(n[1]), n[2]) == (i, leaf, digest.hex()) for n in numbers if len(n) == 3):
            raise AssertionError(f"nothing claims leaf {leaf} of {i}")
    for (i, chunk), (digest, nbytes) in claims.chunks.items():
        found = (
            (int(n[0]), int(n[1]), n[2], int(n[3])) == (i, chunk, digest.hex(), nbytes)
            for n in numbers
            if len(n) == 4
        )
        if not any(found):
            raise AssertionError(f"nothing claims chunk {chunk} of {i}")


def imatrix(content: bytes) -> None:
    """Whatever is taken has finite importance for every column, which is not negative."""
    try:
        read = parse_imatrix("fuzzed", memoryview(content))
    except FileError:
        return
    read.provenance()
    for importance in read.entries.values():
        with np.errstate(over="ignore"):
            columns = importance.of_matrix(0, importance.sums.size)
        if not (columns >= 0).all():
            raise AssertionError("importance that is negative or NaN")


def _names() -> st.SearchStrategy[str]:
    keys = st.sampled_from(["bits", "block", "per", "codebook", "super", "scale_bits", "min_bits", "nesting"])
    more = st.sampled_from(["scale", "base", "percentile", "clip", "range", "quantizer", "blok", ""])
    words = st.sampled_from(
        [*("row", "tensor", "nf4", "kmeans", "log", "f16", "dynamic", "search", "sign", "ternary", "affine")]
    )
    numbers = st.one_of(
        st.integers(0, 9),
        st.sampled_from([16, 32, 64, 128, 256, 1024, -1, 10**9, 10**30]),
        st.floats(),
        st.sampled_from(["1e400", "1e39", "1e-46", "٣", "1_6", "0.5", "99.9", ""]),
    ).map(str)
    word = st.tuples(st.one_of(keys, keys, more), st.one_of(numbers, numbers, words)).map("=".join)
    free = st.lists(word, max_size=6, unique_by=lambda text: text.split("=")[0]).map(
        lambda parts: "sb:" + ",".join(parts)
    )
    good = st.tuples(st.sampled_from([2, 3, 4, 5, 8]), st.sampled_from([16, 32, 64]), free).map(
        lambda parts: f"sb:bits={parts[0]},block={parts[1]},{parts[2][3:]}".rstrip(",")
    )
    preset = st.sampled_from(
        ["nf4_b64", "int8_row", "kmeans4_row", "lossless", "sign_b128", "affine4_b32_dq"]
    )
    suffix = st.one_of(
        st.just("+zstd"),
        numbers.map(lambda n: f"+outliers={n}%"),
        numbers.map(lambda n: f"+outliers=>{n}"),
        st.text(max_size=4).map(lambda text: f"+{text}"),
    )
    return st.tuples(st.one_of(free, good, good, preset, st.text()), st.lists(suffix, max_size=2)).map(
        lambda parts: parts[0] + "".join(parts[1])
    )


def _overrides() -> st.SearchStrategy[str]:
    key = st.one_of(st.just("llama.context_length"), st.text(max_size=8))
    kind = st.sampled_from(["int", "float", "bool", "str", "flaot", ""])
    value = st.one_of(
        st.integers().map(str),
        st.sampled_from([0, 2**32 - 1, 2**32, -1, 10**25]).map(str),
        st.floats().map(str),
        st.sampled_from(["true", "false", "True", "1e400", "1e39", "3.4028235e38", "1_0", "٣", "nan", "inf"]),
        st.text(),
        st.text(st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF), max_size=2),
    )
    return st.one_of(st.tuples(key, kind, value).map(lambda parts: "{}={}:{}".format(*parts)), st.text())


def _lines() -> st.SearchStrategy[list[str]]:
    number = st.one_of(
        st.integers(0, 99).map(str), st.sampled_from(["9" * 20, "9" * 21, "9" * 5000, "-1", "+1", "٣", ""])
    )
    digest = st.one_of(
        st.binary(min_size=16, max_size=16).map(bytes.hex),
        st.sampled_from(["", "0" * 31, "G" * 32, "A" * 32]),
    )
    line = st.tuples(number, number, digest, st.one_of(st.just(""), number)).map(
        lambda parts: " ".join(parts).removesuffix(" ")
    )
    return st.lists(st.one_of(line, st.text(max_size=40)), max_size=5)


def _dat(entries: list[tuple[bytes, int, list[float]]], end: bytes) -> bytes:
    """An importance matrix in the older format."""
    parts = [struct.pack("<i", len(entries))]
    for name, n_calls, values in entries:
        parts += [struct.pack("<i", len(name)), name]
        parts.append(struct.pack(f"<ii{len(values)}f", n_calls, len(values), *values))
    return b"".join(parts) + end


_DAT_FILES = (
    _dat([(b"a", 1, [1.0, 2.0]), (b"b", 0, [3.0])], b""),
    _dat([(b"a", -1, [0.0])], struct.pack("<i", 7)),
    _dat([(b"a", 3, [1.0]), (b"bc", 3, [1.0]), (b"", 3, [1.0])], struct.pack("<ii", 7, 2) + b"ab"),
    _dat([(b"a", 3, [1.0]), (b"a", 3, [1.0])], b""),
    _dat([(b"\xff", 3, [1.0])], struct.pack("<ii", -7, 0)),
)
_NUMBERS = tuple(
    struct.pack("<i", n) for n in (0, -1, 1, 2, 3, 2**31 - 1, -(2**31), 1 << 20, 0x7F800000, 0x7FC00000)
)


def _dat_files() -> st.SearchStrategy[bytes]:
    """Good files with a few numbers replaced, bytes removed or bytes put in."""
    change = st.tuples(
        st.integers(0, 60), st.integers(0, 4), st.one_of(st.sampled_from(_NUMBERS), st.binary(max_size=4))
    )

    def changed(given: tuple[bytes, list[tuple[int, int, bytes]]]) -> bytes:
        content, changes = given
        for place, removed, added in changes:
            content = content[:place] + added + content[place + removed :]
        return content

    return st.tuples(st.sampled_from(_DAT_FILES), st.lists(change, max_size=4)).map(changed)


PROPERTIES: dict[str, Property] = {
    "tensor-type": Property(
        st.tuples(
            st.one_of(_patterns(), _patterns(), st.text(max_size=12)),
            st.sampled_from(["q4_k", "q4_k", "nf4_b64", "f16", "q9", "i8", ""]),
            st.text("abA.1-{\n ", max_size=10),
        ),
        tensor_type,
    ),
    "encoding": Property(_names(), encoding),
    "override": Property(_overrides(), override),
    "journal": Property(_lines(), journal),
    "imatrix": Property(_dat_files(), imatrix),
}


def check(name: str, n: int, seed: int) -> int:
    """Try a property on so many inputs, and return how many were tried.

    name: of the property.
    n: the number of inputs.
    seed: the same one gives the same inputs.

    Raises what the property raises, for the smallest input found that breaks it.
    """
    from hypothesis import HealthCheck, given, settings
    from hypothesis import seed as seeded

    tried = 0

    @seeded(seed)
    @settings(max_examples=n, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(PROPERTIES[name].inputs)
    def holds(value: Any) -> None:
        nonlocal tried
        tried += 1
        PROPERTIES[name].holds(value)

    holds()
    return tried
