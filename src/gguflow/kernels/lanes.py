"""SIMD lanes inside Numba: vectors of 16 float32 or 16 int32 as Numba types.

Why: ggml's encoders are loops whose every step depends on the step before (a search over trial scales, sums
in a stated order), so a compiler cannot vectorize them, and changing the order of a sum changes the bytes.
But the sub-blocks of a tensor are independent of each other. Put one sub-block into each lane, run the scalar
program once on vectors, and 16 sub-blocks advance together while every one of them sees exactly the scalar
sequence of binary32 operations. Same bytes, many times the speed.

Each function below becomes a few LLVM instructions on ``<16 x float>`` or ``<16 x i32>``; LLVM splits them
into what the processor has (one AVX-512 register, two of AVX2, four of SSE or NEON). No instruction carries a
fast-math or contraction flag.

A kernel is written as its scalar original would be, with these differences:

- `if` on a lane's value becomes ``where(mask, a, b)``; comparisons give masks, combined with ``& | ~``; NaN
  compares false (except ``!=``).
- scalars widen by themselves: ``v * f32(2)``, ``q & 15``.
- memory is read with ``load(array, i)`` and written with ``store(array, i, v)``: 16 consecutive elements from
  flat element i, any alignment, no bounds check (the caller has proved the size).
- int32 lanes wrap; ``>>`` shifts in zeros (codes are unsigned bit fields; there is `shift_right_signed` for
  the other).

"Transpose" is what brings sub-blocks into lanes: `transpose16` turns 16 runs of 16 weights into 16 vectors,
one weight of each run per lane.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_builtin, lower_cast
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

LANES = 16

_I1, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
_F32 = ir.FloatType()


def _vector(element: ir.Type) -> ir.VectorType:
    return ir.VectorType(element, LANES)


class LaneType(types.Type):  # type: ignore[misc]
    """A value in each of 16 lanes. `element` is the LLVM type of one lane."""

    def __init__(self, name: str, element: ir.Type) -> None:
        super().__init__(name=name)
        self.element = element


class FloatLanes(LaneType):
    def __init__(self) -> None:
        super().__init__("f32x16", _F32)


class IntLanes(LaneType):
    def __init__(self) -> None:
        super().__init__("i32x16", _I32)


class MaskLanes(LaneType):
    def __init__(self) -> None:
        super().__init__("mask16", _I1)


f32x16, i32x16, mask16 = FloatLanes(), IntLanes(), MaskLanes()


@register_model(FloatLanes)
@register_model(IntLanes)
@register_model(MaskLanes)
class _LaneModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: LaneType) -> None:
        super().__init__(dmm, fe_type, _vector(fe_type.element))


def _has_feature(context: Any, name: str) -> bool:
    """Whether the processor that is compiled for has a feature, by LLVM's name."""
    _, _, features = context.codegen().magic_tuple()
    return f"+{name}" in features.split(",")


# --- scalars into lanes


def _constant(element: ir.Type, values: Any) -> ir.Constant:
    return ir.Constant(_vector(element), values if isinstance(values, list) else [values] * LANES)


def _splat(builder: Any, value: Any) -> Any:
    undefined = ir.Constant(_vector(value.type), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, undefined, _constant(_I32, 0))


def _as_lanes(context: Any, builder: Any, kind: LaneType, from_type: Any, value: Any) -> Any:
    """The LLVM value as lanes of `kind`: itself, or a scalar widened."""
    if isinstance(from_type, LaneType):
        return value
    scalar = types.float32 if kind is f32x16 else types.int32
    return _splat(builder, context.cast(builder, value, from_type, scalar))


def _is_scalar_for(kind: LaneType, numba_type: Any) -> bool:
    if kind is f32x16:  # float32 only: a stray float64 literal must not pass unseen
        return bool(numba_type == types.float32)
    return kind is i32x16 and isinstance(numba_type, types.Integer)


def _common_kind(x: Any, y: Any) -> LaneType | None:
    """The lanes that x and y widen to, or None where they do not mix."""
    for kind in (f32x16, i32x16, mask16):
        fits = [t is kind or t == kind or _is_scalar_for(kind, t) for t in (x, y)]
        if all(fits) and kind in (x, y):
            return kind
    return None


# --- operators


