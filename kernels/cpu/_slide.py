"""Depthwise convolutions of integers along a row of results, W channels at a time: each column of the
window is read and joined to words once, and stays in registers while results want it."""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from nbconv.kernels._numba import Bytes, Float, Floats, Int, Int32s, Ints, i32, i64

from ._bytes import VB, rounded_ir, splat_word, zero_ir
from ._dot import by_bytes_ir, by_shorts_ir
from ._ir import VI, VT, W, internal, splat_ir


def _n(value: int) -> ir.Constant:
    return ir.Constant(i64, value)


def _at(bd, p, kind, i):
    return bd.load(bd.bitcast(bd.gep(p, [i]), kind.as_pointer()), align=1)


def make_slide(kh: int, kw: int, stride: int, size: int):
    """An intrinsic for ``count`` results of a window kh × kw.

    ``rows`` are the addresses of its rows, in which pixels lie ``steps`` bytes apart; the first
    result's window begins at x0, and pixels outside 0 … width are ``padding``.
    w is [kx][word][wld], a word having ``4 / size`` rows; ``size``: bytes of a product's elements.
    """
    each = 4 // size
    words = -(-kh // each)
    multiply = by_bytes_ir if size == 1 else by_shorts_ir
    name = f"{'vnni_' if size == 1 else ''}slide_{kh}x{kw}_{stride}"

    @intrinsic
    def slide(tc, rows, steps, x0, width, count, w, wld, bias, scale, low, high, zero_point, padding, flip, y, ldy):
        sig = types.void(Ints, Ints, Int, Int, Int, Int32s, Int, Int32s, Floats, Float, Float, Int, Int, Int, Bytes, Int)

        def gen(ctx, bd, sig, args):
            fn, new = internal(bd.module, name, [v.type for v in args])
            if new:
                _emit(ir.IRBuilder(fn.append_basic_block("entry")), *fn.args)
            bd.call(fn, args)
            return ctx.get_dummy_value()

        return sig, gen

    def _emit(bd, rows, steps, x0, width, count, w, wld, bias, scale, low, high, zero_point, padding, flip, y, ldy):
        low, high, zero = splat_ir(bd, low), splat_ir(bd, high), zero_ir(bd, zero_point)
        b, factor = _at(bd, bias, VI, _n(0)), _at(bd, scale, VT, _n(0))
        weights = [[_at(bd, w, VI, bd.mul(_n(kx * words + k), wld)) for k in range(words)] for kx in range(kw)]
        mask = bd.trunc(splat_word(bd, bd.trunc(flip, i32)), VB)
        pointers = [bd.inttoptr(bd.load(bd.gep(rows, [_n(r)])), ir.IntType(8).as_pointer()) for r in range(kh)]
        apart = [bd.load(bd.gep(steps, [_n(r)])) for r in range(kh)]
        outside = bd.trunc(padding, i32)
        outside = splat_word(bd, bd.mul(outside, ir.Constant(i32, 0x01010101 if size == 1 else 0x00010001)))

        def column(x):
            """The words of a column."""
            with bd.if_else(bd.icmp_unsigned("<", x, width)) as (inside, beyond):
                with inside:
                    found = []
                    for k in range(words):
                        word = None
                        for r in range(k * each, min(kh, (k + 1) * each)):
                            v = bd.zext(bd.xor(_at(bd, pointers[r], VB, bd.mul(x, apart[r])), mask), VI)
                            by = 8 * size * (r - k * each)
                            v = bd.shl(v, ir.Constant(VI, [by] * W)) if by else v
                            word = v if word is None else bd.or_(word, v)
                        found.append(word)
                    there = bd.block
                with beyond:
                    here = bd.block
            merged = []
            for word in found:
                phi = bd.phi(VI)
                phi.add_incoming(word, there)
                phi.add_incoming(outside, here)
                merged.append(phi)
            return merged

        kept = kw - stride
        first = [column(bd.add(x0, _n(i))) for i in range(kept)]
        entry, loop, done = bd.block, bd.append_basic_block("pixel"), bd.append_basic_block("done")
        bd.branch(loop)
        bd.position_at_end(loop)
        i, x = bd.phi(i64), bd.phi(i64)
        carried = [[bd.phi(VI) for _ in range(words)] for _ in range(kept)]
        columns = [*carried, *(column(bd.add(x, _n(kept + j))) for j in range(stride))]
        total = b
        for ws, vs in zip(weights, columns):
            for wv, v in zip(ws, vs):
                total = multiply(bd, total, v, wv)
        value = rounded_ir(bd, bd.fmul(bd.sitofp(total, VT), factor), low, high, zero)
        bd.store(value, bd.bitcast(bd.gep(y, [bd.mul(i, ldy)]), VB.as_pointer()), align=1)
        after, x1 = bd.add(i, _n(1)), bd.add(x, _n(stride))
        for phi, begin, then in [(i, _n(0), after), (x, x0, x1)] + [
            (phi, start, v)
            for phis, starts, vs in zip(carried, first, columns[stride:])
            for phi, start, v in zip(phis, starts, vs)
        ]:
            phi.add_incoming(begin, entry)
            phi.add_incoming(then, bd.block)
        bd.cbranch(bd.icmp_signed("<", after, count), loop, done)
        bd.position_at_end(done)
        bd.ret_void()

    return slide
