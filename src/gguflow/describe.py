"""What `gguflow inspect`, `formats`, and the plans and reports of `convert` look like: as text for people, as
plain data for JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

import gguflow.parametric.about as about
from gguflow import blocks
from gguflow.blocks import BlockFormat, block_sizes
from gguflow.container.header import Header, TensorInfo
from gguflow.container.metadata import Value, ValueType
from gguflow.container.payload_keys import payload_names
from gguflow.container.reader import map_file, read_header
from gguflow.container.row_store import TENSOR, is_row_store
from gguflow.conversion.plan import Plan
from gguflow.errors import printable
from gguflow.parametric import descriptor
from gguflow.parametric.names import presets
from gguflow.rows.chunk_rows import ChunkRows
from gguflow.rows.judging import codec_of, judge_rows

if TYPE_CHECKING:
    from gguflow.conversion import Report

_SHOWN_ELEMENTS = 6
_SHOWN_CHARACTERS = 100
_SHOWN_NAMES = 50
_WORTH_CODING = 1.05


def inspect_file(path: str | Path) -> Header:
    """Read and check the header of a GGUF file; errors as `read_header`."""
    return read_header(path, block_sizes)


@dataclass(frozen=True)
class Decoded:
    """What a payload of the parametric family stands for. encoding: its name. shape: NumPy order."""

    encoding: str
    shape: tuple[int, ...]


def decoded(path: str | Path, header: Header) -> dict[str, Decoded]:
    """The payloads of a file by tensor name. Raises a FileError with the broken rule where a descriptor is no
    good.
    """
    if is_row_store(header.metadata):
        return _decoded_rows(header)
    names = payload_names(header.metadata)
    if not names:
        return {}
    content, found = map_file(path), {}
    for tensor in header.tensors:
        if tensor.name in names:
            start = header.data_offset + tensor.offset
            geometry = descriptor.at(content, start, f"{path}: {printable(tensor.name)}").geometry
            found[tensor.name] = Decoded(geometry.encoding.name, geometry.shape)
    return found


def _decoded_rows(header: Header) -> dict[str, Decoded]:
    """A row store in an encoding of the family; nothing where the blocks of its tensor say all."""
    if any(finding.severity == "error" for finding in judge_rows(header, 0)):
        return {}
    codec = codec_of(header)
    return (
        {TENSOR: Decoded(codec.name, (header.tensors[0].dims[1], codec.width))}
        if isinstance(codec, ChunkRows)
        else {}
    )


def header_data(header: Header, payloads: Mapping[str, Decoded] = MappingProxyType({})) -> dict[str, Any]:
    """The header as JSON-ready data: metadata in full, tensors with shape in NumPy order, format, offset in
    the data section, nbytes.

    payloads: those of the file; format and shape are then what they stand for.
    """
    return {
        "metadata": {key: _plain(value.value) for key, value in header.metadata.items()},
        "tensors": [
            {
                "name": tensor.name,
                "shape": list(shape),
                "format": name,
                "offset": tensor.offset,
                "nbytes": _nbytes(tensor.n_weights, tensor.type_id),
            }
            for tensor in header.tensors
            for name, shape in [_form(tensor, payloads)]
        ],
    }


def header_text(
    header: Header, path: str | Path, payloads: Mapping[str, Decoded] = MappingProxyType({})
) -> str:
    """The header for people: metadata with long arrays abridged, then a line for each tensor, then totals.
    payloads: as in `header_data`.
    """
    keys = [(key, _type_name(value), _abridged(value)) for key, value in header.metadata.items()]
    forms = [_form(tensor, payloads) for tensor in header.tensors]
    rows = [
        (
            t.name,
            name,
            "x".join(map(str, shape)),
            nbytes_text(_nbytes(t.n_weights, t.type_id)),
            f"{t.offset:,}",
        )
        for t, (name, shape) in zip(header.tensors, forms, strict=True)
    ]
    n_weights = sum(math.prod(shape) for _, shape in forms)
    nbytes = sum(_nbytes(tensor.n_weights, tensor.type_id) for tensor in header.tensors)
    per_weight = f", {8 * nbytes / n_weights:.3f} bits per weight" if n_weights else ""
    head = f"{path}: GGUF v{header.version}, {len(keys)} keys, {len(rows)} tensors, {n_weights:,} weights{per_weight}"
    tensors = table(("tensor", "format", "shape", "size", "offset"), rows, right=(3, 4))
    return "\n\n".join([head, table(("key", "type", "value"), keys), tensors])


def plan_data(plan: Plan) -> dict[str, Any]:
    """A plan as JSON-ready data: the tensors as `inspect` gives them, why each has its format, and the file's
    size.

    is_bound marks sizes that depend on the data: the most that they can be.
    """
    return {
        "nbytes": plan.nbytes,
        **({"is_bound": True} if plan.is_bound else {}),
        "metadata": {key: _plain(value.value) for key, value in plan.metadata.items()},
        "tensors": [
            {
                "name": planned.name,
                "shape": list(planned.shape),
                "format": planned.format.name,
                "offset": planned.offset,
                "nbytes": planned.nbytes,
                **({"is_bound": True} if planned.is_bound else {}),
                "rule": planned.rule,
            }
            for planned in plan.tensors
        ],
    }


def plan_text(plan: Plan, *, explain: bool = False) -> str:
    """A plan for people. explain: say of each tensor which rule chose its format."""
    titles = ("tensor", "format", "shape", "size", "offset", "rule")
    rows = [
        (
            p.name,
            p.format.name,
            "x".join(map(str, p.shape)),
            "≤ " * p.is_bound + nbytes_text(p.nbytes),
            f"{p.offset:,}",
            p.rule,
        )
        for p in plan.tensors
    ]
    bound = "at most " if plan.is_bound else ""
    columns = len(titles) if explain else len(titles) - 1
    total = (
        f"{plan.architecture}, {plan.recipe}: {len(plan.tensors)} tensors, {plan.n_weights:,} weights, "
        f"{bound}{plan.bits_per_weight:.3f} bits per weight, {bound}{plan.nbytes:,} bytes"
    )
    return table(titles[:columns], [row[:columns] for row in rows], right=(3, 4)) + "\n\n" + total


def importance_text(plan: Plan) -> str:
    """A sentence about tensors that lack importance, "" where all is well."""
    if plan.has_imatrix:
        lacking, why = (
            plan.without_importance,
            "quantized without importance, for the imatrix has no entry of them",
        )
    else:
        lacking, why = (
            [p for p in plan.tensors if p.needs_importance and p.is_encoded],
            "worth nothing without an imatrix",
        )
    names = [printable(planned.name) for planned in lacking[:_SHOWN_NAMES]] + (
        ["…"] if len(lacking) > _SHOWN_NAMES else []
    )
    return f"{plan.recipe}: {len(lacking)} tensors are {why}: {', '.join(names)}" if lacking else ""


def report_text(report: Report) -> str:
    """What a conversion did, for people: a line for each format, the sizes before and after, the time."""
    rows = [
        (
            name,
            str(total.n_tensors),
            f"{total.n_weights:,}",
            f"{8 * total.nbytes / max(total.n_weights, 1):g}",
            nbytes_text(total.nbytes),
        )
        for name, total in report.formats.items()
    ]
    weights_per_second = report.n_weights / max(report.seconds, 1e-9)
    sizes = f"{nbytes_text(report.source_nbytes)} -> {nbytes_text(report.nbytes)}, {report.bits_per_weight:.3f} bits per weight"
    pace = f"{report.seconds:.2f} s, {weights_per_second / 1e6:.0f} M weights/s"
    return (
        table(("format", "tensors", "weights", "bits/weight", "size"), rows, right=(1, 2, 3, 4))
        + f"\n{sizes}; {pace}"
        + _coding_text(report)
    )


def _coding_text(report: Report) -> str:
    """What entropy coding brought, "" without any."""
    if report.coded is None:
        return ""
    before, after = report.coded
    ratio = before / max(after, 1)
    verdict = (
        "" if ratio >= _WORTH_CODING else ": it hardly pays, and rows decode more slowly; leave +zstd out"
    )
    return (
        f"\nentropy coding: {nbytes_text(before)} -> {nbytes_text(after)}, {ratio:.2f} times smaller{verdict}"
    )


def changes_text(changes: Iterable[tuple[str, Value | None, Value | None]]) -> str:
    """What an edit changed: key, what was there, what is there now (None for nothing)."""

    def shown(value: Value | None) -> str:
        return "-" if value is None else f"{_type_name(value)} {_abridged(value)}"

    return table(
        ("key", "was", "is"), [(printable(key), shown(old), shown(new)) for key, old, new in changes]
    )


def formats_data() -> list[dict[str, Any]]:
    """Every block format, then every preset of the parametric family, as JSON-ready data. A preset has no
    ggml id, and no bytes per block.
    """
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


FORMAT_TITLES = ("format", "id", "weights", "bytes", "bits/weight", "SNR dB", "formula", "")


def formats_rows() -> list[tuple[str, ...]]:
    """Every block format as a row of the table that people see."""
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


ENCODING_TITLES = ("encoding", "bits/weight", "SNR dB", "formula", "")


def encodings_rows() -> list[tuple[str, ...]]:
    """Every preset of the parametric family as a row of the table that people see."""
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


def formats_text() -> str:
    """Every block format and every preset of the parametric family, for people. SNR: signal to noise on
    Gaussian weights.
    """
    block_formats = table(FORMAT_TITLES, formats_rows(), right=(1, 2, 3, 4, 5))
    encodings = table(ENCODING_TITLES, encodings_rows(), right=(1, 2))
    return f"{block_formats}\n\n{encodings}\n\neach encoding also with +zstd or +outliers=0.5%; any point of the family as sb:bits=4,block=32,..."


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows in aligned columns under their titles, control characters escaped; the columns in `right` are set
    to the right.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [titles, *rows]) for i in range(len(titles))]
    aligned = [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [titles, *rows]
    ]
    return "\n".join(line.rstrip() for line in aligned)


def nbytes_text(nbytes: float) -> str:
    """A size in binary units, three digits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.4g} {unit}"
        nbytes /= 1024
    return f"{nbytes:.4g} TiB"


