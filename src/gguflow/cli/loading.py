"""What `run` and `perplexity` share: the options for running a model, and loading it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gguflow.inference.tokenizer import Tokenizer
    from gguflow.inference.transformer import Transformer
    from gguflow.runtime import Model


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the argument MODEL."""
    parser.add_argument(
        "model", metavar="MODEL", help="a .gguf file (the first, if the model is split into shards)"
    )


def add_inference_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `load` needs, and --cache."""
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="number of threads for multiplying by the weights (default: all processors)",
    )
    parser.add_argument(
        "--cache",
        choices=("f16", "q8_0"),
        default="f16",
        help="format of the KV cache (default: %(default)s)",
    )
    parser.add_argument(
        "--activations",
        choices=("float32", "int8"),
        default="float32",
        help="format of the activations that are multiplied by the weights; llama.cpp uses int8 "
        "(default: %(default)s)",
    )


def load(model: Model, arguments: argparse.Namespace) -> tuple[Transformer, Tokenizer]:
    """The transformer and the tokenizer of an open model.

    model: open.
    arguments: the options of `add_inference_options`.
    """
    from gguflow.inference.tokenizer import Tokenizer
    from gguflow.inference.transformer import Transformer

    transformer = Transformer(model, activations=arguments.activations, threads=arguments.threads)
    return transformer, Tokenizer(model.metadata, model.path)