def _binary(op: Any, emitters: dict[LaneType, Callable[..., Any]], result: LaneType | None = None) -> None:
    """Register `op` for the kinds of lanes in `emitters`, scalars widened on either side. result: a fixed
    kind (comparisons), else the operands'.
    """

    @infer_global(op)
    class _Template(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) == 2:
                kind = _common_kind(*args)
                if kind in emitters:
                    return signature(result or kind, *args)
            return None

    for kind, emit in emitters.items():

        def lower(
            context: Any, builder: Any, sig: Any, args: Any, kind: LaneType = kind, emit: Any = emit
        ) -> Any:
            return emit(
                builder,
                *(_as_lanes(context, builder, kind, t, v) for t, v in zip(sig.args, args, strict=True)),
            )

        scalar = types.float32 if kind is f32x16 else types.Integer
        lower_builtin(op, kind, kind)(lower)
        if kind is not mask16:
            lower_builtin(op, kind, scalar)(lower)
            lower_builtin(op, scalar, kind)(lower)


def _method(name: str) -> Callable[..., Any]:
    return lambda builder, x, y: getattr(builder, name)(x, y)


for _op, _float, _int in (
    (operator.add, "fadd", "add"),
    (operator.sub, "fsub", "sub"),
    (operator.mul, "fmul", "mul"),
):
    _binary(_op, {f32x16: _method(_float), i32x16: _method(_int)})
_binary(operator.truediv, {f32x16: _method("fdiv")})
_binary(operator.lshift, {i32x16: _method("shl")})
_binary(operator.rshift, {i32x16: _method("lshr")})
for _op, _name in ((operator.and_, "and_"), (operator.or_, "or_"), (operator.xor, "xor")):
    _binary(_op, {i32x16: _method(_name), mask16: _method(_name)})


def _comparison(sign: str) -> dict[LaneType, Callable[..., Any]]:
    compare_floats = "fcmp_unordered" if sign == "!=" else "fcmp_ordered"
    return {
        f32x16: lambda builder, x, y: getattr(builder, compare_floats)(sign, x, y),
        i32x16: lambda builder, x, y: builder.icmp_signed(sign, x, y),
    }


for _op, _sign in (
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.gt, ">"),
    (operator.ge, ">="),
    (operator.eq, "=="),
    (operator.ne, "!="),
):
    _binary(_op, _comparison(_sign), result=mask16)


def _unary(op: Any, kind: LaneType, emit: Callable[..., Any]) -> None:
    @infer_global(op)
    class _Template(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: Any, kws: Any) -> Any:
            return signature(kind, kind) if tuple(args) == (kind,) else None

    lower_builtin(op, kind)(lambda context, builder, sig, args: emit(builder, args[0]))


_unary(operator.invert, mask16, lambda builder, x: builder.not_(x))
_unary(operator.invert, i32x16, lambda builder, x: builder.not_(x))
_unary(operator.neg, f32x16, lambda builder, x: builder.fneg(x))
_unary(operator.neg, i32x16, lambda builder, x: builder.neg(x))


@lower_cast(types.float32, f32x16)  # type: ignore[untyped-decorator]
@lower_cast(types.Integer, i32x16)  # type: ignore[untyped-decorator]
def _widen_scalar(context: Any, builder: Any, from_type: Any, to_type: Any, value: Any) -> Any:
    return _as_lanes(context, builder, to_type, from_type, value)


# --- per lane functions


@intrinsic  # type: ignore[untyped-decorator]
def where(_: Any, mask: Any, x: Any, y: Any) -> Any:
    """Per lane: x where the mask is set, else y."""
    kind = _common_kind(x, y)
    if mask != mask16 or kind is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, b = (_as_lanes(context, builder, kind, t, v) for t, v in zip(sig.args[1:], args[1:], strict=True))
        return builder.select(args[0], a, b)

    return kind(mask, x, y), codegen


def _llvm_unary(name: str, doc: str) -> Any:
    """An LLVM intrinsic on float lanes and on a float32 scalar alike."""

    @intrinsic  # type: ignore[untyped-decorator]
    def function(_: Any, x: Any) -> Any:
        if x != f32x16 and x != types.float32:
            return None
        kind, suffix = (_vector(_F32), f"v{LANES}f32") if x == f32x16 else (_F32, "f32")

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            callee = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(kind, [kind]), f"llvm.{name}.{suffix}"
            )
            return builder.call(callee, args)

        return x(x), codegen

    function.__doc__ = doc
    return function


vabs = _llvm_unary("fabs", "Absolute value.")
vsqrt = _llvm_unary("sqrt", "Square root, correctly rounded.")


