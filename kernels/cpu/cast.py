"""Changes of element type, beside those of logic.py that a GPU has too.

A kernel is called by the types from and to which it changes; a target of 8, 16, 32 or 64 is an integer of so many bits,
signed or not. To fewer bits, and to booleans, unsigned integers go as signed ones. Types that no kernel joins go through
a third (`nbconv/ops/cast.py`). float16, bfloat16 and float64 are read and written as their bits; float16 by integer
arithmetic, for which some processors would call a library.
"""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ._map import called
from ._simd import Bytes, Float, Floats, Int, Int8s, Int32s, Ints, Shorts, inline, spread

_I16, _I32, _I64, _F32, _F64 = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.DoubleType()
_INFINITY = 0x7F800000
_OVERFLOW = 0x47800000
"""2^16, from which on a float32 is no float16: rounding makes an infinity of what lies a little below."""
_NORMAL = 0x38800000
"""2^-14, the least normal float16."""


def _word(value: int) -> ir.Constant:
    return ir.Constant(_I32, value)


@intrinsic
def _from_half(tc, bits):
    """The float32 that the float16 of these bits is."""

    def gen(ctx, b, sig, args):
        bits = b.zext(args[0], _I32)
        size = b.and_(bits, _word(0x7FFF))
        rebiased = b.add(b.shl(size, _word(13)), _word(112 << 23))
        special = b.add(rebiased, _word(112 << 23))
        # a denormal's bits count 2^-24, which is half's last place
        small = b.fsub(b.bitcast(b.or_(size, _word(126 << 23)), _F32), ir.Constant(_F32, 0.5))
        wide = b.select(b.icmp_unsigned(">=", size, _word(0x7C00)), special, rebiased)
        wide = b.select(b.icmp_unsigned("<", size, _word(0x400)), b.bitcast(small, _I32), wide)
        return b.bitcast(b.or_(wide, b.shl(b.and_(bits, _word(0x8000)), _word(16))), _F32)

    return types.float32(bits), gen


@intrinsic
def _to_half(tc, x):
    """The bits of the nearest float16, ties to even."""

    def gen(ctx, b, sig, args):
        bits = b.bitcast(args[0], _I32)
        size = b.and_(bits, _word(0x7FFFFFFF))
        odd = b.and_(b.lshr(size, _word(13)), _word(1))
        near = b.lshr(b.add(b.sub(b.add(size, odd), _word(112 << 23)), _word(0xFFF)), _word(13))
        # added to a half, what a denormal lacks is rounded away
        small = b.fadd(b.bitcast(size, _F32), ir.Constant(_F32, 0.5))
        small = b.sub(b.bitcast(small, _I32), _word(126 << 23))
        payload = b.and_(b.lshr(size, _word(13)), _word(0x3FF))
        large = b.select(
            b.icmp_unsigned(">", size, _word(_INFINITY)), b.or_(payload, _word(0x7E00)), _word(0x7C00)
        )  # fmt: skip
        half = b.select(b.icmp_unsigned("<", size, _word(_NORMAL)), small, near)
        half = b.select(b.icmp_unsigned(">=", size, _word(_OVERFLOW)), large, half)
        return b.trunc(b.or_(half, b.lshr(b.and_(bits, _word(-1 << 31)), _word(16))), _I16)

    return types.uint16(x), gen


@intrinsic
def _from_bfloat(tc, bits):
    """The float32 that the bfloat16 of these bits is: its upper half."""

    def gen(ctx, b, sig, args):
        return b.bitcast(b.shl(b.zext(args[0], _I32), _word(16)), _F32)

    return types.float32(bits), gen


@intrinsic
def _to_bfloat(tc, x):
    """The bits of the nearest bfloat16, ties to even; NaN is one, of either sign."""

    def gen(ctx, b, sig, args):
        bits = b.bitcast(args[0], _I32)
        odd = b.and_(b.lshr(bits, _word(16)), _word(1))
        near = b.lshr(b.add(b.add(bits, _word(0x7FFF)), odd), _word(16))
        sign = b.and_(b.lshr(bits, _word(16)), _word(0x8000))
        nan = b.fcmp_unordered("uno", args[0], args[0])
        return b.trunc(b.select(nan, b.or_(sign, _word(0x7FC0)), near), _I16)

    return types.uint16(x), gen


