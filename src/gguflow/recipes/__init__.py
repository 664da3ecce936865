"""Recipes: which tensor gets which block format, and why.

A recipe has a base format, and a better (or cheaper) one for some kinds of tensor, depending on the layer and
the shape of the model. All recipes are in `table.py`, and the meaning of their conditions is in
`conditions.py`; `rules.py` applies a recipe to the tensors of a model, as llama-quantize does, with the
options of `options.py`. Everything here is pure: names and numbers in, a format and the reason for it out.
"""

from __future__ import annotations

from gguflow.recipes.conditions import ModelFacts
from gguflow.recipes.options import Format, Options
from gguflow.recipes.rules import Choice, TensorFacts, choose, kind_of, processing_order
from gguflow.recipes.table import RECIPES, VERSION, Recipe, resolve, split_names

__all__ = [
    "RECIPES",
    "VERSION",
    "Choice",
    "Format",
    "ModelFacts",
    "Options",
    "Recipe",
    "TensorFacts",
    "choose",
    "kind_of",
    "processing_order",
    "resolve",
    "split_names",
]
