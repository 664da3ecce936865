"""What a tiny checkpoint holds, as a JSON file for each class:

    {
      "class": "LlamaForCausalLM",
      "transformers": "4.57.6",                  whose configuration class made config; "none": made by hand
      "config": {...},                           config.json
      "tokenizer": {"kind": "bpe", ...},         tokenizers.py
      "files": {"README.md": "text", "1_Pooling/config.json": {...}},
      "options": ["--no-mtp"],                   of the peer's command line
      "tensors": [["model.norm.weight", [96]], ["ids", [64], {"dtype": "I64", "fill": "arange"}]]
    }

"files", "options" and a tensor's third part may be left out. Settings of a tensor: "dtype" (of safetensors;
else it has the number type that is asked for), "fill" ("zeros", "ones", "arange"; else random), "low" and
"high" (bounds of random integers), "as" (another name whose numbers it has: a tied head that is stored),
"file" (else model.safetensors).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint.

    name: as in the checkpoint.
    shape: NumPy's order.
    settings: see above.
    """

    name: str
    shape: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A checkpoint, without its number type. The fields are those of the file, see above."""

    cls: str
    transformers: str
    config: dict[str, Any]
    tokenizer: dict[str, Any]
    tensors: tuple[Tensor, ...]
    files: dict[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()

    @property
    def directory(self) -> str:
        """The name of the checkpoint's directory, from which its metadata take the model's name."""
        return f"Tiny-{self.cls}"

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """Raises ValueError or KeyError for what is no recipe."""
        return cls.of(json.loads(text))

    @classmethod
    def of(cls, contents: Mapping[str, Any]) -> Recipe:
        """From what JSON gives, with the same errors."""
        tensors = tuple(
            Tensor(name, tuple(shape), *settings) for name, shape, *settings in contents["tensors"]
        )
        if len({(tensor.name, tensor.settings.get("file")) for tensor in tensors}) < len(tensors):
            raise ValueError("a tensor's name is there twice")
        for tensor in tensors:
            if unknown := tensor.settings.keys() - {"dtype", "fill", "low", "high", "as", "file"}:
                raise ValueError(f"{tensor.name}: unknown settings {sorted(unknown)}")
        return cls(
            contents["class"],
            contents["transformers"],
            contents["config"],
            contents["tokenizer"],
            tensors,
            contents.get("files", {}),
            tuple(contents.get("options", ())),
        )

    def text(self) -> str:
        """As JSON, a tensor to a line."""
        head = {
            "class": self.cls,
            "transformers": self.transformers,
            "config": self.config,
            "tokenizer": self.tokenizer,
            **({"files": self.files} if self.files else {}),
            **({"options": list(self.options)} if self.options else {}),
        }
        rows = [
            json.dumps([tensor.name, list(tensor.shape), *([tensor.settings] if tensor.settings else [])])
            for tensor in self.tensors
        ]
        return json.dumps(head, indent=1)[:-2] + ',\n "tensors": [\n' + ",\n".join(rows) + "\n ]\n}\n"
