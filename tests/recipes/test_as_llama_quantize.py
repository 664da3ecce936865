"""What llama-quantize's own command line takes: types by number, POSIX classes, parts of an imatrix; and what
is said where something is not here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gguflow
from gguflow import conversion, recipes
from gguflow.cli import main
from gguflow.conversion.imatrix import Imatrix, Importance
from gguflow.errors import UnknownFormatError, UsageError
from gguflow.name_patterns import NamePattern
from gguflow.recipes.table import RECIPES
from testing.checkpoints import tiny_llama

NUMBERS = {
    "0": "f32",
    "1": "f16",
    "2": "q4_0",
    "7": "q8_0",
    "14": "q4_k_s",
    "15": "q4_k_m",
    "18": "q6_k",
    "32": "bf16",
}


@pytest.mark.parametrize(("number", "name"), NUMBERS.items())
def test_a_type_by_its_number(number: str, name: str) -> None:
    assert recipes.resolve(number) is RECIPES[name]


@pytest.mark.parametrize("number", ["4", "1024", "-1", "015", "1.0", "15 16", "99999999999999999999"])
def test_a_number_that_is_no_type(number: str) -> None:
    with pytest.raises(UnknownFormatError, match="unknown type"):
        recipes.resolve(number)


def test_every_recipe_has_a_number_of_its_own() -> None:
    """But for names of the same recipe; the number gives the first in the table."""
    for recipe in RECIPES.values():
        found = recipes.resolve(str(recipe.file_type))
        assert found.file_type == recipe.file_type


def test_types_by_number_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tiny_llama(tmp_path / "checkpoint")
    for type_ in ("2,7", "q4_0,q8_0"):
        out = tmp_path / f"{type_[0]}-{{type}}.gguf"
        assert main(["convert", str(directory), "-t", type_, "-q", "-o", str(out)]) == 0
    capsys.readouterr()
    for label in ("Q4_0", "Q8_0"):
        assert (tmp_path / f"2-{label}.gguf").read_bytes() == (tmp_path / f"q-{label}.gguf").read_bytes()


CLASSES: dict[str, tuple[str, list[str], list[str]]] = {
    "digit": (r"blk\.[[:digit:]]+\.ffn", ["blk.12.ffn_up"], ["blk.x.ffn_up", "blk.:.ffn"]),
    "not a digit": (r"^a[^[:digit:]]$", ["ab", "a:"], ["a1"]),
    "with others": (r"^[x[:digit:]_]+$", ["x1_"], ["xa", ""]),
    "two": (r"^[[:alpha:][:digit:]]+$", ["a1"], ["a.1"]),
    "alnum": (r"^[[:alnum:]]$", ["a", "1"], ["_"]),
    "word": (r"^[[:w:]]$", ["_"], ["."]),
    "punctuation": (r"^[[:punct:]]$", [".", "]", "\\", "^", "-"], ["a", " "]),
    "space": (r"^[[:space:]]$", [" ", "\t"], ["a"]),
    "xdigit": (r"^[[:xdigit:]]$", ["f"], ["g"]),
    "bracket first": (r"^[][:digit:]]$", ["]", "1"], ["["]),
    "escaped bracket": (r"^\[:digit:]$", ["[:digit:]"], ["1"]),
    "brackets without a class": (r"^[:dgit]+$", ["dig:it"], ["1"]),
}


@pytest.mark.parametrize(("pattern", "matching", "others"), CLASSES.values(), ids=CLASSES)
def test_posix_classes(pattern: str, matching: list[str], others: list[str]) -> None:
    found = NamePattern(pattern)
    assert [name for name in matching if not found.search(name)] == []
    assert [name for name in others if found.search(name)] == []
    assert found.pattern == pattern


@pytest.mark.parametrize("pattern", ["[[:digits:]]", "[:digit:]", "[[.x.]]", "[[=a=]]", "[[:digit:]", "[[:"])
def test_classes_that_there_are_not(pattern: str) -> None:
    with pytest.raises(UsageError, match="regular expression"):
        NamePattern(pattern)


def imatrix(*names: str) -> Imatrix:
    one = Importance(np.ones(32, np.float32), np.ones(1, np.float32))
    return Imatrix("x.dat", dict.fromkeys(names, one), (), 1, "digest")


NAMES = ("blk.0.ffn_up.weight", "blk.0.ffn_down.weight", "blk.1.ffn_up.weight", "output.weight")


@pytest.mark.parametrize(
    ("included", "excluded", "left"),
    [
        ([], [], [0, 1, 2, 3]),
        (["ffn_up"], [], [0, 2]),
        (["ffn_up", "output"], [], [0, 2, 3]),
        ([], ["ffn_up"], [1, 3]),
        ([], ["blk.0.", "output"], [2]),
        (["."], [], [0, 1, 2, 3]),
    ],
)
def test_parts_of_an_imatrix(included: list[str], excluded: list[str], left: list[int]) -> None:
    whole = imatrix(*NAMES)
    found = whole.only(included, excluded)
    assert list(found.entries) == [NAMES[i] for i in left]
    assert (found.digest == whole.digest) == (len(left) == len(NAMES))  # it binds what is left of a run


@pytest.mark.parametrize(
    ("included", "excluded", "says"),
    [
        (["a"], ["b"], "cannot be used together"),
        (["nothing"], [], "--include-weights: .*is in no name"),
        ([], ["ffn_up", "nothing"], "--exclude-weights: .*is in no name"),
        ([], ["."], "leaves nothing"),
    ],
)
def test_parts_that_there_are_not(included: list[str], excluded: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        imatrix(*NAMES).only(included, excluded)


def with_importance(prepared: conversion.Prepared) -> set[str]:
    return {p.name for p in prepared.targets[0].plans[0].tensors if p.importance is not None}


def test_parts_of_an_imatrix_in_a_conversion(tmp_path: Path) -> None:
    """Tensors without an entry are encoded as without an imatrix; the options need one."""
    directory = tiny_llama(tmp_path / "checkpoint")
    with pytest.raises(UsageError, match="for the entries of --imatrix"):
        conversion.prepare(directory, include_weights=["ffn"])
    plan = conversion.prepare(directory, type="q4_k").targets[0].plans[0]
    names = [p.name for p in plan.tensors if p.name.endswith(".weight") and len(p.shape) == 2]
    path = tmp_path / "x.dat"
    with path.open("wb") as file:
        file.write(len(names).to_bytes(4, "little"))
        for planned in plan.tensors:
            if planned.name in names:
                encoded, n = planned.name.encode(), planned.shape[-1]
                file.write(len(encoded).to_bytes(4, "little") + encoded + (1).to_bytes(4, "little"))
                file.write(n.to_bytes(4, "little") + np.arange(1, n + 1, dtype="<f4").tobytes())
    whole = conversion.prepare(directory, type="q4_k", imatrix=path)
    some = conversion.prepare(directory, type="q4_k", imatrix=path, exclude_weights=["attn_q", "ffn"])
    all_used = with_importance(whole)
    assert with_importance(some) == {n for n in all_used if "attn_q" not in n and "ffn" not in n} < all_used
    only = conversion.prepare(directory, type="q4_k", imatrix=path, include_weights=["attn_q"])
    assert with_importance(only) == {n for n in names if "attn_q" in n} != set()
    count = only.targets[0].plans[0].metadata["quantize.imatrix.entries_count"].value
    assert count == sum("attn_q" in n for n in names)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--prune-layers", "3,4"], "llama-quantize --prune-layers"),
        (["--prune-layers=3"], "llama-quantize --prune-layers"),
        (["--keep-split"], "--split-max-size"),
        (["--include-weights", "a", "--exclude-weights", "b"], "--imatrix"),
    ],
)
def test_what_is_not_here_names_what_to_use(
    options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tiny_llama(tmp_path / "checkpoint")
    try:
        status = main(["convert", str(directory), *options])
    except SystemExit as error:
        status = int(str(error))
    assert status == 2
    assert says in capsys.readouterr().err


def test_the_public_function_takes_them(tmp_path: Path) -> None:
    report = gguflow.convert(tiny_llama(tmp_path / "checkpoint"), tmp_path / "out.gguf", type="7")
    assert report.recipe == "q8_0"
