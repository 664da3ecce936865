"""What is found in names is what gguf, llama.cpp's own library, finds there; and no name takes long."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguflow.models.base import ModelTensor
from gguflow.models.description import describe
from gguflow.models.general import ParameterCounts
from gguflow.models.general_fields import to_metadata
from gguflow.models.known_architectures import KNOWN_TO_LLAMA_CPP
from gguflow.models.naming import ModelName, rounded, title
from gguflow.models.output_name import naming_convention
from testing.gguf_metadata import typed, written_by_gguf

_ON_THE_HUB = """
meta-llama/Llama-2-7b-hf meta-llama/Llama-2-70b-chat-hf meta-llama/Meta-Llama-3-8B
meta-llama/Meta-Llama-3-8B-Instruct meta-llama/Llama-3.1-405B-Instruct-FP8 meta-llama/Llama-3.2-1B
meta-llama/Llama-3.2-11B-Vision-Instruct meta-llama/Llama-3.3-70B-Instruct
meta-llama/Llama-4-Scout-17B-16E-Instruct meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8
meta-llama/Llama-Guard-3-8B meta-llama/CodeLlama-34b-Python-hf huggyllama/llama-7b
openlm-research/open_llama_3b_v2 TinyLlama/TinyLlama-1.1B-Chat-v1.0
TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T nvidia/Llama-3_1-Nemotron-51B-Instruct
nvidia/Llama-3.1-Nemotron-70B-Instruct-HF nvidia/Nemotron-H-8B-Base-8K nvidia/Minitron-4B-Base
nvidia/NVIDIA-Nemotron-Nano-9B-v2 NousResearch/Hermes-2-Pro-Llama-3-8B NousResearch/Hermes-3-Llama-3.1-405B
NousResearch/Meta-Llama-3-8B NousResearch/Hermes-2-Theta-Llama-3-8B NousResearch/Yarn-Llama-2-13b-128k
NousResearch/Yarn-Mistral-7b-128k lmsys/vicuna-13b-v1.5-16k lmsys/longchat-7b-v1.5-32k
gradientai/Llama-3-8B-Instruct-Gradient-1048k abacaj/llama-161M-100B SparseLLM/relu-100B
mistralai/Mistral-7B-v0.1 mistralai/Mistral-7B-Instruct-v0.3 mistralai/Mixtral-8x7B-Instruct-v0.1
mistralai/Mixtral-8x22B-v0.1 mistralai/Mistral-Nemo-Instruct-2407 mistralai/Mistral-Large-Instruct-2411
mistralai/Mistral-Small-3.1-24B-Instruct-2503 mistralai/Mistral-Small-3.2-24B-Instruct-2506
mistralai/Ministral-8B-Instruct-2410 mistralai/Ministral-3-3B-Instruct-2512 mistralai/Codestral-22B-v0.1
mistralai/Mathstral-7B-v0.1 mistralai/mamba-codestral-7B-v0.1 mistralai/Devstral-Small-2507
mistralai/Magistral-Small-2509 mistralai/Pixtral-12B-2409 mistralai/Voxtral-Mini-3B-2507
mistralai/-Mistral--Nemo-Base-2407- Mistral/Mixtral-8x7B-Instruct-v0.1 HuggingFaceH4/zephyr-7b-beta
teknium/OpenHermes-2.5-Mistral-7B EmbeddedLLM/Mistral-7B-Merge-14-v0.1 janai-hq/trinity-v1
MaziyarPanahi/GreenNode-mini-7B-multilingual-v1olet-Mistral-7B-Instruct-v0.1
cognitivecomputations/dolphin-2.9.2-qwen2-72b jondurbin/bagel-dpo-2.8b-v0.2
voxmenthe/SFR-Iterative-DPO-LLaMA-3-8B-R-unquantized crestf411/daybreak-kunoichi-2dpo-7b
Qwen/Qwen-7B-Chat Qwen/Qwen1.5-0.5B Qwen/Qwen1.5-MoE-A2.7B-Chat Qwen/Qwen1.5-110B-Chat
Qwen/Qwen2-57B-A14B-Instruct Qwen/Qwen2-0.5B-Instruct Qwen/Qwen2.5-7B-Instruct-1M
Qwen/Qwen2.5-Coder-32B-Instruct Qwen/Qwen2.5-Math-1.5B Qwen/Qwen2.5-VL-7B-Instruct Qwen/Qwen2.5-Omni-7B
Qwen/Qwen2-VL-2B-Instruct Qwen/QwQ-32B Qwen/QwQ-32B-Preview Qwen/QVQ-72B-Preview Qwen/Qwen3-0.6B
Qwen/Qwen3-30B-A3B Qwen/Qwen3-30B-A3B-Instruct-2507 Qwen/Qwen3-235B-A22B-Thinking-2507
Qwen/Qwen3-Coder-480B-A35B-Instruct Qwen/Qwen3-Next-80B-A3B-Instruct Qwen/Qwen3-VL-8B-Thinking
Qwen/Qwen3-VL-235B-A22B-Instruct Qwen/Qwen3-Embedding-0.6B Qwen/Qwen3-Reranker-4B Qwen/Qwen3-8B-Base
Qwen/Qwen3.5-35B-A3B Qwen/Qwen3.5-397B-A17B Alibaba-NLP/gte-Qwen2-1.5B-instruct google/gemma-2b
google/gemma-7b-it google/gemma-1.1-7b-it google/gemma-2-9b-it google/gemma-2-27b google/gemma-3-270m
google/gemma-3-1b-it google/gemma-3-27b-it-qat-q4_0-unquantized google/gemma-3n-E2B-it
google/gemma-3n-E4B google/gemma-4-31B-it google/embeddinggemma-300m google/codegemma-7b-it
google/recurrentgemma-2b google/medgemma-4b-it google/shieldgemma-9b UCLA-AGI/Gemma-2-9B-It-SPPO-Iter3
google/flan-t5-xxl google/flan-t5-large google/t5-v1_1-xl google/byt5-small google/switch-base-8
google-bert/bert-base-uncased google-bert/bert-large-cased-whole-word-masking microsoft/phi-1_5
microsoft/phi-2 microsoft/Phi-3-mini-4k-instruct microsoft/Phi-3-mini-128k-instruct
microsoft/Phi-3-medium-128k-instruct microsoft/Phi-3-small-8k-instruct microsoft/Phi-3.5-MoE-instruct
microsoft/Phi-3.5-mini-instruct microsoft/phi-4 microsoft/Phi-4-mini-instruct microsoft/Phi-4-reasoning-plus
microsoft/Florence-2-base microsoft/bitnet-b1.58-2B-4T microsoft/DialoGPT-medium microsoft/Orca-2-13b
1bitLLM/bitnet_b1_58-3B deepseek-ai/deepseek-llm-7b-chat deepseek-ai/deepseek-moe-16b-base
deepseek-ai/deepseek-coder-6.7b-instruct deepseek-ai/DeepSeek-V2-Chat-0628 deepseek-ai/DeepSeek-V2-Lite
deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct deepseek-ai/DeepSeek-V3-0324 deepseek-ai/DeepSeek-V3.1-Terminus
deepseek-ai/DeepSeek-V3.2-Exp deepseek-ai/DeepSeek-R1 deepseek-ai/DeepSeek-R1-0528-Qwen3-8B
deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B deepseek-ai/DeepSeek-R1-Distill-Llama-70B
openai/gpt-oss-20b openai/gpt-oss-120b openai-community/gpt2 openai-community/gpt2-medium
openai-community/gpt2-xl openai/whisper-large-v3-turbo openai/clip-vit-large-patch14-336
zai-org/GLM-4-9B-0414 zai-org/GLM-4.5-Air zai-org/GLM-4.5-Air-Base zai-org/GLM-4.6 zai-org/GLM-5
zai-org/GLM-4.1V-9B-Thinking zai-org/glm-edge-1.5b-chat zai-org/chatglm3-6b-32k
zai-org/glm-4-9b-chat-1m ibm-granite/granite-3.0-1b-a400m-instruct ibm-granite/granite-3.3-8b-instruct
ibm-granite/granite-4.0-h-small ibm-granite/granite-4.0-h-tiny ibm-granite/granite-4.0-micro
ibm-granite/granite-7b-base ibm-granite/granite-34b-code-instruct-8k
ibm-granite/granite-embedding-125m-english HuggingFaceTB/SmolLM-135M HuggingFaceTB/SmolLM2-360M-Instruct
HuggingFaceTB/SmolLM2-1.7B-Instruct HuggingFaceTB/SmolLM3-3B HuggingFaceTB/SmolVLM-256M-Instruct
CohereForAI/c4ai-command-r-v01 CohereForAI/c4ai-command-r-plus-08-2024 CohereForAI/aya-23-8B
CohereLabs/command-a-03-2025 CohereLabs/c4ai-command-r7b-12-2024 tiiuae/falcon-7b tiiuae/falcon-40b-instruct
tiiuae/falcon-180B-chat tiiuae/Falcon3-10B-Instruct-1.58bit tiiuae/Falcon-H1-34B-Instruct
tiiuae/falcon-mamba-7b bigscience/bloom-7b1 bigscience/bloom-7b1-petals bigscience/bloomz-1b7
bigscience/bloom-560m EleutherAI/gpt-neox-20b EleutherAI/gpt-j-6b EleutherAI/pythia-70m-deduped
EleutherAI/pythia-1.4b-v0 stabilityai/stablelm-2-zephyr-1_6b stabilityai/stablelm-2-12b-chat
stabilityai/stablelm-3b-4e1t stabilityai/stable-code-3b stabilityai/stable-diffusion-xl-base-1.0
smallcloudai/Refact-1_6B-fim bigcode/starcoder2-15b-instruct-v0.1 bigcode/starcoderbase-1b
bigcode/gpt_bigcode-santacoder state-spaces/mamba-2.8b-hf state-spaces/mamba2-1.3b
state-spaces/mamba-130m-hf ai21labs/Jamba-v0.1 ai21labs/AI21-Jamba-1.5-Mini ai21labs/Jamba-tiny-dev
pszemraj/jamba-900M-v0.13-KIx2 RWKV/v6-Finch-1B6-HF RWKV/RWKV7-Goose-World3-2.9B-HF
RWKV/rwkv-4-169m-pile internlm/internlm2_5-7b-chat-1m internlm/internlm2-chat-1_8b-sft
internlm/internlm3-8b-instruct OpenGVLab/Mini-InternVL-Chat-2B-V1-5 OpenGVLab/InternVL3_5-30B-A3B
openbmb/MiniCPM-2B-dpo-bf16 openbmb/MiniCPM3-4B openbmb/MiniCPM-V-2_6 openbmb/MiniCPM4-0.5B
baichuan-inc/Baichuan2-13B-Chat 01-ai/Yi-34B-200K 01-ai/Yi-1.5-9B-Chat-16K 01-ai/Yi-VL-6B
xverse/XVERSE-13B-256K OrionStarAI/Orion-14B-LongChat allenai/OLMo-1B-hf allenai/OLMo-2-1124-13B-Instruct
allenai/OLMoE-1B-7B-0924-Instruct allenai/Olmo-3-7B-Think apple/OpenELM-1_1B-Instruct apple/DCLM-7B
databricks/dbrx-instruct Snowflake/snowflake-arctic-instruct Snowflake/snowflake-arctic-embed-m-v2.0
xai-org/grok-1 xai-org/grok-2 LGAI-EXAONE/EXAONE-3.0-7.8B-Instruct LGAI-EXAONE/EXAONE-4.0-32B
LGAI-EXAONE/EXAONE-4.0-1.2B SeaLLMs/SeaLLMs-v3-7B-Chat sail/Sailor2-20B-Chat
upstage/SOLAR-10.7B-Instruct-v1.0 upstage/solar-pro-preview-instruct LiquidAI/LFM2-1.2B LiquidAI/LFM2-8B-A1B
LiquidAI/LFM2-VL-450M MiniMaxAI/MiniMax-M2 MiniMaxAI/MiniMax-Text-01-hf moonshotai/Kimi-K2-Instruct-0905
moonshotai/Kimi-Linear-48B-A3B-Instruct moonshotai/Moonlight-16B-A3B tencent/Hunyuan-A13B-Instruct
tencent/Hunyuan-7B-Instruct-0124 tencent/Hunyuan-0.5B-Pretrain baidu/ERNIE-4.5-21B-A3B-PT
baidu/ERNIE-4.5-0.3B-PT inclusionAI/Ling-lite-1.5 inclusionAI/Ling-mini-2.0 inclusionAI/Ring-1T
ByteDance-Seed/Seed-OSS-36B-Instruct rednote-hilab/dots.llm1.inst arcee-ai/AFM-4.5B
arcee-ai/Trinity-Mini swiss-ai/Apertus-8B-Instruct-2509 inceptionai/jais-13b-chat
inceptionai/jais-family-590m-chat GSAI-ML/LLaDA-8B-Instruct Dream-org/Dream-v0-Instruct-7B
PowerInfer/SmallThinker-21BA3B-Instruct plamo-org/plamo-13b pfnet/plamo-2-8b WisdomShell/CodeShell-7B-Chat
Zyphra/Zamba2-2.7B-instruct-v2 cerebras/btlm-3b-8k-base mosaicml/mpt-30b-chat replit/replit-code-v1-3b
deci/DeciLM-7B-instruct Salesforce/codegen-350M-mono facebook/opt-125m facebook/opt-iml-max-1.3b
facebook/galactica-120b delphi-suite/stories-llama2-50k roneneldan/TinyStories-33M
sentence-transformers/all-MiniLM-L6-v2 sentence-transformers/paraphrase-multilingual-mpnet-base-v2
BAAI/bge-m3 BAAI/bge-small-en-v1.5 BAAI/bge-reranker-v2-m3 intfloat/multilingual-e5-large-instruct
intfloat/e5-mistral-7b-instruct nomic-ai/nomic-embed-text-v1.5 nomic-ai/nomic-embed-text-v2-moe
jinaai/jina-embeddings-v2-base-en jinaai/jina-embeddings-v3 jinaai/jina-reranker-v1-tiny-en
answerdotai/ModernBERT-base answerdotai/ModernBERT-large EuroBERT/EuroBERT-210m
mixedbread-ai/mxbai-embed-xsmall-v1 Alibaba-NLP/gte-multilingual-base thenlper/gte-large
FacebookAI/roberta-large distilbert/distilbert-base-uncased-finetuned-sst-2-english
vikhyatk/moondream2 llava-hf/llava-1.5-7b-hf liuhaotian/llava-v1.6-34b HuggingFaceM4/idefics2-8b-chatty
unsloth/Llama-3.2-3B-Instruct-bnb-4bit TheBloke/Mistral-7B-Instruct-v0.2-GPTQ
casperhansen/mixtral-instruct-awq
Mixtral Mixtral-v0.1 Mixtral-8x7B Mixtral-8x7B-v0.1 hermes-2-pro-llama-3-8b-DPO model gpt2-small
Llama-3-Instruct-abliteration-LoRA-8B small mini-large-7B 7B v1 v1-v2 1-2-3 -- a--b / /a a/ ./a ../a/b
./hermes-2-pro-llama-3-8b-DPO a/b/c-7B A14B-8x7B x-8X7b x-a14b x-1_5b3 x-1.5b3 x-7K x-XXL-7t x-xl-mini x-Q4_K
x-IQ2_X_S-fp16 x-bf16 x-f32 x-ITER12.5 x-٣b v٣ x-é-7b é.5-chat 3-chat-4 chat-3 x-0.0b x-lora
"""
NAMES = [
    *_ON_THE_HUB.split(),
    "",
    "a name in words",
    "org/a name",
    " ",
    "x-1_0b 2",
    "\u017fmall",
    "x-\u017fmall",
    "x-7\u212a",
    "a\tb-7B",
    "a\n-7b\n",
    "\x1c-v2",
]

SIZES = (0, 1, 50_000, 161_000_000, 1_340_000_000, 4_000_000_000, 7_250_000_000, 70_000_000_000, 671 * 10**9)


def parts(name: ModelName) -> tuple[str | None, ...]:
    """As gguf returns them."""
    return (name.full, name.organization, name.basename, name.finetune, name.version, name.size_label)


def test_there_are_many_names() -> None:
    assert len(set(NAMES)) >= 300


@pytest.mark.parametrize("name", NAMES)
def test_names_have_the_parts_that_gguf_finds(name: str) -> None:
    for size in SIZES:
        assert parts(ModelName.parse(name, size)) == gguf.Metadata.get_model_id_components(name, size)
    assert title(name) == gguf.Metadata.id_to_title(name)


@pytest.mark.parametrize(
    ("name", "n_weights", "expected"),
    [
        ("Qwen2-57B-A14B-Instruct", 0, ("Qwen2", "Instruct", None, "57B-A14B")),
        ("OpenGVLab/Mini-InternVL-Chat-2B-V1-5", 0, ("Mini-InternVL", "Chat", "V1-5", "2B")),
        ("microsoft/Phi-3-mini-4k-instruct", 4 * 10**9, ("Phi-3", "4k-instruct", None, "mini")),
        ("bigscience/bloom-7b1-petals", 0, ("bloom", "petals", None, "7.1B")),
        ("smallcloudai/Refact-1_6B-fim", 0, ("Refact", "fim", None, "1.6B")),
        ("abacaj/llama-161M-100B", 161 * 10**6, ("llama", "100b", None, "161M")),
        ("mistralai/Mistral-Nemo-Instruct-2407", 0, ("Mistral-Nemo", "Instruct", "2407", None)),
        ("pszemraj/jamba-900M-v0.13-KIx2", 0, ("jamba", "KIx2", "v0.13", "900M")),
        ("Mixtral", 0, (None, None, None, None)),
        ("a 7B model", 0, (None, None, None, None)),
    ],
)
def test_what_names_mean(name: str, n_weights: int, expected: tuple[str | None, ...]) -> None:
    assert parts(ModelName.parse(name, n_weights))[2:] == expected


WORDS = [*dict.fromkeys(word for name in NAMES for word in name.replace("/", "-").split("-"))]
WORD = st.sampled_from(WORDS) | st.from_regex(r"[aA]?\d{1,4}(x\d)?([._]\d+)?[kmbtKMBT]?\d?", fullmatch=True)
TEXT = st.text("aAbBkKmMvVxXiIqQlLtT0123456789._-/ \t\u212a\u017f\u0663\u00e9", max_size=24) | st.text(
    max_size=8
)
NAME = st.lists(WORD | TEXT, max_size=8).map("-".join) | TEXT
ID = NAME | st.tuples(TEXT | WORD, NAME).map("/".join)
COUNT = st.just(0) | st.integers(1, 2 * 10**13) | st.integers(1, 13).map(lambda n: 10**n)


@settings(max_examples=1500, deadline=None)
@given(ID, COUNT)
def test_any_name_has_the_parts_that_gguf_finds(name: str, n_weights: int) -> None:
    assert parts(ModelName.parse(name, n_weights)) == gguf.Metadata.get_model_id_components(name, n_weights)
    assert title(name) == gguf.Metadata.id_to_title(name)


URL = st.tuples(
    st.sampled_from(
        ["https://huggingface.co/", "http://huggingface.co/", "ssh://huggingface.co/", "https://x.y/"]
    ),
    ID,
).map("".join)
ORIGIN = (
    st.dictionaries(st.sampled_from(["name", "author", "version", "doi", "url", "repo_url"]), TEXT) | ID | URL
)
CARD: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        **{
            prefix + key: st.none() | TEXT
            for prefix in ("", "model_")
            for key in ("name", "author", "version", "organization", "description", "finetune", "basename")
        },
        **{
            key: st.none() | TEXT for key in ("size_label", "model_creator", "model_type", "url", "model_doi")
        },
        **{key: st.none() | TEXT for key in ("license_name", "license_link", "model_size_label")},
        "license": st.none() | TEXT | st.lists(TEXT, max_size=2),
        **{
            key: st.none() | TEXT | st.lists(TEXT, max_size=2)
            for key in ("tags", "pipeline_tag", "languages", "language")
        },
        **{
            key: st.none() | ID | URL | st.lists(ORIGIN, max_size=3)
            for key in ("base_model", "base_models", "base_model_sources", "datasets", "dataset")
        },
    },
)


@settings(max_examples=700, deadline=None)
@given(CARD, st.none() | ID, WORD | NAME, COUNT)
def test_any_card_gives_the_keys_that_gguf_writes(
    card: dict[str, Any], config_name: str | None, directory: str, n_weights: int
) -> None:
    name = Path(f"/x/{directory}").name
    expected = gguf.Metadata.apply_metadata_heuristic(
        gguf.Metadata(),
        {key: list(value) if isinstance(value, list) else value for key, value in card.items()},
        {} if config_name is None else {"_name_or_path": config_name},
        Path(name),
        n_weights,
    )
    fields = describe(card, config_name, name, n_weights)
    written = written_by_gguf(expected)
    assert list(typed(to_metadata(fields)).items()) == list(written.items())[2:]
    parts = [fields.get(part) for part in ("basename", "size_label", "finetune", "version")]
    assert naming_convention(fields["name"], *parts) == gguf.naming_convention(
        expected.name, expected.basename, expected.finetune, expected.version, expected.size_label, None
    )


@given(COUNT, COUNT, COUNT, st.integers(0, 512))
def test_size_labels(total: int, shared: int, expert: int, n_experts: int) -> None:
    counts = ParameterCounts(total, shared, expert, n_experts)
    assert counts.size_label == gguf.size_label(total, shared, expert, n_experts)


@pytest.mark.parametrize(
    ("n_weights", "expected"),
    [
        (0, "0.00K"),
        (1, "0.00K"),
        (999, "1.0K"),
        (10**6, "1000K"),
        (134_515_008, "135M"),
        (1_100_048_384, "1.1B"),
        (10**9, "1000M"),
        (9_960_000_000, "10B"),
        (1_040_000_000_000, "1.0T"),
    ],
)
def test_rounded_sizes(n_weights: int, expected: str) -> None:
    assert rounded(n_weights) == expected == gguf.size_label(n_weights, 0, 0, 0)


def test_weights_of_experts_are_told_by_name_and_dimensions() -> None:
    """A kernel of a convolution has three dimensions too, and biases of experts have two."""
    shapes = {
        "blk.0.ffn_up_exps.weight": (4, 10, 20),
        "blk.0.ffn_up_exps.bias": (4, 10),
        "blk.1.ffn_up_exps.weight": (2, 10, 20),
        "blk.0.ssm_conv1d.weight": (10, 1, 4),
        "token_embd.weight": (7, 3),
    }
    counts = ParameterCounts.of([ModelTensor(name, shape) for name, shape in shapes.items()])
    assert counts == ParameterCounts(1301, 101, 400, 3)
    assert (counts.total, counts.shared, counts.expert, counts.n_experts) == _counted_by_gguf(shapes)


def _counted_by_gguf(shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    writer = gguf.GGUFWriter(None, "llama")
    for name, shape in shapes.items():
        writer.add_tensor_info(name, shape, np.dtype("float16"), 0)
    return tuple(writer.get_total_parameter_count())


@pytest.mark.parametrize(
    "text", ["-", "1", "1.", "a-", "7b-", "v1.1.", "1x", "1_1", "a b-", "q4_k", "_k", "/", "\u0663", "Llama-"]
)
def test_no_name_takes_long(text: str) -> None:
    name = text * (300_000 // len(text))
    started = time.process_time()
    for end in ("", "b", "x", "-7b", "!"):
        ModelName.parse(name + end, 10**9)
        title(name + end)
    assert time.process_time() - started < 10


def test_the_architectures_of_llama_cpp() -> None:
    """Newer ones than this release of gguf knows are there too."""
    assert set(gguf.MODEL_ARCH_NAMES.values()) <= KNOWN_TO_LLAMA_CPP
    assert len(KNOWN_TO_LLAMA_CPP) >= 153 and "kimi-k3" in KNOWN_TO_LLAMA_CPP
