"""gguflow: safetensors to GGUF in one streaming pass, with the bytes that llama.cpp gives.

    import gguflow

    gguflow.convert("checkpoint/", "model.gguf", type="q4_k_m")
    packed = gguflow.quantize(x, "q4_k")           # float[..., n] -> uint8[..., row_bytes]
    weights = gguflow.dequantize(packed, "q4_k")   # uint8[..., row_bytes] -> float32[..., n]
    gguflow.formats["q4_k"].bits_per_weight
    gguflow.validate("model.gguf")                 # -> every broken rule, as a Finding
    with gguflow.open("model.gguf") as model:      # mapped: nothing is read before it is touched
        weights = model["blk.0.attn_q.weight"].dequantize(rows=slice(0, 8))
        y = model["blk.0.attn_q.weight"].matmul(x)  # from the packed blocks

Names are loaded when they are first used: importing the package imports neither NumPy nor Numba.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gguflow._version import __version__ as __version__

if TYPE_CHECKING:
    from gguflow.blocks import FORMATS as formats
    from gguflow.comparison import compare
    from gguflow.conversion import convert
    from gguflow.editing import edit
    from gguflow.errors import (
        FileError,
        FileWarning,
        Finding,
        GguflowError,
        InvalidError,
        LimitError,
        MalformedError,
        MismatchError,
        MomentsError,
        NonFiniteError,
        ShapeError,
        StorageError,
        UnknownFormatError,
        UnsupportedError,
        UsageError,
    )
    from gguflow.exporting import export
    from gguflow.quantization import dequantize, fake_quantize, quantize
    from gguflow.recipes import Options
    from gguflow.rows import RowStore
    from gguflow.runtime import Model, Tensor, matmul
    from gguflow.runtime import open_model as open  # noqa: A004
    from gguflow.validation import validate

__all__ = [
    "FileError",
    "FileWarning",
    "Finding",
    "GguflowError",
    "InvalidError",
    "LimitError",
    "MalformedError",
    "MismatchError",
    "Model",
    "MomentsError",
    "NonFiniteError",
    "Options",
    "RowStore",
    "ShapeError",
    "StorageError",
    "Tensor",
    "UnknownFormatError",
    "UnsupportedError",
    "UsageError",
    "compare",
    "convert",
    "dequantize",
    "edit",
    "export",
    "fake_quantize",
    "formats",
    "matmul",
    "open",
    "quantize",
    "validate",
]

_HOMES = {
    "Model": ("gguflow.runtime", "Model"),
    "Options": ("gguflow.recipes", "Options"),
    "RowStore": ("gguflow.rows", "RowStore"),
    "Tensor": ("gguflow.runtime", "Tensor"),
    "compare": ("gguflow.comparison", "compare"),
    "convert": ("gguflow.conversion", "convert"),
    "dequantize": ("gguflow.quantization", "dequantize"),
    "edit": ("gguflow.editing", "edit"),
    "export": ("gguflow.exporting", "export"),
    "fake_quantize": ("gguflow.quantization", "fake_quantize"),
    "formats": ("gguflow.blocks", "FORMATS"),
    "matmul": ("gguflow.runtime", "matmul"),
    "open": ("gguflow.runtime", "open_model"),
    "quantize": ("gguflow.quantization", "quantize"),
    "validate": ("gguflow.validation", "validate"),
}


if not TYPE_CHECKING:  # else type checkers would take any name for one of the package

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            from gguflow.arguments import suggestion

            hint = suggestion(name, __all__)
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
        home, attribute = _HOMES.get(name, ("gguflow.errors", name))
        return getattr(importlib.import_module(home), attribute)


def __dir__() -> list[str]:
    """The public names only, for completion in a shell."""
    return sorted([*__all__, "__doc__", "__version__"])
