"""The tensors of a GGUF file as their checkpoint had them: the rules of the family, read backwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gguflow.container.header import without_leading_ones
from gguflow.container.metadata import Metadata, ValueType
from gguflow.errors import Finding, InvalidError
from gguflow.models.architecture import Architecture, of_view
from gguflow.models.base import Model, ModelTensor
from gguflow.models.orders import Order
from gguflow.models.parameters import Parameters
from gguflow.models.rules import Part, Rule, unchanged
from gguflow.models.views import Leaf, Reshape, Shape, View
from gguflow.sources.base import json_path

TOKENS = "tokenizer.ggml.tokens"


@dataclass(frozen=True)
class HfTensor:
    """A tensor of a checkpoint, and the GGUF tensors that hold it.

    name: in the checkpoint.
    shape: in the checkpoint.
    gguf_names: in the file.
    build: views of the GGUF tensors -> the view of the checkpoint's.
    expert: its index in the first axis of the only GGUF tensor, if that is all it is; else None.
    order: for each row, the stored row, if the only GGUF tensor differs by this alone; else None.
    is_same: whether it is the only GGUF tensor, unchanged.
    """

    name: str
    shape: Shape
    gguf_names: tuple[str, ...]
    build: Callable[[Sequence[View]], View]
    expert: int | None = None
    order: Order | None = None
    is_same: bool = False


def file_parameters(
    architecture: Architecture, metadata: Metadata, shapes: Mapping[str, Shape], path: Path
) -> Parameters:
    """The hyper-parameters of a GGUF file.

    architecture: its family.
    metadata: of the file.
    shapes: of the stored tensors by name.
    path: of the file, for messages.
    """
    tokens = metadata.get(TOKENS)
    n_tokens = len(tokens.value) if tokens is not None and tokens.type is ValueType.ARRAY else 0
    stored = shapes.get("token_embd.weight", ())
    return Parameters(architecture.name, metadata, stored[0] if stored else n_tokens, path)


def originals(
    metadata: Metadata, architecture: Architecture | None, shapes: Mapping[str, Shape], path: Path
) -> Iterator[HfTensor]:
    """The tensors of a GGUF file as transformers has them: experts one by one, rows in its order.

    Tensors that the architecture computes are left out; unknown ones keep their names.

    metadata: of the file.
    architecture: its family; None keeps all names.
    shapes: of the stored tensors by name, in the file's order.
    path: of the file, for messages.

    Raises InvalidError if rows must be put in order, and hyper-parameters for it are missing (M-002) or
    contradict the stored shapes (M-003).
    """
    rules: dict[str, Rule] = {}
    missing: set[str] = set()
    if architecture is not None:
        parameters = replace(file_parameters(architecture, metadata, shapes, path), missing=missing)
        for rule in architecture.rules(parameters):
            if isinstance(rule, Rule) and rule.backward is not None:
                _note(rule, rules, shapes)
    done: set[str] = set()
    for stored, shape in shapes.items():
        if stored in done or (architecture is not None and architecture.is_computed(stored)):
            continue
        if stored not in rules:
            yield _kept(stored, shape)
            continue
        rule = rules[stored]
        done |= {part.name for part in rule.targets}
        yield from _backwards(rule, shapes, path, missing)


def _note(rule: Rule, rules: dict[str, Rule], shapes: Mapping[str, Shape]) -> None:
    """Keep a rule for its targets, if all are there; of several, the first that fits the shapes."""
    names = [part.name for part in rule.targets]
    if not all(name in shapes for name in names):
        return
    known = rules.get(names[0])
    if known is None or (not _fits(known, shapes) and _fits(rule, shapes)):
        rules |= dict.fromkeys(names, rule)


def _fits(rule: Rule, shapes: Mapping[str, Shape]) -> bool:
    return all(
        without_leading_ones(shapes[part.name]) == without_leading_ones(part.shape) for part in rule.targets
    )


def _kept(name: str, shape: Shape) -> HfTensor:
    return HfTensor(name, shape, (name,), lambda views: views[0], is_same=True)


def _backwards(rule: Rule, shapes: Mapping[str, Shape], path: Path, missing: set[str]) -> Iterator[HfTensor]:
    """The sources of a rule."""
    names = tuple(part.name for part in rule.targets)
    if rule.backward is unchanged:
        for source, target in zip(rule.sources, names, strict=True):
            yield _same(source, target, shapes[target])
        return
    if missing or not _fits(rule, shapes):
        raise _contradiction(rule, shapes, path, missing)
    for i, source in enumerate(rule.sources):
        yield HfTensor(
            source.name,
            source.shape,
            names,
            _builder(rule, i),
            expert=i if rule.is_stack else None,
            order=rule.order.inverse if rule.order is not None else None,
        )


def _same(source: Part, target: str, stored: Shape) -> HfTensor:
    """A tensor that is stored as it was, but for dimensions of one at the front."""
    shape = source.shape
    if stored == shape or without_leading_ones(stored) != without_leading_ones(shape):
        return HfTensor(source.name, stored, (target,), lambda views: views[0], is_same=True)
    return HfTensor(source.name, shape, (target,), lambda views: Reshape(views[0], shape))


def _contradiction(rule: Rule, shapes: Mapping[str, Shape], path: Path, missing: set[str]) -> InvalidError:
    part = next(
        (
            part
            for part in rule.targets
            if without_leading_ones(shapes[part.name]) != without_leading_ones(part.shape)
        ),
        rule.targets[0],
    )
    if missing:
        message = f"the rows of {part.name} cannot be put in order without {', '.join(sorted(missing))}"
        where = f"$.metadata[{min(missing)!r}]"
        return InvalidError(path, Finding("M-002", message, where))
    message = f"the shape of {part.name} contradicts the hyper-parameters, so its rows cannot be put in order"
    found, expected = list(shapes[part.name]), list(part.shape)
    return InvalidError(path, Finding("M-003", message, json_path(part.name), found=found, expected=expected))


def _builder(rule: Rule, i: int) -> Callable[[Sequence[View]], View]:
    def build(views: Sequence[View]) -> View:
        if rule.backward is None:
            raise TypeError("no way back")
        whole = [
            view if view.shape == part.shape else Reshape(view, part.shape)
            for view, part in zip(views, rule.targets, strict=True)
        ]
        return rule.backward(whole)[i]

    return build


def original_tensors(model: Model, architecture: Architecture | None, path: Path) -> tuple[ModelTensor, ...]:
    """The tensors of a GGUF file with the names, shapes and rows of `originals`.

    model: of the file.
    architecture: its family; None keeps all names.
    path: of the file, for messages.

    Raises what `originals` raises.
    """
    stored = {tensor.name: tensor for tensor in model.tensors}
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    found = []
    for tensor in originals(model.metadata, architecture, shapes, path):
        views = [Leaf(stored[name].sources[0]) for name in tensor.gguf_names]
        found.append(of_view(tensor.name, _shaped(tensor.build(views), stored[tensor.gguf_names[0]], tensor)))
    return tuple(found)


def _shaped(view: View, stored: ModelTensor, tensor: HfTensor) -> View:
    """A view in the shape that the stored tensor was given, which may differ from that in the file."""
    if tensor.is_same and view.shape != stored.shape:
        return Reshape(view, stored.shape)
    return view
