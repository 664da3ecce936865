"""Writes fixtures/tokenizers/tiny-py-llama.json.gz: tiny-py-llama's tokenizer as transformers saves it, in
tokenizer.json alone, and what it makes of texts. Run inside an environment with transformers 5.24.

`saved` is what `save_pretrained` writes, `grown` the parts that differ with three tokens added. `older` has
the parts of tokenizer.json that converters before transformers 5 wrote in another way: a normalizer that puts
a space before each text. Its ids are those of the Hugging Face libraries for this file as it stands; those of
`saved` are the ids of LlamaTokenizer, which puts the space before a text only if there is none, and not after
a special token. llama.cpp always puts it, so chunks of `saved` are cut where a line begins with a letter, and
one with a special token written out has no ids.
"""

from __future__ import annotations

import copy
import gzip
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import transformers

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "fixtures" / "models" / "tiny-py-llama"
TARGET = ROOT / "fixtures" / "tokenizers" / "tiny-py-llama.json.gz"

CHUNK = 6700
"""Characters of a chunk; one of `saved` begins where a line begins with a letter."""

ADDED = (("<|im_start|>", True), ("<|im_end|>", True), ("<think>", False))
TEXTS = (
    "",
    " ",
    "   ",
    "a",
    " a",
    "  a",
    "a  b   c\t\td ",
    "def f(x):\n    return x\n\n\n",
    "\n",
    "<s>a</s> b <unk>c",
    "<s><s> </s></s>  x",
    "<0x0A> <0xff> <0x",
    "caf\u00e9 \u6f22\u5b57 \U0001f642 \u0000\u0001\u007f",
    "\u2581a \u2581 b",
    "x\u00a0y\u3000z",
    "-" * 300,
    "a" * 300,
)
OLDER: dict[str, Any] = {
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        ],
    },
    "pre_tokenizer": None,
}


def saved(tokenizer: Any, directory: Path) -> dict[str, Any]:
    """The files that a tokenizer saves, by name."""
    tokenizer.save_pretrained(directory)
    return {path.name: json.loads(path.read_text("utf-8")) for path in sorted(directory.glob("*.json"))}


def changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The parts of a file that differ."""
    return {key: part for key, part in after.items() if before.get(key) != part}


def starts(text: str) -> list[int]:
    """Where chunks of `saved` begin: at the next line that begins with a letter."""
    found, at = [0], CHUNK
    while at < len(text):
        at = text.find("\n", at) + 1
        if at == 0:
            break
        if text[at : at + 1].isalpha():
            found.append(at)
            at += CHUNK
    return found


def main() -> None:
    heldout = (SOURCE / "heldout.txt").read_text("utf-8")
    result: dict[str, Any] = {"transformers": transformers.__version__}
    with tempfile.TemporaryDirectory() as work:
        base = transformers.AutoTokenizer.from_pretrained(SOURCE)
        files = saved(base, Path(work) / "saved")
        whole = transformers.AutoTokenizer.from_pretrained(Path(work) / "saved")
        cuts = [*starts(heldout), len(heldout)]
        chunks = [heldout[first:last] for first, last in itertools.pairwise(cuts)]
        special = set(whole.all_special_tokens) - {"\n"}
        ids = [None if any(map(chunk.__contains__, special)) else whole.encode(chunk) for chunk in chunks]
        result["saved"] = {"files": files, "cuts": cuts, "ids": ids}

        older = copy.deepcopy(files["tokenizer.json"]) | OLDER
        older["added_tokens"] = [token for token in older["added_tokens"] if token["special"]]
        (Path(work) / "older.json").write_text(json.dumps(older))
        fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(Path(work) / "older.json"))
        cuts = [*range(0, len(heldout), CHUNK), len(heldout)]
        chunks = [heldout[first:last] for first, last in itertools.pairwise(cuts)]
        result["older"] = {
            "parts": OLDER | {"added_tokens": older["added_tokens"]},
            "cuts": cuts,
            "ids": [fast.encode(chunk) for chunk in chunks],
            "texts": [[text, fast.encode(text)] for text in TEXTS],
        }

        for text, special in ADDED:
            base.add_tokens([transformers.AddedToken(text, special=special, normalized=False)])
        grown = saved(base, Path(work) / "grown")
        result["grown"] = {name: changed(files[name], grown[name]) for name in files}
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(result, ensure_ascii=False, separators=(",", ":"))
    TARGET.write_bytes(gzip.compress(content.encode(), 9, mtime=0))


if __name__ == "__main__":
    main()
