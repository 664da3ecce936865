"""`gguflow compare`."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from gguflow.cli.command import Command
from gguflow.cli.options import add_follow_links, add_io, add_threads, print_json
from gguflow.cli.text import nbytes_text, table
from gguflow.cli.writing import print_notes
from gguflow.errors import UsageError, listed, printable

if TYPE_CHECKING:
    from gguflow.comparison import Comparison
    from gguflow.comparison.measures import TensorMeasures

_DESCRIPTION = """\
Compare two models tensor by tensor: root mean square error (RMSE), relative error (norm of the difference
divided by the norm of A), signal-to-noise ratio (SNR) in dB, cosine similarity, the rows with the largest
relative error, and sizes. Checkpoints and GGUF files are compared under common names and in a common row
order."""

_SHOWN_NAMES = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command.

    parser: of the command.
    """
    parser.add_argument(
        "a",
        metavar="A",
        help="the reference model: .gguf, .safetensors, *.index.json or a checkpoint directory",
    )
    parser.add_argument("b", metavar="B", help="the model to compare with it, in any of these forms")
    add_threads(parser)
    add_io(parser)
    add_follow_links(parser)
    parser.add_argument(
        "--plot",
        metavar="FILE",
        help="also draw a bar chart by layer for each kind of tensor, to FILE (.html or .png), replacing an "
        "existing file",
    )
    parser.add_argument("--json", action="store_true", help="print the measures of every tensor as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Compare two models, and print or draw how far they are apart.

    arguments: the parsed command line.
    """
    from gguflow import comparison
    from gguflow.comparison import plot

    if arguments.plot is not None and not arguments.plot.endswith(plot.WRITERS):
        raise UsageError(f"--plot needs a name that ends in .html or .png, not {arguments.plot}")
    found = comparison.compare(
        arguments.a,
        arguments.b,
        threads=arguments.threads,
        io=arguments.io,
        follow_links=arguments.follow_links,
    )
    if arguments.plot is not None:
        print_notes(plot.write(found, arguments.plot))
    if arguments.json:
        print_json(comparison_data(found))
    else:
        print(comparison_text(found))


def comparison_data(comparison: Comparison) -> dict[str, Any]:
    """A comparison as JSON-ready data, with null for infinity (the signal-to-noise ratio of equal tensors).

    comparison: of two models.
    """
    return {
        "a": str(comparison.a),
        "b": str(comparison.b),
        "tensors": [
            {
                "name": tensor.name,
                "shape": list(tensor.shape),
                "format_a": tensor.formats[0],
                "format_b": tensor.formats[1],
                "nbytes_a": tensor.nbytes[0],
                "nbytes_b": tensor.nbytes[1],
                **_measures(tensor.measures),
                "worst_rows": [
                    {"row": row.index, "relative_error": _finite(row.relative_error)}
                    for row in tensor.measures.worst_rows
                ],
            }
            for tensor in comparison.tensors
        ],
        "only_a": list(comparison.only_a),
        "only_b": list(comparison.only_b),
        "other_shape": list(comparison.other_shape),
        "total": _measures(comparison.total)
        | {"nbytes_a": _nbytes(comparison, 0), "nbytes_b": _nbytes(comparison, 1)},
    }


def comparison_text(comparison: Comparison) -> str:
    """A line for each tensor, one for all of them, and the tensors that could not be compared.

    comparison: of two models.
    """
    rows = [
        (
            tensor.name,
            tensor.formats[0] if tensor.formats[0] == tensor.formats[1] else " -> ".join(tensor.formats),
            nbytes_text(tensor.nbytes[1]),
            *_numbers(tensor.measures),
            ", ".join(str(row.index) for row in tensor.measures.worst_rows[:3]),
        )
        for tensor in comparison.tensors
    ]
    rows.append(("all", "", nbytes_text(_nbytes(comparison, 1)), *_numbers(comparison.total), ""))
    titles = ("tensor", "formats", "size", "RMSE", "relative error", "SNR dB", "cosine", "worst rows")
    parts = [table(titles, rows, right=(2, 3, 4, 5, 6))]
    sizes = f"{nbytes_text(_nbytes(comparison, 0))} -> {nbytes_text(_nbytes(comparison, 1))}"
    parts.append(f"{comparison.total.n_weights:,} weights in {len(comparison.tensors)} tensors; {sizes}")
    if comparison.total.n_non_finite:
        n = comparison.total.n_non_finite
        parts.append(f"{n:,} pairs of weights contain NaN or infinity; their errors count as zero")
    for what, names in (
        (f"only in {printable(str(comparison.a))}", comparison.only_a),
        (f"only in {printable(str(comparison.b))}", comparison.only_b),
        ("with different shapes", comparison.other_shape),
    ):
        if names:
            parts.append(f"{what}: {listed(names, _SHOWN_NAMES)}")
    return "\n".join(parts)


def _measures(measures: TensorMeasures) -> dict[str, Any]:
    return {
        "n_weights": measures.n_weights,
        "n_non_finite": measures.n_non_finite,
        "rmse": _finite(measures.rmse),
        "relative_error": _finite(measures.relative_error),
        "snr_db": _finite(measures.snr),
        "cosine": _finite(measures.cosine),
        "max_error": _finite(measures.max_error),
        "is_exact": measures.is_exact,
    }


def _numbers(measures: TensorMeasures) -> tuple[str, str, str, str]:
    if measures.is_exact:
        return "0", "0", "exact", "1"
    return (
        f"{measures.rmse:.3e}",
        f"{measures.relative_error:.3e}",
        f"{measures.snr:.2f}",
        f"{measures.cosine:.6f}",
    )


def _nbytes(comparison: Comparison, side: int) -> int:
    return sum(tensor.nbytes[side] for tensor in comparison.tensors)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


COMMAND = Command(
    name="compare",
    order=30,
    summary="compare the weights of two models",
    description=_DESCRIPTION,
    add_arguments=add_arguments,
    run=run,
)
