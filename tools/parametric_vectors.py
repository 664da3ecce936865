"""Golden vectors of the parametric family: worked examples and a small matrix, made by the scalar reference
and the grammar alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguflow.parametric import Encoder, find, grammar, presets, reference, reference_decoding

DIRECTORY = Path(__file__).resolve().parents[1] / "fixtures" / "parametric"
VECTORS = "vectors.json"
FROM_PEERS = {"bitsandbytes.json"}
"""Written by tools/peer/bitsandbytes_vectors.py, with bitsandbytes itself."""

Floats = NDArray[np.float32]


def matrix() -> Floats:
    """Two rows of 72 weights: of many sizes, with ties, a zero row end, one outlier."""
    k = np.arange(144)
    x = ((k * 73 + k * k * 19) % 257 - 128) / 512
    x[62:72] = 0
    x[100] = 1.75
    return x.astype(np.float32).reshape(2, 72)


WORKED = {
    "affine4_b64": np.array([-0.9, -0.3, 0.2, 0.5, 1.0], np.float32),
    "int4_b128": np.array([0.0234, -0.0156, 0.0312, -0.0078], np.float32),
}


def contents() -> dict[str, bytes]:
    """Everything that lies in DIRECTORY but for what peers gave: place -> bytes."""
    return {VECTORS: (json.dumps(list(vectors()), indent=1) + "\n").encode()}


def vectors() -> Iterator[dict[str, Any]]:
    for name, x in WORKED.items():
        yield vector(name, x)
    for name, encoding in presets().items():
        if encoding.is_fixed_size and (not encoding.needs_first_pass or name == "ternary_absmean"):
            yield vector(name, matrix())
    for name in (
        "sb:bits=3,block=16,super=512,scale_bits=6,min_bits=6",
        "sb:bits=5,block=32,scale=bf16",
        "sb:bits=4,per=row,codebook=nf4,scale=f16",
    ):
        yield vector(name, matrix())


def vector(name: str, x: Floats) -> dict[str, Any]:
    """An encoding, weights, the payload that they make, and what it decodes to; all bytes in hexadecimal,
    little-endian.
    """
    tables = {"scales": mean_magnitude(x)} if name == "ternary_absmean" else None
    encoder = Encoder(find(name), x.shape, given=tables)
    geometry = encoder.geometry
    fields = reference.encode(geometry, geometry.rows, x.reshape(-1), encoder.tables)
    payload = encoder.prefix() + grammar.chunk(geometry, geometry.rows).build(fields)
    decoded = reference_decoding.decode(geometry, geometry.rows, fields, encoder.tables)
    return {
        "encoding": name,
        "shape": list(x.shape),
        "weights": x.astype("<f4").tobytes().hex(),
        "payload": payload.hex(),
        "decoded": decoded.astype("<f4").tobytes().hex(),
    }


def mean_magnitude(x: Floats) -> Floats:
    total = math.fsum(float(reference.sum_of_magnitudes(row)) for row in x)
    return np.array([total / x.size], np.float32)
