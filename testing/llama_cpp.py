"""llama.cpp, out of the xllamacpp wheel, as the judge of our files: complete a prompt, embed a text.

python -m testing.llama_cpp MODEL.gguf PROMPT [N_TOKENS]
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def complete(model: str, prompt: str, n_tokens: int) -> tuple[str, list[int]]:
    """Greedy completion: the text, and the ids of its tokens."""
    answer = _ask(model, {"prompt": prompt, "max_tokens": n_tokens, "temperature": 0, "logprobs": 1})
    choice = answer["choices"][0]
    return choice["text"], [entry["id"] for entry in choice["logprobs"]["content"]]


def embed(model: str, text: str) -> list[float]:
    """The normalized sentence embedding."""
    vector: list[float] = _ask(model, {"input": text}, embedding=True)["data"][0]["embedding"]
    return vector


def _ask(model: str, request: dict[str, Any], embedding: bool = False) -> dict[str, Any]:
    """One request to a server in this process that has loaded the model."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.n_ctx = 512
    parameters.n_parallel = 1
    parameters.warmup = False
    parameters.cpuparams.n_threads = 2
    parameters.embedding = embedding
    with _quiet():
        server = xllamacpp.Server(parameters)
        answer: dict[str, Any] = (
            server.handle_embeddings(request) if embedding else server.handle_completions(request)
        )
        del server
    if "error" in answer:
        raise RuntimeError(f"llama.cpp refused: {json.dumps(answer)[:500]}")
    return answer


@contextmanager
def _quiet() -> Iterator[None]:
    """llama.cpp writes its log to file descriptors 1 and 2."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(fd) for fd in (1, 2)]
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for fd in (1, 2):
            os.dup2(null, fd)
        yield
    finally:
        for fd, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, fd)
            os.close(copy)
        os.close(null)


if __name__ == "__main__":
    text, _ = complete(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 64)
    print(sys.argv[2] + text, flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what llama.cpp says while the process ends
