"""The specification of the container, the code and the corpus are about the same rules: every id is in all of
them, with the same verdict.

All documents of spec/ speak one language: a letter for each kind of rule, and the words of RFC 2119 as it
means them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import gguflow
from gguflow.container.rules import error_class
from gguflow.parametric import presets
from gguflow.validation import error_class_of

ROOT = Path(__file__).resolve().parent.parent
FILES = ROOT / "fixtures" / "files"
PACKAGE = Path(gguflow.__file__).resolve().parent
SPECIFICATION = (ROOT / "spec" / "container.md").read_text(encoding="utf-8")
CASES = json.loads((FILES / "manifest.json").read_text(encoding="utf-8"))

ABOUT_BYTES = r"[CGV]-\d{3}"
ABOUT_BEHAVIOUR = r"[WP]-\d{3}"
RULES: dict[str, str] = dict(
    re.findall(rf"^\| ({ABOUT_BYTES}) \|.*\| (\w+) \|$", SPECIFICATION, re.MULTILINE)
)
BEHAVIOUR = set(re.findall(rf"^\| ({ABOUT_BEHAVIOUR}) \|", SPECIFICATION, re.MULTILINE))

WITHOUT_FILE = {
    "C-035": "a pipe cannot be kept in a repository: tests/validation/test_validation.py",
    "G-018": "needs jinja2, which is optional: tests/validation/test_validation.py",
    "C-066": "would be a bug of ours: tests/validation/test_validation.py",
}


ABOUT_PAYLOADS = r"E-\d{3}"
OF_PAYLOADS: dict[str, str] = dict(
    re.findall(
        rf"^\| ({ABOUT_PAYLOADS}) \|.*\| (\w+) \|$",
        (ROOT / "spec/blocks/parametric.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
)


def text_of(directory: Path) -> str:
    return "\n".join(
        path.read_text(encoding="utf-8")
        for path in sorted(directory.rglob("*.py"))
        if path != Path(__file__).resolve()
    )


def test_every_rule_of_the_specification_is_in_the_code_and_the_other_way_round() -> None:
    assert set(re.findall(rf'"({ABOUT_BYTES})"', text_of(PACKAGE))) == RULES.keys()


def test_every_rule_about_bytes_has_a_file() -> None:
    in_corpus = {rule for case in CASES for rule in case["rules"]}
    assert {rule for rule in RULES if rule not in in_corpus} == WITHOUT_FILE.keys()
    mentioned = (ROOT / "tests" / "validation" / "test_validation.py").read_text(encoding="utf-8")
    assert all(rule in mentioned for rule in WITHOUT_FILE)


def test_every_rule_about_behaviour_has_a_test() -> None:
    tests = text_of(ROOT / "tests")
    assert BEHAVIOUR
    assert [rule for rule in sorted(BEHAVIOUR) if rule not in tests] == []


def test_rules_that_the_text_mentions_exist() -> None:
    mentioned = set(re.findall(rf"\b({ABOUT_BYTES}|{ABOUT_BEHAVIOUR})\b", SPECIFICATION))
    assert mentioned <= RULES.keys() | BEHAVIOUR


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case["id"]) for case in CASES if case["rules"] and case["rules"][0] in RULES],
)
def test_the_verdict_of_a_file_is_that_of_a_rule_it_breaks(case: dict[str, str]) -> None:
    verdicts = {RULES[rule] for rule in case["rules"] if rule in RULES}
    assert case["verdict"] in verdicts or (case["verdict"] == "valid" and case["rules"])


def test_payloads_have_the_same_rules_in_specification_code_and_corpus() -> None:
    """And every rule the same verdict: of the error that is raised, and of a file that breaks it and no
    other.
    """
    assert set(re.findall(rf'"({ABOUT_PAYLOADS})"', text_of(PACKAGE))) == OF_PAYLOADS.keys()
    assert {rule: error_class_of(rule).verdict for rule in OF_PAYLOADS} == OF_PAYLOADS
    broken = [case for case in CASES if case.get("category") == "E" and case["file"].startswith("invalid/")]
    assert len(broken) >= 40
    assert {case["rules"][0] for case in broken} == OF_PAYLOADS.keys()
    assert all([OF_PAYLOADS[rule] for rule in case["rules"]] == [case["verdict"]] for case in broken)


def test_every_preset_of_the_family_has_a_good_file_of_its_kind() -> None:
    names = {
        case["id"].removeprefix("payload-").rstrip("0123456789")
        for case in CASES
        if case["id"].startswith("payload-")
    }
    kinds = {re.sub(r"affine\d_b\d+", "affine4_b64", name).rstrip("0123456789") for name in presets()}
    assert kinds <= names


DECIDED_BY_THE_PARSER = {"C-002", "C-003"}


@pytest.mark.parametrize(
    "rule",
    sorted(
        rule
        for rule in RULES
        if RULES[rule] not in ("malformed", "warning") and rule not in DECIDED_BY_THE_PARSER
    ),
)
def test_the_error_of_a_rule_is_that_of_the_specification(rule: str) -> None:
    """What is malformed is the parser's to say, and so are versions; the corpus shows it."""
    assert error_class(rule).verdict == RULES[rule]


