"""What ggml and gguf-py say of each file of the conformance corpus, beside the manifest.

    tools/compare corpus > fixtures/corpus.md    every file, with the verdict of each reader
    tools/compare corpus --differ                only the files on which a reader differs from the verdict

ggml is `gguf_init_from_file` of the xllamacpp wheel. Every file goes to a child process of its own with
limited memory and time: some readers abort, hang, or ask for terabytes.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from repository import ROOT

FILES = ROOT / "fixtures" / "files"
MEMORY = 4 << 30
SECONDS = 20

GGML = """
import ctypes, importlib.util, pathlib, sys
spec = importlib.util.find_spec("xllamacpp")
ggml = ctypes.CDLL(str(pathlib.Path(spec.submodule_search_locations[0]) / "xllamacpp.abi3.so"))
class Params(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.POINTER(ctypes.c_void_p))]
ggml.gguf_init_from_file.restype = ctypes.c_void_p
ggml.gguf_init_from_file.argtypes = [ctypes.c_char_p, Params]
context = ctypes.c_void_p()
with_data = sys.argv[2] == "data"
found = ggml.gguf_init_from_file(sys.argv[1].encode(), Params(not with_data, ctypes.pointer(context)))
sys.exit(0 if found else 3)
"""
GGUF_PY = """
import sys
from gguf import GGUFReader
try:
    reader = GGUFReader(sys.argv[1])
    [tensor.data.size for tensor in reader.tensors]
except MemoryError:
    sys.exit(4)
except Exception:
    sys.exit(3)
"""
HEADING = """\
# The conformance corpus and other readers

What ggml and gguf-py make of each file, beside the verdict of the specification. Written by
`tools/compare corpus`.

- "ggml, header" is `gguf_init_from_file` with `no_alloc`, which is how `llama-quantize` and the loader open a
  file; "ggml, data" is the same with all data loaded. Both come from xllamacpp {xllamacpp}; gguf-py is
  {gguf}.
- "ok": the file is read. "no": it is refused. "abort", "hang" (after 20 s) and "memory" (over 4 GiB) say how
  the process ended.
- Left out are files that are judged at the levels `values` and `strict` or with other limits, for which there
  is nothing to compare with, and payloads of the parametric family (E), which are plain bytes to these
  readers.
- Rules G are about the meaning of metadata, C-040 to C-046 about shards, I about the integrity keys. These
  readers check none of them; a loader may check the first two.

{files} files; on {differ} of them at least one reader differs from the verdict.
"""
UPSTREAM = """
## ggml's own cases

The defects of ggml's tests/test-gguf.cpp, in files of our own making. Cases on data are opened with their
data.

| case | file | verdict | ggml |
|---|---|---|---|"""
READERS = {"ggml, header": (GGML, "header"), "ggml, data": (GGML, "data"), "gguf-py": (GGUF_PY, "")}


def verdict_of(code: str, argument: str, path: Path) -> str:
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(path), argument],
            capture_output=True,
            timeout=SECONDS,
            preexec_fn=limit,
        )
    except subprocess.TimeoutExpired:
        return "hang"
    if done.returncode == 4 or b"MemoryError" in done.stderr or b"bad_alloc" in done.stderr:
        return "memory"
    return {0: "ok", 3: "no"}.get(done.returncode, "abort")


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(2 * SECONDS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--differ", action="store_true", help="only the files on which somebody differs")


def run(arguments: argparse.Namespace) -> int:
    manifest: list[dict[str, Any]] = json.loads((FILES / "manifest.json").read_text(encoding="utf-8"))
    cases = [
        case
        for case in manifest
        if case["file"].endswith(".gguf")
        and "limits" not in case
        and case.get("category") != "E"
        and (case["level"] == "structure" or "test-gguf" in case)
    ]
    with ThreadPoolExecutor(2) as pool:
        rows = list(
            pool.map(
                lambda case: [verdict_of(*reader, FILES / case["file"]) for reader in READERS.values()], cases
            )
        )
    differ = [case["id"] for case, row in zip(cases, rows, strict=True) if set(row) != {agreeing(case)}]
    print(
        HEADING.format(
            xllamacpp=version("xllamacpp"), gguf=version("gguf"), files=len(cases), differ=len(differ)
        )
    )
    print(f"| file | verdict | rules | {' | '.join(READERS)} |")
    print("|---|---|---|" + "---|" * len(READERS))
    for case, row in zip(cases, rows, strict=True):
        if not arguments.differ or case["id"] in differ:
            print(f"| {case['id']} | {case['verdict']} | {' '.join(case['rules'])} | {' | '.join(row)} |")
    print(UPSTREAM)
    for case, row in zip(cases, rows, strict=True):
        if "test-gguf" in case:
            said = row[1] if case["test-gguf"].startswith("DATA") else row[0]
            print(f"| {case['test-gguf']} | {case['id']} | {case['verdict']} | {said} |")
    return 0


def agreeing(case: dict[str, Any]) -> str:
    return "ok" if case["verdict"] == "valid" else "no"
