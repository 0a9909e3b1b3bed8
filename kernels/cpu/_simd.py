"""Vectors of float32 for kernels: a Numba type with operators (`_operators`), loads, stores and a
few intrinsics.

`W` lanes is a constant of the target.
Formulas read like arithmetic: ``store(y, i, maximum(load(x, i), splat(0)))``; a Python number
beside a vector is a constant of all lanes.
Floating-point contraction (a·b+c as one rounding where the CPU has it) is the only licence the
optimiser gets: NaN and infinity behave as IEEE 754 says.
"""

import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from nbconv.kernels._numba import (
    Bytes,
    Float,
    Floats,
    Int,
    Int8s,
    Int32s,
    Ints,
    Shorts,
    f32,
    i32,
    i64,
    kernel,
)

from ._ir import (
    VI,
    VT,
    W,
    call_intrinsic,
    clamp_high_ir,
    clamp_low_ir,
    constant,
    lanes_below,
    load_part_ir,
    store_part_ir,
    vector_pointer,
)
from ._operators import mask, to_vec, vec


@intrinsic
def load(tc, p, i):
    """The W floats at p[i:]."""

    def gen(ctx, b, sig, args):
        return b.load(vector_pointer(b, *args), align=4)

    return vec(Floats, types.int64), gen


@intrinsic
def store(tc, p, i, v):
    """p[i:i+W] = v."""

    def gen(ctx, b, sig, args):
        b.store(args[2], vector_pointer(b, args[0], args[1]), align=4)
        return ctx.get_dummy_value()

    return types.void(Floats, types.int64, vec), gen


@intrinsic
def load_part(tc, p, i, n):
    """The first n (< W) floats at p[i:]; the other lanes are 0."""

    def gen(ctx, b, sig, args):
        return load_part_ir(b, vector_pointer(b, args[0], args[1]), args[2])

    return vec(Floats, types.int64, types.int64), gen


@intrinsic
def store_part(tc, p, i, v, n):
    """p[i:i+n] = v[:n], n < W."""

    def gen(ctx, b, sig, args):
        store_part_ir(b, args[2], vector_pointer(b, args[0], args[1]), args[3])
        return ctx.get_dummy_value()

    return types.void(Floats, types.int64, vec, types.int64), gen


@intrinsic
def splat(tc, s):
    """A vector with all lanes s."""
    if not isinstance(s, types.Number):
        return None

    def gen(ctx, b, sig, args):
        return to_vec(b, sig.args[0], args[0])

    return vec(s), gen


@intrinsic
def where(tc, m, x, y):
    """Lane by lane x where m, else y."""

    def gen(ctx, b, sig, args):
        return b.select(args[0], to_vec(b, sig.args[1], args[1]), to_vec(b, sig.args[2], args[2]))

    return vec(mask, x, y), gen


@intrinsic
def kept(tc, v, n):
    """v with the lanes from n on as 0."""

    def gen(ctx, b, sig, args):
        return b.select(lanes_below(b, args[1]), args[0], constant(0.0))

    return vec(vec, types.int64), gen


@intrinsic
def unordered(tc, x, y):
    """Mask of the lanes where x or y is NaN."""

    def gen(ctx, b, sig, args):
        return b.fcmp_unordered("uno", *args)

    return mask(vec, vec), gen


@intrinsic
def maximum(tc, x, y):
    """Lane by lane the larger; x where either is NaN, so NaN in x propagates."""

    def gen(ctx, b, sig, args):
        return clamp_low_ir(b, args[0], to_vec(b, sig.args[1], args[1]))

    return vec(vec, y), gen


@intrinsic
def minimum(tc, x, y):
    """Lane by lane the smaller; x where either is NaN, so NaN in x propagates."""

    def gen(ctx, b, sig, args):
        return clamp_high_ir(b, args[0], to_vec(b, sig.args[1], args[1]))

    return vec(vec, y), gen


@intrinsic
def sqrt(tc, x):
    """Square root of each lane."""

    def gen(ctx, b, sig, args):
        return call_intrinsic(b, f"sqrt.v{W}f32", VT, args[0])

    return vec(vec), gen


@intrinsic
def absolute(tc, x):
    """|x| of each lane."""

    def gen(ctx, b, sig, args):
        return call_intrinsic(b, f"fabs.v{W}f32", VT, args[0])

    return vec(vec), gen


@intrinsic
def copysign_bits(tc, x, sign):
    """|x| with the sign bit of ``sign``."""

    def gen(ctx, b, sig, args):
        return call_intrinsic(b, f"copysign.v{W}f32", VT, args[0], args[1])

    return vec(vec, vec), gen


MAGIC = 12582912.0  # 1.5·2^23: adding it leaves the nearest integer in the low bits of the float


@intrinsic
def magic_round(tc, x):
    """The nearest integer (ties to even) for |x| < 2^22."""

    def gen(ctx, b, sig, args):
        return b.fsub(b.fadd(args[0], constant(MAGIC)), constant(MAGIC))

    return vec(vec), gen


