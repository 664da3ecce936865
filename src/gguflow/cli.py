"""The command line: parses, calls, prints, and turns errors into exit codes. Each command imports what it
needs when it runs.

Results go to stdout, everything for people (progress, tables of a conversion, errors) to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

from gguflow import __version__, inference_cli
from gguflow.errors import ExitStatus, GguflowError, UsageError, printable

if TYPE_CHECKING:
    from gguflow.conversion import Prepared
    from gguflow.conversion.splitting import Split
    from gguflow.recipes import Options

_EPILOG = """\
exit codes: 0 done; 1 failed; 2 usage; 3 a file that is malformed, invalid, unsupported or over a limit; 4 I/O (disk full, permission);
130 interrupted. Kernels are compiled at first use and cached (GGUFLOW_CACHE_DIR chooses where)."""

_CONVERT = """\
Convert a checkpoint to GGUF in one pass. The weights are read through memory maps, quantized with the bytes that llama.cpp's own quantizer
gives, and written at their place; memory stays small whatever the size of the model. The output appears under its name only when it is whole.

SOURCE is a Hugging Face checkpoint directory (config.json, *.safetensors, tokenizer files), its model.safetensors.index.json, one .safetensors
file, or a .gguf file (of several shards, the first). A lone .safetensors file has no config: its names are kept as they are, and --arch NAME says
what general.architecture is to be. Of a GGUF file, names and metadata are kept, whatever its architecture. Tensors that bitsandbytes quantized to 4
bits are taken in either: for -t nf4_b64, nf4_b64_dq, fp4_b64 and copy their codes and scales move as they are.

TYPE is a recipe of llama-quantize (q4_k_m, q5_k_m, q6_k, q8_0, ...), which mixes formats by tensor and layer, or a block format (q4_k), which
then holds for every matrix; "copy" keeps the format of every tensor (to merge shards). `gguflow formats` lists the block formats."""

_CONVERT_EPILOG = """\
examples:
  gguflow convert Llama-3.2-1B/                      Llama-3.2-1B-Q4_K_M.gguf in the current directory
  gguflow convert Llama-3.2-1B/ -t q8_0 -o out.gguf
  gguflow convert Llama-3.2-1B/ --dry-run --explain  what would be written: formats, sizes and why
  gguflow convert Llama-3.2-1B/ -t q4_k_m,q8_0 -o 'Llama-{type}.gguf'    two files from one reading
  gguflow convert Model-BF16-00001-of-00009.gguf -t iq4_xs --split-max-size 20G
  gguflow convert unet.safetensors --arch flux -t q5_0 --strip-prefix model.diffusion_model."""

_EXPORT = """\
Write the weights of a GGUF file as safetensors, decoded. Where the architecture is known, names and the order of rows are those of the checkpoint
that transformers loads (experts one by one); elsewhere names stay. Configuration and tokenizer are not written: they are those of the original.

--to says what is written of tensors that are encoded as nf4, fp4, int8 or int4 (`gguflow convert -t nf4_b64`):
  safetensors            nothing else: all weights decoded
  bnb                    nf4 and fp4 in the form of bitsandbytes, the same codes and scales; to load it with transformers, config.json needs
                         "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"}
  safetensors-quantized  int8_b128, int8_row and int4_b128 as codes (I8, or two to a byte of U8, high nibble first) and NAME.__scales__ (F32)"""

_COMPARE = """\
Compare two models tensor by tensor: root mean squared error, relative error (norm of the difference over the norm of A), signal to noise in dB,
cosine, the rows with the largest relative error, sizes. Checkpoints and GGUF files are compared under common names and row orders."""

_VALIDATE = """\
Say whether files keep the rules of their format: every broken rule, with its place, what was found and what was expected. GGUF files (a first shard
is judged with its siblings), .safetensors files, and safetensors checkpoints.

Levels: "structure" looks at the header, the tensor table, the layout and what the metadata means, and reads no weights; "values" also looks at every
block (scales that are not finite, reserved codes) and at the padding; "strict" also asks for the canonical form. Warnings do not spoil a file."""

_VALIDATE_EPILOG = """\
examples:
  gguflow validate model.gguf                        milliseconds, whatever the size
  gguflow validate *.gguf --level values --json      every block of every file, as JSON"""


_EDIT = """\
Change the metadata of a GGUF file: a chat template, the id of a special token. FILE is replaced in one step, or OUT is written; the weights
are streamed as they are, and whatever stops it (Ctrl-C, a full disk), FILE is as it was. Where FILE has the keys by which it can prove itself,
its data is verified on the way, and the keys are made anew.

