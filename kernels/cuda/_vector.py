"""The language of `_simd` as code for a GPU: Numba types, operators and functions that become LLVM
instructions."""

from __future__ import annotations

from ._numba import (
    VECTOR,
    WARP,
    Bytes,
    Float,
    Floats,
    Int,
    Ints,
    cgutils,
    inline,
    intrinsic,
    ir,
    kernel,
    types,
)
from ._operators import f32, mask, to_vec, vec

__all__ = [
    "Bytes", "Float", "Floats", "Int", "Ints", "W", "absolute", "bits_exponent", "bits_mantissa", "blocks",
    "copysign_bits", "fma", "get", "hmax", "hsum", "inline", "kept", "kernel", "lane", "load", "load_part",
    "magic_round", "maximum", "minimum", "pow2", "put", "scalar", "splat", "spread", "sqrt", "store", "store_part",
    "unordered", "vec", "where",
]  # fmt: skip

W = WARP
i32, i64 = ir.IntType(32), ir.IntType(64)


def _by_warp(function):
    """Marks what the threads of a warp do together."""
    setattr(function, VECTOR, True)
    return function


def call_ir(b, name, result, *args):
    """Call llvm.<name> on values."""
    fn = cgutils.get_or_insert_function(b.module, ir.FunctionType(result, [a.type for a in args]), f"llvm.{name}")
    return b.call(fn, args)


def lane_ir(b):
    """The thread's number in its warp. Blocks are one-dimensional."""
    return b.and_(call_ir(b, "nvvm.read.ptx.sreg.tid.x", i32), ir.Constant(i32, WARP - 1))


def _mine(b, p, i):
    return b.gep(p, [b.add(i, b.zext(lane_ir(b), i64))])


def _below(b, n):
    return b.icmp_signed("<", b.zext(lane_ir(b), i64), n)


@_by_warp
@intrinsic
def lane(tc):
    """The thread's number in its warp."""

    def gen(ctx, b, sig, args):
        return b.zext(lane_ir(b), i64)

    return types.int64(), gen


@_by_warp
@intrinsic
def load(tc, p, i):
    """The W floats at p[i:], one a thread."""

    def gen(ctx, b, sig, args):
        return b.load(_mine(b, *args), align=4)

    return vec(Floats, types.int64), gen


@_by_warp
@intrinsic
def store(tc, p, i, v):
    """p[i:i+W] = v."""

    def gen(ctx, b, sig, args):
        b.store(args[2], _mine(b, args[0], args[1]), align=4)
        return ctx.get_dummy_value()

    return types.void(Floats, types.int64, vec), gen


@_by_warp
@intrinsic
def load_part(tc, p, i, n):
    """The first n (< W) floats at p[i:]; the other lanes are 0."""

    def gen(ctx, b, sig, args):
        before, inside = _below(b, args[2]), None
        start = b.block
        with b.if_then(before):
            value = b.load(_mine(b, args[0], args[1]), align=4)
            inside = b.block
        found = b.phi(f32)
        found.add_incoming(ir.Constant(f32, 0.0), start)
        found.add_incoming(value, inside)
        return found

    return vec(Floats, types.int64, types.int64), gen


@_by_warp
@intrinsic
def store_part(tc, p, i, v, n):
    """p[i:i+n] = v[:n], n < W."""

    def gen(ctx, b, sig, args):
        with b.if_then(_below(b, args[3])):
            b.store(args[2], _mine(b, args[0], args[1]), align=4)
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
    """Lane by lane x where m, else y.
    ``m`` may be a truth value: both sides are there, and nothing branches."""

    def gen(ctx, b, sig, args):
        return b.select(args[0], to_vec(b, sig.args[1], args[1]), to_vec(b, sig.args[2], args[2]))

    return vec(m if isinstance(m, types.Boolean) else mask, x, y), gen


@intrinsic
def kept(tc, v, n):
    """v with the lanes from n on as 0."""

    def gen(ctx, b, sig, args):
        return b.select(_below(b, args[1]), args[0], ir.Constant(f32, 0.0))

    return vec(vec, types.int64), gen


@intrinsic
def scalar(tc, v):
    """A vector's value as a float32 of this thread, for kernels that do a unit a thread."""

    def gen(ctx, b, sig, args):
        return args[0]

    return types.float32(vec), gen


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
        low = to_vec(b, sig.args[1], args[1])
        return b.select(b.fcmp_ordered("<", args[0], low), low, args[0])

    return vec(vec, y), gen


