"""The meaning of a checkpoint: `load` turns tensors and a configuration into GGUF metadata and tensors.

Families of models are found by listing `models.families`: a file there adds one.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from gguflow.container.metadata import Metadata
from gguflow.errors import UsageError, gathered_warnings
from gguflow.models import families
from gguflow.models.architecture import Architecture, class_name, match_tensors
from gguflow.models.base import Model, ModelTensor
from gguflow.models.configuration import text_configuration
from gguflow.models.documents import Document
from gguflow.models.general import ParameterCounts, general_metadata, read_generation
from gguflow.models.gguf_limits import check_storable
from gguflow.models.measured import measured_keys
from gguflow.models.parameters import Parameters
from gguflow.models.params import params_configuration
from gguflow.models.passthrough import from_gguf, pass_through, sizes_of, source_class, strip
from gguflow.models.refusals import refuse_quantized, unknown_class
from gguflow.models.tokenizers.ends import with_ends
from gguflow.models.tokenizers.files import TokenizerFiles
from gguflow.sources.base import Checkpoint
from gguflow.sources.huggingface import CONFIG


def load(
    checkpoint: Checkpoint,
    *,
    architecture: str | None = None,
    strip_prefix: str | None = None,
    next_tokens: bool = True,
    vocab_only: bool = False,
) -> Model:
    """Turn a checkpoint into a model: GGUF metadata and GGUF tensors.

    With a configuration, the family that config.json names decides everything. Without one, or if
    `architecture` is given, tensors keep their names and metadata is minimal. A GGUF file is passed on as it
    is.

    checkpoint: tensors, configuration and side files.
    architecture: value for `general.architecture`, instead of what config.json says.
    strip_prefix: removed from the names that start with it.
    next_tokens: whether blocks that predict further tokens are kept.
    vocab_only: whether the model gets no tensors, only its keys and its tokenizer.

    Raises UsageError (no configuration, and no architecture given), UnsupportedError (unknown family), and
    InvalidError and its siblings for errors in the checkpoint; spec/models.md lists the rules. What is
    only doubtful is in `Model.warnings`.
    """
    with gathered_warnings() as warnings:
        model = _load(checkpoint, architecture, strip_prefix, next_tokens, vocab_only)
    return replace(model, warnings=(*model.warnings, *warnings))


def _load(
    checkpoint: Checkpoint,
    architecture: str | None,
    strip_prefix: str | None,
    next_tokens: bool,
    vocab_only: bool,
) -> Model:
    if strip_prefix:
        checkpoint = strip(checkpoint, strip_prefix)
    if checkpoint.metadata is not None:
        if architecture is not None:
            raise UsageError(
                f"{checkpoint.path}: a GGUF file says what the model is; "
                "--arch is for tensors without a configuration"
            )
        return from_gguf(checkpoint, checkpoint.metadata)
    if architecture is not None:
        model = pass_through(checkpoint, architecture)
    elif checkpoint.config is None or checkpoint.directory is None:
        directory = checkpoint.path.parent
        hint = f", or name its directory {directory}" if (directory / "config.json").is_file() else ""
        raise UsageError(
            f"{checkpoint.path}: no config.json says what the model is; "
            f"pass --arch NAME to set general.architecture and keep the tensor names{hint}"
        )
    else:
        read = text_configuration if checkpoint.config_name == CONFIG else params_configuration
        config = read(checkpoint.directory / checkpoint.config_name, checkpoint.config)
        keeps_next = next_tokens and not vocab_only
        config = replace(config, tensors=checkpoint.tensors.keys(), next_tokens=keeps_next)
        model = _understand(checkpoint, checkpoint.directory, config, vocab_only)
    check_storable(model, checkpoint.path)
    return model


@functools.cache
def architectures() -> Mapping[str, Architecture]:
    """The families by the class names in config.json that select them."""
    return {name: family for family in families_of_models() for name in family.classes}


@functools.cache
def families_of_models() -> tuple[Architecture, ...]:
    """All families, in the order of their files."""
    found: list[Architecture] = []
    for module in pkgutil.iter_modules(families.__path__):
        declared = importlib.import_module(f"{families.__name__}.{module.name}")
        found += getattr(declared, "ARCHITECTURES", None) or (declared.ARCHITECTURE,)
    return tuple(found)


def by_name(name: str) -> Architecture | None:
    """The family with this `general.architecture`, or None if it is unknown."""
    return next((family for family in families_of_models() if family.name == name and family.is_main), None)


def of_file(metadata: Metadata) -> Architecture | None:
    """The family of the model in a GGUF file: that of the class that it was converted from, where the file
    names one; else the one with its `general.architecture`; None if it is unknown.

    metadata: of the file.
    """
    name = sizes_of(metadata).architecture
    known = architectures().get(source_class(metadata))
    return known if known is not None and known.name == name else by_name(name)


def _understand(checkpoint: Checkpoint, directory: Path, config: Document, vocab_only: bool) -> Model:
    """Match tensors before reading the tokenizer: the embedding matrix limits the size of the vocabulary."""
    family = _family(config)
    refuse_quantized(config, checkpoint.tensors)
    if family.choose is not None:
        family = family.choose(config, directory)
    hyper_parameters = family.metadata(config, directory)
    n_tokens = config.integer("vocab_size")
    parameters = Parameters(family.name, hyper_parameters, n_tokens, config.file, config)
    tensors: tuple[ModelTensor, ...] = ()
    if not vocab_only:
        tensors = match_tensors(family, checkpoint, config, parameters)
        hyper_parameters = hyper_parameters | measured_keys(family, checkpoint, config, parameters)
    general, file_stem = general_metadata(family.name, directory, ParameterCounts.of(tensors))
    sizes = sizes_of(general | hyper_parameters)
    tokenizer = with_ends(
        family.tokenizer(TokenizerFiles.read(config, directory)),
        config,
        read_generation(directory),
        generates=class_name(config).endswith("ForCausalLM"),
    )
    return Model(
        architecture=family.name,
        metadata=general | hyper_parameters | tokenizer,
        tensors=tensors,
        n_layers=sizes.n_layers,
        n_heads=sizes.n_heads,
        n_kv_heads=sizes.n_kv_heads,
        n_experts=sizes.n_experts,
        file_stem=file_stem,
        differences=tuple(config.applied.ids),
        source_class=class_name(config),
    )


def _family(config: Document) -> Architecture:
    """The family that config.json names. Raises InvalidError (M-002, M-003), UnsupportedError (M-004)."""
    name = class_name(config)
    if name not in architectures():
        raise unknown_class(config, name, architectures())
    return architectures()[name]
