"""Which tokens end a text: what config.json and generation_config.json name, in the keys of GGUF, and whether
llama.cpp and our own runtime stop there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflow
from gguflow import models
from gguflow.cli import main
from gguflow.container.metadata import ValueType, array, u32
from gguflow.errors import InvalidError
from gguflow.inference.tokenizer import Tokenizer
from gguflow.models.tokenizers.ends import ALL_ENDS_KEY, ENDING_TEXTS, INFILLING_TEXTS
from testing.checkpoints import write_safetensors
from testing.families import N_TOKENS, checkpoint, files, shapes
from testing.gguf_files import array_file
from testing.llama_library import Llama

EOS, EOT, EOM = (f"tokenizer.ggml.{kind}_token_id" for kind in ("eos", "eot", "eom"))

KNOWN = {"<|im_end|>": 13, "<|endoftext|>": 14}
"""Added tokens of the test's vocabulary that llama.cpp knows by their text."""


def contents(
    config: dict[str, Any], generation: dict[str, Any] | None, *, named: bool = False, family: str = "llama"
) -> dict[str, Any]:
    """A checkpoint's files; named: whether tokenizer_config.json names the end of a text ("<|end|>", 1)."""
    found = files(family)
    del found["config.json"]["eos_token_id"]
    found["config.json"] |= config
    found["tokenizer.json"]["added_tokens"] += [
        {"id": token, "content": text, "special": True} for text, token in KNOWN.items()
    ]
    if not named:
        del found["tokenizer_config.json"]["eos_token"]
    if generation is not None:
        found["generation_config.json"] = generation
    return found


CASES: dict[str, tuple[dict[str, Any], dict[str, Any] | None, bool, dict[str, int], list[int], list[str]]] = {
    "one id": ({"eos_token_id": 2}, None, False, {EOS: 2}, [], []),
    "a list of one": ({"eos_token_id": [2]}, None, False, {EOS: 2}, [], []),
    "a list": ({"eos_token_id": [2, 3]}, None, False, {EOS: 2, EOT: 3}, [], []),
    "a list of three": ({"eos_token_id": [2, 3, 4]}, None, False, {EOS: 2, EOT: 3, EOM: 4}, [], []),
    "a list of five": (
        {"eos_token_id": [2, 3, 4, 5, 6]},
        None,
        False,
        {EOS: 2, EOT: 3, EOM: 4},
        [2, 3, 4, 5, 6],
        ["M-050"],
    ),
    "a list with repetitions": ({"eos_token_id": [2, 2, 3, 2]}, None, False, {EOS: 2, EOT: 3}, [], []),
    "known by their texts": ({"eos_token_id": [2, 13, 14]}, None, False, {EOS: 2}, [], []),
    "the first known by its text": ({"eos_token_id": [13, 2]}, None, False, {EOS: 13, EOT: 2}, [], []),
    "in generation_config.json only": ({}, {"eos_token_id": 2}, False, {EOS: 2}, [], []),
    "a list in generation_config.json": ({}, {"eos_token_id": [2, 3]}, False, {EOS: 2, EOT: 3}, [], []),
    "config.json has null": ({"eos_token_id": None}, {"eos_token_id": 2}, False, {EOS: 2}, [], []),
    "both": (
        {"eos_token_id": 2},
        {"eos_token_id": [3, 2, 14]},
        False,
        {EOS: 2, EOT: 3},
        [],
        [],
    ),
    "the tokenizer names it": ({"eos_token_id": [2, 1]}, None, True, {EOS: 1, EOT: 2}, [], []),
    "the tokenizer names it alone": ({}, {"temperature": 1.0}, True, {EOS: 1}, [], []),
    "none": ({}, None, False, {}, [], ["M-051"]),
    "an empty list": ({"eos_token_id": []}, {"eos_token_id": []}, False, {}, [], ["M-051"]),
    "-1 for none": ({"eos_token_id": [-1]}, {"eos_token_id": -1}, False, {}, [], ["M-051"]),
    "beyond the vocabulary": (
        {"eos_token_id": [N_TOKENS, 2]},
        {"eos_token_id": 10**30},
        False,
        {EOS: 2},
        [],
        ["M-050"],
    ),
    "all beyond the vocabulary": (
        {"eos_token_id": [N_TOKENS]},
        None,
        False,
        {},
        [],
        ["M-050", "M-051"],
    ),
}


