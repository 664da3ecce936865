"""Plots a comparison: for each kind of tensor, a bar for each layer.

HTML is a single file with SVG bars; PNG needs matplotlib.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path

from gguflow.comparison import Comparison, TensorComparison
from gguflow.container.output_file import OutputFile
from gguflow.errors import UsageError

_HEIGHT, _BAR, _GAP = 120, 14, 4
"""Pixels: height of a chart, width of a bar, gap between bars."""

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 14px system-ui, sans-serif; margin: 2em; color: #222; background: #fff; }}
h1 {{ font-size: 1.2em; }} h2 {{ font-size: 1em; margin: 1.2em 0 0.2em; }}
svg {{ display: block; overflow: visible; }} line {{ stroke: #ccc; }} text {{ font-size: 9px; fill: #555; }}
rect {{ fill: #4878a8; }} rect.exact {{ fill: #a8c8a0; }} rect:hover {{ fill: #d08030; }}
</style></head><body><h1>{title}</h1><p>{summary}</p>{charts}</body></html>
"""


WRITERS = (".html", ".htm", ".png")
"""The suffixes of file names that `write` accepts."""


def write(comparison: Comparison, path: str | Path) -> list[str]:
    """Write the plot, as HTML or PNG by the suffix of `path`, replacing an existing file atomically. Returns
    what could not be kept of that file, in sentences.

    Raises UsageError, StorageError.
    """
    content = (
        picture(comparison)
        if str(path).endswith(".png")
        else page(comparison).encode("utf-8", "backslashreplace")
    )
    with OutputFile(Path(path), len(content), overwrite=True) as file:
        file.write(content, 0)
        file.commit()
    return file.notes


def picture(comparison: Comparison) -> bytes:
    """The plot as PNG. Raises UsageError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(
            "--plot needs matplotlib to write PNG (pip install 'gguflow[plot]'); HTML needs nothing else"
        ) from None
    kinds = _by_kind(comparison.tensors)
    top = _scale(comparison)
    figure = Figure(figsize=(10, 1 + 1.4 * len(kinds)), layout="constrained")
    figure.suptitle(f"{comparison.b} against {comparison.a}: signal to noise, dB".replace("$", r"\$"))
    for axes, (kind, tensors) in zip(
        figure.subplots(max(len(kinds), 1), squeeze=False).flat, kinds.items(), strict=False
    ):
        exact = [tensor.measures.is_exact for _, tensor in tensors]
        heights = [
            top if same else max(tensor.measures.snr, 0.0)
            for same, (_, tensor) in zip(exact, tensors, strict=True)
        ]
        axes.bar(
            [number for number, _ in tensors],
            heights,
            color=["#a8c8a0" if same else "#4878a8" for same in exact],
        )
        axes.set_ylim(0, top)
        axes.set_title(kind.replace("$", r"\$"), loc="left", fontsize=9)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return content.getvalue()


def _scale(comparison: Comparison) -> float:
    """The top of the common scale, in dB."""
    finite = [t.measures.snr for t in comparison.tensors if math.isfinite(t.measures.snr)]
    return max([10.0, *(10 * math.ceil(snr / 10) for snr in finite)])


def page(comparison: Comparison) -> str:
    """The plot as HTML: signal to noise in dB on a common scale; equal tensors have pale full bars."""
    top = _scale(comparison)
    title = html.escape(f"{comparison.b} against {comparison.a}")
    total = comparison.total
    overall = (
        "all equal"
        if total.is_exact
        else f"signal to noise {total.snr:.2f} dB, relative error {total.relative_error:.3e}"
    )
    counts = f"{len(comparison.tensors)} tensors, {total.n_weights:,} weights"
    summary = f"{counts}: {overall}. Bars: signal to noise in dB, from 0 to {top:.0f}."
    charts = "".join(_chart(kind, tensors, top) for kind, tensors in _by_kind(comparison.tensors).items())
    return _PAGE.format(title=title, summary=summary, charts=charts)


def _by_kind(tensors: Sequence[TensorComparison]) -> dict[str, list[tuple[int, TensorComparison]]]:
    """Tensors by name without the layer's number, with that number; others together, numbered in order."""
    kinds: dict[str, list[tuple[int, TensorComparison]]] = {}
    for tensor in tensors:
        match = re.fullmatch(r"(.*?\.)(\d+)(\..*)", tensor.name)
        if match:
            kinds.setdefault(f"{match[1]}*{match[3]}", []).append((int(match[2]), tensor))
        else:
            others = kinds.setdefault("outside of layers", [])
            others.append((len(others), tensor))
    return {kind: sorted(found, key=lambda item: item[0]) for kind, found in kinds.items()}


def _chart(kind: str, tensors: Sequence[tuple[int, TensorComparison]], top: float) -> str:
    width = len(tensors) * (_BAR + _GAP) + 40
    lines = [f'<h2>{html.escape(kind)}</h2><svg width="{width}" height="{_HEIGHT + 16}" role="img">']
    for mark in (0.0, top / 2, top):
        y = _HEIGHT * (1 - mark / top)
        lines.append(f'<line x1="28" x2="{width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text x="0" y="{y + 3:.1f}">{mark:.0f}</text>')
    for i, (number, tensor) in enumerate(tensors):
        x = 30 + i * (_BAR + _GAP)
        snr = tensor.measures.snr
        height = _HEIGHT * min(max(snr, 0.0), top) / top if not math.isnan(snr) else 0.0
        shown = (
            "equal"
            if tensor.measures.is_exact
            else f"{snr:.2f} dB, relative error {tensor.measures.relative_error:.3e}"
        )
        label = html.escape(f"{tensor.name}: {' to '.join(tensor.formats)}, {shown}")
        style = ' class="exact"' if tensor.measures.is_exact else ""
        place = f'x="{x}" y="{_HEIGHT - height:.1f}" width="{_BAR}" height="{height:.1f}"'
        lines.append(f"<rect{style} {place}><title>{label}</title></rect>")
        lines.append(f'<text x="{x + _BAR / 2:.0f}" y="{_HEIGHT + 12}" text-anchor="middle">{number}</text>')
    return "".join(lines) + "</svg>"