def _conversion(name: str, pairs: dict[Any, Any], emit: Callable[..., Any], doc: str) -> Any:
    """An intrinsic with one argument: `pairs` maps the argument's type to the result's; emit(builder, value,
    llvm result type).
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def function(_: Any, x: Any) -> Any:
        if x not in pairs:
            return None

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return emit(builder, args[0], context.get_value_type(sig.return_type))

        return pairs[x](x), codegen

    function.__doc__ = doc
    return function


to_float = _conversion(
    "to_float", {i32x16: f32x16}, lambda b, x, t: b.sitofp(x, t), "int32 to float32, nearest even."
)
to_int = _conversion(
    "to_int",
    {f32x16: i32x16},
    lambda b, x, t: b.fptosi(x, t),
    "float32 to int32, toward zero. The caller has proved that the value fits: else the result is undefined.",
)
float_bits = _conversion(
    "float_bits",
    {f32x16: i32x16, types.float32: types.int32},
    lambda b, x, t: b.bitcast(x, t),
    "The bits of a binary32, as an int32.",
)


@intrinsic  # type: ignore[untyped-decorator]
def bits_float(_: Any, bits: Any) -> Any:
    """The binary32 with these bits: of int32 lanes, or of the low 32 bits of an integer."""
    if bits != i32x16 and not isinstance(bits, types.Integer):
        return None
    result = f32x16 if bits == i32x16 else types.float32

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        word = args[0] if bits == i32x16 else context.cast(builder, args[0], sig.args[0], types.int32)
        return builder.bitcast(word, context.get_value_type(result))

    return result(bits), codegen


@intrinsic  # type: ignore[untyped-decorator]
def has_half_conversion(_: Any) -> Any:
    """Whether the processor converts binary16 itself: a constant, so that the branch that is not taken is
    never compiled.
    """
    return types.boolean(), lambda context, builder, sig, args: ir.Constant(
        _I1, int(_has_feature(context, "f16c"))
    )


@intrinsic  # type: ignore[untyped-decorator]
def has_wide_registers(_: Any) -> Any:
    """Whether a register holds all 16 lanes, and there are 32 of them: a constant, as has_half_conversion. It
    says how much can be held at a time.
    """
    return types.boolean(), lambda context, builder, sig, args: ir.Constant(
        _I1, int(_has_feature(context, "avx512f"))
    )


@intrinsic  # type: ignore[untyped-decorator]
def extend_half(_: Any, bits: Any) -> Any:
    """The binary16 in the low 16 bits as a binary32, exact, on int32 lanes or an integer. Only where
    `has_half_conversion`; undefined elsewhere.
    """
    if bits != i32x16 and not isinstance(bits, types.Integer):
        return None
    result, element = (f32x16, ir.VectorType(_I16, LANES)) if bits == i32x16 else (types.float32, _I16)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        wide = context.get_value_type(result)
        if not _has_feature(context, "f16c"):
            return ir.Constant(wide, ir.Undefined)
        half = ir.VectorType(ir.HalfType(), LANES) if bits == i32x16 else ir.HalfType()
        return builder.fpext(builder.bitcast(builder.trunc(args[0], element), half), wide)

    return result(bits), codegen


@intrinsic  # type: ignore[untyped-decorator]
def bytes_of_words(_: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """The bytes of four 32-bit words, lowest first, as 16 lanes of 0 to 255."""
    if not all(isinstance(word, types.Integer) for word in (a, b, c, d)):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        words = ir.Constant(ir.VectorType(_I32, 4), ir.Undefined)
        for i, (kind, word) in enumerate(zip(sig.args, args, strict=True)):
            words = builder.insert_element(
                words, context.cast(builder, word, kind, types.int32), ir.Constant(_I32, i)
            )
        return _zext(builder, builder.bitcast(words, _vector(_I8)))

    return i32x16(a, b, c, d), codegen


@intrinsic  # type: ignore[untyped-decorator]
def shift_right_signed(_: Any, x: Any, n: Any) -> Any:
    """x >> n with the sign bit shifted in."""
    if x != i32x16 or not isinstance(n, types.Integer):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.ashr(args[0], _as_lanes(context, builder, i32x16, sig.args[1], args[1]))

    return i32x16(x, n), codegen


@intrinsic  # type: ignore[untyped-decorator]
def splat(_: Any, x: Any) -> Any:
    """The scalar in every lane: float32 -> float lanes, an integer -> int32 lanes."""
    kind = f32x16 if x == types.float32 else i32x16 if isinstance(x, types.Integer) else None
    if kind is None:
        return None
    return kind(x), lambda context, builder, sig, args: _as_lanes(
        context, builder, kind, sig.args[0], args[0]
    )


@intrinsic  # type: ignore[untyped-decorator]
def lane_numbers(_: Any) -> Any:
    """0, 1, ... 15."""
    return i32x16(), lambda context, builder, sig, args: _constant(_I32, list(range(LANES)))


@intrinsic  # type: ignore[untyped-decorator]
def lane(_: Any, v: Any, i: Any) -> Any:
    """The scalar in lane i (0 to 15, not checked)."""
    scalar = {f32x16: types.float32, i32x16: types.int32}.get(v)
    if scalar is None or not isinstance(i, types.Integer):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.extract_element(args[0], context.cast(builder, args[1], sig.args[1], types.int32))

    return scalar(v, i), codegen


# --- across lanes


def _reduction(emit: Callable[..., Any], doc: str) -> Any:
    """Fold 16 lanes into one by halves: 8 onto 8, 4 onto 4, 2 onto 2, 1 onto 1."""

    @intrinsic  # type: ignore[untyped-decorator]
    def function(_: Any, v: Any) -> Any:
        scalar = {f32x16: types.float32, i32x16: types.int32}.get(v)
        if scalar is None:
            return None

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            value = args[0]
            undefined = ir.Constant(value.type, ir.Undefined)
            for half in (8, 4, 2, 1):
                moved = builder.shuffle_vector(
                    value, undefined, _constant(_I32, [(i + half) % LANES for i in range(LANES)])
                )
                value = emit(builder, value, moved)
            return builder.extract_element(value, ir.Constant(_I32, 0))

        return scalar(v), codegen

    function.__doc__ = doc
    return function


def _select(sign: str) -> Callable[..., Any]:
    def emit(builder: Any, x: Any, y: Any) -> Any:
        is_float = x.type.element == _F32
        chosen = builder.fcmp_ordered(sign, x, y) if is_float else builder.icmp_signed(sign, x, y)
        return builder.select(chosen, x, y)

    return emit


largest = _reduction(_select(">"), "The largest of the lanes (no NaN among them).")
smallest = _reduction(_select("<"), "The smallest of the lanes (no NaN among them).")
sum_by_halves = _reduction(
    lambda builder, x, y: builder.fadd(x, y) if x.type.element == _F32 else builder.add(x, y),
    """The sum of the lanes in one order: lane i and i + 8 first, then i + 4, i + 2, i + 1.

    For sums whose order is ours to choose.
    """,
)


@intrinsic  # type: ignore[untyped-decorator]
def total(_: Any, v: Any) -> Any:
    """The sum of int32 lanes. That of floats depends on the order: see `sum_by_halves`."""
    if v != i32x16:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        name = f"llvm.vector.reduce.add.v{LANES}i32"
        callee = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_I32, [_vector(_I32)]), name)
        return builder.call(callee, args)

    return types.int32(v), codegen


@intrinsic  # type: ignore[untyped-decorator]
def mask_bits(_: Any, mask: Any) -> Any:
    """Lane i of the mask as bit i: 0 to 65535. Zero means: none is set."""
    if mask != mask16:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.zext(builder.bitcast(args[0], _I16), _I32)

    return types.int32(mask), codegen


@intrinsic  # type: ignore[untyped-decorator]
def lowest_bit(_: Any, bits: Any) -> Any:
    """The number of the lowest set bit of an int32; 32 for zero."""
    if bits != types.int32:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        callee = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_I32, [_I32, _I1]), "llvm.cttz.i32"
        )
        return builder.call(callee, [args[0], ir.Constant(_I1, 0)])

    return types.int32(bits), codegen


@intrinsic  # type: ignore[untyped-decorator]
def dot4(_: Any, start: Any, unsigned: Any, signed: Any) -> Any:
    """Per lane: start + the sum of four products, of the bytes of `unsigned` (0 to 255) and of `signed` (-128
    to 127). Exact; int32 lanes all.

    One instruction where the processor has VNNI. Elsewhere the even and the odd bytes are multiplied as
    16-bit numbers, which hold any one product.
    """
    if not start == unsigned == signed == i32x16:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        total, a, b = args
        words = _vector(_I32)
        if _has_feature(context, "avx512vnni"):
            callee = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(words, [words] * 3), "llvm.x86.avx512.vpdpbusd.512"
            )
            return builder.call(callee, args)
        halves = ir.VectorType(_I16, 2 * LANES)
        eight, low_bytes = (ir.Constant(halves, [n] * 2 * LANES) for n in (8, 255))
        a, b = builder.bitcast(a, halves), builder.bitcast(b, halves)
        even = builder.mul(builder.and_(a, low_bytes), builder.ashr(builder.shl(b, eight), eight))
        odd = builder.mul(builder.lshr(a, eight), builder.ashr(b, eight))
        sixteen = _constant(_I32, 16)
        for products in (builder.bitcast(even, words), builder.bitcast(odd, words)):
            total = builder.add(total, builder.ashr(builder.shl(products, sixteen), sixteen))
            total = builder.add(total, builder.ashr(products, sixteen))
        return total

    return i32x16(start, unsigned, signed), codegen


def _mixed(lanes: list[int], doc: str) -> Any:
    """An intrinsic (a, b) whose lane k is lane lanes[k] of a followed by b (0 to 31)."""

    @intrinsic  # type: ignore[untyped-decorator]
    def function(_: Any, a: Any, b: Any) -> Any:
        if a != b or a not in (f32x16, i32x16):
            return None
        return a(a, b), lambda context, builder, sig, args: builder.shuffle_vector(
            *args, _constant(_I32, lanes)
        )

    function.__doc__ = doc
    return function


def _halves(first: int) -> list[int]:
    return [*range(first, first + 8), *range(LANES + first, LANES + first + 8)]


def _in_turn(first: int) -> list[int]:
    return [lane_number for k in range(first, first + 8) for lane_number in (k, LANES + k)]


join_low = _mixed(_halves(0), "Lanes 0 to 7 of a, then lanes 0 to 7 of b.")
join_high = _mixed(_halves(8), "Lanes 8 to 15 of a, then lanes 8 to 15 of b.")
even_lanes = _mixed(list(range(0, 32, 2)), "Every second lane of a, then of b, from lane 0 on.")
odd_lanes = _mixed(list(range(1, 32, 2)), "Every second lane of a, then of b, from lane 1 on.")
interleave_low = _mixed(_in_turn(0), "Lanes 0 to 7 of a and b in turn: a0, b0, a1, b1, ...")
interleave_high = _mixed(_in_turn(8), "Lanes 8 to 15 of a and b in turn.")


# --- memory


def _address(context: Any, builder: Any, array_type: Any, array: Any, index_type: Any, index: Any) -> Any:
    """Pointer to flat element `index` of a C-contiguous array of any rank."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [context.cast(builder, index, index_type, types.intp)])


