"""Rules about what the metadata of a model means, of all kinds: G-001 to G-017."""

from __future__ import annotations

from collections.abc import Iterator

from gguflow.errors import Finding
from gguflow.validation.architectures import judge_architecture
from gguflow.validation.general import judge_general
from gguflow.validation.model import Facts
from gguflow.validation.tokenizer import judge_tokenizer


def judge_meaning(facts: Facts, as_read: Facts | None = None, *, strict: bool) -> Iterator[Finding]:
    """Findings about the keys of a model, and about its tensors as the keys have them.

    facts: of the model, all its files together.
    as_read: the same with the shapes that payloads decode to, where there are some.
    strict: whether the validator's strictest level is asked for.
    """
    yield from judge_general(facts)
    yield from judge_tokenizer(facts, strict=strict)
    yield from judge_architecture(facts if as_read is None else as_read)
