"""Small valid files of formats of which the corpus has none: JSON, importance matrices, journals."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable

import numpy as np

from gguflow.container.header import TensorInfo
from gguflow.container.metadata import Metadata, ValueType, array, string, u32
from gguflow.container.writer import build

BINDING = "gguflow journal of a plan, its sources and a version"


def json_documents() -> list[bytes]:
    """A configuration, a tokenizer, an index, a header; with every kind of value and escape."""
    documents = (
        {"architectures": ["LlamaForCausalLM"], "rope_theta": 1e6, "eps": 1e-05, "tie": False, "pad": None},
        {
            "model": {
                "vocab": {"<unk>": 0, "\u2581the": 1, "\U0001f600": 2},
                "merges": [["t", "h"], ["th", "e"]],
            }
        },
        {"weight_map": {"a.weight": "model-00001-of-00002.safetensors", "b": "x"}, "metadata": {}},
        {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"format": "pt"}},
        [[[[]]], {"": {"": [-1, 0, 12345678901234567890, 0.5, True]}}],
    )
    texts = [
        json.dumps(document, ensure_ascii=escaped) for document in documents for escaped in (False, True)
    ]
    return [
        *(text.encode() for text in texts),
        b'{"eos": NaN, "x": [Infinity, -Infinity, -0, 1E+2], "\\ud83d\\ude00\\\\ud800\\n\\/": "\\"" }',
    ]


def importance_matrices() -> list[bytes]:
    """Both formats, with one entry and with several, with and without what may be missing."""
    entry = struct.pack("<i", 1) + b"a" + struct.pack("<ii3f", 2, 3, 1.0, 0.0, 2.5)
    other = struct.pack("<i", 12) + b"blk.0.attn_q" + struct.pack("<ii2f", 0, 2, 0.5, 0.25)
    end = struct.pack("<ii", 7, 4) + b"wiki"
    return [
        struct.pack("<i", 1) + entry,
        struct.pack("<i", 2) + entry + other + end,
        struct.pack("<i", 1) + other + end[:4],
        matrix_file({"a.in_sum2": np.ones((1, 4)), "a.counts": np.full((1, 1), 2.0)}),
        matrix_file({"b.in_sum2": np.ones((2, 4)), "b.counts": np.array([[0.0], [2.5]])}),
    ]


_MATRIX_KEYS: Metadata = {
    "general.type": string("imatrix"),
    "imatrix.datasets": array(ValueType.STRING, ["wiki", ""]),
    "imatrix.chunk_count": u32(3),
    "imatrix.chunk_size": u32(512),
}


def matrix_file(
    tensors: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]], keys: Metadata = _MATRIX_KEYS
) -> bytes:
    """An importance matrix as a GGUF file: F32 tensors that have at most 32 bytes each.

    tensors: their values by name.
    keys: its metadata.
    """
    infos = [
        TensorInfo(name, values.shape[::-1], 0, 32 * i) for i, (name, values) in enumerate(tensors.items())
    ]
    return build(keys, infos) + b"".join(
        values.astype("<f4").tobytes().ljust(32, b"\0") for values in tensors.values()
    )


def journals() -> list[bytes]:
    leaf, chunk = f"0 0 {'0f' * 16}\n", f"3 17 {'a5' * 16} 123456\n"
    first = BINDING + "\n"
    return [
        text.encode() for text in (first, first + leaf, first + leaf + chunk * 3, first + chunk + leaf[:9])
    ]


OWN_SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "json": json_documents,
    "imatrix-file": importance_matrices,
    "journal-file": journals,
}
