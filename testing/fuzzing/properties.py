"""Properties of the parsers that read what a person types, small files, and a checkpoint's side files.

Each property takes one input: the parser refuses it with the package's own error, or what it gives is right.
Hypothesis makes one half of the inputs; the other half are valid ones with a few changes.
"""

from __future__ import annotations

import contextlib
import math
import random
import re
import struct
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gguflow.conversion.imatrix import MAX_ENTRIES, parse_imatrix
from gguflow.conversion.journal import Journal, claims_in
from gguflow.errors import FileError, UsageError
from gguflow.name_patterns import without_posix_classes
from gguflow.parametric.names import find, name_of
from gguflow.recipes.options import Options
from testing.fuzzing import side_files
from testing.fuzzing.bounds import bounded
from testing.fuzzing.changes import changed_bytes, changed_text
from testing.fuzzing.line_coverage import LineCoverage
from testing.fuzzing.mutation import mutated
from testing.fuzzing.small_files import BINDING, importance_matrices, journals, matrix_file


@dataclass(frozen=True)
class Property:
    """What is asked of a parser.

    inputs: what it reads.
    changed: makes a valid input with a few changes.
    holds: raises whatever is wrong about one input.
    parsers: the functions whose lines are to be reached, by module; all of a module without any.
    """

    inputs: st.SearchStrategy[Any]
    changed: Callable[[random.Random], Any]
    holds: Callable[[Any], None]
    parsers: Mapping[str, tuple[str, ...]]


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


_MAX_ASKED = 10
"""Characters of a name about which Python's matcher is asked."""


def tensor_type(given: tuple[str, str, str]) -> None:
    """A pattern finds what Python's own matcher finds, which is asked about short names only: it may take
    exponential time.
    """
    pattern, kind, name = given
    try:
        options = Options(tensor_types=(f"{pattern}={kind}",))
    except UsageError:
        return
    found = options.named_format(name) is not None
    if len(name) > _MAX_ASKED:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = without_posix_classes(options.patterns[0][0].pattern)
        expected = re.search(text, name, re.IGNORECASE | re.ASCII) is not None
    if found is not expected:
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
    """Only whole lines claim anything, and what they claim is what they say; the file that holds them claims
    the same.
    """
    claims = claims_in(lines)
    path = side_files.scratch() / "journal"
    path.write_bytes("\n".join([BINDING, *lines, ""]).encode("utf-8", "surrogatepass"))
    if not any("\n" in line for line in lines) and Journal(path, BINDING).claims() != claims:
        raise AssertionError("the file claims something else")
    with contextlib.suppress(UsageError):
        path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        Journal(path, BINDING).claims()
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
_GGUF_FILES = (
    matrix_file({"a.in_sum2": np.ones((1, 4)), "a.counts": np.full((1, 3), 2.0)}),
    matrix_file({"a.in_sum": np.ones((1, 4))}),
    matrix_file({"a.in_sum2": np.ones((1, 4)), "a.counts": np.ones((1, 1))}, keys={}),
)
_NUMBERS = tuple(
    struct.pack("<i", n) for n in (0, -1, 1, 2, 3, 2**31 - 1, -(2**31), 1 << 20, 0x7F800000, 0x7FC00000)
)


def _dat_files() -> st.SearchStrategy[bytes]:
    """Entries of any numbers, and any end."""
    number = st.one_of(st.integers(-2, 3).map(lambda n: struct.pack("<i", n)), st.sampled_from(_NUMBERS))
    values = st.lists(st.floats(width=32), max_size=3)
    entry = st.tuples(st.sampled_from([b"a", b"b", b"", b"\xff"]), st.integers(-1, 2), values)
    return st.one_of(
        st.binary(),
        st.tuples(st.lists(entry, max_size=3), st.lists(number, max_size=3).map(b"".join)).map(
            lambda parts: _dat(*parts)
        ),
        st.lists(number, max_size=9).map(b"".join),
    )


