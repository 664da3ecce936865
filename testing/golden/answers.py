"""What llama.cpp says to the files that were made of the tiny checkpoints: fixtures/llama_answers.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguflow
from gguflow.blocks import block_sizes
from gguflow.container.metadata import Value, ValueType
from gguflow.container.reader import read_header
from testing.llama_answers import Answer, ask

PRE = "tokenizer.ggml.pre"
ANSWERS = Path(__file__).resolve().parents[2] / "fixtures" / "llama_answers.json"


@dataclass(frozen=True)
class Row:
    """peer: the answer to the file of llama.cpp's converter; ours: to gguflow's, where it is another on
    purpose.
    """

    peer: Answer
    ours: Answer | None = None

    @property
    def expected(self) -> Answer:
        """The answer to gguflow's file."""
        return self.ours or self.peer


@dataclass(frozen=True)
class Answers:
    """xllamacpp: the version that answered; rows: by the recipe's name."""

    xllamacpp: str = ""
    rows: Mapping[str, Row] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Answers:
        """Without rows if the file is not there."""
        if not path.exists():
            return cls()
        contents = json.loads(path.read_text(encoding="utf-8"))
        rows = {
            name: Row(*(Answer.of(row[side]) for side in ("peer", "ours") if side in row))
            for name, row in contents["answers"].items()
        }
        return cls(contents["xllamacpp"], rows)

    def write(self, path: Path) -> None:
        """A class to a line."""
        lines = [
            f"  {json.dumps(name)}: {json.dumps(_row(row), ensure_ascii=False)}"
            for name, row in sorted(self.rows.items())
        ]
        head = f'{{\n "xllamacpp": {json.dumps(self.xllamacpp)},\n "answers": {{\n'
        path.write_text(head + ",\n".join(lines) + "\n }\n}\n", encoding="utf-8")


def ask_about(path: Path, pre: Value | None = None) -> Answer:
    """What llama.cpp says to a file, under a neutral name: it has special cases for names with "phi-3".

    path: of the file, beside which another is written.
    pre: its tokenizer.ggml.pre, where it has one; None leaves it.
    """
    metadata = read_header(path, block_sizes).metadata
    assign = [("general.name", Value(ValueType.STRING, "Tiny"))]
    assign += [(PRE, pre)] if pre is not None and PRE in metadata else []
    asked = path.with_name(f"{path.stem}.asked.gguf")
    gguflow.edit(path, assign, output=asked, overwrite=True, threads=1)
    return ask(asked)


def _row(row: Row) -> dict[str, Any]:
    sides = {"peer": row.peer, **({} if row.ours is None else {"ours": row.ours})}
    return {side: _shown(answer) for side, answer in sides.items()}


def _shown(answer: Answer) -> dict[str, Any]:
    """Without what is empty, and without the digest: another processor may round otherwise."""
    fields = {
        "kind": answer.kind,
        "ids": answer.ids,
        "tokens": answer.tokens,
        "numbers": [float(f"{x:.6g}") for x in answer.numbers],
        "message": answer.message,
    }
    return {name: value for name, value in fields.items() if value}