TYPE is u8, i8, u16, i16, u32, i32, u64, i64, f32, f64, bool (true or false) or str. A str VALUE of the form @PATH is read from that file; @@
stands for @. An edit that would break a rule of the format is refused; so are general.alignment and keys under gguflow."""

_EDIT_EPILOG = """\
examples:
  gguflow edit model.gguf --set tokenizer.ggml.eos_token_id=u32:128009
  gguflow edit model.gguf --set tokenizer.chat_template=str:@template.jinja -o fixed.gguf
  gguflow edit model.gguf --remove tokenizer.chat_template --set general.name=str:Plain"""


def parser() -> argparse.ArgumentParser:
    """The whole command line as argparse has it."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        prog="gguflow",
        description="safetensors to GGUF in one streaming pass, and a look inside GGUF files.",
        epilog=_EPILOG,
        formatter_class=raw,
    )
    top.add_argument("--version", action="version", version=f"gguflow {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    convert = commands.add_parser(
        "convert",
        help="convert a safetensors checkpoint or a GGUF file to GGUF",
        description=_CONVERT,
        epilog=_CONVERT_EPILOG,
        formatter_class=raw,
    )
    convert.add_argument(
        "source", metavar="SOURCE", help="a checkpoint directory, *.safetensors, *.index.json, or *.gguf"
    )
    convert.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help="the file to write (default: llama.cpp's name, here); {type} stands for the type",
    )
    convert.add_argument(
        "-t",
        "--type",
        default="q4_k_m",
        metavar="TYPE",
        help="recipe or block format, or several with commas (default: %(default)s)",
    )
    convert.add_argument(
        "--arch", metavar="NAME", help="set general.architecture and keep tensor names as they are"
    )
    convert.add_argument(
        "--strip-prefix", metavar="PREFIX", help="remove PREFIX from the tensor names that begin with it"
    )
    convert.add_argument(
        "--threads", type=int, metavar="N", help="threads that quantize (default: all processors)"
    )
    convert.add_argument(
        "--memory-limit",
        default="192M",
        metavar="SIZE",
        help="for all buffers together: bytes, or with K, M or G (default: %(default)s)",
    )
    convert.add_argument(
        "--io",
        choices=("mmap", "pread"),
        default="mmap",
        help="how to read; pread survives a source that is truncated meanwhile",
    )
    convert.add_argument(
        "--no-resume", action="store_true", help="forget what an interrupted run left, and start afresh"
    )
    convert.add_argument(
        "--no-integrity",
        action="store_true",
        help="leave out the keys by which the file can prove itself (length, digests, recipe)",
    )
    convert.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    convert.add_argument(
        "--dry-run",
        action="store_true",
        help="print the plan and the final size; read no weights, write nothing",
    )
    convert.add_argument(
        "--explain", action="store_true", help="print for every tensor which rule chose its format"
    )
    convert.add_argument("--json", action="store_true", help="print the report (or the plan) as JSON")
    convert.add_argument("-q", "--quiet", action="store_true", help="no progress and no summary")
    _add_split_options(convert.add_argument_group("several files (as gguf-split makes them)"))
    _add_recipe_options(convert.add_argument_group("what the recipe chooses (as llama-quantize has it)"))
    convert.set_defaults(run=_convert)

    _add_export(
        commands.add_parser(
            "export",
            help="write a GGUF file's weights as safetensors",
            description=_EXPORT,
            formatter_class=raw,
        )
    )

    _add_compare(
        commands.add_parser(
            "compare",
            help="say how far one model's weights are from another's",
            description=_COMPARE,
            formatter_class=raw,
        )
    )

    inspect = commands.add_parser(
        "inspect",
        help="show what a GGUF file holds",
        description="Show the metadata and the tensor table of a GGUF file. Only the header is read, and checked; long arrays are abridged.",
    )
    inspect.add_argument("file", metavar="FILE", help="a .gguf file")
    inspect.add_argument(
        "--json",
        action="store_true",
        help="print everything as JSON: shapes in NumPy order, offsets in the data section",
    )
    inspect.set_defaults(run=_inspect)

    validate = commands.add_parser(
        "validate",
        help="say whether files can be trusted to be what they claim",
        description=_VALIDATE,
        epilog=_VALIDATE_EPILOG,
        formatter_class=raw,
    )
    validate.add_argument("files", metavar="FILE", nargs="+", help=".gguf or .safetensors files")
    validate.add_argument(
        "--level",
        choices=("structure", "values", "strict"),
        default="structure",
        help="how closely (default: %(default)s)",
    )
    validate.add_argument(
        "--threads", type=int, metavar="N", help="threads that look at values (default: all processors)"
    )
    validate.add_argument(
        "--json",
        action="store_true",
        help="print an object for each file, one on a line: verdict and findings",
    )
    validate.set_defaults(run=_validate)

    edit = commands.add_parser(
        "edit",
        help="change the metadata of a GGUF file",
        description=_EDIT,
        epilog=_EDIT_EPILOG,
        formatter_class=raw,
    )
    edit.add_argument("file", metavar="FILE", help="a .gguf file")
    edit.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=TYPE:VALUE",
        help="set a key, there before or not; may be repeated",
    )
    edit.add_argument(
        "--remove",
        action="append",
        default=[],
        metavar="KEY",
        help="remove a key that is there; may be repeated",
    )
    edit.add_argument("-o", "--output", metavar="OUT", help="write another file (default: replace FILE)")
    edit.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    edit.add_argument(
        "--no-integrity",
        action="store_true",
        help="leave out the keys by which the file can prove itself, and verify nothing",
    )
    edit.add_argument("--threads", type=int, metavar="N", help="threads that copy (default: all processors)")
    edit.add_argument("-q", "--quiet", action="store_true", help="do not show what changed")
    edit.set_defaults(run=_edit)

    inference_cli.add_commands(commands)

    formats = commands.add_parser(
        "formats",
        help="list the block formats",
        description="List the block formats: id, weights and bytes per block, bits per weight, formula.",
    )
    formats.add_argument("--json", action="store_true", help="print them as JSON")
    formats.set_defaults(run=_formats)
    return top


