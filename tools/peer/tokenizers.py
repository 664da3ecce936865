"""What llama.cpp's converter makes of the tokenizers in testing/tokenizer_cases.py, as JSON on stdout.

python tokenizers.py LLAMA_CPP    run by tools/make_tokenizers with a Python that has the converter's needs
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this directory, whose files are named like the libraries that they ask
TREE = Path(sys.argv[1])
sys.path[:0] = [str(TREE), str(TREE / "gguf-py")]

import gguf  # noqa: E402

from testing.tokenizer_cases import CASES, Case  # noqa: E402

LONG = 600
"""Lists with more elements are recorded by their first elements and a digest."""


def recorded(case: Case) -> dict[str, Any]:
    """The keys that the converter writes: type and value; and under "ids" what it would hash."""
    module, name, *method = case.peer.split(".")
    loaded = getattr(importlib.import_module(f"conversion.{module}"), name)
    with tempfile.TemporaryDirectory() as directory:
        case.write(Path(directory))
        model = object.__new__(loaded)
        model.dir_model = Path(directory)
        model.hparams = json.loads((Path(directory) / "config.json").read_text())
        model.gguf_writer = gguf.GGUFWriter(None, "llama")
        model.is_mistral_format = False
        model.origin_hf_arch = None
        model.target_model_dir = None
        model.disable_mistral_community_chat_template = False
        for key, value in case.attributes.items():
            setattr(model, key, getattr(gguf.MODEL_ARCH, value) if key == "model_arch" else value)
        seen: dict[str, Any] = {}

        def pre(tokenizer: Any) -> str:
            if ids := tokenizer.encode(CHECK_TEXT):
                seen["ids"] = ids
            return case.pre

        model.get_vocab_base_pre = pre
        getattr(model, method[0] if method else "set_vocab")()
        keys = model.gguf_writer.kv_data[0]
        found = {key: [value.type.name, plain(value.value)] for key, value in keys.items()}
    found.pop("general.architecture")
    return {"keys": found, **seen}


def plain(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray)):
        value = list(value)
    if isinstance(value, (list, tuple)):
        items = [item.decode("utf-8") if isinstance(item, bytes) else item for item in value]
        items = [int(item) if isinstance(item, int) else item for item in items]
        return shortened(items)
    return value


def shortened(items: list[Any]) -> Any:
    if len(items) <= LONG:
        return items
    return {
        "n": len(items),
        "first": items[:LONG],
        "sha256": hashlib.sha256(json.dumps(items).encode()).hexdigest(),
    }


def check_text() -> str:
    """The text that the converter encodes."""
    for node in ast.walk(ast.parse((TREE / "conversion" / "base.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "chktxt":
            return str(ast.literal_eval(node.value))
    sys.exit("the converter has no chktxt")


CHECK_TEXT = check_text()


def main() -> None:
    logging.disable(logging.CRITICAL)
    answer, sys.stdout = sys.stdout, sys.stderr  # on which libraries ask questions
    found: dict[str, Any] = {}
    failed: list[str] = []
    for name, case in CASES.items():
        try:
            found[name] = recorded(case)
        except Exception as error:
            failed.append(f"{name}: {type(error).__name__}: {error}")
    if failed:
        sys.exit("\n".join(failed))
    json.dump(found, answer)


main()
