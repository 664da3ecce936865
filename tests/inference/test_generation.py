"""Generating and scoring text, from Python and on the command line."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gguflow
from gguflow.cli import main
from gguflow.errors import UsageError
from gguflow.inference.generation import Generation
from gguflow.inference.perplexity import cut, log_softmax, score
from gguflow.inference.sampling import Sampler
from gguflow.inference.tokenizer import Tokenizer
from gguflow.inference.transformer import Transformer
from testing.checkpoints import TINY
from testing.llama_library import Llama
from testing.random_models import random_model

PROMPT = "def fib(n):"
TEXT = (TINY / "heldout.txt").read_text(encoding="utf-8")[:2500]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("tiny")
    return {
        name: gguflow.convert(TINY, directory / f"{name}.gguf", type=name).output
        for name in ("f16", "q4_k_m")
    }


@pytest.fixture(scope="module")
def loaded(paths: dict[str, Path]) -> Iterator[tuple[Transformer, Tokenizer]]:
    with gguflow.open(paths["f16"]) as model:
        yield Transformer(model), Tokenizer(model.metadata, model.path)


def goes_on(path: Path, n: int) -> list[int]:
    """The tokens that llama.cpp puts after PROMPT."""
    with Llama(path) as llama_cpp:
        tokens = llama_cpp.tokenize(PROMPT)
        n_prompt = len(tokens)
        while len(tokens) < n_prompt + n:
            tokens.append(int(llama_cpp.logits(tokens)[-1].argmax()))
    return tokens[n_prompt:]


def test_the_text_is_that_of_llama_cpp(paths: dict[str, Path], loaded: tuple[Transformer, Tokenizer]) -> None:
    generation = Generation(*loaded, PROMPT, 48)
    text = "".join(generation)
    tokens = goes_on(paths["f16"], 48)
    assert generation.tokens == tokens
    assert text == loaded[1].decode(tokens)
    assert (len(generation.prompt_tokens), generation.stopped) == (7, "length")


@pytest.mark.parametrize(("n_tokens", "n_pieces"), [(0, 0), (1, 1)])
def test_few_tokens(loaded: tuple[Transformer, Tokenizer], n_tokens: int, n_pieces: int) -> None:
    generation = Generation(*loaded, PROMPT, n_tokens)
    assert len(list(generation)) == n_pieces
    assert len(generation.tokens) == n_tokens


class Choosing(Sampler):
    """Takes given tokens, whatever the model says."""

    def choose(self, *tokens: int) -> Choosing:
        self.left = list(tokens)
        return self

    def pick(self, logits: np.ndarray) -> int:
        return self.left.pop(0)


def test_bytes_of_a_character_are_kept_until_it_is_whole(loaded: tuple[Transformer, Tokenizer]) -> None:
    transformer, tokenizer = loaded
    euro = [tokenizer.texts.index(f"<0x{byte:02X}>") for byte in "€".encode()]
    sampler = Choosing().choose(*euro, *euro[:2])
    generation = Generation(transformer, tokenizer, PROMPT, 5, sampler)
    assert list(generation) == ["€", "\ufffd"]


def test_the_end_ends(loaded: tuple[Transformer, Tokenizer]) -> None:
    generation = Generation(*loaded, PROMPT, 10, Choosing().choose(300, 2))
    list(generation)
    assert (generation.tokens, generation.stopped) == ([300], "end")


def test_the_context_ends(tmp_path: Path) -> None:
    """64 tokens fit; the one after them can still be told."""
    with gguflow.open(random_model(tmp_path)) as model:
        transformer, tokenizer = Transformer(model), Tokenizer(model.metadata, model.path)
        generation = Generation(transformer, tokenizer, "abc" * 20, 100, Choosing().choose(*[3] * 100))
        list(generation)
        assert generation.stopped == "context"
        assert len(generation.prompt_tokens) + len(generation.tokens) == 65
        with pytest.raises(UsageError, match="more than the 64 tokens"):
            Generation(transformer, tokenizer, "c b a " * 65, 1)


def test_a_prompt_without_tokens(tmp_path: Path) -> None:
    """The tokenizer of this model puts nothing before a text."""
    from gguflow.editing import edit, parse_assignment

    path = edit(
        random_model(tmp_path), [parse_assignment("tokenizer.ggml.add_bos_token=bool:false")], []
    ).output
    with gguflow.open(path) as model, pytest.raises(UsageError, match="nothing to go on with"):
        Generation(Transformer(model), Tokenizer(model.metadata, model.path), "", 1)


def test_scores_by_their_definition(loaded: tuple[Transformer, Tokenizer], paths: dict[str, Path]) -> None:
    """Of llama.cpp's logits: chunks, halves, mean, error; and a divergence of nothing from itself."""
    transformer, tokenizer = loaded
    found = score(transformer, tokenizer, TEXT, context=128, reference=transformer)
    with Llama(paths["f16"]) as llama_cpp:
        tokens = llama_cpp.tokenize(TEXT, parse_special=False)
        n_chunks = len(tokens) // 128
        losses = []
        for i in range(n_chunks):
            chunk = tokens[128 * i : 128 * (i + 1)]
            log_p = log_softmax(llama_cpp.logits([1, *chunk[1:]]))
            losses += [-log_p[t - 1, chunk[t]] for t in range(65, 128)]
    assert n_chunks > 3
    assert (found.n_chunks, found.n_scored) == (n_chunks, 63 * n_chunks)
    perplexity = math.exp(np.mean(losses))
    assert found.perplexity.mean == pytest.approx(perplexity, rel=1e-3)
    assert found.perplexity.error == pytest.approx(
        perplexity * np.std(losses) / math.sqrt(len(losses) - 1), rel=1e-2
    )
    assert found.divergence is not None
    assert (found.divergence.kullback_leibler.mean, found.divergence.same_top) == (0, 1)
    assert found.divergence.reference_perplexity == found.perplexity.mean


