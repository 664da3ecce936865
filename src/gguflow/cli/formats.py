"""`gguflow formats`."""

from __future__ import annotations

import argparse
from typing import Any

from gguflow.cli.command import Command
from gguflow.cli.options import print_json
from gguflow.cli.text import table

_DESCRIPTION = """\
List the block formats, with id, weights and bytes per block, bits per weight, signal-to-noise ratio on
Gaussian weights and formula; then the encodings of the parametric family."""

FORMAT_TITLES = ("format", "id", "weights", "bytes", "bits/weight", "SNR dB", "formula", "")
ENCODING_TITLES = ("encoding", "bits/weight", "SNR dB", "formula", "")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command.

    parser: of the command.
    """
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Print all formats.

    arguments: the parsed command line.
    """
    if arguments.json:
        print_json(formats_data())
    else:
        print(formats_text())


def formats_data() -> list[dict[str, Any]]:
    """Every block format, then every preset of the parametric family, as JSON-ready data. A preset has no
    ggml id, and no bytes per block.
    """
    from gguflow.parametric import about
    from gguflow.parametric.names import presets

    return _block_formats_data() + [
        {
            "name": name,
            "id": None,
            "block_size": e.block or None,
            "type_size": None,
            "bits_per_weight": e.bits_per_weight,
            "formula": about.formula(e),
            "snr": about.SNR.get(name),
            "importance": "optional" if e.is_learned else "unused",
        }
        for name, e in presets().items()
    ]


def _block_formats_data() -> list[dict[str, Any]]:
    from gguflow import blocks

    return [
        {
            "name": f.key,
            "id": f.id,
            "block_size": f.block_size,
            "type_size": f.type_size,
            "bits_per_weight": f.bits_per_weight,
            "formula": f.formula,
            "snr": f.snr,
            "importance": f.importance,
        }
        for f in blocks.FORMATS.values()
    ]


def formats_text() -> str:
    """Every block format and every preset of the parametric family, as tables."""
    block_formats = table(FORMAT_TITLES, formats_rows(), right=(1, 2, 3, 4, 5))
    encodings = table(ENCODING_TITLES, encodings_rows(), right=(1, 2))
    more = (
        "each encoding can be followed by +zstd or +outliers=0.5%; "
        "sb:bits=4,block=32,... is any other member of the family"
    )
    return f"{block_formats}\n\n{encodings}\n\n{more}"


def formats_rows() -> list[tuple[str, ...]]:
    """Every block format as a row of its table."""
    from gguflow import blocks

    return [
        (
            f.name,
            str(f.id),
            str(f.block_size),
            str(f.type_size),
            f"{f.bits_per_weight:g}",
            "" if f.snr is None else f"{f.snr:.1f}",
            f.formula,
            f.summary + {"required": "; needs importance", "optional": "", "unused": ""}[f.importance],
        )
        for f in blocks.FORMATS.values()
    ]


def encodings_rows() -> list[tuple[str, ...]]:
    """Every preset of the parametric family as a row of its table."""
    from gguflow.parametric import about
    from gguflow.parametric.names import presets

    return [
        (
            name,
            f"{e.bits_per_weight:.4g}",
            f"{about.SNR[name]:.1f}" if name in about.SNR else "",
            about.formula(e),
            about.summary(e),
        )
        for name, e in presets().items()
    ]


COMMAND = Command(
    name="formats",
    order=90,
    summary="list the block formats and encodings",
    description=_DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
)
