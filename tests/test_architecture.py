"""The shape of the package, as rules that a test holds: who may import whom, what is loaded when, and what
kernels may not contain.

The tables are the rules; a new unit needs a row in UNITS, and nothing else here.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import gguflow
from gguflow.container import header
from gguflow.container.writer import build
from testing.checkpoints import TINY

PACKAGE = Path(gguflow.__file__).resolve().parent

GROUND = {"_version", "errors", "arguments", "arrays", "name_patterns"}
"""What every unit may import."""

UNITS: dict[str, set[str]] = {
    "_version": set(),
    "errors": set(),
    "arguments": set(),
    "name_patterns": set(),
    "arrays": set(),
    "platform": set(),
    "threads": {"platform"},
    "blocks": set(),
    "kernels": {"blocks", "platform"},
    "container": {"platform", "threads"},
    "parametric": {"blocks", "kernels", "threads"},
    "recipes": {"blocks"},
    "quantization": {"blocks", "kernels", "threads"},
    "fidelity": {"blocks", "kernels", "quantization", "threads"},
    "packed_matmul": {"blocks", "kernels", "quantization", "threads"},
    "sources": {"blocks", "container", "platform"},
    "models": {"blocks", "container", "platform", "quantization", "sources"},
    "rows": {"blocks", "container", "platform", "quantization"},
    "validation": {"blocks", "container", "models", "platform", "recipes", "rows", "sources", "threads"},
    "editing": {"blocks", "container", "platform", "recipes", "threads", "validation"},
    "conversion": {
        *("blocks", "container", "fidelity", "models", "platform", "quantization", "recipes", "sources"),
        *("threads", "validation"),
    },
    "comparison": {"blocks", "container", "models", "quantization", "sources", "threads"},
    "runtime": {
        *("blocks", "container", "models", "packed_matmul", "platform", "quantization", "rows"),
        *("threads", "validation"),
    },
    "inference": {"blocks", "models", "quantization", "threads"},
    "parametric/stages": {
        *("blocks", "container", "conversion", "kernels", "models", "packed_matmul", "parametric"),
        *("quantization", "rows", "runtime", "sources", "threads"),
    },
    "sources/quantized": {"blocks", "parametric", "parametric/stages", "platform", "sources"},
    "exporting": {
        *("blocks", "conversion", "models", "parametric", "parametric/stages", "platform", "sources"),
        "sources/quantized",
    },
    "torch": {"blocks", "quantization", "runtime"},
    "cli": {
        *("blocks", "comparison", "container", "conversion", "editing", "exporting", "inference", "models"),
        *("platform", "recipes", "rows", "sources", "validation"),
    },
}
"""Each module or subpackage of gguflow (or one inside it that stands higher), and those that it may import
beside GROUND. What stands under TYPE_CHECKING does not count, nor what is found by listing.
"""

LIBRARIES: dict[str, set[str]] = {
    "numba": {"kernels/"},
    "llvmlite": {"kernels/"},
    "construct": {"blocks/", "container/grammar.py", "parametric/grammar.py"},
    "numpy": {""},
    "tqdm": {"cli/progress.py"},
    "threadpoolctl": {"fidelity/linear_algebra.py"},
    "xxhash": {"container/integrity.py", "parametric/"},
    "zstandard": {"parametric/entropy.py"},
    "jinja2": {"models/tokenizers/rendering.py"},
    "matplotlib": {"comparison/plot.py"},
    "yaml": {"models/card.py"},
    "torch": {"torch/"},
}
"""Libraries from outside, and the files or directories of the package that may import them. No other library
is imported.
"""

OPTIONAL = {"torch"}
"""Units that need a library which the package does not ask for: without it, they do not import."""

ONLY_WHEN_CALLED = {
    "gguflow.kernels",
    "gguflow.kernels.lanes",
    "sentencepiece",
    "tqdm",
    "yaml",
    "jinja2",
}
"""Imported inside functions only (kernels import each other freely): whoever does not need them does not wait
for them.
"""

WITHOUT_FILES = {"blocks", "recipes", "inference"}
"""Units that know no files: none of these modules, and no `open`."""
FILE_MODULES = {"os", "io", "mmap", "pathlib", "shutil", "tempfile"}

SYSTEM_CALLS = {
    "pwrite",
    "pread",
    "fsync",
    "fdatasync",
    "replace",
    "rename",
    "ftruncate",
    "truncate",
    "posix_fallocate",
    "posix_fadvise",
    "sched_getaffinity",
    "cpu_count",
}
"""Of the module os; and madvise, of a map: only in platform.py."""

MAY_PRINT = {"cli"}
"""Units whose text goes to a person."""

PUBLIC_VERBS = {"convert", "validate", "open", "formats", "quantize", "dequantize", "matmul"}
"""Names of the package that no submodule may have: its import would overwrite them."""

START_UP: dict[str, tuple[list[str], set[str]]] = {
    "--help": (["--help"], {"numpy", "numba", "torch", "construct"}),
    "--version": (["--version"], {"numpy", "numba", "torch", "construct"}),
    "convert --help": (["convert", "--help"], {"numpy", "numba", "torch", "construct"}),
    "run --help": (["run", "--help"], {"numpy", "numba", "torch", "construct"}),
    "inspect": (["inspect", "MODEL"], {"numba", "torch", "gguf", "tqdm"}),
    "inspect --json": (["inspect", "MODEL", "--json"], {"numba", "torch", "gguf", "tqdm"}),
    "validate": (["validate", "MODEL"], {"numba", "torch", "gguf", "tqdm"}),
    "validate --level strict": (
        ["validate", "MODEL", "--level", "strict", "--json"],
        {"numba", "torch", "gguf", "tqdm"},
    ),
    "edit": (
        ["edit", "MODEL", "--set", "general.name=str:x"],
        {"numba", "torch", "gguf", "tqdm"},
    ),
    "formats": (["formats"], {"numba", "torch", "gguf", "tqdm"}),
    "convert --dry-run": (["convert", str(TINY), "--dry-run", "--json"], {"numba", "torch", "gguf", "tqdm"}),
}
"""Commands, and what must not be loaded when they have run. MODEL stands for a small GGUF file."""


@dataclass(frozen=True)
class Source:
    """A module of the package. path: inside the package, with slashes. unit: what it belongs to in UNITS (""
    for the package itself).
    """

    path: str
    tree: ast.Module

    @property
    def unit(self) -> str:
        return (
            ""
            if self.path in ("__init__.py", "__main__.py")
            else unit_named(self.path.removesuffix(".py").split("/"))
        )

    def where(self, node: ast.AST) -> str:
        return f"{self.path}:{getattr(node, 'lineno', 0)}"


@dataclass(frozen=True)
class Import:
    """One imported module, by its full name. called: inside a function. typing: under TYPE_CHECKING."""

    module: str
    where: str
    called: bool
    typing: bool


@functools.cache
def sources() -> tuple[Source, ...]:
    paths = sorted(PACKAGE.rglob("*.py"))
    return tuple(
        Source(path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8")))
        for path in paths
    )


def imports(source: Source) -> Iterator[Import]:
    """All imports of a module, with `from gguflow import blocks` taken as gguflow.blocks."""

    def walk(node: ast.AST, called: bool, typing: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, source.where(child), called, typing) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                if child.level:
                    raise AssertionError(f"{source.where(child)}: relative import")
                names = (
                    [f"gguflow.{alias.name}" for alias in child.names]
                    if child.module == "gguflow"
                    else [child.module or ""]
                )
                yield from (Import(name, source.where(child), called, typing) for name in names)
            else:
                is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                is_typing = (
                    isinstance(child, ast.If)
                    and isinstance(child.test, ast.Name)
                    and child.test.id == "TYPE_CHECKING"
                )
                yield from walk(child, called or is_function, typing or is_typing)

    return walk(source.tree, False, False)


def unit_of(module: str) -> str | None:
    """The unit of a module's full name; None outside the package, and for the package's own names
    (`gguflow.__version__`).
    """
    parts = module.split(".")
    unit = unit_named(parts[1:]) if parts[0] == "gguflow" and len(parts) > 1 else ""
    return unit if unit in UNITS else None


def unit_named(parts: list[str]) -> str:
    """The unit of a module, given by the parts of its name inside the package: a row of its own, or that of
    what it is in.
    """
    return own if (own := "/".join(parts[:2])) in UNITS else parts[0]


def bare_floats(node: ast.AST, wrapped: bool = False) -> Iterator[ast.Constant]:
    """Float constants that do not stand alone (or behind a sign) in a call of f32 or np.float32, nor in an
    np.array(..., f32).
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Constant) and isinstance(child.value, float) and not wrapped:
            yield child
        is_sign = isinstance(child, ast.UnaryOp) and wrapped
        is_list = isinstance(child, (ast.List, ast.Tuple)) and wrapped
        yield from bare_floats(
            child, is_sign or is_list or (isinstance(child, ast.Call) and makes_float32(child))
        )