@intrinsic
def minimum(tc, x, y):
    """Lane by lane the smaller; x where either is NaN, so NaN in x propagates."""

    def gen(ctx, b, sig, args):
        high = to_vec(b, sig.args[1], args[1])
        return b.select(b.fcmp_ordered(">", args[0], high), high, args[0])

    return vec(vec, y), gen


@intrinsic
def sqrt(tc, x):
    """Square root of each lane, correctly rounded."""

    def gen(ctx, b, sig, args):
        return call_ir(b, "nvvm.sqrt.rn.f", f32, args[0])

    return vec(vec), gen


@intrinsic
def fma(tc, x, y, z):
    """x·y + z with one rounding, of vectors or of float32 scalars."""

    def gen(ctx, b, sig, args):
        return call_ir(b, "fma.f32", f32, *args)

    kind = vec if x is vec else types.float32
    return kind(kind, kind, kind), gen


@intrinsic
def absolute(tc, x):
    """|x| of each lane."""

    def gen(ctx, b, sig, args):
        bits = b.and_(b.bitcast(args[0], i32), ir.Constant(i32, 0x7FFFFFFF))
        return b.bitcast(bits, f32)

    return vec(vec), gen


@intrinsic
def copysign_bits(tc, x, sign):
    """|x| with the sign bit of ``sign``."""

    def gen(ctx, b, sig, args):
        size = b.and_(b.bitcast(args[0], i32), ir.Constant(i32, 0x7FFFFFFF))
        bit = b.and_(b.bitcast(args[1], i32), ir.Constant(i32, 0x80000000))
        return b.bitcast(b.or_(size, bit), f32)

    return vec(vec, vec), gen


MAGIC = 12582912.0  # 1.5·2^23: adding it leaves the nearest integer in the low bits of the float


@intrinsic
def magic_round(tc, x):
    """The nearest integer (ties to even) for |x| < 2^22."""

    def gen(ctx, b, sig, args):
        return b.fsub(b.fadd(args[0], ir.Constant(f32, MAGIC)), ir.Constant(f32, MAGIC))

    return vec(vec), gen


@intrinsic
def pow2(tc, n):
    """2^n for integral n in [-126, 127].
    Bits only: no conversion that would be undefined for NaN."""

    def gen(ctx, b, sig, args):
        bits = b.bitcast(b.fadd(args[0], ir.Constant(f32, MAGIC + 127)), i32)
        return b.bitcast(b.shl(bits, ir.Constant(i32, 23)), f32)

    return vec(vec), gen


@intrinsic
def bits_exponent(tc, x):
    """floor(log2 x) of positive normal lanes, as a float."""

    def gen(ctx, b, sig, args):
        e = b.lshr(b.bitcast(args[0], i32), ir.Constant(i32, 23))
        return b.sitofp(b.sub(e, ir.Constant(i32, 127)), f32)

    return vec(vec), gen


@intrinsic
def bits_mantissa(tc, x):
    """x / 2^floor(log2 x), in [1, 2), of positive normal lanes."""

    def gen(ctx, b, sig, args):
        m = b.and_(b.bitcast(args[0], i32), ir.Constant(i32, 0x007FFFFF))
        return b.bitcast(b.or_(m, ir.Constant(i32, 0x3F800000)), f32)

    return vec(vec), gen


def _fold(b, value, combine):
    """Halves first: lane i meets lane i ± 16, then ± 8, …; all lanes end with the same."""
    asm = ir.FunctionType(f32, [f32])
    for apart in (16, 8, 4, 2, 1):
        text = f"shfl.sync.bfly.b32 $0, $1, {apart}, 31, -1;"
        other = b.call(ir.InlineAsm(asm, text, "=f,f", side_effect=True), [value])
        value = combine(value, other)
    return value


@_by_warp
@intrinsic
def hsum(tc, v):
    """Sum of the lanes, halves first (a fixed order)."""

    def gen(ctx, b, sig, args):
        return _fold(b, args[0], b.fadd)

    return types.float32(vec), gen


@_by_warp
@intrinsic
def hmax(tc, v):
    """Largest lane; NaN if a lane is NaN."""

    def gen(ctx, b, sig, args):
        def combine(x, y):
            larger = b.select(b.fcmp_ordered(">", x, y), x, y)
            return b.select(b.fcmp_unordered("uno", x, x), x, larger)

        return _fold(b, args[0], combine)

    return types.float32(vec), gen


@inline
@_by_warp
def spread(n):
    """The numbers below n, shared out among a warp's lanes: for elements that are done one at a
    time."""
    return range(lane(), n, W)


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
