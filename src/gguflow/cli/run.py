"""`gguflow run`."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING

from gguflow.cli.command import Command
from gguflow.cli.loading import add_inference_options, add_model, load
from gguflow.cli.options import read_text
from gguflow.errors import UsageError

if TYPE_CHECKING:
    from gguflow.inference.generation import Generation

_DESCRIPTION = """\
Generate text from a prompt, in NumPy and on packed weights. This is a reference implementation, to read and
to compare with; llama.cpp is faster. It runs Llama, Qwen2 and Qwen3 models in any block format. The file is
memory-mapped, and only the KV cache takes memory that grows. The prompt and the text go to stdout while the
text is generated; the speed goes to stderr. Without --temperature, the most likely token is taken each
time, and every run gives the same text; with it, tokens are sampled.

The prompt is used as it is. A chat model needs its chat template around it; special tokens in the prompt
(<|im_start|>) are recognized."""

_EPILOG = """\
examples:
  gguflow run model.gguf -p "def fib(n):" -n 64
  gguflow run model.gguf -f prompt.txt --temperature 0.8 --seed 1
  # quantize keys, values and activations as llama.cpp does
  gguflow run model.gguf -p "Once" --cache q8_0 --activations int8"""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command.

    parser: of the command.
    """
    add_model(parser)
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument(
        "-p",
        "--prompt",
        default="",
        metavar="TEXT",
        help="the prompt (default: empty, with only the model's beginning-of-text token)",
    )
    prompt.add_argument("-f", "--file", metavar="FILE", help="read the prompt from a text file")
    parser.add_argument(
        "-n",
        "--n-tokens",
        type=int,
        default=128,
        metavar="N",
        help="maximum number of new tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="0 takes the most likely token; a higher T makes unlikely tokens more frequent (default: 0)",
    )
    parser.add_argument(
        "--top-k",
        type=int,
        default=40,
        metavar="K",
        help="sample from the K most likely tokens; 0 for all (default: %(default)s)",
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=0.95,
        metavar="P",
        help="of these, keep the fewest whose probabilities add up to P (default: %(default)s)",
    )
    parser.add_argument(
        "--min-p",
        type=float,
        default=0.05,
        metavar="P",
        help="of these, keep those at least P times as likely as the best (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="make sampling repeatable (default: each run is different)"
    )
    parser.add_argument("--no-echo", action="store_true", help="print only the new text, not the prompt")
    add_inference_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Generate text and print it.

    arguments: the parsed command line.
    """
    import gguflow
    from gguflow.inference.generation import Generation
    from gguflow.inference.sampling import Sampler

    if arguments.n_tokens < 0:
        raise UsageError(f"-n must be 0 or more, not {arguments.n_tokens}")
    sampler = Sampler(
        arguments.temperature, arguments.top_k, arguments.top_p, arguments.min_p, arguments.seed
    )
    prompt = arguments.prompt if arguments.file is None else read_text(arguments.file)
    with gguflow.open(arguments.model) as model:
        transformer, tokenizer = load(model, arguments)
        generation = Generation(transformer, tokenizer, prompt, arguments.n_tokens, sampler, arguments.cache)
        if not arguments.no_echo:
            _show(prompt)
        try:
            for text in generation:
                _show(text)
        finally:
            if generation.tokens or not arguments.no_echo:
                print(flush=True)
    print(_summary(generation), file=sys.stderr)


def _summary(generation: Generation) -> str:
    """How long the prompt and the new text took, and why it ended."""
    prompt = f"prompt {len(generation.prompt_tokens)} tokens in {generation.prompt_seconds:.2f} s"
    new = f"{len(generation.tokens)} new in {generation.seconds:.2f} s"
    rate = f" ({len(generation.tokens) / generation.seconds:.1f} tokens/s)" if generation.seconds > 0 else ""
    why = {
        "length": "stopped at the limit of -n",
        "end": "the model ended the text",
        "context": "the model's context is full",
    }[generation.stopped]
    return f"gguflow: {prompt}; {new}{rate}; {why}"


def _show(text: str) -> None:
    """Print text at once; on a terminal, control characters are escaped."""
    if sys.stdout.isatty():
        text = _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
    sys.stdout.write(text)
    sys.stdout.flush()


COMMAND = Command(
    name="run",
    order=70,
    summary="generate text from a prompt",
    description=_DESCRIPTION,
    epilog=_EPILOG,
    add_arguments=add_arguments,
    run=run,
)
