"""Run in a process of its own: compile kernels for the processor that the environment names, and say in JSON
what came out.

    python -m testing.kernel_probe q8_0 q4_k ...

{"digests": {format: hex}, "forbidden": {kernel: [LLVM or assembly text]}, "registers": {kernel: ["xmm",
...]}}. The digest is over the bytes of adversarial and random rows, and over what random bytes decode to and
give with vectors. Numba shows no machine code of cached kernels: run with no cache directory.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from typing import Any

import numpy as np

from gguflow import kernels
from gguflow.blocks import BlockFormat, by_name
from gguflow.kernels import matmul as matmul_kernels
from gguflow.kernels.matmul import tile
from gguflow.packed_matmul import matmul
from gguflow.quantization import dequantize, quantize
from testing.cases import adversarial, importances

N = 512

_FLOAT_OPERATION = r"= (?:tail |notail |musttail )?(?:fadd|fsub|fmul|fdiv|frem|fneg|fcmp|call|select|phi)"
FORBIDDEN = [
    re.compile(_FLOAT_OPERATION + r" (?:fast|contract|reassoc|arcp|afn|nnan|ninf|nsz) .*"),
    re.compile(
        r"@llvm\.(?:fma|fmuladd|experimental\.constrained|vector\.reduce\.fadd|vector\.reduce\.fmul)\S*"
    ),
    re.compile(r"\bvfn?m(?:add|sub)\w*"),  # x86, in assembly
    re.compile(r"\bf(?:n?madd|n?msub|mla|mls)\b.*"),  # arm64, in assembly
]


def forbidden(text: str) -> list[str]:
    """What in LLVM's text or in assembly lets the compiler, or makes it, change the order or the rounding of
    float operations.
    """
    return sorted({match.group().strip() for pattern in FORBIDDEN for match in pattern.finditer(text)})


def digest(block_format: BlockFormat) -> str:
    """Of encoded rows, with and without importance, and of random bytes decoded and multiplied with vectors;
    every NaN counts as the same.
    """
    noise = np.random.default_rng(1).standard_normal((4, N)).astype(np.float32)
    rows = np.concatenate([np.stack(list(adversarial(N).values())), noise])
    result = hashlib.sha256()
    if block_format.importance != "required":
        result.update(quantize(rows, block_format, allow_non_finite=True).tobytes())
    if block_format.importance != "unused":
        random = importances(N)["random"]
        result.update(quantize(rows, block_format, random, allow_non_finite=True).tobytes())
    packed = np.random.default_rng(2).integers(0, 256, (8, block_format.row_bytes(N)), np.uint8)
    with_vector = [matmul(packed, block_format, noise[0], activations=kind) for kind in ("float32", "int8")]
    for values in (dequantize(packed, block_format), *with_vector, matmul(packed, block_format, noise)):
        result.update(np.where(np.isnan(values), np.float32(0.5), values).tobytes())
    return result.hexdigest()


def compiled(block_format: BlockFormat) -> dict[str, Any]:
    """The compiled kernels in the modules of a format, by name. Where an entry fetches tables, it is what it
    calls that is compiled.
    """
    found = {}
    for module in (kernels.load(block_format), matmul_kernels.find(block_format.key), tile):
        own = (
            {
                name: value
                for name, value in vars(module).items()
                if getattr(value, "__module__", None) == module.__name__
            }
            if module
            else {}
        )
        found.update(
            {
                f"{block_format.key}.{name}": value
                for name, value in own.items()
                if getattr(value, "signatures", None)
            }
        )
    return found


def main(names: list[str]) -> None:
    formats = [by_name(name) for name in names]
    digests = {block_format.key: digest(block_format) for block_format in formats}
    bad: dict[str, list[str]] = {}
    registers: dict[str, list[str]] = {}
    for block_format in formats:
        for name, dispatcher in compiled(block_format).items():
            for signature in dispatcher.signatures:
                assembly = dispatcher.inspect_asm(signature)
                bad[name] = forbidden(dispatcher.inspect_llvm(signature)) + forbidden(assembly)
                registers[name] = sorted(set(re.findall(r"%([xyz]mm)", assembly)))
    json.dump({"digests": digests, "forbidden": bad, "registers": registers}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
