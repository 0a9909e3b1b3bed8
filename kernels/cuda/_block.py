"""What kernels need beside vectors: addresses, a block's shared memory and barriers, 16 bytes at a time, and integers of 32
bits, since those of 64 take several instructions on a GPU."""

from __future__ import annotations

from ._numba import Floats, cgutils, cuda, intrinsic, ir, tiled, types
from ._vector import call_ir, f32, i32, i64

__all__ = [
    "aligned", "at", "barrier", "below", "cuda", "given", "load4", "product", "quotient", "shared_floats", "short", "store4",
    "tiled", "unseen",
]  # fmt: skip


@intrinsic
def at(tc, p, i):
    """The pointer to p[i]."""

    def gen(ctx, b, sig, args):
        return b.gep(args[0], [args[1]])

    return p(p, types.int64), gen


@intrinsic
def given(tc, p):
    """Whether a pointer is not null."""

    def gen(ctx, b, sig, args):
        return b.icmp_unsigned("!=", b.ptrtoint(args[0], i64), ir.Constant(i64, 0))

    return types.boolean(p), gen


@intrinsic
def aligned(tc, p):
    """Whether a pointer can be read by `load4`: a multiple of 16 bytes."""

    def gen(ctx, b, sig, args):
        low = b.and_(b.ptrtoint(args[0], i64), ir.Constant(i64, 15))
        return b.icmp_unsigned("==", low, ir.Constant(i64, 0))

    return types.boolean(p), gen


@intrinsic
def quotient(tc, n, d):
    """n // d for 0 ≤ n < 2^32 and 0 < d < 2^32, by a division of 32 bits: one of 64 takes a hundred instructions."""

    def gen(ctx, b, sig, args):
        return b.zext(b.udiv(*(b.trunc(a, i32) for a in args)), i64)

    return types.int64(types.int64, types.int64), gen


@intrinsic
def barrier(tc):
    """All threads of the block meet here."""

    def gen(ctx, b, sig, args):
        call_ir(b, "nvvm.barrier0", ir.VoidType())
        return ctx.get_dummy_value()

    return types.void(), gen


def _four(b, p, i):
    """p[i:i+4] as a pointer to a vector of four floats, 16-byte aligned."""
    p = b.gep(p, [i])
    return b.bitcast(p, ir.VectorType(f32, 4).as_pointer(p.type.addrspace))


def _shared_pointer(ctx, b, kind, value):
    return ctx.make_array(kind)(ctx, b, value).data


@intrinsic
def load4(tc, p, i):
    """Four neighbours p[i:i+4] of global memory (a pointer) or shared memory (an array); 16-byte aligned."""
    kind = p

    def gen(ctx, b, sig, args):
        base = args[0] if isinstance(kind, types.CPointer) else _shared_pointer(ctx, b, sig.args[0], args[0])
        found = b.load(_four(b, base, args[1]), align=16)
        return cgutils.pack_array(b, [b.extract_element(found, ir.Constant(i32, k)) for k in range(4)])

    return types.UniTuple(types.float32, 4)(p, types.uint64 if not isinstance(p, types.CPointer) else types.int64), gen


@intrinsic
def store4(tc, p, i, x, y, z, w):
    """p[i:i+4] = x, y, z, w; as `load4`."""
    kind = p

    def gen(ctx, b, sig, args):
        base = args[0] if isinstance(kind, types.CPointer) else _shared_pointer(ctx, b, sig.args[0], args[0])
        v = ir.Constant(ir.VectorType(f32, 4), ir.Undefined)
        for k in range(4):
            v = b.insert_element(v, args[2 + k], ir.Constant(i32, k))
        b.store(v, _four(b, base, args[1]), align=16)
        return ctx.get_dummy_value()

    index = types.uint64 if not isinstance(p, types.CPointer) else types.int64
    return types.void(p, index, *[types.float32] * 4), gen


@intrinsic
def below(tc, i, n):
    """Whether i < n, of their low 32 bits as numbers without sign: what is negative is below nothing."""

    def gen(ctx, b, sig, args):
        return b.icmp_unsigned("<", *(b.trunc(a, i32) for a in args))

    return types.boolean(types.int64, types.int64), gen


@intrinsic
def short(tc, n):
    """n for -2^31 ≤ n < 2^31, computed as a number of 32 bits."""

    def gen(ctx, b, sig, args):
        return b.sext(b.trunc(args[0], i32), i64)

    return types.int64(types.int64), gen


@intrinsic
def product(tc, x, y):
    """x·y for numbers of 32 bits, by one instruction: LLVM does not see that it could be."""

    def gen(ctx, b, sig, args):
        kind = ir.FunctionType(i64, [i32, i32])
        return b.call(ir.InlineAsm(kind, "mul.wide.s32 $0, $1, $2;", "=l,r,r"), [b.trunc(a, i32) for a in args])

    return types.int64(types.int64, types.int64), gen


@intrinsic
def unseen(tc, n):
    """n as a number that the compiler knows nothing of: a loop up to it stays a loop, and it is not computed again."""

    def gen(ctx, b, sig, args):
        return b.call(ir.InlineAsm(ir.FunctionType(i64, [i64]), "mov.b64 $0, $1;", "=l,l"), args)

    return types.int64(types.int64), gen


@intrinsic
def shared_floats(tc, n):
    """Shared memory for n floats (a constant), the block's: each place in the code that asks has its own. A pointer."""
    if not isinstance(n, types.IntegerLiteral):
        return None
    count = n.literal_value

    def gen(ctx, b, sig, args):
        kind = ir.ArrayType(f32, count)
        memory = cgutils.add_global_variable(b.module, kind, "shared", addrspace=3)
        memory.linkage, memory.align, memory.initializer = "internal", 16, ir.Constant(kind, ir.Undefined)
        return b.addrspacecast(b.gep(memory, [ir.Constant(i32, 0)] * 2), f32.as_pointer())

    return Floats(n), gen
