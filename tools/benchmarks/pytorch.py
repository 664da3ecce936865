"""A Llama in transformers on packed blocks, against the same weights decoded to float32: memory, time to
load, speed, and how far the logits agree.

Random weights, 279 million of them unless told otherwise. Needs torch and transformers, and Linux for what it
says of memory. Each side is a process of its own that has run a small model before, so that compilers and
libraries are in its memory already.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
TINY = ROOT / "fixtures" / "models" / "tiny-py-llama"

SIDE = """
import json, sys, time
import numpy as np, torch, transformers
import gguflow.torch

def resident():
    wanted = ("RssAnon", "RssFile")
    status = dict(line.split(":", 1) for line in open("/proc/self/status") if line.startswith(wanted))
    return [int(status[key].split()[0]) * 1024 for key in wanted]

def load(checkpoint, file, is_packed):
    config = transformers.LlamaConfig.from_pretrained(checkpoint)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config).eval()
    if is_packed:
        return gguflow.torch.load_into(model, file)
    model.load_state_dict(gguflow.torch.state_dict(file), assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model

def logits(model, n, cache=None):
    with torch.no_grad():
        ids = torch.arange(1, n + 1)[None] % model.config.vocab_size
        return model(ids, past_key_values=cache, use_cache=cache is not None).logits

is_packed, tiny, tiny_file, checkpoint, file, result = json.loads(sys.argv[1])
logits(load(tiny, tiny_file, is_packed), 32)
logits(load(tiny, tiny_file, is_packed), 1)
before, start = resident(), time.perf_counter()
model = load(checkpoint, file, is_packed)
loaded = time.perf_counter() - start
np.save(result, logits(model, 32).numpy())
logits(model, 1)
after = resident()
start = time.perf_counter()
logits(model, 128)
prompt = time.perf_counter() - start
cache = transformers.DynamicCache()
logits(model, 4, cache)
start = time.perf_counter()
for _ in range(16):
    logits(model, 1, cache)
token = (time.perf_counter() - start) / 16
print(json.dumps([after[0] - before[0], after[1] - before[1], loaded, 128 / prompt, 1 / token]))
"""

BERT = """
import json, sys
import torch, transformers
import gguflow.torch

checkpoint, file = json.loads(sys.argv[1])
config = transformers.BertConfig.from_pretrained(checkpoint)
with torch.device("meta"):
    packed = transformers.BertModel(config, add_pooling_layer=False).eval()
gguflow.torch.load_into(packed, file)
decoded = transformers.BertModel(config, add_pooling_layer=False).eval()
decoded.load_state_dict(gguflow.torch.state_dict(file))
first = transformers.BertModel.from_pretrained(checkpoint, add_pooling_layer=False).eval()
ids = torch.randint(1000, config.vocab_size, (8, 48), generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    a, b, c = (model(ids).last_hidden_state for model in (packed, decoded, first))
cosine = torch.nn.functional.cosine_similarity(a.mean(1), c.mean(1)).min()
print(json.dumps([float((a - b).abs().max() / b.abs().max()), float(cosine)]))
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--ffn", type=int, default=2816)
    parser.add_argument(
        "--bert", type=Path, metavar="DIR", help="also a BERT checkpoint (MiniLM), as f16 and as q8_0"
    )
    parser.add_argument("--type", default="q4_k_m", help="what the model is converted to (default: q4_k_m)")


def run(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint, file, tiny_file = (
            Path(scratch) / name for name in ("checkpoint", "model.gguf", "tiny.gguf")
        )
        sizes = [f"--{name}={getattr(arguments, name)}" for name in ("layers", "hidden", "ffn")]
        subprocess.run(
            [sys.executable, str(ROOT / "tools" / "make_checkpoint"), str(checkpoint), *sizes],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        _convert(checkpoint, file, arguments.type)
        _convert(TINY, tiny_file, arguments.type)
        print(f"{file.name}: {file.stat().st_size / 2**20:.0f} MiB as {arguments.type}")
        print(
            "           anonymous memory   of the mapped file       load     prompt of 128   then, one by one"
        )
        found = []
        for name, is_packed in (("packed", True), ("float32", False)):
            result = Path(scratch) / f"{name}.npy"
            anonymous, mapped, loaded, prompt, tokens = _said(
                SIDE, is_packed, TINY, tiny_file, checkpoint, file, result
            )
            found.append(np.load(result))
            row = f"{name:9} {anonymous / 2**20:13.0f} MiB {mapped / 2**20:16.0f} MiB"
            print(f"{row} {loaded:9.2f} s {prompt:12.1f} tok/s {tokens:12.1f} tok/s")
        packed, decoded = found
        difference = float(np.abs(packed - decoded).max() / np.abs(decoded).max())
        same = float((packed.argmax(-1) == decoded.argmax(-1)).mean())
        print(
            f"logits: largest difference {difference:.1e} of the largest, the same top token at "
            f"{same:.0%} of 32 positions"
        )
        for kind in ("f16", "q8_0") if arguments.bert else ():
            target = Path(scratch) / f"bert-{kind}.gguf"
            _convert(arguments.bert, target, kind)
            difference, cosine = _said(BERT, arguments.bert, target)
            print(
                f"BertModel {kind}: last hidden states differ by {difference:.1e} of the largest; "
                f"pooled, cosine to the checkpoint's {cosine:.6f}"
            )


def _convert(source: Path, target: Path, kind: str) -> None:
    command = [sys.executable, "-m", "gguflow", "convert", str(source), "-t", kind, "-o", str(target), "-q"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _said(program: str, *arguments: object) -> list[float]:
    """What a program prints when it is given these, paths as text, in a process of its own: figures in JSON,
    on its last line.
    """
    given = json.dumps([str(argument) if isinstance(argument, Path) else argument for argument in arguments])
    done = subprocess.run([sys.executable, "-c", program, given], check=True, capture_output=True, text=True)
    figures: list[float] = json.loads(done.stdout.splitlines()[-1])
    return figures