def test_the_walk_throughs_show_the_files() -> None:
    """The first file's data are cut short in the text; every line that is there is right."""
    names = re.findall(r"\(`fixtures/files/([\w/.-]+)`\):", SPECIFICATION)
    assert len(names) == 3
    for name in names[:2]:
        text = SPECIFICATION[SPECIFICATION.index(name) :]
        lines = re.match(r"[^\n]*\n(?:[^\n]+\n)?\n((?:    [^\n]+\n)+)", text)
        assert lines
        content = (FILES / name).read_bytes()
        for line in lines[1].splitlines():
            at, shown = int(line[4:12], 16), bytes.fromhex(line[14:61].strip())
            assert content[at : at + len(shown)] == shown, line


def test_an_id_means_one_rule() -> None:
    """Over all files of the specification."""
    defined = [
        rule
        for path in sorted((ROOT / "spec").rglob("*.md"))
        for rule in re.findall(r"^\| ([A-Z]+-[\w-]*\d{3}) \|", path.read_text(encoding="utf-8"), re.M)
    ]
    assert len(defined) > 200
    assert sorted(defined) == sorted(set(defined))


DOCUMENTS = {
    path.relative_to(ROOT / "spec").as_posix(): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "spec").rglob("*.md"))
}
README = DOCUMENTS.pop("README.md")


def test_the_readme_has_every_letter_and_where_its_rules_stand() -> None:
    """Of rules that a document mentions too, wherever they stand."""
    table = re.findall(r"^\| ([A-Z]) \| .* \| ([\w./, -]+) \| .* \|$", README, re.MULTILINE)
    letters = [letter for letter, _ in table]
    assert len(letters) == len(set(letters))
    defined: dict[str, set[str]] = {}
    for name, text in DOCUMENTS.items():
        for letter in re.findall(r"^\| ([A-Z])-(?:\w+-)?\d{3}\b", text, re.MULTILINE):
            defined.setdefault(letter, set()).add("blocks/" if letter == "B" else name)
    assert {letter: set(where.split(", ")) for letter, where in table} == defined
    mentioned = {
        letter for text in DOCUMENTS.values() for letter in re.findall(r"\b([A-Z])-(?:\w+-)?\d{3}\b", text)
    }
    assert mentioned == set(letters)


def test_the_readme_lists_every_document() -> None:
    listed = re.findall(r"^\| \[([\w./-]+)\]\(\1\) \|", README, re.MULTILINE)
    assert sorted(listed) == sorted([*DOCUMENTS, "gguf.ksy"])


NEGATED_FROM_OUTSIDE = (
    r"(?<![.\w])(?:[Nn]o|Nobody|Nothing|None|Neither)\b[^.;:|]*\bMUST\b|\bMUST (?:be no|never)\b|\bMAY not\b"
)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_is_forbidden_is_forbidden_in_the_words_of_rfc_2119(name: str) -> None:
    """A rule says "X MUST NOT": "no X MUST" would only say that none is obliged to."""
    assert re.findall(NEGATED_FROM_OUTSIDE, DOCUMENTS[name]) == []
