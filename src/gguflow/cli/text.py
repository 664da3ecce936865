"""What the texts and the JSON of several commands are made of: tables, sizes, values."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguflow.errors import FileWarning, Finding, printable

if TYPE_CHECKING:
    from gguflow.container.metadata import Value

_SHOWN_ELEMENTS = 6
_SHOWN_CHARACTERS = 100
_QUOTED_CHARACTERS = 2000


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows in aligned columns under their titles, control characters escaped.

    titles: of the columns.
    rows: one cell for each column.
    right: the columns that are aligned to the right.
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


def path_text(path: Path) -> str:
    """The path of an output: as it is for programs that read stdout, escaped on a terminal.

    path: a result, which may be called after a name in a file.
    """
    return printable(str(path)) if sys.stdout.isatty() else str(path)


def nbytes_text(nbytes: float) -> str:
    """A size in binary units, with four digits.

    nbytes: the size.
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.4g} {unit}"
        nbytes /= 1024
    return f"{nbytes:.4g} TiB"


def value_type_text(value: Value) -> str:
    """The type of a metadata value; of an array, with its length.

    value: of a key.
    """
    if value.element_type is not None:
        return f"{value.element_type.name.lower()}[{len(value.value)}]"
    return value.type.name.lower()


def value_text(value: Value) -> str:
    """A metadata value in one line: the first elements of an array, the beginning of a long string.

    value: of a key.
    """
    if value.element_type is not None:
        shown = ""
        for i, element in enumerate(value.value[:_SHOWN_ELEMENTS]):
            text = (", " if i else "") + _scalar_text(element)
            if len(shown) + len(text) > _SHOWN_CHARACTERS:
                return f"[{shown}, …]" if shown else "[…]"
            shown += text
        return f"[{shown}{', …' if len(value.value) > _SHOWN_ELEMENTS else ''}]"
    shown = _scalar_text(value.value)
    if len(shown) <= _SHOWN_CHARACTERS:
        return shown
    return f"{shown[:_SHOWN_CHARACTERS]}… ({len(shown)} characters)"


def _scalar_text(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.7g}" if isinstance(value, Real) and not isinstance(value, Integral) else str(value)


def finding_data(finding: Finding) -> dict[str, Any]:
    """A finding as JSON-ready data.

    finding: of a file.
    """
    fields = {key: json_ready(value, quoted=True) for key, value in asdict(finding).items()}
    return {
        key: fields[key] for key in ("rule", "severity", "path", "offset", "found", "expected", "message")
    }


def warnings_data(warnings: Iterable[FileWarning]) -> list[dict[str, Any]]:
    """Warnings as JSON-ready data: the file beside the finding's fields.

    warnings: of a model.
    """
    return [{"file": warning.file, **finding_data(warning.finding)} for warning in warnings]


def json_ready(value: Any, *, quoted: bool = False) -> Any:
    """A value from a file as JSON, and any encoder, takes it: lists for arrays, no bytes, no lone surrogates,
    no number that is not finite.

    value: of a metadata key, or what a finding found or expected.
    quoted: for a finding, which must show what is odd about a value: such numbers and characters are spelt
    out (instead of null and the replacement character), and long text is cut.
    """
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value) if quoted else None
    if isinstance(value, (list, tuple)):
        return [json_ready(item, quoted=quoted) for item in value]
    if quoted:
        return _quoted(value.decode("latin-1") if isinstance(value, bytes) else str(value))
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return json_ready(list(value) if isinstance(value, Sequence) else value.tolist())


def _quoted(text: str) -> str:
    text = text if len(text) <= _QUOTED_CHARACTERS else text[:_QUOTED_CHARACTERS] + "…"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
