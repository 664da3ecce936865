"""The plan of a conversion: every output tensor with its format, offset and size, before any weight is read.
Pure and printable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from gguflow import blocks, recipes
from gguflow.blocks import BlockFormat
from gguflow.blocks.families import Encoding, as_encoding
from gguflow.container import header, rules, writer
from gguflow.container.header import TensorInfo
from gguflow.container.integrity import (
    HEADER_KEY,
    METHOD_KEY,
    SHARDS_KEY,
    SOURCE_CLASS_KEY,
    completed_header,
    placeholder,
    without_set,
)
from gguflow.container.metadata import Metadata, Value, boolean, f32, string, u32
from gguflow.container.payload_keys import payload_metadata
from gguflow.conversion.imatrix import Imatrix, Importance
from gguflow.conversion.planners import encoding_of, planner_of
from gguflow.errors import InvalidError, UsageError
from gguflow.fidelity.grids import GRIDS
from gguflow.models.base import Model, ModelTensor

METHODS = ("ggml", "search")
"""How the scales and codes of blocks are chosen: as ggml's encoder does, to the byte; or by a search that
leaves smaller errors at the same size (`fidelity.search`), in the formats that it covers.
"""


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the output.

    tensor: the tensor of the model.
    format: a block format, or an encoding, whose payload is stored as an I8 tensor.
    offset: bytes from the start of the data section; at most this if an encoding before it has a size that
        depends on the data.
    nbytes: bytes of its blocks or its payload, without the padding after them; the most that it can take if
        the encoding's size depends on the data.
    rule: why it has this format.
    alignment: of the data section, in bytes.
    importance: for the encoder, if the format uses it and the imatrix has an entry.
    needs_importance: whether the result is useless without importance.
    method: one of METHODS: how its blocks are made, if its weights are encoded.
    """

    tensor: ModelTensor
    format: recipes.Format
    offset: int
    nbytes: int
    rule: str
    alignment: int
    importance: Importance | None = field(default=None, repr=False, compare=False)
    needs_importance: bool = False
    method: str = "ggml"

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def padding(self) -> int:
        """Number of zero bytes after the blocks."""
        return -self.nbytes % self.alignment

    @property
    def shape(self) -> tuple[int, ...]:
        """In NumPy order."""
        return self.tensor.shape

    @property
    def encoding(self) -> Encoding | None:
        """The encoding of a payload; None if the format is a block format."""
        return as_encoding(self.format)

    @property
    def blocks(self) -> BlockFormat:
        """The block format that a reader finds: I8 for a payload."""
        return self.format if isinstance(self.format, BlockFormat) else blocks.FORMATS["i8"]

    @property
    def is_bound(self) -> bool:
        """Whether nbytes is only the most that the tensor can take."""
        return self.encoding is not None and not self.encoding.is_fixed_size

    @property
    def info(self) -> TensorInfo:
        """Its entry in the tensor table."""
        dims = (self.nbytes,) if self.encoding is not None else self.tensor.stored_shape[::-1]
        return TensorInfo(self.name, dims, self.blocks.id, self.offset)

    @property
    def is_encoded(self) -> bool:
        """Whether its weights are encoded, instead of copied as they are in the source."""
        return _is_encoded(self.tensor, self.format)


