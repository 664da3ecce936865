"""XLM-RoBERTa (bge-m3, multilingual e5), CamemBERT, and Jina's embeddings v3, which have no positions."""

from __future__ import annotations

from pathlib import Path

from gguflow.container.metadata import Metadata, boolean, u32
from gguflow.errors import Finding, warn
from gguflow.models import decoder
from gguflow.models.architecture import Architecture, Rules
from gguflow.models.documents import Document
from gguflow.models.families import roberta
from gguflow.models.families.bert import ENCODER_KEYS, HEADS_OF_TRAINING, classifier, encoder_keys
from gguflow.models.parameters import Parameters
from gguflow.models.rope import RopeOptions
from gguflow.models.rules import linear, same
from gguflow.models.tokenizers.files import TokenizerFiles, no_tokenizer
from gguflow.models.tokenizers.unigram import xlm_roberta_json_metadata, xlm_roberta_metadata

ROTARY = RopeOptions(
    kinds=("default",),
    read=frozenset(("rotary_emb_base", "rotary_emb_fraction", "rotary_emb_interleaved")),
)


def jina_metadata(config: Document, directory: Path) -> Metadata:
    """The keys of an encoder with rotary embeddings; that adapters are left out is said (M-043)."""
    names = [str(name) for name in config.items("lora_adaptations")]
    message = (
        "the adapters (LoRA) in this checkpoint are left out: gguflow writes the model without any; "
        "llama.cpp's converter writes a file for each"
    )
    where = config.at("lora_adaptations")
    warn(config.file, Finding("M-043", message, where, found=", ".join(names)))
    keys = encoder_keys("jina-bert-v3", config, directory, rope=ROTARY)
    first = roberta.first_position(config)
    keys.put("context_length", u32(config.integer("max_position_embeddings", minimum=first + 1) - first))
    return keys.metadata


def jina_rules(p: Parameters) -> Rules:
    """An encoder with fused attention; there is one kind of segments."""
    hidden, wide = p.hidden, p.wide()
    yield same("embeddings.word_embeddings.weight", "token_embd.weight", (p.n_tokens, hidden))
    n_types = 1 if p.config is None else p.config.integer("type_vocab_size", 1)
    shape = (n_types, hidden)
    yield same("embeddings.token_type_embeddings.weight", "token_types.weight", shape, required=False)
    yield from decoder.norm(p, "emb_ln", "token_embd_norm", bias=True)
    yield from classifier(p)
    for i in range(p.n_layers):
        layer, block = f"encoder.layers.{i}", f"blk.{i}"
        for source, target, n_out, n_in in (
            ("mixer.Wqkv", "attn_qkv", 3 * hidden, hidden),
            ("mixer.out_proj", "attn_output", hidden, hidden),
            ("mlp.fc1", "ffn_up", wide, hidden),
            ("mlp.fc2", "ffn_down", hidden, wide),
        ):
            yield from linear(f"{layer}.{source}", f"{block}.{target}", n_out, n_in, bias=True)
        yield from decoder.norm(p, f"{layer}.norm1", f"{block}.attn_output_norm", bias=True)
        yield from decoder.norm(p, f"{layer}.norm2", f"{block}.layer_output_norm", bias=True)


def jina_rename(name: str, config: Document) -> str:
    """RoBERTa's names, without the marks of weights that adapters change."""
    name = name.replace(".parametrizations.", ".").removesuffix(".original")
    return roberta.rename(name, config)


def camembert_metadata(config: Document, directory: Path) -> Metadata:
    """RoBERTa's keys. llama.cpp's converter takes CamemBERT for BERT."""
    config.applied.add("camembert")
    return roberta.metadata(config, directory)


def camembert_tokenizer(files: TokenizerFiles) -> Metadata:
    """Keys from tokenizer.json; CamemBERT's sentencepiece.bpe.model has ids of its own."""
    if files.tokenizer is None:
        raise no_tokenizer(files.directory, "tokenizer.json")
    keys = xlm_roberta_json_metadata(files)
    return keys | {f"tokenizer.ggml.{name}": boolean(True) for name in SPACES}


SPACES = ("add_space_prefix", "remove_extra_whitespaces")


def _choose(config: Document, directory: Path) -> Architecture:
    return JINA_V3 if config.items("lora_adaptations") else ARCHITECTURES[0]


JINA_V3 = Architecture(
    name="jina-bert-v3",
    classes=(),
    metadata=jina_metadata,
    rules=jina_rules,
    required=ENCODER_KEYS,
    tokenizer=xlm_roberta_metadata,
    rename=jina_rename,
    skipped=(*HEADS_OF_TRAINING, r"(.*\.)?\d+\.lora_[AB]"),
)

ARCHITECTURES = (
    Architecture(
        name="bert",
        classes=("XLMRobertaModel", "XLMRobertaForSequenceClassification"),
        metadata=roberta.metadata,
        rules=roberta.rules,
        required=ENCODER_KEYS,
        tokenizer=xlm_roberta_metadata,
        rename=roberta.rename,
        skipped=HEADS_OF_TRAINING,
        choose=_choose,
        is_main=False,
    ),
    Architecture(
        name="bert",
        classes=("CamembertModel",),
        metadata=camembert_metadata,
        rules=roberta.rules,
        required=ENCODER_KEYS,
        tokenizer=camembert_tokenizer,
        rename=roberta.rename,
        skipped=HEADS_OF_TRAINING,
        is_main=False,
    ),
    JINA_V3,
)
