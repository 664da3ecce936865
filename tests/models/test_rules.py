"""Checkpoints that break a rule: each gets the error of its kind, which names the rule, the place and what
was wrong.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gguflow import models
from gguflow.errors import (
    FileError,
    GguflowError,
    InvalidError,
    LimitError,
    MalformedError,
    UnsupportedError,
    UsageError,
)
from gguflow.models import documents
from gguflow.models.architecture import class_name
from gguflow.models.base import Model
from gguflow.models.documents import Document
from gguflow.models.gguf_limits import check_storable
from gguflow.models.tokenizers.files import TokenizerFiles
from testing.checkpoints import TINY
from testing.families import Shapes, checkpoint, files, shapes

Change = Callable[[dict[str, Any], Shapes], None]


def config(**changes: Any) -> Change:
    """Change config.json; a value of None removes the key."""

    def change(contents: dict[str, Any], _: Shapes) -> None:
        merged = contents["config.json"] | changes
        contents["config.json"] = {key: value for key, value in merged.items() if value is not None}

    return change


def null(*keys: str) -> Change:
    """Set keys of config.json to null, which is no default."""

    def change(contents: dict[str, Any], _: Shapes) -> None:
        contents["config.json"] |= dict.fromkeys(keys)

    return change


def side_files(replacements: dict[str, Any]) -> Change:
    """Replace or add files; None removes one."""

    def change(contents: dict[str, Any], _: Shapes) -> None:
        merged = contents | replacements
        contents.clear()
        contents.update({name: content for name, content in merged.items() if content is not None})

    return change


def side_file(name: str, content: Any) -> Change:
    return side_files({name: content})


def tokenizer(*path: str, value: Any) -> Change:
    """Set one value in tokenizer.json."""

    def change(contents: dict[str, Any], _: Shapes) -> None:
        part = contents["tokenizer.json"]
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value

    return change


def tensor(name: str, shape: tuple[int, ...] | None) -> Change:
    """Give a tensor this shape, or remove it."""

    def change(_: dict[str, Any], tensors: Shapes) -> None:
        tensors[name] = shape or ()
        if shape is None:
            del tensors[name]

    return change


POOLING = [{"type": "x.Pooling", "path": "1_Pooling"}]

RULES: dict[str, tuple[str, Change, type[FileError], str, str]] = {
    "no architectures": ("llama", config(architectures=None), InvalidError, "M-002", "architectures"),
    "no layers": ("llama", null("num_hidden_layers"), InvalidError, "M-002", "num_hidden_layers"),
    "no context length": (
        "bert",
        null("max_position_embeddings"),
        InvalidError,
        "M-002",
        "max_position_embeddings",
    ),
    "a size that is text": ("llama", config(hidden_size="32"), InvalidError, "M-003", "$.hidden_size"),
    "a size that is a fraction": (
        "llama",
        config(intermediate_size=48.5),
        InvalidError,
        "M-003",
        "$.intermediate_size",
    ),
    "a size that is a truth value": ("llama", config(vocab_size=True), InvalidError, "M-003", "$.vocab_size"),
    "no heads": ("llama", config(num_attention_heads=0), InvalidError, "M-003", "$.num_attention_heads"),
    "a million layers": ("llama", config(num_hidden_layers=10**6), InvalidError, "M-003", "512"),
    "a norm's epsilon beyond float32": (
        "llama",
        config(rms_norm_eps=1e300),
        InvalidError,
        "M-003",
        "$.rms_norm_eps",
    ),
    "a norm's epsilon of 400 digits": (
        "llama",
        config(rms_norm_eps=10**400),
        InvalidError,
        "M-003",
        "$.rms_norm_eps",
    ),
    "key heads that do not divide": (
        "llama",
        config(num_key_value_heads=3),
        InvalidError,
        "M-003",
        "divisor",
    ),
    "heads of odd width": ("llama", config(head_dim=7), InvalidError, "M-003", "even"),
    "a base of zero": ("llama", config(rope_theta=0), InvalidError, "M-003", "positive"),
    "rope that is no object": ("llama", config(rope_scaling=[1]), InvalidError, "M-003", "$.rope_scaling"),
    "impossible rope factors": (
        "llama",
        config(
            rope_scaling={
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 4.0,
                "high_freq_factor": 4.0,
            }
        ),
        InvalidError,
        "M-003",
        "low_freq_factor",
    ),
    "an unknown family": (
        "llama",
        config(architectures=["NoSuchForCausalLM"]),
        UnsupportedError,
        "M-004",
        "--arch",
    ),
    "another activation": ("llama", config(hidden_act="gelu"), UnsupportedError, "M-009", "SiLU"),
    "another activation of BERT": ("bert", config(hidden_act="relu"), UnsupportedError, "M-009", "GELU"),
    "an activation that is a number": ("qwen2", config(hidden_act=7), InvalidError, "M-003", "hidden_act"),
    "an unknown rope": (
        "llama",
        config(rope_scaling={"rope_type": "longrope"}),
        UnsupportedError,
        "M-005",
        "longrope",
    ),
    "pooling by maximum": (
        "bert",
        side_files({"modules.json": POOLING, "1_Pooling/config.json": {"pooling_mode_max_tokens": True}}),
        UnsupportedError,
        "M-006",
        "pooling_mode_max_tokens",
    ),
    "quantized by GPTQ": (
        "llama",
        config(quantization_config={"quant_method": "gptq"}),
        UnsupportedError,
        "M-007",
        "gptq",
    ),
    "a reranker by its name, without its answers": (
        "qwen3",
        config(_name_or_path="Qwen/Qwen3-Reranker-0.6B"),
        InvalidError,
        "M-003",
        "yes",
    ),
    "a reranker by its card, without its answers": (
        "qwen3",
        side_file("README.md", "# Qwen3-Reranker-0.6B\n"),
        InvalidError,
        "M-003",
        "yes",
    ),
    "parts that are not written": (
        "llama",
        config(architectures=["Mistral3ForConditionalGeneration"], text_config={"model_type": "mistral4"}),
        UnsupportedError,
        "M-008",
        "mistral4",
    ),
    "pooling outside": (
        "bert",
        side_file("modules.json", [{"type": "Pooling", "path": "../.."}]),
        InvalidError,
        "H-011",
        "leaves",
    ),
    "pooling nowhere": ("bert", side_file("modules.json", POOLING), InvalidError, "M-003", "1_Pooling"),
    "a tensor missing": (
        "llama",
        tensor("model.layers.1.mlp.up_proj.weight", None),
        InvalidError,
        "M-010",
        "blk.1.ffn_up.weight",
    ),
    "a head missing": ("llama", tensor("lm_head.weight", None), InvalidError, "M-010", "output.weight"),
    "a bias missing": (
        "qwen2",
        tensor("model.layers.0.self_attn.q_proj.bias", None),
        InvalidError,
        "M-010",
        "blk.0.attn_q.bias",
    ),
    "a tensor unknown": (
        "llama",
        tensor("model.extra.weight", (4, 4)),
        InvalidError,
        "M-011",
        "model.extra.weight",
    ),
    "a layer too many": (
        "llama",
        tensor("model.layers.2.mlp.up_proj.weight", (48, 32)),
        InvalidError,
        "M-011",
        "model.layers.2.mlp",
    ),
    "a tensor of another family": (
        "llama",
        tensor("model.layers.0.self_attn.q_norm.weight", (8,)),
        InvalidError,
        "M-011",
        "q_norm",
    ),
    "a shape transposed": (
        "llama",
        tensor("model.layers.0.mlp.up_proj.weight", (32, 48)),
        InvalidError,
        "M-012",
        "expected [48, 32]",
    ),
    "a vocabulary too small": (
        "bert",
        tensor("embeddings.word_embeddings.weight", (23, 32)),
        InvalidError,
        "M-012",
        "[23, 32]",
    ),
    "a tensor twice": (
        "bert",
        tensor("bert.embeddings.LayerNorm.gamma", (32,)),
        InvalidError,
        "M-013",
        "token_embd_norm.weight",
    ),
    "a tokenizer that is no JSON": (
        "llama",
        side_file("tokenizer.json", "{"),
        MalformedError,
        "J-002",
        "tokenizer.json",
    ),
    "a tokenizer that is no object": (
        "llama",
        side_file("tokenizer.json", []),
        MalformedError,
        "M-021",
        "list",
    ),
    "a tokenizer.model that is none": (
        "llama",
        side_file("tokenizer.model", "no protobuf"),
        MalformedError,
        "M-021",
        "tokenizer.model",
    ),
    "a template that is not UTF-8": (
        "llama",
        side_file("tokenizer_config.json", '{"a": "\\ud800"}'),
        MalformedError,
        "J-006",
        "surrogate",
    ),
    "no tokenizer": ("llama", side_file("tokenizer.json", None), InvalidError, "M-023", "tokenizer.json"),
    "no word list": ("bert", side_file("tokenizer.json", None), InvalidError, "M-023", "vocab.txt"),
    "a tokenizer of another kind": (
        "llama",
        tokenizer("model", "type", value="Unigram"),
        UnsupportedError,
        "M-024",
        "Unigram",
    ),
    "a pre-tokenizer unknown": (
        "llama",
        tokenizer("pre_tokenizer", value={"type": "Whitespace"}),
        UnsupportedError,
        "M-024",
        "Whitespace",
    ),
    "a token beyond": ("llama", tokenizer("model", "vocab", "far", value=24), InvalidError, "M-025", "'far'"),
    "an added token beyond": (
        "llama",
        tokenizer("added_tokens", value=[{"id": 2**40, "content": "x"}]),
        InvalidError,
        "M-003",
        "id",
    ),
    "two tokens with one id": (
        "llama",
        tokenizer("model", "vocab", "again", value=2),
        InvalidError,
        "M-025",
        "'again'",
    ),
    "a token id that is none": (
        "llama",
        tokenizer("model", "vocab", "x", value="3"),
        InvalidError,
        "M-003",
        "x",
    ),
    "a merge of three": (
        "llama",
        tokenizer("model", "merges", value=["a b c"]),
        InvalidError,
        "M-003",
        "merges[0]",
    ),
    "too many words": (
        "bert",
        side_files({"vocab.txt": "a\n" * 25, "tokenizer.json": None}),
        InvalidError,
        "M-025",
        "25",
    ),
    "a special token of negative id": (
        "llama",
        config(pad_token_id=-2),
        InvalidError,
        "M-003",
        "pad_token_id",
    ),
}


@pytest.mark.parametrize(("family", "change", "error", "rule", "says"), RULES.values(), ids=RULES.keys())
def test_broken_rule(
    family: str, change: Change, error: type[FileError], rule: str, says: str, tmp_path: Path
) -> None:
    contents, tensors = files(family), shapes(family)
    change(contents, tensors)
    with pytest.raises(error) as caught:
        models.load(checkpoint(tmp_path, contents, tensors))
    assert caught.value.finding.rule == rule
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("added_tokens.json", {"x": -1}, "$.x"),
        ("added_tokens.json", {"x": "1"}, "$.x"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"-1": {"content": "x"}}}, "a token id"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1": {}}}, "M-002"),
    ],
    ids=["negative", "text", "a key that is no id", "a token without text"],
)
def test_added_tokens_of_sentencepiece(name: str, content: Any, says: str, tmp_path: Path) -> None:
    shutil.copy(TINY / "tokenizer.model", tmp_path / "tokenizer.model")
    with pytest.raises(InvalidError) as caught:
        models.load(checkpoint(tmp_path, files("llama") | {name: content}, shapes("llama")))
    assert says in str(caught.value)


def test_every_rule_of_the_spec_has_a_checkpoint_that_breaks_it() -> None:
    spec = Path(__file__).resolve().parents[2] / "spec" / "models.md"
    listed = set(re.findall(r"^\| (M-0\d{2}) \|", spec.read_text(encoding="utf-8"), re.MULTILINE))
    tested = {rule for *_, rule, _ in RULES.values() if rule.startswith("M-")} | {
        "M-014",
        "M-015",
        "M-022",
        "M-026",
        "M-027",
        "M-028",
        "M-030",
        "M-061",
        "M-062",
    }
    rows = re.findall(r"^\| (M-0\d{2}) \|.*\| (\w+) \|$", spec.read_text(encoding="utf-8"), re.MULTILINE)
    warnings = {rule for rule, verdict in rows if verdict == "warning"}
    tests = Path(__file__).resolve().parents[1]
    texts = "".join(path.read_text(encoding="utf-8") for path in tests.rglob("*.py"))
    assert {rule for rule in warnings if rule not in texts} == set()
    assert tested | warnings == listed


def test_a_side_file_over_the_limit(tmp_path: Path) -> None:
    """Its size is seen before it is parsed; a sparse file is as large as it says."""
    contents = files("llama")
    source = checkpoint(tmp_path, contents, shapes("llama"))
    os.truncate(tmp_path / "tokenizer.json", documents.MAX_FILE_NBYTES + 1)
    with pytest.raises(LimitError, match="M-022"):
        models.load(source)


def test_without_a_configuration_an_architecture_is_needed(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, {}, {"a": (1,)})
    with pytest.raises(UsageError, match="--arch"):
        models.load(source)


def test_names_are_kept_where_the_caller_names_the_architecture(tmp_path: Path) -> None:
    """No hyper-parameters, no tokenizer; the directory's or the file's name is the model's."""
    directory = tmp_path / "flux.1{dev}"
    directory.mkdir()
    model = models.load(
        checkpoint(directory, {}, {"double_blocks.0.weight": (4, 4), "x": (3,)}), architecture="flux"
    )
    assert {key: value.value for key, value in model.metadata.items()} == {
        "general.architecture": "flux",
        "general.name": "flux.1{dev}",
    }
    assert [tensor.name for tensor in model.tensors] == ["double_blocks.0.weight", "x"]
    assert model.file_stem == "flux.1-dev--{type}"