@pytest.mark.parametrize(
    ("context", "message"), [(3, "from 4"), (2000, "own 1024"), (1000, "two chunks of 1000")]
)
def test_scores_that_are_refused(loaded: tuple[Transformer, Tokenizer], context: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        score(*loaded, TEXT, context=context)


def test_a_reference_of_another_vocabulary(loaded: tuple[Transformer, Tokenizer], tmp_path: Path) -> None:
    with gguflow.open(random_model(tmp_path)) as model, pytest.raises(UsageError, match="24"):
        score(*loaded, TEXT, context=64, reference=Transformer(model))


def test_chunks_begin_with_the_first_token(loaded: tuple[Transformer, Tokenizer]) -> None:
    chunks = cut(loaded[1], TEXT, 100)
    assert {len(chunk) for chunk in chunks} == {100}
    assert {chunk[0] for chunk in chunks} == {1}


def test_run(paths: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(paths["f16"]), "-p", PROMPT, "-n", "8"]) == 0
    shown = capsys.readouterr()
    with gguflow.open(paths["f16"]) as model:
        text = Tokenizer(model.metadata, model.path).decode(goes_on(paths["f16"], 8))
    assert shown.out == PROMPT + text + "\n"
    assert "prompt 7 tokens" in shown.err and "tokens/s" in shown.err


def test_run_options(paths: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The prompt from a file, drawn with a seed, on a cache in Q8_0, activations in 8 bits: twice the
    same.
    """
    (tmp_path / "prompt.txt").write_text(PROMPT)
    options = (
        "-n",
        "8",
        "--temperature",
        "1",
        "--top-k",
        "20",
        "--top-p",
        "0.9",
        "--min-p",
        "0.01",
        "--seed",
        "5",
        "--threads",
        "2",
    )
    packed = ("--cache", "q8_0", "--activations", "int8", "--no-echo")
    shown = []
    for _ in range(2):
        assert main(["run", str(paths["q4_k_m"]), "-f", str(tmp_path / "prompt.txt"), *options, *packed]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert not shown[0].startswith(PROMPT)


def test_perplexity(paths: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    command = [
        "perplexity",
        str(paths["q4_k_m"]),
        "-f",
        str(tmp_path / "text.txt"),
        "--context",
        "128",
        "--chunks",
        "3",
        "-q",
    ]
    assert main([*command, "--reference", str(paths["f16"]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n_chunks"], found["n_scored"], found["context"]) == (3, 189, 128)
    assert 0 < found["divergence"]["kullback_leibler"]["mean"] < 0.02
    assert 0.9 < found["divergence"]["same_top"] <= 1
    assert main(command) == 0
    shown = capsys.readouterr()
    assert f"perplexity {found['perplexity']['mean']:.4f} ±" in shown.out
    assert "divergence" not in shown.out
    assert shown.err == ""


ERRORS = {
    "no such model": (["run", "missing.gguf"], 4, "missing.gguf"),
    "a prompt that is not text": (["run", "MODEL", "-f", "MODEL"], 2, "not UTF-8"),
    "a negative number of tokens": (["run", "MODEL", "-n", "-1"], 2, "-n must be 0 or more"),
    "a temperature below 0": (["run", "MODEL", "--temperature", "-1"], 2, "temperature"),
    "no such text": (["perplexity", "MODEL", "-f", "missing.txt"], 4, "missing.txt"),
    "a short text": (["perplexity", "MODEL", "-f", "short.txt"], 2, "two chunks of 512"),
    "no chunks": (
        ["perplexity", "MODEL", "-f", "short.txt", "--chunks", "0"],
        2,
        "--chunks must be 1 or more",
    ),
}


@pytest.mark.parametrize(("command", "status", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(
    paths: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.txt").write_text("short")
    assert main([str(paths["f16"]) if word == "MODEL" else word for word in command]) == status
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_an_architecture_that_cannot_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from gguflow.editing import edit, parse_assignment

    other = edit(
        random_model(tmp_path / "model"),
        [parse_assignment("general.architecture=str:unheard-of")],
        [],
        output=tmp_path / "other.gguf",
    )
    assert main(["run", str(other.output), "-p", "a"]) == 3
    assert "X-001" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_interrupted(paths: dict[str, Path]) -> None:
    command = [sys.executable, "-m", "gguflow", "run", str(paths["f16"]), "-p", PROMPT, "-n", "1000"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stdout.read(len(PROMPT) + 20), "it has begun"
    time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert said == "gguflow: interrupted\n"
