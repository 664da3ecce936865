"""Every file of the conformance corpus gets the verdict and the findings of its manifest, and the grammar
decides alone what is malformed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from gguflow.container import grammar
from gguflow.container.header import parse
from gguflow.container.limits import Limits
from gguflow.errors import MalformedError, UnsupportedError
from gguflow.validation import examine
from testing.corpus.manifest import contents

FILES = Path(__file__).resolve().parent.parent / "fixtures" / "files"
MANIFEST: list[dict[str, Any]] = json.loads((FILES / "manifest.json").read_text(encoding="utf-8"))
CASES = [pytest.param(case, id=case["id"]) for case in MANIFEST]
GGUF = [pytest.param(case, id=case["id"]) for case in MANIFEST if case["file"].endswith(".gguf")]


@pytest.mark.parametrize("case", CASES)
def test_verdict(case: dict[str, Any]) -> None:
    verdict, findings = examine(
        FILES / case["file"], case["level"], limits=Limits(**case.get("limits", {})), threads=1
    )
    assert (verdict, [finding.rule for finding in findings]) == (case["verdict"], case["rules"]), findings


@pytest.mark.parametrize("case", CASES)
def test_bytes(case: dict[str, Any]) -> None:
    """A checkout that changed line ends, say, would judge other files."""
    assert hashlib.sha256((FILES / case["file"]).read_bytes()).hexdigest() == case["sha256"]


def test_the_tool_writes_these_files() -> None:
    """As tools/make_fixtures --check."""
    there = {
        path.relative_to(FILES).as_posix(): path.read_bytes() for path in FILES.rglob("*") if path.is_file()
    }
    assert there == contents()


@pytest.mark.parametrize("case", GGUF)
def test_the_grammar_decides_what_is_malformed(case: dict[str, Any]) -> None:
    content = (FILES / case["file"]).read_bytes()
    try:
        header = parse(content, case["file"])
    except (MalformedError, UnsupportedError):
        assert grammar.complaint(content)
    else:
        assert not grammar.complaint(content)
        assert len(grammar.HEADER.parse(content).tensors) == len(header.tensors)
