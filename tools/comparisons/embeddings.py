"""Sentence embeddings of a BERT checkpoint: llama.cpp on our file against transformers in float32.

    tools/compare embeddings CHECKPOINT [--type f16] [--python PYTHON]      PYTHON has torch and transformers

Converts the checkpoint, embeds a few texts on both sides (mean pooling, normalized) and prints the cosine of
each pair; exit code 1 below 0.9999.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "GGUF is a binary container for models.",
    "naïve café, déjà vu: 価格は100円です",
    "def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)",
    "x",
)

REFERENCE = """
import json, sys, torch
from transformers import AutoModel, AutoTokenizer
directory, texts = sys.argv[1], json.loads(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(directory)
model = AutoModel.from_pretrained(directory).float().eval()
vectors = []
for text in texts:
    with torch.no_grad():
        hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
    vectors.append(torch.nn.functional.normalize(hidden.mean(0), dim=0).tolist())
print(json.dumps(vectors))
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--type", default="f16")
    parser.add_argument("--python", default=sys.executable)


def run(arguments: argparse.Namespace) -> int:
    import gguflow
    from testing import llama_cpp

    command = [arguments.python, "-c", REFERENCE, str(arguments.checkpoint), json.dumps(TEXTS)]
    reference = np.array(
        json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    )
    with tempfile.TemporaryDirectory() as directory:
        report = gguflow.convert(arguments.checkpoint, Path(directory) / "model.gguf", type=arguments.type)
        ours = np.array([llama_cpp.embed(str(report.output), text) for text in TEXTS])
    ours /= np.linalg.norm(ours, axis=1, keepdims=True)
    cosines = (ours * reference).sum(axis=1)
    for text, cosine in zip(TEXTS, cosines, strict=True):
        print(f"{cosine:.6f}  {text}")
    return int(cosines.min() < 0.9999)
