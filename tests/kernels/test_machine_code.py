"""The same bytes from every processor: nothing in the machine code may reorder or contract float operations,
and narrower machines agree.

Three processes compile the kernels for this processor, for it without AVX-512, and for LLVM's "generic" one.
The usual run takes one format of each kind; `-m slow` takes all.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
import pytest

from gguflow.blocks import FORMATS
from testing.kernel_probe import forbidden

pytestmark = pytest.mark.cold

ROOT = Path(__file__).resolve().parents[2]
USUAL = ("bf16", "q8_0", "tq1_0", "mxfp4", "q4_k", "iq4_nl")
EVERY = tuple(
    name
    for name, f in FORMATS.items()
    if f.number_type is None or f.number_type.name in ("float32", "float16")
)
FORMAT_SETS = [pytest.param(USUAL, id="usual"), pytest.param(EVERY, id="every", marks=pytest.mark.slow)]
is_x86 = platform.machine().lower() in ("x86_64", "amd64")


def without_avx512() -> dict[str, str]:
    """This processor with every entry negated that brings 512-bit registers (AVX10 is AVX-512 under another
    name).
    """
    features = {
        name: on and not name.startswith(("avx512", "avx10", "amx-avx512"))
        for name, on in llvm.get_host_cpu_features().items()
    }
    flags = ",".join(("+" if on else "-") + name for name, on in sorted(features.items()))
    return {"NUMBA_CPU_NAME": llvm.get_host_cpu_name(), "NUMBA_CPU_FEATURES": flags}


PROCESSORS = {
    "host": dict[str, str](),
    "no-avx512": without_avx512(),
    "generic": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
}


@functools.cache
def probes(names: tuple[str, ...]) -> dict[str, subprocess.CompletedProcess[str]]:
    """kernel_probe.py on each processor; the processes run side by side."""

    def run(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        no_cache = {"GGUFLOW_CACHE_DIR": f"{__file__}/none"}  # below a regular file nothing can be created
        path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
        command = [sys.executable, "-m", "testing.kernel_probe", *names]
        return subprocess.run(
            command,
            env={**os.environ, **no_cache, **path, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(PROCESSORS, pool.map(run, PROCESSORS.values()), strict=True))


def probe(names: tuple[str, ...], processor: str) -> dict[str, Any]:
    """What kernel_probe.py reports."""
    done = probes(names)[processor]
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("names", FORMAT_SETS)
@pytest.mark.parametrize("processor", PROCESSORS)
def test_no_operation_may_be_reordered_or_contracted(names: tuple[str, ...], processor: str) -> None:
    report = probe(names, processor)
    assert {name.partition(".")[0] for name in report["forbidden"]} == set(names)
    assert {name: found for name, found in report["forbidden"].items() if found} == {}


@pytest.mark.parametrize("names", FORMAT_SETS)
@pytest.mark.parametrize("processor", [name for name in PROCESSORS if name != "host"])
def test_every_processor_gives_the_same_bytes(names: tuple[str, ...], processor: str) -> None:
    assert probe(names, processor)["digests"] == probe(names, "host")["digests"]


@pytest.mark.skipif(not is_x86, reason="registers of x86")
@pytest.mark.parametrize("names", FORMAT_SETS)
def test_the_processors_differ(names: tuple[str, ...]) -> None:
    """Otherwise the comparison of bytes would compare the same code."""
    registers = {
        processor: set(itertools.chain(*probe(names, processor)["registers"].values()))
        for processor in PROCESSORS
    }
    assert "zmm" not in registers["no-avx512"]
    assert not registers["generic"] & {"ymm", "zmm"}
    if llvm.get_host_cpu_features().get("avx512f"):
        assert "zmm" in registers["host"]


@pytest.mark.parametrize("fastmath", [True, {"contract"}, {"reassoc"}])
def test_the_inspection_sees_what_it_looks_for(fastmath: bool | set[str]) -> None:
    @numba.njit("float32(float32, float32)", fastmath=fastmath)  # type: ignore[untyped-decorator]
    def product_and_sum(x: Any, y: Any) -> Any:
        return x * y + y

    assert forbidden(product_and_sum.inspect_llvm(product_and_sum.signatures[0]))
