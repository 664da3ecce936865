"""All cases, where their files lie, and the manifest that another implementation reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from testing.corpus import bitsandbytes, digests, families, headers, meaning, payloads, safetensors, tensors
from testing.corpus.case import Case

DIRECTORY = Path(__file__).resolve().parents[2] / "fixtures" / "files"
MANIFEST = "manifest.json"
CASES: tuple[Case, ...] = (
    *headers.CASES,
    *tensors.CASES,
    *meaning.CASES,
    *families.CASES,
    *safetensors.CASES,
    *bitsandbytes.CASES,
    *digests.CASES,
    *payloads.CASES,
)


def place(case: Case) -> str:
    """The file of a case, relative to DIRECTORY. Where its name or its neighbours matter, it has a directory
    of its own.
    """
    alone = not case.name and not case.siblings
    return f"{case.kind}/{case.id}{case.suffix}" if alone else f"{case.kind}/{case.id}/{case.name}"


def files(case: Case) -> Iterator[tuple[str, bytes]]:
    """All files of a case, its own first, by their place."""
    yield place(case), case.content
    for name, content in case.siblings.items():
        yield f"{case.kind}/{case.id}/{name}", content


def contents() -> dict[str, bytes]:
    """Everything that lies in DIRECTORY: place -> bytes."""
    everything = {path: content for case in CASES for path, content in files(case)}
    return everything | {MANIFEST: (json.dumps([entry(case) for case in CASES], indent=1) + "\n").encode()}


def entry(case: Case) -> dict[str, Any]:
    """What the manifest says of a case; what is empty is left out."""
    fields: dict[str, Any] = {
        "id": case.id,
        "file": place(case),
        "sha256": hashlib.sha256(case.content).hexdigest(),
        "category": case.category,
        "level": case.level,
        "verdict": case.verdict,
        "rules": list(case.rules),
        "limits": dict(case.limits),
        "test-gguf": case.upstream,
        "note": case.note,
    }
    return {key: value for key, value in fields.items() if value or key == "rules"}
