"""The documentation's Python that needs torch runs as it is written, beside a checkpoint and the file made
from it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import gguflow  # noqa: E402
from testing.checkpoints import TINY  # noqa: E402
from tests.test_readme import PYTHON  # noqa: E402


def test_python_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(TINY, "checkpoint")
    gguflow.convert("checkpoint", "model.gguf", type="q4_k_m")
    names: dict[str, Any] = {}
    for i, block in enumerate(PYTHON["docs/pytorch.md"]):
        exec(compile(block, f"docs/pytorch.md, block {i}", "exec"), names)
    assert names["tokens"].shape == (1, 11)
    assert names["weights"]["lm_head.weight"].dtype == torch.bfloat16
    original = names["layer"].parametrizations.weight.original.detach().numpy()
    assert torch.equal(names["layer"].weight, torch.from_numpy(gguflow.fake_quantize(original, "q4_k")))
