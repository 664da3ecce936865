"""A SentencePiece vocabulary in tokenizer.json alone, and tokens that only tokenizer.json adds: the token ids
are those of the Hugging Face tokenizer (fixtures/tokenizers, written by tools/peer/sentencepiece_vectors.py).
"""

from __future__ import annotations

import copy
import gzip
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor

from gguflow import models
from gguflow.container.metadata import Metadata
from gguflow.errors import InvalidError
from gguflow.inference.tokenizer import Tokenizer
from gguflow.models.base import Model
from gguflow.models.documents import Document
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.tokenizers.sentencepiece import merge_scores
from gguflow.models.tokenizers.sentencepiece_model import read_pieces
from gguflow.models.tokenizers.vocabulary import TokenType
from testing.checkpoints import FIXTURES, TINY
from testing.families import CONFIGS, checkpoint, shapes

GOLDEN: dict[str, Any] = json.loads(
    gzip.decompress((FIXTURES / "tokenizers" / "tiny-py-llama.json.gz").read_bytes())
)
SAVED: dict[str, Any] = GOLDEN["saved"]["files"]
HELDOUT = (TINY / "heldout.txt").read_text(encoding="utf-8")
N_TOKENS = 4099
"""Of a model whose matrix has grown by the three tokens of `grown`."""

CONTROL, USER_DEFINED, UNUSED = int(TokenType.CONTROL), int(TokenType.USER_DEFINED), int(TokenType.UNUSED)


def load(directory: Path, n_tokens: int, contents: dict[str, Any], *, model: bool = False) -> Model:
    """A small Llama with these tokenizer files; model: whether tiny-py-llama's tokenizer.model is beside."""
    config = {**CONFIGS["llama"], "vocab_size": n_tokens, "bos_token_id": 1, "eos_token_id": 2}
    tensors = {
        name: (n_tokens, *shape[1:]) if name in ("model.embed_tokens.weight", "lm_head.weight") else shape
        for name, shape in shapes("llama").items()
    }
    found = checkpoint(directory, {"config.json": config, **contents}, tensors)
    if model:
        shutil.copy(TINY / "tokenizer.model", directory)
    return models.load(found)


def tokenizer(metadata: Metadata) -> Tokenizer:
    return Tokenizer({key: value.value for key, value in metadata.items()}, "test")


def older() -> dict[str, Any]:
    """The files with tokenizer.json as converters before transformers 5 wrote it."""
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return {
        "tokenizer.json": SAVED["tokenizer.json"] | GOLDEN["older"]["parts"],
        "tokenizer_config.json": settings,
    }


def grown() -> dict[str, Any]:
    return {name: SAVED[name] | GOLDEN["grown"][name] for name in SAVED}


def chunks(kind: str) -> list[str]:
    cuts = GOLDEN[kind]["cuts"]
    return [HELDOUT[first:last] for first, last in itertools.pairwise(cuts)]


@pytest.mark.parametrize("kind", ["saved", "older"])
def test_every_chunk_has_the_ids_of_the_hugging_face_tokenizer(kind: str, tmp_path: Path) -> None:
    ours = tokenizer(load(tmp_path, 4096, SAVED if kind == "saved" else older()).metadata)
    texts, golden = chunks(kind), GOLDEN[kind]["ids"]
    assert "".join(texts) == HELDOUT and len(texts) == len(golden)
    judged = [i for i in range(len(texts)) if golden[i] is not None]
    assert len(judged) == (33 if kind == "saved" else 60)
    assert [i for i in judged if ours.encode(texts[i]) != golden[i]] == []


@pytest.mark.parametrize(("text", "ids"), GOLDEN["older"]["texts"], ids=lambda value: repr(value)[:40])
def test_special_tokens_spaces_and_bytes(text: str, ids: list[int], tmp_path: Path) -> None:
    assert tokenizer(load(tmp_path, 4096, older()).metadata).encode(text) == ids


def test_the_scores_are_those_of_the_model_file(tmp_path: Path) -> None:
    """SentencePiece's own scores are ranks, so the rank of every merged piece is its score to the bit; a
    conversion from tokenizer.model splits any text in the same way.
    """
    metadata = load(tmp_path, 4096, SAVED).metadata
    scores = metadata["tokenizer.ggml.scores"].value
    processor = SentencePieceProcessor(model_proto=(TINY / "tokenizer.model").read_bytes())
    merged = {"".join(pair) for pair in SAVED["tokenizer.json"]["model"]["merges"]}
    assert len(merged) > 3700
    for token in range(4096):
        text = processor.IdToPiece(token)
        assert scores[token] == (processor.GetScore(token) if text in merged else -len(merged)), text


