"""The parametric family against NumPy's vectorized form and bitsandbytes' CPU path, one thread each, in
turns; and what zstd gains.

All times are of the processor, so that other programs do not count. NumPy's form does the same work with
whole-array operations: scales, rounding, packing of nibbles (other codes stay a byte each). bitsandbytes runs
in an interpreter of its own, given with --peer-python, which has torch and bitsandbytes. Lossless and entropy
coding are measured on the matrices of --checkpoint (a directory with safetensors), rounded to bfloat16; else
on Gaussian weights.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from time import thread_time

import numpy as np
from numpy.typing import NDArray

import gguflow
from benchmarks.timing import REPETITIONS, Comparison, compare, seconds
from gguflow.blocks import FORMATS
from gguflow.parametric import Encoder, Payload, dequantizing, find, joined
from gguflow.quantization import as_floats
from gguflow.sources import open_checkpoint
from gguflow.sources.reading import TensorReader

Floats = NDArray[np.float32]
f32 = np.float32

PEER = """
import sys, time, numpy, torch, bitsandbytes.functional as F
torch.set_num_threads(1)
x = torch.from_numpy(numpy.load(sys.argv[1]))
print("ready", flush=True)
for line in sys.stdin:
    start = time.process_time()
    F.quantize_4bit(x, blocksize=64, quant_type="nf4")
    print(time.process_time() - start, flush=True)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", metavar="N", type=int, default=1 << 24, help="weights per call (default: 16 Mi)"
    )
    parser.add_argument("--peer-python", metavar="PATH", help="an interpreter with torch and bitsandbytes")
    parser.add_argument(
        "--checkpoint",
        metavar="DIR",
        type=Path,
        help="a directory whose safetensors give the matrices for lossless and zstd",
    )


