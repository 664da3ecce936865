"""Of the whole run: Ctrl-C interrupts, whoever started it, and what `-m quick` selects."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

QUICK = {
    "cli/": "",
    "container/": "",
    "inference/test_sampling.py": "",
    "kernels/test_conformance.py": "q4_k or q8_0",
    "kernels/test_grids.py": "neighbour",
    "models/": "not traceback and not over_the_limit",
    "recipes/": "not llama_quantize or dense or moe-8 or rows-of",
    "rows/test_format.py": "refused or row_in_a_block_format",
    "sources/test_bitsandbytes.py": "",
    "sources/test_huggingface.py": "not random_documents",
    "sources/test_reading.py": "",
    "sources/test_rules.py": "",
    "sources/test_safetensors.py": "not mutated",
    "test_architecture.py": "",
    "test_arguments.py": "",
    "test_corpus.py": "",
    "test_layout.py": "",
    "test_spec.py": "",
    "validation/": "",
}
"""How the path of a test begins, and which of the names there count, as -k would say it. All of it together
takes half a minute on two cores once kernels are in the cache: a little of everything, and few processes.
"""


def pytest_configure() -> None:
    """Shells without job control start background jobs with Ctrl-C ignored, and programs that tests start
    would inherit that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_quick(item):
            item.add_marker(pytest.mark.quick)


def is_quick(item: pytest.Item) -> bool:
    """Never what is marked as slow or cold: a later -m takes the place of the usual one."""
    if any(item.get_closest_marker(name) for name in ("slow", "cold")):
        return False
    path = item.path.relative_to(HERE).as_posix()
    return any(
        path.startswith(start) and (not names or matches(names, item.name)) for start, names in QUICK.items()
    )


def matches(names: str, name: str) -> bool:
    """Whether one of the alternatives holds: all of its words are in the name, or not in it after `not`."""

    def holds(condition: str) -> bool:
        word = condition.removeprefix("not ")
        return (word in name) is (word == condition)

    return any(all(map(holds, words.split(" and "))) for words in names.split(" or "))
