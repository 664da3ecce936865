"""Size and error of every preset of the parametric family, beside the ggml format of the nearest size.

    tools/compare presets DIRECTORY...     directories that hold safetensors

Stored bits per weight count everything: scales, tables, descriptors, padding. Signal to noise is over all
weights together; lossless is of the weights rounded to bfloat16. A ggml format is a candidate where its
blocks divide every row (rows of 384 rule out blocks of 256); formats that need importance get a uniform one.
Of two formats of the nearest size, the better one is shown.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import gguflow
from benchmarks.parametric import bfloat16, matrices_of
from gguflow.blocks import FORMATS, BlockFormat
from gguflow.parametric import Encoder, Payload, find, joined, presets

Floats = NDArray[np.float32]
Coder = Callable[[Floats], tuple[int, Floats]]
"""Weights to the bytes that they take, and what is left of them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIRECTORY")
    parser.add_argument(
        "--only",
        metavar="NAMES",
        help="comma-separated encodings; default: every preset, the 4-bit ones with +zstd too",
    )


def run(arguments: argparse.Namespace) -> int:
    names = (
        arguments.only.split(",")
        if arguments.only
        else [*presets(), "int4_b128+zstd", "nf4_b64+zstd", "int4_b128+outliers=0.5%"]
    )
    for directory in arguments.directories:
        matrices = list(matrices_of(directory))
        if not matrices:
            print(f"{directory}: no matrices", file=sys.stderr)
            return 1
        print_table(directory.name, matrices, names)
    return 0


def print_table(title: str, matrices: Sequence[Floats], names: Sequence[str]) -> None:
    n_weights = sum(x.size for x in matrices)
    print(f"{title}: {len(matrices)} matrices, {n_weights / 1e6:.1f} M weights\n")
    peers = {
        f.key: measured(matrices, block_coder(f))
        for f in FORMATS.values()
        if f.is_quantized and all(x.shape[1] % f.block_size == 0 for x in matrices)
    }
    print(
        "| encoding | bits/weight | SNR dB | nearest ggml format | bits/weight | SNR dB |\n"
        "| --- | ---: | ---: | --- | ---: | ---: |"
    )
    for name in names:
        bits, snr = measured(matrices, preset_coder(name))
        peer = min(peers, key=lambda key: (abs(peers[key][0] - bits), -peers[key][1]))
        print(
            f"| {name} | {bits:.3f} | {snr:.2f} | {peer} | {peers[peer][0]:.3f} | {peers[peer][1]:.2f} |",
            flush=True,
        )
    print()


def measured(matrices: Sequence[Floats], coder: Coder) -> tuple[float, float]:
    """Stored bits per weight, and signal to noise in dB."""
    nbytes, signal, noise = 0, 0.0, 0.0
    for x in matrices:
        stored, back = coder(x)
        nbytes += stored
        signal += float(np.square(x, dtype=np.float64).sum())
        noise += float(np.square(x - back, dtype=np.float64).sum())
    return 8 * nbytes / sum(x.size for x in matrices), 10 * float(
        np.log10(signal / noise)
    ) if noise else float("inf")


def preset_coder(name: str) -> Coder:
    def code(x: Floats) -> tuple[int, Floats]:
        if name == "lossless":  # of bfloat16
            words = bfloat16(x)
            encoder = Encoder(find(name), x.shape, "bf16")
            step = encoder.geometry.rows_per_chunk
            payload = joined(
                encoder,
                [
                    encoder.encode_chunk(i, words[i * step : (i + 1) * step])
                    for i in range(encoder.geometry.n_chunks)
                ],
            )
            return payload.size, x if (
                Payload(payload).raw_rows().view("<u2") == words
            ).all() else np.zeros_like(x)
        payload = gguflow.quantize(x, name)
        return payload.size, gguflow.dequantize(payload, name)

    return code


def block_coder(block_format: BlockFormat) -> Coder:
    def code(x: Floats) -> tuple[int, Floats]:
        importance = np.ones(x.shape[1], np.float32) if block_format.importance == "required" else None
        packed = gguflow.quantize(x, block_format, importance)
        return packed.size, gguflow.dequantize(packed, block_format)

    return code