def _add_export(export: argparse.ArgumentParser) -> None:
    export.add_argument("source", metavar="FILE", help="a .gguf file; of several shards, the first")
    export.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        required=True,
        help="a file *.safetensors, or a directory that will have model.safetensors in it",
    )
    export.add_argument(
        "--to",
        choices=("safetensors", "bnb", "safetensors-quantized"),
        default="safetensors",
        help="what is written (default: %(default)s)",
    )
    export.add_argument(
        "--dtype",
        choices=("f32", "f16", "bf16"),
        default="bf16",
        help="of weights that are decoded, now or by bitsandbytes (default: %(default)s)",
    )
    export.add_argument(
        "--threads", type=int, metavar="N", help="threads that decode (default: all processors)"
    )
    export.add_argument(
        "--memory-limit",
        default="192M",
        metavar="SIZE",
        help="for all buffers together: bytes, or with K, M or G (default: %(default)s)",
    )
    export.add_argument(
        "--io",
        choices=("mmap", "pread"),
        default="mmap",
        help="how to read; pread survives a source that is truncated meanwhile",
    )
    export.add_argument(
        "--no-resume", action="store_true", help="forget what an interrupted run left, and start afresh"
    )
    export.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    export.add_argument("--json", action="store_true", help="print the report as JSON")
    export.add_argument("-q", "--quiet", action="store_true", help="no progress and no summary")
    export.set_defaults(run=_export)


def _add_compare(compare: argparse.ArgumentParser) -> None:
    compare.add_argument(
        "a",
        metavar="A",
        help="the model that is taken as the truth: .gguf, .safetensors, *.index.json or a checkpoint directory",
    )
    compare.add_argument("b", metavar="B", help="the other model, in any of these forms")
    compare.add_argument(
        "--threads", type=int, metavar="N", help="threads that compare (default: all processors)"
    )
    compare.add_argument(
        "--io",
        choices=("mmap", "pread"),
        default="mmap",
        help="how to read; pread survives a file that is truncated meanwhile",
    )
    compare.add_argument(
        "--plot",
        metavar="FILE",
        help="also draw bars for each kind of tensor by layer, to FILE.html or FILE.png; replaces the file",
    )
    compare.add_argument("--json", action="store_true", help="print the measures of every tensor as JSON")
    compare.set_defaults(run=_compare)