@pytest.mark.parametrize(
    ("config", "generation", "named", "keys", "own", "warned"), CASES.values(), ids=CASES.keys()
)
def test_ends_of_a_text(
    config: dict[str, Any],
    generation: dict[str, Any] | None,
    named: bool,
    keys: dict[str, int],
    own: list[int],
    warned: list[str],
    tmp_path: Path,
) -> None:
    model = models.load(checkpoint(tmp_path, contents(config, generation, named=named), shapes("llama")))
    found = {key: model.metadata[key] for key in (EOS, EOT, EOM) if key in model.metadata}
    assert found == {key: u32(token) for key, token in keys.items()}
    assert model.metadata.get(ALL_ENDS_KEY) == (array(ValueType.UINT32, own) if own else None)
    rules = [warning.finding.rule for warning in model.warnings if warning.finding.rule in ("M-050", "M-051")]
    assert rules == warned
    is_peers = (config.get("eos_token_id") == 2 and generation is None) or not keys or keys == {EOS: 1}
    assert ("ends-of-text" in model.differences) == (not is_peers)


def test_all_ends_are_named_in_the_warning(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, contents({"eos_token_id": [2, 3, 4, 5]}, None), shapes("llama"))
    (warning,) = models.load(source).warnings
    assert "5 'Ġ'" in str(warning) and str(tmp_path / "config.json") in str(warning)


@pytest.mark.parametrize("value", ["2", 2.0, True, [2, None], [[2]], {"a": 1}, -2, [-5]], ids=repr)
def test_ids_that_are_none(value: object, tmp_path: Path) -> None:
    """Refused in config.json; generation_config.json never stops a conversion."""
    found = contents({}, {"eos_token_id": value}, named=True)
    (warning,) = models.load(checkpoint(tmp_path, found, shapes("llama"))).warnings
    assert warning.finding.rule == "M-042" and warning.file.endswith("generation_config.json")
    found["config.json"]["eos_token_id"] = value
    with pytest.raises(InvalidError, match=r"M-003.*eos_token_id"):
        models.load(checkpoint(tmp_path, found, shapes("llama")))


def test_a_model_that_writes_no_text_needs_no_end(tmp_path: Path) -> None:
    found = contents({"architectures": ["LlamaModel"]}, None)
    tensors = {name.removeprefix("model."): shape for name, shape in shapes("llama").items()}
    del tensors["lm_head.weight"]
    assert not models.load(checkpoint(tmp_path, found, tensors)).warnings
    assert not models.load(checkpoint(tmp_path, files("bert"), shapes("bert"))).warnings


# --- llama.cpp's judgement


