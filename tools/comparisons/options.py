"""Files quantized by gguflow and by llama-quantize, with importance and with options.

An imatrix of the model of the fixtures is made by llama-imatrix, in both of its formats; for a model of
random experts, one of random numbers. Every metadata key must have the peer's type and value (keys under
`gguflow.` are ours and do not count), every tensor its type, shape and bytes. Exit code 0 where all is equal,
1 where anything differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from repository import ROOT

import numpy as np
from safetensors.numpy import save_file

from file_differences import compare_files
from gguflow.container.header import TensorInfo, align
from gguflow.container.metadata import ValueType, array, u32
from gguflow.container.writer import build
from gguflow.recipes import RECIPES
from steps import execute

MODEL = ROOT / "fixtures" / "models" / "tiny-py-llama"

OPTIONS: tuple[tuple[str, ...], ...] = (
    ("q4_k_m", "--pure"),
    ("q5_k_m", "--tensor-type", r"blk\.[12]\.attn_v=q8_0", "--tensor-type", "ffn_down=iq4_nl"),
    ("q4_k_s", "--output-tensor-type", "q8_0", "--token-embedding-type", "f16"),
    ("f16", "--output-tensor-type", "q5_1"),
    ("q6_k", "--leave-output-tensor"),
    (
        "q4_k_m",
        "--override-kv",
        "llama.block_count=int:16",
        "--override-kv",
        "general.name=str:Other",
        "--override-kv",
        "a.b=float:0.1",
    ),
    ("q8_0", "--override-kv", "tokenizer.ggml.add_bos_token=bool:false"),
)
"""A type, and options that both programs take."""

EXPERT_KEYS = {
    "block_count": "int:2",
    "context_length": "int:64",
    "embedding_length": "int:256",
    "feed_forward_length": "int:512",
    "attention.head_count": "int:8",
    "attention.head_count_kv": "int:2",
    "attention.layer_norm_rms_epsilon": "float:1e-5",
    "expert_count": "int:8",
    "expert_used_count": "int:2",
}
EXPERT_TYPES = ("q4_0", "q4_k_m", "iq2_xs", "mxfp4_moe", "q2_k")

OLDER_FORMAT = ("q4_0", "q4_k_m", "iq2_xs")
"""Types that are compared with the .dat file too."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--llama-quantize", required=True, type=Path, metavar="PATH", help="built without FMA contraction"
    )
    parser.add_argument("--llama-imatrix", required=True, type=Path, metavar="PATH")
    parser.add_argument(
        "--types",
        default=",".join(RECIPES),
        help="compared with importance; comma-separated (default: every recipe)",
    )
    parser.add_argument(
        "--chunks", type=int, default=8, help="of text that importance is measured on (default: %(default)s)"
    )
    parser.add_argument("--work", type=Path, metavar="DIR", help="where temporary files go")


def run(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        n_different = sum(
            map(bool, [*compare_model(arguments, Path(work)), *compare_experts(arguments, Path(work))])
        )
    print(f"{n_different} different" if n_different else "no differences")
    return 1 if n_different else 0


def compare_model(arguments: argparse.Namespace, work: Path) -> Iterator[list[str]]:
    """What differs, for each type and its options."""
    source = work / "source.gguf"
    execute(
        sys.executable, "-m", "gguflow", "convert", MODEL, "-t", "bf16", "-o", source, "--no-integrity", "-q"
    )
    imatrix = {suffix: make_imatrix(arguments, source, suffix) for suffix in ("gguf", "dat")}
    with_importance = [
        (name, "--imatrix", str(imatrix["gguf"])) for name in arguments.types.split(",") if name
    ]
    older = [(name, "--imatrix", str(imatrix["dat"])) for name in OLDER_FORMAT]
    for name, *options in (*OPTIONS, *with_importance, *older):
        yield compare(arguments, [MODEL, *options], [*options, source], name)
    quantized = work / "quantized.gguf"
    execute(
        sys.executable,
        "-m",
        "gguflow",
        "convert",
        MODEL,
        "-t",
        "q8_0",
        "-o",
        quantized,
        "--no-integrity",
        "-q",
    )
    yield compare(arguments, [quantized, "--allow-requantize"], ["--allow-requantize", quantized], "q4_k_m")


def compare_experts(arguments: argparse.Namespace, work: Path) -> Iterator[list[str]]:
    """The same for a model of 8 experts whose tensors are stacked, with importance for each, and none for one
    that no text has reached.
    """
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        f"blk.{i}.ffn_{kind}_exps.weight": (8, 10, 256) for i in range(2) for kind in ("gate", "up", "down")
    }
    shapes |= {f"blk.{i}.attn_{kind}.weight": (16, 256) for i in range(2) for kind in "qkv"} | {
        "output.weight": (16, 256)
    }
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(weights, work / "experts.safetensors")
    infos, data = [], b""
    for name, shape in shapes.items():
        n = shape[0] if len(shape) == 3 else 1
        counts = rng.integers(0 if n > 1 else 1, 3, n).astype(np.float32)
        for suffix, values in (
            ("in_sum2", rng.exponential(1, (n, 256)).astype(np.float32)),
            ("counts", counts.reshape(n, 1)),
        ):
            infos.append(TensorInfo(f"{name}.{suffix}", values.shape[::-1], 0, len(data)))
            data += values.tobytes().ljust(align(values.nbytes, 32), b"\0")
    keys = {
        "imatrix.datasets": array(ValueType.STRING, ["random"]),
        "imatrix.chunk_count": u32(1),
        "imatrix.chunk_size": u32(512),
    }
    imatrix = work / "experts.gguf"
    imatrix.write_bytes(build(keys, infos) + data)
    overrides = [
        part for key, value in EXPERT_KEYS.items() for part in ("--override-kv", f"llama.{key}={value}")
    ]
    ours = [work / "experts.safetensors", "--arch", "llama", *overrides]
    source = work / "experts-f32.gguf"
    execute(
        sys.executable, "-m", "gguflow", "convert", *ours, "-t", "f32", "-o", source, "--no-integrity", "-q"
    )
    for name in EXPERT_TYPES:
        yield compare(arguments, [*ours, "--imatrix", imatrix], ["--imatrix", imatrix, source], name)


def compare(
    arguments: argparse.Namespace, ours: Sequence[object], peer: Sequence[object], name: str
) -> list[str]:
    """Make a file of this type on both sides; what differs, which is printed too."""
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        our_file, peer_file = Path(work) / "ours.gguf", Path(work) / "peer.gguf"
        execute(sys.executable, "-m", "gguflow", "convert", *ours, "-t", name, "-o", our_file, "-q")
        execute(arguments.llama_quantize, *peer[:-1], peer[-1], peer_file, name.upper())
        differences = list(compare_files(our_file, peer_file))
    shown = " ".join(Path(str(part)).name if "/" in str(part) else str(part) for part in peer)
    print(f"{name:10} {shown}: {'; '.join(differences[:4]) or 'equal'}", flush=True)
    return differences


def make_imatrix(arguments: argparse.Namespace, source: Path, suffix: str) -> Path:
    path = source.with_name(f"imatrix.{suffix}")
    text = ("-f", MODEL / "heldout.txt", "--chunks", arguments.chunks)
    execute(
        arguments.llama_imatrix,
        "-m",
        source,
        *text,
        "-c",
        512,
        "-o",
        path,
        "--output-format",
        suffix,
        "--no-ppl",
    )
    return path
