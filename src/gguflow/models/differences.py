"""Where our files differ from llama.cpp's on purpose: one table, and the collector of what applied.

llama.cpp's converter is followed to the byte except where it is silently wrong, or writes what it should
refuse. Every such case is a row of `DIFFERENCES`. From it come docs/differences.md (tools/render_docs), the
notes at a conversion, and what comparisons with llama.cpp excuse (tools/compare peer): a difference without
a row is an error, and so is a row that was applied and changed nothing.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property


class Scope(enum.Enum):
    """What a difference depends on.

    CHECKPOINT: it applies to some checkpoints; the model names it (`Model.differences`), the user is told.
    EVERY_FILE: it applies to every file that is written.
    NO_FILE: it is in no key and no tensor that both write: an input that we refuse, the order of tensors, or
        the arithmetic of some builds of llama.cpp. Comparisons excuse nothing.
    """

    CHECKPOINT = "some checkpoints"
    EVERY_FILE = "every file"
    NO_FILE = "no key or tensor"


@dataclass(frozen=True)
class Difference:
    """A row of the table.

    id: by which it is named, in words with hyphens; never reused.
    scope: what it depends on.
    condition: when it applies; the beginning of a sentence, without a full stop.
    ours: what we do; a sentence's end, after "gguflow".
    peer: what llama.cpp does; a sentence's end, after "llama.cpp".
    reason: why; a whole sentence.
    keys: regular expressions; metadata keys that fully match one of them may differ.
    tensors: the same for names of tensors.
    """

    id: str
    scope: Scope
    condition: str
    ours: str
    peer: str
    reason: str
    keys: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """What the user is told when it applies: one line."""
        return f"{self.condition}: gguflow {self.ours}; llama.cpp {self.peer}"

    def covers(self, name: str) -> bool:
        """Whether it excuses a difference of this metadata key or tensor.

        name: of the key or tensor.
        """
        return self._pattern.fullmatch(name) is not None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        patterns = [*self.keys, *self.tensors]
        return re.compile("|".join(f"(?:{pattern})" for pattern in patterns) or r"(?!)")


@dataclass
class Applied:
    """The differences that have been applied so far, while one checkpoint is understood.

    ids: in the order in which they were first applied.
    """

    ids: list[str] = field(default_factory=list)

    def add(self, identifier: str) -> None:
        """Note that a difference makes this checkpoint's output differ from llama.cpp's.

        identifier: of a row of `DIFFERENCES` with the scope CHECKPOINT.
        """
        if by_id(identifier).scope is not Scope.CHECKPOINT:
            raise KeyError(identifier)
        if identifier not in self.ids:
            self.ids.append(identifier)


def by_id(identifier: str) -> Difference:
    """The row with an id. Raises KeyError if there is none.

    identifier: `Difference.id`.
    """
    return _BY_ID[identifier]


def unexplained(names: Iterable[str], applied: Sequence[str]) -> list[str]:
    """Those of the names that no row covers; a comparison with llama.cpp fails for each.

    names: of metadata keys and tensors that differ from llama.cpp's.
    applied: the ids that the model gives (`Model.differences`).
    """
    rows = [row for row in DIFFERENCES if row.scope is Scope.EVERY_FILE or row.id in applied]
    return [name for name in names if not any(row.covers(name) for row in rows)]


def idle(names: Iterable[str], applied: Sequence[str]) -> list[str]:
    """Those of the applied rows that changed nothing; a comparison with llama.cpp fails for each.

    names: of metadata keys and tensors that differ from llama.cpp's.
    applied: the ids that the model gives (`Model.differences`).
    """
    names = list(names)
    return [identifier for identifier in applied if not any(map(by_id(identifier).covers, names))]


DIFFERENCES = (
    Difference(
        "own-keys",
        Scope.EVERY_FILE,
        "In every file, unless --no-integrity is given",
        "writes keys under `gguflow.`, which other readers ignore",
        "has none",
        "With them a file can be verified.",
        keys=(r"gguflow\..*",),
    ),
    Difference(
        "chat-template-file",
        Scope.CHECKPOINT,
        "chat_template.jinja is beside another template (or null) in tokenizer_config.json, or without it",
        "writes the one in the file, as transformers does",
        "writes the other one, or none",
        "The file is the newer of the two.",
        keys=(r"tokenizer\.chat_template.*",),
    ),
    Difference(
        "ends-of-text",
        Scope.CHECKPOINT,
        "`eos_token_id` is a list, or in generation_config.json only",
        "writes the first id as the end of a text, and further ones as end of turn and of message",
        "ignores it",
        "Without the key llama.cpp stops at a token of its own choice, or not at all.",
        keys=(r"tokenizer\.ggml\.(eos|eot|eom)_token_id",),
    ),
    Difference(
        "rope-both",
        Scope.CHECKPOINT,
        "config.json has both `rope_parameters` and `rope_scaling`",
        "merges them, and `rope_scaling` decides where they contradict each other",
        "takes the base of the frequencies from its default",
        "`rope_scaling` is what instructions tell users to add to extend the context; the base stays.",
        keys=(r"[^.]+\.rope\..*",),
        tensors=(r"rope_freqs\.weight",),
    ),
    Difference(
        "scores-from-merges",
        Scope.CHECKPOINT,
        "A SentencePiece vocabulary is there as tokenizer.json only, which has merges and no scores",
        "writes the rank of a token's merge, negated, as its score, so that text is split as by transformers",
        "gives every token the same score",
        "With equal scores merges happen from left to right, and text becomes other tokens than in training.",
        keys=(r"tokenizer\.ggml\.scores",),
    ),
    Difference(
        "types-from-tokenizer-json",
        Scope.CHECKPOINT,
        "A SentencePiece vocabulary is there as tokenizer.json only, and lists some of its tokens as added",
        "makes them control tokens or user-defined ones, as they are listed",
        "takes them for ordinary pieces, or makes all that tokenizer_config.json names control tokens",
        "Otherwise special tokens in a prompt are split, and ordinary ones vanish from the output.",
        keys=(r"tokenizer\.ggml\.token_type", r"tokenizer\.ggml\.tokens"),
    ),
    Difference(
        "padding-of-tokenizer-json",
        Scope.CHECKPOINT,
        "A vocabulary is SentencePiece's and there as tokenizer.json only, or in Mistral's own form, and has "
        "fewer tokens than embeddings have rows",
        "fills it up with unused tokens",
        "does not",
        "No program can load a file whose tokens are not as many as the rows of the embeddings.",
        keys=(r"tokenizer\.ggml\.(tokens|token_type|scores)", r"[^.]+\.vocab_size"),
    ),
    Difference(
        "context-of-params",
        Scope.CHECKPOINT,
        "A params.json of Mistral's own form does not have `max_position_embeddings`",
        "takes `max_seq_len`, or 128,000 as Mistral's own programs do",
        "writes no length of the context",
        "No program can load a file without it.",
        keys=(r"[^.]+\.context_length",),
    ),
    Difference(
        "scores-of-tekken",
        Scope.CHECKPOINT,
        "A vocabulary is made of tekken.json",
        "writes the scores of its tokens, all zero, as 32-bit floats",
        "writes them as integers",
        "Scores are floats by the definition of the format; not every reader takes others.",
        keys=(r"tokenizer\.ggml\.scores",),
    ),
    Difference(
        "no-space-prefix",
        Scope.CHECKPOINT,
        "A SentencePiece vocabulary is there as tokenizer.json only, which puts no space before a text",
        "says so in the file",
        "says nothing, so that a space is added",
        "The space would change the first token of every text.",
        keys=(r"tokenizer\.ggml\.add_space_prefix",),
    ),
    Difference(
        "tokens-of-tokenizer-json",
        Scope.CHECKPOINT,
        "tokenizer.json adds tokens that tokenizer.model and the other files do not have",
        "takes them from it",
        "writes unused tokens in their place",
        "transformers 5 saves added tokens in tokenizer.json only.",
        keys=tuple(rf"tokenizer\.ggml\.{name}" for name in ("tokens", "token_type", "scores")),
    ),
    Difference(
        "padding-without-rows",
        Scope.CHECKPOINT,
        "A model with Mamba blocks whose vocabulary is no multiple of 8 or 16, and config.json does not say "
        "that the embeddings are padded",
        "lists as many tokens as the embeddings have rows",
        "pads the list of tokens alone",
        "No program can load a file with more tokens than rows of the embeddings.",
        keys=tuple(rf"tokenizer\.ggml\.{name}" for name in ("tokens", "token_type", "scores")),
    ),
    Difference(
        "base-of-frequencies",
        Scope.CHECKPOINT,
        "The base of rotary frequencies is not 10000 in a StableLM, Phi-2, Falcon, Orion or GPT-NeoX model",
        "writes it",
        "leaves it out",
        "Readers would assume 10000.",
        keys=(r"[^.]+\.rope\.freq_base",),
    ),
    Difference(
        "width-of-network",
        Scope.CHECKPOINT,
        "The feed-forward network of a Falcon, Phi-2 or GPT-2 model is not four times as wide as the model",
        "writes its width",
        "writes four times the model's width",
        "No program can load a file whose tensors have another shape than its keys say.",
        keys=(r"[^.]+\.feed_forward_length",),
    ),
    Difference(
        "key-heads",
        Scope.CHECKPOINT,
        "A Phi-2 model has fewer heads of keys than of queries",
        "writes their number",
        "writes the number of heads of queries",
        "No program can load a file whose tensors have another shape than its keys say.",
        keys=(r"[^.]+\.attention\.head_count_kv",),
    ),
    Difference(
        "rows-without-tokens",
        Scope.CHECKPOINT,
        "The tables of a Gemma 4 have other numbers of rows than its tokenizer has tokens",
        "fills up tokens and rows to the size of the vocabulary",
        "leaves the numbers different",
        "A file whose numbers of rows and tokens differ cannot be loaded.",
        keys=(r"tokenizer\.ggml\.(tokens|token_type|scores)", r"general\.size_label"),
        tensors=(r"(per_layer_)?token_embd\.weight",),
    ),
    Difference(
        "type-of-file",
        Scope.CHECKPOINT,
        "A GPT-NeoX or MPT model",
        "writes general.file_type",
        "writes none",
        "Programs show it.",
        keys=(r"general\.file_type",),
    ),
    Difference(
        "rotating-part",
        Scope.CHECKPOINT,
        "A part of each head rotates in a Nemotron or Cohere 2 model whose heads have another width than its "
        "own divided by their number",
        "takes the part of a head's width",
        "takes the part of the model's width, divided by the number of heads",
        "Otherwise more or fewer rows of a head rotate than in training.",
        keys=(r"[^.]+\.rope\.dimension_count",),
    ),
    Difference(
        "experts-for-images",
        Scope.CHECKPOINT,
        "A CogVLM checkpoint",
        "writes the matrices with which the text model reads images",
        "leaves them out",
        "llama.cpp does not load the model without them.",
        keys=(r"general\.size_label",),
        tensors=(r"blk\.\d+\.vis_.*",),
    ),
    Difference(
        "epsilon-of-qwen",
        Scope.CHECKPOINT,
        "In a file of the first Qwen",
        "writes the epsilon of norms under the key that llama.cpp reads, too",
        "writes it under another key alone",
        "Without the key llama.cpp does not load the file.",
        keys=(r"qwen\.attention\.layer_norm_rms_epsilon",),
    ),
    Difference(
        "rows-that-rotate",
        Scope.CHECKPOINT,
        "A part of each head rotates in a Bamba model",
        "says so, and puts halves of that part side by side",
        "puts halves of whole heads side by side, and takes whole heads to rotate if attn_rotary_emb is not "
        "in config.json",
        "Otherwise rows rotate with others than in training.",
        keys=(r"granitehybrid\.rope\.dimension_count",),
        tensors=(r"blk\.\d+\.attn_(q|k)\.(weight|bias)",),
    ),
    Difference(
        "special-id-beyond-vocabulary",
        Scope.CHECKPOINT,
        "A special token of a byte-level BPE vocabulary has an id beyond it",
        "leaves the id out, and does not add such a token to texts",
        "writes it",
        "No program can load such a file, or look the token up.",
        keys=(r"tokenizer\.ggml\.[a-z]+_token_id", r"tokenizer\.ggml\.add_[a-z]+_token"),
    ),
    Difference(
        "next-tokens-absent",
        Scope.CHECKPOINT,
        "config.json promises blocks that predict further tokens, and the checkpoint has no tensors of them",
        "leaves them out",
        "counts them in the number of blocks",
        "A file without the tensors of a block cannot be loaded.",
        keys=(
            *(r"[^.]+\.block_count", r"[^.]+\.nextn_predict_layers"),
            r"(mimo2|step35)\.attention\.(head_count|head_count_kv|sliding_window_pattern)",
            r"step35\.swiglu_clamp_(exp|shexp)",
            r"qwen3[^.]*\.attention\.recurrent_layers",
        ),
    ),
    Difference(
        "dense-blocks",
        Scope.CHECKPOINT,
        "config.json names the kind of every feed-forward network (`mlp_layer_types`)",
        "counts the dense blocks there",
        "takes another key, or its default",
        "transformers builds the model by this list alone, and its tensors are accordingly.",
        keys=(r"[^.]+\.leading_dense_block_count",),
    ),
    Difference(
        "glm-parameters",
        Scope.CHECKPOINT,
        "The checkpoint is a GLM-4 9B in the layout of transformers (GlmForCausalLM)",
        "takes context length, epsilon, base of the frequencies and width of heads from config.json",
        "looks for them under the names of another layout, and writes defaults",
        "The model would compute something else, and stop at a short context.",
        keys=(
            r"chatglm\.(context_length|rope\.(dimension_count|freq_base))",
            r"chatglm\.attention\.(layer_norm_rms_epsilon|key_length|value_length)",
        ),
    ),
    Difference(
        "width-of-shared-experts",
        Scope.CHECKPOINT,
        "The width of ERNIE's shared experts is not that of a dense block divided by the number of key heads",
        "writes the width of an expert times the number of shared ones",
        "writes that quotient",
        "It is the width that the tensors have.",
        keys=(r"[^.]+\.expert_shared_feed_forward_length",),
    ),
    Difference(
        "width-of-groups",
        Scope.CHECKPOINT,
        "GroveMoE's experts of groups are not as wide as a head",
        "writes their width",
        "writes that of a head",
        "A file with another width than its tensors cannot be loaded.",
        keys=(r"grovemoe\.expert_chunk_feed_forward_length",),
    ),
    Difference(
        "width-of-values",
        Scope.CHECKPOINT,
        "The value heads of a MiniCPM3 are not as wide as the residual stream divided by the number of heads",
        "writes their width",
        "writes none",
        "A file whose tensors have another width than its keys say cannot be loaded.",
        keys=(r"minicpm3\.attention\.value_length",),
    ),
    Difference(
        "camembert",
        Scope.CHECKPOINT,
        "The model is a CamembertModel",
        "writes positions and tokens as for XLM-RoBERTa, which it is but for its vocabulary",
        "writes them as for BERT",
        "Pieces of words would be unknown, and positions begin behind the padding token's id.",
        keys=(r"tokenizer\.ggml\..*", r"bert\.context_length"),
        tensors=(r"position_embd\.weight",),
    ),
    Difference(
        "modern-bert-epsilon",
        Scope.CHECKPOINT,
        "config.json of a ModernBERT has `norm_eps` without `layer_norm_eps`",
        "writes it as the epsilon of norms with a mean",
        "writes that of norms without a mean only",
        "llama.cpp does not load a file of this family without it.",
        keys=(r"modern-bert\.attention\.layer_norm_epsilon",),
    ),
    Difference(
        "order-of-attention",
        Scope.CHECKPOINT,
        "A MiniMax Text-01 or M1 has usual attention in other blocks than every eighth",
        "says in which",
        "says nothing",
        "llama.cpp would look for other tensors than there are.",
        keys=(r"minimax-01\.attention\.recurrent_layers",),
    ),
    Difference(
        "minimax-template",
        Scope.CHECKPOINT,
        "A MiniMax Text-01 or M1 has no chat_template.jinja",
        "writes the chat template of tokenizer_config.json, or none",
        "writes one that comes with llama.cpp",
        "The checkpoint says what it was trained with.",
        keys=(r"tokenizer\.chat_template",),
    ),
    Difference(
        "rwkv-template",
        Scope.CHECKPOINT,
        "An RWKV with the world vocabulary has no chat template",
        "writes a short one for the form of its training",
        "writes a longer one, which can also begin a thought",
        "Both give the same text for the same messages; llama.cpp's is a file of its own.",
        keys=(r"tokenizer\.chat_template",),
    ),
    Difference(
        "non-finite",
        Scope.NO_FILE,
        "Where a weight is NaN or Inf, or does not fit into F16 in an F16 output",
        "refuses it",
        "writes it",
        "Such a model gives nothing but NaN.",
    ),
    Difference(
        "activation",
        Scope.NO_FILE,
        "Where `hidden_act` is not the activation that llama.cpp computes for the family",
        "refuses the checkpoint",
        "ignores it",
        "The model would compute something else.",
    ),
    Difference(
        "card-left-out",
        Scope.NO_FILE,
        "Where README.md or generation_config.json cannot be used, or a part of it",
        "leaves that part out with a warning",
        "fails, or writes values of the wrong type",
        "A model works without them.",
    ),
    Difference(
        "snapshot-name",
        Scope.NO_FILE,
        "Where the checkpoint is a snapshot in a Hugging Face cache and no name is given for the output",
        "names the output after the repository",
        "names it after the commit",
        "A commit's digest says nothing to anybody.",
    ),
    Difference(
        "tensor-type-unused",
        Scope.NO_FILE,
        "Where the pattern of --tensor-type matches nothing, or the type of the output is unquantized",
        "refuses it",
        "ignores it",
        "The option has no effect, which is never what was meant.",
    ),
    Difference(
        "tensor-order",
        Scope.NO_FILE,
        "In a file that is made from a checkpoint in one step",
        "writes tensors in the order in which llama-quantize processes them",
        "writes them in this order in its second step only",
        "So one step gives the same file as two.",
    ),
    Difference(
        "rope-factors",
        Scope.NO_FILE,
        "In the rope factors of Llama 3, for unusual bases and head sizes",
        "computes powers by its own function, the same on every machine",
        "takes those of torch",
        "Of 26,240 that were tried, 3 differ by 1 or 2 units in the last place, none of a released model.",
    ),
    Difference(
        "fused-multiply-add",
        Scope.NO_FILE,
        "With a build of ggml that contracts multiplication and addition, or for weights of 2^22 and more",
        "follows the source without contraction, as the stock builds for x86-64 do",
        "gives other bytes than its stock builds",
        "Two builds of ggml differ from each other there, see [k-quants](../spec/blocks/k-quants.md).",
    ),
)
"""One row for each difference."""

_BY_ID = {difference.id: difference for difference in DIFFERENCES}
