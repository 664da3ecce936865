"""Recipes and records of all classes in one file."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from testing.golden.recipes import Recipe
from testing.golden.records import FileRecord

PACKED = Path(__file__).resolve().parents[2] / "fixtures" / "golden.zip"


def class_of(name: str) -> str:
    """The class of a recipe; a class may have several, CLASS+VARIANT.

    name: of the recipe's file.
    """
    return name.partition("+")[0]


@dataclass(frozen=True)
class Record:
    """What the peer wrote for one class.

    about: the peer's version ("peer") and the SHA-256 of its source archive ("sdist_sha256"), the version of
        transformers ("transformers"), and where the values of config.json came from ("configuration":
        transformers or the file as it is).
    files: by the number type of the checkpoint, which is the output's too.
    """

    about: dict[str, str]
    files: dict[str, FileRecord]

    @classmethod
    def parse(cls, text: str) -> Record:
        return cls.of(json.loads(text))

    @classmethod
    def of(cls, contents: Mapping[str, Any]) -> Record:
        """From what JSON gives."""
        contents = dict(contents)
        files = contents.pop("files")
        return cls(contents, {dtype: FileRecord.parse(file) for dtype, file in files.items()})

    def text(self) -> str:
        """As JSON, a key and a tensor to a line."""
        contents: dict[str, Any] = dict(self.about)
        lines = []
        for dtype, file in self.files.items():
            parts = []
            for part, rows in file.as_json().items():
                shown = ",\n".join(
                    f"   {json.dumps(name)}: {json.dumps(value)}" for name, value in rows.items()
                )
                parts.append(f'  "{part}": {{\n{shown}\n  }}')
            lines.append(f' "{dtype}": {{\n' + ",\n".join(parts) + "\n }")
        head = json.dumps(contents, indent=1)[:-2]
        return head + ',\n "files": {\n' + ",\n".join(lines) + "\n }\n}\n"


@dataclass(frozen=True)
class Packed:
    """The file of all classes.

    path: a zip archive with classes.json (every class that the peer's converter knows), recipes.json and
        records.json: by name, each as in the loose files. They are compressed as a whole (LZMA), since
        classes have much in common.
    """

    path: Path = PACKED

    def _member(self, name: str) -> Any:
        with zipfile.ZipFile(self.path) as archive:
            return json.loads(archive.read(f"{name}.json"))

    @cached_property
    def _recipes(self) -> dict[str, Any]:
        return dict(self._member("recipes"))

    @cached_property
    def _records(self) -> dict[str, Any]:
        return dict(self._member("records"))

    @cached_property
    def known(self) -> list[str]:
        """Every class that the peer knows."""
        return list(self._member("classes"))

    @cached_property
    def names(self) -> list[str]:
        """Of the recipes that have a record, sorted."""
        return sorted(self._records)

    def recipe(self, name: str) -> Recipe:
        return Recipe.of(self._recipes[name])

    def record(self, name: str) -> Record:
        return Record.of(self._records[name])


def pack(path: Path, recipes: Mapping[str, Recipe], records: Mapping[str, Record], known: list[str]) -> None:
    """Writes the file of all classes; the same contents give the same bytes.

    path: where.
    recipes: by class.
    records: by class; long arrays become digests.
    known: every class that the peer knows.
    """
    contents: dict[str, Any] = {"classes": sorted(known), "recipes": {}, "records": {}}
    for name in sorted(records):
        files = {dtype: file.packed().as_json() for dtype, file in records[name].files.items()}
        contents["recipes"][name] = json.loads(recipes[name].text())
        contents["records"][name] = {**records[name].about, "files": files}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(f"{name}.json")
            entry.compress_type = zipfile.ZIP_LZMA
            archive.writestr(entry, json.dumps(content, separators=(",", ":")).encode())
