"""What llama.cpp makes of a model, or why it does not: each model in a process of its own with a time limit,
since llama.cpp ends the process where it meets what it does not expect.

python -m testing.llama_answers MODEL.gguf TEXT
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from testing.llama_library import Llama

TEXT = "Hello world, this is a test 123"
N_TOKENS = 8
N_SHOWN = 6
TIMEOUT_S = 120
LONGEST_MESSAGE = 300
_NOISE = (
    r"llama.cpp refused the file: ",
    r"llama_model_load: error loading model: (error loading model hyperparameters: )?",
    r"check_tensor_dims: ",
    r"; llama_model_load_from_file_impl: failed to load model$",
    r"(?<=\d),\s+1, +1(?=$|;)",
)
"""What messages say besides the reason."""
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Answer:
    """What a model says to a text.

    kind: "generation" of N_TOKENS tokens (each the best); "diffusion": the best token in each place;
        "embedding": of the text, or of each token where the model does not pool; "refused".
    ids: the text's tokens.
    tokens: those that follow.
    numbers: the first of the last row of logits, or of the embedding.
    digest: SHA-256 of all of them, as float32.
    message: why it was refused.
    """

    kind: str
    ids: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    numbers: tuple[float, ...] = ()
    digest: str = ""
    message: str = ""

    @classmethod
    def of(cls, contents: Mapping[str, Any]) -> Answer:
        """From what JSON gives."""
        fields: dict[str, Any] = {n: tuple(x) if isinstance(x, list) else x for n, x in contents.items()}
        return cls(**fields)

    def differences(self, other: Answer) -> str:
        """In which way another answer differs, exactly; "" if it does not."""
        if self.kind != other.kind:
            return f"{self.kind} {self.message}, not {other.kind} {other.message}"
        for name, what in (("message", "messages"), ("ids", "tokens of the text"), ("tokens", "tokens")):
            if getattr(self, name) != getattr(other, name):
                return f"{what} {getattr(self, name)}, not {getattr(other, name)}"
        return "" if self.digest == other.digest else f"numbers {self.numbers}, not {other.numbers}"

    def is_near(self, other: Answer) -> bool:
        """Whether another answer is the same but for what another processor may round otherwise."""
        same = all(
            getattr(self, name) == getattr(other, name) for name in ("kind", "ids", "tokens", "message")
        )
        scale = max((abs(x) for x in other.numbers), default=0.0)
        return (
            same
            and len(self.numbers) == len(other.numbers)
            and all(abs(a - b) <= 1e-3 * scale for a, b in zip(self.numbers, other.numbers, strict=True))
        )


def ask(path: Path, *, timeout_s: int = TIMEOUT_S) -> Answer:
    """The answer of a model to `TEXT`.

    path: of the GGUF file.
    timeout_s: seconds after which it counts as refused.
    """
    command = [sys.executable, "-m", "testing.llama_answers", str(path), TEXT]
    environment = os.environ | {"GGML_NO_BACKTRACE": "1", "PYTHONPATH": os.pathsep.join([str(_ROOT)])}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=environment,
            cwd=_ROOT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer("refused", message=f"no answer within {timeout_s} s")
    if done.returncode == 0:
        return Answer.of(json.loads(done.stdout.splitlines()[-1]))
    return Answer("refused", message=_message(done.stderr, done.returncode, path))


def _message(stderr: str, status: int, path: Path) -> str:
    """The last line that says why."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    reasons = [
        line
        for line in lines
        if re.match(r"RuntimeError: |terminate called|\s*what\(\)|.*\.(c|cpp|h|hpp|cc):\d+: ", line)
    ]
    text = "; ".join(reasons) or (lines[-1] if lines else f"the process ended with {status}")
    text = text.removeprefix("RuntimeError: ").replace(str(path), "the file")
    for noise in _NOISE:
        text = re.sub(noise, "", text)
    text = re.sub(r"\S*/([\w.-]+\.(?:c|cpp|h|hpp|cc)):\d+: ", r"\1: ", text)
    return " ".join(text.split())[:LONGEST_MESSAGE]


def answer(path: Path, text: str) -> Answer:
    """As `ask`, in this process. Raises RuntimeError if llama.cpp refuses."""
    kind, tokens, rows = "embedding", [], np.zeros((0, 0), np.float32)
    with Llama(path, cache="f32") as model:
        ids = model.tokenize(text)
        if model.is_diffusion:
            kind, rows = "diffusion", model.logits(ids)
            tokens = [int(token) for token in rows.argmax(axis=-1)]
        elif model.is_generative:
            kind = "generation"
            tokens, rows = model.generate(ids, N_TOKENS)
        if not model.is_diffusion and not rows.any():  # it pools, or has no output matrix
            kind, tokens, rows = "embedding", [], model.embeddings(ids)
    if not np.isfinite(rows).all() or not rows.any():
        raise RuntimeError("llama.cpp computes zeros only, or numbers that are not finite")
    shown = tuple(float(x) for x in rows[-1, :N_SHOWN])
    return Answer(kind, tuple(ids), tuple(tokens), shown, hashlib.sha256(rows.tobytes()).hexdigest()[:32])


if __name__ == "__main__":
    print(json.dumps(asdict(answer(Path(sys.argv[1]), sys.argv[2]))), flush=True)