def _is_array(array: Any, index: Any, *dtypes: Any) -> bool:
    return (
        isinstance(array, types.Array)
        and array.layout == "C"
        and array.dtype in dtypes
        and isinstance(index, types.Integer)
    )


@intrinsic  # type: ignore[untyped-decorator]
def unowned(_: Any, array: Any) -> Any:
    """The same array without a share in its ownership: kernels that pass it on to one another do not count
    references.

    Counting costs two atomic operations for every array of every call, and threads that share an array wait
    for each other. Only for an array that the Python caller of the kernel holds: a local one would be freed.
    """
    if not isinstance(array, types.Array):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        view = context.make_array(sig.args[0])(context, builder, args[0])
        view.meminfo = ir.Constant(view.meminfo.type, None)
        view.parent = ir.Constant(view.parent.type, None)
        return view._getvalue()

    return array(array), codegen


def _load_lanes(
    element: ir.Type, dtype: Any, kind: LaneType, widen: Callable[..., Any] | None, doc: str
) -> Any:
    """An intrinsic (array, i) that reads 16 values of LLVM type `element` at flat index i, byte-aligned, and
    widens them to lanes.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def function(_: Any, array: Any, index: Any) -> Any:
        if not _is_array(array, index, dtype):
            return None

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            address = _address(context, builder, sig.args[0], args[0], sig.args[1], args[1])
            value = builder.load(builder.bitcast(address, _vector(element).as_pointer()))
            value.align = 1
            return value if widen is None else widen(builder, value)

        return kind(array, index), codegen

    function.__doc__ = doc
    return function


def _zext(builder: Any, value: Any) -> Any:
    return builder.zext(value, _vector(_I32))


def _sext(builder: Any, value: Any) -> Any:
    return builder.sext(value, _vector(_I32))


load = _load_lanes(_F32, types.float32, f32x16, None, "16 floats from flat element i of a float32 array.")
load_i32 = _load_lanes(_I32, types.int32, i32x16, None, "16 integers from flat element i of an int32 array.")
load_u8 = _load_lanes(_I8, types.uint8, i32x16, _zext, "16 bytes from byte i of a uint8 array, as 0 to 255.")
load_i8 = _load_lanes(
    _I8, types.uint8, i32x16, _sext, "16 bytes from byte i of a uint8 array, as -128 to 127."
)
load_u16 = _load_lanes(
    _I16, types.uint8, i32x16, _zext, "16 little-endian uint16 from byte i of a uint8 array."
)
load_u32 = _load_lanes(
    _I32, types.uint8, i32x16, None, "16 little-endian 32-bit words from byte i of a uint8 array."
)


def _load_scalar(element: ir.Type, result: Any, doc: str) -> Any:
    """An intrinsic (array, i) that reads one little-endian number at byte i of a uint8 array: one load, where
    indexing would look for negative i.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def function(_: Any, array: Any, index: Any) -> Any:
        if not _is_array(array, index, types.uint8):
            return None

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            address = _address(context, builder, sig.args[0], args[0], sig.args[1], args[1])
            value = builder.load(builder.bitcast(address, element.as_pointer()))
            value.align = 1
            return value

        return result(array, index), codegen

    function.__doc__ = doc
    return function


