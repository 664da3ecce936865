"""What a version of the peer's converter is made of, as digests, and what another version changes.

Every function, method and assignment of its Python files has a digest of its syntax tree: docstrings,
comments, annotations, layout and places do not count. What has changed affects the model classes that
inherit it.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

DIGESTS = Path(__file__).resolve().parents[2] / "fixtures" / "peer_digests.json"
FILES = ("conversion/*.py", "gguf-py/gguf/*.py", "convert_hf_to_gguf.py")
"""Of the peer's tree."""
_WITHOUT = ("annotation", "returns", "type_comment", "type_params", "type_ignores", "ctx", "kind")
"""Fields of syntax trees that say nothing of what is done."""
_PROJECTOR = "MmprojModel"
_TABLE = "TEXT_MODEL_MAP"
"""The peer's own table of model classes: a few there stand for the class that their configuration names."""
_Function = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Digests:
    """peer: which version; sdist_sha256: of its source archive; files: path -> "Class.method", "Class" (its
    bases and what else its body has), "function" or "NAME" -> digest; classes: the model classes (but those
    of projectors) that it registers.
    """

    peer: str
    sdist_sha256: str
    files: Mapping[str, Mapping[str, str]]
    classes: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Digests:
        contents = json.loads(path.read_text(encoding="utf-8"))
        return cls(contents["peer"], contents["sdist_sha256"], contents["files"], tuple(contents["classes"]))

    def write(self, path: Path) -> None:
        """A file to a line."""
        files = ",\n".join(
            f"  {json.dumps(name)}: {json.dumps(entries, separators=(',', ':'))}"
            for name, entries in self.files.items()
        )
        head = {"peer": self.peer, "sdist_sha256": self.sdist_sha256, "classes": self.classes}
        text = json.dumps(head, separators=(",\n ", ": "))[1:-1]
        path.write_text(f'{{\n {text},\n "files": {{\n{files}\n }}\n}}\n', encoding="utf-8")


@dataclass(frozen=True)
class Change:
    """file, name: as in `Digests.files`; kind: changed, new or gone; classes: the model classes that it
    affects (empty for what is no part of a class and is named by none).
    """

    file: str
    name: str
    kind: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class _Class:
    """A class of the peer's source."""

    file: str
    bases: tuple[str, ...]
    registered: tuple[str, ...]
    methods: Mapping[str, ast.AST]
    body: tuple[ast.AST, ...]


