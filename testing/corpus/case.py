"""One case of the corpus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """A file (with the siblings it needs) and what must be said of it.

    id: also the file's name, with `suffix`. category: H01 to F18, the kinds of broken file of
    fixtures/README.md; "" for another. rules: every rule that a finding names, in order, warnings too. name:
    of the file where its name matters. siblings: further files beside it, by name. level: to validate at.
    limits: other limits than the default ones. upstream: the case of ggml's tests/test-gguf.cpp that has the
    same defect. note: why, where the id does not say it.
    """

    id: str
    category: str
    content: bytes
    rules: tuple[str, ...] = ()
    verdict: str = "valid"
    level: str = "structure"
    suffix: str = ".gguf"
    name: str = ""
    siblings: Mapping[str, bytes] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    upstream: str = ""
    note: str = ""

    @property
    def kind(self) -> str:
        """The directory that it lies in: edge files are good, and unusual enough that strict readers refuse
        them.
        """
        return "valid" if self.verdict == "valid" else "invalid"


def malformed(id: str, category: str, content: bytes, rule: str = "C-004", **more: object) -> Case:
    return Case(id, category, content, (rule,), "malformed", **more)  # type: ignore[arg-type]


def unsupported(id: str, category: str, content: bytes, *rules: str, **more: object) -> Case:
    return Case(id, category, content, rules, "unsupported", **more)  # type: ignore[arg-type]


def invalid(id: str, category: str, content: bytes, *rules: str, **more: object) -> Case:
    return Case(id, category, content, rules, "invalid", **more)  # type: ignore[arg-type]


def valid(id: str, category: str, content: bytes, *rules: str, **more: object) -> Case:
    """rules: of the warnings."""
    return Case(id, category, content, rules, "valid", **more)  # type: ignore[arg-type]


def limit(id: str, category: str, content: bytes, *rules: str, **more: object) -> Case:
    return Case(id, category, content, rules, "limit", **more)  # type: ignore[arg-type]
