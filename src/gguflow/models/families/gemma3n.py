"""Gemma 3n: four parallel streams (AltUp), low-rank residuals (LAuReL), and embeddings for every layer."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import NormalDist

import numpy as np

from gguflow.container.metadata import Metadata
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families import gemma3
from gguflow.models.families.gemma import four_norms
from gguflow.models.keys import Keys, n_layers
from gguflow.models.parameters import Parameters
from gguflow.models.rules import padded, same, stack
from gguflow.models.text_parts import text_names, towers
from gguflow.models.tokenizers.variants import gemma3_metadata

N_STREAMS = 4
"""The only number of streams that llama.cpp's converter knows."""

LAUREL_RANK = 64
"""The only rank of residuals that llama.cpp loads."""

_FULL_EVERY = 5
_N_SPARSE = 10


def metadata(config: Document, directory: Path) -> Metadata:
    """Gemma 3's keys, and those of streams, embeddings for layers, shared keys and sparse activations."""
    config.integer("altup_num_inputs", minimum=N_STREAMS, maximum=N_STREAMS)
    config.integer("laurel_rank", LAUREL_RANK, minimum=LAUREL_RANK, maximum=LAUREL_RANK)
    keys = gemma3.keys_of("gemma3n", config)
    n = n_layers(config)
    wide = config.value("intermediate_size")
    if not isinstance(wide, list):
        keys.layers("feed_forward_length", [config.integer("intermediate_size")] * n)
    keys.integer("altup.active_idx", "altup_active_idx")
    keys.integer("altup.num_inputs", "altup_num_inputs")
    keys.integer("embedding_length_per_layer_input", "hidden_size_per_layer_input", minimum=1)
    keys.integer("attention.shared_kv_layers", "num_kv_shared_layers")
    keys.layers("activation_sparsity_scale", [_deviations(config, share) for share in _sparsity(config, n)])
    put_pattern(keys, layer_types(config, n, _FULL_EVERY))
    return keys.metadata


def layer_types(config: Document, n: int, every: int) -> list[object]:
    """The kind of each layer: as config.json says, or full attention in every so many layers.

    config: config.json.
    n: number of layers.
    every: the period.

    Raises InvalidError (M-003).
    """
    kinds = config.items("layer_types")
    if kinds and len(kinds) != n:
        raise config.wrong("layer_types", f"{len(kinds)} layers", f"{n}")
    return kinds or ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(n)]


def put_pattern(keys: Keys, kinds: list[object]) -> None:
    """Which layers attend to a window.

    keys: where it is put.
    kinds: of the layers.
    """
    keys.layers("attention.sliding_window_pattern", [kind == "sliding_attention" for kind in kinds])


def _sparsity(config: Document, n: int) -> list[object]:
    """The share of activations that are left out in each layer."""
    said = config.items("activation_sparsity_pattern")
    if said and len(said) != n:
        raise config.wrong("activation_sparsity_pattern", f"{len(said)} layers", f"{n}")
    n_sparse = _N_SPARSE if n > _N_SPARSE - 2 else 0
    return said or [0.95 if i < n_sparse else 0.0 for i in range(n)]


def _deviations(config: Document, share: object) -> float:
    """Standard deviations over the mean below which this share of activations is, in steps of float32."""
    if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0 <= share < 1:
        raise config.wrong("activation_sparsity_pattern", share, "numbers from 0 to below 1")
    position = float(np.float32(2) * np.float32(share) - np.float32(1))
    if position <= -1:
        return -math.inf
    error = np.float32(NormalDist().inv_cdf((position + 1) / 2) / math.sqrt(2))
    return float(error * np.float32(math.sqrt(2)))


def rules(p: Parameters) -> Rules:
    """All layers have all tensors; tables of embeddings are filled up with zeros."""
    hidden, each = p.hidden, p.integer("embedding_length_per_layer_input")
    whole = p.n_layers * each
    n_rows = p.n_tokens if p.config is None else p.config.integer("vocab_size_per_layer_input", p.n_tokens)
    for rows in dict.fromkeys((p.n_tokens, min(n_rows, p.n_tokens))):
        yield padded("model.embed_tokens.weight", "token_embd.weight", rows, p.n_tokens, hidden)
        yield padded(
            "model.embed_tokens_per_layer.weight", "per_layer_token_embd.weight", rows, p.n_tokens, whole
        )
    yield from decoder.norm(p, "model.norm", "output_norm")
    yield same("lm_head.weight", "output.weight", (p.n_tokens, hidden), required=False)
    yield from layer_embeddings(p, whole)
    for source, target in (
        ("altup_projections", "altup_proj"),
        ("altup_unembed_projections", "altup_unembd_proj"),
    ):
        each_one = [f"model.{source}.{i}.weight" for i in range(N_STREAMS - 1)]
        yield stack(each_one, f"{target}.weight", (hidden, hidden))
    for i in range(p.n_layers):
        yield from four_norms(p, i, shift=False)
        yield from decoder.attention(p, i, head_norms=True, qkv_bias=False, output_bias=False)
        yield from decoder.feed_forward(p, i, bias=False)
        yield from layer_inputs(p, i, each)
        yield from _streams(p, i)


def layer_embeddings(p: Parameters, whole: int) -> Rules:
    """What makes inputs for layers of the embeddings.

    p: hyper-parameters.
    whole: width of the inputs of all layers together.
    """
    yield same("model.per_layer_model_projection.weight", "per_layer_model_proj.weight", (whole, p.hidden))
    yield from decoder.norm(
        p, "model.per_layer_projection_norm", "per_layer_proj_norm", n=whole // p.n_layers
    )


def layer_inputs(p: Parameters, i: int, each: int) -> Rules:
    """What a layer makes of its own input.

    p: hyper-parameters.
    i: number of the layer.
    each: width of the input.
    """
    source, block = f"model.layers.{i}", f"blk.{i}"
    yield same(f"{source}.per_layer_input_gate.weight", f"{block}.inp_gate.weight", (each, p.hidden))
    yield same(f"{source}.per_layer_projection.weight", f"{block}.proj.weight", (p.hidden, each))
    yield from decoder.norm(p, f"{source}.post_per_layer_input_norm", f"{block}.post_norm")


def _streams(p: Parameters, i: int) -> Rules:
    """The tensors of AltUp and LAuReL."""
    n, rank, hidden = N_STREAMS, LAUREL_RANK, p.hidden
    for source, target, shape in (
        ("altup.correct_output_scale", "altup_correct_scale", (hidden,)),
        ("altup.correction_coefs.weight", "altup_correct_coef", (n, n)),
        ("altup.modality_router.weight", "altup_router", (n, hidden)),
        ("altup.prediction_coefs.weight", "altup_predict_coef", (n * n, n)),
        ("altup.router_norm.weight", "altup_router_norm", (hidden,)),
        ("laurel.linear_left.weight", "laurel_l", (rank, hidden)),
        ("laurel.linear_right.weight", "laurel_r", (hidden, rank)),
        ("laurel.post_laurel_norm.weight", "laurel_post_norm", (hidden,)),
    ):
        yield same(f"model.layers.{i}.{source}", f"blk.{i}.{target}.weight", shape)


ARCHITECTURE = Architecture(
    name="gemma3n",
    classes=("Gemma3nForCausalLM", "Gemma3nForConditionalGeneration"),
    metadata=metadata,
    rules=rules,
    tokenizer=gemma3_metadata,
    rename=text_names(),
    skipped=towers("vision_tower", "audio_tower", "embed_vision", "embed_audio"),
)