_TENSOR_TYPES = (
    r"blk\.\d+\.ffn_down=q6_k",
    "attn_(q|k)=nf4_b64",
    r"^(?:a+|b{2,3})[^-1]*?$=q4_k",
    r"[[:digit:]_]+\b(?=A)(?!-)=f16",
    r"\x61\.[a-b]{1}\W\D\S\w\d\s\B=sb:bits=4,block=32",
    "(?P<n>a)(b(c|))+.*=int8_row",
)
_PATTERN_PIECES = (
    *("(?:", "(?=", "(?!", "(?P<n>", "(?i)", "(?<=", ")", "[[:alpha:]]", "[[:nope:]]", "[:digit:]", "{2,}"),
    *("{,3}", "*?", "++", r"\1", r"\b", r"\A", r"\Z", r"\u0061", r"\07", "|", "=q4_k", "(" * 25, "x" * 1000),
    *("a" * 40, "(a*)*", "(" * 6 + "a" + ")*" * 6),
)
_ENCODINGS = (
    *("nf4_b64", "int8_row", "kmeans4_row", "lossless", "sign_b128", "affine4_b32_dq", "fp4_b64_dq+zstd"),
    *("sb:bits=4,block=32", "sb:bits=3,block=64,super=8,scale_bits=6,min_bits=6", "nf4_b64+outliers=0.5%"),
    *("sb:bits=4,per=row,codebook=kmeans", "sb:bits=8,block=16,scale=log", "lossless+zstd"),
    *("sb:bits=4,block=64,codebook=nf4,nesting=256", "sb:bits=5,block=32,quantizer=search,clip=0.9"),
    *("sb:bits=4,block=32,percentile=99.9", "sb:bits=8,block=32,codebook=dynamic", "nf4_b64+outliers=>3.5"),
    *(
        "sb:bits=4,block=64,codebook=log,base=1.5",
        "sb:bits=4,block=32,range=search",
        "sb:bits=4,per=row,clip=2",
    ),
    *(
        "sb:quantizer=ternary,per=tensor",
        "sb:bits=4,block=32,codebook=nf4,scale=f16,nesting=dynamic,super=256",
    ),
)
_WORDS = (
    *("bits=", "block=", "per=", "codebook=", "super=", "scale_bits=", "min_bits=", "nesting=", "scale="),
    *(
        "base=",
        "percentile=",
        "clip=",
        "range=",
        "quantizer=",
        "row",
        "tensor",
        "nf4",
        "kmeans",
        "log",
        "f16",
    ),
    *("dynamic", "search", "sign", "ternary", "affine", ",", "+zstd", "+outliers=1%", "+outliers=>2", "sb:"),
    *("clip=1,range=search", "x" * 300),
)
_OVERRIDES = (
    *("llama.context_length=int:4096", "llama.rope.freq_base=float:1e6", "a.b=bool:true", "a=bool:false"),
    *("general.name=str:a=b:c", "tokenizer.ggml.add_bos_token=bool:false", "x=float:-0.5", "x=int:+7"),
)
_OVERRIDE_PIECES = ("=int:", "=float:", "=bool:", "=str:", "true", "k" * 70_000, "1_0", "4294967296")
_JOURNAL = "".join(document.decode() for document in journals())


def _changed_tensor_type(rng: random.Random) -> tuple[str, str, str]:
    pattern, _, kind = changed_text(_TENSOR_TYPES, rng, _PATTERN_PIECES).rpartition("=")
    return pattern, kind, changed_text(("blk.0.ffn_down", "attn_q", "abbA.-1{", "a" * 40), rng)


def _changed_lines(rng: random.Random) -> list[str]:
    return changed_text((_JOURNAL,), rng, (BINDING, "9" * 21, "\n", " 7\n")).split("\n")


def _changed_importance(rng: random.Random) -> bytes:
    if rng.random() < 0.001:
        return _dat([(b"%d" % i, 1, [1.0]) for i in range(MAX_ENTRIES + rng.randrange(2))], b"")
    if rng.random() < 0.3:
        return mutated((*importance_matrices(), *_GGUF_FILES), rng)
    return changed_bytes((*_DAT_FILES, *importance_matrices()), rng, _NUMBERS)


