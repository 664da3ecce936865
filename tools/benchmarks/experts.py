"""Mixtures of experts: the same weights expert by expert, fused (gate and up of all experts in one tensor),
and fused and transposed, converted in turns.

Prints processor time of each conversion, the speed of the two fused layouts over that of the plain one (1.0
is no loss), and the peak of anonymous memory. Weights are random; with --old, another checkout converts the
plain one too, in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HIDDEN, WIDE, LAYERS, HEADS, KV_HEADS, TOKENS = 1024, 768, 2, 8, 2, 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--experts", type=int, default=48, help="of each layer (default: %(default)s)")
    parser.add_argument("--types", default="bf16,q8_0,q4_k_m", help="types (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of a conversion (default: 1)")
    parser.add_argument("--repeat", type=int, default=3, help="turns; medians count (default: %(default)s)")
    parser.add_argument("--old", type=Path, help="another checkout, for the plain layout")
    parser.add_argument("--scratch", type=Path, help="where files go (default: a temporary directory)")


def run(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        folder = Path(scratch)
        sources = {}
        for layout in ("plain", "fused", "transposed"):
            sources[layout] = folder / layout
            write(sources[layout], layout, arguments.experts)
        size = sum(path.stat().st_size for path in sources["plain"].iterdir()) / 1e6
        print(f"{arguments.experts} experts in {LAYERS} layers, {size:.0f} MB, {arguments.threads} threads")
        for kind in arguments.types.split(","):
            _one_type(arguments, sources, folder, kind)


def _one_type(arguments: argparse.Namespace, sources: dict[str, Path], folder: Path, kind: str) -> None:
    """All layouts in turns, the first turn untimed."""
    jobs = {layout: (source, None) for layout, source in sources.items()}
    if arguments.old:
        jobs["plain, old code"] = (sources["plain"], arguments.old)
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    memory: dict[str, int] = {}
    for turn in range(arguments.repeat + 1):
        for name, (source, tree) in jobs.items():
            output = folder / "out.gguf"
            output.unlink(missing_ok=True)
            spent, peak = convert(source, output, kind, arguments.threads, tree)
            if turn:
                seconds[name].append(spent)
            memory[name] = peak
    plain = seconds["plain"]
    for name, spent_each in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(plain, spent_each, strict=True))
        median = statistics.median(spent_each)
        print(f"  {kind:8} {name:16} {median:6.2f} s  {ratio:5.2f} of plain  {memory[name] / 1e6:6.0f} MB")


def convert(source: Path, output: Path, kind: str, threads: int, tree: Path | None) -> tuple[float, int]:
    """Processor seconds and the peak of anonymous memory of a conversion in a process of its own."""
    script = (
        "import json, sys\n"
        "import gguflow\n"
        "gguflow.convert(sys.argv[1], sys.argv[2], type=sys.argv[3], threads=int(sys.argv[4]))\n"
        "peak = next(line for line in open('/proc/self/status') if line.startswith('RssAnon'))\n"
        "print(json.dumps(int(peak.split()[1]) * 1024))\n"
    )
    environment = dict(os.environ)
    if tree is not None:
        environment["PYTHONPATH"] = str(tree / "src")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", script, str(source), str(output), kind, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, int(json.loads(done.stdout))


def write(directory: Path, layout: str, n_experts: int) -> None:
    """A checkpoint in BF16 with one of the layouts, and a small tokenizer."""
    from testing.checkpoints import write_safetensors
    from testing.families import BPE

    directory.mkdir()
    config: dict[str, Any] = {
        "architectures": [
            "Qwen3VLMoeForConditionalGeneration" if layout == "transposed" else "Qwen3MoeForCausalLM"
        ],
        "model_type": "qwen3_vl_moe_text" if layout == "transposed" else "qwen3_moe",
        "hidden_size": HIDDEN,
        "intermediate_size": WIDE,
        "moe_intermediate_size": WIDE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": 128,
        "num_experts": n_experts,
        "num_experts_per_tok": 2,
        "vocab_size": TOKENS,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
    }
    if layout == "transposed":
        config |= {"rope_scaling": {"mrope_section": [24, 20, 20], "rope_type": "default"}}
        config |= {"vision_config": {"deepstack_visual_indexes": [1]}}
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (directory / "tokenizer.json").write_text(json.dumps(BPE), encoding="utf-8")
    (directory / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    write_safetensors(directory / "model.safetensors", dict(tensors(layout, n_experts)))


def tensors(layout: str, n_experts: int) -> Iterator[tuple[str, NDArray[np.uint16]]]:
    """The tensors of a layout: the bits of BF16 numbers near 0.01."""
    random = np.random.default_rng(1)

    def numbers(*shape: int) -> NDArray[np.uint16]:
        signs = random.integers(0, 2, shape, np.uint16) * np.uint16(1 << 15)
        bits: NDArray[np.uint16] = signs + np.uint16(0x3C00) + random.integers(0, 256, shape, np.uint16)
        return bits

    prefix = "model.language_model" if layout == "transposed" else "model"
    yield f"{prefix}.embed_tokens.weight", numbers(TOKENS, HIDDEN)
    yield f"{prefix}.norm.weight", numbers(HIDDEN)
    yield "lm_head.weight", numbers(TOKENS, HIDDEN)
    for i in range(LAYERS):
        layer = f"{prefix}.layers.{i}"
        for name, shape in {
            "input_layernorm": (HIDDEN,),
            "post_attention_layernorm": (HIDDEN,),
            "self_attn.q_norm": (128,),
            "self_attn.k_norm": (128,),
            "self_attn.q_proj": (HEADS * 128, HIDDEN),
            "self_attn.k_proj": (KV_HEADS * 128, HIDDEN),
            "self_attn.v_proj": (KV_HEADS * 128, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HEADS * 128),
            "mlp.gate": (n_experts, HIDDEN),
        }.items():
            yield f"{layer}.{name}.weight", numbers(*shape)
        experts = f"{layer}.mlp.experts"
        if layout == "plain":
            for x in range(n_experts):
                for name, shape in (
                    ("gate", (WIDE, HIDDEN)),
                    ("up", (WIDE, HIDDEN)),
                    ("down", (HIDDEN, WIDE)),
                ):
                    yield f"{experts}.{x}.{name}_proj.weight", numbers(*shape)
        elif layout == "fused":
            yield f"{experts}.gate_up_proj", numbers(n_experts, 2 * WIDE, HIDDEN)
            yield f"{experts}.down_proj", numbers(n_experts, HIDDEN, WIDE)
        else:
            yield f"{experts}.gate_up_proj", numbers(n_experts, HIDDEN, 2 * WIDE)
            yield f"{experts}.down_proj", numbers(n_experts, WIDE, HIDDEN)
