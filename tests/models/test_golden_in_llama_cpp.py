"""llama.cpp runs what gguflow makes of the tiny checkpoints as it runs what its own converter makes: the same
tokens, embeddings and scores as fixtures/llama_answers.json has.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from gguflow import models
from testing.golden.answers import ANSWERS, Answers, Row, ask_about
from testing.golden.conversion import converted
from testing.golden.packed import Packed, class_of
from testing.llama_answers import Answer, ask

pytest.importorskip("xllamacpp")

GOLDEN = Packed()
ROWS = Answers.read(ANSWERS).rows
NAMES = [name for name in GOLDEN.names if name in ROWS]
SOME = [
    "LlamaForCausalLM",  # generates
    "MambaForCausalLM",  # runs, unlike the peer's
    "BertForSequenceClassification+labels",  # scores
    "JinaBertModel",  # embeds
    "DreamModel",  # predicts all at once
    "DeepseekV3ForCausalLM",  # latent attention, experts
]


def answer(name: str, work: Path) -> Answer:
    path, _ = converted(GOLDEN.recipe(name), "F32", work)
    return ask_about(path)


@pytest.mark.parametrize("name", SOME)
def test_llama_cpp_runs_it(name: str, tmp_path: Path) -> None:
    found = answer(name, tmp_path)
    assert found.kind != "refused"
    assert found.is_near(ROWS[name].expected), found


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(NAMES) - set(SOME)))
def test_llama_cpp_says_the_same_to_all(name: str, tmp_path: Path) -> None:
    found = answer(name, tmp_path)
    assert found.is_near(ROWS[name].expected), found


def test_every_class_that_we_convert_has_an_answer() -> None:
    known = {name for name in GOLDEN.names if class_of(name) in models.architectures()}
    assert sorted(known - ROWS.keys()) == []


def test_answers_of_ours_that_differ_are_runs_where_the_peer_is_refused_or_else() -> None:
    """A row with both answers is about a checkpoint to which an intended difference applies; there ours never
    is refused where the peer's file runs.
    """
    worse = [
        name
        for name, row in ROWS.items()
        if row.ours and row.ours.kind == "refused" and row.peer.kind != "refused"
    ]
    assert worse == []


A = Answer("generation", (1, 2), (3, 4), (1.0, -2.0), "a")
NEAR = [
    ("itself", A, True),
    ("other digest", Answer("generation", (1, 2), (3, 4), (1.0005, -2.0), "b"), True),
    ("other numbers", Answer("generation", (1, 2), (3, 4), (1.1, -2.0), "a"), False),
    ("other tokens", Answer("generation", (1, 2), (3, 5), (1.0, -2.0), "a"), False),
    ("other tokens of the text", Answer("generation", (1, 3), (3, 4), (1.0, -2.0), "a"), False),
    ("fewer numbers", Answer("generation", (1, 2), (3, 4), (1.0,), "a"), False),
    ("refused", Answer("refused", message="why"), False),
]


@pytest.mark.parametrize(("other", "expected"), [row[1:] for row in NEAR], ids=[row[0] for row in NEAR])
def test_answers_that_are_near(other: Answer, expected: bool) -> None:
    assert other.is_near(A) is expected


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (A, ""),
        (Answer("refused", message="why"), "refused why, not generation"),
        (Answer("generation", (1, 3), (3, 4), (1.0, -2.0), "a"), "tokens of the text (1, 3), not (1, 2)"),
        (Answer("generation", (1, 2), (3, 5), (1.0, -2.0), "a"), "tokens (3, 5), not (3, 4)"),
        (Answer("generation", (1, 2), (3, 4), (1.5, -2.0), "b"), "numbers (1.5, -2.0), not (1.0, -2.0)"),
    ],
)
def test_how_answers_differ(other: Answer, expected: str) -> None:
    assert other.differences(A).strip() == expected


def test_answers_survive_their_file(tmp_path: Path) -> None:
    refused = Answer("refused", message="bad")
    short = Answer("generation", (1, 2), (3, 4), (1.0, -2.0))
    rows = {"A": Row(refused, short), "B": Row(short)}
    Answers("1.0", rows).write(tmp_path / "answers.json")
    assert Answers.read(tmp_path / "answers.json") == Answers("1.0", rows)


def test_a_file_that_is_no_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + b"\xff" * 60)
    found = ask(path)
    assert found.kind == "refused"
    assert found.message
    assert str(tmp_path) not in found.message
