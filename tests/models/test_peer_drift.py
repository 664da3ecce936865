"""What tools/golden drift finds: which functions of another version of the peer differ, and whom that
affects.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from testing.golden.drift import DIGESTS, Digests, Source
from testing.golden.packed import Packed

BASE = '''
import logging
LIMIT = 3
TABLE: dict[str, int] = {"a": 1}

def helper(x):
    """Says what it does."""
    return x + LIMIT

class ModelBase:
    def write(self):
        self.prepare()

    def prepare(self):
        """Nothing."""

    @classmethod
    def register(cls, *names): return lambda c: c

class TextModel(ModelBase):
    size = 1

    def keys(self):
        return [self.size]

class MmprojModel(ModelBase):
    def keys(self):
        return []
'''
FAMILIES = """
from .base import ModelBase, TextModel, MmprojModel, helper
import conversion.base as base

@ModelBase.register("Plain")
class PlainModel(TextModel):
    pass

@ModelBase.register("Own", "OwnToo")
class OwnModel(TextModel):
    def keys(self):
        return [helper(7)]

@ModelBase.register("More")
class MoreModel(PlainModel):
    def keys(self) -> list[int]:
        return [*super().keys(), 8]

@ModelBase.register("Both")
class BothModel(OwnModel, PlainModel):
    def prepare(self):
        PlainModel.keys(self)

@ModelBase.register("Plain")
class PlainVisionModel(MmprojModel):
    pass
"""
TABLE = 'TEXT_MODEL_MAP: dict[str, str] = {"Plain": "families", "Own": "families", "Wrapped": "families"}\n'
ALL = ("Both", "More", "Own", "OwnToo", "Plain")


def tree(directory: Path, *changes: tuple[str, str], extra: str = "") -> Source:
    """The peer with texts replaced and something added to its families."""
    files = {"__init__": TABLE, "base": BASE, "families": FAMILIES + extra}
    (directory / "conversion").mkdir(parents=True)
    for name, text in files.items():
        for old, new in changes:
            text = text.replace(old, new)
        (directory / "conversion" / f"{name}.py").write_text(text)
    return Source(directory)


CASES = {
    "nothing": ([], []),
    "comments, docstrings, layout, annotations": (
        [
            ("LIMIT = 3", "# three\nLIMIT  =  3\n"),
            ("Says what it does.", "Otherwise."),
            ("def keys(self):", "def keys( self ) -> list[int]:\n        'Keys.'"),
            ("def helper(x):", "def helper(x: int) -> int:"),
        ],
        [],
    ),
    "a method of the base, which all have but who replace it": (
        [("self.prepare()", "self.prepare(); self.prepare()")],
        [("base.py", "ModelBase.write", "changed", ALL)],
    ),
    "a method that is replaced, called through super and by name": (
        [("return [self.size]", "return [self.size + 1]")],
        [("base.py", "TextModel.keys", "changed", ("Both", "More", "Plain"))],
    ),
    "an attribute of a class": (
        [("size = 1", "size = 2")],
        [("base.py", "TextModel", "changed", ALL)],
    ),
    "a function": (
        [("return x + LIMIT", "return x - LIMIT")],
        [("base.py", "helper", "changed", ("Both", "Own", "OwnToo"))],
    ),
    "a constant that no class names": (
        [("LIMIT = 3", "LIMIT = 4")],
        [("base.py", "LIMIT", "changed", ())],
    ),
    "a value in a table": (
        [('{"a": 1}', '{"a": None}')],
        [("base.py", "TABLE", "changed", ())],
    ),
    "only projectors": (
        [("        return []", "        return [1]")],
        [("base.py", "MmprojModel.keys", "changed", ())],
    ),
    "another base": (
        [("MoreModel(PlainModel)", "MoreModel(OwnModel)")],
        [("families.py", "MoreModel", "changed", ("More",))],
    ),
    "another registered name": (
        [('"Own", "OwnToo"', '"Own", "New"')],
        [("families.py", "OwnModel", "changed", ("Both", "New", "Own"))],
    ),
    "a method is gone": (
        [('    def prepare(self):\n        """Nothing."""\n', "")],
        [("base.py", "ModelBase.prepare", "gone", ("More", "Own", "OwnToo", "Plain"))],
    ),
}


@pytest.mark.parametrize(("changes", "expected"), CASES.values(), ids=CASES)
def test_changes(
    changes: list[tuple[str, str]], expected: list[tuple[str, str, str, tuple[str, ...]]], tmp_path: Path
) -> None:
    old = tree(tmp_path / "old").digests("old", "")
    found = [(c.file, c.name, c.kind, c.classes) for c in tree(tmp_path / "new", *changes).changes(old)]
    assert found == [(f"conversion/{file}", *rest) for file, *rest in expected]


def test_classes(tmp_path: Path) -> None:
    """Those of the table too, which another class stands for."""
    assert tree(tmp_path).classes == tuple(sorted((*ALL, "Wrapped")))


def test_a_new_class(tmp_path: Path) -> None:
    old = tree(tmp_path / "old")
    extra = '\n@ModelBase.register("Fresh")\nclass FreshModel(OwnModel):\n    def keys(self): return []\n'
    new = tree(tmp_path / "new", extra=extra)
    changes = [(c.name, c.kind, c.classes) for c in new.changes(old.digests("old", ""))]
    assert changes == [("FreshModel", "new", ("Fresh",)), ("FreshModel.keys", "new", ("Fresh",))]
    assert set(new.classes) - set(old.classes) == {"Fresh"}


def test_digests_survive_their_file(tmp_path: Path) -> None:
    digests = tree(tmp_path / "tree").digests("peer-1", "abc")
    digests.write(tmp_path / "digests.json")
    assert Digests.read(tmp_path / "digests.json") == digests


@pytest.mark.parametrize("text", [None, "def f(:\n"])
def test_what_is_no_converter(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "conversion").mkdir()
        (tmp_path / "conversion" / "a.py").write_text(text)
    with pytest.raises(ValueError, match="conversion"):
        Source(tmp_path)


def test_the_digests_are_those_of_the_golden_records() -> None:
    golden, digests = Packed(), Digests.read(DIGESTS)
    assert {golden.record(name).about["sdist_sha256"] for name in golden.names} == {digests.sdist_sha256}
    assert set(golden.known) == set(digests.classes)
