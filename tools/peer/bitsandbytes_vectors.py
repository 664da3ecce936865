"""Writes fixtures/parametric/bitsandbytes.json: what bitsandbytes on the CPU makes of small tensors. Run
inside an environment with bitsandbytes.

Rows are multiples of a block: 0.50.2 decodes others wrongly where there is AVX-512 (a scale per row, not per
block; its encoder is right).
"""

from __future__ import annotations

import json
from pathlib import Path

import bitsandbytes
import numpy as np
import torch
from bitsandbytes import functional

TARGET = Path(__file__).resolve().parents[2] / "fixtures" / "parametric" / "bitsandbytes.json"


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    ties = (np.round(rng.standard_normal((4, 64)) * 8) / 8).astype(np.float32)
    ties[2] = 0
    return {
        "gaussian": (rng.standard_normal((10, 128)) * 0.02).astype(np.float32),
        "ties and a row of zeros": ties,
    }


def entry(name: str, x: np.ndarray) -> dict[str, object]:
    weights = torch.from_numpy(x)
    result: dict[str, object] = {"name": name, "shape": list(x.shape), "weights": x.tobytes().hex()}
    for kind in ("nf4", "fp4"):
        codes, state = functional.quantize_4bit(weights, blocksize=64, quant_type=kind)
        decoded = functional.dequantize_4bit(codes, state)
        result[kind] = {"codes": hexed(codes), "absmax": hexed(state.absmax), "decoded": hexed(decoded)}
    codes, state = functional.quantize_4bit(weights, blocksize=64, quant_type="nf4", compress_statistics=True)
    result["nf4 nested"] = {
        "codes": hexed(codes),
        "absmax": hexed(state.absmax),
        "nested_absmax": hexed(state.state2.absmax),
        "nested_offset": hexed(state.offset),
        "decoded": hexed(functional.dequantize_4bit(codes, state)),
    }
    return result


def hexed(tensor: torch.Tensor) -> str:
    return tensor.numpy().tobytes().hex()


def main() -> None:
    entries = [entry(name, x) for name, x in tensors().items()]
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(
        json.dumps({"bitsandbytes": bitsandbytes.__version__, "tensors": entries}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
