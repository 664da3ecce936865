"""Views of tensors: any range of any view is what NumPy makes of the whole tensor, and rules find back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gguflow.blocks import FORMATS
from gguflow.errors import InvalidError
from gguflow.models import rules
from gguflow.models.orders import Axes, Groups, Order, RopeOrder, Table
from gguflow.models.rules import Part, Rule
from gguflow.models.views import (
    Columns,
    Concat,
    Constant,
    Fold,
    Leaf,
    Map,
    Reshape,
    Rows,
    Transpose,
    View,
    part_of,
    stacked,
)
from gguflow.sources.base import SourceFile, SourceTensor

FILE = SourceFile(Path("x.safetensors"), 0, 0)
DTYPES: dict[str, np.dtype[Any]] = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2"), "bf16": np.dtype("<u2")}


class Memory:
    """Tensors in memory, read as from a file."""

    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        self.arrays = arrays

    def leaves(self, kind: str) -> list[Leaf]:
        return [
            Leaf(SourceTensor(name, FORMATS[kind], x.shape, FILE, 0, kind.upper()))
            for name, x in self.arrays.items()
        ]

    def read(self, tensor: SourceTensor, first: int, last: int) -> NDArray[np.uint8]:
        whole = self.arrays[tensor.name].reshape(-1)
        start = tensor.offset // whole.itemsize  # of a part of a tensor
        assert 0 <= first <= last <= tensor.n_weights
        return whole[start + first : start + last].view(np.uint8)

    def read_rows(self, tensor: SourceTensor, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        n_rows = tensor.shape[0]
        whole = self.read(tensor, 0, tensor.n_weights).reshape(n_rows, -1)
        return whole[rows]


def numbers(shape: Sequence[int], kind: str = "f32", start: int = 1) -> NDArray[Any]:
    count = int(np.prod(shape))
    values = np.arange(start, start + count)
    return values.astype(DTYPES[kind]).reshape(shape)


def whole(view: View, memory: Memory, kind: str) -> NDArray[Any]:
    return view.read(memory, 0, view.n_weights).view(DTYPES[kind]).reshape(view.shape)


X = numbers((6, 8))
STACK = numbers((3, 4, 5))
PERMUTATION = np.array([3, 0, 5, 1, 4, 2])

CASES: dict[str, tuple[Callable[[Leaf, Leaf], View], NDArray[Any]]] = {
    "a leaf": (lambda x, _: x, X),
    "rows": (lambda x, _: Rows(x, (6, 8), Table.of(PERMUTATION)), X[PERMUTATION]),
    "every other row": (lambda x, _: Rows(x, (3, 8), lambda rows: 2 * rows + 1), X[1::2]),
    "rows of a stack": (
        lambda _, s: Rows(s, (6, 5), lambda rows: rows + 4),
        STACK.reshape(12, 5)[4:10],
    ),
    "rows of rows": (
        lambda x, _: Rows(Rows(x, (6, 8), Table.of(PERMUTATION)), (2, 8), lambda rows: rows + 3),
        X[PERMUTATION][3:5],
    ),
    "joined": (lambda x, _: stacked((x, x), (12, 8)), np.concatenate([X, X])),
    "stacked": (lambda x, _: Concat((x, x, x), (3, 6, 8)), np.stack([X, X, X])),
    "padded": (
        lambda x, _: stacked((x, Constant((2, 8), FORMATS["f32"])), (8, 8)),
        np.concatenate([X, np.zeros((2, 8), np.float32)]),
    ),
    "ones": (lambda x, _: Constant((3,), FORMATS["f32"], 1.0), np.ones(3, np.float32)),
    "reshaped": (lambda x, _: Reshape(x, (4, 12)), X.reshape(4, 12)),
    "columns": (lambda x, _: Columns(x, (6, 3), np.array([7, 0, 7])), X[:, [7, 0, 7]]),
    "transposed": (lambda x, _: Transpose(x), X.T),
    "a stack transposed": (lambda _, s: Transpose(s), STACK.transpose(0, 2, 1)),
    "rows of a transposed stack": (
        lambda _, s: Rows(Transpose(s), (3, 2, 4), lambda rows: rows // 2 * 5 + rows % 2 + 1),
        STACK.transpose(0, 2, 1)[:, 1:3],
    ),
    "mapped": (lambda x, _: Map(x, lambda n, _: n * 2), X * 2),
    "mapped by place": (
        lambda x, _: Map(x, lambda n, first: n + np.arange(first, first + len(n), dtype=np.float32)),
        X + np.arange(48, dtype=np.float32).reshape(6, 8),
    ),
    "folded": (
        lambda x, s: Fold((x, s), (6,), FORMATS["f32"], lambda a, b: a.sum(1) + b.sum()),
        X.sum(1) + STACK.sum(),
    ),
    "a part": (lambda x, _: part_of(x, 2, 5, (3, 8)), X[2:5]),
    "a part of a stack": (lambda _, s: part_of(s, 4, 8, (4, 5)), STACK[1]),
    "a part of a part": (lambda _, s: part_of(part_of(s, 4, 12, (2, 4, 5)), 1, 3, (2, 5)), STACK[1, 1:3]),
    "a part of a view": (lambda x, _: part_of(Transpose(x), 1, 3, (2, 6)), X.T[1:3]),
}


@pytest.mark.parametrize(("build", "expected"), CASES.values(), ids=CASES)
@given(data=st.data())
def test_any_range_is_that_of_the_whole(
    build: Callable[[Leaf, Leaf], View], expected: NDArray[Any], data: st.DataObject
) -> None:
    memory = Memory({"x": X, "s": STACK})
    view = build(*memory.leaves("f32"))
    assert view.shape == expected.shape
    first = data.draw(st.integers(0, view.n_weights))
    last = data.draw(st.integers(first, view.n_weights))
    found = view.read(memory, first, last).view("<f4")
    assert np.array_equal(found, expected.reshape(-1)[first:last])


@pytest.mark.parametrize("kind", DTYPES)
def test_moved_numbers_keep_their_bytes(kind: str) -> None:
    """BF16 too, which NumPy does not know: nothing is decoded where nothing is computed."""
    x = numbers((6, 8), kind, 16000)
    memory = Memory({"x": x})
    (leaf,) = memory.leaves(kind)
    for view, expected in (
        (Transpose(leaf), x.T),
        (Columns(leaf, (6, 2), np.array([5, 1])), x[:, [5, 1]]),
        (Rows(leaf, (6, 8), Table.of(PERMUTATION)), x[PERMUTATION]),
    ):
        assert view.format.key == kind
        assert np.array_equal(whole(view, memory, kind), expected)


def test_a_function_is_computed_in_the_arithmetic_of_the_source() -> None:
    """F16 in float16, and everything else in float32."""
    memory = Memory({"x": np.array([1.0, 2048.0], np.float16)})
    (leaf,) = memory.leaves("f16")
    view = Map(leaf, lambda n, _: n + n.dtype.type(1))
    assert view.format.key == "f16"
    assert whole(view, memory, "f16").tolist() == [2.0, 2048.0]
    memory = Memory({"x": np.array([0x3F80, 0x4500], np.uint16)})  # 1 and 2048 in BF16
    view = Map(memory.leaves("bf16")[0], lambda n, _: n + n.dtype.type(1))
    assert view.format.key == "f32"
    assert whole(view, memory, "f32").tolist() == [2.0, 2049.0]


def test_parts_of_different_dtypes_are_refused() -> None:
    a, b = Memory({"x": X}).leaves("f32")[0], Memory({"y": X}).leaves("bf16")[0]
    with pytest.raises(InvalidError, match="M-015"):
        stacked((a, b), (12, 8))


ORDERS: dict[str, tuple[Order, list[int]]] = {
    "halves to pairs": (RopeOrder(4), [0, 2, 1, 3, 4, 6, 5, 7]),
    "a part of each head": (RopeOrder(4, rotated=2), [0, 1, 2, 3, 4, 5, 6, 7]),
    "four of six rows": (RopeOrder(6, rotated=4), [0, 2, 1, 3, 4, 5]),
    "axes exchanged": (Axes((2, 3), (1, 0)), [0, 3, 1, 4, 2, 5]),
    "three axes": (Axes((2, 2, 2), (1, 0, 2)), [0, 1, 4, 5, 2, 3, 6, 7]),
    "groups": (Groups((2, 1, 1), 2), [0, 1, 4, 5, 2, 6, 3, 7]),
    "a table": (Table((2, 0, 1)), [2, 0, 1]),
}


@pytest.mark.parametrize(("order", "expected"), ORDERS.values(), ids=ORDERS)
def test_orders_and_their_inverses(order: Order, expected: list[int]) -> None:
    rows = np.arange(len(expected))
    assert order(rows).tolist() == expected
    assert order(order.inverse(rows)).tolist() == rows.tolist()
    assert order.inverse(order(rows)).tolist() == rows.tolist()
    assert [int(order(np.array([row]))[0]) for row in rows] == expected


RULES: dict[str, Rule] = {
    "same": rules.same("a", "b", (6, 4)),
    "rows in another order": rules.ordered("a", "b", (8, 3), RopeOrder(4)),
    "a vector in another order": rules.ordered("a", "b", (8,), RopeOrder(4)),
    "reshaped": rules.reshaped("a", "b", (6, 1, 4), (6, 4)),
    "a stack": rules.stack(["a", "b", "c"], "s", (2, 5)),
    "split": rules.split("a", [("q", 4), ("k", 2)], (3,)),
    "split and reordered": rules.split("a", [("q", 4), ("v", 2)], (3,), orders=(RopeOrder(4), None)),
    "split out of groups": rules.split("a", [("q", 4), ("k", 2), ("v", 2)], (3,), order=Groups((2, 1, 1), 2)),
    "a vector split": rules.split("a", [("q", 4), ("k", 2)], ()),
    "split inside": rules.split_inside("a", [("gate", 2), ("up", 2)], 3, 5),
    "joined": rules.join([("q", 4), ("k", 2)], "a", (3,), orders=(RopeOrder(4), None)),
    "transposed": rules.transposed("a", "b", (3, 2, 4)),
    "columns": rules.columns("a", "b", (2, 6), Axes((2, 3), (1, 0))),
    "shifted": rules.shifted("a", "b", (5,)),
    "padded": rules.padded("a", "b", 3, 5, 2),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_rule_finds_back(rule: Rule) -> None:
    """From the checkpoint to GGUF and back again, weight by weight, with the shapes that the rule says."""
    memory = Memory({part.name: numbers(part.shape, start=2 + i) for i, part in enumerate(rule.sources)})
    targets = rule.forward(memory.leaves("f32"))
    assert [view.shape for view in targets] == [part.shape for part in rule.targets]
    stored = Memory(
        {part.name: whole(view, memory, "f32") for part, view in zip(rule.targets, targets, strict=True)}
    )
    assert rule.backward is not None
    back = rule.backward(stored.leaves("f32"))
    assert [view.shape for view in back] == [part.shape for part in rule.sources]
    for part, view in zip(rule.sources, back, strict=True):
        assert np.array_equal(whole(view, stored, "f32"), memory.arrays[part.name])


def test_the_logarithm_of_a_is_found_back_nearly() -> None:
    rule = rules.negative_exponential(rules.same("a", "b", (4,)))
    memory = Memory({"a": np.array([-1.5, 0.0, 0.25, 2.0], np.float32)})
    (view,) = rule.forward(memory.leaves("f32"))
    found = whole(view, memory, "f32")
    assert np.array_equal(found, (-np.exp(memory.arrays["a"].astype(np.float64))).astype(np.float32))
    assert rule.backward is not None
    (back,) = rule.backward(Memory({"b": found}).leaves("f32"))
    assert np.allclose(whole(back, Memory({"b": found}), "f32"), memory.arrays["a"], atol=1e-6)


def test_what_has_no_way_back() -> None:
    sliced = rules.sliced("a", "b", 6, 2, 5, (3,))
    folded = rules.folded([Part("a", (2, 3))], Part("b", (2,)), lambda a: a.sum(1))
    assert sliced.backward is None and folded.backward is None
    memory = Memory({"a": numbers((6, 3))})
    (view,) = sliced.forward(memory.leaves("f32"))
    assert np.array_equal(whole(view, memory, "f32"), memory.arrays["a"][2:5])
