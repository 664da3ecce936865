"""Whatever is in tokenizer.json or tokenizer.model, reading it gives the keys or a typed error, in bounded
time: mutations of good files, and large ones that only quadratic work would make slow.
"""

from __future__ import annotations

import contextlib
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gguflow.container.metadata import Metadata
from gguflow.errors import FileError, LimitError, MalformedError
from gguflow.models.documents import Document
from gguflow.models.families import llama, qwen2
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.sentencepiece_model import read_pieces
from gguflow.models.tokenizers.wordpiece import wordpiece_metadata
from testing.checkpoints import TINY
from testing.families import BPE, SETTINGS, WORDPIECE

N_TOKENS = 24

PIECES: dict[str, Any] = {
    "added_tokens": [
        {"id": 1, "content": "<s>", "special": True},
        {"id": 9, "content": "<x>", "special": False},
    ],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}]},
    "pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "first"},
    "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}], "pair": []},
    "decoder": {"type": "Sequence", "decoders": []},
    "model": {
        "type": "BPE",
        "byte_fallback": True,
        "vocab": {"<unk>": 0, "<s>": 1, "<0x0A>": 2, "a": 3, "b": 4, "ab": 5, "aba": 6},
        "merges": [["a", "b"], ["ab", "a"]],
    },
}
SEEDS: dict[str, tuple[Callable[[TokenizerFiles], Metadata], dict[str, Any], dict[str, Any]]] = {
    "bpe": (llama.tokenizer, BPE, SETTINGS["bpe"]),
    "bpe or SentencePiece": (qwen2.tokenizer, BPE, SETTINGS["bpe"]),
    "SentencePiece": (llama.tokenizer, PIECES, {"bos_token": "<s>", "extra_special_tokens": ["<x>"]}),
    "WordPiece": (wordpiece_metadata, WORDPIECE, SETTINGS["wordpiece"]),
}

KEYS = ("id", "content", "special", "type", "vocab", "merges", "added_tokens", "Sequence", "normalizers")
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, N_TOKENS + 2)
    | st.sampled_from([-(2**63), 2**31, 2**64, 10**30, 1.5, float("inf"), -0.0])
    | st.sampled_from(
        ["BPE", "WordPiece", "Unigram", "Sequence", "Metaspace", "a b", "ab", "\u2581", "<0x0A>"]
    )
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, part in inner for found in ((*path, key), *places(part, (*path, key)))]


@st.composite
def mutated(draw: st.DrawFn, seed: Any) -> Any:
    """A JSON value with some of its parts replaced, removed, or repeated under another key."""
    value = copy.deepcopy(seed)
    for _ in range(draw(st.integers(1, 3))):
        paths = places(value)
        if not paths:
            break
        *path, last = draw(st.sampled_from(paths))
        parent = value
        for key in path:
            parent = parent[key]
        what = draw(st.sampled_from(["replace", "remove", "repeat"]))
        if what == "replace":
            parent[last] = draw(VALUES)
        elif what == "remove":
            del parent[last]
        elif isinstance(parent, list):
            parent.insert(draw(st.integers(0, len(parent))), copy.deepcopy(parent[last]))
        else:
            parent[draw(st.sampled_from(KEYS))] = copy.deepcopy(parent[last])
    return value


def check(understand: Callable[[TokenizerFiles], Metadata], found: TokenizerFiles) -> None:
    """The keys are whole, or the error is one about a file."""
    try:
        metadata = understand(found)
    except FileError:
        return
    tokens = metadata["tokenizer.ggml.tokens"].value
    assert len(tokens) == len(metadata["tokenizer.ggml.token_type"].value) == N_TOKENS
    if (scores := metadata.get("tokenizer.ggml.scores")) is not None:
        assert len(scores.value) == N_TOKENS and np.isfinite(np.asarray(scores.value, np.float32)).all()
    for key, value in metadata.items():
        if key.endswith("_token_id"):
            assert 0 <= value.value < N_TOKENS


NOWHERE = Path("/nonexistent/checkpoint")


@pytest.mark.parametrize("seed", SEEDS)
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_mutated_tokenizer_json(seed: str, data: st.DataObject) -> None:
    understand, tokenizer, named = SEEDS[seed]
    config = Document(NOWHERE / "config.json", {"vocab_size": N_TOKENS, "bos_token_id": data.draw(VALUES)})
    found = TokenizerFiles(
        NOWHERE,
        config,
        Document(NOWHERE / "tokenizer.json", data.draw(mutated(tokenizer))),
        Document(NOWHERE / "tokenizer_config.json", data.draw(st.just(named) | mutated(named))),
    )
    check(understand, found)


