"""What every recipe makes of models of many shapes: llama-quantize's answer against ours.

The peer's answers are written to fixtures/recipes, unless --check is given. The models are GGUF files of a
header and a hole: llama-quantize --dry-run reads no weights. Exit code 0 where every table is equal, 1 where
one differs.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from gguflow.blocks import FORMATS, BlockFormat
from gguflow.container.header import TensorInfo, align
from gguflow.container.metadata import Metadata, Value, ValueType, array, boolean, f32, string, u32
from gguflow.container.writer import build
from testing.recipe_tables import REFUSED, SHAPES, TABLES, Case, Shape, Table, cases, our_table, table

LINE = re.compile(
    r"^\[ *\d+/ *\d+\] +(\S+) +- \[.*\], type = +(\w+), size = .*?(?:-> .*\((\w+)\))?$", re.MULTILINE
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--llama-quantize", required=True, type=Path, metavar="PATH", help="the peer")
    parser.add_argument(
        "--shapes",
        metavar="NAME,...",
        help=f"only these (default: all of {', '.join(shape.name for shape in SHAPES)})",
    )
    parser.add_argument("--check", action="store_true", help="compare only, and write nothing")


def run(arguments: argparse.Namespace) -> int:
    n_cases = n_different = 0
    for shape in SHAPES:
        if arguments.shapes and shape.name not in arguments.shapes.split(","):
            continue
        found = peer_tables(arguments.llama_quantize, shape)
        different = [case.key for case in cases(shape) if our_table(shape, case) != found[case.key]]
        print(
            f"{shape.name:16} {len(found)} tables, {len(different)} different {' | '.join(different[:8])}",
            flush=True,
        )
        n_cases, n_different = n_cases + len(found), n_different + len(different)
        if not arguments.check:
            write(shape, found)
    print(f"{n_cases} tables, {n_different} different")
    return 1 if n_different else 0


def peer_tables(peer: Path, shape: Shape) -> dict[str, Table | str]:
    with tempfile.TemporaryDirectory() as work:
        model, imatrix = Path(work) / "model.gguf", Path(work) / "imatrix.gguf"
        write_model(model, shape)
        write_imatrix(imatrix)
        return {case.key: peer_table(peer, model, imatrix, case) for case in cases(shape)}


def peer_table(peer: Path, model: Path, imatrix: Path, case: Case) -> Table | str:
    """What the peer says it would write, or REFUSED where it gives up for want of a fallback."""
    given = ["--imatrix", str(imatrix)] if case.imatrix else []
    command = [str(peer), "--dry-run", *given, *case.arguments, str(model), case.recipe.upper()]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode and "no tensor type fallback" in done.stdout:
        return REFUSED
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-3000:]}\nexit code {done.returncode}")
    formats = {name: (after or before).lower() for name, before, after in LINE.findall(done.stdout)}
    return table(formats)


def write_model(path: Path, shape: Shape) -> None:
    """A file of this shape: BF16 matrices, F32 vectors; its data is a hole."""
    keys: dict[str, int | float | bool] = {
        "block_count": shape.n_layers,
        "context_length": 64,
        "embedding_length": 256,
        "feed_forward_length": 512,
        "attention.head_count": shape.n_heads,
        "attention.head_count_kv": shape.n_kv_heads,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": 1e-5,
        "expert_count": shape.n_experts,
        **shape.keys,
    }
    metadata: Metadata = {"general.architecture": string(shape.architecture)}
    metadata |= {f"{shape.architecture}.{key}": _value(value) for key, value in keys.items()}
    infos, offset = [], 0
    for name, dims in shape.tensors():
        block_format = FORMATS["f32" if len(dims) == 1 else "bf16"]
        infos.append(TensorInfo(name, dims[::-1], block_format.id, offset))
        offset = align(offset + _nbytes(block_format, dims), 32)
    header = build(metadata, infos)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + offset)


def write_imatrix(path: Path) -> None:
    """An imatrix that is good for nothing: a dry run asks only whether there is one."""
    metadata = {
        "general.type": string("imatrix"),
        "imatrix.datasets": array(ValueType.STRING, ["nothing"]),
        "imatrix.chunk_count": u32(1),
        "imatrix.chunk_size": u32(512),
    }
    infos = [TensorInfo("none.in_sum2", (32,), 0, 0), TensorInfo("none.counts", (1,), 0, 128)]
    path.write_bytes(build(metadata, infos) + bytes(160))


def write(shape: Shape, tables: dict[str, Table | str]) -> None:
    """The fixture of a shape. A table with importance is left out where it is the one without."""
    shown = {
        key: found
        for key, found in tables.items()
        if not key.endswith(" --imatrix") or found != tables[key.removesuffix(" --imatrix")]
    }
    model = {
        "architecture": shape.architecture,
        "n_layers": shape.n_layers,
        "n_heads": shape.n_heads,
        "n_kv_heads": shape.n_kv_heads,
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(found)}" for key, found in shown.items()]
    document = (
        f'{{"model": {json.dumps(model | {"n_experts": shape.n_experts})},\n"tables": {{\n'
        + ",\n".join(lines)
        + "\n}}\n"
    )
    (TABLES / f"{shape.name}.json").write_text(document, encoding="utf-8")


def _value(value: int | float | bool) -> Value:
    if isinstance(value, bool):
        return boolean(value)
    return u32(value) if isinstance(value, int) else f32(value)


def _nbytes(block_format: BlockFormat, dims: tuple[int, ...]) -> int:
    n = 1
    for dim in dims:
        n *= dim
    return n * block_format.type_size
