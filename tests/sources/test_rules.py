"""The specification of sources, the errors that the code raises, and the cases of the tests speak of the same
rules.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gguflow import sources
from gguflow.container import mapped_file
from gguflow.errors import FileError, InvalidError, LimitError, MalformedError, UnsupportedError
from tests.sources import test_bitsandbytes, test_huggingface, test_safetensors

HERE = Path(__file__).resolve().parent
SPECIFICATION = HERE.parent.parent / "spec" / "sources.md"
CODE = [*sorted(Path(sources.__file__).parent.rglob("*.py")), Path(mapped_file.__file__)]

ID = r"(?:[SJHQ]-\d|R-0)\d{2}"
VERDICTS: dict[str, type[FileError]] = {
    error.verdict: error for error in (MalformedError, InvalidError, UnsupportedError, LimitError)
}
RULES = dict(
    re.findall(rf"^\| ({ID}) \|.*\| (\w+) \|$", SPECIFICATION.read_text(encoding="utf-8"), re.MULTILINE)
)


def test_the_code_raises_the_rules_of_the_specification() -> None:
    assert (
        set(re.findall(rf'"({ID})"', "".join(path.read_text(encoding="utf-8") for path in CODE)))
        == RULES.keys()
    )


def test_every_rule_has_a_verdict_that_is_an_error() -> None:
    assert set(RULES.values()) <= VERDICTS.keys() | {"warning"}


def test_every_rule_has_a_case() -> None:
    """In a table, or in an assertion on the rule of the error that was raised."""
    asserted = "".join(
        path.read_text(encoding="utf-8")
        for path in HERE.glob("test_*.py")
        if path.name != Path(__file__).name
    )
    assert set(re.findall(rf'"({ID})"', asserted)) == RULES.keys()


CASES = [
    pytest.param(rule, error, id=f"{rule} {name}")
    for table in (test_safetensors.BROKEN, test_huggingface.BROKEN, test_bitsandbytes.BROKEN)
    for name, (rule, error, _) in table.items()
]


@pytest.mark.parametrize(("rule", "error"), CASES)
def test_the_cases_expect_the_error_of_the_specification(rule: str, error: type[FileError]) -> None:
    assert error is VERDICTS[RULES[rule]]