def _add_split_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--split-max-size",
        metavar="SIZE",
        help="shards whose tensors have at most so many bytes: a number with K, M or G, powers of 1000; a larger tensor gets a shard of its own",
    )
    group.add_argument("--split-max-tensors", type=int, metavar="N", help="shards of at most N tensors")
    group.add_argument(
        "--no-tensor-first-split", action="store_true", help="the first shard has the metadata only"
    )


def _add_recipe_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--pure", action="store_true", help="the recipe's base format for every matrix, no mixture"
    )
    group.add_argument(
        "--tensor-type",
        action="append",
        default=[],
        metavar="REGEX=FORMAT",
        help="this format where REGEX is found in a tensor's name; may be repeated, the first that is found decides (attn_v=q6_k)",
    )
    group.add_argument(
        "--tensor-type-file",
        metavar="FILE",
        help="more of them, separated by white space; they come after those of --tensor-type",
    )
    group.add_argument("--output-tensor-type", metavar="FORMAT", help="for output.weight")
    group.add_argument("--token-embedding-type", metavar="FORMAT", help="for the token embeddings")
    group.add_argument(
        "--leave-output-tensor", action="store_true", help="output.weight stays as it is in the source"
    )
    group.add_argument(
        "--allow-requantize",
        action="store_true",
        help="quantize anew what is quantized already, and lose more",
    )
    group.add_argument(
        "--imatrix",
        metavar="FILE",
        help="how much each column matters, by llama-imatrix (GGUF, or the older .dat)",
    )
    group.add_argument(
        "--override-kv",
        action="append",
        default=[],
        metavar="KEY=TYPE:VALUE",
        help="set a metadata key; TYPE is int, float, bool or str; may be repeated (llama.context_length=int:4096)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code. Errors that are not the package's own are bugs, and show a traceback."""
    arguments = parser().parse_args(argv)
    try:
        with _terminated_as_interrupted():
            status = arguments.run(arguments)
            sys.stdout.flush()
    except GguflowError as error:
        print("gguflow: " + printable(str(error), keep="\n"), file=sys.stderr)
        return int(error.exit_status)
    except KeyboardInterrupt:
        again = (
            "; the same command goes on where this one stopped"
            if arguments.command in ("convert", "export")
            else ""
        )
        print(f"gguflow: interrupted{again}", file=sys.stderr)
        return int(ExitStatus.INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitStatus.OK)
    return int(status or ExitStatus.OK)


def _convert(arguments: argparse.Namespace) -> None:
    from gguflow import conversion, describe

    prepared = conversion.prepare(
        arguments.source,
        arguments.output,
        type=arguments.type,
        architecture=arguments.arch,
        strip_prefix=arguments.strip_prefix,
        options=_recipe_options(arguments),
        imatrix=arguments.imatrix,
        shards=_split(arguments),
        integrity=not arguments.no_integrity,
    )
    plans = [plan for target in prepared.targets for plan in target.plans]
    plan_text = "\n\n".join(describe.plan_text(plan, explain=arguments.explain) for plan in plans)
    for note in filter(None, map(describe.importance_text, plans)):
        print(f"gguflow: {note}", file=sys.stderr)
    if arguments.dry_run:
        if arguments.json:
            _print_json(*map(describe.plan_data, plans))
        else:
            print(plan_text)
        return
    if arguments.explain:
        print(plan_text, file=sys.stderr)
    _run(prepared, arguments)


def _export(arguments: argparse.Namespace) -> None:
    from gguflow import exporting

    _run(
        exporting.prepare(arguments.source, arguments.output, dtype=arguments.dtype, form=arguments.to),
        arguments,
    )


def _compare(arguments: argparse.Namespace) -> None:
    from gguflow import comparison
    from gguflow.comparison import plot, report

    if arguments.plot is not None and not arguments.plot.endswith(plot.WRITERS):
        raise UsageError(
            f"--plot writes HTML or PNG; name a file that ends in .html or .png, not {arguments.plot}"
        )
    found = comparison.compare(arguments.a, arguments.b, threads=arguments.threads, io=arguments.io)
    if arguments.plot is not None:
        plot.write(found, arguments.plot)
    if arguments.json:
        _print_json(report.data(found))
    else:
        print(report.text(found))


def _run(prepared: Prepared, arguments: argparse.Namespace) -> None:
    """Carry out a conversion or an export, and say what it did."""
    from gguflow import conversion, describe, progress

    run = functools.partial(
        conversion.run,
        prepared,
        threads=arguments.threads,
        memory_limit=_size(arguments.memory_limit),
        overwrite=arguments.overwrite,
        resume=not arguments.no_resume,
        io=arguments.io,
    )
    if arguments.quiet:
        reports = run()
    else:
        with progress.shown([plan for target in prepared.targets for plan in target.plans]) as callback:
            reports = run(progress=callback)
        print("\n\n".join(map(describe.report_text, reports)), file=sys.stderr)
    if arguments.json:
        _print_json(
            *(
                {**asdict(report), "output": str(report.output), "files": list(map(str, report.files))}
                for report in reports
            )
        )
    else:
        print(*(file for report in reports for file in report.files), sep="\n")


def _split(arguments: argparse.Namespace) -> Split | None:
    from gguflow.conversion.splitting import Split

    if (
        arguments.split_max_size is None
        and arguments.split_max_tensors is None
        and not arguments.no_tensor_first_split
    ):
        return None
    nbytes = None if arguments.split_max_size is None else _size(arguments.split_max_size, 1000)
    return Split(nbytes, arguments.split_max_tensors, arguments.no_tensor_first_split)


def _recipe_options(arguments: argparse.Namespace) -> Options:
    from gguflow.recipes import Options

    return Options(
        pure=arguments.pure,
        tensor_types=(
            *arguments.tensor_type,
            *(_words(arguments.tensor_type_file) if arguments.tensor_type_file else ()),
        ),
        output_tensor_type=arguments.output_tensor_type,
        token_embedding_type=arguments.token_embedding_type,
        leave_output_tensor=arguments.leave_output_tensor,
        allow_requantize=arguments.allow_requantize,
        override_kv=tuple(arguments.override_kv),
    )


def _inspect(arguments: argparse.Namespace) -> None:
    from gguflow import describe

    header = describe.inspect_file(arguments.file)
    payloads = describe.decoded(arguments.file, header)
    if arguments.json:
        _print_json(describe.header_data(header, payloads))
    else:
        print(describe.header_text(header, arguments.file, payloads))


def _validate(arguments: argparse.Namespace) -> ExitStatus:
    from gguflow.validation.report import report

    worst = ExitStatus.OK
    for file in arguments.files:
        result = report(file, arguments.level, threads=arguments.threads)
        print(json.dumps(result.data()) if arguments.json else printable(result.text(), keep="\n"))
        worst = max(worst, result.exit_status)
    return worst


def _edit(arguments: argparse.Namespace) -> None:
    from gguflow import describe, editing

    edited = editing.edit(
        arguments.file,
        [editing.parse_assignment(text) for text in arguments.set],
        arguments.remove,
        output=arguments.output,
        overwrite=arguments.overwrite,
        integrity=not arguments.no_integrity,
        threads=arguments.threads,
    )
    if not arguments.quiet:
        print(describe.changes_text(edited.changes), file=sys.stderr)
    print(edited.output)


def _formats(arguments: argparse.Namespace) -> None:
    from gguflow import describe

    if arguments.json:
        _print_json(describe.formats_data())
    else:
        print(describe.formats_text())


def _words(path: str) -> list[str]:
    """What white space separates in a text file."""
    from gguflow.platform import storage_errors

    with storage_errors("read", path), open(path, encoding="utf-8") as file:
        try:
            return file.read().split()
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is not UTF-8 text: {error}") from error


def _size(text: str, thousand: int = 1024) -> int:
    """Bytes, from "192M" and the like."""
    match = re.fullmatch(r"(\d+)([KMG]?)", text.strip().upper().removesuffix("IB").removesuffix("B"))
    if match is None:
        raise UsageError(f"{text!r} is no size; write bytes, or a number with K, M or G")
    return int(match[1]) * int(thousand ** " KMG".index(match[2] or " "))


def _print_json(*data: Any) -> None:
    """One result as it is, several as a list."""
    print(json.dumps(data[0] if len(data) == 1 else data, indent=2))


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends a command the way Ctrl-C does: cleaned up."""

    def interrupt(signum: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    try:
        previous = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
