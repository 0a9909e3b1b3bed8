"""What kernels need beside vectors: addresses, a block's shared memory and barriers, 16 bytes at a
time, and integers of 32 bits, since those of 64 take several instructions on a GPU."""

from __future__ import annotations

from ._numba import Floats, cgutils, cuda, intrinsic, ir, on_tensor_cores, tiled, types
from ._vector import call_ir, f32, i32, i64

__all__ = [
    "aligned",
    "at",
    "barrier",
    "below",
    "cuda",
    "given",
    "load2",
    "load4",
    "mma",
    "on_tensor_cores",
    "product",
    "quotient",
    "shared_floats",
    "short",
    "store4",
    "tiled",
    "to_tf32",
    "unseen",
]


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
    """n // d for 0 ≤ n < 2^32 and 0 < d < 2^32, by a division of 32 bits: one of 64 takes a hundred
    instructions."""

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


def _some(b, p, i, n):
    """p[i:i+n] as a pointer to a vector of n floats, aligned as one."""
    p = b.gep(p, [i])
    return b.bitcast(p, ir.VectorType(f32, n).as_pointer(p.type.addrspace))


def _shared_pointer(ctx, b, kind, value):
    return ctx.make_array(kind)(ctx, b, value).data


@intrinsic
def load4(tc, p, i):
    """Four neighbours p[i:i+4] of global memory (a pointer) or shared memory (an array); 16-byte
    aligned."""
    kind = p

    def gen(ctx, b, sig, args):
        base = args[0] if isinstance(kind, types.CPointer) else _shared_pointer(ctx, b, sig.args[0], args[0])
        found = b.load(_some(b, base, args[1], 4), align=16)
        return cgutils.pack_array(b, [b.extract_element(found, ir.Constant(i32, k)) for k in range(4)])

    return types.UniTuple(types.float32, 4)(p, types.uint64 if not isinstance(p, types.CPointer) else types.int64), gen


@intrinsic
def load2(tc, p, i):
    """Two neighbours p[i:i+2] of shared memory; 8-byte aligned."""

    def gen(ctx, b, sig, args):
        found = b.load(_some(b, args[0], args[1], 2), align=8)
        return cgutils.pack_array(b, [b.extract_element(found, ir.Constant(i32, k)) for k in range(2)])

    return types.UniTuple(types.float32, 2)(p, types.int64), gen


@intrinsic
def store4(tc, p, i, x, y, z, w):
    """p[i:i+4] = x, y, z, w; as `load4`."""
    kind = p

    def gen(ctx, b, sig, args):
        base = args[0] if isinstance(kind, types.CPointer) else _shared_pointer(ctx, b, sig.args[0], args[0])
        v = ir.Constant(ir.VectorType(f32, 4), ir.Undefined)
        for k in range(4):
            v = b.insert_element(v, args[2 + k], ir.Constant(i32, k))
        b.store(v, _some(b, base, args[1], 4), align=16)
        return ctx.get_dummy_value()

    index = types.uint64 if not isinstance(p, types.CPointer) else types.int64
    return types.void(p, index, *[types.float32] * 4), gen


@intrinsic
def below(tc, i, n):
    """Whether i < n, of their low 32 bits as numbers without sign: what is negative is below
    nothing."""

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
    """n as a number that the compiler knows nothing of: a loop up to it stays a loop, and it is not
    computed again."""

    def gen(ctx, b, sig, args):
        return b.call(ir.InlineAsm(ir.FunctionType(i64, [i64]), "mov.b64 $0, $1;", "=l,l"), args)

    return types.int64(types.int64), gen


@intrinsic
def shared_floats(tc, n):
    """Shared memory for n floats (a constant), the block's: each place in the code that asks has
    its own.
    A pointer."""
    if not isinstance(n, types.IntegerLiteral):
        return None
    count = n.literal_value

    def gen(ctx, b, sig, args):
        kind = ir.ArrayType(f32, count)
        memory = cgutils.add_global_variable(b.module, kind, "shared", addrspace=3)
        memory.linkage, memory.align, memory.initializer = "internal", 16, ir.Constant(kind, ir.Undefined)
        return b.addrspacecast(b.gep(memory, [ir.Constant(i32, 0)] * 2), f32.as_pointer())

    return Floats(n), gen


@intrinsic
def to_tf32(tc, v):
    """v rounded to the 10 bits of mantissa that `mma` reads, ties away from zero. (sm_80)"""

    def gen(ctx, b, sig, args):
        kind = ir.FunctionType(i32, [f32])
        return b.bitcast(b.call(ir.InlineAsm(kind, "cvt.rna.tf32.f32 $0, $1;", "=r,f"), args), f32)

    return types.float32(types.float32), gen


@intrinsic
def mma(tc, c0, c1, c2, c3, a0, a1, a2, a3, b0, b1):
    """c + a·b of a warp's fragments by mma.m16n8k8, a and b as `to_tf32` rounds.
    Four floats.
    (sm_80)"""

    def gen(ctx, b, sig, args):
        four = ir.LiteralStructType([f32] * 4)
        kind = ir.FunctionType(four, [i32] * 6 + [f32] * 4)
        text = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};"
        asm = ir.InlineAsm(kind, text, "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f", side_effect=True)
        found = b.call(asm, [*(b.bitcast(v, i32) for v in args[4:]), *args[:4]])
        return cgutils.pack_array(b, [b.extract_value(found, k) for k in range(4)])

    return types.UniTuple(types.float32, 4)(*[types.float32] * 10), gen
