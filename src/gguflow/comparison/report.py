"""What a comparison looks like: as text for people, as plain data for JSON."""

from __future__ import annotations

import math
from typing import Any

from gguflow.comparison import Comparison
from gguflow.comparison.measures import TensorMeasures
from gguflow.describe import nbytes_text, table

_SHOWN_NAMES = 5


def data(comparison: Comparison) -> dict[str, Any]:
    """JSON-ready; null for what is infinite (the signal-to-noise ratio of equal tensors)."""
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


def text(comparison: Comparison) -> str:
    """A line for each tensor, one for all together, and what is not in both."""
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
        parts.append(f"{comparison.total.n_non_finite:,} pairs hold NaN or infinity, and count as zero")
    for what, names in (
        (f"only in {comparison.a}", comparison.only_a),
        (f"only in {comparison.b}", comparison.only_b),
        ("of different shapes", comparison.other_shape),
    ):
        if names:
            more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
            parts.append(f"{what}: {', '.join(names[:_SHOWN_NAMES])}{more}")
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
