"""`gguflow export`."""

from __future__ import annotations

import argparse

from gguflow.cli.command import Command
from gguflow.cli.writing import add_writing_options, write

_DESCRIPTION = """\
Decode the weights of a GGUF file and write them as safetensors. For a known architecture, tensor names and
row order are those of the checkpoint that transformers loads (one tensor per expert); otherwise the names
of the GGUF file are kept. Configuration and tokenizer are not written: take them from the original
checkpoint.

--to selects what happens to tensors that are encoded as nf4, fp4, int8 or int4 (`gguflow convert -t
nf4_b64`):
  safetensors            all weights are decoded
  bnb                    nf4 and fp4 are written as bitsandbytes stores them, with the same codes and scales
  safetensors-quantized  int8_b128, int8_row and int4_b128 are written as codes (I8, or two to a byte in U8, \
high nibble first) and NAME.__scales__ (F32)

To load the output of --to bnb with transformers, add to config.json:
  "quantization_config": {
    "quant_method": "bitsandbytes",
    "load_in_4bit": true,
    "bnb_4bit_quant_type": "nf4"
  }"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command.

    parser: of the command.
    """
    parser.add_argument(
        "source", metavar="FILE", help="a .gguf file (the first, if the model is split into shards)"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        required=True,
        help="a *.safetensors file, or a directory in which to write model.safetensors",
    )
    parser.add_argument(
        "--to",
        choices=("safetensors", "bnb", "safetensors-quantized"),
        default="safetensors",
        metavar="FORM",
        help="safetensors, bnb or safetensors-quantized (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=("f32", "f16", "bf16"),
        default="bf16",
        help="dtype of decoded weights, and of those that bitsandbytes decodes later (default: %(default)s)",
    )
    add_writing_options(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Export a GGUF file.

    arguments: the parsed command line.
    """
    from gguflow import exporting

    write(
        exporting.prepare(arguments.source, arguments.output, dtype=arguments.dtype, form=arguments.to),
        arguments,
    )


COMMAND = Command(
    name="export",
    order=20,
    summary="write the weights of a GGUF file as safetensors",
    description=_DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
    resumes=True,
)
