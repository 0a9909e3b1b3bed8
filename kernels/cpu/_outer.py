"""The register tile of weight gradients: R input channels × (W or 2W) output channels, accumulated
over pixels.

dw[ci, co] += Σ_p x[p, ci]·dy[p, co]: channels lie last in both, so each pixel gives R neighbours to
broadcast and vectors to multiply them with; nothing is packed. x's pixels are found through a table
of addresses, dy's lie in a row.
"""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from nbconv.kernels._numba import Floats, Int, Ints, f32, i64, target

from ._ir import VT, W, by_size, call_intrinsic, constant, internal, load_part_ir, splat_ir

MR = target().tile().rows
NV = target().tile().vectors
NR = NV * W


def _n(value: int) -> ir.Constant:
    return ir.Constant(i64, value)


def _vector(bd, p, offset: int):
    return bd.bitcast(bd.gep(p, [_n(offset)]), VT.as_pointer())


def _make(vectors: int, whole: bool):
    """An intrinsic for tiles of 1 to MR rows, ``vectors`` wide, the last of dy's vectors masked
    unless ``whole``."""

    @intrinsic
    def outer(tc, rows, table, koff, count, dy, ldy, c, ldc, begins, cols):
        sig = types.void(Int, Ints, Int, Int, Floats, Int, Floats, Int, types.boolean, Int)

        def gen(ctx, bd, sig, args):
            rows, args = args[0], args[1:]
            by_size(bd, rows, MR, lambda n: _function(bd.module, n, vectors, whole, [a.type for a in args]), args)
            return ctx.get_dummy_value()

        return sig, gen

    return outer


def _function(module, rows: int, vectors: int, whole: bool, kinds):
    fn, new = internal(module, f"outer_{rows}x{vectors}{'' if whole else '_part'}", kinds)
    if new:
        _emit(fn, rows, vectors, whole, *fn.args)
    return fn


def _emit(fn, R, V, whole, table, koff, count, dy, ldy, c, ldc, begins, cols) -> None:
    """C[R, V·W] (=, where ``begins``, or +=) Σ_p x[p][koff + r]·dy[p, :]; C has room for whole
    vectors."""
    f32p = f32.as_pointer()
    bd = ir.IRBuilder(fn.append_basic_block("entry"))
    rows = [bd.gep(c, [bd.mul(_n(r), ldc)]) for r in range(R)]
    held_block, loop, done = (fn.append_basic_block(n) for n in ("held", "pixel", "done"))
    entry = bd.block
    bd.cbranch(begins, loop, held_block)
    bd.position_at_end(held_block)
    held = [[bd.load(_vector(bd, row, j * W), align=4) for j in range(V)] for row in rows]
    bd.branch(loop)

    bd.position_at_end(loop)
    p, line = bd.phi(i64), bd.phi(f32p)
    acc = [[bd.phi(VT) for _ in range(V)] for _ in range(R)]
    for block in (entry, held_block):
        p.add_incoming(_n(0), block)
        line.add_incoming(dy, block)
        for r in range(R):
            for j in range(V):
                acc[r][j].add_incoming(constant(0.0) if block is entry else held[r][j], block)
    x = bd.gep(bd.inttoptr(bd.load(bd.gep(table, [p])), f32p), [koff])
    b: list = [bd.load(_vector(bd, line, j * W), align=4) for j in range(V if whole else V - 1)]
    if not whole:
        b.append(load_part_ir(bd, _vector(bd, line, (V - 1) * W), bd.sub(cols, _n((V - 1) * W))))
    sums = []
    for r in range(R):
        a = splat_ir(bd, bd.load(bd.gep(x, [_n(r)]), align=4))
        sums.append([call_intrinsic(bd, f"fmuladd.v{W}f32", VT, a, b[j], acc[r][j]) for j in range(V)])
    after = bd.add(p, _n(1))
    p.add_incoming(after, loop)
    line.add_incoming(bd.gep(line, [ldy]), loop)
    for r in range(R):
        for j in range(V):
            acc[r][j].add_incoming(sums[r][j], loop)
    bd.cbranch(bd.icmp_signed("<", after, count), loop, done)
    bd.position_at_end(done)
    for r in range(R):
        for j in range(V):
            bd.store(sums[r][j], _vector(bd, rows[r], j * W), align=4)
    bd.ret_void()


outer_wide = _make(NV, True)
outer_wide_part = _make(NV, False)
outer_narrow = _make(1, True)
outer_narrow_part = _make(1, False)
