"""Values from files as JSON and as text."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from gguflow.cli.text import json_ready, nbytes_text, table, value_text
from gguflow.container.metadata import Value, ValueType, string

VALUES: dict[str, tuple[object, object, object]] = {
    "nothing": (None, None, None),
    "a boolean": (True, True, True),
    "an integer": (2**64, 2**64, 2**64),
    "a number": (0.5, 0.5, 0.5),
    "not a number": (math.nan, None, "nan"),
    "infinity": (-math.inf, None, "-inf"),
    "a lone surrogate": ("a\udcff", "a\ufffd", "a\\udcff"),
    "bytes": (b"a\xff", [97, 255], "aÿ"),
    "long text": ("x" * 2001, "x" * 2001, "x" * 2000 + "…"),
    "a list": ([1, math.inf, ("a",)], [1, None, ["a"]], [1, "inf", ["a"]]),
}


@pytest.mark.parametrize(("value", "plain", "quoted"), VALUES.values(), ids=VALUES)
def test_values_as_json(value: object, plain: object, quoted: object) -> None:
    assert json_ready(value) == plain
    assert json_ready(value, quoted=True) == quoted
    json.dumps([json_ready(value), json_ready(value, quoted=True)], allow_nan=False)


def test_arrays_as_json() -> None:
    assert json_ready(np.array([[1.5, math.nan]], np.float32)) == [[1.5, None]]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Value(ValueType.FLOAT32, 1 / 3), "0.3333333"),
        (Value(ValueType.BOOL, True), "true"),
        (string('a"b'), '"a\\"b"'),
        (string("x" * 200), '"' + "x" * 99 + "… (202 characters)"),
        (Value(ValueType.ARRAY, np.arange(9, dtype=np.int32), ValueType.INT32), "[0, 1, 2, 3, 4, 5, …]"),
        (Value(ValueType.ARRAY, np.array([0.1], np.float32), ValueType.FLOAT32), "[0.1]"),
        (Value(ValueType.ARRAY, ["x" * 90, "y" * 90], ValueType.STRING), '["' + "x" * 90 + '", …]'),
        (Value(ValueType.ARRAY, ["x" * 101], ValueType.STRING), "[…]"),
    ],
    ids=["number", "boolean", "text", "long text", "array", "floats", "long texts", "a long text"],
)
def test_values_as_text(value: Value, shown: str) -> None:
    assert value_text(value) == shown


@pytest.mark.parametrize(
    ("nbytes", "shown"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 40, "3 TiB")]
)
def test_sizes_as_text(nbytes: int, shown: str) -> None:
    assert nbytes_text(nbytes) == shown


def test_tables() -> None:
    rows = [("a", "1"), ("long\x1b", "10")]
    assert table(("name", "n"), rows, right=(1,)) == "name       n\na          1\nlong\\x1b  10"