def test_the_difference_is_named(tmp_path: Path) -> None:
    model = load(tmp_path, 4096, SAVED)
    assert model.differences == ("types-from-tokenizer-json", "scores-from-merges")
    assert load(tmp_path, 4096, {"tokenizer_config.json": {}}, model=True).differences == ()


def test_a_listed_token_keeps_its_type(tmp_path: Path) -> None:
    """transformers 5 names all added tokens in extra_special_tokens, the line feed too, which must not vanish
    from what a model writes.
    """
    assert "\n" in SAVED["tokenizer_config.json"]["extra_special_tokens"]
    ours = tokenizer(load(tmp_path, 4096, SAVED).metadata)
    assert ours.decode(ours.encode("a\nb", add_special=False)) == " a\nb"


LISTED: dict[str, tuple[dict[str, Any], str, int]] = {
    "special, of the vocabulary": ({"special": True}, "\u2581the", CONTROL),
    "not special, of the vocabulary": ({"special": False}, "\u2581the", USER_DEFINED),
    "not special, a character": ({"special": False}, "~", int(TokenType.NORMAL)),
    "special, a character": ({"special": True}, "~", CONTROL),
}


@pytest.mark.parametrize(("entry", "text", "kind"), LISTED.values(), ids=LISTED.keys())
def test_types_of_listed_tokens(entry: dict[str, Any], text: str, kind: int, tmp_path: Path) -> None:
    files = copy.deepcopy(older())
    token = files["tokenizer.json"]["model"]["vocab"][text]
    files["tokenizer.json"]["added_tokens"].append({"id": token, "content": text, **entry})
    metadata = load(tmp_path, 4096, files).metadata
    assert metadata["tokenizer.ggml.token_type"].value[token] == kind
    assert metadata["tokenizer.ggml.tokens"].value[token] == (
        " the" if (text, kind) == ("\u2581the", USER_DEFINED) else text
    )


