"""Vectors of W integers of 8 bits in memory: read as float32, and stored as what float32 is rounded
to."""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from nbconv.kernels._numba import Bytes, Float, Int, i32, i64

from ._ir import VI, VM, VT, W, lanes_below, splat_ir
from ._operators import vec

i8, i16 = ir.IntType(8), ir.IntType(16)
VB = ir.VectorType(i8, W)
MAGIC = 0x4B400000
"""The bits of 1.5·2^23: added to a float32 it leaves the nearest integer in the low bits, ties to
even."""


def splat_word(bd, word):
    """All lanes equal to an i32."""
    one = bd.insert_element(ir.Constant(VI, ir.Undefined), word, ir.Constant(i32, 0))
    return bd.shuffle_vector(one, ir.Constant(VI, ir.Undefined), ir.Constant(VI, [0] * W))


def store_ir(bd, value, p, whole, left):
    """All lanes of a vector, or the first ``left``."""
    pointer = bd.bitcast(p, value.type.as_pointer())
    with bd.if_else(whole) as (full, part):
        with full:
            bd.store(value, pointer, align=1)
        with part:
            bits = value.type.element.width
            kinds = [value.type, value.type.as_pointer(), i32, VM]
            fn = cgutils.get_or_insert_function(
                bd.module, ir.FunctionType(ir.VoidType(), kinds), f"llvm.masked.store.v{W}i{bits}.p0"
            )
            bd.call(fn, [value, pointer, ir.Constant(i32, 1), lanes_below(bd, left)])


def rounded_ir(bd, x, low, high, zero):
    """A vector of float32 limited to low … high, NaN to low, then rounded and moved by ``zero``,
    which has MAGIC taken off, as bytes."""
    x = bd.select(bd.fcmp_ordered(">", x, low), x, low)
    x = bd.select(bd.fcmp_ordered("<", x, high), x, high)
    magic = ir.Constant(VT, [ir.Constant(ir.FloatType(), 12582912.0)] * W)
    return bd.trunc(bd.add(bd.bitcast(bd.fadd(x, magic), VI), zero), VB)


def zero_ir(bd, zero_point):
    """A zero point for `rounded_ir`."""
    return splat_word(bd, bd.sub(bd.trunc(zero_point, i32), ir.Constant(i32, MAGIC)))


def _masked_load(bd, pointer, n):
    kinds = [VB.as_pointer(), i32, VM, VB]
    fn = cgutils.get_or_insert_function(bd.module, ir.FunctionType(VB, kinds), f"llvm.masked.load.v{W}i8.p0")
    return bd.call(fn, [pointer, ir.Constant(i32, 1), lanes_below(bd, n), ir.Constant(VB, [0] * W)])


def _load_bytes(part: bool):
    """(x[i:] ^ flip), unsigned, as float32; where it is told so, of the first n lanes alone."""

    def read(bd, x, i, flip, n=None):
        pointer = bd.bitcast(bd.gep(x, [i]), VB.as_pointer())
        value = _masked_load(bd, pointer, n) if part else bd.load(pointer, align=1)
        mask = bd.trunc(splat_word(bd, bd.trunc(flip, i32)), VB)
        return bd.sitofp(bd.zext(bd.xor(value, mask), VI), VT)

    return read


@intrinsic
def load_bytes(tc, x, i, flip):
    """The W integers at x[i:] as float32; ``flip``: 0x80 turns signed ones to unsigned ones, 128
    more."""

    def gen(ctx, bd, sig, args):
        return _load_bytes(False)(bd, *args)

    return vec(Bytes, Int, Int), gen


@intrinsic
def load_bytes_part(tc, x, i, flip, n):
    """That of the first n (< W); the other lanes are what 0 is."""

    def gen(ctx, bd, sig, args):
        return _load_bytes(True)(bd, *args)

    return vec(Bytes, Int, Int, Int), gen


@intrinsic
def store_bytes(tc, y, i, v, low, high, zero_point, n):
    """y[i:i+n] = v limited to low … high (NaN to low), rounded, ties to even, plus zero_point; n is
    W at most."""

    def gen(ctx, bd, sig, args):
        y, i, v, low, high, zero_point, n = args
        value = rounded_ir(bd, v, splat_ir(bd, low), splat_ir(bd, high), zero_ir(bd, zero_point))
        store_ir(bd, value, bd.gep(y, [i]), bd.icmp_signed(">=", n, ir.Constant(n.type, W)), n)
        return ctx.get_dummy_value()

    return types.void(Bytes, Int, vec, Float, Float, Int, Int), gen


@intrinsic
def times(tc, a, b):
    """a · b, rounded: it becomes no part of a multiply-add."""

    def gen(ctx, bd, sig, args):
        return bd.fmul(*args)

    return vec(vec, vec), gen


def _make_store_pixels(channels):
    """y[channels·i:] = the first n pixels, W at most, of a vector a channel, as `store_bytes`
    stores them."""

    def gen(ctx, bd, sig, args):
        y, i, *vectors, low, high, zero_point, n = args
        low, high, zero = splat_ir(bd, low), splat_ir(bd, high), zero_ir(bd, zero_point)
        parts = [rounded_ir(bd, v, low, high, zero) for v in vectors]
        while len(parts) & len(parts) - 1:
            parts.append(ir.Constant(parts[0].type, ir.Undefined))
        while len(parts) > 1:
            size = parts[0].type.count
            both = ir.Constant(ir.VectorType(i32, 2 * size), list(range(2 * size)))
            parts = [bd.shuffle_vector(a, b, both) for a, b in zip(parts[::2], parts[1::2])]
        order = [k * W + j for j in range(W) for k in range(channels)]
        whole = bd.shuffle_vector(
            parts[0], ir.Constant(parts[0].type, ir.Undefined), ir.Constant(ir.VectorType(i32, channels * W), order)
        )
        each = ir.Constant(i64, channels)
        place = bd.gep(y, [bd.mul(i, each)])
        area = cgutils.alloca_once(bd, whole.type)
        with bd.if_else(bd.icmp_signed(">=", n, ir.Constant(i64, W))) as (full, part):
            with full:
                bd.store(whole, bd.bitcast(place, whole.type.as_pointer()), align=1)
            with part:
                bd.store(whole, area)
                source = bd.bitcast(area, i8.as_pointer())
                with cgutils.for_range(bd, bd.mul(n, each), intp=i64) as at:
                    bd.store(bd.load(bd.gep(source, [at.index])), bd.gep(place, [at.index]))
        return ctx.get_dummy_value()

    def of_3(tc, y, i, a, b, c, low, high, zero_point, n):
        return types.void(Bytes, Int, vec, vec, vec, Float, Float, Int, Int), gen

    def of_4(tc, y, i, a, b, c, d, low, high, zero_point, n):
        return types.void(Bytes, Int, vec, vec, vec, vec, Float, Float, Int, Int), gen

    return intrinsic({3: of_3, 4: of_4}[channels])


store_pixels_3, store_pixels_4 = map(_make_store_pixels, (3, 4))