PREFIX = "model.diffusion_model."


def test_strip_prefix(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, {}, {f"{PREFIX}a": (1,), "b": (2,)})
    model = models.load(source, architecture="flux", strip_prefix=PREFIX)
    assert [tensor.name for tensor in model.tensors] == ["a", "b"]


def test_strip_prefix_must_not_make_two_of_a_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="M-013"):
        models.load(
            checkpoint(tmp_path, {}, {f"{PREFIX}a": (1,), "a": (2,)}),
            architecture="flux",
            strip_prefix=PREFIX,
        )


@pytest.mark.parametrize(
    ("name", "says"),
    [("x" * 63, None), ("x" * 64, "--strip-prefix"), ("\u00e9" * 32, "64 bytes"), ("\ud800", "Unicode")],
    ids=["63 bytes", "64 bytes", "64 bytes of 32 characters", "no text"],
)
def test_names_fit_ggml(name: str, says: str | None, tmp_path: Path) -> None:
    source = checkpoint(tmp_path, {}, {name: (1,)})
    if says is None:
        assert models.load(source, architecture="flux").tensors[0].name == name
        return
    with pytest.raises(InvalidError, match="M-014") as caught:
        models.load(source, architecture="flux")
    assert says in str(caught.value)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON document."""
    yield path
    for key, item in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from paths(item, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    value = copy.copy(value)
    value[path[0]] = replaced(value[path[0]], path[1:], new)
    return value


HOSTILE: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**70,
    1e308,
    "",
    "\u2581x",
    [],
    ["x"],
    [[]],
    {},
    {"type": "Sequence"},
    {"content": 1},
)


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_no_config_makes_a_traceback(family: str, tmp_path: Path) -> None:
    """Each value replaced by values of every type: it is understood, or refused by one of our own errors."""
    contents, tensors = files(family), shapes(family)
    for path in paths(contents["config.json"]):
        for new in HOSTILE:
            changed = replaced(contents["config.json"], path, new)
            if isinstance(changed, dict):
                source = checkpoint(tmp_path, contents | {"config.json": changed}, tensors)
                with contextlib.suppress(GguflowError):
                    models.load(source)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_no_tokenizer_makes_a_traceback(family: str, name: str, tmp_path: Path) -> None:
    """The same for the tokenizer's files, of which every value can be stored that is not refused."""
    contents = files(family)
    config = Document(tmp_path / "config.json", contents["config.json"])
    architecture = models.architectures()[class_name(config)]
    checkpoint(tmp_path, contents, {})
    for path in paths(contents[name]):
        for new in HOSTILE:
            (tmp_path / name).write_text(json.dumps(replaced(contents[name], path, new)))
            with contextlib.suppress(GguflowError):
                metadata = architecture.tokenizer(TokenizerFiles.read(config, tmp_path))
                check_storable(Model(family, metadata, ()), tmp_path)