PREFIX: dict[str, tuple[dict[str, Any], dict[str, Any], bool | None]] = {
    "Metaspace, always": ({}, {}, None),
    "Metaspace, first": ({"pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "first"}}, {}, None),
    "Metaspace, never": ({"pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "never"}}, {}, False),
    "Metaspace, an older flag": (
        {"pre_tokenizer": {"type": "Metaspace", "add_prefix_space": False}},
        {},
        False,
    ),
    "Prepend": (GOLDEN["older"]["parts"], {}, None),
    "neither": ({"pre_tokenizer": None}, {}, False),
    "neither, but the settings say so": ({"pre_tokenizer": None}, {"add_prefix_space": True}, True),
    "the settings say no": ({}, {"add_prefix_space": False}, False),
}


@pytest.mark.parametrize(("parts", "settings", "expected"), PREFIX.values(), ids=PREFIX.keys())
def test_the_space_before_a_text(
    parts: dict[str, Any], settings: dict[str, Any], expected: bool | None, tmp_path: Path
) -> None:
    """As tokenizer.json says, unless tokenizer_config.json does; None: the file says nothing, which means
    yes.
    """
    files = {
        "tokenizer.json": SAVED["tokenizer.json"] | parts,
        "tokenizer_config.json": SAVED["tokenizer_config.json"] | settings,
    }
    model = load(tmp_path, 4096, files)
    found = model.metadata.get("tokenizer.ggml.add_space_prefix")
    assert (None if found is None else found.value) is expected
    assert ("no-space-prefix" in model.differences) == (expected is False and not settings)


@pytest.mark.parametrize("model", [True, False], ids=["beside tokenizer.model", "alone"])
def test_tokens_that_tokenizer_json_adds(model: bool, tmp_path: Path) -> None:
    loaded = load(tmp_path, N_TOKENS, grown(), model=model)
    assert loaded.metadata["tokenizer.ggml.tokens"].value[4095:] == [
        "~",
        "<|im_start|>",
        "<|im_end|>",
        "<think>",
    ]
    assert loaded.metadata["tokenizer.ggml.token_type"].value[4096:] == [CONTROL, CONTROL, USER_DEFINED]
    assert ("tokens-of-tokenizer-json" in loaded.differences) == model
    ids = tokenizer(loaded.metadata).encode("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>x")
    assert [token for token in ids if token >= 4096] == [4096, 4097, 4096, 4098]


ADDED: dict[str, tuple[list[dict[str, Any]], dict[str, Any], list[tuple[str, int]], bool]] = {
    "nothing new": ([{"id": 1, "content": "<s>", "special": True}], {}, [("[PAD4096]", UNUSED)], False),
    "beyond the matrix": ([{"id": 9999, "content": "<x>"}], {}, [("[PAD4096]", UNUSED)], False),
    "known from tokenizer_config.json": (
        [{"id": 4096, "content": "<x>", "special": True}],
        {"added_tokens_decoder": {"4096": {"content": "<x>", "special": False}}},
        [("<x>", USER_DEFINED)],
        False,
    ),
    "another text": (
        [{"id": 4096, "content": "<x>", "special": True}],
        {"added_tokens_decoder": {"4096": {"content": "<y>", "special": False}}},
        [("<x>", CONTROL)],
        True,
    ),
    "in the place of a piece": (
        [{"id": 4095, "content": "<x>", "special": True}],
        {},
        [("[PAD4096]", UNUSED)],
        True,
    ),
    "a mark of a space": ([{"id": 4096, "content": "x\u2581y"}], {}, [("x y", USER_DEFINED)], True),
    "looks special": ([{"id": 4096, "content": "<|x|>"}], {}, [("<|x|>", CONTROL)], True),
}


@pytest.mark.parametrize(("listed", "settings", "expected", "noted"), ADDED.values(), ids=ADDED.keys())
def test_added_beside_a_model_file(
    listed: list[dict[str, Any]],
    settings: dict[str, Any],
    expected: list[tuple[str, int]],
    noted: bool,
    tmp_path: Path,
) -> None:
    files = {"tokenizer.json": {"added_tokens": listed}, "tokenizer_config.json": settings}
    loaded = load(tmp_path, 4097, files, model=True)
    texts = loaded.metadata["tokenizer.ggml.tokens"].value
    types = loaded.metadata["tokenizer.ggml.token_type"].value
    assert [(texts[token], types[token]) for token in range(4096, 4097)] == expected
    assert ("tokens-of-tokenizer-json" in loaded.differences) == noted


MERGES: dict[str, tuple[list[Any], dict[str, float]]] = {
    "none": ([], {}),
    "in their order": (["a b", "ab c"], {"ab": 0.0, "abc": -1.0}),
    "the first of a token counts": ([["ab", "c"], ["a", "b"], ["a", "bc"]], {"abc": 0.0, "ab": -1.0}),
}
OWN = dict(enumerate(("a", "b", "c", "ab", "bc", "abc")))


@pytest.mark.parametrize(("merges", "scores"), MERGES.values(), ids=MERGES.keys())
def test_merge_scores(merges: list[Any], scores: dict[str, float]) -> None:
    assert merge_scores(Document(Path("tokenizer.json"), {"merges": merges}), OWN) == scores


@pytest.mark.parametrize("merge", ["a x", "b a", "a", ["a"], ["a", 1], {}], ids=repr)
def test_a_merge_of_what_is_no_token(merge: Any) -> None:
    with pytest.raises(InvalidError, match=r"M-003.*merges\[0\]"):
        merge_scores(Document(Path("tokenizer.json"), {"merges": [merge]}), OWN)


def test_the_pieces_are_those_of_sentencepiece() -> None:
    """The parser and SentencePiece's own agree on text, score and kind of every piece."""
    content = (TINY / "tokenizer.model").read_bytes()
    processor = SentencePieceProcessor(model_proto=content)
    pieces = read_pieces(content, Path("tokenizer.model"))
    assert len(pieces) == processor.vocab_size()
    for token, piece in enumerate(pieces):
        assert (piece.text, piece.score) == (processor.IdToPiece(token), processor.GetScore(token))
        assert (piece.type is TokenType.UNKNOWN) == processor.IsUnknown(token)
        assert (piece.type is TokenType.CONTROL) == processor.IsControl(token)
        assert (piece.type is TokenType.BYTE) == processor.IsByte(token)


def test_files_are_read_once(tmp_path: Path) -> None:
    """The parts of the configuration share the collector of differences."""
    config = Document(tmp_path / "config.json", {"a": {"b": {}}, "vocab_size": 8})
    config.section("a").section("b").applied.add("scores-from-merges")
    assert TokenizerFiles.read(config, tmp_path).config.applied.ids == ["scores-from-merges"]