load_word = _load_scalar(_I32, types.uint32, "The 32-bit word at byte i of a uint8 array.")
load_half_word = _load_scalar(_I16, types.uint16, "The 16-bit word at byte i of a uint8 array.")


def _load_parts(element: ir.Type, count: int, doc: str) -> Any:
    """An intrinsic (array, i, ...) that reads 16 // count values at each of `count` bytes of a uint8 array
    and puts them side by side.
    """
    size = LANES // count

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        parts = []
        for index_type, index in zip(sig.args[1:], args[1:], strict=True):
            address = _address(context, builder, sig.args[0], args[0], index_type, index)
            part = builder.load(builder.bitcast(address, ir.VectorType(element, size).as_pointer()))
            part.align = 1
            parts.append(part)
        while len(parts) > 1:
            width = parts[0].type.count
            both = ir.Constant(ir.VectorType(_I32, 2 * width), list(range(2 * width)))
            parts = [builder.shuffle_vector(a, b, both) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0] if element == _I32 else _zext(builder, parts[0])

    def typed(array: Any, *indices: Any) -> Any:
        fits = all(_is_array(array, index, types.uint8) for index in indices)
        return (i32x16(array, *indices), codegen) if fits else None

    if count == 2:

        def function(_: Any, array: Any, i: Any, j: Any) -> Any:
            return typed(array, i, j)

    else:

        def function(_: Any, array: Any, i: Any, j: Any, k: Any, m: Any) -> Any:  # type: ignore[misc]
            return typed(array, i, j, k, m)

    function.__doc__ = doc
    return intrinsic(function)