class Source:
    """The peer's converter.

    tree: its directory, with conversion/ inside. Raises ValueError if that is not there, or is no Python.
    """

    def __init__(self, tree: Path) -> None:
        self._entries: dict[str, dict[str, str]] = {}
        self._classes: dict[str, _Class] = {}
        self._listed: set[str] = set()
        for pattern in FILES:
            for path in sorted(tree.glob(pattern)):
                try:
                    parsed = ast.parse(path.read_text(encoding="utf-8"))
                except SyntaxError as error:
                    raise ValueError(f"{path}: {error}") from error
                name = path.relative_to(tree).as_posix()
                self._entries[name] = dict(_entries(parsed))
                self._listed |= set(_listed(parsed)) if name == "conversion/__init__.py" else set()
                if name.startswith("conversion/"):
                    self._classes |= {
                        c.name: _class(name, c) for c in parsed.body if isinstance(c, ast.ClassDef)
                    }
        if not self._classes:
            raise ValueError(f"{tree}: there is no conversion/*.py")

    def digests(self, peer: str, sdist_sha256: str) -> Digests:
        """What is kept of it."""
        return Digests(peer, sdist_sha256, self._entries, self.classes)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The model classes that it lists or registers, without those of projectors, sorted."""
        return tuple(sorted(self._listed | {name for c in self._classes for name in self._registered(c)}))

    def changes(self, old: Digests) -> Iterator[Change]:
        """What another version has otherwise, and whom it affects here.

        old: the other version.
        """
        for file in sorted(self._entries.keys() | old.files.keys()):
            a, b = old.files.get(file, {}), self._entries.get(file, {})
            for name in sorted(a.keys() | b.keys()):
                if a.get(name) != b.get(name):
                    kind = "new" if name not in a else "gone" if name not in b else "changed"
                    yield Change(file, name, kind, self._affected(file, name))

    def _affected(self, file: str, name: str) -> tuple[str, ...]:
        """The model classes that may behave otherwise."""
        owner, _, method = name.partition(".")
        if file.startswith("conversion/") and owner in self._classes:
            users = [c for c in self._classes if self._uses(c, owner, method)]
        elif method:
            return ()  # of a class that is gone, or no part of the converters
        else:
            users = [c for c in self._classes if any(owner in self._mentions[b] for b in self._order(c))]
        return tuple(sorted({cls for user in users for cls in self._registered(user)}))

    def _uses(self, name: str, owner: str, method: str) -> bool:
        """Whether a class runs a method of `owner` (any part of it, for "")."""
        order = self._order(name)
        for base in order:
            names = self._mentions[base]
            named = names & self._classes.keys() if not method or method in names else ()
            if any(owner in self._order(c) for c in named):  # perhaps called by the name of a class
                return True
        if owner not in order:
            return False
        replaced = [self._classes[base].methods.get(method) for base in order[: order.index(owner)]]
        return all(own is None or _passes_on(own, method) for own in replaced)

    def _order(self, name: str) -> list[str]:
        """Of the resolution of methods: the class, then its bases; only those of the source."""
        return [c.__name__ for c in self._mirrors[name].__mro__ if c.__name__ in self._classes]

    def _registered(self, name: str) -> tuple[str, ...]:
        is_projector = _PROJECTOR in self._order(name)
        return () if is_projector else self._classes[name].registered

    @cached_property
    def _mentions(self) -> dict[str, set[str]]:
        """The names that each class's own code has, but for its bases."""
        found = {}
        for name, entry in self._classes.items():
            nodes = [node for part in entry.body for node in ast.walk(part)]
            names = {node.id for node in nodes if isinstance(node, ast.Name)}
            found[name] = names | {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        return found

    @cached_property
    def _mirrors(self) -> dict[str, type]:
        """An empty class for each, with the same bases, so that Python itself finds the order."""
        made: dict[str, type] = {}

        def mirror(name: str, within: tuple[str, ...] = ()) -> type:
            if name not in made:
                bases = [b for b in self._classes[name].bases if b in self._classes and b not in within]
                made[name] = type(name, tuple(mirror(b, (*within, name)) for b in bases), {})
            return made[name]

        for name in self._classes:
            mirror(name)
        return made


def _class(file: str, node: ast.ClassDef) -> _Class:
    registered = [
        argument.value
        for call in node.decorator_list
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "register"
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    ]
    bases = [base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases]
    methods = {part.name: part for part in node.body if isinstance(part, _Function)}
    return _Class(file, tuple(bases), tuple(registered), methods, tuple(node.body))


def _listed(module: ast.Module) -> Iterator[str]:
    """The keys of the table of model classes."""
    for part in module.body:
        if isinstance(part, ast.Assign | ast.AnnAssign) and _assigned(part) == _TABLE:
            keys = part.value.keys if isinstance(part.value, ast.Dict) else []
            yield from (str(key.value) for key in keys if isinstance(key, ast.Constant))


def _entries(module: ast.Module) -> Iterator[tuple[str, str]]:
    """Names and digests of a module; parts with the same name (overloads, properties) count together."""
    found: dict[str, list[ast.AST]] = {}
    for part in _without_docstring(module.body):
        if isinstance(part, ast.ClassDef):
            own: list[ast.AST] = [*part.bases, *part.keywords, *part.decorator_list]
            for inner in _without_docstring(part.body):
                if isinstance(inner, _Function):
                    found.setdefault(f"{part.name}.{inner.name}", []).append(inner)
                else:
                    own.append(inner)
            found.setdefault(part.name, []).extend(own)
        elif isinstance(part, _Function):
            found.setdefault(part.name, []).append(part)
        elif not isinstance(part, ast.Import | ast.ImportFrom):
            found.setdefault(_assigned(part) or "(module)", []).append(part)
    for name, parts in found.items():
        text = "\n".join(map(_text, parts))
        yield name, hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _assigned(part: ast.stmt) -> str | None:
    """The name that a statement gives a value to."""
    if isinstance(part, ast.AnnAssign | ast.AugAssign):
        targets: list[ast.expr] = [part.target]
    else:
        targets = part.targets if isinstance(part, ast.Assign) else []
    return targets[0].id if len(targets) == 1 and isinstance(targets[0], ast.Name) else None


def _text(node: Any) -> str:
    """A syntax tree in words that are the same for every version of Python."""
    if isinstance(node, list):
        return f"[{', '.join(map(_text, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = []
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(node, (*_Function, ast.ClassDef)):
            value = _without_docstring(value)
        if name not in _WITHOUT and (isinstance(node, ast.Constant) or (value is not None and value != [])):
            fields.append(f"{name}={_text(value)}")
    return f"{type(node).__name__}({', '.join(fields)})"


def _without_docstring(body: Iterable[ast.stmt]) -> list[ast.stmt]:
    body = list(body)
    first = body[0] if body else None
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return body[1:] if is_text and isinstance(first.value.value, str) else body  # type: ignore[union-attr]


def _passes_on(function: ast.AST, method: str) -> bool:
    """Whether a method calls the one that it replaces, through super()."""
    return any(
        isinstance(node, ast.Attribute)
        and node.attr == method
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "super"
        for node in ast.walk(function)
    )