CARD = (
    "license",
    "language",
    "tags",
    "base_model",
    "datasets",
    "author",
    "version",
    "name",
    "basename",
    "finetune",
    "size_label",
    "description",
    "url",
    "model_name",
    "pipeline_tag",
)


@pytest.mark.parametrize("key", CARD)
def test_no_model_card_makes_a_traceback(key: str, tmp_path: Path) -> None:
    source = checkpoint(tmp_path, files("llama"), shapes("llama"))
    for value in (
        "7",
        "1.5",
        "[1, a]",
        "[[a]]",
        "{a: b}",
        "[{a: 1}]",
        "2024-01-01",
        "yes",
        "''",
        "../../x",
        "{0}",
        '"\\0"',
        "&a [*a]",
    ):
        (tmp_path / "README.md").write_text(f"---\n{key}: {value}\n---\n")
        try:
            model = models.load(source)
        except GguflowError:
            continue
        assert "/" not in model.file_stem
        assert model.file_stem.format(type="Q8_0").isprintable()


@pytest.mark.parametrize("cut", [0, 1, 7, 100, 10_000, 59_000])
def test_no_sentencepiece_model_makes_a_traceback(cut: int, tmp_path: Path) -> None:
    source = checkpoint(tmp_path, files("llama"), shapes("llama"))
    (tmp_path / "tokenizer.model").write_bytes((TINY / "tokenizer.model").read_bytes()[:cut])
    with contextlib.suppress(GguflowError):
        models.load(source)
