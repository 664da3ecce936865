"""`gguflow convert`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from gguflow.cli.command import Command
from gguflow.cli.options import add_follow_links, parse_size, print_json, read_text
from gguflow.cli.text import json_ready, nbytes_text, table, warnings_data
from gguflow.cli.writing import add_writing_options, show_warnings, write
from gguflow.errors import listed, printable

if TYPE_CHECKING:
    from gguflow.conversion.plan import Plan
    from gguflow.conversion.splitting import Split
    from gguflow.recipes import Options

_DESCRIPTION = """\
Convert a checkpoint to GGUF in one pass. Weights are read through memory maps, quantized to the same bytes
that llama.cpp's own quantizer gives, and written to their final place; little memory is needed, whatever
the size of the model. The output appears under its name only when it is complete.

SOURCE is a Hugging Face checkpoint directory (config.json, *.safetensors, tokenizer files), its
model.safetensors.index.json, a single .safetensors file, or a .gguf file (the first, if the model is split
into shards). A single .safetensors file has no config: its tensor names are kept, and --arch NAME sets
general.architecture. The names and metadata of a GGUF file are kept, whatever its architecture. Safetensors
may be quantized to 4 bits by bitsandbytes: with -t nf4_b64, nf4_b64_dq, fp4_b64 or copy, the codes and
scales of such tensors are copied unchanged.

