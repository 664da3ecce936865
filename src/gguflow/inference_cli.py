"""The commands that run a model, `gguflow run` and `gguflow perplexity`: their options, and what they print."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from typing import TYPE_CHECKING, Any

from gguflow.errors import UsageError

if TYPE_CHECKING:
    from gguflow.inference.generation import Generation
    from gguflow.inference.perplexity import Score
    from gguflow.inference.tokenizer import Tokenizer
    from gguflow.inference.transformer import Transformer
    from gguflow.runtime import Model

_RUN = """\
Let a model go on with a text, in NumPy and on packed weights: a reference to read and to compare with, for Llama, Qwen2 and Qwen3 in any block format
(llama.cpp is faster). The file is mapped; memory grows by the cache of keys and values only. The text appears on stdout as it is made, after the
prompt; speed on stderr. Without --temperature the likeliest token is taken each time, so that runs repeat; with it, one is drawn.

The prompt is taken as it is: a chat model wants its template around it, and special tokens in the prompt (<|im_start|>) are taken as such."""

_RUN_EPILOG = """\
examples:
  gguflow run model.gguf -p "def fib(n):" -n 64
  gguflow run model.gguf -f prompt.txt --temperature 0.8 --seed 1
  gguflow run model.gguf -p "Once" --cache q8_0 --activations int8    what llama.cpp does to keys, values and activations"""

_PERPLEXITY = """\
Say how well a model predicts a text: the perplexity, which is e to the mean of -log p(token), with its standard error. Lower is better; what counts
is the difference between two models on one text. The text is cut and scored as llama-perplexity does it: chunks of --context tokens, each read on
its own, of which the second half is scored. The text must have two chunks at least.

