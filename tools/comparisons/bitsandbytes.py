"""bitsandbytes against gguflow, in both directions, on the weights of checkpoints.

Runs where torch, transformers and bitsandbytes are installed. Prints a line for each comparison; exit status
1 where anything differs. With --write-fixtures, writes fixtures/bitsandbytes and compares nothing.

What is compared, for nf4, nf4 with nested scales ("dq"), and fp4:

    encode   codes and scales of our encoder with those of `quantize_4bit` (dq: given its offset), matrix by
             matrix
    export   our file (convert, export --to bnb) as `QuantState.from_dict` and `dequantize_4bit` decode it,
             with what we decode
    import   a checkpoint that transformers quantized and saved, converted by us and decoded, with what
             bitsandbytes decodes of the model
    return   the same checkpoint converted and exported again: codes and scales with those that transformers
             saved
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from repository import ROOT

import bitsandbytes.functional as bnb
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, BitsAndBytesConfig

from gguflow import conversion, exporting
from gguflow.parametric import Encoder, Payload, find, joined
from gguflow.parametric.views import View, content

FIXTURES = ROOT / "fixtures" / "bitsandbytes"
STATE = ".quant_state.bitsandbytes__"
KINDS: dict[str, tuple[str, bool]] = {
    "nf4_b64": ("nf4", False),
    "nf4_b64_dq": ("nf4", True),
    "fp4_b64": ("fp4", False),
}
"""Our name: bitsandbytes' kind, and whether scales are nested."""

Tensors = Mapping[str, torch.Tensor]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoints", type=Path, nargs="*")
    parser.add_argument("--write-fixtures", action="store_true", help="write fixtures/bitsandbytes")


def run(arguments: argparse.Namespace) -> int:
    if arguments.write_fixtures:
        write_fixtures()
        return 0
    n_different = 0
    for checkpoint in arguments.checkpoints:
        for name, (kind, is_nested) in KINDS.items():
            for what, n_tensors, n, different in comparisons(checkpoint, name, kind, is_nested):
                print(
                    f"{checkpoint.name:20} {name:10} {what:32} {n_tensors:4} tensors {n:10,} items "
                    f"{different:8,} different",
                    flush=True,
                )
                n_different += different
    return int(n_different > 0)