def _form(tensor: TensorInfo, payloads: Mapping[str, Decoded]) -> tuple[str, tuple[int, ...]]:
    """Format and shape: of a payload, those of what it stands for."""
    payload = payloads.get(tensor.name)
    return (payload.encoding, payload.shape) if payload else (_format_name(tensor.type_id), tensor.shape)


def _format_name(type_id: int) -> str:
    block_format = blocks.by_id(type_id)
    return block_format.name if block_format else f"type {type_id}"


def _nbytes(n_weights: int, type_id: int) -> int:
    block_format: BlockFormat | None = blocks.by_id(type_id)
    return n_weights // block_format.block_size * block_format.type_size if block_format else 0


def _type_name(value: Value) -> str:
    if value.type is ValueType.ARRAY and value.element_type is not None:
        return f"{value.element_type.name.lower()}[{len(value.value)}]"
    return value.type.name.lower()


def _abridged(value: Value) -> str:
    """A value in a line: the first elements of an array, the beginning of a long string."""
    if value.type is ValueType.ARRAY:
        shown = ""
        for i, element in enumerate(value.value[:_SHOWN_ELEMENTS]):
            text = (", " if i else "") + _scalar_text(element)
            if len(shown) + len(text) > _SHOWN_CHARACTERS:
                return f"[{shown}, …]"
            shown += text
        return f"[{shown}{', …' if len(value.value) > _SHOWN_ELEMENTS else ''}]"
    shown = _scalar_text(value.value)
    return (
        shown
        if len(shown) <= _SHOWN_CHARACTERS
        else f"{shown[:_SHOWN_CHARACTERS]}… ({len(shown)} characters)"
    )


def _scalar_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else _plain_text(value)


def _plain_text(value: Any) -> str:
    return (
        f"{value:.7g}"
        if isinstance(value, float | np.floating)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


def _plain(value: Any) -> Any:
    """As JSON has it: lists for arrays, null for what is not finite."""
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()]
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if isinstance(value, Sequence):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