@pytest.mark.parametrize(
    "ids", [[2], [2, 3], [3, 2, 4], [13, 2], [2, 13, 14, 3]], ids=lambda ids: "-".join(map(str, ids))
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_llama_cpp_stops_at_each(ids: list[int], name: str, tmp_path: Path) -> None:
    found = contents({"eos_token_id": ids} if name == "config.json" else {}, None)
    if name != "config.json":
        found[name] = {"eos_token_id": ids}
    path = convert(tmp_path, found)
    with Llama(path, vocab_only=True) as theirs:
        assert theirs.ends() == set(ids) | set(KNOWN.values()) | {1}
    assert ends_of(path) == set(ids) | set(KNOWN.values()) | {1}


def test_our_runtime_stops_at_those_that_have_no_key(tmp_path: Path) -> None:
    path = convert(tmp_path, contents({"eos_token_id": [2, 3, 4, 5, 6]}, None))
    with Llama(path, vocab_only=True) as theirs:
        assert theirs.ends() == {2, 3, 4, 1, 13, 14}
    assert ends_of(path) == {2, 3, 4, 5, 6, 1, 13, 14}
    copy = gguflow.convert(path, tmp_path / "copy.gguf", type="q8_0").output
    assert ends_of(copy) == ends_of(path), "another conversion keeps what is about the model"
    assert not gguflow.validate(path) and not gguflow.validate(copy)


EXEMPT = {
    "harmony": ("<|return|>", "<|call|>", "<|end|>"),
    "solar": ("<|flush|>", "<|calls|>", "<|end|>"),
    "gemma 4": ("<|tool_response>", "</s>"),
}


@pytest.mark.parametrize("texts", EXEMPT.values(), ids=EXEMPT.keys())
def test_texts_that_other_texts_exempt(texts: tuple[str, ...], tmp_path: Path) -> None:
    """llama.cpp drops the last one whatever the keys say, so it is kept under our own."""
    found = contents({"eos_token_id": [2, 17]}, None)
    found["tokenizer.json"]["added_tokens"] = [
        *(token for token in found["tokenizer.json"]["added_tokens"] if token["content"] not in texts),
        *({"id": 18 - i, "content": text, "special": True} for i, text in enumerate(reversed(texts), 1)),
    ]
    path = convert(tmp_path, found)
    with Llama(path, vocab_only=True) as theirs:
        theirs_ends = theirs.ends()
    assert 17 not in theirs_ends
    assert ends_of(path) == theirs_ends | {17}


def test_the_list_of_texts_is_llama_cpps(tmp_path: Path) -> None:
    """Each alone in a vocabulary."""
    for text in sorted(ENDING_TEXTS.union(*INFILLING_TEXTS)):
        found = contents({"eos_token_id": 2}, None)
        found["tokenizer.json"]["added_tokens"] = [
            {"id": 0, "content": "<|begin|>", "special": True},
            {"id": 15, "content": text, "special": True},
        ]
        path = convert(tmp_path, found)
        with Llama(path, vocab_only=True) as theirs:
            assert theirs.ends() == {2, 15} == ends_of(path), text


def convert(tmp_path: Path, found: dict[str, Any]) -> Path:
    directory = tmp_path / "checkpoint"
    checkpoint(directory, found, {}) if directory.exists() else checkpoint(make(directory), found, {})
    tensors = {name: np.zeros(shape, np.float32) + 0.5 for name, shape in shapes("llama").items()}
    write_safetensors(directory / "model.safetensors", tensors)
    out = tmp_path / "model.gguf"
    assert main(["convert", str(directory), "-o", str(out), "-t", "f32", "-q", "--overwrite"]) == 0
    return out


def make(directory: Path) -> Path:
    directory.mkdir()
    return directory


def ends_of(path: Path) -> set[int]:
    with gguflow.open(path) as model:
        return set(Tokenizer(model.metadata, model.path).special.ends)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (array(ValueType.UINT32, [2, 999]), "999"),
        (array(ValueType.STRING, ["2"]), "STRING"),
        (u32(2), "UINT32"),
    ],
    ids=["beyond", "text", "no array"],
)
def test_our_own_key_is_judged(value: Any, found: str, tmp_path: Path) -> None:
    source = checkpoint(tmp_path, contents({"eos_token_id": 2}, None), shapes("llama"))
    model = models.load(source)
    path = array_file(tmp_path / "model.gguf", model.metadata | {ALL_ENDS_KEY: value}, {})
    findings = [finding for finding in gguflow.validate(path) if finding.rule == "G-013"]
    assert len(findings) == 1 and found in str(findings[0])


def test_warnings_of_ends_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = make(tmp_path / "checkpoint")
    checkpoint(directory, contents({}, None), {})
    tensors = {name: np.zeros(shape, np.float32) + 0.5 for name, shape in shapes("llama").items()}
    write_safetensors(directory / "model.safetensors", tensors)
    assert main(["convert", str(directory), "-t", "f32", "--dry-run", "--json"]) == 0
    captured = capsys.readouterr()
    assert [warning["rule"] for warning in json.loads(captured.out)["warnings"]] == ["M-051"]
    assert captured.err.count("M-051") == 1