def _truncated(result, kind):
    """An intrinsic that rounds a float toward zero; what the integer type lacks, NaN too, is its lowest number."""

    @intrinsic
    def truncated(tc, x):
        def gen(ctx, b, sig, args):
            lowest = ir.Constant(args[0].type, -(2.0 ** (kind.width - 1)))
            beyond = ir.Constant(args[0].type, 2.0 ** (kind.width - 1))
            fits = b.and_(b.fcmp_ordered(">=", args[0], lowest), b.fcmp_ordered("<", args[0], beyond))
            return b.fptosi(b.select(fits, args[0], lowest), kind)

        return result(x), gen

    return truncated


@intrinsic
def _double(tc, bits):
    """The float64 of these bits."""

    def gen(ctx, b, sig, args):
        return b.bitcast(args[0], _F64)

    return types.float64(bits), gen


@intrinsic
def _bits(tc, x):
    """A float64's bits."""

    def gen(ctx, b, sig, args):
        return b.bitcast(args[0], _I64)

    return types.int64(x), gen


_int32, _int64 = _truncated(types.int32, _I32), _truncated(types.int64, _I64)


def _cast(source, target, formula, name):
    convert = inline(formula)

    def cast(x: source, y: target, n: Int, chunk: Int, first: Int, last: Int) -> None:
        """y = x in another element type; a unit is ``chunk`` elements."""
        i0 = first * chunk
        for e in spread(min(last * chunk, n) - i0):
            y[i0 + e] = convert(x[i0 + e])

    return called(name, cast, __name__)


def _itself(v):
    return v


def _not_zero(v):
    return 1 if v != 0 else 0


int8_to_float32 = _cast(Int8s, Floats, lambda v: Float(v), "int8_to_float32")
int32_to_float32 = _cast(Int32s, Floats, lambda v: Float(v), "int32_to_float32")
float16_to_float32 = _cast(Shorts, Floats, lambda v: _from_half(v), "float16_to_float32")
bfloat16_to_float32 = _cast(Shorts, Floats, lambda v: _from_bfloat(v), "bfloat16_to_float32")
float32_to_bfloat16 = _cast(Floats, Shorts, lambda v: _to_bfloat(v), "float32_to_bfloat16")
float64_to_float32 = _cast(Ints, Floats, lambda v: Float(_double(v)), "float64_to_float32")
float32_to_float16 = _cast(Floats, Shorts, lambda v: _to_half(v), "float32_to_float16")
float32_to_float64 = _cast(Floats, Ints, lambda v: _bits(types.float64(v)), "float32_to_float64")
int64_to_float64 = _cast(Ints, Ints, lambda v: _bits(types.float64(v)), "int64_to_float64")

float32_to_8 = _cast(Floats, Bytes, lambda v: _int32(v), "float32_to_8")
float32_to_int32 = _cast(Floats, Int32s, lambda v: _int32(v), "float32_to_int32")
float32_to_int64 = _cast(Floats, Ints, lambda v: _int64(v), "float32_to_int64")
float64_to_int32 = _cast(Ints, Int32s, lambda v: _int32(_double(v)), "float64_to_int32")
float64_to_int64 = _cast(Ints, Ints, lambda v: _int64(_double(v)), "float64_to_int64")

int8_to_32, uint8_to_32 = _cast(Int8s, Int32s, _itself, "int8_to_32"), _cast(Bytes, Int32s, _itself, "uint8_to_32")
uint16_to_32 = _cast(Shorts, Int32s, _itself, "uint16_to_32")
int16_to_32 = _cast(Shorts, Int32s, lambda v: (Int(v) ^ 0x8000) - 0x8000, "int16_to_32")
int32_to_64 = _cast(Int32s, Ints, _itself, "int32_to_64")
uint32_to_64 = _cast(Int32s, Ints, lambda v: Int(v) & 0xFFFFFFFF, "uint32_to_64")
int32_to_8, int32_to_16 = _cast(Int32s, Bytes, _itself, "int32_to_8"), _cast(Int32s, Shorts, _itself, "int32_to_16")
int64_to_32 = _cast(Ints, Int32s, _itself, "int64_to_32")

int8_to_bool = _cast(Bytes, Bytes, _not_zero, "int8_to_bool")
int32_to_bool = _cast(Int32s, Bytes, _not_zero, "int32_to_bool")
int64_to_bool = _cast(Ints, Bytes, _not_zero, "int64_to_bool")
float64_to_bool = _cast(Ints, Bytes, lambda v: 1 if _double(v) != 0.0 else 0, "float64_to_bool")
