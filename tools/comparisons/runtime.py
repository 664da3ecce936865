"""What gguflow and llama.cpp (the xllamacpp wheel) predict at every position of a text.

Both are teacher-forced. tiny-py-llama is converted to each type and read with each way of keeping keys and
values and of multiplying; other models can be named. Where the best tokens differ, the place is printed with
both tokens' logits on both sides: it must be a near-tie. With --llama-perplexity, the perplexity of the whole
text is compared too. Exit code 0 where the share of equal best tokens, the ties and the perplexities are as
they should be, else 1.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from repository import ROOT

import numpy as np
from numpy.typing import NDArray

import gguflow
from gguflow.inference.perplexity import score
from gguflow.inference.tokenizer import Tokenizer
from gguflow.inference.transformer import PIECE, Transformer
from testing.llama_library import Llama

TINY = ROOT / "fixtures" / "models" / "tiny-py-llama"
WAYS = (("f16", "float32"), ("f16", "int8"), ("q8_0", "float32"))
"""The format of the cache, and the activations."""
LEAST_EQUAL, LEAST_EQUAL_ROUNDED = 0.99, 0.98
"""The share of positions where the best tokens must be equal; the second where llama.cpp rounds activations
to the kind of the weights.
"""
NEAR_TIE = 0.25
"""Logits nearer than this: the odds of the two tokens are below 1.29 to 1."""
PERPLEXITY_TOLERANCE = 0.005

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Place:
    """A position where the best tokens differ. logits: of (their best, our best), as they and as we compute
    them.
    """

    position: int
    tokens: tuple[int, int]
    theirs: tuple[float, float]
    ours: tuple[float, float]

    @property
    def gap(self) -> float:
        return max(self.theirs[0] - self.theirs[1], self.ours[1] - self.ours[0])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        nargs="*",
        type=Path,
        metavar="MODEL.gguf",
        help="models to compare instead of tiny-py-llama",
    )
    parser.add_argument(
        "--types", default="f16,q8_0,q4_k_m", help="of tiny-py-llama, comma-separated (default: %(default)s)"
    )
    parser.add_argument(
        "--file",
        type=Path,
        default=TINY / "heldout.txt",
        help="the text (default: tiny-py-llama's held-out text)",
    )
    parser.add_argument(
        "--positions", type=int, default=2000, metavar="N", help="to compare (default: %(default)s)"
    )
    parser.add_argument(
        "--context",
        type=int,
        default=500,
        metavar="N",
        help="positions read in one sequence (default: %(default)s)",
    )
    parser.add_argument(
        "--llama-perplexity", type=Path, metavar="PATH", help="llama-perplexity, to compare perplexities with"
    )
    parser.add_argument(
        "--chunks", type=int, default=-1, metavar="N", help="of 512 tokens, for perplexities (default: all)"
    )
    parser.add_argument("--work", type=Path, metavar="DIR", help="where temporary files go")


def run(arguments: argparse.Namespace) -> int:
    text = arguments.file.read_text(encoding="utf-8")
    good = True
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        for path in models(arguments, Path(work)):
            for cache, activations in WAYS:
                good &= compare(path, text, cache, activations, arguments)
            if arguments.llama_perplexity is not None:
                good &= compare_perplexity(path, text, arguments)
    print("all is as it should be" if good else "something differs more than it should")
    return 0 if good else 1


def models(arguments: argparse.Namespace, work: Path) -> Iterator[Path]:
    yield from arguments.models
    if not arguments.models:
        for name in arguments.types.split(","):
            yield gguflow.convert(TINY, work / f"{name}.gguf", type=name).output


def compare(path: Path, text: str, cache: str, activations: str, arguments: argparse.Namespace) -> bool:
    """Print the figures of one way; whether they are good."""
    places: list[Place] = []
    squares, largest, spread = 0.0, 0.0, 0.0
    n_done = 0
    with gguflow.open(path) as model, Llama(path, cache=cache, n_context=arguments.context) as llama_cpp:
        transformer, tokenizer = (
            Transformer(model, activations=activations),
            Tokenizer(model.metadata, model.path),
        )
        is_exact = all(
            tensor.format is not None and tensor.format.key in ("f32", "f16") for tensor in model.values()
        )
        tokens = tokenizer.encode(text)[: arguments.positions]
        if tokens != llama_cpp.tokenize(text)[: arguments.positions]:
            print(f"{path.stem}: the tokens differ")
            return False
        for first in range(0, len(tokens), arguments.context):
            sequence = tokens[first : first + arguments.context]
            theirs, ours = llama_cpp.logits(sequence), logits(transformer, sequence, cache)
            places += differences(theirs, ours, first)
            squares += float(np.square(theirs - ours).mean()) * len(sequence)
            spread += float(theirs.var()) * len(sequence)
            largest = max(largest, float(np.abs(theirs - ours).max()))
            n_done += len(sequence)
    equal = 1 - len(places) / n_done
    widest = max((place.gap for place in places), default=0.0)
    print(
        f"{path.stem:24} cache {cache:5} activations {activations:8} {n_done} positions: best tokens "
        f"equal {equal:8.2%}, widest tie {widest:.3f}; "
        f"logits differ by {np.sqrt(squares / n_done):.4f} (root mean square), {largest:.3f} at most; "
        f"they spread {np.sqrt(spread / n_done):.2f}"
    )
    for place in places:
        their_token, our_token = (
            repr(tokenizer.piece(token).decode("utf-8", "replace")) for token in place.tokens
        )
        print(
            f"    {place.position:5} llama.cpp {their_token:16} {place.theirs[0]:9.4f} over "
            f"{place.theirs[1]:9.4f}   "
            f"gguflow {our_token:16} {place.ours[1]:9.4f} over {place.ours[0]:9.4f}"
        )
    return equal >= (LEAST_EQUAL if is_exact else LEAST_EQUAL_ROUNDED) and widest <= NEAR_TIE


def logits(transformer: Transformer, tokens: list[int], cache: str) -> Floats:
    """float32[len(tokens), n_tokens]."""
    kept = transformer.cache(len(tokens), cache)
    pieces = (tokens[first : first + PIECE] for first in range(0, len(tokens), PIECE))
    return np.concatenate([transformer.forward(piece, kept, len(piece)) for piece in pieces])


def differences(theirs: Floats, ours: Floats, first: int) -> Iterator[Place]:
    """The places where the best tokens differ. first: the position of the first row."""
    for i in np.flatnonzero(theirs.argmax(axis=-1) != ours.argmax(axis=-1)):
        a, b = int(theirs[i].argmax()), int(ours[i].argmax())
        yield Place(
            first + int(i),
            (a, b),
            (float(theirs[i, a]), float(theirs[i, b])),
            (float(ours[i, a]), float(ours[i, b])),
        )


def compare_perplexity(path: Path, text: str, arguments: argparse.Namespace) -> bool:
    """Print both perplexities; whether they are near."""
    chunks = arguments.chunks
    command = [
        str(arguments.llama_perplexity),
        "-m",
        str(path),
        "-f",
        str(arguments.file),
        "-c",
        "512",
        "-t",
        "2",
        "--chunks",
        str(chunks),
    ]
    environment = os.environ | {"LD_LIBRARY_PATH": str(arguments.llama_perplexity.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    found = re.search(r"Final estimate: PPL = ([\d.]+) \+/- ([\d.]+)", done.stdout + done.stderr)
    if found is None:
        raise SystemExit(f"{command[0]} says no perplexity:\n{done.stderr[-2000:]}")
    good = True
    for activations in ("float32", "int8"):
        with gguflow.open(path) as model:
            transformer, tokenizer = (
                Transformer(model, activations=activations, threads=2),
                Tokenizer(model.metadata, model.path),
            )
            ours = score(transformer, tokenizer, text, max_chunks=None if chunks < 0 else chunks)
        ratio = ours.perplexity.mean / float(found[1]) - 1
        print(
            f"{path.stem:24} activations {activations:8} {ours.n_chunks} chunks: perplexity "
            f"{ours.perplexity.mean:.4f} ± {ours.perplexity.error:.4f}, "
            f"llama-perplexity {found[1]} ± {found[2]}: {ratio:+.3%}",
            flush=True,
        )
        good &= abs(ratio) <= PERPLEXITY_TOLERANCE
    return good
