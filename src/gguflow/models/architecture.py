"""The declaration of a family of models, and the matching of a checkpoint's tensors against its rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gguflow.container.metadata import Metadata
from gguflow.errors import Finding, InvalidError, warn
from gguflow.models.base import ModelTensor
from gguflow.models.documents import Document
from gguflow.models.next_tokens import left_out
from gguflow.models.parameters import Parameters
from gguflow.models.refusals import missing_tensor_hint, require_numbers, unknown_tensor_hint
from gguflow.models.rules import Given, Rule
from gguflow.models.text_parts import is_of_other_inputs
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.models.views import Leaf, View
from gguflow.sources.base import Checkpoint, SourceTensor, json_path

Rules = Iterable[Rule | Given]


DECODER_KEYS = (
    *("block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count"),
    "attention.layer_norm_rms_epsilon",
)
"""The keys that nearly all decoders have."""


def _same_name(name: str, config: Document) -> str | None:
    return name


@dataclass(frozen=True)
class Architecture:
    """A family of models.

    name: its `general.architecture`.
    classes: the names in config.json's "architectures" that select it.
    metadata: (config, directory) -> the hyper-parameters' keys, in llama.cpp's order.
    rules: parameters -> the rules for its tensors.
    tokenizer: tokenizer files -> the tokenizer's keys, in llama.cpp's order.
    rename: (checkpoint's tensor name, config) -> the name that the rules use; None for a tensor that is left
        out.
    skipped: regular expressions; (renamed) tensors that fully match one of them are left out.
    required: keys (after the name) that every file of the family has.
    computed: regular expressions for the names of tensors that no checkpoint holds (rope frequencies).
    choose: config, directory -> the family that a checkpoint of these classes really is, where its
        configuration decides; None if it is always this one.
    copies: tuples of (renamed) tensors that are one and the same; only the first that is there counts.
    measured: regular expressions; (renamed) tensors that fully match one of them are hyper-parameters.
    measure: those tensors, each float32[n], and the other hyper-parameters -> their keys.
    n_blocks: hyper-parameters -> the number of blocks that a file has tensors of; None if it is block_count.
    is_unnamed: whether its classes are called so here only, as the checkpoints have no config.json.
    is_main: whether this family stands for `name` when a GGUF file is judged or exported; others share it.
    """

    name: str
    classes: tuple[str, ...]
    metadata: Callable[[Document, Path], Metadata]
    rules: Callable[[Parameters], Rules]
    tokenizer: Callable[[TokenizerFiles], Metadata]
    rename: Callable[[str, Document], str | None] = _same_name
    skipped: tuple[str, ...] = ()
    required: tuple[str, ...] = DECODER_KEYS
    computed: tuple[str, ...] = ()
    choose: Callable[[Document, Path], Architecture] | None = field(default=None, compare=False)
    copies: tuple[tuple[str, ...], ...] = ()
    measured: tuple[str, ...] = ()
    measure: Callable[[Mapping[str, NDArray[np.float32]], Parameters], Metadata] | None = None
    n_blocks: Callable[[Parameters], int] | None = field(default=None, compare=False)
    is_main: bool = True
    is_unnamed: bool = False

    def is_skipped(self, name: str) -> bool:
        """Whether a tensor of a checkpoint is left out.

        name: after `rename`.
        """
        return self._skipped.fullmatch(name) is not None

    def is_measured(self, name: str) -> bool:
        """Whether a tensor of a checkpoint is a hyper-parameter.

        name: after `rename`.
        """
        return bool(self.measured) and re.fullmatch("|".join(self.measured), name) is not None

    def is_computed(self, name: str) -> bool:
        """Whether a tensor of a GGUF file is one that no checkpoint holds.

        name: in GGUF.
        """
        return bool(self.computed) and re.fullmatch("|".join(self.computed), name) is not None

    @cached_property
    def _skipped(self) -> re.Pattern[str]:
        return re.compile(
            "|".join(f"(?:{pattern})" for pattern in (*ALWAYS_SKIPPED, *self.skipped, *self.measured))
        )


ALWAYS_SKIPPED = (r".*\.attention\.masked_bias", r".*\.attention\.bias", r".*\.rotary_emb\.inv_freq")
"""Constants that old checkpoints have beside their weights."""


def class_name(config: Document) -> str:
    """The first class that config.json names. Raises InvalidError (M-002, M-003)."""
    names = config.items("architectures")
    if not names:
        raise config.missing("architectures")
    if not isinstance(names[0], str):
        raise config.wrong("architectures", names[0], "a string", index=0)
    return names[0]


@dataclass
class _Match:
    """A rule, and those of its sources that were found, by their position."""

    rule: Rule
    parts: dict[int, SourceTensor]


def match_tensors(
    architecture: Architecture, checkpoint: Checkpoint, config: Document, parameters: Parameters
) -> tuple[ModelTensor, ...]:
    """The computed tensors, then those of the checkpoint under their GGUF names, in the checkpoint's order.

    architecture: the family.
    checkpoint: the tensors.
    config: config.json.
    parameters: the hyper-parameters.

    Raises InvalidError for a tensor that is missing (M-010), unknown (M-011), has a shape that contradicts
    the hyper-parameters (M-012) or occurs twice (M-013), and for parts of different dtypes (M-015).
    """
    listed = list(architecture.rules(parameters))
    rules = [rule for rule in listed if isinstance(rule, Rule)]
    places: dict[str, list[tuple[int, int]]] = {}
    for number, rule in enumerate(rules):
        for position, part in enumerate(rule.sources):
            places.setdefault(part.name, []).append((number, position))

    def known(name: str) -> str | None:
        """The name that the rules use; bare models lack the prefix of the model inside."""
        renamed = architecture.rename(name, config)
        if renamed is None or (not config.next_tokens and left_out(renamed, config)):
            return None
        return f"model.{renamed}" if renamed not in places and f"model.{renamed}" in places else renamed

    present = {known(name) for name in checkpoint.tensors} if architecture.copies else set()
    copies = {
        name for group in architecture.copies for name in [name for name in group if name in present][1:]
    }
    matches: dict[int, _Match] = {}
    others: list[SourceTensor] = []
    for source in checkpoint.tensors.values():
        name = known(source.name)
        if name is None or name in copies or architecture.is_skipped(name):
            others += [source] if is_of_other_inputs(source.name) else []
            continue
        if name not in places:
            hint = unknown_tensor_hint(source, checkpoint, lambda name: known(name) in places)
            hint = _expert_hint(name, places, parameters) or hint
            raise _tensor_error(source, "M-011", f"{architecture.name} has no tensor {source.name!r}{hint}")
        number, position = _chosen(places[name], rules, source)
        rule = rules[number]
        if not rule.integers:
            require_numbers(source)
        shape = rule.sources[position].shape
        match = matches.setdefault(number, _Match(rule, {}))
        if position in match.parts:
            raise _tensor_error(source, "M-013", f"{source.name!r} is a second {rule.targets[0].name}")
        if source.shape != shape:
            message = (
                f"the shape of {rule.targets[0].name} contradicts the hyper-parameters in {config.file.name}"
            )
            if absent := sorted(config.defaults.keys() - config.values.keys()):
                message += f" (with the class's defaults for {', '.join(absent[:8])})"
            raise _tensor_error(source, "M-012", message, shape)
        if match.parts and source.dtype != next(iter(match.parts.values())).dtype:
            raise _tensor_error(source, "M-015", "what becomes one tensor has different dtypes")
        match.parts[position] = source
    if others:
        what = f"{len(others)} tensors of parts that see, hear or speak are left out ({others[0].name}, ...)"
        finding = Finding("M-054", f"{what}: the text model is converted alone", json_path(others[0].name))
        warn(others[0].file.path, finding)
    found = [tensor for match in matches.values() for tensor in _built(checkpoint, match)]
    _refuse_doubles(found, checkpoint)
    _refuse_missing(architecture, checkpoint, config, listed, {tensor.name for tensor in found})
    return _given(listed) + tuple(found)


def _chosen(places: list[tuple[int, int]], rules: list[Rule], source: SourceTensor) -> tuple[int, int]:
    """The rule for a tensor: of several with its name, the one with its shape, else the first."""
    fitting = [
        (number, position)
        for number, position in places
        if rules[number].sources[position].shape == source.shape
    ]
    return (fitting or places)[0]


def _given(listed: list[Rule | Given]) -> tuple[ModelTensor, ...]:
    return tuple(
        ModelTensor(given.name, given.shape, values=given.values)
        for given in listed
        if isinstance(given, Given) and given.values is not None
    )


def _built(checkpoint: Checkpoint, match: _Match) -> Iterator[ModelTensor]:
    """The tensors that a rule makes of its sources. Raises InvalidError (M-010) if one is missing."""
    rule, parts = match.rule, match.parts
    if len(parts) < len(rule.sources):
        position = next(i for i in range(len(rule.sources)) if i not in parts)
        part, target = rule.sources[position], rule.targets[0]
        message = f"{target.name}: {part.name} is missing, of {len(rule.sources)} tensors that it is made of"
        if re.search(rf"\.{position}\.", part.name):
            message = f"{target.name}: expert {position} is missing ({part.name})"
        raise InvalidError(
            checkpoint.path,
            Finding(
                "M-010",
                message,
                json_path(target.name),
                found=f"{len(parts)} tensors",
                expected=len(rule.sources),
            ),
        )
    views = rule.forward([Leaf(parts[i]) for i in range(len(rule.sources))])
    for view, target in zip(views, rule.targets, strict=True):
        yield of_view(target.name, view)


def of_view(name: str, view: View) -> ModelTensor:
    """A tensor of the output; one that takes sources as they stand has them, and no view.

    name: in the output.
    view: of its weights.
    """
    plain = _plain_sources(view)
    if plain is not None:
        return ModelTensor(name, view.shape, plain)
    return ModelTensor(name, view.shape, view.sources, view=view)


def _plain_sources(view: View) -> tuple[SourceTensor, ...] | None:
    """The sources whose weights, one after the other, are the view's; None if it does more."""
    if isinstance(view, Leaf):
        return (view.source,)
    from gguflow.models.views import Concat, Reshape

    if isinstance(view, Reshape):
        return _plain_sources(view.view)
    if isinstance(view, Concat):
        parts = [_plain_sources(part) for part in view.views]
        return None if None in parts else tuple(source for part in parts if part for source in part)
    return None


def _refuse_doubles(tensors: list[ModelTensor], checkpoint: Checkpoint) -> None:
    seen: dict[str, ModelTensor] = {}
    for tensor in tensors:
        if tensor.name in seen:
            first, second = seen[tensor.name].sources[0], tensor.sources[0]
            message = f"{second.name!r} and {first.name!r} both are {tensor.name}"
            raise _tensor_error(second, "M-013", message)
        seen[tensor.name] = tensor


def _refuse_missing(
    architecture: Architecture,
    checkpoint: Checkpoint,
    config: Document,
    listed: list[Rule | Given],
    found: set[str],
) -> None:
    missing: dict[str, tuple[int, ...]] = {}
    for rule in listed:
        if isinstance(rule, Rule) and rule.is_required:
            missing |= {part.name: part.shape for part in rule.targets if part.name not in found}
    if missing:
        name, shape = next(iter(missing.items()))
        hint = missing_tensor_hint(name, len(missing), config)
        message = (
            f"{architecture.name} needs a tensor {name}, but no tensor of the checkpoint maps to it{hint}"
        )
        raise InvalidError(checkpoint.path, Finding("M-010", message, json_path(name), expected=list(shape)))


def _expert_hint(name: str, places: Mapping[str, object], parameters: Parameters) -> str:
    """The end of a message for an expert that the hyper-parameters do not have; "" for any other tensor."""
    match = re.fullmatch(r"(.*\.experts\.)(\d{1,9})(\..*)", name)
    if match is None or f"{match[1]}0{match[3]}" not in places:
        return ""
    return f": the hyper-parameters say {parameters.n_experts} experts"


def _tensor_error(
    source: SourceTensor, rule: str, message: str, expected: tuple[int, ...] | None = None
) -> InvalidError:
    """The error for a tensor that cannot be used; expected: the shape that it should have."""
    found = None if expected is None else list(source.shape)
    return InvalidError(
        source.file.path,
        Finding(rule, message, json_path(source.name), found=found, expected=expected and list(expected)),
    )