load_u8_halves = _load_parts(_I8, 2, "8 bytes from byte i and 8 from byte j of a uint8 array, as 0 to 255.")
load_u8_quarters = _load_parts(_I8, 4, "4 bytes each from bytes i, j, k and m of a uint8 array, as 0 to 255.")
load_u32_halves = _load_parts(
    _I32, 2, "8 little-endian 32-bit words from byte i and 8 from byte j of a uint8 array."
)
load_u32_quarters = _load_parts(
    _I32, 4, "4 little-endian 32-bit words each from bytes i, j, k and m of a uint8 array."
)


def _emit_prefetch(builder: Any, address: Any, is_write: bool) -> None:
    """Ask for the cache line at `address`, to be read or to be written."""
    pointer = builder.bitcast(address, _I8.as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
    callee = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(
        callee, [pointer, ir.Constant(_I32, int(is_write)), ir.Constant(_I32, 3), ir.Constant(_I32, 1)]
    )


def _first_lanes(context: Any, builder: Any, index_type: Any, n: Any) -> Any:
    """The mask of lanes 0 to n - 1."""
    count = _splat(builder, context.cast(builder, n, index_type, types.int32))
    return builder.icmp_signed("<", _constant(_I32, list(range(LANES))), count)


@intrinsic  # type: ignore[untyped-decorator]
def load_first(_: Any, array: Any, index: Any, n: Any) -> Any:
    """The n floats (0 to 16) from flat element i of a float32 array on, then zeros: memory behind them is not
    touched.
    """
    if not (_is_array(array, index, types.float32) and isinstance(n, types.Integer)):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = _vector(_F32)
        pointer = builder.bitcast(
            _address(context, builder, sig.args[0], args[0], sig.args[1], args[1]), vector.as_pointer()
        )
        mask = _first_lanes(context, builder, sig.args[2], args[2])
        kind = ir.FunctionType(vector, [pointer.type, _I32, mask.type, vector])
        callee = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{LANES}f32.p0")
        return builder.call(callee, [pointer, ir.Constant(_I32, 1), mask, _constant(_F32, 0.0)])

    return f32x16(array, index, n), codegen


@intrinsic  # type: ignore[untyped-decorator]
def store_first(_: Any, array: Any, index: Any, value: Any, n: Any) -> Any:
    """The first n lanes (0 to 16) to flat element i of a float32 array: memory behind them is not touched."""
    if not (_is_array(array, index, types.float32) and value == f32x16 and isinstance(n, types.Integer)):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = builder.bitcast(
            _address(context, builder, sig.args[0], args[0], sig.args[1], args[1]), _vector(_F32).as_pointer()
        )
        mask = _first_lanes(context, builder, sig.args[3], args[3])
        kind = ir.FunctionType(ir.VoidType(), [args[2].type, pointer.type, _I32, mask.type])
        callee = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.v{LANES}f32.p0")
        builder.call(callee, [args[2], pointer, ir.Constant(_I32, 1), mask])
        return context.get_dummy_value()

    return types.void(array, index, value, n), codegen


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(_: Any, array: Any, index: Any) -> Any:
    """A hint that the cache line of flat element i is read soon. Any index is safe: nothing is read, and no
    address can fault.
    """
    if not (isinstance(array, types.Array) and isinstance(index, types.Integer)):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _emit_prefetch(
            builder, _address(context, builder, sig.args[0], args[0], sig.args[1], args[1]), is_write=False
        )
        return context.get_dummy_value()

    return types.void(array, index), codegen


def _store_lanes(
    element: ir.Type, dtype: Any, kind: LaneType, narrow: Callable[..., Any] | None, doc: str, ahead: int = 0
) -> Any:
    """An intrinsic (array, i, lanes) that writes 16 values of LLVM type `element` at flat index i,
    byte-aligned.

    ahead: how many elements further on the cache line is asked for, to be written; 0 for none.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def function(_: Any, array: Any, index: Any, value: Any) -> Any:
        if not _is_array(array, index, dtype) or value != kind:
            return None

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            address = _address(context, builder, sig.args[0], args[0], sig.args[1], args[1])
            stored = args[2] if narrow is None else narrow(builder, args[2])
            builder.store(stored, builder.bitcast(address, _vector(element).as_pointer())).align = 1
            if ahead:
                _emit_prefetch(builder, builder.gep(address, [ir.Constant(_I64, ahead)]), is_write=True)
            return context.get_dummy_value()

        return types.void(array, index, value), codegen

    function.__doc__ = doc
    return function


store = _store_lanes(_F32, types.float32, f32x16, None, "16 floats to flat element i of a float32 array.")
store_onward = _store_lanes(
    _F32,
    types.float32,
    f32x16,
    None,
    """As `store`, in an array that is written from front to back: asks for the line 2 KiB further on.

    A store to a line that is not in the cache waits until memory has given the line, and few can wait at
    once; what was asked for ahead is there. Measured on arrays larger than the cache: half again as fast as
    `store`; in the cache the same.
    """,
    ahead=512,
)
store_i32 = _store_lanes(_I32, types.int32, i32x16, None, "16 integers to flat element i of an int32 array.")
store_u8 = _store_lanes(
    _I8,
    types.uint8,
    i32x16,
    lambda b, v: b.trunc(v, _vector(_I8)),
    "The low bytes of 16 lanes to byte i of a uint8 array.",
)
store_u16 = _store_lanes(
    _I16,
    types.uint8,
    i32x16,
    lambda b, v: b.trunc(v, _vector(_I16)),
    "The low halves of 16 lanes to byte i of a uint8 array, little-endian.",
)
store_u32 = _store_lanes(
    _I32, types.uint8, i32x16, None, "16 lanes to byte i of a uint8 array, little-endian."
)


@intrinsic  # type: ignore[untyped-decorator]
def gather(_: Any, table: Any, index: Any) -> Any:
    """table[index] per lane, from a C-contiguous float32 or int32 array. No bounds check: mask the index to
    the table's size.
    """
    kind = None
    if _is_array(table, types.intp, types.float32):
        kind = f32x16
    elif _is_array(table, types.intp, types.int32):
        kind = i32x16
    if kind is None or index != i32x16:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        value = ir.Constant(_vector(kind.element), ir.Undefined)
        for i in range(LANES):
            position = builder.zext(builder.extract_element(args[1], ir.Constant(_I32, i)), _I64)
            value = builder.insert_element(
                value, builder.load(builder.gep(data, [position])), ir.Constant(_I32, i)
            )
        return value

    return kind(table, index), codegen


@intrinsic  # type: ignore[untyped-decorator]
def lookup16(_: Any, table: Any, index: Any) -> Any:
    """table[index & 15] per lane, from a table of 16 values that is itself held in lanes: no memory is
    touched.

    LLVM makes one permutation of it where a register holds 16 lanes (AVX-512), and a permutation of each half
    of the table where it holds 8.
    """
    if table not in (f32x16, i32x16) or index != i32x16:
        return None

    def permute(builder: Any, source: Any, position: Any, lanes: range) -> Any:
        value = ir.Constant(ir.VectorType(source.type.element, len(lanes)), ir.Undefined)
        for k, lane_number in enumerate(lanes):
            one = builder.extract_element(
                source, builder.extract_element(position, ir.Constant(_I32, lane_number))
            )
            value = builder.insert_element(value, one, ir.Constant(_I32, k))
        return value

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source, position = args
        if _has_feature(context, "avx512f"):
            suffix, kind = ("sf", _vector(_F32)) if table == f32x16 else ("si", _vector(_I32))
            function = ir.FunctionType(kind, [kind, _vector(_I32)])
            name = f"llvm.x86.avx512.permvar.{suffix}.512"  # looks at the low four bits of a position only
            return builder.call(
                cgutils.get_or_insert_function(builder.module, function, name), [source, position]
            )
        undefined = ir.Constant(source.type, ir.Undefined)
        within = builder.and_(position, _constant(_I32, 7))
        low, high = (
            builder.shuffle_vector(
                source, undefined, ir.Constant(ir.VectorType(_I32, 8), list(range(k, k + 8)))
            )
            for k in (0, 8)
        )
        both = _constant(_I32, list(range(LANES)))
        from_low, from_high = (
            builder.shuffle_vector(
                permute(builder, half, within, range(8)), permute(builder, half, within, range(8, 16)), both
            )
            for half in (low, high)
        )
        is_high = builder.icmp_unsigned("!=", builder.and_(position, _constant(_I32, 8)), _constant(_I32, 0))
        return builder.select(is_high, from_high, from_low)

    return table(table, index), codegen


@intrinsic  # type: ignore[untyped-decorator]
def transpose16(_: Any, source: Any, first: Any, stride: Any, target: Any, row: Any) -> Any:
    """Lane k of vector i becomes element i of run k, for 16 runs of 16 floats.

    Run k starts at flat element ``first + k * stride`` of `source`; vector i goes to flat element ``16 * (row
    + i)`` of `target`, both float32. Four rounds of exchanging halves between pairs of vectors: 64 shuffles
    for 256 weights, where a scalar loop needs 512 memory accesses.
    """
    if not (
        _is_array(source, first, types.float32)
        and _is_array(target, row, types.float32)
        and isinstance(stride, types.Integer)
    ):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        start, step, out = (context.cast(builder, args[i], sig.args[i], types.intp) for i in (1, 2, 4))
        vectors = []
        for k in range(LANES):
            index = builder.add(start, builder.mul(step, ir.Constant(_I64, k)))
            address = _address(context, builder, sig.args[0], args[0], types.intp, index)
            value = builder.load(builder.bitcast(address, _vector(_F32).as_pointer()))
            value.align = 4
            vectors.append(value)
        for half in (8, 4, 2, 1):
            upper = [i & half for i in range(LANES)]
            low = _constant(_I32, [LANES + i - half if upper[i] else i for i in range(LANES)])
            high = _constant(_I32, [LANES + i if upper[i] else i + half for i in range(LANES)])
            for k in (k for k in range(LANES) if not k & half):
                a, b = vectors[k], vectors[k + half]
                vectors[k] = builder.shuffle_vector(a, b, low)
                vectors[k + half] = builder.shuffle_vector(a, b, high)
        for i, value in enumerate(vectors):
            index = builder.mul(builder.add(out, ir.Constant(_I64, i)), ir.Constant(_I64, LANES))
            address = _address(context, builder, sig.args[3], args[3], types.intp, index)
            builder.store(value, builder.bitcast(address, _vector(_F32).as_pointer())).align = 4
        return context.get_dummy_value()

    return types.void(source, first, stride, target, row), codegen
