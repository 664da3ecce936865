"""Memory-mapped loading: a model opened in milliseconds, its tensors decoded or multiplied where they lie.

files.py       a file of blocks, mapped or read
tensor.py      what a tensor gives: raw blocks, decoded rows, products
model.py       opening: one file or all shards, judged before anything is handed out
checkpoint.py  a model under its checkpoint's names and row orders
"""

from __future__ import annotations

from gguflow.runtime.model import Model, open_model
from gguflow.runtime.tensor import Tensor, matmul

__all__ = ["Model", "Tensor", "matmul", "open_model"]
