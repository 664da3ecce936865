"""An output judged by the rules that `gguflow validate` holds files to, at its level `structure`: the meaning
of its keys when it is planned, its header before the file gets its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from gguflow.blocks import block_sizes
from gguflow.container import rules
from gguflow.container.header import MAGIC, TensorInfo, parse
from gguflow.container.integrity import HEADER_KEY, NAMESPACE
from gguflow.container.metadata import Metadata, ValueType
from gguflow.container.shards import judge_keys
from gguflow.container.strings import quoted
from gguflow.container.verification import header_digest
from gguflow.conversion.plan import Plan
from gguflow.errors import FileWarning, Finding, InvalidError, UsageError
from gguflow.models.base import Model
from gguflow.recipes import Options
from gguflow.sources.base import SourceFile
from gguflow.sources.safetensors import prove
from gguflow.validation.meaning import judge_meaning
from gguflow.validation.model import Facts

_ARCHITECTURE = "general.architecture"
_OF_SHARDS = "split."
_FILE_TYPE = "G-008"
_FILE_TYPE_KEY = "general.file_type"


def check_meaning(
    plan: Plan, model: Model, options: Options | None, path: Path, *, is_understood: bool
) -> Iterator[FileWarning]:
    """Check the keys of a planned output, and its tensors against them. Yields a warning for each rule that
    the source already breaks.

    plan: of the whole output.
    model: from which it is made.
    options: with the overrides, which are checked too.
    path: of the source.
    is_understood: whether gguflow made the keys; False if they are those of a GGUF file, or almost none.

    Raises UsageError for a rule that only an override breaks, InvalidError for a rule that keys made by
    gguflow break.
    """
    overrides = options.overrides if options is not None else {}
    _check_kept_by_us(overrides)
    own = {key: value for key, value in plan.metadata.items() if key not in overrides}
    own |= {key: model.metadata[key] for key in overrides if key in model.metadata}
    judged = list(_judged(plan, model, own))
    is_copied = plan.metadata.get(_FILE_TYPE_KEY) == model.metadata.get(_FILE_TYPE_KEY)
    for finding in judged:
        if finding.rule == _FILE_TYPE and finding.severity == "warning" and not is_copied:
            yield FileWarning(str(path), _with_reason(finding, plan))
    known = [finding for finding in judged if finding.severity == "error"]
    for finding in known:
        if is_understood:
            raise InvalidError("the output", finding)
        yield FileWarning(str(path), finding)
    if not overrides:
        return
    _check_architecture(plan.metadata, own)
    said = {(finding.rule, finding.message) for finding in known}
    for finding in _judged(plan, model, plan.metadata):
        if finding.severity == "error" and (finding.rule, finding.message) not in said:
            raise UsageError(f"--override-kv would make the output invalid: {finding}")


def check_header(plan: Plan, content: bytes, path: Path) -> None:
    """Check the header that is about to be written, by the rules of its format: GGUF or safetensors.

    plan: of the file, as it was carried out.
    content: the header.
    path: of the file.

    Raises InvalidError and its siblings for the first rule that the file would break.
    """
    if not content.startswith(MAGIC):
        prove(content[8:], SourceFile(path, plan.nbytes, 0))
        return
    header = parse(content, str(path))
    rules.raise_first(path, rules.judge(header, block_sizes, plan.nbytes))
    rules.raise_first(path, judge_keys(header, path))
    if header.metadata.keys() != plan.metadata.keys() or header.tensors != plan.infos:
        raise InvalidError(path, Finding("W-002", "the header does not say what was planned"))
    digest = header.metadata.get(HEADER_KEY)
    if digest is not None and digest.value != header_digest(header, memoryview(content)):
        raise InvalidError(path, Finding("I-005", "the header does not have its own digest"))


def _with_reason(finding: Finding, plan: Plan) -> Finding:
    """A finding that the format of the recipe does not occur, with what the first matrix has in its place."""
    first = next((planned for planned in plan.tensors if len(planned.shape) > 1), None)
    if first is None:
        return finding
    reason = f"{first.name} is {first.format}: {first.rule}"
    return replace(finding, message=f"{finding.message} ({reason})")


def _judged(plan: Plan, model: Model, metadata: Metadata) -> Iterator[Finding]:
    """Findings about the keys. A payload that is copied is judged by the shape that it decodes to."""
    shapes = {tensor.name: tensor.shape for tensor in model.tensors}
    tensors = {
        planned.name: (
            TensorInfo(planned.name, shapes[planned.name][::-1], planned.blocks.id, planned.offset),
            f"$.tensors[{i}]",
        )
        for i, planned in enumerate(plan.tensors)
    }
    return judge_meaning(Facts(metadata, tensors), strict=False)


def _check_kept_by_us(keys: Iterable[str]) -> None:
    """Refuse keys whose values are made when a file is written. Raises UsageError."""
    for key in keys:
        if key.startswith((NAMESPACE, _OF_SHARDS)):
            raise UsageError(
                f"--override-kv would make the output invalid: {quoted(key)} says how a file was written, "
                f"and all keys under {NAMESPACE} and {_OF_SHARDS} are made by gguflow itself; leave it out "
                "(--no-integrity leaves out digests, --split-max-size makes shards)"
            )


def _check_architecture(metadata: Metadata, own: Metadata) -> None:
    """Refuse another name for a family if the keys of the model still use the old one.

    Raises UsageError.
    """
    before, after = own.get(_ARCHITECTURE), metadata.get(_ARCHITECTURE)
    if before is None or after is None or before.type is not ValueType.STRING or before.value == after.value:
        return
    left = [key for key in metadata if key.startswith(f"{before.value}.")]
    if left and not any(key.startswith(f"{after.value}.") for key in metadata):
        raise UsageError(
            f"--override-kv would make the output invalid: {_ARCHITECTURE} would be {after.value!r}, and the "
            f"keys of the model are those of {before.value!r} ({left[0]}, ...)"
        )
