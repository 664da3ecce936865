"""Large tokenizers take time in proportion to their size; changed ones are in tests/test_fuzz.py."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import pytest

from gguflow.errors import FileError
from gguflow.models.documents import Document
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.sentencepiece_model import read_pieces
from testing.families import BPE
from testing.fuzzing.side_files import NOWHERE, PIECES, READERS, small_pieces

SEEDS: dict[str, dict[str, Any]] = {"bpe": BPE, "SentencePiece": PIECES}


def test_the_small_seed_is_good() -> None:
    assert len(read_pieces(small_pieces(), Path("tokenizer.model"))) > 20


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
    config = Document(NOWHERE / "config.json", {"vocab_size": 4 * MANY})
    found = TokenizerFiles(
        NOWHERE,
        config,
        Document(NOWHERE / "tokenizer.json", SEEDS[seed] | parts),
        Document(NOWHERE / "tokenizer_config.json", named),
    )
    started = time.process_time()
    with contextlib.suppress(FileError):
        READERS["llama"](found)
    assert time.process_time() - started < 30