_TOKENIZERS = "gguflow.models.tokenizers."
PROPERTIES: dict[str, Property] = {
    "tensor-type": Property(
        st.tuples(
            st.one_of(_patterns(), _patterns(), st.text(max_size=12)),
            st.sampled_from(["q4_k", "q4_k", "nf4_b64", "f16", "q9", "i8", ""]),
            st.text("abA.1-{\n ", max_size=10),
        ),
        _changed_tensor_type,
        tensor_type,
        {
            "gguflow.name_patterns": (),
            "gguflow.recipes.options": (
                "_tensor_type",
                "_format",
                "Options.patterns",
                "Options.named_format",
            ),
        },
    ),
    "encoding": Property(
        _names(),
        lambda rng: changed_text(_ENCODINGS, rng, _WORDS),
        encoding,
        {
            "gguflow.parametric.names": (
                *("find", "name_of", "_text", "_default_quantizer", "_parse", "_is_searched", "_words"),
                *("_member", "_integer", "_float", "_millionths", "_binary32", "_shortest"),
            )
        },
    ),
    "override": Property(
        _overrides(),
        lambda rng: changed_text(_OVERRIDES, rng, _OVERRIDE_PIECES),
        override,
        {"gguflow.recipes.options": ("_override", "_u32", "_f32", "_bool", "_str", "Options.overrides")},
    ),
    "journal": Property(
        _lines(), _changed_lines, journal, {"gguflow.conversion.journal": ("claims_in", "Journal.claims")}
    ),
    "imatrix": Property(
        _dat_files(),
        _changed_importance,
        imatrix,
        {
            "gguflow.conversion.imatrix": (
                *("parse_imatrix", "_Cursor", "_read_dat", "_read_gguf", "_gguf_metadata", "_values"),
                *("_check_number", "_check_values", "_fail", "Imatrix.provenance", "_shortened"),
            )
        },
    ),
    "tokenizer-json": Property(
        side_files.TOKENIZER_FILES,
        side_files.changed_tokenizer,
        side_files.tokenizer_json,
        {
            f"{_TOKENIZERS}tokenizer_json": (),
            f"{_TOKENIZERS}bpe": (),
            f"{_TOKENIZERS}wordpiece": ("wordpiece_metadata", "_phantom", "_pre"),
            f"{_TOKENIZERS}pre_tokenizers": (),
            f"{_TOKENIZERS}special_tokens": (),
            f"{_TOKENIZERS}vocabulary": ("Vocabulary.padding", "Vocabulary.put", "Vocabulary.metadata"),
            f"{_TOKENIZERS}sentencepiece": (
                *("sentencepiece_json_metadata", "merge_scores", "_type_listed", "_adds_space"),
            ),
        },
    ),
    "tokenizer-model": Property(
        side_files.PIECE_FILES,
        side_files.changed_pieces,
        side_files.tokenizer_model,
        {f"{_TOKENIZERS}sentencepiece_model": ()},
    ),
    "config": Property(
        side_files.CONFIGS,
        side_files.changed_config,
        side_files.config,
        {
            "gguflow.models.configuration": (),
            "gguflow.models.rope": (),
            "gguflow.models.defaults": (),
            f"{_TOKENIZERS}ends": (
                *("with_ends", "_ids", "_ids_of_generation", "_warn_of_no_end", "_warn", "_in_place"),
                *("_certain", "exempt_texts"),
            ),
            "gguflow.models.documents": (
                *(
                    "Document.integer",
                    "Document.number",
                    "Document.flag",
                    "Document.text",
                    "Document.require",
                ),
                *("Document.section", "Document.items", "Document.sections", "Document._value"),
            ),
        },
    ),
    "card": Property(
        side_files.MODEL_CARDS, side_files.changed_card, side_files.card, {"gguflow.models.card": ()}
    ),
}


def check(name: str, n: int, seed: int, watched: LineCoverage | None = None) -> tuple[int, float]:
    """Try a property on so many inputs: one half from Hypothesis, one half valid ones with changes. None may
    use more than `bounds` allow. Returns how many were tried, and the processor time of the slowest, in s.

    name: of the property.
    n: the number of inputs.
    seed: the same one gives the same inputs.
    watched: collects the lines that the parsers execute.

    Raises what the property raises, for the smallest input found that breaks it; MemoryError, TimeoutError.
    """
    known = PROPERTIES[name]
    tried, slowest = 0, 0.0

    def attempt(value: Any) -> None:
        nonlocal tried, slowest
        tried += 1
        began = time.process_time()
        with (
            bounded(),
            contextlib.nullcontext() if watched is None else watched.collected(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("error")  # what Python or NumPy would print
            known.holds(value)
        slowest = max(slowest, time.process_time() - began)

    _from_hypothesis(known, n // 2, seed, attempt)
    rng = random.Random(seed)
    while tried < n:
        value = known.changed(rng)
        try:
            attempt(value)
        except BaseException as error:
            error.args = (f"{error.args[0] if error.args else ''}, given {value!r}",)
            raise
    return tried, slowest


def _from_hypothesis(known: Property, n: int, seed: int, attempt: Callable[[Any], None]) -> None:
    from hypothesis import HealthCheck, given, settings
    from hypothesis import seed as seeded

    @seeded(seed)
    @settings(max_examples=n, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(known.inputs)
    def holds(value: Any) -> None:
        attempt(value)

    holds()