def makes_float32(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    types = [ast.unparse(argument) for argument in call.args[1:]] + [
        ast.unparse(k.value) for k in call.keywords if k.arg == "dtype"
    ]
    return name in ("f32", "np.float32") or (name == "np.array" and bool({"f32", "np.float32"} & set(types)))


def test_every_unit_has_a_row() -> None:
    assert {source.unit for source in sources()} - {""} == set(UNITS)


def test_the_rows_have_no_circle() -> None:
    graphlib.TopologicalSorter(UNITS).prepare()


def test_units_import_only_what_they_may() -> None:
    wrong = [
        f"{found.where}: {source.unit} imports {unit}"
        for source in sources()
        for found in imports(source)
        if source.unit
        and not found.typing
        and (unit := unit_of(found.module))
        and unit not in UNITS[source.unit] | GROUND | {source.unit}
    ]
    assert not wrong


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    """At import time; inside a function it could not hurt."""
    names = {
        f"gguflow.{source.path.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}": source
        for source in sources()
        if source.unit
    }
    graph = {
        name: {
            found.module
            for found in imports(source)
            if not found.called and not found.typing and found.module in names
        }
        - {name}
        for name, source in names.items()
    }
    list(graphlib.TopologicalSorter(graph).static_order())


def test_libraries_are_imported_only_where_they_may() -> None:
    wrong = []
    for source in sources():
        for found in imports(source):
            library = found.module.split(".")[0]
            if library == "gguflow" or library in sys.stdlib_module_names:
                continue
            if not any(source.path.startswith(place) for place in LIBRARIES.get(library, ())):
                wrong.append(f"{found.where}: imports {library}")
    assert not wrong


def test_what_is_slow_to_load_is_loaded_when_called() -> None:
    wrong = [
        f"{found.where}: imports {found.module} with the module"
        for source in sources()
        if source.unit != "kernels"
        for found in imports(source)
        if not found.called
        and not found.typing
        and any(found.module == slow or found.module.startswith(slow + ".") for slow in ONLY_WHEN_CALLED)
    ]
    assert not wrong


@pytest.mark.parametrize("unit", sorted(WITHOUT_FILES))
def test_units_that_know_no_files(unit: str) -> None:
    mine = [source for source in sources() if source.unit == unit]
    wrong = [
        f"{found.where}: {found.module}"
        for source in mine
        for found in imports(source)
        if found.module.split(".")[0] in FILE_MODULES
    ]
    wrong += [
        source.where(node)
        for source in mine
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Name) and node.id == "open"
    ]
    assert mine
    assert not wrong


