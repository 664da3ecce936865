"""Rules: which tensors of a checkpoint become which tensors of a GGUF file, and the way back.

A family of models is a list of rules. A rule names tensors on both sides, with their shapes, and says how one
side is viewed as the other; conversion, export, validation and documentation all read the same list.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguflow.blocks import FORMATS
from gguflow.models.orders import Order
from gguflow.models.views import (
    Columns,
    Constant,
    Fold,
    Map,
    Numbers,
    Reshape,
    Rows,
    Shape,
    Transpose,
    View,
    part_of,
    stacked,
)

Views = Sequence[View]
Build = Callable[[Views], Views]


@dataclass(frozen=True)
class Part:
    """A tensor on one side of a rule: its name, and its shape in NumPy order."""

    name: str
    shape: Shape


def unchanged(views: Views) -> Views:
    """The same tensors under other names."""
    return views


@dataclass(frozen=True)
class Rule:
    """Some tensors of a checkpoint, and the tensors of a GGUF file that are made of them.

    sources: in the checkpoint.
    targets: in the GGUF file.
    forward: views of the sources -> views of the targets.
    backward: views of the targets -> views of the sources; None if there is no way back.
    is_required: whether a model must have it. Where several rules have a target in common, one is enough.
    integers: whether the sources are tables of integers, not weights.
    order: where one source becomes one target by moving rows only, how; for products of packed rows.
    is_stack: whether each source is one entry of the first axis of the only target.
    """

    sources: tuple[Part, ...]
    targets: tuple[Part, ...]
    forward: Build = unchanged
    backward: Build | None = unchanged
    is_required: bool = True
    integers: bool = False
    order: Order | None = None
    is_stack: bool = False


@dataclass(frozen=True)
class Given:
    """A tensor that no checkpoint holds: computed from the configuration.

    name: in GGUF.
    shape: in NumPy order.
    values: float32 or int32 of this shape; None where only the shape is known, as in a finished file.
    is_required: whether a file must have it.
    """

    name: str
    shape: Shape
    values: NDArray[Any] | None = None
    is_required: bool = False


def optional(rules: Iterable[Rule | Given], *, needed: bool = False) -> Iterator[Rule | Given]:
    """Rules for tensors that a model may be without: of one of two layouts, where a file does not say which.

    rules: as they are if a model must have them.
    needed: whether it must have them after all.
    """
    for rule in rules:
        yield rule if needed else replace(rule, is_required=False)


def same(source: str, target: str, shape: Shape, *, required: bool = True) -> Rule:
    """One tensor under another name.

    source: in the checkpoint.
    target: in GGUF.
    shape: of both.
    required: whether a model must have it.
    """
    return Rule((Part(source, shape),), (Part(target, shape),), is_required=required)


def linear(
    source: str,
    target: str,
    n_out: int,
    n_in: int,
    *,
    bias: bool | None = None,
    order: Order | None = None,
    required: bool = True,
) -> Iterator[Rule]:
    """A matrix and its bias: names without .weight and .bias.

    source: in the checkpoint.
    target: in GGUF.
    n_out: rows.
    n_in: columns.
    bias: whether there is one; None for perhaps.
    order: how rows are rearranged.
    required: whether a model must have the matrix.
    """
    yield ordered(f"{source}.weight", f"{target}.weight", (n_out, n_in), order, required=required)
    if bias is not False:
        has_bias = required and bias is True
        yield ordered(f"{source}.bias", f"{target}.bias", (n_out,), order, required=has_bias)


def ordered(
    source: str, target: str, shape: Shape, order: Order | None, *,
    new_shape: Shape | None = None, required: bool = True,
) -> Rule:  # fmt: skip
    """One tensor with its rows in another order, or in the same if this is None.

    source: in the checkpoint.
    target: in GGUF.
    shape: in the checkpoint.
    order: of rows.
    new_shape: in GGUF, with rows of the same length; None for the same.
    required: whether a model must have it.
    """
    new_shape = shape if new_shape is None else new_shape
    if order is None:
        if new_shape != shape:
            return reshaped(source, target, shape, new_shape, required=required)
        return same(source, target, shape, required=required)
    inverse = order.inverse
    return Rule(
        (Part(source, shape),),
        (Part(target, new_shape),),
        lambda views: (Rows(views[0], new_shape, order),),
        lambda views: (Rows(views[0], shape, inverse),),
        required,
        order=order,
    )


def reshaped(source: str, target: str, shape: Shape, new_shape: Shape, *, required: bool = True) -> Rule:
    """One tensor in another shape, its weights in the same order.

    source: in the checkpoint.
    target: in GGUF.
    shape: in the checkpoint.
    new_shape: in GGUF.
    required: whether a model must have it.
    """
    return Rule(
        (Part(source, shape),),
        (Part(target, new_shape),),
        lambda views: (Reshape(views[0], new_shape),),
        lambda views: (Reshape(views[0], shape),),
        required,
    )


def stack(sources: Sequence[str], target: str, shape: Shape, *, required: bool = True) -> Rule:
    """Equal tensors as one with a leading axis, such as the experts of a layer.

    sources: in the checkpoint, in order.
    target: in GGUF.
    shape: of each.
    required: whether a model must have it.
    """
    whole = (len(sources), *shape)
    rows = math.prod(shape[:-1])
    return Rule(
        tuple(Part(name, shape) for name in sources),
        (Part(target, whole),),
        lambda views: (stacked(views, whole),),
        lambda views: [part_of(views[0], i * rows, (i + 1) * rows, shape) for i in range(len(sources))],
        required,
        is_stack=True,
    )


def split(
    source: str, targets: Sequence[tuple[str, int]], rest: Shape, *, order: Order | None = None,
    orders: Sequence[Order | None] = (), required: bool = True,
) -> Rule:  # fmt: skip
    """One tensor whose rows are several tensors, one after the other.

    source: in the checkpoint.
    targets: of each tensor in GGUF, its name and its rows (entries of the first axis).
    rest: all axes of the tensors but the first; () for vectors.
    order: how the source's rows are rearranged before they are cut.
    orders: how the rows of each target are rearranged after that; None for one as it is.
    required: whether a model must have it.
    """
    counts = [n for _, n in targets]
    total = (sum(counts), *rest)
    shapes = [(n, *rest) for n in counts]
    each = list(orders) or [None] * len(counts)
    inner = math.prod(rest[:-1])

    def forward(views: Views) -> Views:
        whole = views[0] if order is None else Rows(views[0], total, order)
        found: list[View] = []
        start = 0
        for n, shape, own in zip(counts, shapes, each, strict=True):
            part = part_of(whole, start * inner, (start + n) * inner, shape)
            found.append(part if own is None else Rows(part, shape, own))
            start += n
        return found

    def backward(views: Views) -> Views:
        parts = [
            view if own is None else Rows(view, view.shape, own.inverse)
            for view, own in zip(views, each, strict=True)
        ]
        whole = stacked(parts, total)
        return (whole if order is None else Rows(whole, total, order.inverse),)

    return Rule(
        (Part(source, total),),
        tuple(Part(name, shape) for (name, _), shape in zip(targets, shapes, strict=True)),
        forward,
        backward,
        required,
    )


def split_inside(
    source: str, targets: Sequence[tuple[str, int]], n: int, n_in: int, *, required: bool = True,
    transpose: bool = False, interleaved: bool = False,
) -> Rule:  # fmt: skip
    """A stack of matrices [n, rows, n_in] whose rows are those of several stacks: gate and up of all experts.

    source: in the checkpoint.
    targets: of each stack in GGUF, its name and the rows of one matrix.
    n: number of matrices.
    n_in: columns; 0 for a stack of vectors [n, rows].
    required: whether a model must have it.
    transpose: whether matrices are stored with their axes exchanged: [n, n_in, rows].
    interleaved: whether rows of the stacks, which have equally many, take turns; otherwise each has a range.
    """
    counts = [rows for _, rows in targets]
    total = sum(counts)
    rest = (n_in,) if n_in else ()
    shapes = [(n, rows, *rest) for rows in counts]
    whole = (n, total, *rest)
    orders = [
        _inside(rows, total, number if interleaved else start, len(counts) if interleaved else 1)
        for number, (rows, start) in enumerate(zip(counts, itertools.accumulate([0, *counts]), strict=False))
    ]

    def forward(views: Views) -> Views:
        stored = Transpose(views[0]) if transpose else views[0]
        if rest:
            return [Rows(stored, shape, order) for shape, order in zip(shapes, orders, strict=True)]
        flat = Reshape(stored, (n * total,))
        return [
            Reshape(Rows(flat, (n * rows,), order), shape)
            for rows, shape, order in zip(counts, shapes, orders, strict=True)
        ]

    def backward(views: Views) -> Views:
        joined = stacked([v if rest else Reshape(v, (v.n_weights,)) for v in views], (n * total, *rest))
        numbers = np.concatenate(
            [order(np.arange(n * rows)) for rows, order in zip(counts, orders, strict=True)]
        )
        places = np.argsort(numbers)
        found = Rows(joined, whole if rest else (n * total,), lambda rows: places[rows])
        stored = found if rest else Reshape(found, whole)
        return (Transpose(stored) if transpose else stored,)

    return Rule(
        (Part(source, (n, n_in, total) if transpose else whole),),
        tuple(Part(name, shape) for (name, _), shape in zip(targets, shapes, strict=True)),
        forward,
        backward,
        required,
    )


def _inside(
    rows: int, total: int, start: int, step: int = 1
) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
    """Rows start, start + step, ... of every matrix of `total` rows; `rows` of each."""

    def index(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        matrix, within = np.divmod(numbers, rows)
        found: NDArray[np.int64] = matrix * total + start + step * within
        return found

    return index


def join(
    sources: Sequence[tuple[str, int]], target: str, rest: Shape, *,
    orders: Sequence[Order | None] = (), required: bool = True,
) -> Rule:  # fmt: skip
    """Several tensors as one, row after row.

    sources: of each tensor in the checkpoint, its name and its rows.
    target: in GGUF.
    rest: all axes but the first; () for vectors.
    orders: how the rows of each source are rearranged; None for one as it is.
    required: whether a model must have it.
    """
    counts = [n for _, n in sources]
    total = (sum(counts), *rest)
    each = list(orders) or [None] * len(counts)
    inner = math.prod(rest[:-1])

    def forward(views: Views) -> Views:
        parts = [v if own is None else Rows(v, v.shape, own) for v, own in zip(views, each, strict=True)]
        return (stacked(parts, total),)

    def backward(views: Views) -> Views:
        found: list[View] = []
        start = 0
        for n, own in zip(counts, each, strict=True):
            part = part_of(views[0], start * inner, (start + n) * inner, (n, *rest))
            found.append(part if own is None else Rows(part, part.shape, own.inverse))
            start += n
        return found

    return Rule(
        tuple(Part(name, (n, *rest)) for name, n in sources),
        (Part(target, total),),
        forward,
        backward,
        required,
    )


def transposed(
    source: str, target: str, shape: Shape, *, stored: Shape | None = None, required: bool = True
) -> Rule:
    """One tensor with its last two axes exchanged.

    source: in the checkpoint.
    target: in GGUF.
    shape: in GGUF.
    stored: in the checkpoint, if matrices lie there in one; else the transposed shape.
    required: whether a model must have it.
    """
    *rest, a, b = shape
    turned = (*rest, b, a)
    before = turned if stored is None else stored
    return Rule(
        (Part(source, before),),
        (Part(target, shape),),
        lambda views: (Transpose(stacked(views, turned)),),
        lambda views: (stacked((Transpose(views[0]),), before),),
        required,
    )


def exchanged(rule: Rule) -> Rule:
    """A rule of one source, which is stored with its last two axes exchanged.

    rule: for the source as it would be otherwise.
    """
    (part,), back = rule.sources, rule.backward
    *rest, a, b = part.shape
    return Rule(
        (Part(part.name, (*rest, b, a)),),
        rule.targets,
        lambda views: rule.forward((Transpose(views[0]),)),
        None if back is None else lambda views: (Transpose(back(views)[0]),),
        rule.is_required,
    )


def columns(source: str, target: str, shape: Shape, order: Order, *, required: bool = True) -> Rule:
    """One matrix with its columns in another order.

    source: in the checkpoint.
    target: in GGUF.
    shape: of both.
    order: for each column in GGUF, that of the checkpoint.
    required: whether a model must have it.
    """
    numbers = np.arange(shape[-1], dtype=np.int64)
    forth, back = order(numbers), order.inverse(numbers)
    return Rule(
        (Part(source, shape),),
        (Part(target, shape),),
        lambda views: (Columns(views[0], shape, forth),),
        lambda views: (Columns(views[0], shape, back),),
        required,
    )


def mapped(
    rule: Rule, function: Callable[[Numbers], Numbers], inverse: Callable[[Numbers], Numbers] | None
) -> Rule:
    """A rule whose targets' weights are a function of what they would be without it.

    rule: the rule without the function.
    function: of each weight, float32 or float16 to the same type.
    inverse: the way back; None if there is none.
    """
    before = rule.backward

    def forward(views: Views) -> Views:
        return [Map(view, lambda numbers, _: function(numbers)) for view in rule.forward(views)]

    def backward(views: Views) -> Views:
        if inverse is None or before is None:
            raise TypeError("no way back")
        return before([Map(view, lambda numbers, _: inverse(numbers)) for view in views])

    way_back = None if inverse is None or before is None else backward
    return Rule(rule.sources, rule.targets, forward, way_back, rule.is_required)


def shifted(source: str, target: str, shape: Shape, by: float = 1.0, *, required: bool = True) -> Rule:
    """One tensor with a number added to each weight: norms that are stored as the difference from one.

    In float16 the number is rounded to float16 first, as torch does.

    source: in the checkpoint.
    target: in GGUF.
    shape: of both.
    by: the number.
    required: whether a model must have it.
    """
    return mapped(
        same(source, target, shape, required=required),
        lambda numbers: numbers + numbers.dtype.type(by),
        lambda numbers: numbers - numbers.dtype.type(by),
    )


def negative_exponential(rule: Rule) -> Rule:
    """A rule whose result is -exp(x), correctly rounded: state-space models store the logarithm of A.

    rule: the rule without it.
    """
    return mapped(
        rule,
        lambda numbers: -np.exp(numbers.astype(np.float64)).astype(np.float32).astype(numbers.dtype),
        lambda numbers: np.log(-numbers.astype(np.float64)).astype(numbers.dtype),
    )


def scaled(numbers: Numbers, *factors: float) -> Numbers:
    """The product with one number after the other, each time in float32, rounded to the type of the source.

    numbers: float32 or float16.
    factors: rounded to float32 first, as torch does.
    """
    for factor in factors:
        numbers = (numbers.astype(np.float32) * np.float32(factor)).astype(numbers.dtype)
    return numbers


def padded(source: str, target: str, rows: int, new_rows: int, n_in: int, *, required: bool = True) -> Rule:
    """A matrix with rows of zeros appended.

    source: in the checkpoint.
    target: in GGUF.
    rows: in the checkpoint.
    new_rows: in GGUF.
    n_in: columns.
    required: whether a model must have it.
    """

    def forward(views: Views) -> Views:
        if new_rows == rows:
            return views
        zeros = Constant((new_rows - rows, n_in), views[0].format)
        return (stacked((views[0], zeros), (new_rows, n_in)),)

    return Rule(
        (Part(source, (rows, n_in)),),
        (Part(target, (new_rows, n_in)),),
        forward,
        lambda views: (part_of(views[0], 0, rows, (rows, n_in)),),
        required,
    )


def sliced(
    source: str, target: str, rows: int, start: int, stop: int, rest: Shape = (), *, required: bool = True
) -> Rule:
    """Some rows of a tensor; there is no way back, since the others are lost.

    source: in the checkpoint.
    target: in GGUF.
    rows: in the checkpoint.
    start: the first row that is kept.
    stop: the row after the last one.
    rest: all axes but the first.
    required: whether a model must have it.
    """
    inner = math.prod(rest[:-1])
    kept = (stop - start, *rest)
    return Rule(
        (Part(source, (rows, *rest)),),
        (Part(target, kept),),
        lambda views: (part_of(views[0], start * inner, stop * inner, kept),),
        None,
        required,
    )


def picked(
    source: str, target: str, rows: Sequence[int], n: int, n_in: int, *,
    whole: str | None = None, required: bool = True,
) -> Rule:  # fmt: skip
    """Single rows of a matrix, in a given order; there is a way back only where the matrix is kept, too.

    source: in the checkpoint.
    target: in GGUF, of the rows.
    rows: their numbers in the matrix.
    n: rows of the matrix.
    n_in: columns.
    whole: in GGUF, the name of the whole matrix; None if it is left out.
    required: whether a model must have it.
    """
    numbers = np.asarray(rows, np.int64)
    shape = (len(rows), n_in)
    kept = () if whole is None else (Part(whole, (n, n_in)),)

    def forward(views: Views) -> Views:
        chosen = Rows(views[0], shape, lambda wanted: numbers[wanted])
        return (chosen,) if whole is None else (views[0], chosen)

    return Rule(
        (Part(source, (n, n_in)),),
        (*kept, Part(target, shape)),
        forward,
        None if whole is None else lambda views: (views[0],),
        required,
    )


def folded(
    sources: Sequence[Part], target: Part, function: Callable[..., Numbers], *, required: bool = True
) -> Rule:
    """A small tensor computed from whole ones, in float32; there is no way back.

    sources: in the checkpoint.
    target: in GGUF.
    function: arrays in the sources' shapes, float32 or float16 -> float32 array of the target's shape.
    required: whether a model must have it.
    """
    return Rule(
        tuple(sources),
        (target,),
        lambda views: (Fold(tuple(views), target.shape, FORMATS["f32"], function),),
        None,
        required,
    )
