"""An output that our own validator would refuse is not written: overrides that break a rule are refused with
the rule, and headers are judged before a file gets its name.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from gguflow import conversion
from gguflow.cli import main
from gguflow.conversion import judging
from gguflow.errors import InvalidError, UsageError
from gguflow.recipes import Options
from gguflow.validation import examine
from testing.checkpoints import tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    conversion.convert(tiny_llama(directory / "checkpoint"), directory / "model.gguf", type="f16")
    return directory / "model.gguf"


REFUSED = {
    "another architecture": ("general.architecture=str:x", "llama.* 'x'|'x'.*'llama'"),
    "another known architecture": ("general.architecture=str:bert", "G-003|'bert'"),
    "an architecture that is a number": ("general.architecture=int:1", "would be 1"),
    "a wrong block_count": ("llama.block_count=int:5", "G-00[56]"),
    "no blocks": ("llama.block_count=int:0", "G-00[45]"),
    "tokens as a string": ("tokenizer.ggml.tokens=str:x", "G-011"),
    "a token that is not there": ("tokenizer.ggml.eos_token_id=int:99999999", "G-013"),
    "another width": ("llama.embedding_length=int:96", "G-00[47]"),
    "an epsilon as a string": ("llama.attention.layer_norm_rms_epsilon=str:x", "G-004"),
    "a base of zero": ("llama.rope.freq_base=float:0", "G-004.*rope.freq_base"),
    "a negative base": ("llama.rope.freq_base=float:-10000", "G-004.*rope.freq_base"),
    "a base that is an integer": ("llama.rope.freq_base=int:10000", "G-004.*rope.freq_base"),
    "another base of zero": ("llama.rope.freq_base_swa=float:0", "G-004.*rope.freq_base_swa"),
    "a key of shards": ("split.count=int:3", "says how a file was written"),
    "a key of digests": ("gguflow.integrity.x=str:y", "says how a file was written"),
    "a key of digests with escapes": ("gguflow.\x1b[31m=int:1", r"gguflow\.\\x1b\[31m"),
    "a template that is none": ("tokenizer.chat_template=int:1", "G-017"),
}


@pytest.mark.parametrize(("override", "reason"), REFUSED.values(), ids=REFUSED)
def test_an_override_that_breaks_the_output(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, reason: str
) -> None:
    out = tmp_path / "out.gguf"
    assert main(["convert", str(model), "-o", str(out), "-t", "q8_0", "--override-kv", override]) == 2
    said = capsys.readouterr().err
    assert "--override-kv would make the output invalid" in said
    assert re.search(reason, said)
    assert not out.exists()


TAKEN = {
    "a context length": "llama.context_length=int:4096",
    "the same architecture": "general.architecture=str:llama",
    "a name": "general.name=str:x",
    "a key of one's own": "my.key=bool:true",
}


@pytest.mark.parametrize("override", TAKEN.values(), ids=TAKEN)
def test_an_override_that_does_not(model: Path, tmp_path: Path, override: str) -> None:
    out = tmp_path / "out.gguf"
    report = conversion.convert(model, out, type="q8_0", options=Options(override_kv=(override,)))
    assert examine(out, "values")[0] == "valid"
    assert report.warnings == ()


def test_what_the_source_breaks_is_a_warning(tmp_path: Path) -> None:
    """A GGUF file that lacks keys is converted all the same; only new faults are refused."""
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_uint32("llama.block_count", 1)
    writer.add_tensor("blk.0.attn_q.weight", np.ones((4, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    report = conversion.convert(tmp_path / "x.gguf", tmp_path / "out.gguf", type="copy")
    assert {warning.finding.rule for warning in report.warnings} == {"G-003"}
    assert {warning.finding.severity for warning in report.warnings} == {"warning"}
    bad = Options(override_kv=("tokenizer.ggml.tokens=str:x",))
    with pytest.raises(UsageError, match="G-011"):
        conversion.convert(tmp_path / "x.gguf", tmp_path / "two.gguf", type="copy", options=bad)


def test_a_header_is_judged_before_it_is_written(model: Path, tmp_path: Path) -> None:
    """Whatever makes it wrong: a digest, a table that is not the planned one, a length."""
    prepared = conversion.prepare(model, tmp_path / "out.gguf", type="copy")
    (plan,) = prepared.targets[0].plans
    path = tmp_path / "out.gguf"
    header = plan.completed_header([bytes(16)] * len(plan.tensors))
    judging.check_header(plan, header, path)
    recipe = header.index(b"gguflow.recipe") + 14 + 4 + 8
    with pytest.raises(InvalidError, match="I-005"):
        judging.check_header(plan, header[:recipe] + b"X" + header[recipe + 1 :], path)
    with pytest.raises(InvalidError, match="W-002"):
        judging.check_header(replace(plan, infos=plan.infos[::-1]), header, path)
    with pytest.raises(InvalidError, match="C-019"):
        judging.check_header(replace(plan, nbytes=plan.nbytes - 4096), header, path)