def test_system_calls_are_in_the_platform_file() -> None:
    def found(source: Source) -> set[str]:
        attributes = [node for node in ast.walk(source.tree) if isinstance(node, ast.Attribute)]
        calls = {
            f"{source.where(a)}: os.{a.attr}"
            for a in attributes
            if a.attr in SYSTEM_CALLS and ast.unparse(a.value) == "os"
        }
        return calls | {f"{source.where(a)}: {a.attr}" for a in attributes if a.attr == "madvise"}

    assert not set().union(*(found(source) for source in sources() if source.path != "platform.py"))
    assert found(next(source for source in sources() if source.path == "platform.py"))


def test_no_submodule_takes_a_public_name() -> None:
    submodules = {source.path.split("/")[0].removesuffix(".py") for source in sources()}
    assert not submodules & (PUBLIC_VERBS | set(gguflow.__all__))
    assert not {Path(source.path).stem for source in sources()} & {"utils", "helpers", "misc", "common"}


def test_public_names_stay_what_they_are() -> None:
    """Each name twice, with every submodule imported in between."""
    script = f"""
import importlib, gguflow
first = {{name: getattr(gguflow, name) for name in gguflow.__all__}}
for unit in {sorted(UNITS.keys() - OPTIONAL)}:
    importlib.import_module("gguflow." + unit.replace("/", "."))
for name, value in first.items():
    if getattr(gguflow, name) is not value:
        raise SystemExit(name)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_no_assert_and_no_print() -> None:
    """Asserts vanish under -O, and nobody asked for text on stdout."""
    asserts = [
        source.where(node)
        for source in sources()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Assert)
    ]
    prints = [
        source.where(node)
        for source in sources()
        if source.unit not in MAY_PRINT
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not asserts + prints


KERNELS = [
    pytest.param(source, id=source.path)
    for source in sources()
    if source.unit == "kernels" and source.path not in ("kernels/policy.py", "kernels/lanes.py")
]


@pytest.mark.parametrize("source", KERNELS)
def test_float_literals_in_kernels_are_binary32(source: Source) -> None:
    """A bare literal is a float64, and makes all that it touches float64: other bytes, at half the speed."""
    assert not [f"{source.where(node)}: {node.value!r}" for node in bare_floats(source.tree)]


@pytest.mark.parametrize("source", KERNELS)
def test_kernels_hold_nothing_of_double_precision(source: Source) -> None:
    wrong = [
        f"{source.where(node)}: {ast.unparse(node)}"
        for node in ast.walk(source.tree)
        if (isinstance(node, ast.Attribute) and node.attr in ("float64", "double", "longdouble"))
        or (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "float")
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("text", "n_bare"),
    [
        ("x * 0.5", 1),
        ("x * f32(0.5)", 0),
        ("x * np.float32(-0.5)", 0),
        ("x * f32(1.0 / 3.0)", 2),
        ("f32(x * 0.5)", 1),
        ("f32(g(0.5))", 1),
        ("x = 1e-8", 1),
        ("T = np.array([0.5, -1.5], f32)", 0),
        ("T = np.array([[0.5], [2.0]], dtype=np.float32)", 0),
        ("T = np.array([0.5, 1.5])", 2),
        ("def f(x=0.5): pass", 1),
        ('"""0.5"""', 0),
        ("x * 2", 0),
    ],
)
def test_the_search_for_bare_floats(text: str, n_bare: int) -> None:
    assert len(list(bare_floats(ast.parse(text)))) == n_bare


def loaded(program: str, *arguments: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded when it has run a program; it must end
    well.
    """
    report = "import atexit, sys; atexit.register(lambda: print('LOADED', *sys.modules, file=sys.stderr))"
    command = [sys.executable, "-c", f"{report}\n{program}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    output, _, modules = done.stderr.rpartition("LOADED ")
    assert done.returncode == 0, output
    return {name.split(".")[0] for name in modules.split()}


def test_import_is_light() -> None:
    assert not loaded("import gguflow") & {"numpy", "numba", "torch", "construct", "argparse"}


@pytest.mark.parametrize(("arguments", "forbidden"), START_UP.values(), ids=START_UP)
def test_commands_load_only_what_they_need(tmp_path: Path, arguments: list[str], forbidden: set[str]) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(build({}, (), header.DEFAULT_ALIGNMENT))
    program = "import runpy; runpy.run_module('gguflow', run_name='__main__', alter_sys=True)"
    modules = loaded(program, *(str(model) if argument == "MODEL" else argument for argument in arguments))
    assert "gguflow" in modules
    assert not modules & forbidden


def test_without_torch_the_error_says_what_to_install() -> None:
    """None in sys.modules is how a module is made to be absent."""
    script = """
import sys
sys.modules["torch"] = None
try:
    import gguflow.torch
except ImportError as error:
    sys.exit(0 if "pip install 'gguflow[torch]'" in str(error) else str(error))
sys.exit("it was imported")
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
