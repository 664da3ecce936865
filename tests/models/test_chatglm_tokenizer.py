"""ChatGLM 3's SentencePiece model, and what is wrong with one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gguflow.errors import FileError
from gguflow.models.documents import Document
from gguflow.models.tokenizers.chatglm import SPECIAL, chatglm3_metadata
from gguflow.models.tokenizers.files import TokenizerFiles
from testing.tokenizer_cases import PIECES, spm_model

MODEL = spm_model(PIECES, kind=2)


@pytest.mark.parametrize(
    ("content", "n_tokens", "rule"),
    [
        (None, 300, "M-023"),
        (b"", 300, "M-021"),
        (MODEL[:-40], 300, "M-021"),
        (b"YQ== 0\nYg== 1\n", 300, "M-021"),
        (MODEL, len(PIECES) + len(SPECIAL) - 1, "M-025"),
    ],
    ids=["none", "empty", "cut", "tiktoken", "too few rows"],
)
def test_what_is_wrong(content: bytes | None, n_tokens: int, rule: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": n_tokens}))
    if content is not None:
        (tmp_path / "tokenizer.model").write_bytes(content)
    config = Document.read(tmp_path, "config.json")
    assert config is not None
    with pytest.raises(FileError) as caught:
        chatglm3_metadata(TokenizerFiles.read(config, tmp_path))
    assert caught.value.finding.rule == rule