TYPE is a recipe of llama-quantize (q4_k_m, q5_k_m, q6_k, q8_0, ...), which mixes formats by tensor and
layer; or a block format (q4_k) or an encoding (nf4_b64), which is then used for every matrix; or "copy",
which keeps the format of every tensor (to merge shards, for example). `gguflow formats` lists block formats
and encodings."""

_EPILOG = """\
examples:
  # writes Llama-3.2-1B-Q4_K_M.gguf to the current directory
  gguflow convert Llama-3.2-1B/
  gguflow convert Llama-3.2-1B/ -t q8_0 -o out.gguf
  # show what would be written: formats, sizes and why
  gguflow convert Llama-3.2-1B/ --dry-run --explain
  # write two files, and read the source once
  gguflow convert Llama-3.2-1B/ -t q4_k_m,q8_0 -o 'Llama-{type}.gguf'
  gguflow convert Model-BF16-00001-of-00009.gguf -t iq4_xs --split-max-size 20G
  # better scales at the same size
  gguflow convert Llama-3.2-1B/ -t q8_0 --method search
  gguflow convert unet.safetensors --arch flux -t q5_0 --strip-prefix model.diffusion_model."""

_SHOWN_NAMES = 50

_ELSEWHERE = {
    "--prune-layers": "layers are not pruned here; run llama-quantize --prune-layers with the type COPY "
    "first, and convert its output",
    "--keep-split": "--split-max-size and --split-max-tensors split the output",
    "--fuse-qkv": "the matrices of Q, K and V stay apart; llama.cpp reads them so too",
    "--fuse-gate-up-exps": "the matrices of gate and up stay apart; llama.cpp reads them so too",
    "--disable-mistral-community-chat-template": "a chat_template.jinja beside the weights has priority over "
    "the one of the tokenizer's version",
    "--outfile": "-o names the output",
    "--outtype": "-t names the type of the output",
}
"""Options of llama.cpp's tools that are not here, and what to use instead."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command.

    parser: of the command.
    """
    parser.add_argument(
        "source", metavar="SOURCE", help="a checkpoint directory, *.safetensors, *.index.json or *.gguf"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help="the file to write; {type} in it is replaced by the type (default: the name that llama.cpp "
        "would choose, in the current directory)",
    )
    parser.add_argument(
        "-t",
        "--type",
        metavar="TYPE",
        help="a recipe, block format or encoding, or several, separated by commas; a recipe also by its "
        "number in llama.cpp (15 for q4_k_m) (default: q4_k_m)",
    )
    parser.add_argument("--arch", metavar="NAME", help="set general.architecture, and keep tensor names")
    parser.add_argument(
        "--strip-prefix", metavar="PREFIX", help="remove PREFIX from tensor names that begin with it"
    )
    parser.add_argument(
        "--no-mtp",
        action="store_true",
        help="leave out blocks that predict further tokens (multi-token prediction), which are written "
        "otherwise",
    )
    parser.add_argument(
        "--dense-modules",
        "--sentence-transformers-dense-modules",
        action="store_true",
        help="write the dense layers that sentence-transformers has behind an encoder (EmbeddingGemma)",
    )
    parser.add_argument(
        "--skip-tensor",
        action="append",
        default=[],
        metavar="REGEX",
        help="leave out the tensors with REGEX anywhere in their name in the source (^v_head, _scale$); may "
        "be repeated. A tensor that the model needs cannot be left out",
    )
    parser.add_argument(
        "--vocab-only",
        action="store_true",
        help="write the keys and the tokenizer without any tensors; SOURCE is a directory, whose weights may "
        "be absent",
    )
    parser.add_argument(
        "--mistral-format",
        action="store_true",
        help="SOURCE is a directory in Mistral's own form: params.json, tekken.json (or tokenizer.model.v3), "
        "consolidated*.safetensors",
    )
    parser.add_argument("--model-name", metavar="NAME", help="set general.name")
    parser.add_argument(
        "--metadata",
        metavar="FILE",
        help='take keys about origin and sampling ({"general.author": "..."}) from a JSON file, whatever the '
        "files of the model say",
    )
    add_follow_links(parser)
    add_writing_options(parser)
    parser.add_argument(
        "--no-integrity",
        action="store_true",
        help="omit the integrity keys (length, digests, recipe), with which the file can be verified",
    )
    parser.add_argument(
        "--allow-non-finite",
        action="store_true",
        help="keep NaN and infinity where a tensor is copied, or stored as F32, F16 or BF16, and say which "
        "tensors hold them (without it they are refused; weights that are quantized must be finite)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the plan and the final size; read no weights, write nothing",
    )
    parser.add_argument(
        "--explain", action="store_true", help="print which rule chose the format of each tensor"
    )
    parser.add_argument("--json", action="store_true", help="print the report (or the plan) as JSON")
    _add_split_options(parser.add_argument_group("splitting into several files (as gguf-split does)"))
    parser.add_argument(
        "--method",
        default="ggml",
        metavar="METHOD",
        help="how the scales of blocks are chosen. ggml: as llama-quantize does, to the same bytes. search: "
        "a file of the same size with smaller errors (Q8_0 0.9 dB, Q5_K 0.5 dB, Q2_K 1.2 dB on random "
        "weights), which every program reads as before; no text is needed for calibration. It covers "
        "Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL, IQ4_XS, MXFP4, NVFP4 and TQ2_0, and weighs "
        "columns by an --imatrix where ggml does; tensors in other formats keep ggml's encoder, and are "
        "named. Takes more time (default: %(default)s)",
    )
    _add_recipe_options(parser.add_argument_group("changes to the recipe (as in llama-quantize)"))


def _add_split_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--split-max-size",
        metavar="SIZE",
        help="put tensors of at most SIZE bytes into a shard: a number with K, M or G (powers of 1000); "
        "a larger tensor gets a shard of its own",
    )
    group.add_argument(
        "--split-max-tensors", type=int, metavar="N", help="put at most N tensors into a shard"
    )
    group.add_argument(
        "--no-tensor-first-split", action="store_true", help="put only metadata into the first shard"
    )


def _add_recipe_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--pure", action="store_true", help="use the recipe's base format for every matrix, without mixing"
    )
    group.add_argument(
        "--tensor-type",
        action="append",
        default=[],
        metavar="REGEX=FORMAT",
        help="use FORMAT for tensors with REGEX anywhere in their name (attn_v=q6_k); may be repeated, "
        "the first match wins",
    )
    group.add_argument(
        "--tensor-type-file",
        metavar="FILE",
        help="read more REGEX=FORMAT pairs from FILE, separated by white space; they come after those of "
        "--tensor-type",
    )
    group.add_argument("--output-tensor-type", metavar="FORMAT", help="format of output.weight")
    group.add_argument("--token-embedding-type", metavar="FORMAT", help="format of the token embeddings")
    group.add_argument(
        "--leave-output-tensor", action="store_true", help="keep output.weight as it is in the source"
    )
    group.add_argument(
        "--allow-requantize",
        action="store_true",
        help="also quantize tensors that are already quantized, which loses more precision",
    )
    group.add_argument(
        "--imatrix", metavar="FILE", help="importance matrix from llama-imatrix (GGUF, or the older .dat)"
    )
    group.add_argument(
        "--include-weights",
        action="append",
        default=[],
        metavar="NAME",
        help="use importance only for tensors with NAME in their name (ffn_down); may be repeated",
    )
    group.add_argument(
        "--exclude-weights",
        action="append",
        default=[],
        metavar="NAME",
        help="use no importance for tensors with NAME in their name; may be repeated",
    )
    group.add_argument(
        "--override-kv",
        action="append",
        default=[],
        metavar="KEY=TYPE:VALUE",
        help="set a metadata key (llama.context_length=int:4096); TYPE is int, float, bool or str; "
        "may be repeated",
    )


def run(arguments: argparse.Namespace) -> None:
    """Plan a conversion, and carry it out unless --dry-run is given.

    arguments: the parsed command line.
    """
    from gguflow import conversion

    prepared = conversion.prepare(
        arguments.source,
        arguments.output,
        type=arguments.type,
        architecture=arguments.arch,
        strip_prefix=arguments.strip_prefix,
        next_tokens=not arguments.no_mtp,
        dense_modules=arguments.dense_modules,
        skip_tensors=arguments.skip_tensor,
        follow_links=arguments.follow_links,
        options=_recipe_options(arguments),
        imatrix=arguments.imatrix,
        include_weights=arguments.include_weights,
        exclude_weights=arguments.exclude_weights,
        shards=_split(arguments),
        integrity=not arguments.no_integrity,
        allow_non_finite=arguments.allow_non_finite,
        model_name=arguments.model_name,
        metadata_file=arguments.metadata,
        vocab_only=arguments.vocab_only,
        mistral_format=arguments.mistral_format,
        method=arguments.method,
    )
    plans = [plan for target in prepared.targets for plan in target.plans]
    texts = "\n\n".join(plan_text(plan, explain=arguments.explain) for plan in plans)
    for note in filter(None, map(importance_text, plans)):
        print(f"gguflow: {note}", file=sys.stderr)
    if not arguments.quiet:
        for note in filter(None, map(method_text, plans)):
            print(f"gguflow: {note}", file=sys.stderr)
        for difference in prepared.differences:
            print(
                f"gguflow: unlike llama.cpp ({difference.id}): {printable(difference.note)}", file=sys.stderr
            )
    if arguments.dry_run:
        if arguments.json:
            shared = {
                "differences": [difference.id for difference in prepared.differences],
                "warnings": warnings_data(prepared.warnings),
            }
            print_json(*({**plan_data(plan), **shared} for plan in plans))
        else:
            print(texts)
        show_warnings(prepared.warnings, arguments)
        return
    if arguments.explain:
        print(texts, file=sys.stderr)
    write(prepared, arguments)


def _split(arguments: argparse.Namespace) -> Split | None:
    from gguflow.conversion.splitting import Split

    size, n_tensors, is_bare = (
        arguments.split_max_size,
        arguments.split_max_tensors,
        arguments.no_tensor_first_split,
    )
    if size is None and n_tensors is None and not is_bare:
        return None
    return Split(None if size is None else parse_size(size, 1000), n_tensors, is_bare)


def _recipe_options(arguments: argparse.Namespace) -> Options:
    from gguflow.recipes import Options

    file = arguments.tensor_type_file
    return Options(
        pure=arguments.pure,
        tensor_types=(*arguments.tensor_type, *(read_text(file).split() if file else ())),
        output_tensor_type=arguments.output_tensor_type,
        token_embedding_type=arguments.token_embedding_type,
        leave_output_tensor=arguments.leave_output_tensor,
        allow_requantize=arguments.allow_requantize,
        override_kv=tuple(arguments.override_kv),
    )


def plan_data(plan: Plan) -> dict[str, Any]:
    """A plan as JSON-ready data: the tensors as `inspect` gives them, why each has its format, and the file's
    size. is_bound marks sizes that depend on the data: the most that they can be.

    plan: of one file.
    """
    return {
        "nbytes": plan.nbytes,
        "method": plan.method,
        **({"is_bound": True} if plan.is_bound else {}),
        "metadata": {key: json_ready(value.value) for key, value in plan.metadata.items()},
        "tensors": [
            {
                "name": planned.name,
                "shape": list(planned.shape),
                "format": planned.format.name,
                "offset": planned.offset,
                "nbytes": planned.nbytes,
                **({"is_bound": True} if planned.is_bound else {}),
                "rule": planned.rule,
            }
            for planned in plan.tensors
        ],
    }


def plan_text(plan: Plan, *, explain: bool = False) -> str:
    """A plan as a table, and its totals.

    plan: of one file.
    explain: whether to show which rule chose the format of each tensor.
    """
    titles = ("tensor", "format", "shape", "size", "offset", "rule")
    rows = [
        (
            p.name,
            p.format.name,
            "x".join(map(str, p.shape)),
            "≤ " * p.is_bound + nbytes_text(p.nbytes),
            f"{p.offset:,}",
            p.rule,
        )
        for p in plan.tensors
    ]
    bound = "at most " if plan.is_bound else ""
    columns = len(titles) if explain else len(titles) - 1
    total = (
        f"{printable(plan.architecture)}, {plan.recipe}: {len(plan.tensors)} tensors, "
        f"{plan.n_weights:,} weights, "
        f"{bound}{plan.bits_per_weight:.3f} bits per weight, {bound}{plan.nbytes:,} bytes"
        + ("" if plan.method == "ggml" else f", --method {plan.method}")
    )
    return table(titles[:columns], [row[:columns] for row in rows], right=(3, 4)) + "\n\n" + total


def importance_text(plan: Plan) -> str:
    """A sentence about the tensors that lack importance, "" if there are none.

    plan: of one file.
    """
    if plan.has_imatrix:
        lacking = plan.without_importance
        what = "tensors without an entry in the importance matrix, quantized without importance"
    else:
        lacking = [planned for planned in plan.tensors if planned.needs_importance and planned.is_encoded]
        what = "tensors that need an importance matrix (--imatrix)"
    if not lacking:
        return ""
    names = listed([planned.name for planned in lacking], _SHOWN_NAMES)
    return f"{plan.recipe}: {len(lacking)} {what}: {names}"


def method_text(plan: Plan) -> str:
    """A sentence about the tensors for which --method search has no search, "" if there are none.

    plan: of one file.
    """
    others = plan.without_search
    if not others:
        return ""
    names = listed([f"{planned.name} ({planned.format.name})" for planned in others], _SHOWN_NAMES)
    what = "1 tensor keeps" if len(others) == 1 else f"{len(others)} tensors keep"
    return f"{plan.recipe}: {what} ggml's encoder, as --method search does not cover the format: {names}"


COMMAND = Command(
    name="convert",
    order=10,
    summary="convert a safetensors checkpoint or a GGUF file to GGUF",
    description=_DESCRIPTION,
    epilog=_EPILOG,
    add_arguments=add_arguments,
    run=run,
    resumes=True,
    elsewhere=_ELSEWHERE,
)
