"""Perplexity of a model on a text, and its divergence from a reference model on the same text.

The text is cut and scored as in llama-perplexity (tools/perplexity/perplexity.cpp), so that the figures can
be compared. Its tokens, with the special tokens that the file wants, are cut into chunks of `context`; the
rest at the end is not read. Each chunk is read separately; if the file wants a first token, it replaces the
chunk's own. The second half is scored: tokens context // 2 + 1 to context - 1 of the chunk, each by the
model's prediction after the token before it.

    perplexity = exp(mean of -log p(token)),    its standard error = perplexity * standard error of that mean
    divergence = mean over the scored positions of sum_t p_reference(t) (log p_reference(t) - log p(t))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gguflow.arrays import Doubles, Floats
from gguflow.errors import UsageError
from gguflow.inference.cache import CacheChoice
from gguflow.inference.tokenizer import Tokenizer
from gguflow.inference.transformer import PIECE, Transformer

Targets = NDArray[np.intp]

ROWS = 32
"""Positions whose probabilities are held at once: 40 MB for a vocabulary of 150,000."""


@dataclass(frozen=True)
class Mean:
    """A mean with its standard error."""

    mean: float
    error: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        array = np.asarray(values)
        error = math.sqrt(float(array.var()) / (len(array) - 1)) if len(array) > 1 else math.nan
        return cls(float(array.mean()), error)


@dataclass(frozen=True)
class Divergence:
    """The divergence of a model from its reference.

    kullback_leibler: in nats.
    same_top: share of positions at which both have the same best token.
    """

    kullback_leibler: Mean
    largest: float
    same_top: float
    reference_perplexity: float


@dataclass(frozen=True)
class Score:
    """The score of a model on a text.

    perplexity: with its standard error.
    n_scored: number of scored tokens.
    n_chunks: number of chunks.
    divergence: from the reference; None without one.
    """

    perplexity: Mean
    n_scored: int
    n_chunks: int
    context: int
    divergence: Divergence | None


def score(
    transformer: Transformer,
    tokenizer: Tokenizer,
    text: str,
    *,
    context: int = 512,
    max_chunks: int | None = None,
    cache: CacheChoice = "f16",
    reference: Transformer | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Score:
    """Score a model on a text, and compare it with a reference that has the same vocabulary.

    context: tokens of a chunk.
    max_chunks: the most chunks to read.
    cache: format of the KV cache, or a function that makes one.
    reference: the model to compare with.
    progress: called after each chunk with (chunks done, number of chunks, perplexity so far).

    Raises UsageError for a context out of range, fewer than two chunks, or a reference with another
    vocabulary, and what `Transformer.forward` raises.
    """
    longest = min(model.sizes.context_length for model in (transformer, reference) if model is not None)
    if not 4 <= context <= longest:
        raise UsageError(f"the context of a chunk must be from 4 to the model's own {longest}, not {context}")
    if reference is not None and reference.sizes.n_tokens != transformer.sizes.n_tokens:
        raise UsageError(
            f"a model with {transformer.sizes.n_tokens} tokens cannot be compared with a reference "
            f"with {reference.sizes.n_tokens}"
        )
    chunks = cut(tokenizer, text, context, max_chunks)
    tally = _Tally()
    for done, chunk in enumerate(chunks, 1):
        ours = _log_probabilities(transformer, chunk, cache)
        if reference is None:
            for targets, log_p in ours:
                tally.add(targets, log_p)
        else:
            for (targets, log_p), (_, log_q) in zip(
                ours, _log_probabilities(reference, chunk, cache), strict=True
            ):
                tally.add(targets, log_p)
                tally.compare(targets, log_p, log_q)
        if progress is not None:
            progress(done, len(chunks), math.exp(float(np.mean(tally.losses))))
    loss = Mean.of(tally.losses)
    perplexity = math.exp(loss.mean)
    divergence = tally.divergence() if reference is not None else None
    return Score(
        Mean(perplexity, perplexity * loss.error), len(tally.losses), len(chunks), context, divergence
    )


@dataclass
class _Tally:
    """The results so far, a number for each scored position.

    losses: -log p(token).
    reference_losses: the same for the reference.
    """

    losses: list[float] = field(default_factory=list)
    reference_losses: list[float] = field(default_factory=list)
    divergences: list[float] = field(default_factory=list)
    n_same_top: int = 0

    def add(self, targets: Targets, log_p: Doubles) -> None:
        """Add positions with the actual tokens int[n] and predictions float64[n, n_tokens]."""
        self.losses += (-log_p[np.arange(len(targets)), targets]).tolist()

    def compare(self, targets: Targets, log_p: Doubles, log_q: Doubles) -> None:
        """Compare predictions with those of the reference, log_q."""
        self.reference_losses += (-log_q[np.arange(len(targets)), targets]).tolist()
        self.divergences += (np.exp(log_q) * (log_q - log_p)).sum(axis=-1).tolist()
        self.n_same_top += int((log_q.argmax(axis=-1) == log_p.argmax(axis=-1)).sum())

    def divergence(self) -> Divergence:
        same_top = self.n_same_top / len(self.divergences)
        return Divergence(
            Mean.of(self.divergences),
            max(self.divergences),
            same_top,
            math.exp(float(np.mean(self.reference_losses))),
        )


def cut(tokenizer: Tokenizer, text: str, context: int, max_chunks: int | None = None) -> list[list[int]]:
    """The chunks of a text, each with the first token that the file wants.

    tokenizer: of the model.
    text: no more of it is tokenized than the chunks need.
    context: tokens of a chunk.
    max_chunks: the most chunks to make; None for all.

    Raises UsageError if there are fewer than two in the text.
    """
    most = None if max_chunks is None else max(max_chunks, 2) * context
    tokens = tokenizer.encode(text, parse_special=False, most=most)
    if len(tokens) < 2 * context:
        raise UsageError(
            f"the text has {len(tokens)} tokens; two chunks of {context} at least are needed to say anything"
        )
    chunks = [tokens[first : first + context] for first in range(0, len(tokens) - context + 1, context)]
    chunks = chunks[:max_chunks]
    if tokenizer.special.adds_bos and tokenizer.special.bos is not None:
        for chunk in chunks:
            chunk[0] = tokenizer.special.bos
    return chunks


def log_softmax(logits: Floats) -> Doubles:
    """Logarithm of softmax over the last axis, in binary64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: Doubles = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _log_probabilities(
    transformer: Transformer, chunk: Sequence[int], new_cache: CacheChoice
) -> Iterator[tuple[Targets, Doubles]]:
    """The scored tokens of a chunk, int[n], and their predictions, float64[n, n_tokens], in pieces."""
    cache = transformer.cache(len(chunk), new_cache) if isinstance(new_cache, str) else new_cache(len(chunk))
    first_scored = len(chunk) // 2
    for first in range(0, len(chunk) - 1, PIECE):
        last = min(first + PIECE, len(chunk) - 1)
        n_outputs = max(0, last - max(first, first_scored))
        logits = transformer.forward(chunk[first:last], cache, n_outputs)
        targets = np.asarray(chunk[last - n_outputs + 1 : last + 1])
        for row in range(0, n_outputs, ROWS):
            yield targets[row : row + ROWS], log_softmax(logits[row : row + ROWS])