def comparisons(
    checkpoint: Path, name: str, kind: str, is_nested: bool
) -> Iterator[tuple[str, int, int, int]]:
    """What is compared, of how many tensors and items, and how many items differ."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        yield from encoded(checkpoint, name, kind, is_nested)
        conversion.convert(checkpoint, directory / "ours.gguf", type=name)
        exporting.export(directory / "ours.gguf", directory / "bnb.safetensors", form="bnb", dtype="f32")
        exporting.export(directory / "ours.gguf", directory / "plain.safetensors", dtype="f32")
        theirs = dict(decoded(load_file(directory / "bnb.safetensors")))
        yield "export: weights", *compared(theirs, load_file(directory / "plain.safetensors"))
        model = quantized(checkpoint, kind, is_nested, directory / "saved")
        saved = load_file(directory / "saved" / "model.safetensors")
        for chosen in dict.fromkeys((name, "nf4_b64" if kind == "nf4" else name)):
            conversion.convert(directory / "saved", directory / "back.gguf", type=chosen, overwrite=True)
            exporting.export(
                directory / "back.gguf", directory / "back.safetensors", dtype="f32", overwrite=True
            )
            back = load_file(directory / "back.safetensors")
            yield (
                f"import as {chosen}: weights",
                *compared({n: w for n, w in model.items() if n in back}, back),
            )
            exporting.export(
                directory / "back.gguf", directory / "again.safetensors", form="bnb", overwrite=True
            )
            again = load_file(directory / "again.safetensors")
            groups = [n for n in saved if STATE in n and n in again]
            parts = {
                p: saved[p]
                for n in groups
                for p in saved
                if p.startswith(n.partition(STATE)[0]) and p in again and saved[p].dtype == again[p].dtype
            }
            parts = {p: tensor for p, tensor in parts.items() if STATE not in p}
            yield f"return as {chosen}: codes, scales", *compared(parts, again)


def encoded(checkpoint: Path, name: str, kind: str, is_nested: bool) -> Iterator[tuple[str, int, int, int]]:
    """Codes and stored scales of all matrices."""
    found: dict[str, int] = {"codes": 0, "scales": 0}
    n_tensors = n_items = 0
    for path in sorted(checkpoint.glob("*.safetensors")):
        for tensor in load_file(path).values():
            if tensor.ndim != 2 or not tensor.is_floating_point():
                continue
            x = tensor.float()
            packed, state = bnb.quantize_4bit(x, blocksize=64, quant_type=kind, compress_statistics=is_nested)
            given = {"offset": state.offset.numpy()} if is_nested else None
            payload = our_payload(x.numpy(), name, given)
            n_tensors += 1
            n_items += packed.numel() + state.absmax.numel()
            chunks = range(payload.n_chunks)
            ours = np.concatenate([content(payload, i, View.CODES) for i in chunks])
            found["codes"] += int((ours != packed.numpy().reshape(-1)).sum())
            view = View.SCALE_CODES if is_nested else View.SCALES
            scales = np.concatenate([content(payload, i, view) for i in chunks])
            theirs = state.absmax.numpy().reshape(-1).view(np.uint8)
            found["scales"] += int((scales != theirs).sum())
    yield "encode: bytes of codes, scales", n_tensors, n_items, sum(found.values())


def our_payload(
    x: np.ndarray[Any, np.dtype[np.float32]], name: str, given: Mapping[str, Any] | None
) -> Payload:
    encoder = Encoder(find(name), x.shape, given=given)
    geometry = encoder.geometry
    rows = [x[i * geometry.rows_per_chunk :][: geometry.chunk_rows(i)] for i in range(geometry.n_chunks)]
    return Payload(joined(encoder, [encoder.encode_chunk(i, part) for i, part in enumerate(rows)]))


def decoded(tensors: Tensors) -> Iterator[tuple[str, torch.Tensor]]:
    """The groups of a file, as bitsandbytes decodes them."""
    for key in tensors:
        name, separator, _ = key.partition(STATE)
        if separator:
            group = {
                part.removeprefix(name + "."): tensor
                for part, tensor in tensors.items()
                if part.startswith(name + ".")
            }
            state = bnb.QuantState.from_dict(group, torch.device("cpu"))
            yield name, bnb.dequantize_4bit(tensors[name], state)


def quantized(checkpoint: Path, kind: str, is_nested: bool, directory: Path) -> dict[str, torch.Tensor]:
    """What bitsandbytes decodes of each layer of the checkpoint as transformers quantizes it, in float32;
    saved to `directory` with its tokenizer.
    """
    is_llama = "Llama" in AutoConfig.from_pretrained(checkpoint).architectures[0]
    kinds = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=is_nested,
        bnb_4bit_compute_dtype=torch.float32,
    )
    loader = AutoModelForCausalLM if is_llama else AutoModel
    model = loader.from_pretrained(checkpoint, quantization_config=kinds, device_map="cpu")
    shutil.copytree(checkpoint, directory, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    model.save_pretrained(directory)
    found = {}
    for name, parameter in model.named_parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            state.dtype = torch.float32
            found[name] = bnb.dequantize_4bit(parameter.data, state)
    return found


def compared(theirs: Tensors, ours: Tensors) -> tuple[int, int, int]:
    """Tensors, items, and how many differ; a tensor of another shape differs whole."""
    different = sum(
        int((t != ours[n]).sum()) if t.shape == ours[n].shape else t.numel() for n, t in theirs.items()
    )
    return len(theirs), sum(t.numel() for t in theirs.values()), different


def write_fixtures() -> None:
    """Small tensors as bitsandbytes quantizes, stores and decodes them: rows of whole blocks, blocks over
    several super-blocks, and cut blocks.
    """
    rng = np.random.default_rng(4)
    inputs = {
        "whole.weight": rng.standard_normal((12, 128)) * 0.02,
        "long.weight": rng.standard_t(3, (300, 64)),
        "cut.weight": rng.standard_normal((7, 100)),
        "odd.weight": rng.standard_normal((3, 77)),
        "ties.weight": np.round(rng.standard_normal((4, 64)) * 8) / 8,
    }
    inputs["ties.weight"][2] = 0
    tensors = {name: torch.from_numpy(x.astype(np.float32)) for name, x in inputs.items()}
    FIXTURES.mkdir(exist_ok=True)
    save_file(tensors, FIXTURES / "input.safetensors")
    for name, (kind, is_nested) in KINDS.items():
        stored: dict[str, torch.Tensor] = {}
        for tensor, x in tensors.items():
            packed, state = bnb.quantize_4bit(x, blocksize=64, quant_type=kind, compress_statistics=is_nested)
            stored[tensor] = packed
            stored |= {f"{tensor}.{key}": value.clone() for key, value in state.as_dict(packed=True).items()}
        save_file(stored, FIXTURES / f"{name}.safetensors", metadata={"format": "pt"})
        save_file(
            dict(decoded(load_file(FIXTURES / f"{name}.safetensors"))),
            FIXTURES / f"{name}.decoded.safetensors",
        )