@dataclass(frozen=True)
class Plan:
    """An output file, of which every byte is known except weights and their digests.

    architecture: value of `general.architecture` in the model.
    recipe: name of the recipe.
    metadata: keys and values of the file.
    tensors: the planned tensors, in the order of the file.
    infos: their entries in the tensor table.
    alignment: of the data section, in bytes.
    header: the first data_offset bytes of the file, with zeros in place of the digests.
    nbytes: size of the whole file.
    imatrix_digest: digest of the file with the importance, or "" if none is given; what decides the weights
        in addition to the header.
    first_tensor: of a shard, the number of tensors in the shards before it.
    method: one of METHODS: what was asked for; some tensors may not have it.
    """

    architecture: str
    recipe: str
    metadata: Metadata
    tensors: tuple[PlannedTensor, ...]
    infos: tuple[TensorInfo, ...]
    alignment: int
    header: bytes
    nbytes: int
    imatrix_digest: str = ""
    first_tensor: int = 0
    method: str = "ggml"

    @property
    def without_search(self) -> list[PlannedTensor]:
        """The tensors that are encoded by ggml's encoder, though a search was asked for."""
        return [
            p
            for p in self.tensors
            if self.method == "search"
            and p.method != "search"
            and p.is_encoded
            and p.encoding is None
            and p.format.is_quantized
        ]

    @property
    def has_imatrix(self) -> bool:
        return self.imatrix_digest != ""

    @property
    def without_importance(self) -> list[PlannedTensor]:
        """The encoded tensors without importance, though an imatrix is given and their format uses it."""
        return [
            p
            for p in self.tensors
            if self.has_imatrix and p.is_encoded and p.format.importance != "unused" and p.importance is None
        ]

    def check_importance(self) -> None:
        """Check that no tensor needs importance and has none.

        Raises UsageError for the first one that does.
        """
        for planned in self.tensors:
            if planned.needs_importance and planned.is_encoded and planned.importance is None:
                why = (
                    "the imatrix has no entry for it"
                    if self.has_imatrix
                    else "pass --imatrix FILE (llama-imatrix makes one)"
                )
                raise UsageError(
                    f"{planned.name}: {planned.format} needs an importance matrix ({planned.rule}); {why}"
                )

    @property
    def data_offset(self) -> int:
        return len(self.header)

    def completed_header(self, digests: Sequence[bytes], shards_id: str = "") -> bytes:
        """The header with the digests of the tensors; as planned if the plan has no integrity keys.

        digests: of the tensors, in order.
        shards_id: the id that all shards of the output have in common; used only if the plan has its key.
        """
        if HEADER_KEY not in self.metadata:
            return self.header
        metadata = (
            self.metadata | {SHARDS_KEY: string(shards_id)} if SHARDS_KEY in self.metadata else self.metadata
        )
        return completed_header(metadata, self.infos, self.alignment, self.nbytes, digests)

    @property
    def has_payloads(self) -> bool:
        """Whether some tensor is a payload."""
        return any(planned.encoding is not None for planned in self.tensors)

    @property
    def is_bound(self) -> bool:
        """Whether the size is only the most that the file can take."""
        return any(planned.is_bound for planned in self.tensors)

    def with_places(self, places: Sequence[tuple[int, int]]) -> Plan:
        """The plan with the final place of every tensor.

        places: offset (from the start of the data section) and size of each tensor, in bytes.
        """
        placed = [
            replace(planned, offset=offset, nbytes=nbytes)
            for planned, (offset, nbytes) in zip(self.tensors, places, strict=True)
        ]
        return plan_file(
            self.architecture,
            self.recipe,
            self.metadata,
            placed,
            self.imatrix_digest,
            self.first_tensor,
            self.method,
        )

    @property
    def n_weights(self) -> int:
        return sum(planned.tensor.n_weights for planned in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        return 8 * sum(planned.nbytes for planned in self.tensors) / max(self.n_weights, 1)


def make(
    model: Model,
    recipe: recipes.Recipe,
    options: recipes.Options | None = None,
    imatrix: Imatrix | None = None,
    *,
    integrity: bool = True,
    sources: Sequence[tuple[str, str]] = (),
    method: str = "ggml",
) -> Plan:
    """Plan the conversion of a model by a recipe.

    model: the model.
    recipe: chooses the format of each tensor.
    options: changes to what the recipe chooses, and to metadata.
    imatrix: the importance of columns.
    integrity: whether the file carries the keys with which it can be verified.
    sources: name and header digest of each source file, for these keys.
    method: one of METHODS.

    Raises InvalidError if the result would break a rule of the container (a name too long, a name twice), or
    if the imatrix is of another model; UsageError if an option demands something impossible.
    """
    options = options or recipes.Options()
    payloads: dict[str, str] = {}
    if recipe.is_copy:
        payloads = {
            t.name: t.sources[0].encoding.name
            for t in model.tensors
            if t.sources and t.sources[0].encoding and not t.sources[0].is_in_parts
        }
        model = replace(model, tensors=tuple(_as_stored(tensor) for tensor in model.tensors))
    tensors = sorted(model.tensors, key=lambda tensor: recipes.processing_order(tensor.name))
    facts = _model_facts(model, options, imatrix)
    chosen = recipes.choose(recipe, [_tensor_facts(tensor, model) for tensor in tensors], facts, options)
    chosen = {tensor.name: _keep_codes(tensor, chosen[tensor.name], recipe) for tensor in tensors}
    metadata = without_set(model.metadata)
    if not (recipe.is_copy and model.is_final):
        metadata["general.file_type"] = u32(recipe.file_type)
        metadata["general.quantization_version"] = u32(blocks.QUANTIZATION_VERSION)
    metadata |= {key: _value(value) for key, value in options.overrides.items()}
    if imatrix is not None:
        imatrix.check_is_for({tensor.name for tensor in tensors})
        metadata |= imatrix.provenance()
    if integrity:
        metadata |= placeholder(len(tensors), recipe.name, recipes.VERSION, sources)
        metadata.pop(SOURCE_CLASS_KEY, None)
        if method != "ggml":
            metadata[METHOD_KEY] = string(method)
        if model.source_class:
            metadata[SOURCE_CLASS_KEY] = string(model.source_class)
    payloads |= {
        name: encoding.name
        for name, choice in chosen.items()
        if (encoding := as_encoding(choice.format)) is not None
    }
    metadata |= payload_metadata(payloads)
    placed = _placed(tensors, chosen, imatrix, header.declared_alignment(metadata), method)
    if method == "search" and not any(planned.method == "search" for planned in placed):
        raise UsageError(
            f"--method search finds better scales for tensors that are quantized to "
            f"{', '.join(key.upper() for key in GRIDS)}; with {recipe.name} it would have no effect"
        )
    digest = imatrix.digest if imatrix else ""
    return plan_file(model.architecture, recipe.name, metadata, placed, digest, method=method)


def plan_file(
    architecture: str,
    recipe: str,
    metadata: Metadata,
    placed: Sequence[PlannedTensor],
    imatrix_digest: str,
    first_tensor: int = 0,
    method: str = "ggml",
) -> Plan:
    """The plan of one file.

    architecture: as in `Plan`.
    recipe: as in `Plan`.
    metadata: as in `Plan`.
    placed: the tensors of the file, with their offsets.
    imatrix_digest: as in `Plan`.
    first_tensor: as in `Plan`.
    method: as in `Plan`.

    Raises InvalidError if the file would break a rule of the container.
    """
    alignment = header.declared_alignment(metadata)
    infos = tuple(planned.info for planned in placed)
    built = writer.build(metadata, infos, alignment)
    for finding in rules.judge(
        header.Header(header.VERSION, metadata, infos, alignment, len(built)), blocks.block_sizes, None
    ):
        if finding.severity == "error":
            raise InvalidError("the output", finding)
    end = placed[-1].offset + placed[-1].nbytes + placed[-1].padding if placed else 0
    return Plan(
        architecture,
        recipe,
        metadata,
        tuple(placed),
        infos,
        alignment,
        built,
        len(built) + end,
        imatrix_digest,
        first_tensor,
        method,
    )


def _model_facts(model: Model, options: recipes.Options, imatrix: Imatrix | None) -> recipes.ModelFacts:
    """What rules ask about the model, as the overridden metadata has it."""

    def fact(key: str, own: int) -> int:
        value = options.overrides.get(f"{model.architecture}.{key}")
        return value if type(value) is int else own

    return recipes.ModelFacts(
        model.architecture,
        fact("block_count", model.n_layers),
        fact("attention.head_count", model.n_heads),
        fact("attention.head_count_kv", model.n_kv_heads),
        fact("expert_count", model.n_experts),
        has_importance=imatrix is not None,
    )


def _value(value: int | float | bool | str) -> Value:
    """An overriding value, of the type that llama-quantize gives it."""
    if isinstance(value, bool):
        return boolean(value)
    if isinstance(value, str):
        return string(value)
    return u32(value) if isinstance(value, int) else f32(value)


def _tensor_facts(tensor: ModelTensor, model: Model) -> recipes.TensorFacts:
    source_format = tensor.source_format or blocks.FORMATS["f32"]
    is_lossy = any(source.is_lossy for source in tensor.sources)
    given = encoding_of(tensor)
    keeps = None if given is None else partial(planner_of(given).keeps, given=given)
    return recipes.TensorFacts(tensor.name, tensor.shape, source_format, model.is_final, is_lossy, keeps)


def _keep_codes(tensor: ModelTensor, choice: recipes.Choice, recipe: recipes.Recipe) -> recipes.Choice:
    """The choice, or the encoding in which the codes that the source has can be kept."""
    given = encoding_of(tensor)
    wanted = given if recipe.is_copy else as_encoding(choice.format)
    if given is None or wanted is None:
        return choice
    found = planner_of(given).exact(tensor, wanted)
    if found is None:
        return choice
    torn = "" if found == wanted else "; scales made whole, as rows move between super-blocks"
    return replace(choice, format=found, rule=f"{choice.rule}; codes and scales as in the source{torn}")


def _placed(
    tensors: Sequence[ModelTensor],
    chosen: Mapping[str, recipes.Choice],
    imatrix: Imatrix | None,
    alignment: int,
    method: str,
) -> list[PlannedTensor]:
    """Each tensor behind the one before it, aligned."""
    placed = []
    offset = 0
    for tensor in tensors:
        choice = chosen[tensor.name]
        nbytes = _nbytes(tensor, choice.format)
        importance = (
            imatrix.find(tensor.name, tensor.shape)
            if imatrix is not None and choice.format.is_quantized
            else None
        )
        takes_it = choice.format.importance != "unused"
        rule = (
            f"{choice.rule}; no entry in the imatrix"
            if imatrix is not None and takes_it and importance is None
            else choice.rule
        )
        used = importance if takes_it else None
        own_method = (
            method if _is_searchable(choice.format) and _is_encoded(tensor, choice.format) else "ggml"
        )
        if own_method == "search":
            rule += "; scales by search"
        if imatrix is not None and used is not None and _is_encoded(tensor, choice.format):
            is_payload = not isinstance(choice.format, BlockFormat)
            imatrix.check_usable(tensor.name, used, tensor.shape[-1], zeros=is_payload)
        placed.append(
            PlannedTensor(
                *(tensor, choice.format, offset, nbytes, rule, alignment, used),
                needs_importance=choice.needs_importance,
                method=own_method,
            )
        )
        offset = header.align(offset + nbytes, alignment)
    return placed


def _is_searchable(chosen: recipes.Format) -> bool:
    return isinstance(chosen, BlockFormat) and chosen.key in GRIDS and chosen.importance != "required"


def _is_encoded(tensor: ModelTensor, chosen: recipes.Format) -> bool:
    return tensor.source is None or tensor.source_format is not chosen


def _as_stored(tensor: ModelTensor) -> ModelTensor:
    """A payload as the I8 tensor that it is in its file."""
    sources = tuple(source if source.is_in_parts else source.as_stored() for source in tensor.sources)
    return tensor if sources == tensor.sources else replace(tensor, shape=sources[0].shape, sources=sources)


def _nbytes(tensor: ModelTensor, chosen: recipes.Format) -> int:
    """Bytes of the tensor's blocks, or the most that its payload can take.

    Raises UsageError if the encoding cannot hold the tensor.
    """
    if not isinstance(chosen, BlockFormat):
        return planner_of(chosen).payload_nbytes(chosen, tensor)
    row = tensor.shape[-1] if tensor.shape else 1
    return tensor.n_weights // row * chosen.row_bytes(row) if row else 0
