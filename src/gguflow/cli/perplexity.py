"""`gguflow perplexity`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING

from gguflow.cli.command import Command
from gguflow.cli.loading import add_inference_options, add_model, load
from gguflow.cli.options import print_json, read_text
from gguflow.errors import UsageError

if TYPE_CHECKING:
    from gguflow.inference.perplexity import Score

_DESCRIPTION = """\
Measure how well a model predicts a text. The perplexity is e to the mean of -log p(token); it is printed
with its standard error. Lower is better, and what counts is the difference between two models on the same
text. The text is cut and scored as llama-perplexity does: into chunks of --context tokens, each of which is
read on its own, and its second half scored. The text must be at least two chunks long.

--reference OTHER.gguf also measures how far the model's predictions are from those of OTHER, usually the
same model before quantization: the mean Kullback-Leibler divergence (0 if they are the same), and how often
both models have the same most likely token. For this, a much shorter text is enough."""

_EPILOG = """\
examples:
  gguflow perplexity model-Q4_K_M.gguf -f wiki.test.raw
  gguflow perplexity model-Q4_K_M.gguf -f wiki.test.raw --reference model-F16.gguf --chunks 20 --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command.

    parser: of the command.
    """
    add_model(parser)
    parser.add_argument("-f", "--file", required=True, metavar="FILE", help="the text, in UTF-8")
    parser.add_argument(
        "--context", type=int, default=512, metavar="N", help="tokens in a chunk (default: %(default)s)"
    )
    parser.add_argument("--chunks", type=int, metavar="N", help="read at most N chunks (default: all)")
    parser.add_argument(
        "--reference",
        metavar="OTHER.gguf",
        help="also measure the divergence from this model, which must have the same vocabulary",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    add_inference_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Score a text and print the result.

    arguments: the parsed command line.
    """
    import gguflow
    from gguflow.inference import perplexity

    if arguments.chunks is not None and arguments.chunks < 1:
        raise UsageError(f"--chunks must be 1 or more, not {arguments.chunks}")
    text = read_text(arguments.file)
    with (
        gguflow.open(arguments.model) as model,
        gguflow.open(arguments.reference or arguments.model) as other,
    ):
        transformer, tokenizer = load(model, arguments)
        reference = None
        if arguments.reference is not None:
            reference, vocabulary = load(other, arguments)
            if vocabulary.texts != tokenizer.texts:
                raise UsageError(
                    f"{arguments.reference} and {arguments.model} have different vocabularies: "
                    "their probabilities cannot be compared"
                )
        score = perplexity.score(
            transformer,
            tokenizer,
            text,
            context=arguments.context,
            max_chunks=arguments.chunks,
            cache=arguments.cache,
            reference=reference,
            progress=None if arguments.quiet else _show_progress,
        )
    if arguments.json:
        print_json(dataclasses.asdict(score))
    else:
        print(_score_text(score))


def _show_progress(done: int, n_chunks: int, so_far: float) -> None:
    """One line that is overwritten on a terminal; elsewhere, a line for every ten chunks."""
    text = f"{done}/{n_chunks} chunks, perplexity {so_far:.4f}"
    if sys.stderr.isatty():
        print(f"\r{text}", end="\n" if done == n_chunks else "", file=sys.stderr, flush=True)
    elif done == n_chunks or done % 10 == 0:
        print(text, file=sys.stderr, flush=True)


def _score_text(score: Score) -> str:
    scored = f"{score.n_scored} tokens scored in {score.n_chunks} chunks of {score.context}"
    text = f"perplexity {score.perplexity.mean:.4f} ± {score.perplexity.error:.4f}  ({scored})"
    if score.divergence is None:
        return text
    far = score.divergence
    return f"""{text}
perplexity of the reference {far.reference_perplexity:.4f}
divergence {far.kullback_leibler.mean:.6f} ± {far.kullback_leibler.error:.6f} nats, maximum {far.largest:.4f}
same most likely token {100 * far.same_top:.2f} %"""


COMMAND = Command(
    name="perplexity",
    order=80,
    summary="measure how well a model predicts a text",
    description=_DESCRIPTION,
    epilog=_EPILOG,
    add_arguments=add_arguments,
    run=run,
)