@intrinsic
def pow2(tc, n):
    """2^n for integral n in [-126, 127].
    Bits only: no conversion that would be undefined for NaN."""

    def gen(ctx, b, sig, args):
        bits = b.bitcast(b.fadd(args[0], constant(MAGIC + 127)), VI)
        return b.bitcast(b.shl(bits, ir.Constant(VI, [23] * W)), VT)

    return vec(vec), gen


def _reduce(b, v, combine):
    """Fold the lanes in halves: always the same order."""
    n = W
    while n > 1:
        n //= 2
        low = b.shuffle_vector(v, v, ir.Constant(ir.VectorType(i32, n), list(range(n))))
        high = b.shuffle_vector(v, v, ir.Constant(ir.VectorType(i32, n), list(range(n, 2 * n))))
        v = combine(low, high)
    return b.extract_element(v, ir.Constant(i32, 0))


@intrinsic
def hsum(tc, v):
    """Sum of the lanes, halves first (a fixed order)."""

    def gen(ctx, b, sig, args):
        return _reduce(b, args[0], b.fadd)

    return types.float32(vec), gen


@intrinsic
def hmax(tc, v):
    """Largest lane; NaN if a lane is NaN."""

    def gen(ctx, b, sig, args):
        def combine(x, y):
            larger = b.select(b.fcmp_ordered(">", x, y), x, y)
            return b.select(b.fcmp_unordered("uno", x, x), x, larger)

        return _reduce(b, args[0], combine)

    return types.float32(vec), gen


def _stack(element, name):
    """An intrinsic that gives n (a literal) elements of stack, the same memory each time it is
    reached, with anything in it. (`cgutils.alloca_once` clears it, which LLVM makes n stores of:
    minutes of compiling.)"""

    @intrinsic(prefer_literal=True)
    def reserve(tc, n):
        if not isinstance(n, types.IntegerLiteral):
            return None
        count = n.literal_value

        def gen(ctx, b, sig, args):
            with b.goto_entry_block():
                area = b.alloca(ir.ArrayType(element, count), name=name)
            area.align = 64
            return b.bitcast(area, element.as_pointer())

        return types.CPointer(types.int64 if element is i64 else types.float32)(n), gen

    return reserve


stack_ints = _stack(i64, "ints")
stack_floats = _stack(f32, "floats")


@intrinsic
def address(tc, p, i):
    """The address of p[i] as an integer."""

    def gen(ctx, b, sig, args):
        return b.ptrtoint(b.gep(args[0], [args[1]]), i64)

    return types.int64(p, types.int64), gen


@intrinsic
def at(tc, p, i):
    """The pointer to p[i]."""

    def gen(ctx, b, sig, args):
        return b.gep(args[0], [args[1]])

    return p(p, types.int64), gen


@intrinsic
def bits_exponent(tc, x):
    """floor(log2 x) of positive normal lanes, as a float."""

    def gen(ctx, b, sig, args):
        e = b.lshr(b.bitcast(args[0], VI), ir.Constant(VI, [23] * W))
        return b.sitofp(b.sub(e, ir.Constant(VI, [127] * W)), VT)

    return vec(vec), gen


@intrinsic
def bits_mantissa(tc, x):
    """x / 2^floor(log2 x), in [1, 2), of positive normal lanes."""

    def gen(ctx, b, sig, args):
        m = b.and_(b.bitcast(args[0], VI), ir.Constant(VI, [0x007FFFFF] * W))
        return b.bitcast(b.or_(m, ir.Constant(VI, [0x3F800000] * W)), VT)

    return vec(vec), gen


@intrinsic
def floats_at(tc, a):
    """An address as a pointer to float32."""

    def gen(ctx, b, sig, args):
        return b.inttoptr(args[0], f32.as_pointer())

    return Floats(types.int64), gen


@intrinsic
def ints_at(tc, a):
    """An address as a pointer to int64."""

    def gen(ctx, b, sig, args):
        return b.inttoptr(args[0], i64.as_pointer())

    return Ints(types.int64), gen


inline = numba.njit(inline="always")
"""For helpers: their body is copied into the kernel that calls them, in Numba's own IR."""


@inline
def spread(n):
    """The numbers below n, for elements that are done one at a time.
    (On CUDA a warp's lanes share them out.)"""
    return range(n)


@inline
def blocks(n):
    """Vectors that hold n elements."""
    return (n + W - 1) // W


@inline
def get(p, i, cols):
    """The first ``cols`` floats at p[i:], W at most; the other lanes are 0."""
    return load(p, i) if cols >= W else load_part(p, i, cols)


@inline
def put(p, i, v, cols):
    """p[i:i+cols] = v[:cols], W at most."""
    if cols >= W:
        store(p, i, v)
    else:
        store_part(p, i, v, cols)
