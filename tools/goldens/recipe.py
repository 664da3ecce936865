"""Make recipes of classes that transformers has (in the peer's Python).

The class is built with a small configuration and saved; its config.json and the names and shapes of its
tensors are the recipe. Some classes that transformers does not have are described in goldens/by_hand.py.
All others are reported and left out: they are made with a newer version, or the recipe is written by hand.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import sys
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from goldens import by_hand
from goldens.shrinking import N_LAYERS, configuration, laid_over, overrides, tokenizer_of
from testing.golden.recipes import Recipe, Tensor

TIMEOUT_S = 120
MOST_NUMBERS = 200_000_000
LARGE = 1_500_000
LARGEST_LEFT_OUT = 4096
TOWER = re.compile(
    r"(^|\.)(vision|visual|audio|vqmodel|vq_|talker|code2wav|token2wav|speech|aligner|encoder\.layers)"
)
"""Tensors that the text converter does not look at: of those of more numbers than LARGEST_LEFT_OUT, none is
kept where a checkpoint would be large.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("classes", nargs="+", metavar="CLASS")
    parser.add_argument("--overwrite", action="store_true", help="replace recipes that are there")


def run(arguments: argparse.Namespace) -> int:
    os.environ.update(
        TRANSFORMERS_VERBOSITY="error",
        HF_HUB_OFFLINE="1",
        TOKENIZERS_PARALLELISM="false",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
    )
    n_failed = 0
    signal.signal(signal.SIGALRM, _too_long)
    for name in arguments.classes:
        path = arguments.records / "recipes" / f"{name}.json"
        if path.exists() and not arguments.overwrite:
            print(f"{name}: is there")
            continue
        signal.alarm(TIMEOUT_S)
        try:
            recipe = by_hand.recipe(name) if name in by_hand.CLASSES else make(name)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            print(f"{name}: FAILED {type(error).__name__}: {error} ({place.filename}:{place.lineno})"[:600])
            n_failed += 1
            continue
        finally:
            signal.alarm(0)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(recipe.text(), encoding="utf-8")
        print(f"{name}: {len(recipe.tensors)} tensors", flush=True)
    return 1 if n_failed else 0


def make(name: str) -> Recipe:
    """The recipe of a class of the installed transformers.

    name: of the class. Raises LookupError if transformers does not have it.
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    special = overrides(name)
    cls_name = name.partition("+")[0]
    cls = getattr(transformers, special.get("like", cls_name), None)
    if cls is None or not hasattr(cls, "config_class"):
        raise LookupError(f"transformers {transformers.__version__} does not have it")
    tokenizer = tokenizer_of(name)
    config = cls.config_class(
        **configuration(cls.config_class(**special.get("start", {})).to_dict(), special, tokenizer)
    )
    torch.manual_seed(0)
    try:
        with torch.device("meta"):
            n_numbers = sum(p.numel() for p in cls(config).parameters())
    except NotImplementedError:  # not every class can be made without numbers
        n_numbers = 0
    if n_numbers > MOST_NUMBERS:
        raise ValueError(f"{n_numbers / 1e6:.0f} million numbers")
    model = cls(config).bfloat16()
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory, max_shard_size="10GB")
        saved = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))
        if special.get("raw"):
            saved = json.loads(json.dumps(config.to_dict()))
        tensors = _tensors(Path(directory) / "model.safetensors")
    for key in ("dtype", "torch_dtype"):
        saved.pop(key, None)
    if "wrap" in special:
        saved.pop("architectures", None)
        saved = {**special["wrap"], "text_config": saved}
    for pattern, replacement in special.get("rename", ()):
        tensors = tuple(replace(t, name=re.sub(pattern, replacement, t.name)) for t in tensors)
    if "mtp" in special:
        last = rf"(?:.*\.)?layers\.{special.get('layers', N_LAYERS) - 1}\."
        copies = [
            replace(t, name=re.sub(last, special["mtp"], t.name)) for t in tensors if re.match(last, t.name)
        ]
        tensors += tuple(copies)
    tensors += tuple(Tensor(name, tuple(shape)) for name, shape in special.get("extra", ()))
    return Recipe(
        cls_name,
        "none" if special.get("raw") else transformers.__version__,
        laid_over({**saved, "architectures": [cls_name]}, special.get("saved", {})),
        tokenizer,
        tensors,
        special.get("files", {}),
        tuple(special.get("options", ())),
    )


def _tensors(path: Path) -> tuple[Tensor, ...]:
    with path.open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    sizes = {name: math.prod(entry["shape"]) for name, entry in header.items()}
    is_large = sum(sizes.values()) > LARGE
    return tuple(
        Tensor(name, tuple(entry["shape"]), _settings(entry["dtype"]))
        for name, entry in header.items()
        if not (is_large and sizes[name] > LARGEST_LEFT_OUT and TOWER.search(name))
    )


def _settings(dtype: str) -> dict[str, Any]:
    return {} if dtype == "BF16" else {"dtype": dtype, "fill": "arange"}


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"more than {TIMEOUT_S} s")


if __name__ == "__main__":
    sys.exit("run tools/golden recipe")