def run(arguments: argparse.Namespace) -> None:
    x = np.random.default_rng(1).standard_normal((max(arguments.weights // 4096, 1), 4096), np.float32) * f32(
        0.02
    )
    print(f"{x.size / 1e6:.1f} M weights, one thread")
    print(f"{'':16} {'encode M/s':>10} {'x NumPy':>8} {'decode M/s':>10}")
    for name in (
        "int8_b128",
        "int4_b128",
        "affine4_b64",
        "affine8_b32",
        "affine3_b64",
        "affine4_b64_dq",
        "nf4_b64",
        "nf4_b64_dq",
        "sign_b128",
    ):
        payload = Payload(gguflow.quantize(x, name))
        out = np.empty_like(x)
        payload.decode_rows(out=out)
        decode = min(seconds(functools.partial(payload.decode_rows, out=out), thread_time) for _ in range(3))
        work = NUMPY.get(name)
        theirs = functools.partial(work, x) if work else lambda: None
        encoding = compare(functools.partial(gguflow.quantize, x, name), theirs, clock=thread_time)
        ratio = f"{encoding.ratio:8.1f}" if work else f"{'-':>8}"
        print(
            f"{name:16} {x.size / encoding.ours / 1e6:10.0f} {ratio} {x.size / decode / 1e6:10.0f}",
            flush=True,
        )
    if arguments.peer_python:
        peer = against_bitsandbytes(x, arguments.peer_python)
        print(
            f"nf4_b64: {x.size / peer.ours / 1e6:.0f} M/s; bitsandbytes "
            f"{x.size / peer.theirs / 1e6:.0f} M/s; ratio {peer.ratio:.1f}"
        )
    matrices = list(matrices_of(arguments.checkpoint)) if arguments.checkpoint else [x]
    print_lossless(matrices)
    print_entropy(matrices)


# --- NumPy's vectorized forms ---------------------------------------------------------------------


def numpy_absmax(bits: int, block: int) -> Callable[[Floats], object]:
    def work(x: Floats) -> object:
        blocks = x.reshape(-1, block)
        top = f32((1 << (bits - 1)) - 1)
        scales = np.abs(blocks).max(axis=1, keepdims=True) / top
        codes = np.clip(np.rint(blocks / scales), -top, top).astype(np.int8)
        return (codes, scales) if bits == 8 else (numpy_nibbles(codes.view(np.uint8) & 15), scales)

    return work


def numpy_affine(bits: int, block: int) -> Callable[[Floats], object]:
    def work(x: Floats) -> object:
        blocks = x.reshape(-1, block)
        top = f32((1 << bits) - 1)
        low = np.minimum(blocks.min(axis=1, keepdims=True), f32(0))
        scales = (np.maximum(blocks.max(axis=1, keepdims=True), f32(0)) - low) / top
        zeros = np.rint(-low / scales)
        codes = np.clip(np.rint(blocks / scales) + zeros, f32(0), top).astype(np.uint8)
        return (numpy_nibbles(codes) if bits == 4 else codes), scales, zeros.astype(np.uint8)

    return work


def numpy_nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.bitwise_or(np.left_shift(codes[:, 0::2], 4), codes[:, 1::2], dtype=np.uint8)


NUMPY: dict[str, Callable[[Floats], object]] = {
    "int8_b128": numpy_absmax(8, 128),
    "int4_b128": numpy_absmax(4, 128),
    "affine4_b64": numpy_affine(4, 64),
    "affine8_b32": numpy_affine(8, 32),
    "affine3_b64": numpy_affine(3, 64),
}


# --- bitsandbytes ---------------------------------------------------------------------------------


def against_bitsandbytes(x: Floats, python: str) -> Comparison:
    """nf4 of the same weights, in turns; the peer says how long it took itself."""
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file, x)
        file.flush()
        with subprocess.Popen(
            [python, "-c", PEER, file.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as peer:
            stdin, stdout = peer.stdin, peer.stdout
            if stdin is None or stdout is None or stdout.readline() != "ready\n":
                raise SystemExit(f"{python} has no bitsandbytes")

            def theirs() -> float:
                stdin.write("go\n")
                stdin.flush()
                return float(stdout.readline())

            theirs()
            gguflow.quantize(x, "nf4_b64")
            pairs = [
                (seconds(lambda: gguflow.quantize(x, "nf4_b64"), thread_time), theirs())
                for _ in range(REPETITIONS)
            ]
            stdin.close()
    return Comparison.of(pairs)


# --- entropy coding -------------------------------------------------------------------------------


def matrices_of(directory: Path) -> Iterator[Floats]:
    """The matrices of a checkpoint, as float32."""
    checkpoint = open_checkpoint(directory)
    with TensorReader(checkpoint) as reader:
        for tensor in checkpoint.tensors.values():
            if len(tensor.shape) == 2 and tensor.format in (FORMATS["f32"], FORMATS["f16"], FORMATS["bf16"]):
                weights = as_floats(reader.read(tensor, 0, tensor.n_weights), tensor.require_format())
                yield weights.astype(np.float32).reshape(tensor.shape)


def bfloat16(x: Floats) -> NDArray[np.uint16]:
    """The nearest bfloat16 words, ties to even."""
    bits = x.view(np.uint32)
    words: NDArray[np.uint16] = (
        (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    ).astype("<u2")
    return words


def print_lossless(matrices: list[Floats]) -> None:
    """Ratio and speed of `lossless` on the weights rounded to bfloat16."""
    raw = stored = 0
    writing = reading = 0.0
    for x in matrices:
        words = bfloat16(x)
        encoder = Encoder(find("lossless"), words.shape, "bf16")
        step = encoder.geometry.rows_per_chunk

        def parts(
            encoder: Encoder = encoder, words: NDArray[np.uint16] = words, step: int = step
        ) -> list[NDArray[np.uint8]]:
            return [
                encoder.encode_chunk(i, words[i * step : (i + 1) * step])
                for i in range(encoder.geometry.n_chunks)
            ]

        payload = Payload(joined(encoder, parts()))
        if not (payload.raw_rows().view("<u2") == words).all():
            raise SystemExit("lossless lost something")
        out = np.empty(words.shape, np.float32)
        writing += min(seconds(parts, thread_time) for _ in range(3))
        decode = functools.partial(payload.decode_rows, out=out)
        reading += min(seconds(decode, thread_time) for _ in range(3))
        raw += words.nbytes
        stored += payload.nbytes
    print(
        f"lossless bf16: ratio {raw / stored:.3f}; write {raw / writing / 1e6:.0f} MB/s, read "
        f"{raw / reading / 1e6:.0f} MB/s of a core, bit-exact"
    )


def print_entropy(matrices: list[Floats]) -> None:
    """What zstd makes of codes, beside their order-0 entropy."""
    for name in ("int4_b128", "int8_b128", "affine4_b64", "nf4_b64"):
        counts = np.zeros(256)
        codes = plain = coded = 0
        for x in matrices:
            payload = Payload(gguflow.quantize(x, name))
            zipped = Payload(gguflow.quantize(x, f"{name}+zstd"))
            g = payload.geometry
            for i in range(payload.n_chunks):
                n = g.n_runs(g.chunk_rows(i))
                counts += np.bincount(
                    dequantizing.unpack(g, payload.sections(i)["codes"], n)[: n * g.run], minlength=256
                )
                codes += int(np.frombuffer(zipped.chunk(i)[:4].tobytes(), "<u4")[0])
            plain, coded = plain + payload.nbytes, coded + zipped.nbytes
        shares = counts[counts > 0] / counts.sum()
        entropy = float(-(shares * np.log2(shares)).sum())
        bits = 8 * codes / counts.sum()
        excess = 100 * (bits / entropy - 1)
        print(
            f"{name}+zstd: {bits:.3f} bits per code, order-0 entropy {entropy:.3f} ({excess:+.1f} %); "
            f"{plain / coded:.3f} times smaller"
        )