BYTES = [json.dumps(tokenizer).encode() for _, tokenizer, _ in SEEDS.values()]
REAL = (TINY / "tokenizer.model").read_bytes()
ENDS = [i for i in range(2, 600) if REAL[i : i + 2] in (b"\n\x0e", b"\n\x0f", b"\n\x10", b"\n\x0d")]
SMALL = REAL[: ENDS[-1]] + b"\x12\x02\x18\x02"
"""The first pieces of a real model, and its trainer's settings cut down to the kind of model."""


@st.composite
def damaged(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Bytes with some places overwritten, cut out, or filled with something from elsewhere."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        first = draw(st.integers(0, len(content)))
        last = min(len(content), first + draw(st.sampled_from([0, 1, 1, 2, 8, 100])))
        other = draw(st.integers(0, len(content)))
        content[first:last] = draw(
            st.binary(max_size=3)
            | st.just(bytes(content[other : other + 20]))
            | st.sampled_from([b"\xff" * 10, b"\x0a", b"\x12\x00", b"\x80", b"\0\0\xc0\x7f", b"[" * 50, b"{"])
        )
    return bytes(content[: draw(st.sampled_from([len(content), len(content) // 2]))])


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(content=damaged(BYTES))
def test_a_damaged_tokenizer_json(content: bytes, directory: Path) -> None:
    (directory / "tokenizer.json").write_bytes(content)
    (directory / "tokenizer.model").unlink(missing_ok=True)
    config = Document(directory / "config.json", {"vocab_size": N_TOKENS})
    try:
        found = TokenizerFiles.read(config, directory)
    except FileError:
        return
    for understand in (llama.tokenizer, wordpiece_metadata):
        check(understand, found)


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(content=damaged([SMALL]))
def test_a_damaged_tokenizer_model(content: bytes, directory: Path) -> None:
    """Also through the family's function, which pads and cuts the pieces to the model's vocabulary."""
    try:
        pieces = read_pieces(content, Path("tokenizer.model"))
    except (MalformedError, LimitError):
        pieces = []
    assert len({piece.text for piece in pieces}) == len(pieces) <= len(content)
    (directory / "tokenizer.model").write_bytes(content)
    config = Document(directory / "config.json", {"vocab_size": N_TOKENS})
    check(llama.tokenizer, TokenizerFiles(directory, config, None, None))


def test_the_small_seed_is_good() -> None:
    assert len(read_pieces(SMALL, Path("tokenizer.model"))) > 20


def nested(depth: int) -> dict[str, Any]:
    """A sequence in a sequence in a sequence."""
    step: dict[str, Any] = {"type": "NFC"}
    for _ in range(depth):
        step = {"type": "Sequence", "normalizers": [step]}
    return step


MANY = 100_000
LARGE: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "added tokens": (
        "bpe",
        {"added_tokens": [{"id": i, "content": f"<{i}>"} for i in range(10, MANY)]},
        {"added_tokens_decoder": {str(i): {"content": f"[{i}]"} for i in range(MANY)}},
    ),
    "extra tokens": ("bpe", {}, {"extra_special_tokens": [f"<{i}>" for i in range(MANY)]}),
    "merges": (
        "SentencePiece",
        {
            "model": PIECES["model"]
            | {
                "vocab": PIECES["model"]["vocab"] | {f"a{i}": 10 + i for i in range(MANY)},
                "merges": [["a", "b"]] * MANY,
            }
        },
        {},
    ),
    "a long token": (
        "SentencePiece",
        {"model": PIECES["model"] | {"vocab": {"a": 0, "a" * MANY * 10: 1, "a" * (MANY * 10 - 1): 2}}},
        {},
    ),
    "steps": ("bpe", {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * MANY}}, {}),
    "nested steps": ("bpe", {"normalizer": nested(20_000)}, {}),
}


@pytest.mark.parametrize(("seed", "parts", "named"), LARGE.values(), ids=LARGE.keys())
def test_large_files_take_linear_time(seed: str, parts: dict[str, Any], named: dict[str, Any]) -> None:
    """Each takes a few seconds; with quadratic work it would be minutes."""
    understand, tokenizer, _ = SEEDS[seed]
    config = Document(NOWHERE / "config.json", {"vocab_size": 4 * MANY})
    found = TokenizerFiles(
        NOWHERE,
        config,
        Document(NOWHERE / "tokenizer.json", tokenizer | parts),
        Document(NOWHERE / "tokenizer_config.json", named),
    )
    started = time.monotonic()
    with contextlib.suppress(FileError):
        understand(found)
    assert time.monotonic() - started < 30