--reference OTHER.gguf also says how far the model's predictions are from those of OTHER, usually the model before it was quantized: the mean
Kullback-Leibler divergence (0: the same), and how often both have the same best token. It needs a far shorter text than a perplexity."""

_PERPLEXITY_EPILOG = """\
examples:
  gguflow perplexity model-Q4_K_M.gguf -f wiki.test.raw
  gguflow perplexity model-Q4_K_M.gguf -f wiki.test.raw --reference model-F16.gguf --chunks 20 --json"""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def add_commands(commands: Any) -> None:
    """Put `run` and `perplexity` among the commands of argparse."""
    raw = argparse.RawDescriptionHelpFormatter
    run = commands.add_parser(
        "run", help="let a model go on with a text", description=_RUN, epilog=_RUN_EPILOG, formatter_class=raw
    )
    run.add_argument("model", metavar="MODEL", help="a .gguf file (of several shards, the first)")
    prompt = run.add_mutually_exclusive_group()
    prompt.add_argument(
        "-p",
        "--prompt",
        default="",
        metavar="TEXT",
        help="what to go on with (default: nothing but the model's first token)",
    )
    prompt.add_argument("-f", "--file", metavar="FILE", help="a text file that holds the prompt")
    run.add_argument(
        "-n",
        "--n-tokens",
        type=int,
        default=128,
        metavar="N",
        help="new tokens at most (default: %(default)s)",
    )
    run.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="0 takes the likeliest token; more draws more freely (default: 0)",
    )
    run.add_argument(
        "--top-k",
        type=int,
        default=40,
        metavar="K",
        help="draw among the K likeliest; 0 for all (default: %(default)s)",
    )
    run.add_argument(
        "--top-p",
        type=float,
        default=0.95,
        metavar="P",
        help="of these, the fewest that together have P (default: %(default)s)",
    )
    run.add_argument(
        "--min-p",
        type=float,
        default=0.05,
        metavar="P",
        help="of these, those with P times the best's or more (default: %(default)s)",
    )
    run.add_argument(
        "--seed", type=int, metavar="N", help="repeat what was drawn (default: another run, another text)"
    )
    run.add_argument("--no-echo", action="store_true", help="print the new text only, without the prompt")
    _add_computing(run)
    run.set_defaults(run=_run)

    perplexity = commands.add_parser(
        "perplexity",
        help="say how well a model predicts a text",
        description=_PERPLEXITY,
        epilog=_PERPLEXITY_EPILOG,
        formatter_class=raw,
    )
    perplexity.add_argument("model", metavar="MODEL", help="a .gguf file (of several shards, the first)")
    perplexity.add_argument("-f", "--file", required=True, metavar="FILE", help="the text, UTF-8")
    perplexity.add_argument(
        "--context", type=int, default=512, metavar="N", help="tokens of a chunk (default: %(default)s)"
    )
    perplexity.add_argument("--chunks", type=int, metavar="N", help="read N chunks at most (default: all)")
    perplexity.add_argument(
        "--reference",
        metavar="OTHER.gguf",
        help="a model with the same vocabulary to measure the divergence from",
    )
    perplexity.add_argument("--json", action="store_true", help="print the figures as JSON")
    perplexity.add_argument("-q", "--quiet", action="store_true", help="no progress")
    _add_computing(perplexity)
    perplexity.set_defaults(run=_perplexity)


def _add_computing(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads for products with the weights (default: all processors)",
    )
    command.add_argument(
        "--cache",
        choices=("f16", "q8_0"),
        default="f16",
        help="how keys and values are kept (default: %(default)s)",
    )
    activations = command.add_argument("--activations", choices=("float32", "int8"), default="float32")
    activations.help = "what weights are multiplied with; int8 as llama.cpp does (default: %(default)s)"


def _run(arguments: argparse.Namespace) -> None:
    import gguflow
    from gguflow.inference.generation import Generation
    from gguflow.inference.sampling import Sampler

    if arguments.n_tokens < 0:
        raise UsageError(f"-n is 0 or more, not {arguments.n_tokens}")
    sampler = Sampler(
        arguments.temperature, arguments.top_k, arguments.top_p, arguments.min_p, arguments.seed
    )
    prompt = arguments.prompt if arguments.file is None else _text(arguments.file)
    with gguflow.open(arguments.model) as model:
        transformer, tokenizer = _loaded(model, arguments)
        generation = Generation(transformer, tokenizer, prompt, arguments.n_tokens, sampler, arguments.cache)
        if not arguments.no_echo:
            _show(prompt)
        try:
            for text in generation:
                _show(text)
        finally:
            if generation.tokens or not arguments.no_echo:
                print(flush=True)
    print(_speed(generation), file=sys.stderr)


def _speed(generation: Generation) -> str:
    """What took how long, and why it ended."""
    prompt = f"prompt {len(generation.prompt_tokens)} tokens in {generation.prompt_seconds:.2f} s"
    new = f"{len(generation.tokens)} new in {generation.seconds:.2f} s"
    rate = f" ({len(generation.tokens) / generation.seconds:.1f} tokens/s)" if generation.seconds > 0 else ""
    why = {
        "length": "as many as asked for",
        "end": "the model ended the text",
        "context": "the model's context is full",
    }[generation.stopped]
    return f"gguflow: {prompt}; {new}{rate}; {why}"


def _perplexity(arguments: argparse.Namespace) -> None:
    import gguflow
    from gguflow.inference import perplexity

    if arguments.chunks is not None and arguments.chunks < 1:
        raise UsageError(f"--chunks is 1 or more, not {arguments.chunks}")
    text = _text(arguments.file)
    with (
        gguflow.open(arguments.model) as model,
        gguflow.open(arguments.reference or arguments.model) as other,
    ):
        transformer, tokenizer = _loaded(model, arguments)
        reference = None
        if arguments.reference is not None:
            reference, vocabulary = _loaded(other, arguments)
            if vocabulary.texts != tokenizer.texts:
                raise UsageError(
                    f"{arguments.reference} has another vocabulary than {arguments.model}: their probabilities do not compare"
                )
        score = perplexity.score(
            transformer,
            tokenizer,
            text,
            context=arguments.context,
            max_chunks=arguments.chunks,
            cache=arguments.cache,
            reference=reference,
            progress=None if arguments.quiet else _progress,
        )
    print(json.dumps(dataclasses.asdict(score), indent=2) if arguments.json else _score_text(score))


def _progress(done: int, n_chunks: int, so_far: float) -> None:
    end = "\n" if done == n_chunks else ""
    if sys.stderr.isatty():
        print(f"\r{done}/{n_chunks} chunks, perplexity {so_far:.4f}", end=end, file=sys.stderr, flush=True)
    elif done == n_chunks or done % 10 == 0:
        print(f"{done}/{n_chunks} chunks, perplexity {so_far:.4f}", file=sys.stderr, flush=True)


def _score_text(score: Score) -> str:
    scored = f"{score.n_scored} tokens of {score.n_chunks} chunks of {score.context}"
    text = f"perplexity {score.perplexity.mean:.4f} ± {score.perplexity.error:.4f}  ({scored})"
    if score.divergence is None:
        return text
    far = score.divergence
    return f"""{text}
perplexity of the reference {far.reference_perplexity:.4f}
divergence {far.kullback_leibler.mean:.6f} ± {far.kullback_leibler.error:.6f} nats, at most {far.largest:.4f}
same best token {100 * far.same_top:.2f} %"""


def _loaded(model: Model, arguments: argparse.Namespace) -> tuple[Transformer, Tokenizer]:
    from gguflow.inference.tokenizer import Tokenizer
    from gguflow.inference.transformer import Transformer
    from gguflow.platform import available_cpus

    threads = available_cpus() if arguments.threads is None else arguments.threads
    return Transformer(model, activations=arguments.activations, threads=threads), Tokenizer(
        model.metadata, model.path
    )


def _text(path: str) -> str:
    """A text file as it is, line ends too."""
    from gguflow.platform import storage_errors

    with storage_errors("read", path), open(path, encoding="utf-8", newline="") as file:
        try:
            return file.read()
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is not UTF-8 text: {error}") from error


def _show(text: str) -> None:
    """Text as it comes; on a terminal, control characters are shown rather than obeyed."""
    if sys.stdout.isatty():
        text = _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
    sys.stdout.write(text)
    sys.stdout.flush()
