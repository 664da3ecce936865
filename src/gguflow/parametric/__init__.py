"""The parametric super-block family: block-wise quantizers as parameters of one specified encoding.

    encoding = find("nf4_b64+zstd")
    encoder = Encoder(encoding, x.shape)
    parts = [encoder.encode_chunk(i, rows) for i, rows in ...]
    payload = Payload(encoder.prefix(...) + b"".join(parts))
    payload.decode_rows(10, 20)

`gguflow.quantize(x, "nf4_b64")` does it in one call. The specification is spec/blocks/parametric.md.
"""

from __future__ import annotations

from gguflow.parametric.arrays import AUTO, decode, encode, joined
from gguflow.parametric.axes import (
    Codebook,
    Entropy,
    Granularity,
    Nesting,
    Quantizer,
    Range,
    ScaleType,
    SourceType,
)
from gguflow.parametric.chunks import digest as chunk_digest
from gguflow.parametric.descriptor import MAGIC
from gguflow.parametric.encoder import Encoder
from gguflow.parametric.encoding import Encoding
from gguflow.parametric.entropy import library_version as zstd_version
from gguflow.parametric.geometry import Geometry
from gguflow.parametric.names import find, is_name, presets
from gguflow.parametric.payload import Payload

__all__ = [
    "AUTO", "MAGIC", "Codebook", "Encoder", "Encoding", "Entropy", "Geometry", "Granularity", "Nesting",
    "Payload", "Quantizer", "Range", "ScaleType", "SourceType", "chunk_digest", "decode", "encode", "find",
    "is_name", "joined", "presets", "zstd_version",
]  # fmt: skip
